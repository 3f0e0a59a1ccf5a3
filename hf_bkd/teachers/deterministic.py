"""The deterministic teacher: one network with a temperature, the baseline of every Bayesian teacher."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..likelihoods import Likelihood, best_temperature
from ..models.calling import Inputs, call_network, logits_of
from ..models.heads import head_data
from ..models.token_networks import predicts_next_tokens
from .base import Teacher
from .examples import batches_of, used_processor
from .next_tokens import TokenBatches, token_temperature
from .specification import FitContext, TeacherSpec, option


class DeterministicTeacher(Teacher):
    """One network's softmax(z / T), or what else its likelihood makes of z: a single draw, without variance."""

    method = "deterministic"

    @classmethod
    def fit(
        cls,
        network: nn.Module,
        validation: Any,
        *,
        processing_class: Any = None,
        problem_type: str | Likelihood | None = None,
    ) -> Self:
        """Choose the temperature by negative log-likelihood on held-out examples (Guo et al. 2017).

        A regression has none. What is chosen is the variance of each of its numbers around the network's, the mean
        squared error, unless the network predicts it or ``problem_type`` says it.

        Args:
            network: the trained network.
            validation: a ``datasets.Dataset`` with a label column, or of a causal language model with rows of tokens,
                see :func:`hf_bkd.tokenized`; or batches: dicts with ``labels``, or pairs.
            processing_class: the tokenizer, image processor, feature extractor or transform by which the network
                reads a dataset, if it isn't beside its weights or timm's data configuration.
            problem_type: what its outputs mean, if it doesn't say it, see
                :func:`~hf_bkd.models.problem_types.likelihood_of`.

        Raises:
            UserError: no examples, labels that don't fit the network, or no linear head; a dataset that the network
                can't read; a regression without any error.
        """
        if predicts_next_tokens(network):
            return cls._fit_next_tokens(network, validation, processing_class, problem_type)
        validation = batches_of(validation, network, processing_class, problem_type=problem_type)
        data = head_data(network, validation, problem_type)
        likelihood = data.likelihood.observing(data.logits, data.labels)
        temperature = best_temperature(data.logits, data.labels, likelihood) if likelihood.has_temperature else 1.0
        teacher = cls(network, temperature=temperature, likelihood=likelihood)
        teacher.processing_class = used_processor(validation, processing_class)
        if likelihood.has_temperature:
            teacher.record["temperature chosen by"] = "validation NLL"
        elif likelihood != data.likelihood:
            teacher.record["observation variance chosen by"] = "validation error"
        prediction = likelihood.prediction(likelihood.tempered(data.logits, temperature))
        teacher.record["validation"] = likelihood.measures(prediction, data.labels)
        return teacher

    @classmethod
    def _fit_next_tokens(
        cls, network: nn.Module, validation: Any, processing_class: Any, problem_type: str | Likelihood | None
    ) -> Self:
        batches = validation
        if hasattr(validation, "features"):
            batches = TokenBatches.of(network, validation, processing_class)
        teacher = cls(network, token_temperature(network, batches), likelihood=problem_type)
        teacher.processing_class = processing_class
        teacher.record["temperature chosen by"] = "validation NLL"
        return teacher

    def num_draws(self, num_samples: int) -> int:
        return 1

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        self.network.eval()
        return logits_of(call_network(self.network, inputs))[None]


def with_noise(likelihood: Likelihood, network: nn.Module, batches: Any) -> Likelihood:
    """Return a likelihood that knows, by held-out batches, a regression's variance around a network's numbers."""
    if not likelihood.target_has_variance or likelihood.knows_variance:
        return likelihood
    return DeterministicTeacher.fit(network, batches, problem_type=likelihood).likelihood


@dataclass(frozen=True)
class Deterministic(TeacherSpec):
    """A trained network as it is; of a regression with its noise, as validation examples tell it.

    Args:
        scaled: set its temperature by validation NLL (Guo et al. 2017).
    """

    kind = method = "deterministic"
    kept = False

    scaled: bool = option(False, command_line=True)

    def fit(self, context: FitContext) -> Teacher:
        teacher = context.trained()
        if not self.scaled:
            teacher.likelihood = with_noise(teacher.likelihood, teacher.network, context.validation_batches())
            return teacher
        batches, said = context.validation_batches(), teacher.likelihood
        return DeterministicTeacher.fit(teacher.network, batches, problem_type=context.problem_type or said)

    @property
    def sets_temperature(self) -> bool:
        return self.scaled
