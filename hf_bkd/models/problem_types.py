"""What a network's outputs mean, as it says itself, as somebody says of it, or as its labels tell."""

from typing import Any

from torch import Tensor, nn

from ..likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, likelihood_from
from ..utils.errors import UserError
from .calling import unwrapped
from .class_names import predicts_variances
from .outputs import stated_classes

CONCENTRATIONS, BY_EXP = "dirichlet_concentrations", "exp"  # of the logits; an entry of a network's config


def likelihood_of(
    network: nn.Module, problem_type: str | Likelihood | None = None, otherwise: str | None = None
) -> Likelihood:
    """Return the likelihood of a network's outputs.

    A regression whose outputs are called so (see `class_names.with_variances`) predicts variances. Otherwise it is
    that of ``config.problem_type`` (or of a plain network's attribute ``problem_type``), else the one that is
    passed, else a regression where transformers takes it for one (``config.num_labels`` of 1), else the labels' or
    `Categorical`.

    Args:
        network: a transformers model, a timm network or a plain module.
        problem_type: one of ``"single_label_classification"``, ``"multi_label_classification"`` and ``"regression"``,
            or a likelihood, such as ``Gaussian(observation_variance=(0.25,))``.
        otherwise: the problem type where nobody has said one, such as that of the labels.

    Raises:
        UserError: an unknown problem type, another one than the network's, or classes of a network with one output.
    """
    given = problem_type
    if given is not None and not isinstance(given, Likelihood):
        given = likelihood_from(problem_type)
    stated = stated_problem_type(network)
    if given is not None and stated not in (None, given.problem_type):
        raise UserError(
            f"problem_type is {given.problem_type!r}, and the {type(network).__name__}'s own is {stated!r}: leave it "
            "out, or set the network's config.problem_type"
        )
    likelihood = given or likelihood_from(stated or _by_transformers_rule(network) or otherwise)
    likelihood.check_outputs(stated_classes(unwrapped(network, keep_adapters=True)) or 2)
    unsaid = isinstance(likelihood, Gaussian) and not likelihood.knows_variance
    return Gaussian(predicts_variance=True) if unsaid and predicts_variances(network) else likelihood


def stated_problem_type(network: nn.Module) -> str | None:
    """Return the problem type that a network's config says, or its own attribute of that name; ``None`` if neither."""
    network = unwrapped(network, keep_adapters=True)
    said = getattr(getattr(network, "config", None), "problem_type", None) or getattr(network, "problem_type", None)
    return said if isinstance(said, str) else None


def is_dirichlet(network: nn.Module) -> bool:
    """Return whether a network, or its config, says that exp(logits) are the concentrations of a Dirichlet."""
    return getattr(_speaker(network), CONCENTRATIONS, None) == BY_EXP


def name_dirichlet(network: nn.Module, is_one: bool) -> None:
    """Let a network, or its config, say whether its outputs are a Dirichlet's; it is saved with it."""
    speaker = _speaker(network)
    if is_one:
        setattr(speaker, CONCENTRATIONS, BY_EXP)
    elif hasattr(speaker, CONCENTRATIONS):
        delattr(speaker, CONCENTRATIONS)


def _speaker(network: nn.Module) -> Any:
    """Return what says what a network's outputs mean: a config of transformers, or the network itself."""
    network = unwrapped(network, keep_adapters=True)
    config = getattr(network, "config", None)
    return config if hasattr(config, "problem_type") else network


def problem_type_of_labels(labels: Tensor, outputs: Tensor) -> str:
    """Return the problem type that labels tell, beside outputs [..., K] of the same examples.

    Class indices [...] make a classification; zeros and ones [..., K], several of them, labels that are each there or
    not; other numbers a regression. What may be anything, zeros and ones of one output and rows that sum to one, which
    may be one-hot, counts as a classification, of which it is no label.
    """
    there = labels[~labels.isnan()]
    in_range, hot = bool(((there >= 0) & (there <= 1)).all()), bool(((there == 0) | (there == 1)).all())
    sums_to_one = labels.shape == outputs.shape and bool(((labels.sum(dim=-1) - 1).abs() < 1e-4).all())
    unclear = hot and outputs.shape[-1] == 1 or in_range and sums_to_one
    if unclear or not labels.is_floating_point() and labels.ndim < outputs.ndim:
        return Categorical.problem_type
    return Bernoulli.problem_type if hot and labels.shape == outputs.shape else Gaussian.problem_type


def _by_transformers_rule(network: nn.Module) -> str | None:
    config = getattr(unwrapped(network, keep_adapters=True), "config", None)
    is_theirs = hasattr(config, "id2label")
    return Gaussian.problem_type if is_theirs and getattr(config, "num_labels", None) == 1 else None
