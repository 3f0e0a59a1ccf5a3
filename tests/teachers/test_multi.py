"""Several named teachers: their weighted mean, their columns, their files; and teachers of other classes."""

import datasets
import numpy as np
import pytest
import torch

from hf_bkd import (
    ClassMap,
    DeterministicTeacher,
    EnsembleTeacher,
    LaplaceTeacher,
    MultiTeacher,
    Teacher,
    UserError,
    add_soft_labels,
    check_against_teacher,
)
from hf_bkd.soft_labels import read
from hf_bkd.soft_labels.record import TeacherRecord
from hf_bkd.targets import entropy_weights
from hf_bkd.utils.random import ExampleGenerator
from tests.teachers.teacher_helpers import SmallNetwork, in_batches, points

X, Y = points(12)


def network(classes: int = 3, seed: int = 0) -> SmallNetwork:
    torch.manual_seed(seed)
    return SmallNetwork(classes=classes, scale=3).eval()


def drawing(seed: int = 1, **settings) -> LaplaceTeacher:
    fitted = LaplaceTeacher.fit(network(seed=seed), in_batches(*points(40)), prior_precision=2.0, link="mc")
    return LaplaceTeacher(fitted.network, fitted.curvature, 2.0, "mc", **settings)


def members() -> dict[str, Teacher]:
    return {"sure": DeterministicTeacher(network(), temperature=0.5), "broad": drawing()}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def answers(teachers: dict[str, Teacher]):
    shared = generator()
    return [teacher.predict(X, 6, shared, True) for teacher in teachers.values()]


def test_equal_and_entropy_weights_make_the_mean_and_its_variance():
    first, second = answers(members())
    for weights in ("equal", "entropy"):
        teacher = MultiTeacher(members(), weights)
        actual = teacher.predict(X, 6, generator(), True)
        means = torch.stack([first.mean, second.mean], dim=1)
        each = entropy_weights(means) if weights == "entropy" else torch.full((12, 2), 0.5)
        mean = (each[..., None] * means).sum(dim=1)
        torch.testing.assert_close(actual.mean, mean)
        squares = each.square().sum(dim=1, keepdim=True)
        spread = (each[..., None] * (means - mean[:, None]).square()).sum(dim=1) / (1 - squares)
        torch.testing.assert_close(actual.variance / teacher.num_draws(6), spread * squares)
        assert actual.samples.shape == (12, 12, 3)


def test_inverse_variance_weights_are_those_of_the_members_means():
    teachers = {"a": drawing(1), "b": EnsembleTeacher([drawing(2), drawing(3)])}
    a, b = answers(teachers)
    actual = MultiTeacher(teachers, "inverse_variance").predict(X, 6, generator())
    va, vb = a.variance.sum(dim=1) / 6, b.variance.sum(dim=1) / 2
    expected = (a.mean / va[:, None] + b.mean / vb[:, None]) / (1 / va + 1 / vb)[:, None]
    torch.testing.assert_close(actual.mean, expected)
    with pytest.raises(UserError, match="inverse variances need teachers that draw, and these don't: sure"):
        MultiTeacher(members(), "inverse_variance").predict(X, 6, generator())


def test_its_temperature_comes_on_top_of_the_members():
    plain = MultiTeacher(members()).predict(X, 6, generator()).mean
    actual = MultiTeacher(members(), temperature=2.0).predict(X, 6, generator()).mean
    torch.testing.assert_close(actual, plain.sqrt() / plain.sqrt().sum(dim=-1, keepdim=True))


@pytest.mark.parametrize("weights", ["equal", "entropy"])
def test_is_saved_and_loaded(tmp_path, weights):
    teacher = MultiTeacher(members(), weights)
    teacher.save_pretrained(tmp_path / "t")
    loaded = Teacher.from_pretrained(tmp_path / "t", network=network())
    assert isinstance(loaded, MultiTeacher) and list(loaded.members) == ["sure", "broad"]
    for mine, theirs in zip(teacher.predict(X, 4, generator()), loaded.predict(X, 4, generator()), strict=True):
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert loaded.fingerprint() == teacher.fingerprint()
    assert MultiTeacher(dict(reversed(members().items())), weights).fingerprint() != teacher.fingerprint()
    assert loaded.draw_logits(X, 4, generator()).shape == (8, 12, 3)


def rows() -> datasets.Dataset:
    features = {"x": datasets.List(datasets.Value("float32")), "label": datasets.ClassLabel(num_classes=3)}
    data = {"x": X.tolist(), "label": Y.tolist()}
    return datasets.Dataset.from_dict(data, features=datasets.Features(features)).with_format("torch")


