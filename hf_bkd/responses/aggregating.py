"""k answers to a prompt become the completions that a student is taught (arXiv 2601.18909)."""

from collections.abc import Sequence
from typing import Any

import datasets
import torch
from torch import Tensor, nn

from ..theory import inverse_variance_combine
from ..utils.checks import check_choice
from ..utils.errors import UserError
from .completions import check_has_prompt, completions
from .embedding import EmbeddingEstimates, Encoder, chosen_numbers, embedding_estimates
from .labels import with_labels
from .prompts import PROMPT
from .record import RESPONSES, read_responses_record

METHODS = ("single", "all", "mean", "inverse_variance", "oracle")
VARIANCES = {"inverse_variance": ("variance", "student_variance")}
SAME = 1e-6  # cosines that differ by less are equal, as those of two answers to their mean always are


def aggregate_responses(
    dataset: datasets.Dataset,
    method: str = "mean",
    encoder: Encoder | None = None,
    *,
    student: datasets.Dataset | None = None,
    oracle: datasets.Dataset | None = None,
    variance: float | None = None,
    student_variance: float | None = None,
    responses: Sequence[int] | None = None,
) -> datasets.Dataset:
    """Turn k sampled answers to each prompt into rows of prompt and completion.

    Args:
        dataset: of :func:`~hf_bkd.generate_responses`.
        method: which answers are taught.

            - ``"single"``: the first of them, one sample of the teacher;
            - ``"all"``: each, as a row of its own;
            - ``"mean"``: the one whose embedding is nearest, in cosine, to the mean of all, the first of several that
              are (as of k = 2);
            - ``"inverse_variance"``: the one nearest to the mean of the teacher's and of a student's means, weighted
              by the inverses of *their* variances (ddof 1, divided by k), averaged over the dimensions;
            - ``"oracle"``: nearest to what the paper's released code combines, for comparison only: the mean of the
              answers with the teacher's *own* mean, as far as ``oracle`` tells it, weighted by the variance of one
              answer (ddof 0) and the true one. Nobody has that mean in practice.
        encoder: texts -> embeddings [n, D], for all but ``"single"`` and ``"all"``; see
            :func:`~hf_bkd.sentence_encoder`.
        student: for ``"inverse_variance"``: the same prompts, answered by a student. Its estimate must be independent
            of these answers: take *another* student than the one to be trained, which learned from other answers.
        oracle: for ``"oracle"``: the same prompts with many other answers of the same teacher.
        variance: of one answer of the teacher, averaged over the embeddings' dimensions, if it is known; with k = 1 it
            has to be.
        student_variance: likewise of the student.
        responses: numbers of the answers that count, 0 .. k - 1, such as a student's own share of many; all if not
            given.

    Returns:
        A dataset with ``prompt``, ``completion``, a text or the assistant's message, and ``response``, the number of
        the answer: N rows, or N k. :func:`~hf_bkd.tokenized` and the trainer take it. Where answers have labels
        (``token_labels`` of :func:`~hf_bkd.generate_responses`) also ``input_ids``, ``labels`` and the columns of
        soft labels, which the trainer takes as they are.

    Raises:
        UserError: no answers, an unknown method, arguments that the method lacks or doesn't take, other prompts, an
            unknown variance, or embeddings that can't be read.
    """
    check_choice(METHODS, method=method)
    numbers = chosen_numbers(dataset, responses)
    _check_arguments(
        method, encoder=encoder, student=student, oracle=oracle, variance=variance, student_variance=student_variance
    )
    if method == "single":
        return _rows(dataset, range(len(dataset)), numbers[:1] * len(dataset))
    if method == "all":
        rows = [row for row in range(len(dataset)) for _ in numbers]
        return _rows(dataset, rows, numbers * len(dataset))
    own = embedding_estimates(dataset, encoder, variance, numbers)
    if method == "mean":
        combined = own.mean
    elif method == "inverse_variance":
        _check_same_prompts(dataset, student, "student")
        _check_known(own, "the teacher", "variance")
        other = embedding_estimates(student, encoder, student_variance)
        _check_known(other, "the student", "student_variance")
        combined = combined_means(own.mean, own.variance, other.mean, other.variance)
    else:
        _check_same_prompts(dataset, oracle, "oracle")
        combined = _oracle(own, embedding_estimates(oracle, encoder))
    cosines = nn.functional.cosine_similarity(own.embeddings, combined[:, None], dim=-1)
    nearest = (cosines >= cosines.amax(dim=1, keepdim=True) - SAME).int().argmax(dim=1)
    return _rows(dataset, range(len(dataset)), [numbers[place] for place in nearest.tolist()])


