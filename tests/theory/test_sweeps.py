"""Students that differ in one source alone, against students trained alone by plain torch."""

import pytest
import torch
from torch import nn

from hf_bkd.theory import sweeps as module
from hf_bkd.theory.sweeps import SOURCES, bootstrap_weights, distill_many, noisy_responses, sample_responses

PROBS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]])
N, COUNT, SIZES = 12, 3, (4, 5, 2)
UNTRAINED = {"steps": 1, "learning_rate": 1e-12}


def inputs() -> torch.Tensor:
    return torch.randn(N, SIZES[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def targets(vary: str, loss: str = "squared error", count: int = COUNT) -> torch.Tensor:
    shape = (*([count] if vary == "teacher" else []), N, SIZES[-1])
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return outputs.softmax(dim=-1) if loss == "divergence" else outputs


def train(vary: str, loss: str = "squared error", count: int = COUNT, **options) -> module.BatchedStudents:
    options = {"targets": targets(vary, loss, count), "sizes": SIZES, "steps": 20} | options
    return distill_many(inputs(), vary=vary, loss=loss, count=count, **options)


def parameters(students: module.BatchedStudents) -> torch.Tensor:
    return torch.cat([parameter.flatten(1) for parameter in students.parameters()], dim=1)


@pytest.mark.parametrize("loss", ["squared error", "divergence"])
@pytest.mark.parametrize("vary", SOURCES)
def test_each_student_is_one_trained_alone(monkeypatch, vary, loss):
    drawn = torch.tensor([[0, 0, 0, 1, 5, 5], [2, 3, 4, 4, 4, 4], [11, 10, 9, 8, 7, 7]])
    shares = torch.stack([torch.bincount(rows, minlength=N) for rows in drawn]).double() / drawn.shape[1]
    monkeypatch.setattr(module, "bootstrap_weights", lambda *_: shares)
    students, start = train(vary, loss), train(vary, loss, **UNTRAINED)
    assert not students(inputs()).requires_grad
    for r in range(COUNT):
        student, rows = start.alone(r), drawn[r] if vary == "data" else torch.arange(N)
        expected = (targets(vary, loss)[r] if vary == "teacher" else targets(vary, loss))[rows]
        criterion = nn.MSELoss() if loss == "squared error" else nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            criterion(student(inputs()[rows]), expected).backward()
            optimizer.step()
        torch.testing.assert_close(students(inputs())[r], student(inputs()), rtol=1e-6, atol=1e-8)


def test_students_of_the_same_teacher_and_data_are_identical():
    same = targets("data").expand(COUNT, -1, -1)
    for students in (train("teacher", targets=same), train("initialization", weight_noise=0.0)):
        assert (parameters(students) == parameters(students)[0]).all()


def test_students_of_the_same_bootstrap_sample_are_identical(monkeypatch):
    monkeypatch.setattr(module, "bootstrap_weights", lambda *_: torch.rand(1, N).expand(COUNT, N))
    students = parameters(train("data"))
    assert (students == students[0]).all()


@pytest.mark.parametrize("vary", SOURCES)
def test_the_source_that_is_named_makes_students_differ(vary):
    students = parameters(train(vary))
    assert all(not torch.equal(students[i], students[j]) for i in range(COUNT) for j in range(i))


def test_all_sources_but_the_initial_weights_start_from_the_same_weights():
    starts = [parameters(train(vary, **UNTRAINED)) for vary in ("data", "teacher")]
    starts.append(parameters(train("initialization", weight_noise=0.0, **UNTRAINED)))
    starts += [
        parameters(train("data", fraction=0.5, **UNTRAINED)),
        parameters(train("teacher", count=7, **UNTRAINED)),
    ]
    for start in starts:
        torch.testing.assert_close(start, starts[0][:1].expand(len(start), -1), rtol=0, atol=1e-11)
    apart = parameters(train("initialization", **UNTRAINED))
    assert (apart - starts[0]).abs().mean(dim=1).min() > 0.1


def test_bootstrap_samples_go_by_the_seed_and_not_by_the_network(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "bootstrap_weights", lambda *a: seen.append(bootstrap_weights(*a)) or seen[-1])
    for options in ({}, {"sizes": (4, 9, 9, 2)}, {"seed": 1}):
        train("data", **options)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_no_two_sources_or_seeds_share_their_random_numbers(monkeypatch):
    seeds = []
    students, bootstrap = module.BatchedStudents, bootstrap_weights
    monkeypatch.setattr(module, "BatchedStudents", lambda *a: seeds.append(a[2].initial_seed()) or students(*a))
    monkeypatch.setattr(module, "bootstrap_weights", lambda *a: seeds.append(a[3].initial_seed()) or bootstrap(*a))
    for seed in range(4):
        train("data", seed=seed)
    assert len(set(seeds)) == 8


@pytest.mark.parametrize("vary", SOURCES)
def test_students_are_a_function_of_their_seed(vary):
    first = parameters(train(vary))
    torch.manual_seed(77)
    assert torch.equal(parameters(train(vary)), first)
    assert not torch.equal(parameters(train(vary, seed=1)), first)


def test_weights_of_noise_s_are_the_same_times_one_plus_s_times_a_normal_number():
    start = parameters(train("initialization", weight_noise=0.0, count=400, **UNTRAINED))
    ratio = parameters(train("initialization", weight_noise=0.2, count=400, **UNTRAINED)) / start
    assert ratio.mean().item() == pytest.approx(1, abs=0.005)
    assert ratio.std(dim=0).mean().item() == pytest.approx(0.2, rel=0.02)


def test_bootstrap_weights_are_shares_of_draws_with_replacement():
    generator = torch.Generator().manual_seed(0)
    counts = 10 * bootstrap_weights(20_000, 20, 0.5, generator)
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-9)
    assert (counts.sum(dim=1) - 10).abs().max() < 1e-9
    assert counts.mean(dim=0).numpy() == pytest.approx(0.5, rel=0.05)
    assert counts.var(dim=0).mean().item() == pytest.approx(10 * 0.05 * 0.95, rel=0.02)


def test_arg_max_and_soft_responses_have_no_randomness():
    assert sample_responses(PROBS, "soft", 5) is PROBS
    onehot = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert torch.equal(sample_responses(PROBS.expand(4, 2, 3), "argmax", 5), onehot.expand(4, 2, 3))


@pytest.mark.parametrize("k", [1, 4])
def test_sampled_responses_are_means_of_k_labels(k):
    probs = PROBS.expand(20_000, 2, 3)
    actual, again = (sample_responses(probs, "sampled", k, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(actual, again)
    torch.testing.assert_close(k * actual, (k * actual).round(), rtol=0, atol=1e-5)
    torch.testing.assert_close(actual.sum(dim=-1), torch.ones(20_000, 2))
    torch.testing.assert_close(actual.mean(dim=0), PROBS, rtol=0, atol=0.015)
    torch.testing.assert_close(actual.var(dim=0), PROBS * (1 - PROBS) / k, rtol=0.05, atol=0)
    pairs = torch.corrcoef(actual[..., 0].T)  # the examples' labels are independent
    assert abs(pairs[0, 1]) < 0.03


def test_noisy_responses_are_averages_of_k():
    mean = torch.tensor([1.0, -2.0]).expand(50_000, 2)
    actual = noisy_responses(mean, 0.5, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(actual.mean(dim=0), mean[0], rtol=0, atol=0.01)
    torch.testing.assert_close(actual.var(dim=0), torch.full((2,), 0.5 / 4), rtol=0.03, atol=0)
    assert torch.equal(actual, noisy_responses(mean, 0.5, 4, torch.Generator().manual_seed(0)))
    assert torch.equal(noisy_responses(mean, 0.0), mean)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"vary": "optimizer"}, "vary is 'optimizer'; it must be one of initialization, data, teacher"),
        ({"loss": "hinge"}, "loss is 'hinge'; it must be one of squared error, divergence"),
        ({"count": 0}, "count must be .* at least 1, and it is 0"),
        ({"steps": 0}, "steps must be .* at least 1, and it is 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 and finite, and it is 0"),
        ({"sizes": (3, 2)}, r"inputs must have the shape \[any, 3\], and it has \[12, 4\]"),
        ({"sizes": (4, 3)}, r"targets must have the shape \[12, 3\], and it has \[12, 2\]"),
        ({"sizes": (4,)}, r"sizes must be those of at least two layers, and it is \(4,\)"),
        ({"vary": "teacher"}, r"targets must have the shape \[3, 12, 2\], and it has \[12, 2\]"),
        ({"targets": torch.ones(11, 2)}, r"targets must have the shape \[12, 2\], and it has \[11, 2\]"),
        ({"loss": "divergence", "targets": torch.ones(N, 2)}, "targets must sum to one .* sums to 2"),
        ({"vary": "data", "fraction": 0.0}, "fraction must be above 0 and finite, and it is 0"),
        ({"vary": "data", "fraction": 1.5}, "fraction must be between 0 and 1, and it is 1.5"),
        ({"fraction": 0.5}, "fraction is 0.5, and vary is 'initialization': it must be 'data'"),
        ({"weight_noise": -0.1}, "weight_noise must be at least 0 and finite, and it is -0.1"),
        ({"vary": "data", "weight_noise": 0.1}, "weight_noise is 0.1, and vary is 'data': it must be 'init"),
    ],
)
def test_bad_arguments_of_training_are_named(bad, message):
    given = {"vary": "initialization", "count": COUNT, "sizes": SIZES, "loss": "squared error"}
    with pytest.raises(ValueError, match=message):
        distill_many(inputs(), **{"targets": targets("data")} | given | bad)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_responses(PROBS, "top"), "kind is 'top'; it must be one of argmax, sampled, soft"),
        (lambda: sample_responses(PROBS, "sampled", 0), "k must be a whole number of at least 1, and it is 0"),
        (lambda: sample_responses(2 * PROBS, "soft"), "probs must sum to one over the classes, and one row sums to 2"),
        (lambda: noisy_responses(PROBS, -1.0), "variance must be at least 0 and finite, and it is -1"),
        (lambda: noisy_responses(PROBS, 1.0, 0), "k must be a whole number of at least 1, and it is 0"),
    ],
)
def test_bad_arguments_of_responses_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
