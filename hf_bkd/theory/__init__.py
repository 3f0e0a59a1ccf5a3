"""The papers' formulas as functions that can be tested, which import torch alone."""

from typing import Any

from ..utils.deprecation import warn_renamed
from .adam_noise import adam_floor
from .batched_students import BatchedStudents, train_by_sgd, train_students
from .bayes import GaussianMixture, additive_draws, dirichlet_draws, sample_labels
from .divergence import best_student, conjugate_posterior, distillation_divergence, label_divergence_bound
from .gap_bounds import lower_gap_bound, sharpness_gap_bound, tightness_radius, upper_gap_bound
from .propagation import (
    average_responses,
    inter_student_variance,
    intra_student_entropy,
    inverse_variance_combine,
    leverage,
    ols_student_variance,
    ols_students,
    oracle_combine,
    variance_components,
)
from .sgd_noise import (
    best_lambda,
    break_even_variance,
    excess_risk_floor,
    gradient_noise,
    label_free_lambda,
    mixed_noise,
    one_hot_covariance,
    score_gram,
    squared_gradient_norms,
)
from .sweeps import bootstrap_weights, distill_many, noisy_responses, sample_responses
from .teacher_errors import (
    covariance_of_mean,
    displacement,
    displacement_risk,
    kept_draw_risk,
    mean_pull,
    nearest_student,
    parameter_covariance,
)

__all__ = [
    "BatchedStudents",
    "GaussianMixture",
    "adam_floor",
    "additive_draws",
    "average_responses",
    "best_lambda",
    "best_student",
    "bootstrap_weights",
    "break_even_variance",
    "conjugate_posterior",
    "covariance_of_mean",
    "dirichlet_draws",
    "displacement",
    "displacement_risk",
    "distill_many",
    "distillation_divergence",
    "excess_risk_floor",
    "gradient_noise",
    "inter_student_variance",
    "intra_student_entropy",
    "inverse_variance_combine",
    "kept_draw_risk",
    "label_divergence_bound",
    "label_free_lambda",
    "leverage",
    "lower_gap_bound",
    "mean_pull",
    "mixed_noise",
    "nearest_student",
    "noisy_responses",
    "ols_student_variance",
    "ols_students",
    "one_hot_covariance",
    "oracle_combine",
    "parameter_covariance",
    "sample_labels",
    "sample_responses",
    "score_gram",
    "sharpness_gap_bound",
    "squared_gradient_norms",
    "tightness_radius",
    "train_by_sgd",
    "train_students",
    "upper_gap_bound",
    "variance_components",
]


def __getattr__(name: str) -> Any:
    if name != "Students":
        raise AttributeError(f"module 'hf_bkd.theory' has no attribute {name!r}")
    warn_renamed("hf_bkd.theory.Students", "hf_bkd.theory.BatchedStudents")
    return BatchedStudents
