"""Which problem a training poses, who says so, and what doesn't go together."""

import datasets
import pytest
import torch
import torch.nn.functional as F
from datasets import ClassLabel, List, Value
from transformers import BertConfig, BertForSequenceClassification, DataCollatorForTokenClassification

from hf_bkd import BatchedDataset, DistillationTrainer, DistillationTrainingArguments, UserError
from hf_bkd.distances import distance_of
from hf_bkd.likelihoods import Bernoulli, Categorical, Gaussian
from tests.training.problem_helpers import (
    KINDS,
    C,
    D,
    N,
    Rows,
    examples,
    hot,
    labeled,
    numbers,
    rows,
    sentences,
    student,
    tagger,
    trained,
    trainer,
)
from tests.training.training_helpers import Plain, arguments, largest_difference, losses, new, resident
from tests.training.training_helpers import examples as classes_of_rows

PLAIN = {"kd_lambda": 0.0}
CLASSES = [number % C for number in range(N)]
SETS = [[["a"], ["b", "a"], []][number % 3] for number in range(N)]


def bert(**changes) -> BertForSequenceClassification:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(vocab_size=20, max_position_embeddings=16, **small | changes))


@pytest.mark.parametrize(
    ("outputs", "labels", "expected"),
    [
        (C, CLASSES, Categorical()),
        (C, [float(number) for number in CLASSES], Categorical()),
        (C, hot(), Bernoulli()),
        (C, numbers(), Gaussian()),
        (2 * C, numbers(), Gaussian(predicts_variance=True)),
        (1, [row[0] for row in numbers()], Gaussian()),
        (2, SETS, Bernoulli()),
    ],
)
def test_labels_say_it_where_nobody_else_does(tmp_path, outputs, labels, expected):
    data = rows(labels=labels)
    made = trained(tmp_path, None, data, model=Rows(outputs), eval_dataset=data, **PLAIN, num_train_epochs=1)
    assert made.likelihood == expected
    assert made.evaluate()[f"eval_{expected.headline}"] >= 0


