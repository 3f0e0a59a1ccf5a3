"""CIFAR-100, ResNet-50 to ResNet-18: everything that a Bayesian teacher has to beat.

accelerate launch recipes/cifar100_deterministic.py [--dataset FOLDER] [--arms one-hot,deterministic]
"""

from cifar100 import run

if __name__ == "__main__":
    run("cifar100_deterministic")
