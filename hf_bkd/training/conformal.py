"""Conformal sets of a trained student, calibrated on examples that it has not seen."""

from typing import Any

import datasets
import torch
from torch import Tensor

from ..conformal import conformal_sets
from ..data.labels import in_words
from ..likelihoods import CATEGORICAL
from ..soft_labels.identity import check_unseen, check_unseen_ids
from ..utils.errors import UserError
from .trainer import DistillationTrainer

CALIBRATING, TRAINING = "what calibrates the sets", "of the training set"


def sets_of_student(
    trainer: DistillationTrainer,
    calibration: Any,
    examples: Any,
    level: float = 0.9,
    method: str = "lac",
    seed: int = 0,
) -> Tensor:
    """Return which classes [N, C] are in the conformal sets of a student's predictions.

    Args:
        trainer: of the student.
        calibration: labeled examples, as ``eval_dataset`` has them, that the student was not trained on.
        examples: N others.
        level, method, seed: see :func:`~hf_bkd.conformal.conformal_sets`.

    Raises:
        UserError: a student of something else than one class for each example; examples that calibrate and were
            trained on, as far as their content or ids tell; or what `conformal_sets` refuses.
    """
    problem = trainer.problem
    if problem.per_token or problem.likelihood != CATEGORICAL:
        predicts = in_words(problem.likelihood.problem_type, problem.per_token)
        raise UserError(f"conformal sets are of classes of an example, and the student predicts {predicts}")
    _check_unseen(calibration, trainer.train_dataset)
    own, others = (trainer.predict(each) for each in (calibration, examples))
    probs, new = (torch.as_tensor(each.predictions).double().softmax(dim=-1) for each in (own, others))
    labels = torch.as_tensor(own.label_ids)
    known = CATEGORICAL.labeled(labels)
    return conformal_sets(probs[known], labels[known], new, level, method, seed)


def _check_unseen(calibration: Any, trained: Any) -> None:
    """Raise a UserError if examples that calibrate are known to be among those of a training set."""
    if calibration is trained:
        raise UserError(f"{CALIBRATING} is the training set itself: pass examples that the student has not seen")
    if isinstance(calibration, datasets.Dataset) and isinstance(trained, datasets.Dataset):
        check_unseen(calibration, trained, CALIBRATING, TRAINING)
    ids = [getattr(each, "example_ids", None) for each in (calibration, trained)]
    if all(each is not None for each in ids):
        check_unseen_ids(*ids, CALIBRATING, TRAINING)
