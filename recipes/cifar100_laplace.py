"""CIFAR-100, ResNet-50 to ResNet-18: a last-layer Laplace teacher beside the controls (arXiv 2601.01484).

accelerate launch recipes/cifar100_laplace.py [--dataset FOLDER] [--arms deterministic,laplace]
"""

from cifar100 import run

from hf_bkd.study import LAPLACE

if __name__ == "__main__":
    run("cifar100_laplace", LAPLACE)
