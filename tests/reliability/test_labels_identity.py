"""Whose labels are whose: after any shuffle each row has its own, or one sentence says why not.

Findings F4 and F12 of the attack on reliability, with their kinds.
"""

import datetime
import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_bkd import UserError, check_against_teacher, join_soft_labels, only_soft_labels
from hf_bkd.data.rows import Watched
from hf_bkd.soft_labels import attach, read
from hf_bkd.soft_labels.identity import Identity, content_ids
from hf_bkd.soft_labels.reading import stored_labels
from hf_bkd.soft_labels.shards import PLAN_FILE
from hf_bkd.utils.random import ExampleGenerator
from tests.soft_labels.label_helpers import (
    RECORD,
    Teacher,
    column_bytes,
    image_teacher,
    images,
    quiet,
    some_probs,
    texts,
)

N = 30


def numbered(values: dict, rows: int = N) -> datasets.Dataset:
    return datasets.Dataset.from_dict(values | {"number": list(range(rows))})


def code_of(*parts: object) -> list[float]:
    return [byte / 128 - 1 for byte in np.frombuffer(repr(parts).encode()[-24:].rjust(24), np.uint8)[-12::4]]


def reading(*names: str):
    """A preprocessor that reads these columns."""
    return lambda rows: {
        "x": torch.tensor([code_of(*row) for row in zip(*(rows[name] for name in names), strict=True)])
    }


