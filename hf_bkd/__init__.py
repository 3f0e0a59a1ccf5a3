"""Bayesian knowledge distillation in the Hugging Face ecosystem."""

import importlib
from typing import TYPE_CHECKING, Any

from . import _moved
from .models import registration
from .utils.deprecation import warn_renamed

if TYPE_CHECKING:  # what editors and type checkers see; at run time a name is imported when it is first used
    from .data.augmentations import CropAndFlip
    from .data.loading import load_splits
    from .data.preprocessing import ImagePreprocessor
    from .data.views import Views
    from .language import tokenized
    from .metrics import convergence_noise
    from .models.classifier import create_classifier
    from .models.perceptron import Perceptron
    from .reports.evaluate_metric import ClassificationMetrics
    from .responses import aggregate_responses, embedding_estimates, generate_responses, sentence_encoder
    from .soft_labels import (
        add_soft_labels,
        check_against_teacher,
        concatenate_soft_labels,
        import_soft_labels,
        import_token_log_probs,
        join_soft_labels,
        only_soft_labels,
        pack_soft_labels,
        push_soft_labels,
        weighted_rows,
    )
    from .teachers import (
        IVON,
        ClassMap,
        DeterministicTeacher,
        DirichletStudent,
        EnsembleTeacher,
        LangevinTeacher,
        LaplaceTeacher,
        MCDropoutTeacher,
        MultiTeacher,
        OracleTeacher,
        Predictive,
        PromptedTeacher,
        SklearnTeacher,
        SWAGTeacher,
        Teacher,
        VariationalTeacher,
        make_variational,
    )
    from .training.arguments import DistillationTrainingArguments
    from .training.batched_dataset import BatchedDataset
    from .training.diagnostics import DiagnosticsCallback
    from .training.sharpness import sharpness
    from .training.trainer import DistillationTrainer
    from .uncertainty import uncertainty_report
    from .utils.errors import UserError

_HOME = {
    "add_soft_labels": "soft_labels",
    "aggregate_responses": "responses",
    "check_against_teacher": "soft_labels",
    "concatenate_soft_labels": "soft_labels",
    "ClassificationMetrics": "reports.evaluate_metric",
    "ClassMap": "teachers",
    "convergence_noise": "metrics",
    "create_classifier": "models.classifier",
    "CropAndFlip": "data.augmentations",
    "DeterministicTeacher": "teachers",
    "DirichletStudent": "teachers",
    "DiagnosticsCallback": "training.diagnostics",
    "DistillationTrainer": "training.trainer",
    "DistillationTrainingArguments": "training.arguments",
    "embedding_estimates": "responses",
    "EnsembleTeacher": "teachers",
    "generate_responses": "responses",
    "ImagePreprocessor": "data.preprocessing",
    "import_soft_labels": "soft_labels",
    "import_token_log_probs": "soft_labels",
    "IVON": "teachers",
    "join_soft_labels": "soft_labels",
    "LangevinTeacher": "teachers",
    "LaplaceTeacher": "teachers",
    "load_splits": "data.loading",
    "make_variational": "teachers",
    "MCDropoutTeacher": "teachers",
    "MultiTeacher": "teachers",
    "only_soft_labels": "soft_labels",
    "pack_soft_labels": "soft_labels",
    "OracleTeacher": "teachers",
    "Perceptron": "models.perceptron",
    "Predictive": "teachers",
    "PromptedTeacher": "teachers",
    "SklearnTeacher": "teachers",
    "push_soft_labels": "soft_labels",
    "BatchedDataset": "training.batched_dataset",
    "sentence_encoder": "responses",
    "sharpness": "training.sharpness",
    "Teacher": "teachers",
    "tokenized": "language",
    "uncertainty_report": "uncertainty",
    "UserError": "utils.errors",
    "SWAGTeacher": "teachers",
    "VariationalTeacher": "teachers",
    "Views": "data.views",
    "weighted_rows": "soft_labels",
}

RENAMED = {"ResidentDataset": "BatchedDataset"}  # old names, which work for a release

__all__ = [
    "BatchedDataset",
    "ClassMap",
    "ClassificationMetrics",
    "CropAndFlip",
    "DeterministicTeacher",
    "DiagnosticsCallback",
    "DirichletStudent",
    "DistillationTrainer",
    "DistillationTrainingArguments",
    "EnsembleTeacher",
    "IVON",
    "ImagePreprocessor",
    "LangevinTeacher",
    "LaplaceTeacher",
    "MCDropoutTeacher",
    "MultiTeacher",
    "OracleTeacher",
    "Perceptron",
    "Predictive",
    "PromptedTeacher",
    "SWAGTeacher",
    "SklearnTeacher",
    "Teacher",
    "UserError",
    "VariationalTeacher",
    "Views",
    "add_soft_labels",
    "aggregate_responses",
    "check_against_teacher",
    "concatenate_soft_labels",
    "convergence_noise",
    "create_classifier",
    "embedding_estimates",
    "generate_responses",
    "import_soft_labels",
    "import_token_log_probs",
    "join_soft_labels",
    "load_splits",
    "make_variational",
    "only_soft_labels",
    "pack_soft_labels",
    "push_soft_labels",
    "sentence_encoder",
    "sharpness",
    "tokenized",
    "uncertainty_report",
    "weighted_rows",
]

_moved.install()
registration.register_networks()


if not TYPE_CHECKING:  # a checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name in RENAMED:
            warn_renamed(f"hf_bkd.{name}", f"hf_bkd.{RENAMED[name]}")
            name = RENAMED[name]
        if name not in _HOME:
            raise AttributeError(f"module 'hf_bkd' has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
