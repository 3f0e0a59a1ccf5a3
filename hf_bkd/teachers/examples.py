"""The examples that teachers are fitted and measured on: batches, or a dataset that their networks read."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..likelihoods import CATEGORICAL, Likelihood
from ..models.calling import call_network, evaluation_mode, logits_of, split, to_network
from ..models.heads import labeled
from ..models.problem_types import likelihood_of, problem_type_of_labels
from ..models.taking import taking
from ..models.token_networks import check_one_label_each, predicts_next_tokens
from ..uncertainty import EntropyParts
from ..utils.errors import UserError
from .base import Teacher


@torch.no_grad()
def predict_all(
    teacher: Teacher,
    examples: Any,
    num_samples: int = 10,
    seed: int = 0,
    processing_class: Any = None,
) -> tuple[Tensor, Tensor]:
    """Predict all examples of a dataset, or of some batches.

    Args:
        teacher: that is asked.
        examples: a ``datasets.Dataset`` with a label column; or batches: (inputs, labels) pairs, or dicts with
            ``labels``.
        num_samples: S >= 1, draws for each prediction.
        seed: of all draws.
        processing_class: by which the network reads a dataset, if not the teacher's own.

    Returns:
        Mean probabilities [N, C] and labels [N], on the CPU; for other likelihoods what their ``measures`` take:
        labels [N, C], and beside a regression's means their variances, [N, 2 C], where these are known. Of a network
        that answers for each token N counts the labeled ones.

    Raises:
        UserError: there are no examples; a dataset that the network can't read, or without labels.
    """
    likelihood = teacher.likelihood
    batches = batches_of(examples, teacher.network, processing_class, teacher.preprocessor_for, likelihood)
    generator = torch.Generator().manual_seed(seed)
    targets, labels = [], []
    for batch in batches:
        inputs, batch_labels = split(batch)
        with taking(teacher.network, inputs):
            answer = teacher.predict(inputs, num_samples, generator)
        target, batch_labels = labeled(likelihood.target(*answer[:2], answer.noise).cpu(), batch_labels.cpu())
        targets.append(target)
        labels.append(batch_labels)
    if not targets:
        raise UserError("there are no examples to predict: the batches are empty")
    targets, labels = torch.cat(targets), torch.cat(labels)
    return targets, labels if likelihood == CATEGORICAL else likelihood.checked_labels(labels, teacher.num_classes)


@torch.no_grad()
def entropies_of_all(
    teacher: Teacher, batches: Iterable[Mapping | tuple], num_samples: int = 10, seed: int = 0
) -> EntropyParts:
    """Split the entropies [N] of a teacher's predictions of some batches, with or without labels, on the CPU.

    Raises:
        UserError: there are no batches, or the teacher predicts something else than one of C classes an example.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for batch in batches:
        inputs = split(batch)[0] if isinstance(batch, tuple) or "labels" in batch else batch
        with taking(teacher.network, inputs):
            parts.append(EntropyParts(*(each.cpu() for each in teacher.uncertainty(inputs, num_samples, generator))))
    if not parts:
        raise UserError("there are no examples to predict: the batches are empty")
    return EntropyParts(*map(torch.cat, zip(*parts, strict=True)))


def batches_of(
    examples: Any,
    network: nn.Module,
    processing_class: Any = None,
    preprocessor_for: Callable[[Any, Any], Any] | None = None,
    problem_type: str | Likelihood | None = None,
) -> Iterable[Mapping | tuple]:
    """Return batches as they are, and the batches of a ``datasets.Dataset`` with labels.

    Args:
        examples: either.
        network: reads them.
        processing_class: by which it does.
        preprocessor_for: makes the preprocessor of a dataset, if that is not the network's alone.
        problem_type: what the network's outputs mean, if it doesn't say it.

    Raises:
        UserError: a dataset that the network can't read, without labels, or of other classes.
    """
    check_one_label_each(network)
    if not hasattr(examples, "features"):
        return examples
    from ..data.batches import DatasetBatches
    from ..data.preprocessors import preprocessor_for as of_network

    preprocessor = (preprocessor_for or partial(of_network, network))(examples, processing_class)
    return DatasetBatches(examples, network, preprocessor, problem_type=problem_type)


@torch.no_grad()
def likelihood_by(network: nn.Module, batches: Iterable[Mapping | tuple], problem_type: str | None) -> Likelihood:
    """Return the likelihood of a network's outputs beside the labels of the first batch.

    Raises:
        UserError: no batch, or labels that don't fit.
    """
    if predicts_next_tokens(network):
        return likelihood_of(network, problem_type)
    for batch in batches:
        inputs, labels = split(batch)
        with evaluation_mode(network), taking(network, inputs):
            outputs = logits_of(call_network(network, to_network(inputs, network)))
        outputs, labels = labeled(outputs.cpu(), labels.cpu())
        if not len(labels):
            continue
        likelihood = likelihood_of(network, problem_type, problem_type_of_labels(labels, outputs))
        return likelihood.matching(labels, outputs.shape[-1])[0]
    raise UserError("there are no examples to fit a teacher on: the batches are empty")


def used_processor(batches: Any, processing_class: Any) -> Any:
    """Return the ``processing_class`` that batches of :func:`batches_of` were made with: given, or found."""
    preprocessor = getattr(batches, "preprocessor", None)
    return getattr(preprocessor, "processor", None) if processing_class is None else processing_class
