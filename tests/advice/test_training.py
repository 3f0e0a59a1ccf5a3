"""Advice about a student's training."""

import json

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_bkd import (
    IVON,
    CropAndFlip,
    DeterministicTeacher,
    DiagnosticsCallback,
    ImagePreprocessor,
    LaplaceTeacher,
    Views,
    make_variational,
)
from hf_bkd.data.augmentations import Mixup
from hf_bkd.study import Arm
from hf_bkd.teachers import Deterministic
from hf_bkd.training.sharpness import sharpness

from .following import advises, code, follow, refused
from .test_networks import BATCHES, TwoHeads
from .test_soft_labels import divergence
from .things import (
    NAMES,
    Seeing,
    X,
    by_hand,
    labeled,
    linear,
    logged,
    pictures,
    pixels,
    points,
    same,
    trainer,
)

ARGUMENT = r"(\w+=[\w.'\[\]\"]+)"


def hard(network, labels=(0, 1, 2, 0), inputs=X):
    """The cross-entropy of class numbers."""
    return float(-np.log(by_hand(network, inputs)[range(len(labels)), list(labels)]).mean())


def argument(message, pattern=r"pass " + ARGUMENT):
    """A keyword argument of a message, as a dict."""
    return follow(f"dict({code(message, pattern)})")


@advises(
    "reads all soft labels before the first step, and an online", "the variance between the teacher's draws: label"
)
def test_adaptive_lambda_is_given_variances(tmp_path):
    teacher = LaplaceTeacher.fit(linear(), BATCHES, prior_precision=1.0, link="mc")
    settings = {"lambda_schedule": "adaptive", "kd_lambda": 0.5}
    message = refused(lambda: trainer(tmp_path, linear(1), points(), online_teacher=True, teacher=teacher, **settings))
    dataset = points()
    label = follow(code(message, r"label with (\w+)"))
    single = label(dataset, DeterministicTeacher(linear()), progress=False)
    message = refused(lambda: trainer(tmp_path, linear(1), single, **settings))
    link, variance = argument(message, r"LaplaceTeacher with (link='mc')"), argument(message, r"and (variance='full')")
    several = labeled(dataset, LaplaceTeacher.fit(linear(), BATCHES, prior_precision=1.0, **link), **variance)
    assert logged(trainer(tmp_path, linear(1), several, **settings), "distillation") > 0


@advises("gets wrong, and", "is bias-aware, which needs labels")
def test_a_bias_aware_lambda_is_given_labels_that_are_cross_fitted(tmp_path):
    dataset, settings = datasets.concatenate_datasets([points()] * 15), {"lambda_schedule": "bias_aware"}
    message = refused(lambda: trainer(tmp_path, linear(1), labeled(dataset, linear()), **settings))
    asked = code(message, r"label with (add_soft_labels\(.*\)),").replace("...", "fit, progress=False")
    fitted = follow(asked, dataset=dataset, fit=lambda rest, fold: DeterministicTeacher(linear(fold)))
    assert 0 < logged(trainer(tmp_path, linear(1), fitted, **settings), "kd_lambda") <= 1
    instead = argument(message, r"or pass " + ARGUMENT)
    assert logged(trainer(tmp_path, linear(1), labeled(dataset, linear()), **instead), "distillation") > 0
    message = refused(lambda: Arm("by example", Deterministic(), **settings))
    assert Arm("by example", Deterministic(), **settings, **argument(message)).folds == 3


@advises("needs labels at the temperature of their draws, whose variance is stored")
def test_labels_are_tempered_by_sample(tmp_path):
    settings = {"lambda_schedule": "adaptive", "kd_lambda": 0.5}
    teacher = LaplaceTeacher.fit(linear(), BATCHES, prior_precision=1.0, link="mc")
    teacher.temperature, teacher.tempering = 2.0, "post_average"
    message = refused(lambda: trainer(tmp_path, linear(1), labeled(points(), teacher), **settings))
    for name, value in argument(message, r"with (tempering='\w+')").items():
        setattr(teacher, name, value)
    assert logged(trainer(tmp_path, linear(1), labeled(points(), teacher), **settings), "distillation") > 0


