"""Advice about making, importing and reading soft labels."""

import datasets
import numpy as np
import pytest
import torch

from hf_bkd import CropAndFlip, DeterministicTeacher, ImagePreprocessor, Views, import_soft_labels
from hf_bkd.data.preprocessors import preprocessor_for

from .following import advises, code, follow, refused
from .things import (
    Seeing,
    X,
    answers,
    bert,
    by_hand,
    labeled,
    linear,
    logged,
    pictures,
    pixels,
    points,
    same,
    stored,
    texts,
    tokenizer,
    trainer,
)


def divergence(target, own):
    return float((target * (np.log(target) - np.log(own))).sum(axis=1).mean())


class Bare:
    """Somebody's teacher, which is no `hf_bkd.Teacher`."""

    def __init__(self, teacher):
        self.predict, self.describe, self.num_classes = teacher.predict, teacher.describe, teacher.num_classes


@advises("doesn't say what its network reads: pass preprocessor= instead")
def test_a_teacher_of_ones_own_is_given_a_preprocessor():
    dataset, teacher = texts(), Bare(DeterministicTeacher(bert()))
    name = code(refused(lambda: labeled(dataset, teacher, processing_class=tokenizer())), r"pass (\w+)=")
    read_by = preprocessor_for(bert(), dataset, tokenizer())
    same(stored(labeled(dataset, teacher, **{name: read_by})), answers(bert()))


@advises("loses the small probabilities", "holds no probability below")
def test_labels_are_made_at_a_higher_temperature(tmp_path):
    dataset, teacher, student = points(), DeterministicTeacher(linear()), linear(1)
    for storage, wanted in (("float16", 2.0), ("float32", 50.0)):
        teacher.temperature = 1.0

        def training(made):
            return trainer(tmp_path, linear(1), made, teacher_temperature=wanted, temperature_scale="none")  # noqa: B023

        message = refused(lambda: training(labeled(dataset, teacher, storage=storage)))  # noqa: B023
        expected = divergence(by_hand(linear(), temperature=wanted), by_hand(student))
        if storage == "float16":
            name, value = code(message, r"or with (.*)").split("=")
            assert logged(training(labeled(dataset, teacher, **{name: follow(value)}))) == pytest.approx(
                expected, 1e-4
            )
        follow(code(message, r"label with (teacher\.temperature = \d+)"), teacher=teacher)
        made = training(labeled(dataset, teacher, storage=storage))
        assert logged(made) == pytest.approx(expected, 2e-3, 1e-5)


@advises("of its own, a name that soft labels need")
def test_a_column_of_a_reserved_name_is_renamed():
    dataset, network = points(example_id=[7, 8, 9, 10]), linear()
    call = code(refused(lambda: labeled(dataset, network)), r"pass (.*)")
    soft = labeled(follow(call, dataset=dataset), network)
    same(stored(soft), by_hand(network))
    assert soft["own_example_id"][:] == [7, 8, 9, 10]


@advises("; add it with add_soft_labels(dataset, teacher)")
def test_soft_labels_that_are_missing_are_added():
    dataset = points()
    call = code(refused(lambda: stored(dataset)), r"add it with (.*)")
    same(stored(follow(call, dataset=dataset, teacher=DeterministicTeacher(linear()))), by_hand(linear()), 1e-3)


@advises("views that are labeled need a number", "views are made of images")
def test_views_are_given_a_number_and_an_image_preprocessor():
    dataset, network = pictures(), Seeing()
    settings = {"processing_class": ImagePreprocessor((0.5,) * 3, (0.5,) * 3)}
    call = code(refused(lambda: labeled(dataset, network, views=Views(CropAndFlip(0)), **settings)), r"pass (.*)")
    views = follow(call.replace("...", "CropAndFlip(0)"), V=2)
    assert views.num_views == 2
    function = {"preprocessor": lambda rows: {"x": pixels(datasets.Dataset.from_dict(rows, dataset.features))}}
    message = refused(lambda: labeled(dataset, network, views=views, **function))
    name, value = code(message, r"or (\w+=.*)").replace("...", "(0.5,) * 3, (0.5,) * 3").split("=", 1)
    plain, turned = by_hand(network, pixels(dataset)), by_hand(network, pixels(dataset).flip(-1))
    for row, given in enumerate(
        np.asarray(labeled(dataset, network, views=views, **{name: follow(value)})["teacher_probs"])
    ):
        for each in given.reshape(2, 3):  # a crop without padding is the image, turned or not
            assert min(abs(each - plain[row]).max(), abs(each - turned[row]).max()) < 1e-5


@advises("are no probabilities (the first")
def test_values_that_are_logits_are_imported_as_such():
    dataset = points(id=list("abcd"))
    imported = lambda **kind: import_soft_labels(dataset, X, list("abcd"), "id", storage="float32", **kind)  # noqa: E731
    name, value = code(refused(lambda: imported(kind="probs")), r"pass (\w+='\w+')").split("=")
    same(stored(imported(**{name: follow(value)})), torch.from_numpy(X).double().softmax(-1))


@advises("the stream doesn't say what its columns are, as after map", "the features of the stream don't tell how many")
def test_a_stream_is_told_its_features(tmp_path):
    stream = labeled(points(), linear()).to_iterable_dataset()
    expected = divergence(by_hand(linear()), by_hand(linear(1)))
    message = refused(lambda: trainer(tmp_path, linear(1), stream.map(lambda row: row)))
    mapped = follow(f"stream.{code(message, r'pass (map.*?), with').replace('...', 'lambda row: row')}", stream=stream)
    assert logged(trainer(tmp_path, linear(1), mapped, per_device_train_batch_size=4)) == pytest.approx(expected, 1e-4)
    settings = {"allow_unrecorded_labels": True, "per_device_train_batch_size": 4}
    loose = points(teacher_probs=by_hand(linear()).tolist()).to_iterable_dataset()
    feature = code(
        refused(lambda: trainer(tmp_path, linear(1), loose, **settings)), r"cast the column to (.*), or load"
    )
    cast = loose.cast_column("teacher_probs", follow(feature, C=3))
    assert logged(trainer(tmp_path, linear(1), cast, **settings)) == pytest.approx(expected, 1e-4)


@advises("the training set has no teacher_probs column")
def test_without_soft_labels_it_is_plain_training(tmp_path):
    name, value = code(refused(lambda: trainer(tmp_path, linear(), points())), r"train with (.*)").split("=")
    hard = -np.log(by_hand(linear())[range(4), [0, 1, 2, 0]]).mean()
    assert logged(trainer(tmp_path, linear(), points(), **{name: follow(value)})) == pytest.approx(hard, 1e-4)
