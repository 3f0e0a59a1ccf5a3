"""What a network's outputs mean: as it says, as somebody says of it, or as its labels tell."""

import pytest
import timm
import torch
import transformers
from torch import nn

from hf_bkd import MCDropoutTeacher, UserError
from hf_bkd.likelihoods import Bernoulli, Categorical, Gaussian
from hf_bkd.models.calling import check_logits, check_network
from hf_bkd.models.heads import head_data
from hf_bkd.models.perceptron import Perceptron
from hf_bkd.models.problem_types import likelihood_of
from hf_bkd.models.saving import load_network, save_network

MULTI, NUMBERS = Bernoulli.problem_type, Gaussian.problem_type


def bert(**settings):
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, **settings
    )
    return transformers.BertForSequenceClassification(config)


class Stated(nn.Sequential):
    """A plain network that states its number of outputs, as timm's do."""

    def __init__(self, outputs):
        super().__init__(nn.Linear(4, outputs))
        self.num_classes = outputs


def plain(outputs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, outputs))


def test_a_network_says_it_itself():
    assert likelihood_of(bert(num_labels=3)) == Categorical()
    assert likelihood_of(bert(num_labels=3, problem_type=MULTI)) == Bernoulli()
    assert likelihood_of(bert(num_labels=3, problem_type=NUMBERS)) == Gaussian()
    assert likelihood_of(bert(num_labels=1)) == Gaussian()  # transformers' own rule
    assert likelihood_of(bert(num_labels=1, problem_type=MULTI)) == Bernoulli()
    network = plain(3)
    network.problem_type = MULTI
    assert likelihood_of(network) == Bernoulli()


def test_somebody_says_it_of_a_network_that_doesnt():
    assert likelihood_of(plain(3), MULTI) == Bernoulli()
    assert likelihood_of(bert(num_labels=1), MULTI) == Bernoulli()
    known = Gaussian(observation_variance=(0.25,))
    assert likelihood_of(plain(1), known) == known
    assert likelihood_of(torch.compile(bert(num_labels=3, problem_type=MULTI), backend="eager")) == Bernoulli()
    with pytest.raises(UserError, match="is 'regression', and the Bert.* own is 'multi_label_classification'"):
        likelihood_of(bert(num_labels=3, problem_type=MULTI), NUMBERS)
    with pytest.raises(UserError, match="problem_type is 'multilabel'; it must be one of"):
        likelihood_of(plain(3), "multilabel")


@pytest.mark.parametrize("problem_type", [None, Categorical.problem_type])
def test_one_output_and_classes_are_refused_with_what_to_pass(problem_type):
    with pytest.raises(UserError, match="one output .*problem_type='regression' .*'multi_label_classification'"):
        likelihood_of(Stated(1), problem_type)
    assert likelihood_of(Stated(1), NUMBERS) == Gaussian()


def fitted(outputs, labels, problem_type=None):
    return head_data(plain(outputs), [(torch.randn(len(labels), 4), labels)], problem_type)


HOT = torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("outputs", "labels", "expected"),
    [
        (3, torch.tensor([0, 2, 1]), Categorical()),
        (3, HOT, Bernoulli()),
        (3, HOT.double(), Bernoulli()),
        (3, torch.tensor([[0.5, 3.0, -1.0]]), Gaussian()),
        (6, torch.tensor([[0.5, 3.0, -1.0]]), Gaussian(predicts_variance=True)),
        (1, torch.tensor([0.5, 3.0]), Gaussian()),
        (2, torch.tensor([0.5, 3.0]), Gaussian(predicts_variance=True)),
    ],
)
def test_labels_tell_it_where_nobody_says_it(outputs, labels, expected):
    data = fitted(outputs, labels)
    assert data.likelihood == expected
    if expected != Categorical():
        torch.testing.assert_close(data.labels, labels.float().reshape(len(labels), -1), check_dtype=False)


