"""What is brought is served rightly or refused: classes of both sides are matched by name wherever they meet."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    EnsembleTeacher,
    LaplaceTeacher,
    MultiTeacher,
    UserError,
    add_soft_labels,
    create_classifier,
    make_variational,
)
from hf_bkd.soft_labels import check_against_teacher, read

NAMES = ["cat", "dog", "bird"]
FRENCH = ["chat", "chien", "oiseau"]
SCORES = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0], [3.0, 1.0, 0.0]], np.float32)  # by NAMES
PROBS = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)


class Config:
    """A config with names of classes, as transformers' have them."""

    def __init__(self, names):
        self.id2label, self.num_labels = dict(enumerate(names)), len(names)


class Network(nn.Module):
    """Its logits are the scores of a row times ``scale``, which stand in the order of its own classes."""

    def __init__(self, order=(0, 1, 2), names=NAMES, scale=1.0):
        super().__init__()
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data = scale * torch.eye(3)[list(order)]
        if names is not None:
            self.config = Config([names[place] for place in order])

    def forward(self, x):
        return self.head(x)


REVERSED = (2, 1, 0)


def rows(names=NAMES, labels=(0, 1, 2, 0)):
    """Rows of scores whose labels are numbered as ``names`` are; without labels if ``None``."""
    columns = {"x": SCORES.tolist()} | ({} if names is None else {"label": list(labels)})
    own = datasets.Dataset.from_dict(columns)
    return own if names is None else own.cast_column("label", datasets.ClassLabel(names=names))


def stored(dataset, name=None):
    return read(dataset, name).probs.numpy().reshape(len(dataset), -1)


def labeled(dataset, teacher, **settings):
    return add_soft_labels(dataset, teacher, storage="float32", progress=False, **settings)


class TestLabels:
    def test_stand_in_the_datasets_order_whatever_the_networks(self):
        for order in ((0, 1, 2), REVERSED, (1, 2, 0)):
            dataset = labeled(rows(), DeterministicTeacher(Network(order)))
            assert np.allclose(stored(dataset), PROBS, atol=1e-6)
            assert read(dataset).record.class_names == NAMES
            assert check_against_teacher(dataset, DeterministicTeacher(Network(order))) < 1e-6

    def test_variances_stand_in_that_order_too(self):
        fit = [{"x": torch.tensor(SCORES), "labels": torch.tensor([0, 1, 2, 0])}]
        reversed_fit = [{"x": torch.tensor(SCORES), "labels": torch.tensor([2, 1, 0, 2])}]
        teachers = (
            LaplaceTeacher.fit(Network(), fit, prior_precision=1.0, link="probit"),
            LaplaceTeacher.fit(Network(REVERSED), reversed_fit, prior_precision=1.0, link="probit"),
        )
        one, other = (labeled(rows(), EnsembleTeacher([each, DeterministicTeacher(Network())])) for each in teachers)
        assert np.allclose(one["teacher_variance"][:], other["teacher_variance"][:], atol=1e-5)
        assert np.allclose(stored(one), stored(other), atol=1e-5)

    def test_go_by_number_where_names_are_made_up_or_case_alone_differs(self):
        numbers = labeled(rows(["0", "1", "2"]), DeterministicTeacher(Network(REVERSED)))
        assert np.allclose(stored(numbers), PROBS[:, ::-1], atol=1e-6)
        made_up = labeled(rows(), DeterministicTeacher(Network(REVERSED, ["LABEL_2", "LABEL_1", "LABEL_0"])))
        assert np.allclose(stored(made_up), PROBS[:, ::-1], atol=1e-6)
        upper = labeled(rows(["CAT", "DOG", "BIRD"]), DeterministicTeacher(Network(REVERSED)))
        assert np.allclose(stored(upper), PROBS, atol=1e-6)

    def test_of_other_names_are_refused_and_the_advice_works(self):
        teacher = DeterministicTeacher(Network(names=FRENCH))
        with pytest.raises(
            UserError, match="the teacher has the classes chat, chien, oiseau, and the dataset cat"
        ) as e:
            labeled(rows(), teacher)
        advice = str(e.value).rpartition("pass ")[2]
        world = {"dataset": rows(), "datasets": datasets, "teacher": teacher}
        assert np.allclose(stored(labeled(eval(advice, world), teacher)), PROBS, atol=1e-6)

    def test_of_a_dataset_without_names_have_the_networks(self):
        dataset = labeled(rows(None), DeterministicTeacher(Network(REVERSED)))
        assert read(dataset).record.class_names == NAMES[::-1]
        assert np.allclose(stored(dataset), PROBS[:, ::-1], atol=1e-6)

    def test_of_several_teachers_have_one_order(self):
        both = {"a": DeterministicTeacher(Network()), "b": DeterministicTeacher(Network(REVERSED))}
        dataset = labeled(rows(), both)
        assert np.allclose(stored(dataset, "a"), PROBS, atol=1e-6)
        assert np.allclose(stored(dataset, "b"), PROBS, atol=1e-6)

    def test_go_on_in_the_order_that_began_them(self, tmp_path):
        teacher = DeterministicTeacher(Network(REVERSED))
        labeled(rows(), teacher, folder=tmp_path)
        assert np.allclose(stored(labeled(rows(), teacher, folder=tmp_path)), PROBS, atol=1e-6)
        with pytest.raises(UserError, match="another class order"):
            labeled(rows(NAMES[::-1], [2, 1, 0, 2]), teacher, folder=tmp_path)


