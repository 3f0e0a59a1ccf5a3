"""Do several teachers teach better than one? A ResNet, an EfficientNet and a ViT, alone and combined.

Data: CIFAR-100; by default its first 20 classes at 16 x 16 pixels, 150 training images of each.

    python recipes/images_multi_teacher.py [--dataset CIFAR100]                     half an hour on two cores
    accelerate launch recipes/images_multi_teacher.py --full [--dataset CIFAR100]   all of it, for a GPU
"""

from dataclasses import dataclass, field

from common.cifar import INPUTS, divided, first_classes, smaller, train_and_test
from common.defaults import ON_CPU, ON_GPU

from hf_bkd.study import ONE_HOT, Arm, Deterministic, Laplace, Splits, Study, StudyArguments, combined, main
from hf_bkd.teachers import TeacherSpec

STRENGTH = (5.0,)  # of the teachers' prior, in examples: lambda in the paper's code
SMALL_TEACHERS = {
    "ResNet": ("wrn_16_2_cifar", {}),
    "EfficientNet": ("test_efficientnet", {"output_stride": 8}),
    "ViT": ("test_vit", {"patch_size": 4}),
}
FULL_TEACHERS = {
    "ResNet": ("resnet50_cifar", {}),
    "EfficientNet": ("efficientnet_lite0", {"output_stride": 8}),
    "ViT": ("vit_tiny_patch16_224", {"patch_size": 4}),
}


@dataclass
class Arguments(StudyArguments):
    full: bool = field(default=False, metadata={"help": "All classes at full size, and the large networks."})


def cifar100(options: Arguments, seed: int) -> Splits:
    if options.full:
        return Splits(*divided(options, *train_and_test(options)), INPUTS)
    return Splits(*map(smaller, first_classes(options)), INPUTS)


def teachers(options: Arguments, kind: TeacherSpec, suffix: str = "") -> tuple[Arm, ...]:
    networks = FULL_TEACHERS if options.full else SMALL_TEACHERS
    return tuple(Arm(name + suffix, kind, *network, strengths=STRENGTH) for name, network in networks.items())


def study(options: Arguments) -> Study:
    alone = teachers(options, Laplace(link="mc"))  # averages over draws, which have a variance
    calibrated = teachers(options, Deterministic(scaled=True), ", deterministic, scaled")
    data = "" if options.full else "The first 20 classes at 16 x 16 pixels, 150 training images of each. "
    return Study(
        name="images_multi_teacher",
        arms=(ONE_HOT, *calibrated, *alone, *combined(alone, STRENGTH)),
        conditions={"": cifar100},
        num_views=4,
        reference=ONE_HOT.name,
        note=data
        + (
            "Teachers are last-layer Laplace posteriors whose labels average 100 draws, unless said otherwise, and "
            "count for five examples (λ = 5 / 6). Average: the student is taught their weighted mean. Mixture: "
            "the prior of MT-BKD (arXiv 2605.27967), under which the teachers that the student agrees with count more."
        ),
    )


def defaults(options: Arguments) -> dict:
    both = {"dataset": "uoft-cs/cifar100", "output_dir": "runs/images_multi_teacher", "num_samples": 100}
    if options.full:
        return ON_GPU | both | {"student_model": "resnet18_cifar", "validation_size": 5000, "noise_epochs": 50}
    return (
        ON_CPU
        | both
        | {
            "student_model": "wrn_16_1_cifar",
            "num_train_epochs": 30,
            "max_train_samples": 3000,
            "validation_size": 1000,
            "teacher_learning_rate": 3e-3,
            "noise_epochs": 10,
        }
    )


if __name__ == "__main__":
    main(study, defaults, arguments=Arguments)
