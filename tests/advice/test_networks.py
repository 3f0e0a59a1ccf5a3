"""Advice about networks, teachers and their saved folders."""

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn

from hf_bkd import (
    IVON,
    DeterministicTeacher,
    EnsembleTeacher,
    LangevinTeacher,
    LaplaceTeacher,
    MCDropoutTeacher,
    MultiTeacher,
    VariationalTeacher,
    make_variational,
)
from hf_bkd.models.saving import load_network, save_network
from hf_bkd.teachers import MCDropout
from hf_bkd.training.sharpness import sharpness

from ..properties.texts import tokenizer_of
from .following import advises, code, follow, refused
from .things import (
    X,
    answers,
    bert,
    by_hand,
    labeled,
    linear,
    pictures,
    points,
    same,
    stored,
    texts,
    tokenizer,
)

INPUTS = {"input": torch.from_numpy(X)}
SHORT = {"steps": 600, "burn_in": 200, "chains": 2, "prior_precision": 1.0}
BATCHES = [(torch.from_numpy(X), torch.tensor([0, 1, 2, 0]))]


@advises("was built without a classification head")
def test_a_network_without_a_head_is_built_with_one():
    message = refused(lambda: DeterministicTeacher(timm.create_model("test_resnet", num_classes=0)))
    network = timm.create_model("test_resnet", **{code(message, r"(\w+)= of timm"): 3}).eval()
    dataset = pictures(size=32)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    by_timm = torch.stack([transform(image) for image in dataset["image"][:]])
    same(stored(labeled(dataset, network)), by_hand(network, by_timm))


class Dropping(nn.Linear):
    passed = "{}"  # to dropout, as code

    def forward(self, x):
        return F.dropout(super().forward(x), 0.5, **follow(self.passed, self=self))


@advises("draws random numbers in evaluation mode")
def test_dropout_is_told_the_mode():
    network = Dropping(3, 3)
    message = refused(lambda: labeled(points(), network))
    assert follow(code(message, r"or take (\w+)"))(network).predict(INPUTS, 5).variance.min() > 0
    network.passed = f"dict({code(message, r'give F.dropout (.*?),')})"
    logits = X @ network.weight.detach().numpy().T + network.bias.detach().numpy()
    same(stored(labeled(points(), network)), torch.from_numpy(logits).double().softmax(-1))


@advises("holds the weights of a plain nn.Module")
def test_a_plain_network_is_built_for_its_weights(tmp_path):
    save_network(nn.Sequential(linear(), nn.Identity()), tmp_path / "saved")
    name = code(refused(lambda: load_network(tmp_path / "saved")), r"pass (\w+)=")
    same(
        by_hand(load_network(tmp_path / "saved", **{name: nn.Sequential(linear(5), nn.Identity())})), by_hand(linear())
    )


@advises("holds no weights in safetensors, and pickled ones")
def test_pickled_weights_are_written_anew(tmp_path):
    model = bert()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    call = code(refused(lambda: load_network(tmp_path)), r"with (model\.\w+\(folder\))")
    follow(call, model=model, folder=tmp_path)
    same(answers(load_network(tmp_path)), answers(bert()))


@advises("the members must be teachers, and one is a")
def test_a_network_becomes_a_teacher():
    network = linear()
    member = follow(code(refused(lambda: EnsembleTeacher([network])), r"pass (.*) for"), network=network)
    same(EnsembleTeacher([member]).predict(INPUTS).mean, by_hand(network))


@advises("prepare examples differently")
def test_members_are_given_one_tokenizer():
    members = [DeterministicTeacher(bert(seed=seed)) for seed in range(2)]
    members[0].processing_class, members[1].processing_class = tokenizer(), tokenizer_of(False, pad_token="[PAD]")
    name = code(refused(lambda: labeled(texts(), EnsembleTeacher(members))), r"pass (\w+)= for all")
    soft = labeled(texts(), EnsembleTeacher(members), **{name: tokenizer()})
    same(stored(soft), (answers(bert()) + answers(bert(seed=1))) / 2)


@advises("weights needs their number squared in memory")
def test_a_large_head_has_another_structure(monkeypatch):
    monkeypatch.setattr("hf_bkd.teachers.curvature.MOST_FULL_WEIGHTS", 5)
    fit = lambda **settings: LaplaceTeacher.fit(linear(), BATCHES, prior_precision=1e9, **settings)  # noqa: E731
    name, value = code(refused(lambda: fit(structure="full")), r"use (\w+='\w+')").split("=")
    same(fit(**{name: follow(value)}).predict(INPUTS).mean, by_hand(linear()))  # so narrow a posterior has one answer


