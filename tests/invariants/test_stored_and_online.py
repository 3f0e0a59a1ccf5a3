"""Training from stored soft labels is training with the teacher at hand: the same losses, step by step."""

import datasets
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from hf_bkd import (
    BatchedDataset,
    CropAndFlip,
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    EnsembleTeacher,
    ImagePreprocessor,
    LaplaceTeacher,
    UserError,
    VariationalTeacher,
    Views,
    add_soft_labels,
    make_variational,
)
from hf_bkd.data.augmentations import ColorJitter, CutMix, Mixup, RandomErasing, RandomResizedCrop

N, C, SIDE = 22, 4, 8
PREPROCESS = ImagePreprocessor((0.5,) * 3, (0.25,) * 3)
CROPS = (CropAndFlip(padding=2),)


class Network(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(width * 6 * 6, C)

    def forward(self, pixel_values):
        return self.head(self.features(pixel_values))


def network(seed: int) -> Network:
    torch.manual_seed(seed)
    return Network().eval()


def images(size=(SIDE, SIDE)) -> datasets.Dataset:
    pixels = np.random.default_rng(0).integers(256, size=(N, *size, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=C)})
    rows = {"image": [Image.fromarray(image) for image in pixels], "label": np.arange(N) % C}
    return datasets.Dataset.from_dict(rows, features=features)


