"""The divergence of matrix normals against dense Gaussians, and its use on the heads of two Laplace teachers."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from hf_bkd import LaplaceTeacher
from hf_bkd.theory.divergence import best_student, conjugate_posterior, distillation_divergence, label_divergence_bound

K, D, N, NOISE = 3, 5, 12, 0.7


def posterior(k: int = K, d: int = D, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(d, d + 2, generator=generator, dtype=torch.float64)
    return torch.randn(k, d, generator=generator, dtype=torch.float64), root @ root.T / d


def dense(mean: Tensor, covariance: Tensor) -> MultivariateNormal:
    return MultivariateNormal(mean.flatten(), torch.kron(torch.eye(len(mean), dtype=torch.float64), covariance))


def eigen_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.sqrt() @ vectors.T


def truncated(matrix: Tensor, rank: int) -> Tensor:
    """By the eigenvectors of A^T A."""
    remaining = torch.linalg.eigh(matrix.T @ matrix).eigenvectors[:, -rank:]
    return matrix @ remaining @ remaining.T


@pytest.mark.parametrize(("k", "d"), [(3, 5), (5, 3), (1, 4), (4, 1)])
def test_the_total_is_the_divergence_of_the_vectorised_gaussians_at_every_rank(k, d):
    teacher, student = posterior(k, d), posterior(k, d, seed=1)
    expected = kl_divergence(dense(*student), dense(*teacher)).item()
    for rank in (None, *range(1, min(k, d) + 1)):
        actual = distillation_divergence(*teacher, *student, rank=rank)
        assert actual.total == pytest.approx(expected, rel=1e-10)
        assert all(isinstance(part, float) for part in actual)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_parts_are_those_of_another_square_root(rank):
    (mean, covariance), (student_mean, student_covariance) = posterior(), posterior(seed=1)
    root = torch.linalg.inv(eigen_root(covariance))
    teacher, student = mean @ root, student_mean @ root
    remaining, relative = truncated(teacher, rank), root @ student_covariance @ root
    actual = distillation_divergence(mean, covariance, student_mean, student_covariance, rank)
    assert actual.bias == pytest.approx((student - remaining).square().sum().item() / 2, rel=1e-8)
    assert actual.rank == pytest.approx((teacher - remaining).square().sum().item() / 2, rel=1e-8, abs=1e-12)
    assert actual.cross == pytest.approx(
        ((student - remaining) * (remaining - teacher)).sum().item(), rel=1e-8, abs=1e-12
    )
    variance = K / 2 * (relative.trace() - D - torch.logdet(relative))
    assert actual.variance == pytest.approx(variance.item(), rel=1e-8)
    assert (
        actual.bias > 0.1 and actual.variance > 0.1 and (rank == 3 or actual.rank > 0.1 and abs(actual.cross) > 0.01)
    )


def test_the_total_is_the_mean_log_ratio_of_the_students_draws():
    teacher, (mean, covariance) = posterior(), posterior(seed=1)
    student = dense(mean, covariance)
    draws = student.sample((200_000,))
    ratio = student.log_prob(draws) - dense(*teacher).log_prob(draws)
    assert ratio.std() / len(ratio) ** 0.5 < 0.003 * ratio.mean()
    total = distillation_divergence(*teacher, mean, covariance, rank=2).total
    assert total == pytest.approx(ratio.mean().item(), rel=0.01)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_no_other_mean_of_a_rank_is_nearer_to_the_teacher_than_the_best(rank):
    mean, covariance = posterior()
    best = best_student(mean, covariance, rank)
    assert torch.linalg.matrix_rank(best) == rank
    least = distillation_divergence(mean, covariance, best, covariance, rank)
    values = torch.linalg.svdvals(mean @ torch.linalg.inv(eigen_root(covariance)))
    assert least.rank == pytest.approx(values[rank:].square().sum().item() / 2, abs=1e-10)
    assert max(abs(least.bias), abs(least.cross), abs(least.variance)) < 1e-12
    left, values, right = torch.linalg.svd(best, full_matrices=False)
    for step in (1e-3, 0.1, 1.0):
        for _ in range(20):
            first = left[:, :rank] * values[:rank] + step * torch.randn(K, rank)
            other = first @ (right[:rank] + step * torch.randn(rank, D))
            assert distillation_divergence(mean, covariance, other, covariance).total >= least.total


def test_a_shrunk_best_mean_pays_in_bias_alone_and_a_wider_covariance_in_variance_alone():
    mean, covariance = posterior()
    best, apart = best_student(mean, covariance, 1), best_student(mean, covariance, 2)
    actual = distillation_divergence(mean, covariance, 0.8 * best, 1.5 * covariance, 1)
    remaining = distillation_divergence(mean, covariance, 0 * best, covariance, 1).bias
    assert actual.bias == pytest.approx(0.2**2 * remaining) and abs(actual.cross) < 1e-12
    assert actual.variance == pytest.approx(K * D / 2 * (1.5 - 1 - math.log(1.5)))
    towards = distillation_divergence(mean, covariance, best + 0.1 * (apart - best), covariance, 1)
    assert towards.cross < -1e-3 and towards.total < towards.rank  # what the rank cut off, partly won back


def test_leading_dimensions_are_data_sets_over_which_the_divergence_is_averaged():
    teachers, students = ([posterior(seed=seed + s) for seed in range(4)] for s in (0, 10))
    alone = [distillation_divergence(*t, *s, rank=2) for t, s in zip(teachers, students, strict=True)]
    stacked = [torch.stack(parts) for pair in (teachers, students) for parts in zip(*pair, strict=True)]
    actual = distillation_divergence(*stacked, rank=2)
    assert actual == pytest.approx(tuple(torch.tensor(alone, dtype=torch.float64).mean(dim=0).tolist()), rel=1e-10)
    best = best_student(*stacked[:2], rank=2)
    torch.testing.assert_close(best, torch.stack([best_student(*t, rank=2) for t in teachers]))


def test_float32_inputs_are_computed_in_float64():
    # a teacher so certain that float32 loses the variance part
    mean, covariance = posterior()
    single = [value.float() for value in (mean, 1e-6 * covariance, mean + 1e-4, 1.0001e-6 * covariance)]
    single[1], single[3] = (value + value.T for value in (single[1], single[3]))
    expected = distillation_divergence(*(value.double() for value in single), rank=2)
    assert distillation_divergence(*single, rank=2) == expected
    assert best_student(*single[:2], rank=2).dtype == torch.float64
    inputs, labels = torch.randn(D, N), torch.randn(K, N)
    fitted = conjugate_posterior(inputs, labels, NOISE, 1.0)
    assert all(map(torch.equal, fitted, conjugate_posterior(inputs.double(), labels.double(), NOISE, 1.0)))
    bound = label_divergence_bound(inputs, *fitted, single[0], NOISE)
    assert bound == label_divergence_bound(inputs.double(), *fitted, single[0].double(), NOISE)


def test_the_conjugate_posterior_is_the_gaussian_conditioned_on_the_labels():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, D, N, generator=generator, dtype=torch.float64)
    labels = torch.randn(2, K, N, generator=generator, dtype=torch.float64)
    mean, covariance = conjugate_posterior(inputs, labels, NOISE, 1.3)
    for x, y, m, s in zip(inputs, labels, mean, covariance, strict=True):
        gain = 1.3**2 * x @ torch.linalg.inv(1.3**2 * x.T @ x + NOISE**2 * torch.eye(N))
        torch.testing.assert_close(m, y @ gain.T)
        torch.testing.assert_close(s, 1.3**2 * (torch.eye(D) - gain @ x.T))


def test_the_label_bound_is_the_mean_divergence_of_the_components_and_above_that_of_their_mixture():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(K, D, generator=generator, dtype=torch.float64)
    inputs = torch.randn(D, N, generator=generator, dtype=torch.float64)
    labels = truth @ inputs + NOISE * torch.randn(K, N, generator=generator, dtype=torch.float64)
    mean, covariance = conjugate_posterior(inputs, labels, NOISE, 1.0)
    actual = label_divergence_bound(inputs, mean, covariance, truth, NOISE)
    identity = NOISE**2 * torch.eye(N, dtype=torch.float64)
    true = dense(truth @ inputs, identity)
    weights = dense(mean, covariance)
    at_mean = kl_divergence(dense(mean @ inputs, identity), true).item()
    assert actual.bias == pytest.approx(at_mean, rel=1e-10)
    design = torch.kron(torch.eye(K, dtype=torch.float64), inputs @ inputs.T)
    spread = (design @ weights.covariance_matrix).trace().item() / (2 * NOISE**2)
    assert actual.variance == pytest.approx(spread, rel=1e-10)
    mixture = dense(mean @ inputs, inputs.T @ covariance @ inputs + identity)
    exact = kl_divergence(mixture, true).item()
    assert 0.5 * actual.total < exact < actual.total == actual.bias + actual.variance


def test_a_deterministic_student_is_told_that_its_divergence_is_infinite():
    with pytest.raises(ValueError, match="student_covariance is None.* infinite.* Laplace posterior"):
        distillation_divergence(*posterior(), posterior()[0], None)


def bad(**changes) -> dict:
    (mean, covariance), (student_mean, student_covariance) = posterior(), posterior(seed=1)
    given = {"teacher_mean": mean, "teacher_covariance": covariance}
    given |= {"student_mean": student_mean, "student_covariance": student_covariance, "rank": 2}
    return given | changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank must be .* it is 0"),
        ({"rank": 1.5}, "rank must be .* it is 1.5"),
        ({"rank": 4}, r"rank must be at most 3 for means of shape \[3, 5\], and it is 4"),
        ({"teacher_mean": torch.ones(5)}, r"teacher_mean must have the shape \[any, any\], and it has \[5\]"),
        ({"student_mean": torch.ones(3, 4)}, r"student_mean must have the shape \[3, 5\], and it has \[3, 4\]"),
        (
            {"teacher_covariance": torch.eye(3)},
            r"teacher_covariance must have the shape \[5, 5\], and it has \[3, 3\]",
        ),
        ({"student_covariance": torch.eye(3)}, r"student_covariance must have the shape \[5, 5\]"),
        ({"teacher_covariance": -torch.eye(5)}, "teacher_covariance must be positive definite, .* eigenvalue is -1"),
        (
            {"student_covariance": torch.zeros(5, 5)},
            "student_covariance must be positive definite, .* eigenvalue is 0",
        ),
        (
            {"student_covariance": torch.eye(5) + torch.ones(5, 5).triu()},
            "student_covariance must be symmetric.* by 1",
        ),
        ({"student_mean": torch.full((3, 5), torch.nan)}, "student_mean must be finite, and it holds nan"),
        ({"teacher_covariance": torch.full((5, 5), torch.inf)}, "teacher_covariance must be finite, and it holds inf"),
    ],
)
def test_bad_arguments_are_named_with_their_value(change, message):
    with pytest.raises(ValueError, match=message):
        distillation_divergence(**bad(**change))


def test_bad_arguments_of_the_linear_model_are_named_with_their_value():
    inputs, labels = torch.randn(D, N), torch.randn(K, N)
    for name, value in (("noise_std", 0), ("prior_std", -1), ("noise_std", math.inf)):
        with pytest.raises(ValueError, match=f"{name} must be above 0 and finite, and it is {value}"):
            conjugate_posterior(inputs, labels, **{"noise_std": 1.0, "prior_std": 1.0} | {name: value})
    with pytest.raises(ValueError, match=r"labels must have the shape \[any, 12\], and it has \[3, 11\]"):
        conjugate_posterior(inputs, labels[:, 1:], 1.0, 1.0)
    mean, covariance = posterior()
    with pytest.raises(ValueError, match="noise_std must be above 0 and finite, and it is -0.7"):
        label_divergence_bound(inputs, mean, covariance, mean, -0.7)
    with pytest.raises(ValueError, match=r"inputs must have the shape \[5, any\], and it has \[12, 5\]"):
        label_divergence_bound(inputs.T, mean, covariance, mean, 0.7)
    with pytest.raises(ValueError, match=r"true_weights must have the shape \[3, 5\], and it has \[5, 3\]"):
        label_divergence_bound(inputs, mean, covariance, mean.T, 0.7)
    with pytest.raises(ValueError, match="rank must be at most 3"):
        best_student(mean, covariance, 4)


@pytest.mark.parametrize("structure", ["kron", "diag", "full"])
def test_the_heads_of_two_laplace_teachers_have_a_divergence(structure):
    features = torch.randn(60, D)
    labels = torch.randint(K, (60,))
    heads = [nn.Linear(D, K) for _ in range(2)]
    teacher, student = (
        LaplaceTeacher.fit(head, [(features, labels)], structure=structure, prior_precision=1.0).head_posterior()
        for head in heads
    )
    actual = distillation_divergence(*teacher, *student, rank=2)
    assert actual.total == pytest.approx(kl_divergence(dense(*student), dense(*teacher)).item(), rel=1e-10)
    assert actual.rank > 0 and abs(distillation_divergence(*teacher, *teacher).total) < 1e-10
