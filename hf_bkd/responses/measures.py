"""How uncertain, how different and how wrong students of a language model are, by their answers (arXiv 2601.18909).

R students answer each of N prompts k times; answers are texts, or embeddings [R, N, k, D] of them. Every mean has two
standard errors: over prompts, as if others had been asked, and over students, as if others had been trained.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..metrics import entropy
from ..utils.checks import check_not_negative, check_shape
from ..utils.errors import UserError

Texts = Sequence[Sequence[Sequence[str]]]  # k answers of each of R students to each of N prompts
WORD = re.compile(r"\w+(?:['’]\w+)*")
FUNCTION_WORDS = frozenset(
    """
    a an the this that these those it its they them their he him his she her we us our you your i me my of in on at
    by for from to with as and or but if then than so is are was were be been being am do does did has have had can
    could may might will would shall should must there here which who whom whose what when where why how also such
    """.split()  # noqa: SIM905, a list of 100 literals is no easier to read
)


class Measure(NamedTuple):
    """A mean over students and prompts, with its standard error over prompts and by the jackknife over students.

    ``over_students`` is ``None`` where there are too few students to leave one out.
    """

    value: float
    over_prompts: float
    over_students: float | None


class NoiseParts(NamedTuple):
    """The mean square distance of an answer to its target, per dimension: ``total``, the sum of the other three.

    systematic: of what all students say on average, which more students, answers or draws would not remove.
    inter_student: the variance over students of what one says on average. intra_student: the variance of one student's
    answers; ``None`` where its averages are known exactly, and then not part of ``total``.

    All are estimated without bias, so that the first two may come out below 0 where they are small.
    """

    systematic: Measure
    inter_student: Measure
    intra_student: Measure | None
    total: Measure


def answer_noise(
    answers: Tensor,
    target: Tensor,
    target_variance: float | Tensor = 0.0,
    clusters: Sequence[int] | Tensor | None = None,
) -> NoiseParts:
    """Split the students' mean square distance to a target into what is systematic, between them and within each.

    With m_r the mean of student r's answers, w the mean variance of a student's answers and V the variance over
    students of m_r, the parts are |mean_r m_r - target|^2 - V / R - target_variance, V - w / k, and w (one-way
    analysis of variance): the finite numbers of answers and of students bias none of them.

    Args:
        answers: embeddings [R, N, k, D], with R, k >= 2; or [R, N, D], what each student says on average where that is
            known exactly, such as its probabilities of D answers.
        target: [N, D]: the reference's embedding, or the mean of the teacher's answers or probabilities.
        target_variance: of that mean, >= 0, averaged over the dimensions, [N] or one number: the variance of one
            answer divided by their number; 0 for a reference.
        clusters: of prompts that belong together, such as several about one fact, [N]; each its own if not given.

    Raises:
        UserError: fewer than two students or answers, or numbers that are not finite.
    """
    answers, target = torch.as_tensor(answers), torch.as_tensor(target)
    if answers.ndim not in (3, 4):
        raise UserError(
            f"answers must have the shape [students, prompts, k, D], or without k, and it has {list(answers.shape)}"
        )
    students, prompts, dimensions = len(answers), answers.shape[1], answers.shape[-1]
    if students < 2 or prompts < 1:
        raise UserError(
            f"answers must be of at least 2 students and 1 prompt, and they are of {students} and {prompts}"
        )
    if answers.ndim == 4 and answers.shape[2] < 2:
        raise UserError(
            f"answers hold k = {answers.shape[2]} of each student, whose own variance is unknown: sample at least 2"
        )
    check_shape("target", target, prompts, dimensions)
    check_not_negative(target_variance=target_variance)
    for name, value in (("answers", answers), ("target", target)):
        if not value.isfinite().all():
            raise UserError(f"{name} must be finite, and they are not")
    answers, target = answers.double(), target.double()
    known = torch.as_tensor(target_variance, dtype=torch.float64).to(target.device).expand(prompts)
    if answers.ndim == 3:
        means, within, of_means = answers, None, answers.new_zeros(students, prompts)
    else:
        means, within = answers.mean(dim=2), answers.var(dim=2).mean(dim=-1)
        of_means = within / answers.shape[2]

    def parts(chosen: list[int]) -> Tensor:
        """Systematic, between and (of answers) within, of some of the students, [2 or 3, N]."""
        own = means[chosen]
        between = own.var(dim=0).mean(dim=-1)
        systematic = (own.mean(dim=0) - target).square().mean(dim=-1) - between / len(chosen) - known
        rows = [systematic, between - of_means[chosen].mean(dim=0)]
        return torch.stack(rows if within is None else [*rows, within[chosen].mean(dim=0)])

    def with_total(rows: Tensor) -> Tensor:
        return torch.cat([rows, rows.sum(dim=0, keepdim=True)])

    everyone = list(range(students))
    whole = with_total(parts(everyone))
    without = [with_total(parts(everyone[:r] + everyone[r + 1 :])) for r in everyone] if students > 2 else []
    made = [
        Measure(
            row.mean().item(), _over_clusters(row, clusters), _jackknife([rows[i].mean().item() for rows in without])
        )
        for i, row in enumerate(whole)
    ]
    return NoiseParts(made[0], made[1], made[2] if within is not None else None, made[-1])


def measured(values: Tensor, clusters: Sequence[int] | Tensor | None = None) -> Measure:
    """Average a number of each student and prompt [R, N], such as those that the functions below return.

    Args:
        values: [R, N].
        clusters: of prompts that belong together, [N]; each its own if not given.
    """
    values = torch.as_tensor(values)
    check_shape("values", values, None, None)
    if not values.numel() or not values.isfinite().all():
        raise UserError("values must be finite and of at least one student and prompt, and they are not")
    of_student = values.double().mean(dim=1)
    mean = of_student.mean().item()
    left_out = (
        [(of_student.sum() - one).item() / (len(of_student) - 1) for one in of_student] if len(values) > 1 else []
    )
    return Measure(mean, _over_clusters(values.double().mean(dim=0), clusters), _jackknife(left_out))


def _over_clusters(values: Tensor, clusters: Sequence[int] | Tensor | None) -> float:
    """Compute the standard error of the mean of values [N], which are independent between clusters alone."""
    numbers = torch.arange(len(values)) if clusters is None else torch.as_tensor(clusters)
    check_shape("clusters", numbers, len(values))
    places = numbers.unique(return_inverse=True)[1].to(values.device)
    count = int(places.max()) + 1
    if count < 2:
        return float("nan")
    sums = values.new_zeros(count).index_add(0, places, values - values.mean())
    return (count / (count - 1) * sums.square().sum()).sqrt().item() / len(values)


def _jackknife(left_out: Sequence[float]) -> float | None:
    """Compute the standard error from the values without each of the R students (Efron 1982)."""
    if not left_out:
        return None
    values = torch.tensor(left_out, dtype=torch.float64)
    return ((len(values) - 1) * values.var(correction=0)).sqrt().item()


def answer_entropy(answers: Texts) -> Tensor:
    """Estimate the entropy of each student's answers to each prompt [R, N], in nats, from k sampled texts.

    The entropy of the observed shares is too low by about (m - 1) / (2 k) where m different answers were seen, which
    is added (Miller 1955). A single text says nothing of it: k >= 2. Where a student's probabilities are known, take
    :func:`hf_bkd.metrics.entropy` of them.
    """

    def estimated(own: Sequence[str]) -> float:
        counts = torch.tensor(list(Counter(own).values()), dtype=torch.float64)
        return entropy(counts / len(own)).item() + (len(counts) - 1) / (2 * len(own))

    return _of_each(answers, lambda own, prompt: estimated(own), least=2)


def reference_similarity(answers: Tensor, references: Sequence[Tensor]) -> Tensor:
    """Average the cosine similarity of answers to the nearest of their prompt's references, [R, N], in -1 to 1.

    Args:
        answers: embeddings [R, N, k, D].
        references: for each of N prompts the embeddings [M, D] of its M >= 1 reference answers.
    """
    answers = torch.as_tensor(answers)
    check_shape("answers", answers, None, None, None, None)
    _check_references(references, answers.shape[1])
    made = []
    for number, own in enumerate(map(torch.as_tensor, references)):
        if not (own.isfinite().all() and answers[:, number].isfinite().all()):
            raise UserError(f"embeddings of prompt {number}, of its answers or references, are no finite numbers")
        check_shape(f"references[{number}]", own, None, answers.shape[-1])
        cosines = nn.functional.cosine_similarity(answers[:, number, :, None].double(), own.double(), dim=-1)
        made.append(cosines.amax(dim=-1).mean(dim=-1))
    return torch.stack(made, dim=1)


def unsupported_answers(answers: Texts, references: Sequence[Sequence[str]], prompts: Sequence[str]) -> Tensor:
    """Compute the share of answers that say something without support, [R, N]: hallucination by a stated rule.

    An answer is unsupported if a content word of it is in none of the prompt's references and not in the prompt.
    Content words are all words, in lower case, but articles, pronouns, prepositions, auxiliaries and the like
    (``FUNCTION_WORDS``); yes, no and not are content. Other forms of a word, and synonyms, count as unsupported, and
    a word that is supported may still be used to say something wrong: the rule compares students, it does not find
    truth.

    Args:
        answers: k texts of each of R students to each of N prompts; an empty one says nothing, and is supported.
        references: M >= 1 reference answers to each prompt.
        prompts: N texts.
    """
    return _unsupported(answers, references, prompts, lambda unknown, all_words: float(unknown > 0))


def unsupported_words(answers: Texts, references: Sequence[Sequence[str]], prompts: Sequence[str]) -> Tensor:
    """Compute the share of an answer's content words without support, [R, N]; see :func:`unsupported_answers`."""
    return _unsupported(answers, references, prompts, lambda unknown, all_words: unknown / max(1, all_words))


