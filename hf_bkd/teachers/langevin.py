"""The Langevin teacher: a trained student with samples of its weights' posterior (MT-BKD, arXiv 2605.27967)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..likelihoods import CATEGORICAL, Likelihood
from ..metrics import classification_metrics
from ..models.calling import Inputs, call_arguments, evaluation_mode, logits_of, split, to_network
from ..models.heads import classification_head, head_data, head_features, head_parameters
from ..models.problem_types import likelihood_of
from ..utils.checks import (
    SUM_TOLERANCE,
    check_choice,
    check_not_negative,
    check_positive,
    check_probabilities,
    check_shape,
)
from ..utils.errors import UserError
from .base import Teacher
from .examples import batches_of, predict_all, used_processor
from .langevin_chains import ChainSettings, sample_weights
from .langevin_energy import CrossEntropy, HeadEnergy, MixturePrior, NetworkEnergy, Term, WholeData, loss_terms

PARAMETERS = ("head", "all")
VALIDATION_DRAWS = 100


class LangevinTeacher(Teacher):
    """A network with M stored samples of its weights.

    A prediction draws S of the M samples, each once before any comes twice, and the same for all examples of a batch.
    If only the last layer's weights were sampled, all draws together cost one pass through the backbone.

    Args:
        network: the student that the chains started from, with the weights that were not sampled.
        weights: name -> samples [M, *shape] of that parameter of the network.

    Raises:
        UserError: no samples, or some that don't fit the network, differ in number or are not finite.
    """

    method = "langevin"

    def __init__(
        self,
        network: nn.Module,
        weights: Mapping[str, Tensor],
        temperature: float = 1.0,
        tempering: str = "per_sample",
        likelihood: Likelihood | str | None = None,
    ):
        super().__init__(network, temperature, tempering, likelihood)
        parameters = dict(network.named_parameters())
        for name, value in weights.items():
            if name not in parameters or value.shape[1:] != parameters[name].shape:
                raise UserError(f"the samples' {name} of shape {list(value.shape)} is not of this network")
            if not value.isfinite().all():
                raise UserError(f"the samples must be finite, and some of {name} are not")
        counts = {len(value) for value in weights.values()}
        if len(counts) != 1 or 0 in counts:
            raise UserError(f"there must be as many samples of each parameter, at least 1; there are {sorted(counts)}")
        self.weights = {  # in the network's order, however they were stored
            n: weights[n].detach().to(p, copy=True).contiguous() for n, p in parameters.items() if n in weights
        }

    @classmethod
    def fit(
        cls,
        network: nn.Module,
        train: Any,
        validation: Any = None,
        *,
        processing_class: Any = None,
        targets: Tensor | None = None,
        target_weights: Tensor | None = None,
        prior_strength: float = 5.0,
        label_weight: float = 1.0,
        teacher_weight: float = 1.0,
        student_temperature: float = 1.0,
        prior_precision: float = 1.0,
        parameters: str = "head",
        problem_type: str | Likelihood | None = None,
        **settings: Any,
    ) -> Self:
        """Sample the posterior exp(-U / T) of a trained student's weights.

            U(theta) = sum_i [a CE(y_i, softmax(z_i)) + b CE(p_i, softmax(z_i / T_s))] + delta / 2 * |theta|^2

        Of M teachers the second term is -b / s * log sum_m w_m Dir(softmax(z_i / T_s); 1 + s p_m), with the gradient
        of the trainer's ``combine="mixture"``.

        | student                  | a          | b              | s                  | delta                  |
        | ------------------------ | ---------- | -------------- | ------------------ | ---------------------- |
        | of `DistillationTrainer` | 1 - lambda | lambda * scale | ``prior_strength`` | N * SGD's weight decay |
        | of arXiv 2605.27967      | 1          | c * lambda     | lambda             | N * weight decay       |

        Where teachers disagree and s is large the posterior has several modes. Chains begin dispersed, each around the
        posterior of one of the teachers, and where they don't meet they climb over the barriers on a ladder of softer
        priors: see :func:`~hf_bkd.teachers.langevin_chains.sample_weights`.

        ``record`` then says whether the chains mixed: see :func:`hf_bkd.teachers.mcmc_diagnostics.summarize`.

        Args:
            network: the student, in evaluation mode meanwhile; its modules return to their own modes.
            train: the N *un-augmented* training examples: a ``datasets.Dataset`` with a label column, or batches
                (dicts with ``labels``, or pairs).
            validation: held-out examples, likewise, on which the posterior mean of 100 draws is measured.
            processing_class: the tokenizer, image processor, feature extractor or transform by which the network
                reads a dataset, if it isn't beside its weights or timm's data configuration.
            targets: p, the teacher's tempered probabilities [N, C] in the order of ``train``; or those of M
                teachers [N, M, C].
            target_weights: w, of the M teachers, [N, M] or [M], >= 0 and summing to one; equal if not given. The
                paper's are :func:`~hf_bkd.targets.entropy_weights`.
            prior_strength: s > 0, how many examples each of the M teachers counts as.
            label_weight: a >= 0.
            teacher_weight: b >= 0, without effect if there are no ``targets``; a and b must not both be 0.
            student_temperature: T_s > 0.
            prior_precision: delta > 0, of the sampled weights.
            parameters: ``"head"``: the last layer's, whose inputs are computed once; or ``"all"`` that require a
                gradient, where a step is one pass of all chains through the network.
            problem_type: what the network's outputs mean, if it doesn't say it: one class for each example.
            settings: the fields of :class:`~hf_bkd.teachers.langevin_chains.ChainSettings`, such as ``sampler``,
                ``chains``, ``steps``, ``rungs`` and ``seed``.

        Raises:
            UserError: an argument out of its range, no examples, labels or targets that don't fit the network, weights
                that don't fit the targets, no linear head, nothing to sample, or a chain that diverged.

        Warns:
            UserWarning: the chains ended in different places.
        """
        chains = ChainSettings(**settings)
        check_positive(
            prior_precision=prior_precision, prior_strength=prior_strength, student_temperature=student_temperature
        )
        check_not_negative(label_weight=label_weight, teacher_weight=teacher_weight)
        if not label_weight and (targets is None or not teacher_weight):
            raise UserError("label_weight is 0 and so is the teacher's: nothing would be learned from the data")
        check_choice(PARAMETERS, parameters=parameters)
        head_only = parameters == "head"
        train = batches_of(train, network, processing_class)
        validation = None if validation is None else batches_of(validation, network, processing_class)
        likelihood = likelihood_of(network, problem_type)
        if likelihood.independent:
            raise UserError(
                "the Langevin teacher is of classes of which one is right, and the problem type is "
                f"{likelihood.problem_type}: take a Laplace, dropout or ensemble teacher"
            )
        data = head_data(network, train, CATEGORICAL) if head_only else _whole_data(network, train)
        term = _teacher_term(data.logits, targets, target_weights, prior_strength, teacher_weight, student_temperature)
        terms = loss_terms(data, label_weight, term)
        energy = (HeadEnergy if head_only else NetworkEnergy)(network, data, terms, prior_precision)
        with evaluation_mode(network):
            samples, diagnostics = sample_weights(energy, chains)
        teacher = cls(network, energy.named(samples.flatten(0, 1)))
        teacher.processing_class = used_processor(train, processing_class)
        teacher.record = {"parameters": parameters, "examples": len(data.labels), "prior precision": prior_precision}
        teacher.record["label weight"] = label_weight
        if targets is not None:
            teacher.record |= {"teacher weight": teacher_weight, "student temperature": student_temperature}
        if isinstance(term, MixturePrior):
            teacher.record |= {"teachers": targets.shape[1], "prior strength": prior_strength}
        teacher.record |= {name.replace("_", " "): value for name, value in asdict(chains).items()} | diagnostics
        if validation is not None:
            probs, labels = predict_all(teacher, validation, VALIDATION_DRAWS)
            teacher.record["validation"] = classification_metrics(probs, labels)
        return teacher

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        self.network.eval()
        drawn = self._draw(num_samples, generator)
        head_name, head = classification_head(self.network)
        weight, bias = head_parameters(head_name)
        if weight in drawn and drawn.keys() <= {weight, bias}:
            features = head_features(self.network, inputs)[0].float()
            products = features @ drawn[weight].to(features).mT
            shift = drawn[bias][:, None] if bias in drawn else head.bias
            return products if shift is None else products + shift.to(features)
        args, kwargs = call_arguments(self.network, inputs)
        draws = [{name: value[i] for name, value in drawn.items()} for i in range(num_samples)]
        return torch.stack([logits_of(functional_call(self.network, draw, args, kwargs)) for draw in draws])

    def _draw(self, num_samples: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Draw S of the M samples, by name; M draws are all of them, in some order."""
        stored = len(next(iter(self.weights.values())))
        place = {} if generator is None else {"generator": generator, "device": generator.device}
        rounds = [torch.randperm(stored, **place) for _ in range(math.ceil(num_samples / stored))]
        chosen = torch.cat(rounds)[:num_samples]
        return {name: value[chosen.to(value.device)] for name, value in self.weights.items()}

    def to(self, device: torch.device | str) -> Self:
        self.weights = {name: value.to(device) for name, value in self.weights.items()}
        return super().to(device)

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {}, self.weights

    @classmethod
    def from_state(cls, network: nn.Module, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        return cls(network, tensors, **settings)


def _teacher_term(
    logits: Tensor,
    targets: Tensor | None,
    target_weights: Tensor | None,
    prior_strength: float,
    weight: float,
    temperature: float,
) -> Term | None:
    """Make the energy's term of one or several teachers' targets; UserError if these don't fit the logits [N, C]."""
    several = targets is not None and targets.ndim == 3 and targets.shape[1] > 0
    if target_weights is not None and not several:
        raise UserError("target_weights are those of several teachers: they need targets [N, M, C]")
    if targets is None:
        return None
    targets = targets.to(logits)
    teachers = targets.shape[1:2] if several else ()
    check_shape("targets", targets, len(logits), *teachers, logits.shape[1])
    check_probabilities(targets=targets)
    if not several:
        return CrossEntropy(targets, weight, temperature)
    if target_weights is None:
        target_weights = torch.full(teachers, 1 / teachers[0])
    target_weights = target_weights.to(logits)
    check_shape("target_weights", target_weights, *(teachers if target_weights.ndim == 1 else targets.shape[:2]))
    check_not_negative(target_weights=target_weights)
    sums = target_weights.sum(dim=-1).flatten()
    worst = sums[(sums - 1).abs().argmax()].item()
    if abs(worst - 1) > SUM_TOLERANCE:
        raise UserError(f"target_weights must sum to one over the teachers, and one row sums to {worst:g}")
    return MixturePrior(targets, target_weights.expand(targets.shape[:2]), prior_strength, weight, temperature)


def _whole_data(network: nn.Module, batches: Iterable[dict | tuple]) -> WholeData:
    """Join all batches into one; UserError if there are none, inputs' sizes differ, or labels don't fit."""
    pairs = [split(batch) for batch in batches]
    data = head_data(network, pairs, CATEGORICAL)
    parts = [to_network(inputs, network) for inputs, _ in pairs]
    try:
        if isinstance(parts[0], Tensor):
            inputs = torch.cat(parts)
        else:
            inputs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    except RuntimeError:
        raise UserError("parameters is 'all', and the inputs' sizes differ between batches: pad all alike") from None
    return WholeData(inputs, data.logits, data.labels)
