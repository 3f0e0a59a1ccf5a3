"""Do several teachers teach better than one? A ResNet, an EfficientNet and a ViT, alone and combined.

Data: CIFAR-100; by default its first 20 classes at 16 x 16 pixels, 150 training images of each.

    python recipes/images_multi_teacher.py [--dataset CIFAR100]                     half an hour on two cores
    accelerate launch recipes/images_multi_teacher.py --full [--dataset CIFAR100]   all of it, for a GPU
"""

import sys

from teachers_comparison import of_first_classes
from views_study import smaller

from hf_bkd.data.columns import as_image_classification
from hf_bkd.data.loading import load_splits
from hf_bkd.data.subsets import few_first, stratified_split
from hf_bkd.models.cifar_resnet import CIFAR100_MEAN, CIFAR100_STD
from hf_bkd.study import ONE_HOT, Arm, Images, Splits, Study, StudyArguments, combined, main

FULL = "--full" in sys.argv
STRENGTH = (5.0,)  # of the teachers' prior, in examples: lambda in the paper's code


def cifar100(options: StudyArguments, seed: int) -> Splits:
    splits = load_splits(options.dataset, needed=("train", "test"))
    train, test = (as_image_classification(splits[name]) for name in ("train", "test"))
    if not FULL:
        train, test = of_first_classes(train), of_first_classes(test)
    validation, train = stratified_split(train.shuffle(seed=0), options.validation_size, seed=0)
    parts = few_first(train, options.max_train_samples), validation, few_first(test, options.max_test_samples)
    return Splits(*parts if FULL else map(smaller, parts), Images(CIFAR100_MEAN, CIFAR100_STD, augment=True))


def alone(name: str, architecture: str, **architecture_args) -> Arm:
    """Its labels are averages over draws, which have a variance."""
    network = {"architecture": architecture, "architecture_args": architecture_args}
    return Arm(name, teacher="laplace", how={"link": "mc"}, strengths=STRENGTH, **network)


if FULL:
    TEACHERS = (
        alone("ResNet", "resnet50_cifar"),
        alone("EfficientNet", "efficientnet_lite0", output_stride=8),
        alone("ViT", "vit_tiny_patch16_224", patch_size=4),
    )
else:
    TEACHERS = (
        alone("ResNet", "wrn_16_2_cifar"),
        alone("EfficientNet", "test_efficientnet", output_stride=8),
        alone("ViT", "test_vit", patch_size=4),
    )


STUDY = Study(
    name="images_multi_teacher",
    arms=(
        ONE_HOT,
        *TEACHERS,
        *combined(TEACHERS, STRENGTH),
    ),
    conditions={"": cifar100},
    views=4,
    reference=ONE_HOT.name,
    note=("" if FULL else "The first 20 classes at 16 x 16 pixels, 150 training images of each. ")
    + (
        "All teachers are last-layer Laplace posteriors whose labels average 100 draws, and count for five examples "
        "(λ = 5 / 6). Average: the student is taught their weighted mean. Mixture: the prior of MT-BKD (arXiv "
        "2605.27967), under which the teachers that the student agrees with count more."
    ),
)
DEFAULTS = {
    "dataset": "uoft-cs/cifar100",
    "output_dir": "runs/images_multi_teacher",
    "student_model": "resnet18_cifar" if FULL else "wrn_16_1_cifar",
    "num_samples": 100,
    "num_train_epochs": 200 if FULL else 30,
    "max_train_samples": None if FULL else 3000,
    "validation_size": 5000 if FULL else 1000,
    "learning_rate": 1e-3 if FULL else 5e-3,
    "teacher_learning_rate": 1e-3 if FULL else 3e-3,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 128 if FULL else 64,
    "per_device_eval_batch_size": 500,
    "noise_epochs": 50 if FULL else 10,
    "save_strategy": "epoch" if FULL else "no",
    "save_total_limit": 1,
    "logging_strategy": "epoch" if FULL else "no",
    "workers": 1 if FULL else 2,
    "disable_tqdm": not FULL,
    "use_cpu": not FULL,
}

if __name__ == "__main__":
    sys.argv = [argument for argument in sys.argv if argument != "--full"]
    main(STUDY, DEFAULTS)
