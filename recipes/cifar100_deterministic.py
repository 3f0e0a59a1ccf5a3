"""CIFAR-100, ResNet-50 to ResNet-18: everything that a Bayesian teacher has to beat.

accelerate launch recipes/cifar100_deterministic.py [--dataset FOLDER] [--arms one-hot,deterministic]
"""

from common.cifar import DEFAULTS as CIFAR
from common.cifar import against_controls

from hf_bkd.study import Study, StudyArguments, main

DEFAULTS = CIFAR | {"output_dir": "runs/cifar100_deterministic"}


def study(options: StudyArguments) -> Study:
    return against_controls("cifar100_deterministic")


if __name__ == "__main__":
    main(study, DEFAULTS)
