"""scikit-learn's handwritten digits (1,797 images of 8 x 8), with noisy labels and with few clean ones."""

import datasets
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from hf_bkd.data.subsets import few_first, few_shot, stratified_split, with_label_noise
from hf_bkd.study import Arm, Images, Splits, Study, StudyArguments

from .defaults import ON_CPU

NOISE = 0.3
PER_CLASS = 10
INPUTS = Images((0.305,), (0.377,))
NOISY, FEW = "30 % label noise", "10 clean images per class"
NOTE = (
    "Test labels are clean. Under label noise the exact class probabilities are 0.73 for the true class and 0.03 "
    "for each other one, so a student that is right about the noise looks under-confident: there, read accuracy "
    "and convergence noise, not NLL and ECE."
)
DEFAULTS = ON_CPU | {
    "dataset": "scikit-learn digits",
    "teacher_model": "cnn16_small",
    "student_model": "cnn6_small",
    "num_train_epochs": 40,
    "validation_size": 200,
    "max_test_samples": 500,
    "noise_epochs": 20,
}


def all_digits() -> datasets.Dataset:
    data = load_digits()
    images = [Image.fromarray((image * 255 / 16).astype(np.uint8)) for image in data.images]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    return datasets.Dataset.from_dict({"image": images, "label": data.target}, features=features)


def split(options: StudyArguments, seed: int) -> tuple[datasets.Dataset, datasets.Dataset, datasets.Dataset]:
    test, rest = stratified_split(all_digits(), options.max_test_samples, seed)
    validation, train = stratified_split(rest, options.validation_size, seed)
    return few_first(train, options.max_train_samples), validation, test


def noisy(options: StudyArguments, seed: int) -> Splits:
    train, validation, test = split(options, seed)
    train, bayes = with_label_noise(train, NOISE, seed)
    validation, _ = with_label_noise(validation, NOISE, seed + 1)
    return Splits(train, validation, test, INPUTS, bayes=bayes)


def few(options: StudyArguments, seed: int) -> Splits:
    train, validation, test = split(options, seed)
    return Splits(few_shot(train, PER_CLASS, seed), validation, test, INPUTS)


def digits_study(name: str, arms: tuple[Arm, ...], note: str = "") -> Study:
    """A study in both conditions."""
    return Study(name, arms, {NOISY: noisy, FEW: few}, epochs={FEW: 3}, note=NOTE + note)
