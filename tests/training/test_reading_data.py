"""Which column of a dataset goes where, and what is refused before a training."""

import random

import datasets
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torchvision import transforms

from hf_bkd import DistillationTrainer, ImagePreprocessor, UserError, make_variational
from tests.invariants.test_two_families import (
    distilbert_student,
    label,
    photographs,
    texts,
    timm_student,
    tokenizer,
    vit_teacher,
)
from tests.training.training_helpers import (
    C,
    N,
    Plain,
    WithKwargs,
    arguments,
    arrow,
    examples,
    largest_difference,
    losses,
    new,
    same_weights,
)

ORDER = [2, 0, 3, 1]
CLASSES = ["ant", "bee", "cow", "dog"]


def trained(folder, model, data, evaluated=None, **changes) -> DistillationTrainer:
    given = {"processing_class", "preprocessor", "data_collator", "teacher", "compute_loss_func"} & set(changes)
    given = {name: changes.pop(name) for name in given}
    settings = {"kd_lambda": 0.5, "num_train_epochs": 1} | changes
    trainer = DistillationTrainer(
        model, arguments(folder, **settings), train_dataset=data, eval_dataset=evaluated, **given
    )
    trainer.train()
    return trainer


def rows(**columns) -> datasets.Dataset:
    """Features with soft labels, and other columns than class numbers beside them."""
    dataset = arrow(examples())
    for name, values in columns.items():
        dataset = dataset.add_column(name, values)
    return dataset


@pytest.fixture
def expected(tmp_path):
    return trained(tmp_path, new(Plain), rows()).model


def named(names=CLASSES) -> datasets.Dataset:
    """The same rows with labels by name, numbered in the order of ``names``."""
    numbers = [names.index(CLASSES[each]) for each in examples()["labels"].tolist()]
    feature = datasets.ClassLabel(names=names)
    return rows().remove_columns("labels").add_column("label", numbers, feature=feature)


class WithNames(Plain):
    """Numbers the classes of its outputs in an order of its own."""

    def __init__(self, order=range(C)):
        super().__init__()
        order = list(order)
        names = {place: CLASSES[each] for place, each in enumerate(order)}
        self.config = transformers.PretrainedConfig(id2label=names)
        with torch.no_grad():
            self.layers[2].weight.copy_(self.layers[2].weight[order])
            self.layers[2].bias.copy_(self.layers[2].bias[order])


def in_order(model: nn.Module) -> nn.Module:
    """A student of another order as it would be in the dataset's."""
    other, places = new(Plain), [ORDER.index(each) for each in range(C)]
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.layers[2].weight.copy_(model.layers[2].weight[places])
        other.layers[2].bias.copy_(model.layers[2].bias[places])
    return other


def with_names(order=range(C)) -> nn.Module:
    torch.manual_seed(1)
    return WithNames(order)