@advises("can't be resumed from")
def test_a_training_is_resumed_from_its_last_complete_checkpoint(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "kd_lambda": 0.0}
    trainer(tmp_path, linear(), points(), **settings).train()
    (tmp_path / "checkpoint-2" / "trainer_state.json").unlink()
    settings["max_steps"] = 3
    again = trainer(tmp_path, linear(), points(), **settings)
    message = refused(lambda: again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2")))
    again.train(**argument(message, r"or (resume_from_checkpoint=True)"))
    assert again.state.global_step == 3
    state = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"]] == [1, 2, 3]


@advises("the dataset has several columns of classes", "hold different labels: pass dataset.remove_columns")
def test_one_of_several_columns_of_labels_is_named(tmp_path):
    coarse = datasets.ClassLabel(num_classes=3)
    dataset = (
        points(None, kind=[0, 1, 2, 0], shape=[1, 1, 1, 1]).cast_column("kind", coarse).cast_column("shape", coarse)
    )
    message = refused(lambda: trainer(tmp_path, linear(), dataset, kd_lambda=0.0))
    assert logged(trainer(tmp_path, linear(), dataset, kd_lambda=0.0, **argument(message))) == pytest.approx(
        hard(linear())
    )
    dataset = points(labels=[1, 1, 1, 1])
    dataset = dataset.add_column("labels", [0, 1, 2, 0]) if "labels" not in dataset.column_names else dataset
    message = refused(lambda: trainer(tmp_path, linear(), dataset, kd_lambda=0.0))
    for pattern in (r"pass (dataset\.\w+\(.*?\))", r"or (dataset\.\w+\(.*?\))"):
        given = follow(code(message, pattern), dataset=dataset)
        expected = hard(linear(), given["labels" if "labels" in given.column_names else "label"][:])
        assert logged(trainer(tmp_path, linear(), given, kd_lambda=0.0)) == pytest.approx(expected)


@advises("holds names, and nothing says which number each has")
def test_names_are_encoded(tmp_path):
    dataset = points([NAMES[number] for number in (0, 1, 2, 0)])
    soft = labeled(dataset.remove_columns("label"), linear()).add_column("label", dataset["label"][:])
    message = refused(lambda: trainer(tmp_path, linear(), soft, kd_lambda=0.5))
    dataset = soft
    given = follow(code(message, r"use (dataset\.\w+\(.*?\))"), dataset=dataset)
    assert logged(trainer(tmp_path, linear(), given, kd_lambda=0.5), "cross_entropy") == pytest.approx(hard(linear()))


@advises("no row of the evaluation set has a label")
def test_rows_without_labels_are_predicted(tmp_path):
    dataset, student = points(None), linear()
    made = trainer(tmp_path, student, points(), kd_lambda=0.0)
    call = code(refused(lambda: made.evaluate(dataset)), r"by (trainer\.predict\(dataset\))")
    same(torch.tensor(follow(call, trainer=made, dataset=dataset).predictions).softmax(-1), by_hand(student))


class Looking(nn.Module):
    """Its forward looks at a value, which can't be differentiated example by example."""

    def __init__(self):
        super().__init__()
        self.head = linear()

    def forward(self, x):
        return self.head(x if x.sum().item() > -1e9 else -x)


@advises("can't be differentiated example by example")
def test_gradients_of_the_head_alone_are_measured(tmp_path):
    def run(**settings):
        made = trainer(tmp_path, Looking(), points(), kd_lambda=0.0)
        made.add_callback(DiagnosticsCallback(made, num_examples=4, **settings))
        made.train()
        return made.state.log_history

    assert any("gradient_noise_one_hot" in entry for entry in run(**argument(refused(run))))


@advises("which the logits don't depend on: make it")
def test_a_posterior_is_made_over_the_head_that_is_trained(tmp_path):
    message = refused(lambda: trainer(tmp_path, make_variational(TwoHeads()), points(), kd_lambda=0.0))
    call = code(message, r"(make_variational\(.*\))").replace("a few examples' inputs", "inputs")
    network = follow(call, network=TwoHeads(), inputs={"input": torch.from_numpy(X)})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trainer(tmp_path, network, points(), kd_lambda=0.0, kl_warmup=0.0).train()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("head.") for name in changed)


