"""CIFAR-100, ResNet-50 to ResNet-18: a last-layer Laplace teacher beside the controls (arXiv 2601.01484).

accelerate launch recipes/cifar100_laplace.py [--dataset FOLDER] [--arms deterministic,laplace]
"""

from common.cifar import DEFAULTS as CIFAR
from common.cifar import against_controls

from hf_bkd.study import LAPLACE, Study, StudyArguments, main

DEFAULTS = CIFAR | {"output_dir": "runs/cifar100_laplace"}


def study(options: StudyArguments) -> Study:
    return against_controls("cifar100_laplace", LAPLACE)


if __name__ == "__main__":
    main(study, DEFAULTS)
