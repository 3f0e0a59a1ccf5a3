"""CIFAR-100, ResNet-50 to ResNet-18: variational teachers beside the controls (arXiv 2601.01484).

accelerate launch recipes/cifar100_vi.py [--dataset FOLDER] [--arms deterministic,variational-head]
"""

from common.cifar import DEFAULTS as CIFAR
from common.cifar import against_controls

from hf_bkd.study import VARIATIONAL, WHOLE_NETWORK, Study, StudyArguments, main

DEFAULTS = CIFAR | {"output_dir": "runs/cifar100_vi"}


def study(options: StudyArguments) -> Study:
    return against_controls("cifar100_vi", VARIATIONAL, WHOLE_NETWORK)


if __name__ == "__main__":
    main(study, DEFAULTS)
