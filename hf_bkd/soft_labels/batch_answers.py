"""What a teacher says of a batch, checked, and brought to what is stored of it."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from accelerate.utils import find_executable_batch_size, gather_object
from torch import Tensor

from ..data.columns import LOG_PROBS, NOISE, VARIANCE
from ..data.rows import reason
from ..dirichlet import mean_log_probs
from ..models.calling import check_network
from ..models.token_networks import check_next_tokens
from ..utils.errors import UserError
from ..utils.random import ExampleGenerator
from .examples import Batch, Examples
from .input_digests import same_inputs
from .kinds import check_class_count, check_label_kind, class_order, is_language_model, kind_of
from .next_tokens import answer_of_next_tokens, beginning
from .options import LabelingTeacher, LabelOptions
from .record_parts import NEXT_TOKENS


def device_of(teacher: Any) -> torch.device:
    """Where a teacher's network is; the CPU if it doesn't say."""
    return torch.device(getattr(teacher, "device", "cpu"))


def fitting_batch_size(examples: Examples, teacher: LabelingTeacher, options: LabelOptions) -> int:
    """The batch size, halved until one fits on the GPU; the same in all processes."""
    device = device_of(teacher)
    if device.type != "cuda" or options.positions == NEXT_TOKENS:  # of which few tokens are asked about at a time
        return options.batch_size
    first = next((read() for _, read in examples.pieces(options.batch_size)), None)
    if first is None:
        return options.batch_size

    @find_executable_batch_size(starting_batch_size=min(options.batch_size, len(first)))
    def largest(size: int) -> int:
        predicted(teacher, next(examples.batches(first, 0, size, device)), examples.num_views, options)
        return size

    return min([options.batch_size, *gather_object([largest()])])


def check_answers(examples: Examples, teacher: LabelingTeacher, options: LabelOptions) -> None:
    """Ask a network's teacher about the first two examples: what doesn't fit comes up before anything is labeled.

    Raises:
        UserError: a teacher of other classes, rows that can't be read or answered, inputs that differ each time, or a
            network that returns probabilities or draws random numbers in evaluation mode.
    """
    check_teacher(examples, teacher)
    if not hasattr(teacher, "preprocessor_for"):
        return
    size = min(2, options.batch_size)  # some rows can be read one at a time alone
    piece = next((read() for _, read in examples.pieces(size)), None)
    if piece is None:
        return
    batch, again = (next(examples.batches(piece, 0, size, device_of(teacher))) for _ in range(2))
    if is_language_model(teacher):
        batch, again = beginning(batch), beginning(again)
    answer = asked(teacher, batch, 1, options)
    check_label_kind(examples.dataset.features, teacher, "lengths" in answer)
    inputs = batch.inputs(0)
    if not same_inputs(inputs, again.inputs(0)):
        raise UserError(
            "the preprocessor makes other inputs of the same rows each time, so that nobody could see again what was "
            "labeled: pass the one of evaluation, and augmentations as views="
        )
    if is_language_model(teacher):
        check_next_tokens(teacher.network, inputs)
    else:
        check_network(teacher.network, inputs, kind_of(teacher)[0])


def asked(teacher: LabelingTeacher, batch: Batch, num_views: int, options: LabelOptions) -> dict[str, np.ndarray]:
    """:func:`predicted`, with a UserError that names the rows that the teacher can't take."""
    try:
        return predicted(teacher, batch, num_views, options)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(
            f"the teacher can't answer rows {batch.numbers[0]} to {batch.numbers[-1]} ({reason(error)}): compare what "
            "the preprocessor makes of them with the inputs that its network takes"
        ) from error


def predicted(teacher: LabelingTeacher, batch: Batch, num_views: int, options: LabelOptions) -> dict[str, np.ndarray]:
    """A teacher's answers about a batch as they are to be stored.

    Returns:
        ``values`` and, by the kinds of their columns, what stands beside them, [B, V, C]; of a network that answers
        for each token [T, 1, C], of the T tokens that aren't masked, and their number ``lengths`` [B] in each row; of
        a language model what :func:`~hf_bkd.soft_labels.next_tokens.answer_of_next_tokens` returns; ``ids`` and
        ``numbers`` [B].
    """
    if options.positions == NEXT_TOKENS:
        answer = answer_of_next_tokens(teacher, batch, options, device_of(teacher))
        return answer | {"ids": batch.ids, "numbers": batch.numbers}
    views = [_answer(teacher, batch, view, options) for view in range(num_views)]
    ids = {"ids": batch.ids, "numbers": batch.numbers}
    lengths = views[0].pop("lengths", None)
    if lengths is not None and num_views > 1:
        raise UserError("views are looks of an image, and the teacher answers for each token: label without views")
    stacked = {name: np.stack([view[name] for view in views], axis=1) for name in views[0]}
    return stacked | ids | ({} if lengths is None else {"lengths": lengths})