def combined_means(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """Combine two independent estimates of embeddings [N, D] by the inverses of their variances [N].

    One of variance 0, of answers that are all the same, counts alone; two of them count equally.
    """
    least = torch.finfo(torch.float64).tiny
    variances = [each.double().clamp_min(least)[:, None] for each in (variance, other_variance)]
    return inverse_variance_combine([mean, other_mean], variances).mean


def _oracle(own: EmbeddingEstimates, teacher: EmbeddingEstimates) -> Tensor:
    """Combine as the paper's released code does in its regressions, with variances averaged over the dimensions."""
    if teacher.embeddings.shape[1] < 2:
        raise UserError("oracle must tell the variance of an answer, and it holds k = 1: sample many answers")
    true = teacher.embeddings.var(dim=1).mean(dim=-1)
    of_one = own.embeddings.var(dim=1, correction=0).mean(dim=-1)
    return combined_means(own.mean, of_one, teacher.mean, true)


def _check_arguments(method: str, **given: Any) -> None:
    """Refuse what a method lacks or has no use for; an encoder may be passed to all."""
    needed = {"mean": ("encoder",), "inverse_variance": ("encoder", "student"), "oracle": ("encoder", "oracle")}
    taken = ("encoder", *needed.get(method, ()), *VARIANCES.get(method, ()))
    for name, value in given.items():
        if value is None and name in needed.get(method, ()):
            answers = "generate_responses(dataset, ...) of the same prompts"
            made = "hf_bkd.sentence_encoder(model, tokenizer)" if name == "encoder" else answers
            raise UserError(f"method={method!r} needs {name}: pass {made}")
        if value is not None and name not in taken:
            raise UserError(f"method={method!r} doesn't take {name}: omit it")


def _check_known(estimates: EmbeddingEstimates, whose: str, argument: str) -> None:
    if estimates.variance is None and estimates.embeddings.shape[1] > 1:
        raise UserError(
            f"the answers of {whose} all come from one of several draws of its weights, and don't tell how much these "
            "differ: pass responses= with answers of different draws"
        )
    if estimates.variance is None:
        raise UserError(
            f"the variance of {whose}'s estimate is unknown with k = 1: sample at least 2 answers to each prompt, or "
            f"pass {argument}=, the variance of one answer's embedding"
        )


def _check_same_prompts(dataset: datasets.Dataset, other: datasets.Dataset, name: str) -> None:
    """Refuse answers to other prompts, or the same answers."""
    own, theirs = read_responses_record(dataset), read_responses_record(other)
    for each in (dataset, other):
        check_has_prompt(each)
    if len(other) != len(dataset) or other.with_format(None)[PROMPT][:] != dataset.with_format(None)[PROMPT][:]:
        raise UserError(
            f"{name} answers other prompts than the dataset: sample it with the same rows in the same order"
        )
    if name == "oracle" and own.teacher.weights != theirs.teacher.weights:
        raise UserError("oracle holds answers of other weights than the dataset: sample many of the same teacher")
    if (own.teacher.weights, own.seed) == (theirs.teacher.weights, theirs.seed):
        raise UserError(
            f"{name} holds answers of the same weights by the same seed as the dataset, which are not independent of "
            "it: sample it with another seed, or by another model"
        )


def _rows(dataset: datasets.Dataset, rows: Sequence[int], numbers: Sequence[int]) -> datasets.Dataset:
    """Make rows of a prompt and the answer of some number to it, with that one's labels if there are some."""
    answers = dataset.with_format(None)[RESPONSES][:]
    texts = [answers[row][number] for row, number in zip(rows, numbers, strict=True)]
    return with_labels(completions(dataset, rows, texts, numbers), dataset, rows, numbers)