@pytest.mark.parametrize(
    ("outputs", "labels", "problem_type", "words"),
    [
        (1, torch.tensor([0, 1, 0]), None, "one output can't tell classes apart: pass problem_type='regression'"),
        (1, torch.tensor([0.0, 1.0, 0.0]), None, "one output can't tell classes apart"),
        (3, torch.tensor([0, 2, 1]), MULTI, "labels must be 0 or 1 for each .*int64 of shape \\[3\\]: for class ind"),
        (3, HOT.float(), "single_label_classification", "labels must be class indices .*pass problem_type='multi_lab"),
        (3, HOT.float() * 2, MULTI, "must be 0 to 1, and one of them is 2"),
        (3, HOT.float() * float("nan"), MULTI, "must be 0 to 1, and one of them is nan"),
        (
            3,
            torch.eye(3),
            None,
            "labels must be class indices .N., not torch.float32 .*pass problem_type='multi_label",
        ),
        (4, HOT, MULTI, "an example has 3 labels, and the network predicts 4"),
        (3, torch.tensor([0, 2, 1]), NUMBERS, "an example has 1 labels, and the network predicts 3"),
        (1, torch.tensor([0.5, float("nan")]), NUMBERS, r"must be finite and up to 1e\+18, and one of them is nan"),
        (1, torch.tensor([0.5, float("inf")]), None, r"must be finite and up to 1e\+18, and one of them is inf"),
        (3, torch.tensor([[0.5, 1.0]]), NUMBERS, "an example has 2 labels, and the network predicts 3"),
        (2, torch.ones(2, 2), Gaussian((0.1,)), "observation_variance has 1 entries, and there are 2 labels"),
    ],
)
def test_labels_of_another_kind_are_refused(outputs, labels, problem_type, words):
    with pytest.raises(UserError, match=words):
        fitted(outputs, labels, problem_type)


def test_soft_labels_may_be_labels_of_several():
    soft = torch.tensor([[0.2, 0.9, 0.0]])
    assert torch.equal(fitted(3, soft, MULTI).labels, soft)


def test_of_answers_for_each_token_the_labeled_ones_count():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x)

    network, x = Tokens(), torch.randn(2, 5, 4)
    labels = torch.tensor([[-100, 0, 1, 2, -100], [-100, 1, -100, -100, -100]])
    data = head_data(network, [(x, labels)])
    assert data.labels.tolist() == [0, 1, 2, 1]
    assert torch.equal(data.features, torch.stack([x[0, 1], x[0, 2], x[0, 3], x[1, 1]]))
    torch.testing.assert_close(data.logits, network(data.features))


def test_probabilities_of_labels_are_told_from_logits():
    logits = torch.linspace(-3, 2, 30).view(10, 3)
    with pytest.raises(UserError, match="returns probabilities, and logits are needed: leave out the softmax or sig"):
        check_logits(logits.sigmoid(), plain(3), Bernoulli())
    for fine in (logits, torch.rand(10, 3) * 0.1, torch.rand(2, 3)):  # a new network's logits are near 0
        check_logits(fine, plain(3), Bernoulli())
    check_logits(logits.sigmoid(), plain(3), Gaussian())


@pytest.mark.parametrize("kind", ["plain", "timm", "ours"])
def test_a_saved_network_says_it_again(kind, tmp_path):
    made = {
        "plain": lambda: plain(3),
        "timm": lambda: timm.create_model("cnn6_small", num_classes=3),
        "ours": lambda: Perceptron(4, 3),
    }
    network = made[kind]()
    network.problem_type = MULTI
    save_network(network, tmp_path / "n")
    again = load_network(tmp_path / "n", made[kind]() if kind == "plain" else None)
    assert likelihood_of(again) == Bernoulli()
    save_network(made[kind](), tmp_path / "other")
    assert likelihood_of(load_network(tmp_path / "other", made[kind]())) == Categorical()
    if kind == "timm":
        theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "n")
        assert likelihood_of(theirs) == Bernoulli()


def test_a_sigmoid_or_softmax_at_the_end_shows_in_the_first_two_examples():
    x = torch.randn(2, 4)
    for end, likelihood in ((nn.Sigmoid(), Bernoulli()), (nn.Softmax(dim=-1), Bernoulli())):
        with pytest.raises(UserError, match="returns probabilities, and logits are needed"):
            check_network(nn.Sequential(*plain(3), end), x, likelihood)
    check_network(nn.Sequential(*plain(3), nn.Sigmoid()), x, Gaussian())  # numbers in [0, 1]
    check_network(plain(3), x, Bernoulli())


def test_outputs_without_a_dimension_of_their_own_are_refused():
    class Squeezed(nn.Linear):
        def forward(self, x):
            return super().forward(x).squeeze(-1)

    with pytest.raises(UserError, match="shape .2., and they must be .examples, outputs.: return .examples, 1. for"):
        MCDropoutTeacher(Squeezed(4, 1), likelihood=NUMBERS).predict(torch.randn(2, 4))