def several(members):
    return MultiTeacher({f"t{number}": member for number, member in enumerate(members)})


class TestNumbersAsNames:
    """Folders called 0, 1 and 10 are listed in another order than they count in."""

    IN_ORDER, LISTED = ["0", "1", "2"], ["1", "2", "0"]

    @pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
    def test_are_matched_by_name_if_both_sides_have_them(self, order):
        teacher = DeterministicTeacher(Network(order, self.IN_ORDER))  # names that stand in order in the first case
        assert np.allclose(stored(labeled(rows(self.IN_ORDER), teacher)), PROBS, atol=1e-6)
        listed = labeled(rows(self.LISTED, [2, 0, 1, 2]), teacher)
        assert np.allclose(stored(listed), PROBS[:, [1, 2, 0]], atol=1e-6)
        assert check_against_teacher(listed, teacher) < 1e-6
        both = EnsembleTeacher([teacher, DeterministicTeacher(Network(REVERSED, self.IN_ORDER))])
        assert np.allclose(stored(labeled(rows(self.LISTED, [2, 0, 1, 2]), both)), PROBS[:, [1, 2, 0]], atol=1e-6)

    @pytest.mark.parametrize("online", [False, True])
    @pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
    def test_are_what_a_student_is_taught_by(self, order, online, tmp_path):
        teacher = DeterministicTeacher(Network((1, 2, 0), self.IN_ORDER))
        dataset = rows(self.LISTED, [2, 0, 1, 2])
        loss = first_loss(Network(order, self.IN_ORDER), dataset if online else labeled(dataset, teacher), tmp_path,
                          kd_lambda=0.5, online_teacher=online, teacher=teacher if online else None)  # fmt: skip
        logs = np.log(PROBS)
        cross_entropy = -logs[np.arange(4), [0, 1, 2, 0]].mean()  # the rows are called 0, 1, 2, 0
        assert loss == pytest.approx(0.5 * cross_entropy, rel=1e-4)  # teacher and student say the same

    def test_say_nothing_beside_names_that_are_none(self):
        teacher = DeterministicTeacher(Network(names=self.IN_ORDER))
        assert np.allclose(stored(labeled(rows(), teacher)), PROBS, atol=1e-6)
        made = EnsembleTeacher([teacher, DeterministicTeacher(Network())])
        assert made.class_names == NAMES
        assert np.allclose(made.predict({"x": torch.tensor(SCORES)}).mean, PROBS, atol=1e-6)

    @pytest.mark.parametrize("place", ["names=['0', '1', '2']", "names=['1', '2', '0']"])
    def test_beside_bare_numbers_say_not_what_these_are_and_either_advice_works(self, place, tmp_path):
        bare = rows(None).add_column("label", [0, 1, 2, 0])
        network = Network((1, 2, 0), self.IN_ORDER)
        for refused in (
            lambda: LaplaceTeacher.fit(network, bare, prior_precision=1.0),
            lambda: first_loss(network, bare, tmp_path, kd_lambda=0.0),
        ):
            with pytest.raises(UserError, match="numbers, and the classes are called 1, 2, 0 in this order") as e:
                refused()
            assert place in str(e.value)
        cast = bare.cast_column("label", eval(f"datasets.ClassLabel({place})"))
        logs = np.log(PROBS[:, [1, 2, 0]])
        labels = [2, 0, 1, 2] if place == "names=['0', '1', '2']" else [0, 1, 2, 0]  # places among 1, 2, 0
        by_hand = -logs[np.arange(4), labels].mean()
        assert first_loss(network, cast, tmp_path, kd_lambda=0.0) == pytest.approx(by_hand, rel=1e-4)


