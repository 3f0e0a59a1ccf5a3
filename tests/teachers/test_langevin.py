"""Langevin samples of a student's weights: the posterior against quadrature, the record, the teacher."""

import json
import math
from itertools import product

import datasets
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Dirichlet

from hf_bkd import LangevinTeacher, Teacher, UserError, add_soft_labels
from hf_bkd.metrics import classification_metrics
from hf_bkd.models.calling import logits_of
from hf_bkd.models.heads import classification_head
from tests.teachers.teacher_helpers import SmallNetwork, in_batches, points, small_bert, small_cnn

SHORT = {"steps": 60, "burn_in": 20, "thinning": 5, "chains": 3}
A, B, S = 0.7, 1.9, 6.0
WEIGHTS = torch.tensor([0.4, 0.6])


class Biased(nn.Module):
    """Two classes that know nothing but a constant: its posterior is a density in two dimensions."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False)

    def forward(self, x):
        return self.head(x)


def quadrature(labels, targets, precision, temperature):
    """Mean and variance of the difference of the two logits, and the mean probability of class 1."""
    grid = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    log_q = torch.stack([F.logsigmoid(-grid), F.logsigmoid(grid)], dim=1)
    energy = precision / 4 * grid.square() - A * log_q @ torch.bincount(labels, minlength=2).double()
    for p in targets.double():  # of an example: of one teacher, or of several
        if p.ndim == 1:
            energy -= B * log_q @ p
        else:
            each = [w.log() + Dirichlet(1 + S * one).log_prob(log_q.exp()) for w, one in zip(WEIGHTS, p, strict=True)]
            energy -= B / S * torch.stack(each).logsumexp(dim=0)
    weights = torch.softmax(-energy / temperature, dim=0)
    mean = (weights * grid).sum()
    return mean.item(), (weights * (grid - mean).square()).sum().item(), (weights * grid.sigmoid()).sum().item()


ONE, SEVERAL = [0.3, 0.7], [[0.2, 0.8], [0.6, 0.4]]
OPPOSED = [[0.95, 0.05], [0.05, 0.95]]  # two modes


POSTERIORS = {"one": (ONE, 10, 1.0), "cold": (ONE, 10, 0.2), "several": (SEVERAL, 10, 1.0), "modes": (OPPOSED, 2, 1.0)}
SGLD = {"sampler": "sgld"}
SAMPLERS = {"head": {}, "all": {"parameters": "all"}, "sgld": SGLD, "minibatches": SGLD | {"batch_size": 5}}
QUICK = {("head", "one"), ("head", "modes"), ("all", "several"), ("sgld", "cold"), ("minibatches", "several")}


@pytest.mark.parametrize(
    ("sampler", "posterior"),
    [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in product(SAMPLERS, POSTERIORS)],
)
def test_the_samples_are_of_the_posterior_that_quadrature_finds(sampler, posterior):
    (probs, count, temperature), options = POSTERIORS[posterior], SAMPLERS[sampler]
    x, labels = torch.ones(count, 1), torch.tensor([0, 1, 1, 1, 1, 0, 1, 1, 1, 1])[:count]
    targets = torch.stack([torch.tensor(probs)] * count)
    plain = options.get("sampler") == "sgld"
    length = 1 if (sampler, posterior) in QUICK else 2
    chains = {"chains": 60, "burn_in": length * 100, "posterior_temperature": temperature}
    chains |= {"steps": length * 400, "thinning": 5}
    if plain:  # whose steps are small: a dispersed start is forgotten late
        chains |= {"steps": length * 1_200, "burn_in": length * 400, "thinning": 10}
    if "batch_size" in options:
        chains["step_size"] = 0.03 / count * temperature
    weights = {"targets": targets, "label_weight": A, "teacher_weight": B, "prior_precision": 0.5}
    if targets.ndim == 3:
        weights |= {"target_weights": WEIGHTS, "prior_strength": S}
    network = Biased()
    teacher = LangevinTeacher.fit(network, [(x, labels)], **weights, **chains, **options)
    mean, variance, prob = quadrature(labels, targets, 0.5, temperature)
    difference = (teacher.weights["head.weight"][:, 1] - teacher.weights["head.weight"][:, 0]).double()
    assert difference.mean().item() == pytest.approx(mean, abs=0.1 * variance**0.5)
    assert difference.var().item() == pytest.approx(variance, rel=0.1 if plain else 0.05)
    actual = teacher.predict(x[:1], len(difference)).mean[0, 1].item()
    assert actual == pytest.approx(prob, abs=0.025 * variance**0.5)  # no probability is steeper than a quarter


def trained(batches: int = 300) -> tuple[nn.Module, list, torch.Tensor]:
    """A small network trained on labels that x decides, its batches and a teacher's probabilities."""
    network = SmallNetwork(features=8)
    x, _ = points(200)
    labels = (x[:, 0] > 0).long() + (x[:, 1] > 1).long()
    optimizer = torch.optim.Adam(network.eval().parameters(), 0.02)
    for _ in range(batches):
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()
    return network, in_batches(x, labels, 64), torch.softmax(network(x).detach() / 2, dim=-1)