@advises("mixes two images, which then have no single label")
def test_mixed_images_are_taught_by_soft_labels_alone(tmp_path):
    settings = {"processing_class": ImagePreprocessor((0.5,) * 3, (0.5,) * 3)}
    dataset = labeled(pictures(), Seeing(), views=Views(Mixup(0.5), num_views=1), **settings)
    message = refused(lambda: trainer(tmp_path, Seeing(), dataset, kd_lambda=0.5, **settings))
    loss = logged(trainer(tmp_path, Seeing(), dataset, **argument(message, r"with (kd_lambda=1)"), **settings))
    assert loss == pytest.approx(0, abs=1e-5)  # the student says the same of what the teacher saw


@advises("no parameter of the student is trained")
def test_a_frozen_student_is_unfrozen(tmp_path):
    student = linear().requires_grad_(False)
    train = lambda: logged(trainer(tmp_path, student, points(), kd_lambda=0.0))  # noqa: E731
    follow(code(refused(train), r"call (student\.\w+\(\w+\))"), student=student)
    assert train() == pytest.approx(hard(linear()))


@advises("differ in length, and nothing says how to pad them")
def test_rows_of_several_lengths_are_padded(tmp_path):
    dataset = datasets.Dataset.from_dict({"input_values": [[2.0, 0.0, 1.0], [4.0]], "label": [0, 1]})

    def padded(rows):
        values = [torch.tensor(row["input_values"]) for row in rows]
        labels = torch.tensor([row["label"] for row in rows])
        return {"input_values": nn.utils.rnn.pad_sequence(values, batch_first=True), "labels": labels}

    train = lambda **settings: trainer(tmp_path, Listening(), dataset, kd_lambda=0.0, **settings)  # noqa: E731
    loss = logged(train(**{code(refused(train), r"pass (\w+)=, a function"): padded}))
    assert loss == pytest.approx(hard(linear(), (0, 1), padded(dataset)["input_values"]))


class Listening(nn.Module):
    """Of sound that is ready."""

    main_input_name = "input_values"

    def __init__(self):
        super().__init__()
        self.head = linear()

    def forward(self, input_values):
        return self.head(input_values)


@advises("): name it 'label' or 'labels', pass label_names, or")
def test_rows_without_labels_are_taught_by_soft_labels(tmp_path):
    dataset = labeled(points(None), linear())
    message = refused(lambda: trainer(tmp_path, linear(1), dataset, kd_lambda=0.5))
    loss = logged(trainer(tmp_path, linear(1), dataset, **argument(message, r"with (kd_lambda=1)")))
    assert loss == pytest.approx(divergence(by_hand(linear()), by_hand(linear(1))), 1e-4)


@advises("and what makes the student's inputs can't show them")
def test_a_student_of_views_is_given_an_image_preprocessor(tmp_path):
    own = ImagePreprocessor((0.5,) * 3, (0.5,) * 3)
    dataset = labeled(pictures(), Seeing(), views=Views(CropAndFlip(0), num_views=1), processing_class=own)
    function = {"preprocessor": lambda rows: {"x": pixels(pictures())[: len(rows["image"])]}}
    message = refused(lambda: trainer(tmp_path, Seeing(), dataset, **function))
    call = code(message, r"(ImagePreprocessor\(.*\))").replace("=...", "=(0.5, 0.5, 0.5)")
    assert logged(trainer(tmp_path, Seeing(), dataset, processing_class=follow(call))) == pytest.approx(0, abs=1e-5)


@advises("takes the place of the whole loss, and kd_lambda is")
def test_a_loss_of_ones_own_has_no_soft_labels_beside_it(tmp_path):
    own = lambda outputs, labels, num_items_in_batch=None: 7 * F.cross_entropy(outputs, labels)  # noqa: E731
    train = lambda **settings: trainer(tmp_path, linear(), points(), compute_loss_func=own, **settings)  # noqa: E731
    assert logged(train(**argument(refused(lambda: train(kd_lambda=0.5))))) == pytest.approx(7 * hard(linear()))


@advises("and each of several evaluation sets has its own")
def test_the_best_model_is_that_of_one_evaluation_set(tmp_path):
    settings = {"eval_dataset": {"one": points(), "two": points()}, "kd_lambda": 0.0, "eval_strategy": "epoch"}
    settings |= {"save_strategy": "epoch", "load_best_model_at_end": True, "max_steps": 2}
    message = refused(lambda: trainer(tmp_path, linear(), points(), **settings))
    made = trainer(tmp_path, linear(), points(), **settings | argument(message, r"pass (metric_for_best_model='\w+')"))
    made.train()
    assert made.state.best_metric == min(e["eval_one_loss"] for e in made.state.log_history if "eval_one_loss" in e)


