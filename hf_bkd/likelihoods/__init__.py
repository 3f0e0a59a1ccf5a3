"""What a row of a network's outputs means, and everything that follows from it.

| likelihood    | problem type of transformers  | outputs [..., K]                      | values [..., C]             |
| ------------- | ----------------------------- | ------------------------------------- | --------------------------- |
| `Categorical` | `single_label_classification` | C logits                              | probabilities with sum 1    |
| `Bernoulli`   | `multi_label_classification`  | C logits                              | C independent probabilities |
| `Gaussian`    | `regression`                  | C means, or C means and log-variances | C means                     |

Values are what a teacher's draws are averaged to and what soft labels store. A target holds the values, for a Gaussian
also their variance where it is known: [..., 2 C], means before variances.

The divergence and the label's loss of `Categorical` are sums over the classes; those of `Bernoulli` and `Gaussian` are
means over the C labels, so that training without a teacher minimizes what transformers' own models do (torch's
`CrossEntropyLoss`, `BCEWithLogitsLoss` and `MSELoss`).
"""

from typing import Any

from ..utils.errors import UserError
from .base import Likelihood
from .bernoulli import Bernoulli
from .categorical import CATEGORICAL, SUM_TOLERANCE, UNLABELED, Categorical
from .gaussian import LARGEST, UNKNOWN_VARIANCE, Gaussian
from .scaling import Scaled, best_temperature, scaled_measures, scaled_predictions
from .tensors import averaged

__all__ = [
    "CATEGORICAL",
    "LARGEST",
    "LIKELIHOODS",
    "SUM_TOLERANCE",
    "UNKNOWN_VARIANCE",
    "UNLABELED",
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Likelihood",
    "Scaled",
    "averaged",
    "best_temperature",
    "likelihood_from",
    "scaled_measures",
    "scaled_predictions",
]

LIKELIHOODS: dict[str, type[Likelihood]] = {each.problem_type: each for each in (Categorical, Bernoulli, Gaussian)}


def likelihood_from(content: dict[str, Any] | str | None) -> Likelihood:
    """Make a likelihood of what :meth:`Likelihood.as_json` says, or of a problem type; `Categorical` if of nothing.

    Raises:
        UserError: an unknown problem type.
    """
    content = {"problem_type": content} if isinstance(content, str) else dict(content or {})
    problem_type = content.pop("problem_type", Categorical.problem_type)
    if problem_type not in LIKELIHOODS:
        raise UserError(f"problem_type is {problem_type!r}; it must be one of {', '.join(LIKELIHOODS)}")
    if content.get("observation_variance") is not None:
        content["observation_variance"] = tuple(content["observation_variance"])
    return LIKELIHOODS[problem_type](**content)
