"""Advice where it is unclear what is predicted: one class, several labels, numbers, or a class for each token."""

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Features, List, Value
from torch import nn

from hf_bkd import DeterministicTeacher, LaplaceTeacher, MultiTeacher, add_soft_labels
from hf_bkd.data.columns import find_label
from hf_bkd.data.labels import read_labels
from hf_bkd.data.preprocessors import preprocessor_for
from hf_bkd.likelihoods import Bernoulli, Gaussian

from ..data.test_token_labels import rows, tagger
from ..data.test_token_labels import teacher as tagging_teacher
from ..data.test_token_labels import tokenizer as tokenizer_of_pieces
from .following import advises, code, follow, refused
from .test_networks import INPUTS
from .test_training import argument
from .things import X, by_hand, labeled, linear, logged, points, same, trainer

MULTI, NUMBERS = Bernoulli.problem_type, Gaussian.problem_type
XS = torch.from_numpy(X)


def outputs(network=None):
    with torch.no_grad():
        return (network or linear())(XS)


def certain(labels, network=None, **settings):
    """What a Laplace posterior that is as good as a point answers."""
    batches = [(XS, torch.as_tensor(labels))]
    teacher = LaplaceTeacher.fit(network or linear(), batches, prior_precision=1e9, **settings)
    return teacher.predict(INPUTS).mean


@advises("the dataset has several columns of labels")
def test_the_other_columns_of_labels_are_removed():
    names = {"tags": ["a", "b"], "kinds": ["c", "d"]}
    features = Features({name: List(ClassLabel(names=each)) for name, each in names.items()})
    dataset = datasets.Dataset.from_dict({"tags": [[0]], "kinds": [[1]]}, features)
    assert (
        find_label(
            follow(code(refused(lambda: find_label(dataset)), r"pass (.*), or --label_column"), dataset=dataset)
        )
        == "tags"
    )


@advises("numbers, which may be the labels that are there")
def test_lists_of_whole_numbers_are_said_to_be_labels_or_numbers(tmp_path):
    lists = [[0, 1, 2], [2, 0, 1], [1, 0, 2], [2, 1, 0]]
    dataset = points(None).add_column("labels", lists)
    plain = {"kd_lambda": 0.0, "standardize_labels": False}
    train = lambda **settings: trainer(tmp_path, linear(), dataset, **plain, **settings)  # noqa: E731
    message = refused(train)
    squares = (outputs() - torch.tensor(lists)).square().mean().item()
    assert logged(train(problem_type=follow(code(message, r"or ('\w+')")))) == pytest.approx(squares)
    all_there = nn.functional.softplus(-outputs()).mean().item()
    assert logged(train(**argument(message))) == pytest.approx(all_there)


@advises("are the labels that are there or a zero or one for each")
def test_whole_numbers_of_a_stream_are_cast_to_what_they_are():
    features = Features({"labels": List(Value("int64"))})
    stream = datasets.Dataset.from_dict({"labels": [[0, 1]]}, features).to_iterable_dataset()
    message = refused(lambda: read_labels(stream, "labels", Bernoulli(), 2))
    classes = code(message, r"cast it to (datasets\.List\(datasets\.ClassLabel\(.*?\)\))").replace("...", "['a', 'b']")
    hot = code(message, r"or to (.*)")
    for feature, expected in ((follow(classes), [[1, 1]]), (follow(hot, C=2), [[0, 1]])):
        cast = stream.cast_column("labels", feature)
        given = next(iter(cast))["labels"]
        assert read_labels(cast, "labels", Bernoulli(), 2)([given]).tolist() == expected


@advises("the dataset has the columns of words")
def test_one_of_several_columns_of_words_is_renamed():
    dataset = datasets.Dataset.from_dict({"lemmas": [["new", "york"]], "forms": [["is"]]})
    make = lambda rows: preprocessor_for(tagger(), rows, tokenizer_of_pieces())  # noqa: E731
    given = follow(code(refused(lambda: make(dataset)), r"use (.*)"), dataset=dataset)
    assert make(given)(given[:])["input_ids"].tolist() == [[2, 5, 6, 3]]


