"""One of many students as an ordinary network."""

from torch import nn

from hf_bkd.theory import BatchedStudents


def alone(students: BatchedStudents, number: int) -> nn.Sequential:
    layers = []
    for weight, bias in zip(students.weights, students.biases, strict=True):
        linear = nn.Linear(*weight.shape[1:], dtype=weight.dtype)
        linear.weight.data, linear.bias.data = weight[number].T.detach().clone(), bias[number, 0].detach().clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
