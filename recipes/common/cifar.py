"""CIFAR-100: all of it as in arXiv 2601.01484, and parts of it that two cores can learn.

Where the paper's code is followed: CIFAR stem, reflect-padded crop and flip, Adam at 1e-3 without weight decay,
batches of about 100, 200 epochs, S = 10. Where it isn't: a cosine schedule, because the Trainer has no multi-step one;
a validation split, because theirs is the test split; and labels of 16 augmented views of each image, which the student
sees in turn (in recipes/views_study.py 4 were as good as a teacher that is asked at each step).
"""

import datasets

from hf_bkd.data.columns import as_image_classification
from hf_bkd.data.loading import load_splits
from hf_bkd.data.subsets import few_first, stratified_split
from hf_bkd.models.cifar_resnet import CIFAR100_MEAN, CIFAR100_STD
from hf_bkd.study import CONTROLS, Arm, Images, Splits, Study, StudyArguments

from .defaults import ON_GPU

INPUTS = Images(CIFAR100_MEAN, CIFAR100_STD, augment=True)
FIRST = range(20)  # classes of the small versions
SIDE = 16
DEFAULTS = ON_GPU | {"dataset": "uoft-cs/cifar100", "weight_decay": 0.0}


def train_and_test(options: StudyArguments) -> tuple[datasets.Dataset, datasets.Dataset]:
    splits = load_splits(options.dataset, needed=("train", "test"))
    return as_image_classification(splits["train"]), as_image_classification(splits["test"])


def cifar100(options: StudyArguments, seed: int) -> Splits:
    train, test = train_and_test(options)
    # one split for all seeds: a teacher from another run has not seen the images that its temperature is chosen on
    train = few_first(train.shuffle(seed=0), options.max_train_samples)
    validation, train = stratified_split(train, options.validation_size or len(train) // 10, seed=0)
    return Splits(train, validation, few_first(test, options.max_test_samples), INPUTS)


def first_classes(options: StudyArguments) -> tuple[datasets.Dataset, datasets.Dataset, datasets.Dataset]:
    """Training, validation and test images of the first classes."""
    train, test = map(of_first_classes, train_and_test(options))
    return divided(options, train, test)


def divided(
    options: StudyArguments, train: datasets.Dataset, test: datasets.Dataset
) -> tuple[datasets.Dataset, datasets.Dataset, datasets.Dataset]:
    validation, train = stratified_split(train.shuffle(seed=0), options.validation_size, seed=0)
    return few_first(train, options.max_train_samples), validation, few_first(test, options.max_test_samples)


def of_first_classes(dataset: datasets.Dataset) -> datasets.Dataset:
    names = dataset.features["label"].names[: len(FIRST)]
    chosen = dataset.filter(lambda label: label in FIRST, input_columns="label")
    return chosen.cast_column("label", datasets.ClassLabel(names=names))


def ood(options: StudyArguments) -> datasets.Dataset:
    """Images of the test split of ``--ood_dataset``."""
    images = as_image_classification(load_splits(options.ood_dataset, needed=("test",))["test"])
    return few_first(images.shuffle(seed=0), options.max_test_samples)


def smaller(dataset: datasets.Dataset) -> datasets.Dataset:
    return dataset.map(lambda row: {"image": row["image"].resize((SIDE, SIDE))})


def against_controls(name: str, *arms: Arm) -> Study:
    """The study of a CIFAR-100 recipe: its arms beside the controls."""
    return Study(name, (*CONTROLS, *arms), {"": cifar100}, num_views=16)