def test_each_member_labels_the_dataset_under_its_name(tmp_path):
    teachers = members()
    options = {"storage": "float32", "progress": False, "seed": 3}
    labeled = add_soft_labels(rows(), MultiTeacher(teachers, "entropy"), 6, folder=tmp_path / "shards", **options)
    for name, teacher in teachers.items():
        alone = read(add_soft_labels(rows(), teacher, 6, name=name, **options), name)
        actual = read(labeled, name)
        assert torch.equal(actual.probs, alone.probs)
        assert actual.record.teacher == alone.record.teacher
    assert "teacher_variance__broad" in labeled.column_names and "teacher_variance__sure" not in labeled.column_names
    MultiTeacher(teachers).save_pretrained(tmp_path / "t")
    with pytest.raises(UserError, match="name their labels themselves"):
        add_soft_labels(rows(), MultiTeacher(teachers), name="both", **options)
    by_name = add_soft_labels(rows(), teachers, 6, **options)
    assert all(torch.equal(read(by_name, name).probs, read(labeled, name).probs) for name in teachers)
    with pytest.raises(UserError, match="that aren't streamed"):
        add_soft_labels(rows().to_iterable_dataset(), MultiTeacher(teachers), **options)


def test_teachers_of_different_names_draw_independently():
    """The same posterior under four names: the errors of four labelings don't correlate, and average as 1 / 4."""
    teacher = drawing()
    names = ["a", "b", "c", "d"]
    labeled = add_soft_labels(rows(), dict.fromkeys(names, teacher), 2, storage="float32", progress=False)
    exact = teacher.predict(X, 20_000, generator()).mean
    errors = torch.stack([read(labeled, name).probs.view(12, 3) - exact for name in names])
    ratio = errors.mean(dim=0).square().mean() / errors.square().mean()
    assert 0.1 < ratio < 0.5  # 1 / 4 expected, 1 if they share their draws
    again = add_soft_labels(rows(), teacher, 2, storage="float32", progress=False, name="c")
    assert torch.equal(read(again, "c").probs, read(labeled, "c").probs)
    assert check_against_teacher(labeled, teacher, name="b", tolerance=1e-6) <= 1e-6
    online = MultiTeacher(dict.fromkeys(names, teacher))
    stored = torch.stack([read(labeled, name).probs.view(12, 3) for name in names]).mean(dim=0)
    ids = torch.tensor(labeled.with_format(None)["example_id"][:])
    torch.testing.assert_close(online.predict(X, 2, ExampleGenerator(ids, 0)).mean, stored, rtol=0, atol=1e-6)


def test_a_class_map_moves_and_adds_probabilities():
    member = drawing()
    mapped = ClassMap(member, [4, 0, 4], num_classes=5)
    own, actual = member.predict(X, 6, generator(), True), mapped.predict(X, 6, generator(), True)
    draws = np.zeros((6, 12, 5))
    draws[..., 0] = own.samples[..., 1]
    draws[..., 4] = own.samples[..., 0] + own.samples[..., 2]
    np.testing.assert_allclose(actual.samples, draws, atol=1e-6)
    np.testing.assert_allclose(actual.mean, draws.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(actual.variance, draws.var(axis=0, ddof=1), atol=1e-6)
    assert TeacherRecord.from_json(mapped.describe()).draws(6) == mapped.num_draws(6) == 6
    single = ClassMap(DeterministicTeacher(network()), [0, 1, 2], 4)
    assert TeacherRecord.from_json(single.describe()).draws(6) == single.num_draws(6) == 1


def test_a_class_map_keeps_a_members_tempered_mean_and_is_saved(tmp_path):
    member = drawing(temperature=2.0)
    mapped = ClassMap(member, [2, 1, 0], 3)
    expected = member.predict(X, 6, generator()).mean[:, [2, 1, 0]]
    torch.testing.assert_close(mapped.predict(X, 6, generator()).mean, expected)
    mapped.save_pretrained(tmp_path / "t")
    loaded = Teacher.from_pretrained(tmp_path / "t", network=network())
    torch.testing.assert_close(loaded.predict(X, 6, generator()).mean, expected)
    assert loaded.fingerprint() == mapped.fingerprint() != ClassMap(member, [2, 0, 1], 3).fingerprint()


def test_teachers_of_other_classes_are_refused_without_a_map_and_welcome_with_one():
    two = DeterministicTeacher(network(classes=2))
    with pytest.raises(UserError, match=r"different numbers of classes \(\{'a': 3, 'b': 2\}\): wrap .* ClassMap"):
        MultiTeacher({"a": drawing(), "b": two})
    both = MultiTeacher({"a": drawing(), "b": ClassMap(two, [2, 0], 3)})
    assert both.num_classes == 3 and (both.predict(X, 3).mean[:, 1] > 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiTeacher({}), "needs at least one member"),
        (lambda: MultiTeacher({"a b": drawing()}), "a member is called 'a b'"),
        (lambda: MultiTeacher({"a__b": drawing()}), "a member is called 'a__b'"),
        (lambda: MultiTeacher(members(), "entropic"), "weights is 'entropic'; it must be one of equal, entropy"),
        (lambda: ClassMap(drawing(), [0, 1], 3), "classes has 2 entries, and the teacher knows 3 classes"),
        (lambda: ClassMap(drawing(), [0, 1, 3], 3), "classes must be in 0 to 2, and one of them is 3"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
