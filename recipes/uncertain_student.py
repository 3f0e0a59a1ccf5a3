"""Does a student know in one pass what its teacher's draws know? Dirichlet students of deep ensembles.

Data: scikit-learn's handwritten digits, and the first 20 classes of CIFAR-100 at 16 x 16. Out-of-distribution images:
letters and uniform noise of 8 x 8 beside the digits, CIFAR-10's test split beside CIFAR-100. Where all members of an
ensemble agree there is nothing to learn of how they disagree, so they are also asked, and students taught, about
mixtures of two training images that are turned and mirrored (digits), or about crops and flips (CIFAR).

    python recipes/uncertain_student.py [--dataset CIFAR100] [--ood_dataset CIFAR10]     half an hour on one core
"""

from dataclasses import replace

import datasets
import numpy as np
from common.cifar import CIFAR100_MEAN, CIFAR100_STD, first_classes, ood, smaller
from common.defaults import ON_CPU
from common.digits import INPUTS, split
from PIL import Image, ImageDraw, ImageFont

from hf_bkd.data.subsets import few_first
from hf_bkd.study import ENSEMBLE, ONE_HOT, SCALED, Arm, Ensemble, Images, Splits, Study, StudyArguments, main

DIRICHLET = Arm("ensemble, Dirichlet", Ensemble(), distance="dirichlet", mean_log_probs=True)
DIGITS, CIFAR = "digits", "CIFAR-100, 20 classes"
MIXTURES = 8  # of each image with others
SIDE = 8
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # without I, which is a one


def digits(options: StudyArguments, seed: int) -> Splits:
    train, validation, test = split(options, seed)
    others = {"letters": letters(options.max_test_samples), "noise": noise(options.max_test_samples)}
    return Splits(train, validation, test, INPUTS, ood=others, transfer=with_mixtures(train, seed))


def with_mixtures(train: datasets.Dataset, seed: int) -> datasets.Dataset:
    """The images, and each mixed with others, all turned and mirrored, by uniform weights.

    A mixture has the label of its first image, which students with a lambda of 1 don't read.
    """
    random = np.random.default_rng(seed)
    images = np.stack([np.asarray(image, np.float64) for image in train["image"]])
    mixed = [images]
    for _ in range(MIXTURES):
        one, other = (turned(images[order], random) for order in (slice(None), random.permutation(len(images))))
        weights = random.random((len(images), 1, 1))
        mixed.append(weights * one + (1 - weights) * other)
    return pictures(np.concatenate(mixed), np.tile(train["label"], 1 + MIXTURES))


def turned(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each image as one of the eight that turns by 90 degrees and a mirror make of it."""
    quarters, mirrored = random.integers(4, size=len(images)), random.random(len(images)) < 0.5
    return np.stack(
        [np.rot90(image[:, ::-1] if m else image, q) for image, q, m in zip(images, quarters, mirrored, strict=True)]
    )


def letters(number: int) -> datasets.Dataset:
    """Capital letters, as large as the digits are."""
    random, font = np.random.default_rng(0), ImageFont.load_default(4 * SIDE)
    drawn = []
    for _ in range(number):
        picture = Image.new("L", (4 * SIDE, 4 * SIDE))
        place = 2 * SIDE + random.uniform(-2, 2, 2)
        ImageDraw.Draw(picture).text(tuple(place), random.choice(list(LETTERS)), fill=255, font=font, anchor="mm")
        small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
        drawn.append(255 * small / small.max())
    return pictures(np.stack(drawn))


def noise(number: int) -> datasets.Dataset:
    return pictures(np.random.default_rng(0).uniform(0, 255, (number, SIDE, SIDE)))


def pictures(values: np.ndarray, labels: np.ndarray | None = None) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    images = [Image.fromarray(each.round().astype(np.uint8)) for each in values]
    labels = np.zeros(len(images), int) if labels is None else labels  # which nobody reads
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def cifar(options: StudyArguments, seed: int) -> Splits:
    train, validation, test = map(smaller, first_classes(options))
    inputs = Images(CIFAR100_MEAN, CIFAR100_STD, augment=True)
    others = few_first(smaller(ood(options)), len(test))
    return Splits(train, validation, test, inputs, ood={"CIFAR-10": others})


def study(options: StudyArguments) -> Study:
    return Study(
        name="uncertain_student",
        arms=(
            ONE_HOT,
            SCALED,
            ENSEMBLE,
            DIRICHLET,
            Arm("ensemble, Dirichlet by variance", Ensemble(), distance="dirichlet"),
            replace(DIRICHLET, name="ensemble, Dirichlet, twice as wide", student_args={"width": 32}),
        ),
        conditions={DIGITS: digits, CIFAR: cifar},
        num_views=16,
        epochs={CIFAR: (1 / 4, 3 / 4)},  # 30 of each
        reference="ensemble",
        limits=True,
        note=(
            "All students are of the teachers' architecture unless said otherwise, and have a lambda of 1 where they "
            "have a teacher, of five networks or, scaled, of one. Dirichlet students learn the likelihood of the "
            "members' probabilities, by variance those of a Dirichlet with their mean and variance. With a teacher, "
            "students of digits see turned mixtures of images too."
        ),
    )


DEFAULTS = ON_CPU | {
    "dataset": "uoft-cs/cifar100",
    "ood_dataset": "uoft-cs/cifar10",
    "output_dir": "runs/uncertain_student",
    "teacher_model": "cnn16_small",
    "student_model": "cnn16_small",
    "ensemble_size": 5,
    "num_train_epochs": 120,
    "teacher_epochs": 40,
    "max_train_samples": 2000,
    "max_test_samples": 500,
    "validation_size": 300,
    "seeds": "0,1,2,3,4",
    "workers": 1,
}

if __name__ == "__main__":
    main(study, DEFAULTS)
