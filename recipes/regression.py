"""Does a teacher's variance teach numbers? Its means alone against its means and variances, on a table and on images.

Data: scikit-learn's diabetes (442 rows), and its digits (1,797 images), each turned by an angle that is to be told.

    python recipes/regression.py          ten seeds, about six minutes of processor time

The teachers, ensembles of two networks that predict a mean and a variance, are cross-fitted in three folds.
"""

from typing import Any

import datasets
import numpy as np
from common.defaults import ON_CPU
from common.digits import all_digits
from PIL import Image
from sklearn.datasets import load_diabetes
from torch import nn
from transformers import set_seed

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    EnsembleTeacher,
    Teacher,
    add_soft_labels,
)
from hf_bkd.data.subsets import few_first
from hf_bkd.likelihoods import Gaussian
from hf_bkd.soft_labels import only_soft_labels
from hf_bkd.study import Arm, Images, Splits, Stored, Study, StudyArguments, Vectors, main

PROBLEM, FOLDS, MEMBERS, EPOCHS = Gaussian.problem_type, 3, 2, 20
SIZE, LARGEST_ANGLE = 12, 60.0
VARIANCES = {"predict_variance": True}
NO_TEACHER, MEANS = Arm("no teacher"), Arm("means", Stored())
WEIGHTED = Arm("means, weighted by variances", Stored())
BOTH = Arm("means and variances", Stored(), student_args=VARIANCES)
ARMS = (NO_TEACHER, Arm("no teacher, variances", student_args=VARIANCES), MEANS, WEIGHTED, BOTH)
NOTE = (
    "Diabetes: ten numbers of a patient and how far the disease is a year later (25 to 346). Digits: images turned by "
    "up to 60 degrees either way, and the angle: a one tells it, a zero hardly. The teachers are ensembles of two "
    "networks that predict a mean and a variance; each row is labeled by one that was trained without it. 'means' is "
    "distillation by squared errors; 'weighted by variances' divides them by the stored variance of each label, for a "
    "student of a mean; students of 'means and variances', and of 'no teacher, variances', predict both. They learn "
    "from labels and teacher alike (lambda 0.5). Only students that predict a variance have an NLL and intervals."
)


class Digits(Images):
    """Digits, for small and large networks."""

    def network(self, architecture: str, *args: Any, **settings: Any) -> nn.Module:
        return super().network({"small": "cnn6_small", "large": "cnn16_small"}[architecture], *args, **settings)


class Patients(Vectors):
    """Rows of ten numbers, likewise."""

    def network(self, architecture: str, *args: Any, **settings: Any) -> nn.Module:
        return super().network({"small": "mlp-16", "large": "mlp-64"}[architecture], *args, **settings)


def diabetes(options: StudyArguments, seed: int) -> Splits:
    table = load_diabetes()
    rows = {"features": (table.data * 20).astype(np.float32).tolist(), "label": table.target.tolist()}
    return labeled(datasets.Dataset.from_dict(rows), Patients(PROBLEM), options, seed)


def angles(options: StudyArguments, seed: int) -> Splits:
    angles = np.random.default_rng(seed).uniform(-LARGEST_ANGLE, LARGEST_ANGLE, 1797)
    large = (each.resize((SIZE, SIZE), Image.Resampling.BICUBIC) for each in all_digits()["image"])
    images = [each.rotate(angle, Image.Resampling.BICUBIC) for each, angle in zip(large, angles, strict=True)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("float64")})
    rows = datasets.Dataset.from_dict({"image": images, "label": angles.tolist()}, features)
    return labeled(rows, Digits((0.305,), (0.377,), problem_type=PROBLEM), options, seed)


def labeled(rows: datasets.Dataset, inputs: Any, options: StudyArguments, seed: int) -> Splits:
    """A third of the rows tests; the others train, labeled by teachers that were trained without each of them."""
    parts = rows.train_test_split(test_size=1 / 3, seed=seed)
    test, parts = parts["test"], parts["train"].train_test_split(test_size=0.1, seed=seed)
    train, validation = few_first(parts["train"], options.max_train_samples), parts["test"]
    about = {"num_samples": 1, "seed": seed, "progress": False, "preprocessor": inputs.preprocess}
    teachers: list[EnsembleTeacher] = []

    def fit(rest: datasets.Dataset, fold: int) -> Teacher:
        teachers.append(ensemble(rest, inputs, 1000 * (seed + 1) + 100 * fold))
        return teachers[-1]

    train = add_soft_labels(train, folds=FOLDS, fit=fit, **about)
    test = add_soft_labels(test, EnsembleTeacher([each for teacher in teachers for each in teacher.members]), **about)
    return Splits(for_arms(train), validation, for_arms(test), inputs)


def ensemble(rows: datasets.Dataset, inputs: Any, seed: int) -> EnsembleTeacher:
    """Networks that differ in their first weights and the order of examples."""
    train = inputs.batched(rows, None, "cpu", False)
    members = []
    for member in range(seed, seed + MEMBERS):
        set_seed(member)
        network = inputs.network("large", ["mean", "log-variance"], train)
        args = DistillationTrainingArguments(
            output_dir="unused",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            kd_lambda=0.0,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=64,
            learning_rate=5e-3,
            lr_scheduler_type="cosine",
            weight_decay=1e-2,
            seed=member,
            use_cpu=True,
        )
        DistillationTrainer(network, args, train_dataset=train).train()
        members.append(DeterministicTeacher(network, likelihood=Gaussian(predicts_variance=True)))
    return EnsembleTeacher(members)


def for_arms(rows: datasets.Dataset) -> datasets.Dataset:
    """The rows with the labels that each arm reads under its own name; those of means know no variances."""
    labels = only_soft_labels(rows)
    values = [name for name in labels.column_names if name.startswith("teacher_")]
    named = []
    for arm in (MEANS, WEIGHTED, BOTH):
        known = ("teacher_variance", "teacher_noise")
        own = [name for name in values if arm is not MEANS or name not in known]
        named.append(labels.select_columns(own).rename_columns({each: f"{each}__{arm.label_name}" for each in own}))
    return datasets.concatenate_datasets([rows.remove_columns(values), *named], axis=1)


def study(options: StudyArguments) -> Study:
    return Study(
        name="regression",
        arms=ARMS,
        conditions={"diabetes": diabetes, "angles of digits": angles},
        reference=MEANS.name,
        measure="rmse",
        note=NOTE,
    )


DEFAULTS = ON_CPU | {
    "output_dir": "runs/regression",
    "dataset": "scikit-learn diabetes and digits",
    "student_model": "small",
    "teacher_model": "large",
    "seeds": "0,1,2,3,4,5,6,7,8,9",
    "num_train_epochs": 30,
    "kd_lambda": 0.5,
    "weight_decay": 1e-2,
    "noise_epochs": 10,
}

if __name__ == "__main__":
    main(study, DEFAULTS)