@advises("weights by entropy mean nothing for regression")
def test_teachers_of_numbers_have_other_weights(tmp_path):
    members = {name: DeterministicTeacher(linear(seed), likelihood=NUMBERS) for seed, name in enumerate("ab")}
    message = refused(lambda: MultiTeacher(members, "entropy"))
    assert code(message, r"\((\w+)= of a MultiTeacher\)") == "weights"
    weights = follow(code(message, r"or ('\w+')"))
    mean = (outputs() + outputs(linear(1))) / 2
    same(MultiTeacher(members, weights=weights).predict(INPUTS).mean, mean)
    soft = labeled(points(None), MultiTeacher(members))
    numbers = {"problem_type": NUMBERS, "standardize_labels": False}
    train = lambda weights: trainer(tmp_path, linear(2), soft, teacher_weights=weights, **numbers)  # noqa: E731
    refused(lambda: train("entropy"))
    loss = logged(train(weights))
    assert loss == pytest.approx((outputs(linear(2)) - mean).square().mean().item(), 1e-4)


@advises("for class indices pass problem_type=")
def test_class_indices_are_said_to_be_such():
    message = refused(lambda: certain([0, 1, 2, 0], problem_type=MULTI))
    same(certain([0, 1, 2, 0], **argument(message)), by_hand(linear()))


@advises("for labels that are each there or not, or for numbers, pass")
def test_labels_of_several_are_said_to_be_such():
    one_hot = torch.eye(3)[[0, 1, 2, 0]]
    message = refused(lambda: certain(one_hot))
    same(certain(one_hot, **argument(message)), outputs().sigmoid())
    known = {"observation_variance": (1.0,) * 3}
    assert code(message, r"or '(\w+)'") == NUMBERS
    same(certain(one_hot, problem_type=Gaussian(**known)), outputs())


@advises("a network with one output can't tell classes apart")
def test_one_output_is_a_number_or_a_label(tmp_path):
    network = nn.Linear(3, 1)
    message = refused(lambda: certain([0, 1, 1, 0], network))
    number, label = argument(message), {"problem_type": code(message, r"or '(\w+)'")}
    hot = torch.tensor([0.0, 1.0, 1.0, 0.0])
    same(certain(hot, network, **label), outputs(network).sigmoid())
    dataset = points([0, 1, 1, 0])
    train = lambda **settings: trainer(tmp_path, network, dataset, kd_lambda=0.0, learning_rate=0.0, **settings)  # noqa: E731
    refused(train)
    squares = (outputs(network)[:, 0] - hot).square().mean().item()
    assert logged(train(**number)) == pytest.approx(squares)
    message = refused(lambda: DeterministicTeacher(network).predict(INPUTS))
    for settings, expected in ((number, outputs(network)), (label, outputs(network).sigmoid())):
        made = DeterministicTeacher(network, **{code(message, r"\((\w+)= "): settings["problem_type"]})
        same(made.predict(INPUTS).mean, expected)


@advises("labels that are each there or not must be 0 to 1")
def test_labels_beyond_one_are_numbers():
    labels = torch.eye(3)[[0, 1, 2, 0]] * 2
    message = refused(lambda: certain(labels, problem_type=MULTI))
    fitted = DeterministicTeacher.fit(linear(), [(XS, labels)], **argument(message, r"or pass (\w+=[\w.']+)"))
    same(fitted.predict(INPUTS).mean, outputs())
    same(fitted.predict(INPUTS).noise[0], (outputs() - labels).square().mean(dim=0))


@advises("the variance of the numbers around the network's is unknown")
def test_the_variance_of_numbers_is_passed():
    labels = torch.eye(3)[[0, 1, 2, 0]] * 2
    message = refused(lambda: certain(labels, problem_type=NUMBERS))
    name, value = code(message, r"or (problem_type=.*\))").split("=", 1)
    same(certain(labels, **{name: follow(value.replace("...", "1.0, 1.0, 1.0"))}), outputs())


@advises("holds the sum of the variances of several numbers")
def test_each_numbers_own_variance_is_stored(tmp_path):
    known = Gaussian(observation_variance=(1.0, 2.0, 4.0))
    teacher = LaplaceTeacher.fit(linear(), [(XS, outputs() + 1)], prior_precision=1e9, problem_type=known)
    numbers = {"problem_type": NUMBERS, "standardize_labels": False}
    train = lambda **settings: trainer(  # noqa: E731
        tmp_path, linear(1), labeled(points(None), teacher, **settings), **numbers
    )
    message = refused(lambda: train(variance="sum"))
    squares = (outputs(linear(1)) - outputs()).square() / torch.tensor([1.0, 2.0, 4.0])
    assert logged(train(**argument(message, r"with (variance='\w+')"))) == pytest.approx(
        squares.mean().item() / 2, 1e-4
    )