def sharper(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        model.head.weight *= 8
    return model


def laplace(link: str) -> LaplaceTeacher:
    data = [{"pixel_values": PREPROCESS(images()[:])["pixel_values"], "labels": torch.arange(N) % C}]
    return LaplaceTeacher.fit(sharper(network(1)), data, prior_precision=1.0, link=link)


TEACHERS = {
    "deterministic": lambda: DeterministicTeacher(sharper(network(1)), temperature=2.0),
    "laplace, probit": lambda: laplace("probit"),
    "laplace, draws": lambda: laplace("mc"),
    "variational head": lambda: VariationalTeacher(make_variational(network(1), "head", initial_std=0.3, rank=2)),
    "variational network": lambda: VariationalTeacher(make_variational(network(1), "full", initial_std=0.1)),
    "ensemble": lambda: EnsembleTeacher([laplace("mc"), DeterministicTeacher(network(2))]),
}


def trained(folder, dataset, teacher=None, processing_class=None, **changes) -> DistillationTrainer:
    settings = {"kd_lambda": 0.7, "num_train_epochs": 5, "per_device_train_batch_size": 8, "learning_rate": 0.02}
    args = DistillationTrainingArguments(
        output_dir=str(folder),
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        report_to="none",
        **settings | changes,
    )
    given = {"teacher": teacher, "processing_class": processing_class}
    trainer = DistillationTrainer(network(7), args, train_dataset=dataset, **given)
    trainer.train()
    return trainer


def losses(trainer: DistillationTrainer) -> list[float]:
    return [entry["distillation"] for entry in trainer.state.log_history if "distillation" in entry]


def both(tmp_path, teacher, views, dataset=None, **changes) -> tuple[DistillationTrainer, DistillationTrainer]:
    """Trained from stored labels, whose rows are in another order, and with the teacher at each step."""
    dataset = images() if dataset is None else dataset
    how = {"storage": "float32", "seed": 3, "progress": False, "batch_size": 5}
    labeled = add_soft_labels(dataset.shuffle(seed=4), teacher, 6, preprocessor=PREPROCESS, views=views, **how)
    labeled = labeled.select(np.argsort(np.random.default_rng(0).permutation(N)))  # some order of its own
    stored = trained(tmp_path, BatchedDataset.from_images(labeled, PREPROCESS), **changes)
    online = BatchedDataset.from_images(labeled.select_columns(["image", "label"]), PREPROCESS, views)
    changes |= {"online_teacher": True, "teacher_samples": 6, "teacher_seed": 3}
    return stored, trained(tmp_path, online, teacher, **changes)


@pytest.mark.parametrize(("kind", "order"), [*((kind, "cycle") for kind in TEACHERS), ("laplace, draws", "shuffle")])
def test_losses_are_the_same_step_by_step(tmp_path, kind, order):
    stored, online = both(tmp_path, TEACHERS[kind](), Views(*CROPS, num_views=3, seed=5), view_order=order)
    assert len(losses(stored)) == 15
    assert losses(stored) == pytest.approx(losses(online), rel=2e-5)
    assert stored.teacher_temperature == online.teacher_temperature


@pytest.mark.parametrize(
    "transforms",
    [
        (),
        (RandomResizedCrop(SIDE), ColorJitter(0.4, 0.4, 0.4), RandomErasing(0.5)),
        (*CROPS, Mixup(0.8)),
        (*CROPS, CutMix(1.0)),
    ],
    ids=["none", "imagenet", "mixup", "cutmix"],
)
def test_whatever_the_views_are_made_of(tmp_path, transforms):
    """Mixed images have no label of their own, so their student learns from the teacher alone."""
    stored, online = both(tmp_path, laplace("mc"), Views(*transforms, num_views=2, seed=5), kd_lambda=1.0)
    assert losses(stored) == pytest.approx(losses(online), rel=2e-5)


def test_also_with_images_that_are_decoded_when_they_are_needed(tmp_path):
    views, teacher = Views(*CROPS, num_views=2), laplace("mc")
    labeled = add_soft_labels(images(), teacher, 4, preprocessor=PREPROCESS, views=views, progress=False)
    kept, decoded = (BatchedDataset.from_images(labeled, PREPROCESS, resident=how) for how in (True, False))
    assert losses(trained(tmp_path, kept)) == losses(trained(tmp_path, decoded))


@pytest.mark.parametrize("order", ["cycle", "shuffle"])
@pytest.mark.parametrize("transforms", [CROPS, (*CROPS, Mixup(0.8))], ids=["crops", "mixup"])
def test_also_with_plain_rows_that_the_trainer_decodes(tmp_path, transforms, order):
    views = Views(*transforms, num_views=3, seed=5)
    labeled = add_soft_labels(images(), laplace("mc"), 4, preprocessor=PREPROCESS, views=views, progress=False)
    kept = trained(tmp_path, BatchedDataset.from_images(labeled, PREPROCESS), kd_lambda=1.0, view_order=order)
    rows = trained(tmp_path, labeled, kd_lambda=1.0, view_order=order, processing_class=PREPROCESS)
    assert losses(kept) == pytest.approx(losses(rows), rel=2e-5)


def test_also_when_other_processes_read_the_images(tmp_path):
    views, teacher = Views(*CROPS, num_views=3), laplace("probit")
    labeled = add_soft_labels(images(), teacher, preprocessor=PREPROCESS, views=views, progress=False)
    datasets = [BatchedDataset.from_images(labeled, PREPROCESS, resident=False) for _ in range(2)]
    assert losses(trained(tmp_path, datasets[0])) == losses(trained(tmp_path, datasets[1], dataloader_num_workers=2))


def test_also_with_networks_of_timm_whose_forward_knows_no_pixel_values(tmp_path):
    torch.manual_seed(0)
    student, by = (timm.create_model("cnn6_small", num_classes=C, in_chans=3) for _ in range(2))
    teacher = VariationalTeacher(make_variational(by.eval(), "full", initial_std=0.1))
    labeled = add_soft_labels(
        images(), teacher, preprocessor=PREPROCESS, views=Views(*CROPS, num_views=2), progress=False, storage="float32"
    )
    args = DistillationTrainingArguments(str(tmp_path), max_steps=1, logging_steps=1, use_cpu=True, report_to="none")
    dataset = BatchedDataset.from_images(labeled, PREPROCESS)
    trainer = DistillationTrainer(student, args, train_dataset=dataset, eval_dataset=dataset)
    trainer.train()
    assert len(losses(trainer)) == 1 and 0 <= trainer.evaluate()["eval_accuracy"] <= 1


def test_another_view_is_another_loss(tmp_path):
    """What the equality above is worth."""
    stored, _ = both(tmp_path, laplace("mc"), Views(*CROPS, num_views=3, seed=5))
    other, _ = both(tmp_path, laplace("mc"), Views(*CROPS, num_views=3, seed=6))
    pairs = zip(losses(stored), losses(other), strict=True)
    assert min(abs(a - b) / a for a, b in pairs) > 1e-4


def test_views_are_shown_in_the_order_of_their_labels(tmp_path):
    """Epoch by epoch: the labels of view v with the pictures of view v."""
    views = Views(*CROPS, num_views=3, seed=5)
    labeled = add_soft_labels(images(), laplace("probit"), preprocessor=PREPROCESS, views=views, progress=False)
    dataset = BatchedDataset.from_images(labeled, PREPROCESS)
    for epoch in range(7):
        dataset.set_epoch(epoch)
        batch = dataset[list(range(N))]
        expected = laplace("probit").predict({"pixel_values": batch["pixel_values"]}).mean
        torch.testing.assert_close(batch["teacher_probs"], expected, rtol=0, atol=1e-3)
        assert dataset.view == epoch % 3


class TestRefuses:
    def test_an_online_teacher_that_is_not_there(self, tmp_path):
        with pytest.raises(UserError, match=r"online_teacher=True needs the teacher: DistillationTrainer\(..., teach"):
            trained(tmp_path, BatchedDataset.from_images(images(), PREPROCESS), online_teacher=True)

    def test_an_online_teacher_at_another_temperature(self, tmp_path):
        dataset, teacher = BatchedDataset.from_images(images(), PREPROCESS), DeterministicTeacher(network(1))
        with pytest.raises(UserError, match="teacher_temperature is 3 and the teacher's own 1: .*set teacher.temper"):
            trained(tmp_path, dataset, teacher, online_teacher=True, teacher_temperature=3.0)

    def test_views_that_a_transform_or_a_stream_cannot_show(self, tmp_path):
        labeled = add_soft_labels(
            images(), laplace("probit"), preprocessor=PREPROCESS, views=Views(*CROPS, num_views=2), progress=False
        )
        for dataset in (labeled.with_transform(lambda rows: rows), labeled.to_iterable_dataset()):
            with pytest.raises(
                UserError, match="augmented views of each image, which a stream, a transform or a data_"
            ):
                trained(tmp_path, dataset, max_steps=1)

    def test_other_views_than_the_labels(self):
        labeled = add_soft_labels(
            images(), laplace("probit"), preprocessor=PREPROCESS, views=Views(*CROPS, num_views=2), progress=False
        )
        for views in (Views(CropAndFlip(padding=3)), Views(*CROPS, num_views=3), Views(*CROPS, num_views=2, seed=1)):
            with pytest.raises(UserError, match="labels are of Views.*num_views=2, seed=0.* and this dataset was ma"):
                BatchedDataset.from_images(labeled, PREPROCESS, views)
        for views in (None, Views(*CROPS), Views(*CROPS, num_views=2)):
            assert BatchedDataset.from_images(labeled, PREPROCESS, views).views == Views(*CROPS, num_views=2)

    def test_a_part_of_the_images_that_mixed_views_were_made_of(self):
        views = Views(*CROPS, Mixup(1.0), num_views=2)
        labeled = add_soft_labels(images(), laplace("probit"), preprocessor=PREPROCESS, views=views, progress=False)
        with pytest.raises(UserError, match="mix each image with others of the whole dataset, .* some of it are not"):
            BatchedDataset.from_images(labeled.select(range(20)), PREPROCESS)
        assert len(BatchedDataset.from_images(labeled.shuffle(seed=0), PREPROCESS)) == N

    def test_hard_labels_of_mixed_images(self, tmp_path):
        views = Views(*CROPS, Mixup(1.0), num_views=2)
        labeled = add_soft_labels(images(), laplace("probit"), preprocessor=PREPROCESS, views=views, progress=False)
        with pytest.raises(UserError, match=r"Mixup.* mixes two images, which then have no single label: train"):
            trained(tmp_path, BatchedDataset.from_images(labeled, PREPROCESS), kd_lambda=0.5)

    def test_images_of_another_size(self):
        labeled = add_soft_labels(images(), laplace("probit"), preprocessor=PREPROCESS, progress=False)
        small = labeled.map(lambda row: {"image": row["image"].resize((4, 4))})
        with pytest.raises(UserError, match=r"images of \[channels, height, width\] \[3, 8, 8\], and these"):
            BatchedDataset.from_images(small, PREPROCESS)
