"""The posterior of a trained student, sampled with the labels that it was taught, and its uncertainty, measured."""

import warnings
from typing import Any

import torch
from torch import nn

from ..losses import temperature_factor
from ..models.calling import split
from ..teachers import DeterministicTeacher, LangevinTeacher, predict_all
from ..teachers.langevin_chains import ChainSettings
from ..training.arguments import DistillationTrainingArguments
from ..training.batched_dataset import BatchedDataset
from ..training.supervision import StoredLabels
from ..uncertainty import uncertainty_report
from ..utils.errors import UserError
from .arms import Study
from .cell import Cell

SCREENING = {"steps": 600, "burn_in": 300, "thinning": 5, "rungs": 1}  # of each prior precision, before the choice
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
CHAIN_FACTS = ("prior precision", "rhat max", "ess min", "mixed", "apart", "rungs", "width", "acceptance", "moved")


def check_lambdas(study: Study, args: DistillationTrainingArguments) -> None:
    """Raise a UserError if a study samples the posterior of a student whose labels have no positive weight of one."""
    for arm in study.arms if study.posterior is not None else ():
        kd_lambda = args.kd_lambda if arm.kd_lambda is None else arm.kd_lambda
        if arm.teacher is not None and (kd_lambda > 1 or arm.lambda_schedule != "fixed"):
            raise UserError(
                f"arm {arm.name!r} has a lambda above 1 or by example, and a posterior counts each label alike: give "
                "it a fixed one of at most 1"
            )


def sampled_posterior(
    cell: Cell, network: nn.Module, train: BatchedDataset, args: DistillationTrainingArguments
) -> LangevinTeacher:
    """Sample the posterior that a student was trained to the mode of, by Langevin dynamics.

    A label counts as one example.

    Args:
        cell: of its study, which says how to sample. Of several prior precisions the one is taken whose posterior mean
            has the best NLL on the validation split, by chains of at most 600 steps.
        network: the student.
        train: what it was trained on, with its soft labels.
        args: how it was trained; a loss of (1 - lambda) and lambda is taken times 1 / (1 - lambda).

    Raises:
        UserError: soft labels of augmented views, or the sampler's own.
    """
    options = {"seed": cell.seed, "prior_precision": (1.0,), **cell.study.posterior}
    if args.kd_lambda > 0:
        if any(each.num_views > 1 for each in train.labels.values()):
            raise UserError("a posterior needs soft labels of the examples as they are: set views to 0")
        source = StoredLabels(train, args, None)
        labels = train.label_columns(torch.arange(len(train), device=train.device))
        share = args.kd_lambda * temperature_factor(
            args.temperature_scale, source.temperature, args.student_temperature
        )
        options |= _weights(1 - args.kd_lambda, share) | {"student_temperature": args.student_temperature}
        if args.combine == "mixture":
            options["targets"], options["target_weights"] = source.teachers(labels)
            options["prior_strength"] = args.prior_strength
        else:
            options["targets"] = source.target(labels)
    elif args.label_smoothing_factor:
        uniform = torch.ones(len(train), len(cell.classes)) / len(cell.classes)
        options |= _weights(1 - args.label_smoothing_factor, args.label_smoothing_factor) | {"targets": uniform}
    precisions = options.pop("prior_precision")
    screening = SCREENING if options.get("steps", ChainSettings.steps) > SCREENING["steps"] else {}

    def sample(precision: float, **lengths: int) -> LangevinTeacher:
        chosen = options | {"prior_precision": precision} | lengths
        return LangevinTeacher.fit(network, train.batches(), cell.validation.batches(), **chosen)

    def nll(precision: float) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # short chains needn't meet
            return sample(precision, **screening).record["validation"]["nll"]

    return sample(precisions[0] if len(precisions) == 1 else min(precisions, key=nll))


def _weights(labels: float, teacher: float) -> dict[str, float]:
    """Weights of the energy's terms, such that a label counts once where labels count at all."""
    return {"label_weight": float(labels > 0), "teacher_weight": teacher / labels if labels else teacher}


def measured_uncertainty(cell: Cell, posterior: LangevinTeacher) -> dict[str, Any]:
    """Report the uncertainty on the test split and on out-of-distribution examples, and whether the chains mixed."""
    samples, ood = _draws(cell, posterior, cell.test), None
    if cell.splits.every_ood is not None:
        ood = _draws(cell, posterior, cell.batched(cell.splits.every_ood))
    student, _ = predict_all(DeterministicTeacher(posterior.network), cell.test.batches())
    report = uncertainty_report(samples, cell.test.values["labels"].cpu(), student, ood, LEVELS)
    return report | {"chains": {name: posterior.record[name] for name in CHAIN_FACTS if name in posterior.record}}


def _draws(cell: Cell, posterior: LangevinTeacher, dataset: BatchedDataset) -> torch.Tensor:
    """[S, N, C], each draw the same weights for all examples."""
    draws = []
    for batch in dataset.batches():
        generator = torch.Generator().manual_seed(cell.seed)
        prediction = posterior.predict(split(batch)[0], cell.options.num_samples, generator, return_samples=True)
        draws.append(prediction.samples)
    return torch.cat(draws, dim=1).cpu()