def test_a_good_chain_is_said_to_mix_and_the_papers_settings_not_to():
    network, batches, targets = trained()
    good = LangevinTeacher.fit(network, batches, targets=targets, steps=1_500, burn_in=500)
    paper = {"sampler": "sgld", "step_size": 8e-8, "steps": 1_000, "burn_in": 200, "batch_size": 64}
    stuck = LangevinTeacher.fit(network, batches, targets=targets, **paper)
    record = good.record
    assert record["mixed"] and record["rhat max"] < 1.1 and record["ess min"] > 100, record
    assert 0.6 < record["acceptance"] <= 1 and record["apart"] < 0.5 and 0.7 < record["width"] < 1.5, record
    record = stuck.record
    assert not record["mixed"] and record["rhat max"] > 2 and record["ess min"] < 3 * 4, record
    assert record["width"] < 0.1 and record["moved"] < 0.05 and record["apart"] > 1 and "acceptance" not in record, (
        record
    )
    assert json.loads(json.dumps([good.record, stuck.record])) == [good.record, stuck.record]


def test_the_record_tells_how_it_was_sampled_and_how_good_it_is():
    network, batches, targets = trained(20)
    options = SHORT | {"prior_precision": 2.0, "label_weight": 0.5, "posterior_temperature": 0.9, "seed": 3}
    teacher = LangevinTeacher.fit(network, batches, batches[:2], targets=targets, **options)
    description = {
        "parameters": "head",
        "examples": 200,
        "prior precision": 2.0,
        "label weight": 0.5,
        "teacher weight": 1.0,
    }
    description |= {"sampler": "hmc", "chains": 3, "steps": 60, "burn in": 20, "thinning": 5, "seed": 3}
    description |= {"posterior temperature": 0.9, "student temperature": 1.0}
    assert description.items() <= teacher.record.items()
    assert len(teacher.weights["head.weight"]) == 3 * 8
    x, labels = (torch.cat(column) for column in zip(*batches[:2], strict=True))
    means = teacher.predict(x, 24).mean  # 100 draws of 24 samples hold each at least four times
    measured = classification_metrics(means, labels)
    assert teacher.record["validation"] == pytest.approx(measured, abs=0.02)


def test_several_teachers_are_weighted_for_all_examples_or_for_each_and_the_record_tells_of_them():
    network, batches, probs = trained(20)
    targets = torch.stack([probs, probs.flip(1)], dim=1)

    def sampled(**options):
        return LangevinTeacher.fit(network, batches, targets=targets, **options, **SHORT)

    first, weights = sampled(), torch.tensor([0.1, 0.9])
    assert {"teachers": 2, "prior strength": 5.0, "teacher weight": 1.0}.items() <= first.record.items()
    equal = [sampled(target_weights=torch.full(shape, 0.5), prior_strength=5.0) for shape in ((2,), (200, 2))]
    assert all(torch.equal(each.weights["head.weight"], first.weights["head.weight"]) for each in equal)
    others = [sampled(target_weights=weights), sampled(target_weights=weights.expand(200, 2))]
    assert torch.equal(*(each.weights["head.weight"] for each in others))
    others.append(sampled(prior_strength=20.0))
    assert not any(torch.equal(each.weights["head.weight"], first.weights["head.weight"]) for each in others)
    single = LangevinTeacher.fit(network, batches, targets=probs, **SHORT)
    assert not {"teachers", "prior strength"} & single.record.keys()