BY_TWO = {
    "pairs": {"premise": ["the same"] * N, "hypothesis": [f"other {i}" for i in range(N)]},
    "text and number": {"text": ["a", "b", "c"] * (N // 3), "age": [i // 3 for i in range(N)]},
    "text and bytes": {"text": ["a"] * N, "raw": [bytes([i]) for i in range(N)]},
    "text and date": {"text": ["a"] * N, "day": [datetime.date(2020, 1, 1 + i) for i in range(N)]},
    "text and struct": {"text": ["a"] * N, "meta": [{"k": i, "z": None} for i in range(N)]},
    "text and ragged lists": {"text": ["a"] * N, "spans": [[[1] * j for j in range(i)] for i in range(N)]},
    "text and flags": {"text": ["a"] * N, "flags": [[bool(i >> b & 1) for b in range(5)] for i in range(N)]},
    "missing values": {"text": [None if i % 2 else "a" for i in range(N)], "age": [i // 2 for i in range(N)]},
}


@pytest.mark.parametrize("values", BY_TWO.values(), ids=BY_TWO)
def test_labels_find_rows_of_which_several_columns_are_read(values):
    dataset, names = numbered(values), list(values)
    teacher = Teacher()
    labeled = quiet(dataset, teacher, preprocessor=reading(*names), batch_size=7)
    assert sorted(read(labeled).record.dataset.identity["columns"]) == sorted(names)
    assert len(set(labeled["example_id"][:])) == N
    joined = join_soft_labels(dataset.shuffle(seed=3), only_soft_labels(labeled).shuffle(seed=4))
    assert column_bytes(joined.sort("number")) == column_bytes(labeled)
    other = quiet(dataset.shuffle(seed=5), Teacher(), preprocessor=reading(*names), batch_size=4)
    assert column_bytes(other.sort("number")) == column_bytes(labeled)  # draws are the examples' own too


def table_of_features() -> datasets.Dataset:
    return numbered({"x": np.random.default_rng(0).normal(size=(N, 3)).tolist()})


def test_a_table_of_features_has_ids_and_draws_of_its_own():
    dataset = table_of_features().select_columns("x")
    labeled = quiet(dataset, Teacher())
    joined = join_soft_labels(dataset.shuffle(seed=3), only_soft_labels(labeled))
    assert joined["example_id"][:] == content_ids(joined["x"][:]).tolist()
    assert column_bytes(quiet(dataset.shuffle(seed=3), Teacher(), batch_size=4)) == column_bytes(joined)
    assert check_against_teacher(labeled, Teacher(), tolerance=1e-3) < 1e-3
    swapped = labeled.remove_columns("x").add_column("x", dataset["x"][::-1])
    with pytest.raises(UserError, match="were made for other examples"):
        stored_labels(swapped, None, 4)


def answered(dataset: datasets.Dataset, keys: np.ndarray) -> torch.Tensor:
    """What the teacher says of all rows at once, with draws by these keys."""
    generator = ExampleGenerator(torch.tensor(keys), seed=0)
    return Teacher().predict({"x": torch.tensor(dataset["x"][:])}, 3, generator).mean


def test_draws_of_a_table_are_those_of_an_online_teacher():
    dataset = table_of_features()
    labeled = quiet(dataset, Teacher(), preprocessor=lambda rows: {"x": torch.tensor(rows["x"])})
    assert torch.equal(read(labeled).probs, answered(dataset, np.array(labeled["example_id"][:])))


def test_an_unfinished_labeling_whose_draws_went_by_number_goes_on_so(tmp_path):
    dataset, options = table_of_features().select_columns("x"), {"shard_rows": 8}
    quiet(dataset, Teacher(), folder=tmp_path, **options)
    plan = json.loads((tmp_path / PLAN_FILE).read_text())
    assert plan.pop("draws") == "by id"
    (tmp_path / PLAN_FILE).write_text(json.dumps(plan))
    for shard in tmp_path.glob("*.arrow"):
        shard.unlink()
    labeled = quiet(dataset, Teacher(), folder=tmp_path, **options)
    assert torch.equal(read(labeled).probs, answered(dataset, np.arange(N)))
    assert labeled["example_id"][:] == content_ids(dataset["x"][:]).tolist()


def test_a_column_that_is_not_read_may_change():
    labeled = quiet(texts(), Teacher(), preprocessor=lambda rows: {"x": torch.ones(len(rows["text"]), 3)})
    assert labeled["example_id"][:] == content_ids(texts()["text"][:]).tolist()
    assert len(join_soft_labels(texts().remove_columns("number"), only_soft_labels(labeled))) == 10


@pytest.mark.parametrize(
    "preprocessor",
    [
        lambda rows: {"x": torch.tensor([code_of(*row) for row in zip(*rows.values(), strict=True)])},
        lambda rows: reading("text", "number")(dict(rows)),
        lambda rows: reading("text", "number")({**rows}),
        lambda rows: (lambda text, number: reading("text", "number")({"text": text, "number": number}))(**rows),
        lambda rows: reading("text", "number")(rows.copy()),
        lambda rows: reading("text", "number")(rows | {}),
    ],
    ids=["values", "dict", "unpacked", "arguments", "copy", "or"],
)
def test_however_columns_are_read(preprocessor):
    labeled = quiet(texts(), Teacher(), preprocessor=preprocessor)
    assert read(labeled).record.dataset.identity["columns"] == ["number", "text"]


def test_a_transform_is_watched_too():
    dataset = numbered({"a": ["x"] * N, "b": list(range(N))}).with_transform(reading("a", "b"))
    labeled = quiet(dataset, Teacher())
    assert read(labeled).record.dataset.identity["columns"] == ["a", "b"]


def test_a_preprocessor_that_reads_more_of_later_rows_is_refused():
    def odd(rows):
        values = rows["number"] if rows["text"][0] == "text 4" else [0] * len(rows["text"])
        return {"x": torch.tensor([[float(value)] * 3 for value in values])}

    with pytest.raises(
        UserError, match="the preprocessor reads column number of rows 4 to 5 and did not of the first"
    ):
        quiet(texts(), Teacher(), preprocessor=odd, batch_size=2)


def palette(colors: list[int]) -> Image.Image:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), mode="P")
    image.putpalette(colors)
    return image


def test_images_of_a_palette_are_known_by_their_colors():
    colors = [[i, 0, 0, 0, i, 9] for i in range(1, 5)]
    ids = content_ids([palette(each) for each in colors])
    assert len(set(ids.tolist())) == 4
    assert ids.tolist() == content_ids([palette(each).convert("RGB") for each in colors]).tolist()
    assert len(set(content_ids([palette(each) for each in colors], form=1).tolist())) == 1


def test_images_of_other_modes_are_known_by_pixels_and_mode():
    pixels = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    one = [Image.fromarray(pixels, mode=mode) for mode in ("RGBA", "CMYK")]
    one += [Image.fromarray(pixels[0] % 2 * 255).convert("1"), Image.fromarray(pixels[0] % 2)]
    one += [Image.fromarray(pixels[0].astype(kind)) for kind in (np.uint16, np.int32, np.float32)]
    assert len(set(content_ids(one).tolist())) == len(one)


def test_columns_in_another_order_or_format_have_the_same_ids():
    identity, dataset = Identity(("a", "b")), numbered({"a": ["x", "y"], "b": [[1.5], [2.0]]}, 2)
    expected = identity.of_dataset(dataset).tolist()
    assert identity.of_dataset(dataset.select_columns(["b", "number", "a"]).with_format("torch")).tolist() == expected
    assert Identity(("b", "a")).of_dataset(dataset).tolist() == expected
    assert len(set(expected)) == 2


def test_values_that_nothing_tells_apart_are_refused():
    with pytest.raises(UserError, match="nothing tells examples apart by values of type object"):
        content_ids([object()])
    deep = [1, "a"]
    for _ in range(60):
        deep = [deep, "a"]
    with pytest.raises(UserError, match="lists more than 50 deep"):
        content_ids([deep])


def test_watching_leaves_a_batch_a_dict():
    rows = Watched({"a": [1], "b": [2]})
    assert isinstance(rows, dict) and list(rows) == ["a", "b"] and "a" in rows and not rows.seen
    assert rows.get("c") is None and rows.get("a") == [1] and rows.seen == {"a"}


class TestOldRecords:
    """Say nothing of a form: their ids are of the first text or image column."""

    def old(self, labeled: datasets.Dataset, content: str) -> datasets.Dataset:
        record = read(labeled).record.to_json()
        about = {name: value for name, value in record["dataset"].items() if name != "identity"}
        ids = content_ids(labeled[content][:], form=1)
        rows = labeled.remove_columns(
            [name for name in labeled.column_names if name.startswith(("teacher", "example"))]
        )
        repeated = len(ids) - len(set(ids.tolist()))
        record |= {"dataset": about | {"content_column": content, "repeated_ids": repeated}}
        return attach(rows, read(labeled).probs.numpy(), record, example_ids=ids, storage="float32")

    def test_are_joined_and_checked_by_it(self):
        dataset = texts()
        labeled = quiet(dataset, Teacher(), preprocessor=reading("text", "number"))
        old = self.old(labeled, "text")
        joined = join_soft_labels(dataset.shuffle(seed=0), only_soft_labels(old))
        assert torch.equal(read(joined.sort("number")).probs, read(labeled).probs)

    def test_of_equal_ids_and_different_labels_are_refused(self):
        dataset = numbered({"text": ["a"] * N})
        labeled = quiet(dataset, Teacher(), preprocessor=reading("text", "number"))
        with pytest.raises(
            UserError, match="rows 0 and 1 of the labels have the same example_id and different labels"
        ):
            join_soft_labels(dataset.shuffle(seed=0), only_soft_labels(self.old(labeled, "text")))


def test_examples_that_lack_a_column_of_the_identity_are_told_which():
    labeled = quiet(texts(), Teacher(), preprocessor=reading("text", "number"))
    with pytest.raises(UserError, match="made for the columns number, text, and the examples lack number: join them"):
        join_soft_labels(texts().remove_columns("number"), only_soft_labels(labeled))


def test_teachers_that_read_different_columns_share_ids_of_what_the_last_one_read():
    dataset = texts()
    first = quiet(dataset, Teacher(), preprocessor=reading("text"), name="a")
    both = quiet(first, Teacher(), preprocessor=reading("text", "number"), name="b")
    assert read(both, "a").record.dataset.identity == read(both, "b").record.dataset.identity
    joined = join_soft_labels(dataset.shuffle(seed=0), only_soft_labels(both)).sort("number")
    assert torch.equal(read(joined, "a").probs, read(first, "a").probs)
    assert both.column_names[:2] == ["text", "number"]


class TestColumnsOfTheUser:
    """Are never overwritten, nor left out of what the network reads, without a word."""

    NAMES = ("example_id", "teacher_probs", "teacher_variance", "teacher_provenance", "teacher_probs__mine")

    def own(self, name):
        return texts().add_column(name, list(range(10)))

    @pytest.mark.parametrize("name", NAMES)
    def test_are_refused_and_the_advice_works(self, name):
        message = "has a column .* of its own, a name that soft labels need: pass dataset.rename_column|no record"
        for use in (
            lambda dataset: quiet(dataset, Teacher(), preprocessor=reading("text")),
            lambda dataset: join_soft_labels(
                dataset, only_soft_labels(quiet(texts(), Teacher(), preprocessor=reading("text")))
            ),
            lambda dataset: attach(dataset, some_probs(10, 4), RECORD),
        ):
            with pytest.raises(UserError, match=message) as error:
                use(self.own(name))
        if "rename" in str(error.value):
            advice = str(error.value).partition("pass ")[2]
            renamed = eval(advice, {"dataset": self.own(name)})  # noqa: S307
            labeled = quiet(renamed, Teacher(), preprocessor=reading("text"))
            assert labeled[f"own_{name}"][:] == list(range(10))

    def test_that_are_ours_are_replaced(self):
        once = quiet(texts(), Teacher(), preprocessor=reading("text"), seed=1)
        twice = quiet(once, Teacher(), preprocessor=reading("text"))
        assert column_bytes(twice) == column_bytes(quiet(texts(), Teacher(), preprocessor=reading("text")))


def test_files_of_several_labelings_that_were_loaded_together_are_recognized(tmp_path):
    """The library that loads them keeps the record of the first one."""
    for number, temperature in enumerate((1.0, 4.0)):
        rows = texts().select(range(5 * number, 5 * number + 5))
        labeled = quiet(rows, Teacher(temperature=temperature), preprocessor=reading("text"))
        labeled.to_parquet(tmp_path / f"{number}.parquet")
    files = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    together = datasets.load_dataset("parquet", data_files=files, cache_dir=tmp_path / "cache")["train"]
    for use in (
        lambda: stored_labels(together, None, 4),
        lambda: join_soft_labels(texts(), only_soft_labels(together)),
    ):
        with pytest.raises(
            UserError, match="10 different examples have soft labels whose record is of 5: files of sev"
        ):
            use()


@pytest.mark.parametrize("written_in", [99, 2, 0, "1", True, 1.0, None])
def test_records_of_another_format_are_refused(written_in):
    with pytest.raises(UserError, match="are of format|no record of this library"):
        attach(texts(), some_probs(10, 4), RECORD | {"format": written_in})


def test_numbers_of_single_images_and_texts_are_those_of_earlier_versions():
    """Draws belong to ids: these are frozen."""
    labeled = quiet(
        images(),
        image_teacher(),
        preprocessor=lambda rows: {
            "pixel_values": torch.tensor(np.stack([np.asarray(each) for each in rows["picture"]])).float()
        },
    )
    assert labeled["example_id"][:] == content_ids(images()["picture"][:], form=1).tolist()