@advises("fp16 has no effect on the CPU")
def test_half_precision_of_the_cpu_is_bfloat16(tmp_path):
    train = lambda **settings: trainer(tmp_path, linear(), points(), kd_lambda=0.0, **settings)  # noqa: E731
    loss = logged(train(**argument(refused(lambda: train(fp16=True)))))
    assert loss == pytest.approx(hard(linear()), 2e-2)


@advises("the largest eigenvalue is lost in rounding errors")
def test_the_hessian_is_computed_in_double_precision(monkeypatch):
    from scipy.sparse.linalg import ArpackNoConvergence

    import hf_bkd.training.sharpness as module

    model, solver = linear(), module.eigsh
    single = lambda operator, *args, **settings: (  # noqa: E731
        solver(operator, *args, **settings)
        if next(model.parameters()).dtype == torch.float64
        else (_ for _ in ()).throw(ArpackNoConvergence("", np.array([]), np.array([])))
    )
    monkeypatch.setattr(module, "eigsh", single)
    follow(code(refused(lambda: sharpness(model, BATCHES)), r"pass (model\.double\(\))"), model=model)
    p = torch.from_numpy(by_hand(linear()))
    ones = torch.cat([torch.from_numpy(X), torch.ones(4, 1)], dim=1).double()
    hessian = (
        sum(torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(x, x)) for q, x in zip(p, ones, strict=True)) / 4
    )
    assert sharpness(model, BATCHES).largest_eigenvalue == pytest.approx(
        torch.linalg.eigvalsh(hessian)[-1].item(), 1e-4
    )


@advises("online_teacher=True needs the teacher")
def test_an_online_teacher_is_passed(tmp_path):
    teacher = DeterministicTeacher(linear())
    message = refused(lambda: trainer(tmp_path, linear(1), points(), online_teacher=True))
    passed = {code(message, r"\.\.\., (\w+)=teacher\)"): teacher}
    loss = logged(trainer(tmp_path, linear(1), points(), online_teacher=True, **passed))
    assert loss == pytest.approx(divergence(by_hand(linear()), by_hand(linear(1))), 1e-4)


@advises("an online teacher answers at its own, so set teacher.temperature")
def test_an_online_teacher_has_its_own_temperature(tmp_path):
    teacher = DeterministicTeacher(linear())
    settings = {"online_teacher": True, "teacher": teacher, "temperature_scale": "none"}
    train = lambda: trainer(tmp_path, linear(1), points(), teacher_temperature=2.0, **settings)  # noqa: E731
    follow(f"{code(refused(train), r'so set (.*)')} = 2.0", teacher=teacher)
    assert logged(train()) == pytest.approx(divergence(by_hand(linear(), temperature=2.0), by_hand(linear(1))), 1e-4)


@advises("too coarse for its noise: load the model in float32")
def test_ivon_trains_float32_weights_in_mixed_precision(tmp_path):
    model = linear().bfloat16()
    message = refused(lambda: IVON(model.parameters(), lr=0.1, ess=4))
    model = model.float()
    made = trainer(
        tmp_path, model, points(), kd_lambda=0.0, **argument(message, r"Trainer's (bf16=True)"),
        optimizers=(IVON(model.parameters(), lr=0.1, ess=4), None),
    )  # fmt: skip
    made.train()
    assert not torch.equal(model.weight, linear().weight)


@advises("can't answer so: load the network with dtype")
def test_numbers_that_16_bits_do_not_hold_are_learned_in_32(tmp_path):
    rows = points(labels=None, label=[299_000.0, 300_000.0, 301_000.0, 300_500.0])
    settings = {"kd_lambda": 0.0, "problem_type": "regression"}
    message = refused(lambda: trainer(tmp_path, nn.Linear(3, 1).bfloat16(), rows, **settings).train())
    dtype = follow(code(message, r"dtype=([\w.]+)"), torch=torch)
    assert np.isfinite(logged(trainer(tmp_path, nn.Linear(3, 1).to(dtype), rows, **settings)))