@pytest.mark.parametrize(
    ("say", "labels", "expected"),
    [
        ({"problem_type": "regression"}, [float(row[0] > 0) for row in numbers()], Gaussian(predicts_variance=True)),
        ({"problem_type": "regression"}, CLASSES, Gaussian(predicts_variance=True)),
        ({"problem_type": "multi_label_classification"}, [[0, 1], [1, 0]] * (N // 2), Bernoulli()),
    ],
)
def test_the_arguments_say_it_before_the_labels(tmp_path, say, labels, expected):
    made = trainer(tmp_path, None, rows(labels=labels), model=Rows(2), **PLAIN, **say)
    assert made.likelihood == expected


def test_names_say_which_output_is_which(tmp_path):
    network = bert(id2label={0: "b", 1: "c", 2: "a"}, label2id={"b": 0, "c": 1, "a": 2})
    data = datasets.Dataset.from_dict({"input_ids": [[1, 2, 3]] * N, "labels": SETS})
    made = trainer(tmp_path, None, data, model=network, **PLAIN)
    assert made.batch_of([0, 1, 2])["labels"].tolist() == [[0, 0, 1], [1, 0, 1], [0, 0, 0]]
    feature = List(ClassLabel(names=["a", "b"]))
    numbered = datasets.Dataset.from_dict(
        {"input_ids": [[1, 2, 3]] * 3, "labels": [[0], [1, 0], []]},
        features=datasets.Features({"input_ids": List(Value("int64")), "labels": feature}),
    )
    again = trainer(tmp_path, None, numbered, model=network, **PLAIN)
    assert again.batch_of([0, 1, 2])["labels"].tolist() == [[0, 0, 1], [1, 0, 1], [0, 0, 0]]
    alphabetical = trainer(tmp_path, None, rows(labels=SETS), model=Rows(2), **PLAIN)
    assert alphabetical.batch_of([1, 2])["labels"].tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize("kind", ["labels", "numbers"])
def test_rows_without_a_label_learn_from_their_soft_label_alone(tmp_path, kind, caplog):
    data = labeled(kind)
    whole = {"per_device_train_batch_size": N, "num_train_epochs": 1}
    own = data["labels"][:]
    some = data.remove_columns("labels").add_column("labels", [None if i % 2 else own[i] for i in range(N)])
    made = trained(tmp_path, kind, some, **whole)
    assert f"{N // 2} of {N} rows have no label in column labels" in caplog.text
    with_labels, without = (
        trained(tmp_path, kind, data.select(range(start, N, 2)), kd_lambda=kd_lambda, **whole)
        for start, kd_lambda in ((0, 0.7), (1, 1.0))
    )
    assert losses(made)[0] == pytest.approx((losses(with_labels)[0] + losses(without)[0]) / 2, rel=1e-5)
    assert made.evaluate(some)["eval_loss"] == pytest.approx(made.evaluate(some.select(range(0, N, 2)))["eval_loss"])


@pytest.mark.parametrize("kind", KINDS)
def test_measures_are_logged_and_the_best_student_is_kept(tmp_path, kind):
    headline = student_headline = {"labels": "mean_average_precision", "tokens": "accuracy"}.get(kind, "rmse")
    best = {"load_best_model_at_end": True, "metric_for_best_model": headline, "num_train_epochs": 4}
    each = {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1}
    data = labeled(kind)
    made = trained(tmp_path, kind, data, eval_dataset=examples(kind), **best, **each)
    measured = made.evaluations()[1]
    assert len(measured) == 4 and made.args.greater_is_better == (headline != "rmse")
    assert made.state.best_metric == pytest.approx((min if headline == "rmse" else max)(measured))
    noise = torch.tensor(measured[-2:]).std().item()
    logged = [entry["convergence_noise"] for entry in made.state.log_history if "convergence_noise" in entry]
    assert logged[0] == pytest.approx(noise, rel=1e-4) and student_headline == made.likelihood.headline
    term = "label_loss" if headline == "rmse" else "cross_entropy"
    assert {"distillation", term} <= {name for entry in made.state.log_history for name in entry}


def test_a_saved_student_says_what_it_predicts(tmp_path):
    data = datasets.Dataset.from_dict({"input_ids": [[1, 2, 3]] * N, "labels": hot()})
    network = bert(num_labels=C)
    made = trained(tmp_path, None, data, model=network, **PLAIN, num_train_epochs=1)
    made.save_model(tmp_path / "student")
    loaded = BertForSequenceClassification.from_pretrained(tmp_path / "student")
    assert loaded.config.problem_type == "multi_label_classification" and made.likelihood == Bernoulli()
    inputs = {"input_ids": torch.tensor([[1, 2, 3]] * 2), "labels": torch.tensor(hot()[:2])}
    assert loaded(**inputs).loss.isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_streams_and_collators_of_ones_own_train_alike(tmp_path, kind):
    data = labeled(kind)
    whole = {"per_device_train_batch_size": N, "max_steps": 2}
    rows_ = trained(tmp_path, kind, data, **whole)
    stream = trained(tmp_path, kind, data.to_iterable_dataset(), **whole)
    transformed = trained(
        tmp_path, kind, data.with_transform(lambda batch: batch), **whole, remove_unused_columns=False
    )
    assert largest_difference(rows_.model, stream.model) < 1e-6
    assert largest_difference(rows_.model, transformed.model) < 1e-6


@pytest.mark.parametrize("kind", ["labels", "numbers"])
def test_columns_in_memory_train_alike(tmp_path, kind):
    data, whole = labeled(kind), {"per_device_train_batch_size": N, "max_steps": 2}
    values = {name: torch.tensor(data[name][:]) for name in ("features", "labels")}
    kept = BatchedDataset(values).with_soft_labels(data)
    one, other = trained(tmp_path, kind, kept, **whole), trained(tmp_path, kind, data, **whole)
    assert largest_difference(one.model, other.model) < 1e-6
    assert set(kept.column_names) >= {"features", "labels", "teacher_variance"}


def test_ragged_sentences_are_padded_as_transformers_collator_does(tmp_path):
    class Tokenizer:
        padding_side = "right"

        def pad(self, features, return_tensors=None, **_):
            longest = max(len(each["input_ids"]) for each in features)
            return {
                name: torch.tensor([list(each[name]) + [0] * (longest - len(each[name])) for each in features])
                for name in features[0]
            }

    data = sentences()
    collator = DataCollatorForTokenClassification(Tokenizer())
    given = {"train_dataset": data, "data_collator": collator}
    by_collator = DistillationTrainer(student("tokens"), arguments(tmp_path, **PLAIN, learning_rate=0.05), **given)
    by_collator.train()
    padded = trained(tmp_path, "tokens", sentences(padded_to=10), **PLAIN)
    assert largest_difference(by_collator.model, padded.model) < 1e-5


REFUSED = {
    "labels of another kind": (
        lambda: {"kind": "labels", "dataset": rows(labels=CLASSES), **PLAIN},
        "the network predicts labels that are each there or not, and column labels holds",
    ),
    "soft labels of another kind": (
        lambda: {"kind": "labels", "dataset": labeled("numbers")},
        "the student predicts labels that are each there or not .*, and the soft labels numbers",
    ),
    "the argument and the student": (
        lambda: {"kind": "labels", "dataset": rows(labels=hot()), "problem_type": "regression", **PLAIN},
        "problem_type is 'regression', and the Rows's own is 'multi_label",
    ),
    "the argument and the soft labels": (
        lambda: {"model": Rows(), "dataset": labeled("labels"), "problem_type": "regression"},
        "the student predicts numbers .regression., and the soft labels labels",
    ),
    "a temperature": (
        lambda: {"kind": "numbers", "dataset": labeled("numbers"), "student_temperature": 2.0},
        "a temperature means nothing for regression, and it is 2",
    ),
    "the teacher's temperature": (
        lambda: {"kind": "numbers", "dataset": labeled("numbers"), "teacher_temperature": 2.0},
        "teacher_mean is of a regression, where a temperature means nothing: omit teacher_temperature",
    ),
    "smoothing": (
        lambda: {"kind": "numbers", "dataset": labeled("numbers"), "label_smoothing_factor": 0.1},
        "label smoothing means nothing for regression",
    ),
    "a mixture": (
        lambda: {"kind": "labels", "dataset": labeled("labels"), "combine": "mixture"},
        "combine is 'mixture', which is for distributions over classes, and the student's problem_type is 'multi",
    ),
    "weights by entropy": (
        lambda: {"kind": "numbers", "dataset": labeled("numbers"), "teacher_weights": "entropy"},
        "weights by entropy mean nothing for regression",
    ),
    "a distance": (
        lambda: {"kind": "labels", "dataset": labeled("labels"), "distance": "dist"},
        "distance is 'dist', which is for distributions over classes",
    ),
    "numbers that are not": (
        lambda: {"kind": "numbers", "dataset": rows(labels=[[0.0, float("nan"), 1.0], *numbers()[1:]]), **PLAIN},
        "row 0 of column labels has the label nan, which is no finite number",
    ),
    "classes of one output": (
        lambda: {"model": Rows(1), "dataset": rows(labels=[number % 2 for number in range(N)]), **PLAIN},
        "one output can't tell classes apart: pass problem_type='regression' for a number, or 'multi_label",
    ),
    "labels of another number": (
        lambda: {"kind": "labels", "dataset": rows(labels=[[0.0, 1.0]] * N), **PLAIN},
        "row 0 of column labels has 2 numbers, and the network has 3",
    ),
    "outputs of another number": (
        lambda: {"model": Rows(4, "regression"), "dataset": rows(labels=numbers()), **PLAIN},
        "3 numbers an example to predict, and the student has 4 outputs",
    ),
    "soft labels of another number": (
        lambda: {"model": Rows(4, "multi_label_classification"), "dataset": labeled("labels"), "kd_lambda": 1.0},
        "teacher_probs has 3 labels and the model has 4: build the student with 3",
    ),
    "one label for each row of tokens": (
        lambda: {
            "model": tagger(),
            "dataset": sentences(10).remove_columns("labels").add_column("labels", [0] * N),
            **PLAIN,
        },
        "returns logits of shape|the network predicts one class for each token",
    ),
    "more labels than tokens": (
        lambda: {
            "model": tagger(),
            "dataset": sentences(10).map(lambda row: {"labels": row["labels"][:8]}),
            **PLAIN,
        },
        "row 0 of column labels has labels of 8 tokens, and its example has 3 .19 such rows.: give each token",
    ),
    "soft labels of other tokens": (
        lambda: {"kind": "tokens", "dataset": others_tokens()},
        "row 4 of column teacher_probs has labels of 6 tokens, and its example has 7 .1 such rows",
    ),
    "probabilities of a sigmoid": (
        lambda: {"model": Sigmoid(problem_type="multi_label_classification"), "dataset": rows(labels=hot()), **PLAIN},
        "returns probabilities, and logits are needed",
    ),
    "batches of one for dist": (
        lambda: {"model": Rows(), "dataset": rows(), "distance": "dist", "per_device_train_batch_size": 1},
        "distance='dist' compares the examples of a batch",
    ),
    "an adaptive lambda for dkd": (
        lambda: {"model": Rows(), "dataset": rows(), "distance": "dkd", "lambda_schedule": "adaptive"},
        "lambda_schedule='adaptive' is derived for the divergence itself, and distance is 'dkd'",
    ),
    "an unknown problem": (
        lambda: {"model": Rows(), "dataset": rows(), "problem_type": "ranking"},
        "problem_type is 'ranking'; it must be one of",
    ),
}


def others_tokens():
    """Return labeled sentences of which one has lost its last token's answer."""
    data = labeled("tokens").remove_columns("teacher_variance")
    cut = [row[:-1] if place == 4 else row for place, row in enumerate(data["teacher_probs"][:])]
    feature = data.features["teacher_probs"]
    return data.remove_columns("teacher_probs").add_column("teacher_probs", cut, feature=feature)


class Sigmoid(Rows):
    def forward(self, features):
        return torch.sigmoid(100 * super().forward(features))


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_go_together_is_refused_before_the_first_step(tmp_path, what):
    given, sentence = REFUSED[what]
    with pytest.raises(UserError, match=sentence):
        given = given()
        trainer(tmp_path, given.pop("kind", None), given.pop("dataset"), **given)


def test_measures_where_less_is_better_are_known(tmp_path):
    def direction(name):
        return DistillationTrainingArguments(str(tmp_path), metric_for_best_model=name).greater_is_better

    assert direction("eval_rmse") is direction("interval_error") is direction("nll") is False
    assert direction("mean_average_precision") is direction("coverage") is True


@pytest.mark.parametrize(
    ("kind", "metric", "known"),
    [
        ("numbers", "accuracy", "loss, rmse, mae:"),
        ("numbers", "nll", "loss, rmse, mae:"),
        ("numbers and variances", "accuracy", "loss, rmse, mae, nll, coverage, interval_error:"),
        ("labels", "rmse", "loss, accuracy, nll, ece, brier, mean_average_precision, micro_f1, macro_f1:"),
        ("tokens", "macro_f1", "loss, accuracy, nll, ece, brier:"),
    ],
)
def test_the_best_student_goes_by_a_measure_that_there_is(tmp_path, kind, metric, known):
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    rows = examples(kind)
    with pytest.raises(UserError, match=f"metric_for_best_model is '{metric}', .* has {known} take one of these"):
        trainer(tmp_path, kind, rows, eval_dataset=rows, kd_lambda=0.0, metric_for_best_model=metric, **best)
    for name in known.removesuffix(":").split(", "):
        trainer(tmp_path, kind, rows, eval_dataset=rows, kd_lambda=0.0, metric_for_best_model=name, **best)


def test_an_adaptive_lambda_of_labels_and_of_numbers(tmp_path):
    for kind in ("labels", "numbers"):
        made = trained(tmp_path, kind, labeled(kind), lambda_schedule="adaptive", num_train_epochs=1)
        batch = made.batch_of(list(range(N)))
        lambdas = made._source.kd_lambda(batch, made._source.target(batch))
        assert lambdas.shape == (N,) and (lambdas > 0.7 * 6 / 7 - 1e-6).all() and (lambdas <= 0.7).all()
        assert lambdas.std() > 0 and D


def one_class(folder, dataset, **changes):
    made = DistillationTrainer(new(Plain), arguments(folder, **changes), train_dataset=dataset)
    made.train()
    return made


@pytest.mark.parametrize("name", ["dkd", "dist", "standardized"])
@pytest.mark.parametrize("kd_lambda", [0.4, 1.0])
def test_a_step_of_each_distance_is_written_out(tmp_path, name, kd_lambda):
    """At a target of temperature 2 and a student of 4, whose factor is T_s^2."""
    values, whole = classes_of_rows(), {"per_device_train_batch_size": N, "max_steps": 1, "kd_lambda": kd_lambda}
    settings = {"teacher_temperature": 2.0, "student_temperature": 4.0, "temperature_scale": "squared"}
    options = {"distance": name, "dkd_beta": 3.0, "dist_gamma": 2.0}
    made = one_class(tmp_path, resident(values), **whole, **settings, **options)
    model = new(Plain)
    logits, target = model(values["features"]), values["teacher_probs"].sqrt()
    target = target / target.sum(dim=-1, keepdim=True)
    distance = distance_of(name, dkd_beta=3.0, dist_gamma=2.0)(target, logits, values["labels"], 4.0).mean()
    loss = (1 - kd_lambda) * F.cross_entropy(logits, values["labels"]) + kd_lambda * 16 * distance
    assert losses(made)[0] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.1 * weight.grad
    assert largest_difference(model, made.model) < 1e-5


def test_dkd_reads_labels_whatever_lambda_is(tmp_path):
    values = classes_of_rows()
    del values["labels"]
    with pytest.raises(UserError, match="the training set has no labels column"):
        one_class(tmp_path, resident(values), kd_lambda=1.0, distance="dkd")
