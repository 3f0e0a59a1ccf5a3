"""Resident columns: each batch is what decoding and normalizing its rows one by one would give."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from hf_bkd import BatchedDataset, CropAndFlip, ImagePreprocessor, UserError, Views
from hf_bkd.data.preprocessing import decoded
from hf_bkd.soft_labels import attach
from hf_bkd.soft_labels.identity import content_ids

N, SIDE = 25, 6
PREPROCESSORS = {
    "RGB": ImagePreprocessor((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "L": ImagePreprocessor((0.305,), (0.377,)),
}


def as_dataset(pictures, labels=None, **names):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=3)})
    labels = [i % 3 for i in range(len(pictures))] if labels is None else labels
    return datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features).rename_columns(names)


def images(number=N, mode="RGB", size=(SIDE, SIDE + 1), seed=0):
    shape = (number, *size, 3) if mode == "RGB" else (number, *size)
    arrays = np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)
    return as_dataset([Image.fromarray(array) for array in arrays])


def one_by_one(dataset, rows, preprocessor):
    """float64 [B, C, H, W], image by image."""
    pictures = []
    for row in rows:
        pixels = np.asarray(dataset[row]["image"], dtype=np.float64)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        pictures.append(((pixels / 255 - preprocessor.mean) / preprocessor.std).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(pictures))


@pytest.mark.parametrize("mode", ["RGB", "L"])
class TestBatches:
    def test_are_decoded_and_normalized_rows(self, mode):
        dataset, preprocessor = images(mode=mode), PREPROCESSORS[mode]
        resident = BatchedDataset.from_images(dataset, preprocessor)
        assert len(resident) == N
        assert resident.column_names == ["pixel_values", "labels", "example_id"]
        assert resident.values["pixel_values"].dtype == torch.uint8
        for rows in ([3], [7, 0, 24, 7], list(range(N))):
            batch = resident[rows]
            assert batch["labels"].tolist() == [row % 3 for row in rows]
            assert batch["pixel_values"].dtype == torch.float32
            expected = one_by_one(dataset, rows, preprocessor)
            torch.testing.assert_close(batch["pixel_values"].double(), expected, rtol=0, atol=2e-6)

    def test_of_one_row_are_that_row(self, mode):
        resident = BatchedDataset.from_images(images(mode=mode), PREPROCESSORS[mode], Views(CropAndFlip(padding=2)))
        for row in (0, 11):
            assert all(torch.equal(value, resident[[row]][name][0]) for name, value in resident[row].items())
        assert resident[0]["labels"].shape == ()

    def test_follow_the_order_of_a_shuffled_dataset(self, mode):
        dataset = images(mode=mode).shuffle(seed=2)
        batch = BatchedDataset.from_images(dataset, PREPROCESSORS[mode])[[4, 5]]
        expected = one_by_one(dataset, [4, 5], PREPROCESSORS[mode])
        torch.testing.assert_close(batch["pixel_values"].double(), expected, rtol=0, atol=2e-6)
        assert batch["labels"].tolist() == dataset["label"][4:6]

    @pytest.mark.parametrize("resident", [True, False])
    def test_are_augmented_by_content_and_epoch(self, mode, resident):
        dataset, preprocessor, augment = images(mode=mode), PREPROCESSORS[mode], Views(CropAndFlip(padding=2), seed=3)
        resident = BatchedDataset.from_images(dataset, preprocessor, augment, resident=resident)
        rows, ids = [7, 0, 24], torch.tensor(content_ids(dataset["image"]))
        views = []
        for epoch in (0, 1, 0):
            resident.set_epoch(epoch)
            found = resident[rows]["pixel_values"]
            shown = one_by_one(dataset, rows, preprocessor)
            expected = augment(shown, ids[rows], epoch)
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)
            views.append(found)
        assert torch.equal(views[0], views[2])
        assert not torch.equal(views[0], views[1])
        assert torch.equal(views[0][1], resident[[0, 1, 2, 3]]["pixel_values"][0])

    def test_for_teachers_are_plain_complete_and_in_order(self, mode):
        dataset, preprocessor = images(mode=mode), PREPROCESSORS[mode]
        dataset = dataset.add_column("teacher_probs", [[0.2, 0.3, 0.5]] * N)
        resident = BatchedDataset.from_images(dataset, preprocessor, Views(CropAndFlip(padding=2)))
        resident.set_epoch(4)
        batches = list(resident.batches(10))
        assert [len(batch["labels"]) for batch in batches] == [10, 10, 5]
        assert all(list(batch) == ["pixel_values", "labels"] for batch in batches)
        assert torch.cat([batch["labels"] for batch in batches]).tolist() == dataset["label"][:]
        found = torch.cat([batch["pixel_values"] for batch in batches])
        torch.testing.assert_close(found.double(), one_by_one(dataset, range(N), preprocessor), rtol=0, atol=2e-6)


class TestSoftLabels:
    def test_come_with_their_rows(self):
        probs = np.random.default_rng(1).dirichlet([1, 1, 1], N)
        dataset = (
            images().add_column("teacher_probs", probs.tolist()).add_column("teacher_probs__b", probs[::-1].tolist())
        )
        resident = BatchedDataset.from_images(dataset, PREPROCESSORS["RGB"])
        batch = resident[[5, 2]]
        assert torch.equal(batch["teacher_probs"], torch.from_numpy(probs[[5, 2]]).float())
        assert torch.equal(batch["teacher_probs__b"], torch.from_numpy(probs[::-1][[5, 2]]).float())
        assert torch.equal(resident.soft_labels("b").probs, torch.from_numpy(probs[::-1].copy()).float())
        assert resident.soft_labels().provenance is None

    def test_are_exchanged_without_decoding_again(self):
        dataset, record = images(), {"format": 1, "temperature": 3.0, "tempering": "post_average"}
        labeled = attach(dataset, np.eye(3)[np.arange(N) % 3], record, example_ids=content_ids(dataset["image"]))
        augment = Views(CropAndFlip(padding=2))
        resident = BatchedDataset.from_images(
            dataset.add_column("teacher_probs__old", [[0.2, 0.3, 0.5]] * N), PREPROCESSORS["RGB"], augment
        )
        with pytest.warns(UserWarning, match="labels are of the images as they are, and the student sees them augm"):
            changed = resident.with_soft_labels(labeled)
        assert changed.column_names == ["pixel_values", "labels", "teacher_probs", "example_id"]
        assert changed.values["pixel_values"] is resident.values["pixel_values"]
        assert torch.equal(changed.soft_labels().probs, torch.eye(3)[torch.arange(N) % 3])
        assert changed.soft_labels().provenance == record
        assert changed.views is augment
        assert resident.column_names == ["pixel_values", "labels", "teacher_probs__old", "example_id"]
        assert changed.with_soft_labels(dataset).column_names == ["pixel_values", "labels", "example_id"]


class TestTexts:
    rows = datasets.Dataset.from_dict({"text": ["a", "a a a", "a a"], "label": [0, 1, 2]})

    def tokenized(self, rows, pads_left=False):
        masks = torch.tensor([[i < len(text.split()) for i in range(5)] for text in rows["text"]]).long()
        masks = masks.flip(1) if pads_left else masks
        return {"input_ids": masks * 7, "attention_mask": masks}

    def test_get_as_many_tokens_as_the_longest_of_a_batch(self):
        dataset = BatchedDataset.from_texts(self.rows, self.tokenized)
        batch = dataset[[0, 2]]
        assert batch["input_ids"].tolist() == [[7, 0], [7, 7]] and batch["attention_mask"].shape == (2, 2)
        assert batch["labels"].tolist() == [0, 2]
        assert batch["example_id"].tolist() == content_ids(self.rows["text"][:])[[0, 2]].tolist()
        assert [each["input_ids"].shape for each in dataset.batches(2)] == [(2, 3), (1, 2)]

    def test_that_are_padded_at_their_beginning_keep_all(self):
        values = self.tokenized(self.rows[:], pads_left=True) | {"labels": torch.tensor([0, 1, 2])}
        assert torch.equal(BatchedDataset(values)[[0]]["input_ids"], values["input_ids"][:1])

    def test_none_are_refused(self):
        with pytest.raises(UserError, match="the dataset of texts is empty"):
            BatchedDataset.from_texts(self.rows.select([]), self.tokenized)


class Same:
    """Hands whole batches on; a class, because it goes to worker processes."""

    def __call__(self, batch):
        return batch


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_reads_whole_batches(workers):
    resident = BatchedDataset.from_images(images(), PREPROCESSORS["RGB"], Views(CropAndFlip(padding=2)))
    resident.set_epoch(3)
    order = torch.randperm(N).tolist()
    batches = list(DataLoader(resident, batch_size=8, sampler=order, num_workers=workers, collate_fn=Same()))
    assert [len(batch["labels"]) for batch in batches] == [8, 8, 8, 1]
    for name, expected in resident[order].items():
        assert torch.equal(torch.cat([batch[name] for batch in batches]), expected)


class TestRefusals:
    @pytest.mark.parametrize("number", [3, 1001])
    def test_images_of_several_sizes(self, number):
        """Also when they are not decoded together."""
        pictures = [Image.new("L", (4, 4))] * (number - 1) + [Image.new("L", (4, 5))]
        with pytest.raises(UserError, match="images differ in size or mode .*: bring them to one size first"):
            BatchedDataset.from_images(as_dataset(pictures), PREPROCESSORS["L"], progress=False)

    def test_images_of_several_modes(self):
        with pytest.raises(UserError, match="images differ in size or mode"):
            BatchedDataset.from_images(
                as_dataset([Image.new("L", (4, 4)), Image.new("RGB", (4, 4))]), PREPROCESSORS["L"]
            )

    @pytest.mark.parametrize("mode", ["P", "1", "I;16", "F", "LA"])
    def test_modes_that_are_not_8_bit_channels(self, mode):
        told = r"can't be read .* datasets.Image\(mode='RGB'\)"
        told = "have more than 8 bits a channel, and would be clipped: scale them" if mode in ("I;16", "F") else told
        with pytest.raises(UserError, match=f"images of mode {mode} {told}"):
            decoded([Image.new("RGB", (4, 4)), Image.new(mode, (4, 4))])

    def test_what_is_no_image(self):
        undecoded = images(3).cast_column("image", datasets.Image(decode=False))
        with pytest.raises(UserError, match="images of mode dict can't be read"):
            BatchedDataset.from_images(undecoded, PREPROCESSORS["RGB"])
        with pytest.raises(UserError, match="row 1 of column image holds no image"):
            BatchedDataset.from_images(as_dataset([Image.new("L", (4, 4)), None]), PREPROCESSORS["L"])

    def test_no_images_labels_or_rows(self):
        with pytest.raises(UserError, match="no column of images, only label"):
            BatchedDataset.from_images(images(3).remove_columns("image"), PREPROCESSORS["RGB"])
        with pytest.raises(UserError, match="no labels column"):
            BatchedDataset.from_images(images(3).remove_columns("label"), PREPROCESSORS["RGB"])
        with pytest.raises(UserError, match="dataset of images is empty"):
            BatchedDataset.from_images(images(3).select([]), PREPROCESSORS["RGB"])

    def test_a_normalization_of_other_channels(self):
        with pytest.raises(UserError, match="images have 3 channels, and mean and std are of 1"):
            BatchedDataset.from_images(images(3), PREPROCESSORS["L"])[[0]]


class TestPreprocessor:
    def test_takes_dataset_rows_whatever_the_column(self):
        dataset, preprocessor = images(), PREPROCESSORS["RGB"]
        rows = dataset.rename_column("image", "img")[:4]
        found = preprocessor(rows)
        assert list(found) == ["pixel_values"]
        expected = one_by_one(dataset, range(4), preprocessor)
        torch.testing.assert_close(found["pixel_values"].double(), expected, rtol=0, atol=2e-6)

    def test_rows_without_images(self):
        with pytest.raises(UserError, match="none of the columns text, label holds images"):
            PREPROCESSORS["RGB"]({"text": ["a", "b"], "label": [0, 1]})

    def test_is_what_the_network_was_made_for(self):
        network = nn.Module()
        network.config = type("Config", (), {"pretrained_cfg": {"mean": [0.5, 0.4], "std": [0.2, 0.1]}})
        assert ImagePreprocessor.for_model(network) == ImagePreprocessor((0.5, 0.4), (0.2, 0.1))
        network.config.pretrained_cfg = {"mean": [0.5]}
        for silent in (network, nn.Linear(1, 1)):
            with pytest.raises(UserError, match=r"names no mean and std: pass ImagePreprocessor\(mean="):
                ImagePreprocessor.for_model(silent)

    @pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((0.5, 0.5), (1.0, -1.0))])
    def test_numbers_that_do_not_go_together(self, mean, std):
        with pytest.raises(UserError, match="must have one value per channel each, those of std above 0"):
            ImagePreprocessor(mean, std)

    def test_is_described_in_plain_numbers(self):
        described = ImagePreprocessor((np.float32(0.5), 1), (np.float64(0.25), 2)).to_dict()
        assert described == {"mean": [0.5, 1.0], "std": [0.25, 2.0]}
        assert all(type(value) is float for values in described.values() for value in values)