@pytest.mark.parametrize("parameters", ["head", "all"])
def test_the_same_seed_gives_the_same_samples_and_the_network_is_as_before(parameters):
    network, batches, _ = trained(20)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (
        LangevinTeacher.fit(network, batches, parameters=parameters, seed=seed, **SHORT).weights for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.keys() == (
        {"head.weight", "head.bias"} if parameters == "head" else dict(network.named_parameters()).keys()
    )
    for name in first:
        assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name])
    assert network.training and network.backbone[1].training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_head_draws_are_the_networks_with_those_weights():
    network, batches, _ = trained(20)
    teacher = LangevinTeacher.fit(network, batches, **SHORT)
    x = batches[0][0]
    network.passes = 0
    actual = teacher.draw_logits(x, 24, torch.Generator().manual_seed(0))
    assert network.passes == 1
    expected = []
    for weight, bias in zip(teacher.weights["head.weight"], teacher.weights["head.bias"], strict=True):
        expected.append(F.linear(network.backbone(x), weight, bias))
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(actual, torch.stack(expected)[order].detach())
    general = LangevinTeacher(network, teacher.weights | {"backbone.0.bias": network.backbone[0].bias.expand(24, -1)})
    with torch.no_grad():
        torch.testing.assert_close(general.draw_logits(x, 24, torch.Generator().manual_seed(0)), actual)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 20])
def test_each_sample_is_drawn_once_before_any_comes_twice(count):
    network = SmallNetwork().eval()
    weight = torch.arange(8.0)[:, None, None].expand(8, 3, 5)
    teacher = LangevinTeacher(network, {"head.weight": weight})
    drawn = teacher._draw(count, torch.Generator().manual_seed(1))["head.weight"][:, 0, 0].long()
    times = torch.bincount(drawn, minlength=8)
    assert len(drawn) == count and times.max() - times.min() <= 1
    assert not torch.equal(drawn[:8].sort().values, drawn[:8]) or count == 1


@pytest.mark.parametrize(("make", "parameters"), [(small_cnn, "all"), (small_bert, "head"), (small_bert, "all")])
def test_networks_of_transformers_are_sampled_and_asked(make, parameters):
    network, labels = make(), torch.arange(12) % 3
    inputs = {"pixel_values": torch.randn(12, 1, 8, 8)}
    if make is small_bert:
        inputs = {"input_ids": torch.randint(20, (12, 6)), "attention_mask": torch.ones(12, 6, dtype=torch.long)}
    options = SHORT | {"steps": 20, "burn_in": 4, "thinning": 2, "chains": 2, "parameters": parameters}
    teacher = LangevinTeacher.fit(network, [{**inputs, "labels": labels}], **options)
    prediction = teacher.predict(inputs, 5)
    assert prediction.mean.shape == (12, teacher.num_classes) and (prediction.variance > 0).all()
    whole = dict(network.named_parameters())
    head = classification_head(network)[0]
    assert teacher.weights.keys() == (whole.keys() if parameters == "all" else {f"{head}.weight", f"{head}.bias"})
    with torch.no_grad():
        assert torch.isfinite(logits_of(network(**inputs))).all()


def test_it_labels_and_teaches_as_loaded(tmp_path):
    network, batches, _ = trained(20)
    teacher = LangevinTeacher.fit(network, batches, **SHORT)
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher", network=SmallNetwork(features=8))
    assert loaded.record == teacher.record
    rows = datasets.Dataset.from_dict({"x": batches[0][0].tolist()}).with_format("torch")
    labeled = [add_soft_labels(rows, each, num_samples=6, progress=False) for each in (teacher, loaded)]
    probs = [torch.as_tensor(each.with_format("torch")["teacher_probs"][:]) for each in labeled]
    assert probs[0].shape == (64, 3) and torch.equal(*probs)


