"""Is a Bayesian teacher worth it? Real images, a few minutes on two cores, every control beside it.

Data: scikit-learn's handwritten digits (1,797 images of 8 x 8). Two conditions: 30 % of the training and validation
labels replaced at random, where the exact class probabilities are known; and 10 clean images per class.

    python recipes/digits.py --output_dir runs/digits          under five minutes
    python recipes/digits.py --output_dir runs/digits --full   more seeds, epochs, members and folds
"""

import sys
from dataclasses import replace

import datasets
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from hf_bkd.data.subsets import few_first, few_shot, stratified_split, with_label_noise
from hf_bkd.study import (
    BAYES,
    CONTROLS,
    CROSS_FITTED,
    LAPLACE,
    VARIATIONAL,
    Images,
    Splits,
    Study,
    StudyArguments,
    main,
)

NOISE = 0.3
PER_CLASS = 10
MEAN, STD = (0.305,), (0.377,)
NOISY, FEW = "30 % label noise", "10 clean images per class"


def digits() -> datasets.Dataset:
    data = load_digits()
    images = [Image.fromarray((image * 255 / 16).astype(np.uint8)) for image in data.images]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    return datasets.Dataset.from_dict({"image": images, "label": data.target}, features=features)


def split(options: StudyArguments, seed: int) -> tuple[datasets.Dataset, datasets.Dataset, datasets.Dataset]:
    test, rest = stratified_split(digits(), options.max_test_samples, seed)
    validation, train = stratified_split(rest, options.validation_size, seed)
    return few_first(train, options.max_train_samples), validation, test


def noisy(options: StudyArguments, seed: int) -> Splits:
    train, validation, test = split(options, seed)
    train, bayes = with_label_noise(train, NOISE, seed)
    validation, _ = with_label_noise(validation, NOISE, seed + 1)
    return Splits(train, validation, test, Images(MEAN, STD), bayes=bayes)


def few(options: StudyArguments, seed: int) -> Splits:
    train, validation, test = split(options, seed)
    return Splits(few_shot(train, PER_CLASS, seed), validation, test, Images(MEAN, STD))


FULL = "--full" in sys.argv
STUDY = Study(
    name="digits",
    arms=(*CONTROLS, LAPLACE, VARIATIONAL, replace(CROSS_FITTED, folds=5 if FULL else 3), BAYES),
    conditions={NOISY: noisy, FEW: few},
    epochs={FEW: 3},
    note=(
        "Test labels are clean. Under label noise the exact class probabilities are 0.73 for the true class and 0.03 "
        "for each other one, so a student that is right about the noise looks under-confident: there, read accuracy "
        "and convergence noise, not NLL and ECE."
    ),
)
DEFAULTS = {
    "dataset": "scikit-learn digits",
    "output_dir": "runs/digits",
    "teacher_model": "cnn16_small",
    "student_model": "cnn6_small",
    "seeds": "0,1,2,3,4,5,6,7,8,9" if FULL else "0,1,2",
    "num_train_epochs": 80 if FULL else 40,
    "num_samples": 100,  # draws from a last layer cost next to nothing, and S = 10 of a wide posterior are noise
    "ensemble_size": 5 if FULL else 3,
    "validation_size": 200,
    "max_test_samples": 500,
    "workers": 2,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 500,
    "noise_epochs": 20,
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}

if __name__ == "__main__":
    sys.argv = [argument for argument in sys.argv if argument != "--full"]
    main(STUDY, DEFAULTS)
