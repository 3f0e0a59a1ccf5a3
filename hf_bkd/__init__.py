"""Bayesian knowledge distillation in the Hugging Face ecosystem."""

import importlib
from typing import Any

from . import backbones, small_cnn  # noqa: F401  registers networks with timm, so that every loader knows them

_HOME = {
    "add_soft_labels": "soft_labels",
    "check_against_teacher": "soft_labels",
    "ClassificationMetrics": "evaluate_metric",
    "ClassMap": "teachers",
    "convergence_noise": "metrics",
    "create_classifier": "backbones",
    "CropAndFlip": "augmentations",
    "DeterministicTeacher": "teachers",
    "DiagnosticsCallback": "diagnostics",
    "DistillationTrainer": "trainer",
    "DistillationTrainingArguments": "training_args",
    "EnsembleTeacher": "teachers",
    "ImagePreprocessor": "images",
    "import_soft_labels": "soft_labels",
    "IVON": "ivon",
    "join_soft_labels": "soft_labels",
    "LangevinTeacher": "teachers",
    "LaplaceTeacher": "teachers",
    "load_splits": "data",
    "make_variational": "teachers",
    "MCDropoutTeacher": "teachers",
    "only_soft_labels": "soft_labels",
    "MultiTeacher": "teachers",
    "OracleTeacher": "teachers",
    "Perceptron": "perceptron",
    "Predictive": "predictive",
    "push_soft_labels": "soft_labels",
    "ResidentDataset": "resident",
    "sharpness": "flatness",
    "Teacher": "teachers",
    "UserError": "errors",
    "uncertainty_report": "uncertainty",
    "VariationalTeacher": "teachers",
    "Views": "views",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hf_bkd' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
