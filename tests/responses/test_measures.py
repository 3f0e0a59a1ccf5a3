"""Measures of students' answers against numpy, values by hand, and simulations whose truth is known."""

import math

import numpy as np
import pytest
import torch

from hf_bkd.responses.measures import (
    answer_entropy,
    answer_noise,
    content_words,
    measured,
    reference_similarity,
    unsupported_answers,
    unsupported_words,
)
from hf_bkd.utils.errors import UserError


def students(count, prompts, k, dimensions, *, bias=0.0, between=0.0, within=1.0, seed=0):
    """Embeddings with a known bias against zero, variance between students and variance within one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    own = bias + math.sqrt(between) * normal(count, prompts, 1, dimensions)
    return own + math.sqrt(within) * normal(count, prompts, k, dimensions)


def test_the_parts_by_hand():
    # one prompt, one dimension; student 1 says 0 and 2, student 2 says 4 and 6: means 1 and 5, variances 2 and 2
    parts = answer_noise(torch.tensor([[[[0.0], [2.0]]], [[[4.0], [6.0]]]]), torch.tensor([[1.0]]), 0.25)
    assert parts.intra_student.value == 2
    assert parts.inter_student.value == 8 - 2 / 2  # the variance of the means, less that of a mean of two answers
    assert parts.systematic.value == (3 - 1) ** 2 - 8 / 2 - 0.25
    assert parts.total.value == pytest.approx(np.mean([1, 1, 9, 25]) - 0.25)
    assert parts.total.over_students is None and math.isnan(parts.total.over_prompts)


def test_the_parts_sum_to_the_mean_square_distance():
    answers, target = students(4, 9, 3, 5, bias=0.3, between=0.5), torch.randn(9, 5)
    parts = answer_noise(answers, target)
    distance = (answers - target.double()[:, None]).square().mean().item()
    assert parts.total.value == pytest.approx(distance, rel=1e-12)
    assert sum(part.value for part in parts[:3]) == pytest.approx(distance, rel=1e-12)


@pytest.mark.parametrize(("count", "k"), [(2, 2), (5, 3)])
def test_no_part_is_biased_by_few_students_or_answers(count, k):
    truth = {"bias": 0.2, "between": 0.3, "within": 2.0}
    noise = 0.5  # of a target that is itself the mean of some of a teacher's answers
    target = math.sqrt(noise) * torch.randn(20_000, 4, generator=torch.Generator().manual_seed(1))
    parts = answer_noise(students(count, 20_000, k, 4, **truth), target, noise)
    for part, expected in zip(parts[:3], (0.2**2, 0.3, 2.0), strict=True):
        assert abs(part.value - expected) < 4 * part.over_prompts
        assert part.over_prompts < 0.02 * (1 + expected)


def test_what_is_known_exactly_has_no_spread_of_its_own():
    probs = torch.tensor([[[0.5, 0.5]], [[0.7, 0.3]], [[0.9, 0.1]]])
    parts = answer_noise(probs, torch.tensor([[0.6, 0.4]]))
    assert parts.intra_student is None
    assert parts.inter_student.value == pytest.approx(0.04)
    assert parts.systematic.value == pytest.approx(0.1**2 - 0.04 / 3)
    # without the first, second and third student the variance is 0.02, 0.08 and 0.02
    assert parts.inter_student.over_students == pytest.approx(math.sqrt(2 / 3 * (2 * 0.02**2 + 0.04**2)), rel=1e-6)


def test_standard_errors_of_a_mean_are_the_textbook_ones():
    values = torch.randn(6, 40)
    measure = measured(values)
    of_prompts, of_students = values.double().mean(dim=0).numpy(), values.double().mean(dim=1).numpy()
    assert measure.value == pytest.approx(values.double().mean().item())
    assert measure.over_prompts == pytest.approx(np.std(of_prompts, ddof=1) / math.sqrt(40))
    assert measure.over_students == pytest.approx(np.std(of_students, ddof=1) / math.sqrt(6))
    assert measured(values[:1]).over_students is None


def test_prompts_of_one_cluster_count_once():
    values = torch.randn(3, 20)
    twice = measured(values.repeat_interleave(5, dim=1), clusters=torch.arange(20).repeat_interleave(5))
    assert twice.over_prompts == pytest.approx(measured(values).over_prompts)
    assert measured(values.repeat_interleave(5, dim=1)).over_prompts < 0.5 * twice.over_prompts


def test_the_jackknife_knows_how_much_students_differ():
    """Its square is the variance of the mean over students, on average over many sets of them."""
    errors, values = [], []
    for seed in range(300):
        parts = answer_noise(students(10, 10, 2, 2, bias=2.0, between=0.2, seed=seed), torch.zeros(10, 2))
        errors.append(parts.systematic.over_students)
        values.append(parts.systematic.value)
    assert np.mean(np.square(errors)) == pytest.approx(np.var(values, ddof=1), rel=0.3)


def test_entropy_of_answers_by_hand_and_without_most_of_its_bias():
    answers = [[["a", "b", "a", "a"], ["a", "a", "a", "a"]]]
    plain = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert answer_entropy(answers).tolist() == [[pytest.approx(plain + 1 / 8), 0]]
    drawn = torch.multinomial(torch.tensor([0.4, 0.3, 0.2, 0.1]).expand(4000, -1), 20, replacement=True)
    mean = answer_entropy([[[str(each) for each in row] for row in drawn.tolist()]]).mean().item()
    assert mean == pytest.approx(1.2799, abs=0.02)  # the plain estimate is 0.075 lower


def test_arrays_of_numpy_are_measured():
    answers, target = students(3, 4, 2, 5), torch.randn(4, 5)
    assert answer_noise(answers.numpy(), target.numpy()) == answer_noise(answers, target)
    assert measured([[0.0, 1.0], [1.0, 1.0]]).value == 0.75
    assert reference_similarity(answers.numpy(), [np.ones((1, 5))] * 4).shape == (3, 4)


def test_answers_without_any_spread_have_no_noise_but_the_systematic():
    parts = answer_noise(torch.ones(3, 2, 2, 4), torch.zeros(2, 4))
    assert [part.value for part in parts] == [1, 0, 0, 1]
    assert [part.over_prompts for part in parts] == [part.over_students for part in parts] == [0, 0, 0, 0]


def test_similarity_is_that_to_the_nearest_reference():
    answers = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
    assert reference_similarity(answers, [torch.tensor([[3.0, 0.0]])]).item() == 0.5
    assert reference_similarity(answers, [torch.tensor([[3.0, 0.0], [1.0, 1.0]])]).item() == pytest.approx(
        (1 + math.sqrt(0.5)) / 2
    )


def test_support_by_hand():
    prompts, references = ["What does the brown bear eat?"], [["It eats fish.", "honey, and berries"]]
    answers = [[["The bear eats HONEY.", "Salt and fish", "", "no fish"]]]
    assert unsupported_answers(answers, references, prompts).tolist() == [[0.5]]
    assert unsupported_words(answers, references, prompts).tolist() == [[(0 + 1 / 2 + 0 + 1 / 2) / 4]]
    assert content_words("Isn't it Dr. O'Neil's 12.5 mg?") == ["isn't", "dr", "o'neil's", "12", "5", "mg"]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: answer_noise(torch.zeros(3, 2), torch.zeros(2, 2)), "students, prompts, k, D"),
        (lambda: answer_noise(torch.zeros(1, 2, 3, 4), torch.zeros(2, 4)), "at least 2 students"),
        (lambda: answer_noise(torch.zeros(2, 2, 1, 4), torch.zeros(2, 4)), "k = 1 of each student"),
        (lambda: answer_noise(torch.zeros(2, 2, 4), torch.zeros(3, 4)), r"target must have the shape \[2, 4\]"),
        (lambda: answer_noise(torch.full((2, 2, 4), torch.nan), torch.zeros(2, 4)), "answers must be finite"),
        (lambda: answer_noise(torch.zeros(2, 2, 4), torch.zeros(2, 4), -1.0), "target_variance must be at least 0"),
        (lambda: measured(torch.zeros(2, 3), clusters=[1, 2]), r"clusters must have the shape \[3\]"),
        (lambda: measured(torch.zeros(0, 3)), "at least one student"),
        (lambda: unsupported_answers([[["a"]]], [["b"]], ["q", "r"]), "2 prompts, and references of 1"),
        (lambda: unsupported_answers([[["a"]]], [["b"], ["c"]], ["q", "r"]), "to 2 prompts"),
        (lambda: unsupported_answers([[["a"]]], ["b"], ["q"]), "a list of at least one reference"),
        (lambda: unsupported_answers([["a"]], [["b"]], ["q"]), "a list of at least one text"),
        (lambda: answer_entropy([[["a"]], []]), "the same prompts"),
        (lambda: answer_entropy([[["a"]]]), "a list of at least 2 texts"),
        (lambda: answer_entropy([[["a", None]]]), "a list of at least 2 texts"),
        (lambda: unsupported_words([[["a"]]], [[" "]], ["q"]), r"references\[0\] are empty"),
        (lambda: unsupported_words([[["a"]]], [[None]], ["q"]), "prompt 0 and its references must be texts"),
        (lambda: unsupported_words([[["a"]]], [["b"]], [[{"role": "user"}]]), "prompt 0 and its references must be"),
        (lambda: reference_similarity(torch.ones(1, 1, 1, 2), [torch.full((1, 2), torch.nan)]), "no finite numbers"),
        (lambda: answer_entropy([]), "the same prompts"),
    ],
)
def test_what_measures_refuse(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
