"""A Dirichlet student as a teacher: exact moments, draws that are its own, and folders that say what they hold."""

import pytest
import timm
import torch
from torch.distributions import Dirichlet
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from hf_bkd import DeterministicTeacher, DirichletStudent, EnsembleTeacher, Teacher, UserError
from hf_bkd.models.perceptron import Perceptron
from hf_bkd.models.problem_types import is_dirichlet, name_dirichlet
from hf_bkd.models.saving import load_network, save_network
from hf_bkd.teachers.loading import load_teacher
from hf_bkd.uncertainty import entropy_parts
from hf_bkd.utils.random import ExampleGenerator

D, C = 5, 3
INPUTS = {"features": torch.randn(4, D, generator=torch.Generator().manual_seed(0))}


@pytest.fixture
def student():
    torch.manual_seed(0)
    return DirichletStudent(Perceptron(D, C, [6]).eval())


def dirichlet(student):
    with torch.no_grad():
        return Dirichlet(student.network(**INPUTS).double().exp())


def test_mean_and_variance_are_exact_whatever_the_number_of_draws(student):
    exact = dirichlet(student)
    for number in (1, 7):
        answer = student.predict(INPUTS, number)
        assert answer.mean == pytest.approx(exact.mean, abs=1e-6)
        assert answer.variance == pytest.approx(exact.variance, abs=1e-6)


def test_draws_have_its_moments(student):
    samples = student.predict(INPUTS, 40_000, torch.Generator().manual_seed(0), return_samples=True).samples
    exact = dirichlet(student)
    assert samples.mean(dim=0) == pytest.approx(exact.mean, abs=0.01)
    assert samples.var(dim=0) == pytest.approx(exact.variance, abs=0.005)


def test_draws_belong_to_examples(student):
    ids = torch.arange(4)
    whole = student.predict(INPUTS, 3, ExampleGenerator(ids, 0), return_samples=True).samples
    half = {"features": INPUTS["features"][2:]}
    samples = student.predict(half, 3, ExampleGenerator(ids[2:], 0), return_samples=True).samples
    assert samples == pytest.approx(whole[:, 2:], abs=1e-5)


def test_temperatures(student):
    """The average is tempered exactly; draws one by one, whose average has no closed form."""
    mean = student.predict(INPUTS).mean
    student.temperature = 2.0
    root = mean.sqrt()
    assert student.predict(INPUTS).mean == pytest.approx(root / root.sum(dim=-1, keepdim=True), abs=1e-6)
    student.tempering = "per_sample"
    answer = student.predict(INPUTS, 50, torch.Generator().manual_seed(0), return_samples=True)
    assert answer.mean == pytest.approx(answer.samples.mean(dim=0), abs=1e-6)


def test_every_teacher_splits_its_entropy(student):
    network = student.network
    alone = DeterministicTeacher(network).uncertainty(INPUTS)
    assert alone.epistemic.abs().max() < 1e-6
    members = EnsembleTeacher([DeterministicTeacher(Perceptron(D, C, [6]).eval()) for _ in range(3)])
    drawn = members.predict(INPUTS, return_samples=True).samples
    assert members.uncertainty(INPUTS).epistemic == pytest.approx(entropy_parts(drawn).epistemic)
    many = student.predict(INPUTS, 40_000, torch.Generator().manual_seed(0), return_samples=True).samples
    assert student.uncertainty(INPUTS).epistemic == pytest.approx(entropy_parts(many).epistemic, abs=0.01)
    with pytest.raises(UserError, match="split for one of C classes"):
        DeterministicTeacher(network, likelihood="multi_label_classification").uncertainty(INPUTS)


def test_saved_and_loaded(student, tmp_path):
    student.save_pretrained(tmp_path / "saved")
    loaded = Teacher.from_pretrained(tmp_path / "saved")
    assert type(loaded) is DirichletStudent
    assert torch.equal(loaded.predict(INPUTS).mean, student.predict(INPUTS).mean)


def bert():
    config = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(**config, intermediate_size=8, num_labels=C))


@pytest.mark.parametrize(
    "network",
    [Perceptron(D, C, [6]), bert(), timm.create_model("cnn6_small", num_classes=C)],
    ids=lambda n: type(n).__name__,
)
def test_any_networks_folder_says_that_it_is_one(network, tmp_path):
    name_dirichlet(network, True)
    save_network(network, tmp_path / "network")
    loaded = load_network(tmp_path / "network")
    assert is_dirichlet(loaded)
    assert type(load_teacher(str(tmp_path / "network"))[0]) is DirichletStudent
    name_dirichlet(loaded, False)
    save_network(loaded, tmp_path / "plain")
    assert not is_dirichlet(load_network(tmp_path / "plain"))


def test_transformers_loads_it_as_it_is(tmp_path):
    network = bert().eval()
    name_dirichlet(network, True)
    save_network(network, tmp_path / "network")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "network").eval()
    ids = torch.tensor([[1, 2, 3]])
    assert plain(input_ids=ids).logits.detach() == pytest.approx(network(input_ids=ids).logits.detach(), abs=1e-6)
    assert plain.config.dirichlet_concentrations == "exp"


def test_other_kinds_are_refused():
    with pytest.raises(UserError, match="probabilities of one of C classes"):
        DirichletStudent(Perceptron(D, C, [6]), likelihood="multi_label_classification")
