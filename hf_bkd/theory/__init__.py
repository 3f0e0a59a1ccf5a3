"""The papers' mathematics as functions that can be checked; imports torch alone."""

from .bayes import GaussianMixture, additive_draws, dirichlet_draws, sample_labels
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
from .students import Students, train_by_sgd

__all__ = [
    "GaussianMixture",
    "Students",
    "additive_draws",
    "best_lambda",
    "break_even_variance",
    "dirichlet_draws",
    "excess_risk_floor",
    "gradient_noise",
    "label_free_lambda",
    "mixed_noise",
    "one_hot_covariance",
    "sample_labels",
    "score_gram",
    "squared_gradient_norms",
    "train_by_sgd",
]
