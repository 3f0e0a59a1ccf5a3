"""Which teacher knows best what it doesn't know? Every posterior as a classifier, before any student is taught.

Data: scikit-learn's handwritten digits, 20 of each class and all of them with 30 % of the labels replaced at random,
and the first 20 classes of CIFAR-100. Out-of-distribution images, of no
class that the teachers know: CIFAR-10's test split.

    python recipes/teachers_comparison.py [--dataset CIFAR100] [--ood_dataset CIFAR10]     an hour on two cores
"""

import datasets
from digits import MEAN, NOISE, STD, digits

from hf_bkd.data.columns import as_image_classification
from hf_bkd.data.loading import load_splits
from hf_bkd.data.subsets import few_first, few_shot, stratified_split, with_label_noise
from hf_bkd.models.cifar_resnet import CIFAR100_MEAN, CIFAR100_STD
from hf_bkd.study import (
    DETERMINISTIC,
    ENSEMBLE,
    VARIATIONAL,
    WHOLE_NETWORK,
    Arm,
    Images,
    Splits,
    Study,
    StudyArguments,
    main,
)

CLASSES = list(range(20))
PER_CLASS = 20
FEW, NOISY, CIFAR = "digits, 20 of each class", "digits, 30 % label noise", "CIFAR-100, 20 classes"
EVIDENCE = {"prior_precision": "marginal_likelihood"}


def all_digits(options: StudyArguments, seed: int) -> Splits:
    test, rest = stratified_split(digits(), 500, seed)
    validation, train = stratified_split(rest, 300, seed)
    small = ood(options).map(lambda row: {"image": row["image"].convert("L").resize((8, 8))})
    return Splits(few_first(train, options.max_train_samples), validation, test, Images(MEAN, STD), ood=small)


def few_digits(options: StudyArguments, seed: int) -> Splits:
    splits = all_digits(options, seed)
    splits.train = few_shot(splits.train, PER_CLASS, seed)
    return splits


def noisy_digits(options: StudyArguments, seed: int) -> Splits:
    splits = all_digits(options, seed)
    for number, name in enumerate(("train", "validation", "test")):
        setattr(splits, name, with_label_noise(getattr(splits, name), NOISE, 3 * seed + number)[0])
    return splits


def cifar20(options: StudyArguments, seed: int) -> Splits:
    splits = load_splits(options.dataset, needed=("train", "test"))
    train, test = (of_first_classes(as_image_classification(splits[name])) for name in ("train", "test"))
    validation, train = stratified_split(train.shuffle(seed=0), options.validation_size, seed=0)
    return Splits(
        few_first(train, options.max_train_samples),
        validation,
        few_first(test, options.max_test_samples),
        Images(CIFAR100_MEAN, CIFAR100_STD, augment=True),
        ood=ood(options),
    )


def of_first_classes(dataset: datasets.Dataset) -> datasets.Dataset:
    names = dataset.features["label"].names[: len(CLASSES)]
    kept = dataset.filter(lambda label: label in CLASSES, input_columns="label")
    return kept.cast_column("label", datasets.ClassLabel(names=names))


def ood(options: StudyArguments) -> datasets.Dataset:
    images = as_image_classification(load_splits(options.ood_dataset, needed=("test",))["test"])
    return few_first(images.shuffle(seed=0), options.max_test_samples)


STUDY = Study(
    name="teachers_comparison",
    arms=(
        DETERMINISTIC,
        ENSEMBLE,
        Arm("MC dropout", teacher="mc_dropout", how={"drop_rate": 0.3}),
        Arm("Laplace", teacher="laplace", how={"link": "probit"}),
        Arm("Laplace, 10 draws", teacher="laplace", how={"link": "mc"}),
        Arm("Laplace, bridge link", teacher="laplace", how={"link": "bridge"}),
        Arm("Laplace, diagonal", teacher="laplace", how={"link": "probit", "structure": "diag"}),
        Arm("Laplace, full", teacher="laplace", how={"link": "probit", "structure": "full"}),
        Arm("Laplace, marginal likelihood", teacher="laplace", how={"link": "probit", **EVIDENCE}),
        Arm("Laplace, marginal likelihood, bridge link", teacher="laplace", how={"link": "bridge", **EVIDENCE}),
        VARIATIONAL,
        Arm("variational head, low rank", teacher="variational", how={"rank": 4}),
        WHOLE_NETWORK,
        Arm(
            "variational, IVON",
            teacher="variational",
            how={"posterior": "ivon", "lr": 0.5, "initial_std": 0.045, "betas": (0.9, 0.9995)},
        ),
    ),
    conditions={FEW: few_digits, NOISY: noisy_digits, CIFAR: cifar20},
    students=False,
    epochs={FEW: 2},
    note=(
        "Laplace: last layer, Kronecker factors, probit link and prior precision by validation NLL unless said "
        "otherwise. Under label noise the test labels are as noisy as the others, so that NLL is about the "
        "probabilities that a student should learn. All draw S times; the ensemble has its members. "
        "Out-of-distribution images are CIFAR-10's, made gray and 8 x 8 for the digits."
    ),
)
DEFAULTS = {
    "dataset": "uoft-cs/cifar100",
    "ood_dataset": "uoft-cs/cifar10",
    "output_dir": "runs/teachers_comparison",
    "teacher_model": "wrn_16_1_cifar",
    "num_train_epochs": 30,
    "num_samples": 10,
    "max_train_samples": 2000,
    "max_test_samples": 2000,
    "validation_size": 1000,
    "workers": 2,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 500,
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}

if __name__ == "__main__":
    main(STUDY, DEFAULTS)