@advises("was made for the tokens of another tokenizer")
def test_a_student_of_tokens_has_the_teachers_tokenizer(tmp_path):
    soft = add_soft_labels(rows(), tagging_teacher(), storage="float32", progress=False)
    own, other = tokenizer_of_pieces(), tokenizer_of_pieces(do_lower_case=False)
    make = lambda **settings: trainer(tmp_path, still(), soft, kd_lambda=1.0, **settings)  # noqa: E731
    name = code(refused(lambda: make(processing_class=other)), r"pass (\w+)=")
    assert logged(make(**{name: own})) == pytest.approx(0, abs=1e-5)  # the student is the teacher's network


def still():
    network = tagger()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


@advises("the teacher predicts")
def test_labels_of_something_else_are_removed():
    network = linear()
    network.problem_type = NUMBERS
    dataset = points().cast_column("label", ClassLabel(names=["cat", "dog", "eel"]))
    teacher = DeterministicTeacher(network)
    given = follow(code(refused(lambda: labeled(dataset, teacher)), r"pass (dataset\.\w+\(.*?\))"), dataset=dataset)
    same(np.asarray(labeled(given, teacher)["teacher_mean"]), outputs())


@advises("the Laplace bridge is to a distribution over classes")
def test_labels_of_several_have_another_link():
    labels = torch.tensor([[1.0, 1.0, 0.0]] * 4)
    message = refused(lambda: certain(labels, problem_type=MULTI, link="bridge"))
    for link in (follow(code(message, r"use link=('\w+')")), follow(code(message, r"or ('\w+')"))):
        same(certain(labels, problem_type=MULTI, link=link), outputs().sigmoid(), 1e-3)


@advises("numbers: use structure='kron'")
def test_a_large_head_of_labels_has_another_structure(monkeypatch):
    monkeypatch.setattr("hf_bkd.teachers.row_curvature.MOST_NUMBERS", 5)
    labels = torch.tensor([[1.0, 1.0, 0.0]] * 4)
    message = refused(lambda: certain(labels, problem_type=MULTI, structure="full"))
    same(certain(labels, problem_type=MULTI, **argument(message, r"use (structure='\w+')")), outputs().sigmoid())


@advises("holds the sum of the variances of several numbers")
def test_variances_that_a_stream_brings_are_stored_in_full(tmp_path):
    network = linear()
    network.problem_type = NUMBERS
    unit = Gaussian(observation_variance=(1.0, 1.0, 1.0))
    fit = lambda prior: LaplaceTeacher.fit(network, [(XS, XS)], prior_precision=prior, problem_type=unit)  # noqa: E731
    teachers = {"wide": fit(1.0), "narrow": fit(100.0)}

    def train(**settings):
        soft = add_soft_labels(points(None), teachers, progress=False, **settings)
        own = {"problem_type": NUMBERS, "teacher_weights": "inverse_variance", "kd_lambda": 1.0}
        return logged(trainer(tmp_path, linear(1), soft.to_iterable_dataset(), **own))

    assert train(**argument(refused(lambda: train(variance="sum")), r"with (variance='\w+')")) > 0


@advises("has a label, so that nothing says of which kind these would be")
def test_a_column_without_any_label_is_cast_or_removed(tmp_path):
    network = linear()
    network.problem_type = MULTI
    soft = labeled(points(None), network)
    dataset = points(None).add_column("labels", [None] * 4)

    def evaluated(rows):
        own = trainer(tmp_path, linear(), soft, eval_dataset=rows, problem_type=MULTI, kd_lambda=1.0)
        return own.predict(rows).predictions

    message = refused(lambda: evaluated(dataset))
    for pattern in (r"pass (dataset\.\w+\('labels'\))", r"labels, (dataset\.cast_column\(.*\))"):
        same(evaluated(follow(code(message, pattern), dataset=dataset)), outputs())


@advises("mend the labels, or pass problem_type='regression' if they are numbers to predict")
def test_labels_with_decimals_are_numbers_to_predict(tmp_path):
    dataset = points([0.5, 1.0, 2.5, 0.0])
    message = refused(lambda: trainer(tmp_path, nn.Linear(3, 2), dataset, kd_lambda=0.0))
    given = argument(message, r"pass (problem_type='\w+')")
    trainer(tmp_path, nn.Linear(3, 2), dataset, kd_lambda=0.0, **given).train()  # a mean and a variance


@advises("which is none: leave these examples out of the batches")
def test_examples_without_a_label_are_left_out_of_batches():
    labels = torch.tensor([0, -100, 2, 0])
    message = refused(lambda: certain(labels))
    inputs, labels = follow(code(message, r"batches, (.*)").replace(" and ", ", "), inputs=XS, labels=labels)
    teacher = LaplaceTeacher.fit(linear(), [(inputs, labels)], prior_precision=1e9)
    same(teacher.predict(INPUTS).mean, by_hand(linear()), 1e-3)