class TestLabels:
    @pytest.mark.parametrize("name", ["label", "label_ids", "fine_label"])
    def test_of_any_usual_name(self, tmp_path, expected, name):
        trainer = trained(tmp_path, new(Plain), rows().rename_column("labels", name))
        assert largest_difference(trainer.model, expected) < 1e-6

    def test_of_a_name_of_their_own(self, tmp_path, expected):
        data = rows().rename_column("labels", "target")
        assert largest_difference(trained(tmp_path, new(Plain), data, label_names=["target"]).model, expected) < 1e-6
        with pytest.raises(UserError, match="the training set has no labels column .*target.*pass label_names"):
            trained(tmp_path, new(Plain), data)

    def test_as_names_and_as_numbers_in_another_order(self, tmp_path, expected):
        """By name they are the same, whoever numbers them how."""
        text = [CLASSES[each] for each in examples()["labels"].tolist()]
        strings = rows().remove_columns("labels").add_column("label", text)
        for data in (named(), strings):
            trainer = trained(tmp_path, with_names(), data, evaluated=named())
            assert largest_difference(trainer.model, expected) < 1e-6
            other = trained(tmp_path, with_names(ORDER), data, evaluated=named([CLASSES[each] for each in ORDER]))
            if data is strings:
                continue  # whose soft labels nobody has named, and so are in the student's order
            assert largest_difference(in_order(other.model), expected) < 1e-6
            assert other.evaluate()["eval_nll"] == pytest.approx(trainer.evaluate()["eval_nll"], rel=1e-5)

    def test_that_are_missing_are_not_read_at_lambda_1(self, tmp_path):
        without = rows().remove_columns("labels")
        models = [
            trained(tmp_path, new(Plain), data, kd_lambda=1.0).model
            for data in (
                without,
                rows().map(lambda row, i: {"labels": None if i % 2 else row["labels"]}, with_indices=True),
                without.add_column("label", ["a", "b"] * (N // 2)),
                without.add_column("label", [10**6] * N),
            )
        ]
        assert all(same_weights(model, models[0]) for model in models)

    def test_that_are_missing_count_in_no_average(self, tmp_path):
        values = examples()
        values["labels"][::3] = -100
        none = [None if each == -100 else each for each in values["labels"].tolist()]
        data = arrow(values).remove_columns("labels").add_column("label", none)
        trainer = trained(tmp_path, new(Plain), rows(), evaluated=data, per_device_eval_batch_size=5)
        logits = trainer.model(values["features"]).detach()
        assert trainer.evaluate()["eval_loss"] == pytest.approx(F.cross_entropy(logits, values["labels"]).item())

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda each: 4, "row 0 of column label has the label 4, and the student's classes are 0 to 3: mend"),
            (lambda each: 0.5, "row 0 of column label has the label 0.5"),
            (lambda each: [0, 1], "the labels in column label are neither class numbers nor names but"),
        ],
        ids=["too high", "a fraction", "a list"],
    )
    def test_that_are_none_of_the_students_are_refused(self, tmp_path, change, words):
        values = [change(each) for each in examples()["labels"].tolist()]
        data = rows().remove_columns("labels").add_column("label", values)
        with pytest.raises(UserError, match=words):
            trained(tmp_path, new(Plain), data)
        with pytest.raises(UserError, match="the evaluation set: " + words):
            trained(tmp_path, new(Plain), rows(), evaluated=data)

    def test_that_differ_between_two_columns_are_refused_with_advice_that_works(self, tmp_path, expected):
        data = rows(label=[0] * N)
        with pytest.raises(UserError, match="the columns labels and label hold different labels: pass") as error:
            trained(tmp_path, new(Plain), data)
        mended = eval(str(error.value).partition("pass ")[2].partition(", or")[0], {"dataset": data})
        assert largest_difference(trained(tmp_path, new(Plain), mended).model, expected) < 1e-6

    def test_of_other_names_are_refused_with_advice_that_works(self, tmp_path):
        data = named(["ant", "bee", "cow", "dog"]).rename_column("label", "labels")
        other = data.cast_column("labels", datasets.ClassLabel(names=["a", "b", "c", "d"]))
        with pytest.raises(
            UserError, match="the column labels has the classes a, b, c, d, and the student ant"
        ) as error:
            trained(tmp_path, with_names(), rows(), evaluated=other)
        advice = str(error.value).partition("in the same order, pass ")[2]
        mended = eval(advice, {"dataset": other, "datasets": datasets})
        trained(tmp_path, with_names(), rows(), evaluated=mended)


class TestColumns:
    def test_that_nobody_reads_stay_behind(self, tmp_path, expected):
        more = {"idx": list(range(N)), "path": ["x"] * N, "size": [[1, 2]] * N, "length": [[1]] * N}
        for remove in (True, False):
            trainer = trained(tmp_path, new(Plain), rows(**more), rows(**more), remove_unused_columns=remove)
            assert largest_difference(trainer.model, expected) < 1e-6
            assert trainer.predict(rows(**more).remove_columns("labels")).predictions.shape == (N, C)

    def test_the_only_list_is_the_input_of_a_network_that_names_none(self, tmp_path, expected):
        data = rows(idx=list(range(N))).rename_column("features", "measured")
        assert largest_difference(trained(tmp_path, new(Plain), data).model, expected) < 1e-6

    @pytest.mark.parametrize("kind", [Plain, WithKwargs])
    def test_in_any_format_or_as_a_stream(self, tmp_path, expected, kind):
        for data in (rows().with_format("torch"), rows().with_format("numpy")):
            assert largest_difference(trained(tmp_path, new(kind), data).model, expected) < 1e-6
        stream, settings = rows().to_iterable_dataset(), {"max_steps": 3, "train_sampling_strategy": "sequential"}
        streamed, read = (trained(tmp_path, new(kind), data, rows(), **settings) for data in (stream, rows()))
        assert losses(streamed) == pytest.approx(losses(read), rel=1e-5)

    def test_of_numbers_side_by_side(self, tmp_path, expected):
        values = examples()["features"].numpy()
        data = rows().remove_columns("features")
        for place in range(values.shape[1]):
            data = data.add_column(f"feature {place}", values[:, place].tolist())
        assert largest_difference(trained(tmp_path, new(Plain), data).model, expected) < 1e-6