HALVES = torch.tensor([0.5, 0.5])
TWO = {"targets": torch.ones(20, 2, 3) / 3}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"step_size": 0.0}, "step_size must be above 0 and finite, and it is 0"),
        ({"chains": 0}, "chains must be a whole number of at least 1, and it is 0"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"thinning": 0}, "thinning must be a whole number of at least 1, and it is 0"),
        ({"burn_in": 60}, "burn_in must be at least 0 and below the number of steps, 60, and it is 60"),
        ({"thinning": 6}, "thinning is 6: fewer than 8 samples a chain would be kept of the 40 steps"),
        ({"sampler": "nuts"}, "sampler is 'nuts'; it must be one of hmc, mala, sgld"),
        ({"batch_size": 8}, "batch_size is 8, and sampler is 'hmc': it must be 'sgld'"),
        ({"batch_size": 0, "sampler": "sgld"}, "batch_size must be a whole number of at least 1, and it is 0"),
        ({"posterior_temperature": 0.0}, "posterior_temperature must be above 0"),
        ({"prior_precision": 0.0}, "prior_precision must be above 0 and finite, and it is 0"),
        ({"student_temperature": -1.0}, "student_temperature must be above 0"),
        ({"label_weight": -1.0}, "label_weight must be at least 0 and finite, and it is -1"),
        ({"teacher_weight": math.nan}, "teacher_weight must be at least 0"),
        ({"label_weight": 0.0}, "label_weight is 0 and so is the teacher's"),
        ({"label_weight": 0.0, "teacher_weight": 0.0, "targets": torch.ones(20, 3) / 3}, "nothing would be learned"),
        ({"parameters": "tail"}, "parameters is 'tail'; it must be one of head, all"),
        ({"targets": torch.ones(19, 3) / 3}, r"targets must have the shape \[20, 3\], and it has \[19, 3\]"),
        ({"targets": torch.ones(20, 3)}, "targets must sum to one over the classes, and one row sums to 3"),
        ({"targets": torch.ones(20, 2, 4) / 4}, r"targets must have the shape \[20, 2, 3\], and it has \[20, 2, 4\]"),
        ({"targets": torch.ones(20, 0, 3)}, r"targets must have the shape \[20, 3\], and it has \[20, 0, 3\]"),
        ({"targets": torch.ones(20, 2, 3) / 2}, "targets must sum to one over the classes, and one row sums to 1.5"),
        ({"prior_strength": 0.0}, "prior_strength must be above 0 and finite, and it is 0"),
        ({"target_weights": HALVES}, r"of several teachers: they need targets \[N, M, C\]"),
        ({"target_weights": HALVES, "targets": torch.ones(20, 3) / 3}, "they need targets"),
        (TWO | {"target_weights": torch.ones(3) / 3}, r"target_weights must have the shape \[2\], and it has \[3\]"),
        (TWO | {"target_weights": torch.ones(19, 2) / 2}, r"must have the shape \[20, 2\], and it has \[19, 2\]"),
        (TWO | {"target_weights": torch.ones(2)}, "must sum to one over the teachers, and one row sums to 2"),
        (TWO | {"target_weights": torch.tensor([1.5, -0.5])}, "target_weights must be at least 0 and finite, .* -0.5"),
        ({"train": []}, "batches are empty"),
        ({"train": [], "parameters": "all"}, "batches are empty"),
        ({"train": [(torch.zeros(2, 4), torch.tensor([0, 3]))]}, "0 to 2.*from 0 to 3"),
        ({"network": SmallNetwork().requires_grad_(False), "parameters": "all"}, "requires a gradient"),
        ({"sampler": "sgld", "step_size": 1e9}, "a chain diverged: step_size 1e.09 is too large"),
    ],
)
def test_fit_refuses_bad_input(changed, words):
    arguments = {"network": SmallNetwork(), "train": in_batches(*points(20))} | SHORT | changed
    with pytest.raises(UserError, match=words):
        LangevinTeacher.fit(**arguments)


def test_inputs_of_different_sizes_are_refused_for_all_weights():
    batches = [
        {"input_ids": torch.randint(20, (3, size)), "attention_mask": torch.ones(3, size), "labels": torch.arange(3)}
        for size in (4, 6)
    ]
    LangevinTeacher.fit(small_bert(), batches, **SHORT)
    with pytest.raises(UserError, match="sizes differ between batches: pad all alike"):
        LangevinTeacher.fit(small_bert(), batches, parameters="all", **SHORT)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "as many samples of each parameter, at least 1; there are \\[\\]"),
        ({"head.weight": torch.zeros(0, 3, 5)}, "there are \\[0\\]"),
        ({"head.weight": torch.zeros(2, 3, 5), "head.bias": torch.zeros(3, 3)}, "there are \\[2, 3\\]"),
        ({"head.weight": torch.zeros(2, 3, 6)}, r"head.weight of shape \[2, 3, 6\] is not of this network"),
        ({"tail.weight": torch.zeros(2, 3, 5)}, "tail.weight of shape .* is not of this network"),
        ({"head.weight": torch.full((2, 3, 5), math.inf)}, "must be finite, and some of head.weight are not"),
    ],
)
def test_samples_of_another_network_are_refused(weights, words):
    with pytest.raises(UserError, match=words):
        LangevinTeacher(SmallNetwork(), weights)