def content_words(text: str) -> list[str]:
    """Return a text's words in lower case, in their order, without function words."""
    return [word for word in WORD.findall(text.lower()) if word not in FUNCTION_WORDS]


def _unsupported(
    answers: Texts, references: Sequence[Sequence[str]], prompts: Sequence[str], score: Callable[[int, int], float]
) -> Tensor:
    """Average the score of the numbers of an answer's unsupported and of all its content words."""
    _check_references(references, len(prompts))
    for number, (prompt, own) in enumerate(zip(prompts, references, strict=True)):
        if not all(isinstance(text, str) for text in (prompt, *own)):
            raise UserError(f"prompt {number} and its references must be texts, and they are {(prompt, *own)!r:.80}")
        if not "".join(own).strip():
            raise UserError(f"references[{number}] are empty, so that nothing is supported: leave the prompt out")
    known = [
        {word for text in (prompt, *own) for word in content_words(text)}
        for prompt, own in zip(prompts, references, strict=True)
    ]

    def mean_score(own: Sequence[str], prompt: int) -> float:
        words = [content_words(text) for text in own]
        return sum(score(sum(word not in known[prompt] for word in each), len(each)) for each in words) / len(own)

    return _of_each(answers, mean_score, len(prompts))


def _of_each(
    answers: Texts, value: Callable[[Sequence[str], int], float], prompts: int | None = None, least: int = 1
) -> Tensor:
    """Apply a function of a student's texts, of which there are at least some, and their prompt's number, [R, N]."""
    counts = {len(student) for student in answers}
    if len(counts) != 1 or not min(counts) or (prompts is not None and counts != {prompts}):
        asked = "the same" if prompts is None else prompts
        raise UserError(f"answers must be to {asked} prompts, at least one, of each student, and they are to {counts}")
    lists = [own for student in answers for own in student]
    if any(
        isinstance(own, str) or len(own) < least or not all(isinstance(text, str) for text in own) for own in lists
    ):
        number = "one text" if least == 1 else f"{least} texts"
        raise UserError(f"answers must hold a list of at least {number} for each student and prompt")
    rows = [[value(own, prompt) for prompt, own in enumerate(student)] for student in answers]
    return torch.tensor(rows, dtype=torch.float64)


def _check_references(references: Sequence, prompts: int) -> None:
    if len(references) != prompts:
        raise UserError(f"there are {prompts} prompts, and references of {len(references)}")
    for number, own in enumerate(references):
        if isinstance(own, str) or not len(own):
            raise UserError(f"references[{number}] must be a list of at least one reference answer, and it is {own!r}")