class TestImages:
    """A plain timm network and photographs of several sizes and modes."""

    def test_are_prepared_by_what_is_at_hand(self, tmp_path):
        data, own = label(photographs(), vit_teacher()), timm_student()
        config = timm.data.resolve_data_config(pretrained_cfg=own.pretrained_cfg)
        transform = timm.data.create_transform(**config)
        pixels = torch.stack([transform(image.convert("RGB")) for image in data["image"]])
        trainer = trained(tmp_path, own, data, photographs())
        predicted = trainer.predict(photographs().remove_columns("label"))
        torch.testing.assert_close(torch.tensor(predicted.predictions), own.eval()(pixels).detach())
        assert predicted.metrics.keys() >= {"test_runtime"} and "test_loss" not in predicted.metrics
        given = trained(tmp_path, timm_student(), data, photographs(), processing_class=transform)
        assert losses(given) == pytest.approx(losses(trainer), rel=1e-5)

    def test_a_compiled_student_is_trained_as_itself(self, tmp_path):
        data = label(photographs(), vit_teacher())
        plain, compiled = timm_student(), torch.compile(timm_student(), backend="eager")
        runs = [trained(tmp_path, student, data, photographs()) for student in (plain, compiled)]
        assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-5)

    def test_a_row_that_cannot_be_read_is_named(self, tmp_path):
        raw = photographs().cast_column("image", datasets.Image(decode=False))

        def cut(row, number):
            image = row["image"]
            return {"image": {"bytes": image["bytes"][:-60] if number == 4 else image["bytes"], "path": None}}

        broken = raw.map(cut, with_indices=True).cast_column("image", datasets.Image())
        with pytest.raises(UserError, match="row 4 of column image holds an image that can't be read"):
            trained(tmp_path, timm_student(), broken, kd_lambda=0.0)

    def test_what_does_not_fit_is_refused(self, tmp_path):
        data = label(photographs(), vit_teacher())
        five = timm.create_model("cnn6_small", num_classes=5, in_chans=3)
        five.pretrained_cfg = timm_student().pretrained_cfg
        with pytest.raises(UserError, match="teacher_probs has 3 classes and the model has 5: build the student with"):
            trained(tmp_path, five, data)
        two = timm.create_model("cnn6_small", num_classes=2, in_chans=3)
        two.pretrained_cfg = timm_student().pretrained_cfg
        with pytest.raises(
            UserError, match="row 2 of column label has the label 2, and the student's classes are 0 to"
        ):
            trained(tmp_path, two, photographs(), kd_lambda=0.0)
        with pytest.raises(UserError, match="nothing says how images become the inputs of ViT.*pass processing_class"):
            trained(tmp_path, vit_teacher().network, data)


class TestTexts:
    def test_grouped_by_length(self, tmp_path):
        own, data = tokenizer(["a", "bird", "can"], tmp_path), texts(False)
        lengths = data.add_column("length", [len(text.split()) for text in data["text"]])
        settings = {"kd_lambda": 0.0, "train_sampling_strategy": "group_by_length", "processing_class": own}
        runs = [trained(tmp_path, distilbert_student(), each, **settings) for each in (data, lengths)]
        assert losses(runs[0]) == pytest.approx(losses(runs[1]))

    def test_tokens_beside_their_texts_are_read_as_they_are(self, tmp_path):
        own, data = tokenizer(["a", "bird", "can"], tmp_path), texts(False)
        tokens = data.map(lambda row: dict(own(row["text"])))
        settings = {"kd_lambda": 0.0, "num_train_epochs": 1}
        runs = [
            trained(tmp_path, distilbert_student(), data, processing_class=own, **settings),
            trained(tmp_path, distilbert_student(), tokens, processing_class=own, **settings),
            trained(tmp_path, distilbert_student(), tokens, **settings),
        ]
        for other in runs[1:]:
            assert losses(other) == pytest.approx(losses(runs[0]), rel=1e-5)

    def test_the_tokenizer_is_saved_with_the_student(self, tmp_path):
        own = tokenizer(["a", "bird", "can"], tmp_path)
        trainer = trained(tmp_path, distilbert_student(), texts(False), kd_lambda=0.0, processing_class=own)
        trainer.save_model(tmp_path / "student")
        loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "student")
        assert loaded("a bird").input_ids == own("a bird").input_ids