def first_loss(student, dataset, folder, teacher=None, **settings):
    args = DistillationTrainingArguments(
        str(folder), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=1,
        max_steps=1, per_device_train_batch_size=4, **settings,
    )  # fmt: skip
    trainer = DistillationTrainer(student, args, train_dataset=dataset, teacher=teacher)
    trainer.train()
    return trainer.state.log_history[0]["loss"]


class TestEnsembles:
    INPUTS = {"x": torch.tensor(SCORES)}

    @pytest.mark.parametrize("make", [EnsembleTeacher, several])
    def test_bring_members_together_by_name(self, make, tmp_path):
        teacher = make([DeterministicTeacher(Network()), DeterministicTeacher(Network(REVERSED))])
        assert teacher.class_names == NAMES
        assert np.allclose(teacher.predict(self.INPUTS).mean, PROBS, atol=1e-6)
        same = make([DeterministicTeacher(Network()), DeterministicTeacher(Network())])
        assert np.allclose(teacher.predict(self.INPUTS).variance, same.predict(self.INPUTS).variance, atol=1e-7)
        reversed_names = make([DeterministicTeacher(Network(REVERSED)), DeterministicTeacher(Network())])
        assert np.allclose(reversed_names.predict(self.INPUTS).mean, PROBS[:, ::-1], atol=1e-6)

    @pytest.mark.parametrize("make", [EnsembleTeacher, several])
    def test_refuse_members_of_other_names(self, make):
        members = [DeterministicTeacher(Network()), DeterministicTeacher(Network(names=FRENCH))]
        with pytest.raises(
            UserError, match="member 1 has the classes chat, chien, oiseau, and member 0 cat, dog, bird"
        ):
            make(members)

    def test_go_by_number_where_a_member_has_no_names(self):
        teacher = EnsembleTeacher([DeterministicTeacher(Network(names=None)), DeterministicTeacher(Network())])
        assert np.allclose(teacher.predict(self.INPUTS).mean, PROBS, atol=1e-6)

    def test_are_labeled_in_the_datasets_order(self):
        members = [DeterministicTeacher(Network(REVERSED)), DeterministicTeacher(Network((1, 2, 0)))]
        assert np.allclose(stored(labeled(rows(), EnsembleTeacher(members))), PROBS, atol=1e-6)


class TestFits:
    def test_number_the_datasets_labels_as_the_network(self):
        settings = {"prior_precision": 1.0, "link": "probit", "structure": "full"}
        one, other = (LaplaceTeacher.fit(Network(order), rows(), **settings) for order in ((0, 1, 2), REVERSED))
        answers = [each.predict({"x": torch.tensor(SCORES)}).mean for each in (one, other)]
        assert np.allclose(answers[0], answers[1][:, [2, 1, 0]], atol=1e-5)

    def test_refuse_a_dataset_of_other_names(self):
        with pytest.raises(
            UserError, match=r"knows 3 classes \(cat, dog, bird\), and .* 3 classes \(chat, chien, ois"
        ):
            LaplaceTeacher.fit(Network(), rows(FRENCH), prior_precision=1.0)


