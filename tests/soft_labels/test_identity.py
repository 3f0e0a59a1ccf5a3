"""Which example a row is: hashes of content that know it again."""

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_bkd import UserError
from hf_bkd.soft_labels.belonging import check_identity
from hf_bkd.soft_labels.identity import content_column, content_ids, fingerprint

FROZEN_IDS = [5830437876521264211, 7580658050685744798, -8423197372561305224]
FROZEN_FINGERPRINT = "77ba1ae68d5afbb4"  # of 1, 2 and 3 as little-endian bytes


class TestContent:
    def test_column_is_the_image_else_the_text_else_the_tokens(self):
        image, text, number = datasets.Image(), datasets.Value("string"), datasets.Value("int64")
        tokens = datasets.List(number)
        found = [
            content_column(datasets.Features(features))
            for features in (
                {"text": text, "picture": image, "label": number},
                {"label": number, "input_ids": tokens, "text": text},
                {"label": number, "text": datasets.Value("large_string")},
                {"label": number, "input_ids": tokens},
                {"label": number, "pixel_values": datasets.List(tokens)},
                {"label": number},
            )
        ]
        assert found == ["picture", "text", "text", "input_ids", "pixel_values", None]

    def test_ids_never_change(self):
        """They are stored in published datasets."""
        image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
        ids = content_ids(["a text", image, [1, 2, 3]])
        assert ids.dtype == np.int64
        assert ids.tolist() == FROZEN_IDS

    def test_differ_by_pixels_shape_and_order(self):
        pixels = np.arange(16, dtype=np.uint8)
        other = pixels.copy()
        other[3] += 1
        arrays = [pixels.reshape(4, 4), pixels.reshape(2, 8), pixels.reshape(8, 2), other.reshape(4, 4)]
        ids = content_ids([Image.fromarray(array) for array in arrays])
        assert len(set(ids.tolist())) == 4
        assert len(set(content_ids(["ab", "ba", "AB", "ab ", ""]).tolist())) == 5
        assert len(set(content_ids([[1, 2], [2, 1], [1, 2, 3], []]).tolist())) == 4

    def test_an_image_is_the_same_decoded_or_not(self):
        images = [Image.fromarray(np.full((2, 2), value, np.uint8)) for value in (1, 2)]
        features = datasets.Features({"image": datasets.Image()})
        dataset = datasets.Dataset.from_dict({"image": images}, features=features)
        undecoded = dataset.cast_column("image", datasets.Image(decode=False))
        assert isinstance(undecoded[0]["image"], dict)
        assert content_ids(undecoded["image"][:]).tolist() == content_ids(images).tolist()

    def test_objects_are_known_by_what_they_say_not_by_where_they_are_in_memory(self):
        first, second, other = content_ids([["ab", None], ["".join("ab"), None], ["ba", None]]).tolist()
        assert first == second != other
        assert len(set(content_ids([None, None, ""]).tolist())) == 2

    def test_no_rows_have_no_ids(self):
        assert content_ids([]).shape == (0,)


class TestChecks:
    def test_identity_counts_and_names_the_rows(self):
        check_identity(np.arange(5), np.arange(5))
        with pytest.raises(UserError, match=r"of 2 of 5 rows were made for other examples \(first: row 3\)"):
            check_identity(np.arange(5), np.array([0, 1, 2, 4, 3]))

    def test_identity_names_the_rows_of_the_dataset_where_some_were_looked_at(self):
        with pytest.raises(UserError, match=r"of 1 of 3 rows looked at were made .* \(first: row 100\)"):
            check_identity(np.arange(3), np.array([0, 7, 2]), np.array([0, 100, 200]))


def test_a_fingerprint_is_of_a_set_and_never_changes():
    """It is stored in published datasets."""
    ids = content_ids(["a", "b", "c"])
    assert fingerprint(ids) == fingerprint(ids[[2, 0, 1]])
    assert fingerprint(ids) != fingerprint(ids[:2]) != fingerprint(ids[[0, 1, 1]])
    assert fingerprint(np.array([3, 1, 2])) == FROZEN_FINGERPRINT