class TestTheLookAtTheFirstRows:
    def test_moves_no_generator_and_no_mode(self, tmp_path):
        student = new(Plain)
        student.layers.append(nn.Dropout(0.5))
        student.layers[1].eval()

        def noisy(batch):
            random.random(), np.random.rand(), torch.rand(1)
            return {name: torch.tensor([row[name] for row in batch]) for name in batch[0]}

        states = []
        for evaluated in (None, rows()):
            transformers.set_seed(5)
            args = arguments(tmp_path, kd_lambda=0.0, seed=5)
            DistillationTrainer(student, args, noisy, train_dataset=rows(), eval_dataset=evaluated)
            states.append((random.random(), np.random.rand(), torch.rand(1).item()))
        assert states[0] == states[1]
        assert student.training and student.layers[2].training and not student.layers[1].training

    def test_refuses_a_student_that_cannot_take_the_rows(self, tmp_path):
        data = rows().map(lambda row: {"features": row["features"][:3]})
        with pytest.raises(
            UserError, match=r"the student, a Plain, can't take the training set \(features \[2, 3\]; R"
        ):
            trained(tmp_path, new(Plain), data)
        with pytest.raises(UserError, match="can't take the evaluation set"):
            trained(tmp_path, new(Plain), rows(), evaluated=data)

    def test_refuses_logits_that_are_not_of_each_row(self, tmp_path):
        class OfNone(Plain):
            def forward(self, features):
                return self.layers(features).sum(dim=0)

        with pytest.raises(UserError, match=r"returned logits of shape \[4\], and they must be \[examples, outputs\]"):
            trained(tmp_path, new(OfNone), rows())

    def test_refuses_what_says_that_it_predicts_something_else(self, tmp_path):
        student = with_names()
        student.config.problem_type = "multi_label_classification"
        with pytest.raises(UserError, match="predicts labels that are each there or not .*, and the soft labels one"):
            trained(tmp_path, student, rows())
        with pytest.raises(UserError, match="no parameter of the student is trained"):
            trained(tmp_path, new(Plain).requires_grad_(False), rows())
        with pytest.raises(UserError, match="the training set is empty"):
            trained(tmp_path, new(Plain), rows().select([]))

    def test_refuses_a_stream_of_a_variational_network(self, tmp_path):
        network = make_variational(new(Plain), "head")
        stream = rows().to_iterable_dataset()
        with pytest.raises(UserError, match="divided by the number of training examples, which a stream doesn't say"):
            trained(tmp_path, network, stream, max_steps=1)

    def test_says_what_a_stream_lost_in_map(self, tmp_path):
        stream = rows().to_iterable_dataset()
        with pytest.raises(UserError, match=r"as after map: pass map\(..., features=stream.features\)"):
            trained(tmp_path, new(Plain), stream.map(lambda row: row), max_steps=2)
        trained(tmp_path, new(Plain), stream.map(lambda row: row, features=stream.features), max_steps=2)


class TestALossOfTheCallers:
    def test_is_used_at_lambda_0(self, tmp_path):
        weight, calls = torch.tensor([0.1, 5.0, 1.0, 2.0]), []

        def weighted(outputs, labels, num_items_in_batch=None):
            calls.append(int(num_items_in_batch))
            return F.cross_entropy(outputs, labels, weight=weight, reduction="sum") / num_items_in_batch

        settings = {"kd_lambda": 0.0, "per_device_train_batch_size": N, "compute_loss_func": weighted}
        trainer = trained(tmp_path, new(Plain), rows(), rows(), **settings)
        values = examples()
        each = F.cross_entropy(new(Plain)(values["features"]), values["labels"], weight=weight, reduction="sum") / N
        assert calls == [N] and losses(trainer) == [pytest.approx(each.item(), rel=1e-6)]
        after = F.cross_entropy(trainer.model(values["features"]), values["labels"], weight=weight, reduction="sum")
        assert trainer.evaluate()["eval_loss"] == pytest.approx(after.item() / N, rel=1e-5)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"kd_lambda": 0.3}, "compute_loss_func takes the place of the whole loss, and kd_lambda is 0.3: pass kd"),
            ({"kd_lambda": 0.0, "label_smoothing_factor": 0.1}, "label_smoothing_factor would have no effect beside"),
        ],
    )
    def test_is_refused_where_it_cannot_be(self, tmp_path, changes, words):
        with pytest.raises(UserError, match=words):
            trained(tmp_path, new(Plain), rows(), compute_loss_func=lambda *args, **kwargs: 0, **changes)


def test_an_image_preprocessor_may_be_the_processing_class(tmp_path):
    size = photographs().map(lambda row: {"image": row["image"].convert("RGB").resize((16, 16))})
    data = label(size, vit_teacher())
    own = ImagePreprocessor((0.5,) * 3, (0.25,) * 3)
    same = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)])
    runs = [trained(tmp_path, timm_student(), data, size, processing_class=each) for each in (own, same)]
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-5)
    assert runs[0].evaluate()["eval_nll"] == pytest.approx(runs[1].evaluate()["eval_nll"], rel=1e-5)