class TestStudents:
    @pytest.mark.parametrize("order", [(0, 1, 2), REVERSED, (1, 2, 0)])
    @pytest.mark.parametrize("online", [False, True])
    def test_learn_by_name(self, order, online, tmp_path):
        teacher = DeterministicTeacher(Network(REVERSED, scale=2.0))
        dataset = rows() if online else labeled(rows(), teacher)
        args = DistillationTrainingArguments(
            str(tmp_path), kd_lambda=1.0, online_teacher=online, use_cpu=True, report_to="none", disable_tqdm=True,
            save_strategy="no", logging_steps=1, max_steps=1, per_device_train_batch_size=4,
        )  # fmt: skip
        trainer = DistillationTrainer(Network(order), args, train_dataset=dataset, teacher=teacher if online else None)
        trainer.train()
        target = torch.tensor(2 * SCORES).softmax(-1)
        by_hand = (target * (target.log() - torch.tensor(PROBS).log())).sum(-1).mean().item()
        assert trainer.state.log_history[0]["loss"] == pytest.approx(by_hand, rel=1e-4)

    def test_learn_by_name_from_labels_of_a_dataset_without_names(self, tmp_path):
        dataset = labeled(rows(None), DeterministicTeacher(Network(REVERSED)))
        args = DistillationTrainingArguments(
            str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=1,
            max_steps=1, per_device_train_batch_size=4,
        )  # fmt: skip
        trainer = DistillationTrainer(Network(), args, train_dataset=dataset)
        trainer.train()
        assert trainer.state.log_history[0]["loss"] == pytest.approx(0.0, abs=1e-6)  # it says the same already


@pytest.mark.parametrize("streamed", [False, True])
def test_sixteen_bits_that_a_column_would_clip_are_refused_and_eight_are_converted(streamed):
    deep = Image.fromarray((np.arange(64).reshape(8, 8) * 1000).astype("uint16"))
    grey = Image.fromarray(np.arange(64).reshape(8, 8).astype("uint8"))
    network = create_classifier("resnet20_cifar", 3, image_size=8, mean=[0.5] * 3, std=[0.5] * 3).eval()
    for picture in (deep, grey):
        features = datasets.Features({"image": datasets.Image()})
        pictures = datasets.Dataset.from_dict({"image": [grey, picture]}, features=features)
        pictures = pictures.cast_column("image", datasets.Image(mode="RGB"))
        given = pictures.to_iterable_dataset() if streamed else pictures
        if picture is deep:
            with pytest.raises(UserError, match="I;16 have more than 8 bits"):
                labeled(given, DeterministicTeacher(network))
        else:
            pixels = (torch.tensor(np.asarray(grey)).expand(1, 3, 8, 8) / 255 - 0.5) / 0.5
            by_hand = network(pixel_values=pixels).logits.softmax(-1).detach()
            assert np.allclose(stored(labeled(given, DeterministicTeacher(network)))[1], by_hand[0], atol=1e-5)
    assert pictures[0]["image"].mode == "RGB"  # the dataset is as it was


class TwoHeads(nn.Module):
    """Its logits come from the head that is made first."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.auxiliary = nn.Linear(3, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.body(x).relu()
        return self.head(hidden), self.auxiliary(hidden)


def test_a_posterior_that_the_logits_dont_depend_on_is_refused_and_the_advice_works(tmp_path):
    args = DistillationTrainingArguments(
        str(tmp_path), kd_lambda=0.0, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no"
    )
    with pytest.raises(UserError, match=r"over the weights of auxiliary, .* make_variational\(network, inputs="):
        DistillationTrainer(make_variational(TwoHeads(), "head"), args, train_dataset=rows())
    network = make_variational(TwoHeads(), "head", inputs={"x": torch.tensor(SCORES)})
    DistillationTrainer(network, args, train_dataset=rows()).train()


def test_a_plain_networks_names_count_as_a_configs_do():
    network = Network(REVERSED, names=None)
    network.label_names = NAMES[::-1]
    assert np.allclose(stored(labeled(rows(), DeterministicTeacher(network))), PROBS, atol=1e-6)
    with pytest.raises(UserError, match="chat"):
        LaplaceTeacher.fit(network, rows(FRENCH), prior_precision=1.0)


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_labels_of_another_kind_are_not_what_a_student_learns(kind, tmp_path):
    network = Network()
    network.config.problem_type = kind
    args = DistillationTrainingArguments(str(tmp_path), kd_lambda=0.0, use_cpu=True)
    with pytest.raises(UserError, match="the network predicts|numbers an example to predict"):
        DistillationTrainer(network, args, train_dataset=rows())
    online = DistillationTrainingArguments(str(tmp_path), kd_lambda=0.5, online_teacher=True, use_cpu=True)
    with pytest.raises(UserError, match=f"{kind}.*, and the teacher one class for each example"):
        DistillationTrainer(network, online, train_dataset=rows(), teacher=DeterministicTeacher(Network()))
