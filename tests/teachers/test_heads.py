"""Posteriors over the head of networks whose head has to be watched: decoders, several heads, compiled ones."""

import pytest
import torch

from hf_bkd import DeterministicTeacher, LaplaceTeacher, UserError, VariationalTeacher, make_variational
from tests.models.test_networks import TwoHeads, decoder

IDS = torch.randint(5, 60, (12, 7), generator=torch.Generator().manual_seed(1))
TEXTS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
LABELS = torch.arange(12) % 3
POINTS = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))


def test_a_decoder_has_a_laplace_posterior_over_its_score():
    network = decoder()
    teacher = LaplaceTeacher.fit(network, [{**TEXTS, "labels": LABELS}], prior_precision=1e6)
    torch.testing.assert_close(teacher.predict(TEXTS).mean, network(**TEXTS).logits.softmax(-1), rtol=0, atol=1e-4)
    wide = LaplaceTeacher.fit(network, [{**TEXTS, "labels": LABELS}], prior_precision=1e-2)
    assert (wide.predict(TEXTS).mean.max(dim=1).values < teacher.predict(TEXTS).mean.max(dim=1).values).all()


def test_a_decoder_is_trained_and_predicts_with_a_variational_head():
    network = make_variational(decoder(), "head")
    teacher = VariationalTeacher(network)
    answer = teacher.predict(TEXTS, 2_000, torch.Generator().manual_seed(0))
    assert answer.mean.shape == (12, 3) and (answer.variance > 0).all()


def test_of_two_heads_the_one_that_makes_the_logits_varies_if_a_batch_is_shown():
    torch.manual_seed(0)
    network = make_variational(TwoHeads(), "head", inputs=POINTS)
    assert type(network.head).__name__ == "VariationalLinear" and type(network.aux).__name__ == "Linear"
    assert (VariationalTeacher(network).predict(POINTS, 5).variance > 0).all()
    unseen = VariationalTeacher(make_variational(TwoHeads(), "head"))
    with pytest.raises(UserError, match="over the weights of 'aux', and the logits come from 'head': .*inputs="):
        unseen.predict(POINTS)


def test_of_two_heads_laplace_takes_the_one_that_makes_the_logits(tmp_path):
    torch.manual_seed(0)
    network = TwoHeads().eval()
    teacher = LaplaceTeacher.fit(network, [(POINTS, LABELS)], prior_precision=1e6)
    torch.testing.assert_close(teacher.predict(POINTS).mean, network(POINTS)[0].softmax(-1), rtol=0, atol=1e-4)
    teacher.save_pretrained(tmp_path / "t")
    again = LaplaceTeacher.from_pretrained(tmp_path / "t", network=TwoHeads())
    assert torch.equal(again.predict(POINTS).mean, teacher.predict(POINTS).mean)


def test_a_compiled_network_is_taught_by_as_the_network_that_it_is(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
    compiled = torch.compile(network, backend="eager")
    compiled(POINTS)
    for build in (
        DeterministicTeacher,
        lambda net: LaplaceTeacher.fit(net, [(POINTS, LABELS)], prior_precision=1.0),
        lambda net: DeterministicTeacher.fit(net, [(POINTS, LABELS)]),
    ):
        plain, ours = build(network), build(compiled)
        assert torch.equal(ours.predict(POINTS).mean, plain.predict(POINTS).mean)
        assert ours.fingerprint() == plain.fingerprint()