@advises("all draws are the same, so this network has no dropout")
def test_a_network_is_made_with_dropout():
    make = lambda **settings: timm.create_model("test_resnet", num_classes=3, **settings)  # noqa: E731
    inputs = torch.randn(2, 3, 32, 32)
    name = code(refused(lambda: MCDropoutTeacher(make()).predict(inputs, 3)), r"(\w+)= of timm's")
    assert (MCDropoutTeacher(make(**{name: 0.5})).predict(inputs, 5).variance > 0).any()


@advises("filter_wise drops a share of the channels, and nobody says which")
def test_the_share_of_dropped_filters_is_given():
    name, value = code(refused(lambda: MCDropout(filter_wise=True)), r"pass (\w+=[\d.]+)").split("=")
    assert MCDropout(filter_wise=True, **{name: follow(value)}).drop_rate == 0.1


@advises("IVON's gradients are those at a draw")
def test_weights_are_drawn_before_the_backward_pass():
    network = linear()
    optimizer = IVON(network.parameters(), lr=0.1, ess=4)

    def step():
        F.cross_entropy(network(BATCHES[0][0]), BATCHES[0][1]).backward()
        optimizer.step()

    call = code(refused(step), r"call (\w+\(\))")
    optimizer.zero_grad()
    follow(f"optimizer.{call}", optimizer=optimizer)
    step()
    assert not torch.equal(network.weight, linear().weight)


@advises("requires a gradient: network.requires_grad_(True)", "requires a gradient: model.requires_grad_(True)")
def test_frozen_weights_are_unfrozen():
    network = linear().requires_grad_(False)
    fit = lambda: LangevinTeacher.fit(network, BATCHES, parameters="all", **SHORT)  # noqa: E731
    follow(code(refused(fit), r"(network\.requires_grad_\(True\))"), network=network)
    assert (fit().predict(INPUTS, 5).variance > 0).all()
    model = linear().requires_grad_(False)
    follow(code(refused(lambda: sharpness(model, BATCHES)), r"(model\.requires_grad_\(True\))"), model=model)
    assert sharpness(model, BATCHES).trace > 0


@advises("the members know different numbers of classes")
def test_a_member_of_other_classes_is_mapped():
    teacher = DeterministicTeacher(nn.Linear(3, 2))
    call = code(refused(lambda: MultiTeacher({"a": DeterministicTeacher(linear()), "b": teacher})), r"as (ClassMap.*)")
    both = MultiTeacher(
        {"a": DeterministicTeacher(linear()), "b": follow(call, teacher=teacher, classes=[0, 2], num_classes=3)}
    )
    mapped = by_hand(teacher.network)
    expected = np.stack([mapped[:, 0], np.zeros(4), mapped[:, 1]], axis=1)
    same(both.predict(INPUTS).mean, (by_hand(linear()) + expected) / 2)


@advises("a linear layer cannot be replaced in itself")
def test_a_single_layer_is_put_into_a_network():
    layer = linear()
    call = code(refused(lambda: make_variational(layer)), r"as (nn\..*)")
    network = make_variational(follow(call, layer=layer), initial_std=1e-6)
    same(VariationalTeacher(network).predict(INPUTS).mean, by_hand(linear()), 1e-4)


@advises("this network has no posterior: pass it through make_variational")
def test_a_posterior_is_that_of_the_optimizer():
    network = linear()
    optimizer = IVON(network.parameters(), lr=0.0, ess=4, hess_init=1e12)
    optimizer.perturb()
    F.cross_entropy(network(BATCHES[0][0]), BATCHES[0][1]).backward()
    optimizer.step()
    message = refused(lambda: VariationalTeacher(network))
    name, value = code(message, r"pass (std=.*)").split("=", 1)
    teacher = VariationalTeacher(network, **{name: follow(value, optimizer=optimizer, network=network)})
    same(teacher.predict(INPUTS, 20).mean, by_hand(network), 1e-3)


class TwoHeads(nn.Module):
    """Its logits come from the head that is made first."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.auxiliary = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, input):
        return self.head(input), self.auxiliary(input)


@advises("and the logits come from")
def test_a_posterior_is_made_over_the_head_that_answers():
    network = make_variational(TwoHeads())
    assert type(network.auxiliary) is not nn.Linear
    message = refused(lambda: VariationalTeacher(network).predict(INPUTS))
    call = code(message, r"(make_variational\(.*\)) before").replace("a few examples' inputs", "INPUTS")
    made = follow(call, network=TwoHeads(), INPUTS=INPUTS)
    same(VariationalTeacher(made).predict(INPUTS, 4000).mean, by_hand(TwoHeads().head), 2e-2)