def _answer(teacher: LabelingTeacher, batch: Batch, view: int, options: LabelOptions) -> dict[str, np.ndarray]:
    """The answers in one view: arrays [B, C], or [T, C] and ``lengths`` [B]."""
    inputs = batch.inputs(view)
    generator = ExampleGenerator(torch.from_numpy(batch.keys.copy()), options.draw_seed, view)
    with options.autocast(device_of(teacher)):
        asked_for = _samples_from(teacher) if options.mean_log_probs else {}
        prediction = teacher.predict(inputs, options.num_samples, generator, **asked_for)
    mask = _check_shape(teacher, prediction.mean, inputs, len(batch.ids), options)
    order = slice(None) if options.class_order is None else options.class_order

    def stored(values: Tensor, summed: bool = False) -> np.ndarray:
        values = (values if mask is None else values[mask.to(values.device)])[..., order].float()
        return (values.sum(dim=-1, keepdim=True) if summed else values).cpu().numpy()

    answer = {"values": stored(prediction.mean)}
    if prediction.variance is not None and options.variance != "none":
        answer[VARIANCE] = stored(prediction.variance, options.variance == "sum")
    if getattr(prediction, "noise", None) is not None:
        answer[NOISE] = stored(prediction.noise)
    if options.mean_log_probs:
        answer[LOG_PROBS] = stored(log_probs_of(teacher, prediction, "mean_log_probs=True"))
    return answer if mask is None else answer | {"lengths": mask.sum(dim=1).cpu().numpy()}


def _samples_from(teacher: LabelingTeacher) -> dict[str, bool]:
    """Return the argument by which a teacher hands out its draws; UserError if its ``predict`` knows none."""
    taken = inspect.signature(teacher.predict).parameters
    if "return_samples" not in taken and not any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        raise UserError(
            f"mean_log_probs=True needs the draws, and the predict of {type(teacher).__name__} has no argument "
            "return_samples that hands them out: add it, or omit mean_log_probs to keep their variance"
        )
    return {"return_samples": True}


def log_probs_of(teacher: LabelingTeacher, prediction: Any, needed_for: str) -> Tensor:
    """Return the mean logarithms [..., C] of a teacher's draws, which come with its answer.

    Raises:
        UserError: a single draw, or an answer at another temperature than its draws; the argument ``needed_for``
            asked for it.
    """
    samples = getattr(prediction, "samples", None)
    if prediction.variance is None or samples is None or len(samples) < 2:
        raise UserError(
            f"{needed_for} averages over a teacher's draws, and it answers with a single distribution: take one "
            "that draws (LaplaceTeacher with link='mc', VariationalTeacher, an ensemble) and num_samples of at least 2"
        )
    temperature = getattr(teacher, "temperature", 1.0)
    if temperature != 1 and getattr(teacher, "tempering", None) == "post_average":
        raise UserError(
            f"{needed_for} is of draws, and the teacher tempers their average (temperature {temperature:g}): "
            "set its tempering to 'per_sample', or its temperature to 1"
        )
    return mean_log_probs(samples, getattr(prediction, "weights", None))


def _check_shape(
    teacher: LabelingTeacher, mean: Tensor, inputs: Any, count: int, options: LabelOptions
) -> Tensor | None:
    """Return which tokens of the inputs have an answer, bool [B, L]; ``None`` if examples have one.

    Raises:
        UserError: answers of another number of examples, tokens or classes than there are.
    """
    called, expected = options.likelihood.called, [count, teacher.num_classes]
    if mean.ndim == 3:
        mask = _token_mask(inputs, count, mean.shape[1])
        expected = [*mask.shape, teacher.num_classes]
    if list(mean.shape) != expected:
        tokens = f" of {expected[1]} tokens" if mean.ndim == 3 else ""
        raise UserError(
            f"the teacher answered with {'probabilities' if options.likelihood.smallest else 'means'} "
            f"{list(mean.shape)}, and for {expected[0]} examples{tokens} of {expected[-1]} {called} they would be "
            f"{expected}: its num_classes or its predict is wrong"
        )
    return mask if mean.ndim == 3 else None


def _token_mask(inputs: Any, count: int, length: int) -> Tensor:
    """Return which tokens of the inputs aren't masked, bool [B, L]; all where nothing masks them."""
    named = inputs if isinstance(inputs, Mapping) else {}
    if "attention_mask" in named:
        return named["attention_mask"].bool()
    shape = named["input_ids"].shape[:2] if "input_ids" in named else (count, length)
    return torch.ones(shape, dtype=torch.bool)


def check_teacher(examples: Examples, teacher: LabelingTeacher) -> list[int] | None:
    """Return the places among a teacher's classes of the dataset's, where these are in another order."""
    features = examples.dataset.features
    check_label_kind(features, teacher)
    check_class_count("the teacher", teacher.num_classes, features, *kind_of(teacher))
    return class_order(teacher, features)
