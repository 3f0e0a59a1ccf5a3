"""Numbers far from 0 are learned in standard units, and all that is left of a training answers in their own."""

import json
import logging

import datasets
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback

from hf_bkd import (
    IVON,
    DeterministicTeacher,
    DistillationTrainer,
    LaplaceTeacher,
    VariationalTeacher,
    add_soft_labels,
    make_variational,
)
from hf_bkd.teachers.snapshots import SnapshotCallback
from hf_bkd.utils.errors import UserError
from tests.training.problem_helpers import N, Rows, rows
from tests.training.training_helpers import arguments

MEAN, STD = 150.0, 77.0
PLAIN = {"kd_lambda": 0, "num_train_epochs": 3, "learning_rate": 0.02, "per_device_train_batch_size": 8}


def prices(width=1) -> torch.Tensor:
    """Numbers of exactly this mean and standard deviation, which the rows' features tell."""
    features = torch.tensor(rows()["features"][:])
    numbers = features[:, :width].tanh().double()
    return MEAN + STD * (numbers - numbers.mean(0)) / numbers.std(0, correction=0)


def network(outputs=1, seed=3) -> Rows:
    torch.manual_seed(seed)
    return Rows(outputs, "regression")


def labeled(numbers) -> datasets.Dataset:
    return rows(label=numbers.tolist())


def trained(student, folder, data, optimizer=None, callbacks=(), resume=None, **changes) -> DistillationTrainer:
    args = arguments(folder, **PLAIN | changes)
    trainer = DistillationTrainer(
        student, args, train_dataset=data, eval_dataset=data, optimizers=(optimizer, None), callbacks=list(callbacks)
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def answers(student) -> torch.Tensor:
    with torch.no_grad():
        return student.eval()(torch.tensor(rows()["features"][:])).double()


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "rmsprop"])
@pytest.mark.parametrize("outputs", [2, 4])
def test_it_is_training_on_numbers_that_were_standardized_by_hand(tmp_path, optim, outputs):
    numbers, changes = prices(2), {"optim": optim, "weight_decay": 0.1}
    ours, by_hand = network(outputs), network(outputs)
    trained(ours, tmp_path / "ours", labeled(numbers), **changes)
    trained(by_hand, tmp_path / "hand", labeled((numbers - MEAN) / STD), standardize_labels=False, **changes)
    expected = answers(by_hand)
    mean, log_variance = expected[:, :2] * STD + MEAN, expected[:, 2:] + 2 * torch.tensor(STD).log()
    assert torch.allclose(answers(ours)[:, :2], mean, atol=1e-3)
    assert torch.allclose(answers(ours)[:, 2:], log_variance, atol=1e-4)
    assert type(ours.head) is nn.Linear and not ours.head._forward_hooks


def test_measures_are_in_the_labels_units_and_the_loss_in_those_of_their_variance(tmp_path):
    student, numbers = network(), prices()
    trainer = trained(student, tmp_path, labeled(numbers), num_train_epochs=1, max_steps=1, learning_rate=1e-9,
                      per_device_train_batch_size=N, logging_steps=1)  # fmt: skip
    errors = answers(student) - numbers
    metrics = trainer.evaluate()
    assert metrics["eval_rmse"] == pytest.approx(errors.square().mean().sqrt().item(), rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(errors.square().mean().item(), rel=1e-5)
    (logged,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged["loss"] == pytest.approx((errors / STD).square().mean().item(), rel=1e-4)
    assert logged["label_loss"] == pytest.approx(logged["loss"], rel=1e-6)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit(tmp_path, outputs):
    data, changes = labeled(prices()), {"save_strategy": "epoch", "save_only_model": False}
    whole = network(outputs)
    trained(whole, tmp_path, data, **changes)
    first = min(tmp_path.glob("checkpoint-*"), key=lambda each: int(each.name.split("-")[1]))
    resumed = network(outputs, seed=11)
    trained(resumed, tmp_path, data, resume=str(first), **changes)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_checkpoint_loads_without_us_and_answers_in_the_labels_units(tmp_path):
    student, seen = network(), {}

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **others):
            seen[state.global_step] = answers(model)
            model.train()

    trained(student, tmp_path, labeled(prices()), callbacks=[Watch()], save_strategy="epoch")
    for folder in tmp_path.glob("checkpoint-*"):
        plain = network(seed=11)
        plain.load_state_dict(load_file(folder / "model.safetensors"))
        step = json.loads((folder / "trainer_state.json").read_text())["global_step"]
        assert torch.allclose(answers(plain), seen[step], rtol=1e-5)


def test_a_saved_student_of_transformers_loads_by_its_own_class(tmp_path):
    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=8, num_labels=1)  # fmt: skip
    torch.manual_seed(0)
    tokens = torch.randint(1, 20, (N, 5))
    data = datasets.Dataset.from_dict({"input_ids": tokens.tolist(), "label": prices()[:, 0].tolist()})
    student = BertForSequenceClassification(config)
    trainer = trained(student, tmp_path, data)
    trainer.save_model()
    loaded = BertForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        answer, expected = loaded.eval()(tokens).logits, student.eval()(tokens).logits
    assert torch.equal(answer, expected) and abs(expected.mean() - MEAN) < STD
    assert not (tmp_path / "standardized_head.safetensors").exists()


def test_the_best_student_is_brought_back_in_the_labels_units(tmp_path):
    student = network()
    trainer = trained(student, tmp_path, labeled(prices()), eval_strategy="epoch", save_strategy="epoch",
                      load_best_model_at_end=True, metric_for_best_model="rmse")  # fmt: skip
    assert trainer.evaluate()["eval_rmse"] == pytest.approx(trainer.state.best_metric, rel=1e-5)


def test_a_network_that_answers_in_the_labels_units_goes_on_from_there(tmp_path):
    student, data = network(), labeled(prices())
    trained(student, tmp_path / "first", data, num_train_epochs=10)
    before = answers(student)
    trained(student, tmp_path / "further", data, max_steps=1, learning_rate=1e-9)
    assert torch.allclose(answers(student), before, rtol=1e-5)


def test_an_interrupted_training_leaves_a_network_in_the_labels_units(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, *args, **others):
            raise KeyboardInterrupt

    student = network()
    with pytest.raises(KeyboardInterrupt):
        trained(student, tmp_path, labeled(prices()), callbacks=[Stop()])
    assert (answers(student).mean() - MEAN).abs() < STD and not student.head._forward_hooks


def test_a_layer_without_a_bias_learns_in_units_of_the_root_mean_square(tmp_path):
    size = (MEAN**2 + STD**2) ** 0.5
    ours, by_hand = network(), network()
    for each in (ours, by_hand):
        each.head = nn.Linear(8, 1, bias=False)
        each.head.weight.data.fill_(0.1)
    trained(ours, tmp_path / "ours", labeled(prices()))
    trained(by_hand, tmp_path / "hand", labeled(prices() / size), standardize_labels=False)
    assert torch.allclose(answers(ours), size * answers(by_hand), rtol=1e-4)


@pytest.mark.parametrize("what", ["frozen", "shared", "no linear layer"])
def test_a_layer_that_cannot_take_units_is_left_alone_and_said(tmp_path, what, caplog):
    student = network()
    if what == "frozen":
        student.head.requires_grad_(False)
    elif what == "shared":
        student.twin = student.head
        student.other = nn.Linear(8, 1)
        student.other.weight = student.head.weight
    else:
        student.head = nn.Sequential(nn.Linear(8, 1), nn.Softplus())
    with caplog.at_level(logging.WARNING):
        trained(student, tmp_path, labeled(prices()), max_steps=1, learning_rate=1e-9)
    assert "standard deviation of 77" in caplog.text and "divide them" in caplog.text
    assert answers(student).abs().max() < 5


def test_stored_labels_alone_tell_the_scale(tmp_path):
    teacher_network, data = network(), labeled(prices())
    trained(teacher_network, tmp_path / "teacher", data, num_train_epochs=20)
    soft = add_soft_labels(data, DeterministicTeacher(teacher_network), progress=False).remove_columns("label")
    student = network(seed=5)
    args = arguments(tmp_path / "student", **PLAIN | {"kd_lambda": 1.0, "num_train_epochs": 20})
    DistillationTrainer(student, args, train_dataset=soft).train()
    means = torch.tensor(soft["teacher_mean"][:]).double()
    assert ((answers(student) - means).square().mean().sqrt() / STD) < 0.5


def test_an_online_teacher_gives_the_same_as_its_stored_labels(tmp_path):
    data, teacher_network = labeled(prices()), network()
    trained(teacher_network, tmp_path / "teacher", data, num_train_epochs=20)
    teacher = LaplaceTeacher.fit(teacher_network, _batches(data), _batches(data), problem_type="regression")
    soft = add_soft_labels(data, teacher, num_samples=4, progress=False)
    students = {}
    for name, given in (("stored", soft), ("online", data)):
        student = students[name] = network(2, seed=5)
        online = {"online_teacher": True, "teacher_samples": 4} if name == "online" else {}
        args = arguments(tmp_path / name, **PLAIN | {"kd_lambda": 0.7} | online)
        DistillationTrainer(student, args, train_dataset=given, teacher=teacher if online else None).train()
    assert torch.allclose(answers(students["stored"]), answers(students["online"]), rtol=2e-5)


def _batches(data):
    return [{"features": torch.tensor(data["features"][:]), "labels": torch.tensor(data["label"][:])}]


@pytest.mark.parametrize("posterior", ["head", "full"])
def test_a_variational_posterior_comes_out_in_the_labels_units(tmp_path, posterior):
    numbers, changes = prices(), {"kl_warmup": 0.0, "kl_annealing": 0.0}
    found = {}
    for name, scale, shift, on in (("ours", STD, MEAN, True), ("hand", 1.0, 0.0, False)):
        student = network(2)
        make_variational(student, posterior)
        data = labeled((numbers - MEAN) / STD * scale + shift)
        trained(student, tmp_path / name, data, standardize_labels=on, **changes)
        found[name] = VariationalTeacher(student, likelihood=None)
    ours, by_hand = found["ours"], found["hand"]
    scale = torch.tensor([STD, 1.0])
    assert torch.allclose(ours.std["head.weight"], scale[:, None] * by_hand.std["head.weight"], rtol=1e-4)
    assert torch.allclose(ours.std["head.bias"], scale * by_hand.std["head.bias"], rtol=1e-4)


def test_ivons_posterior_comes_out_in_the_labels_units(tmp_path):
    numbers, found = prices(), {}
    for name, scale, shift, on in (("ours", STD, MEAN, True), ("hand", 1.0, 0.0, False)):
        student = network(2)
        optimizer = IVON(student.parameters(), lr=0.05, ess=N, betas=(0.9, 0.9))
        trained(student, tmp_path / name, labeled((numbers - MEAN) / STD * scale + shift), optimizer,
                standardize_labels=on)  # fmt: skip
        found[name] = optimizer.posterior_std(student)
    scale = torch.tensor([STD, 1.0])
    assert torch.allclose(found["ours"]["head.weight"], scale[:, None] * found["hand"]["head.weight"], rtol=1e-3)
    assert torch.allclose(found["ours"]["head.bias"], scale * found["hand"]["head.bias"], rtol=1e-3)
    assert torch.allclose(found["ours"]["layers.0.weight"], found["hand"]["layers.0.weight"], rtol=1e-3)


def test_snapshots_come_out_in_the_labels_units(tmp_path):
    numbers, found = prices(), {}
    for name, scale, shift, on in (("ours", STD, MEAN, True), ("hand", 1.0, 0.0, False)):
        student, callback = network(), SnapshotCallback(0.3, 4, 3)
        data = labeled((numbers - MEAN) / STD * scale + shift)
        trained(student, tmp_path / name, data, callbacks=[callback], standardize_labels=on)
        found[name] = callback.moments(student)
    ours, hand = found["ours"], found["hand"]
    assert torch.allclose(ours.mean["head.bias"], STD * hand.mean["head.bias"] + MEAN, rtol=1e-4)
    assert torch.allclose(ours.mean["head.weight"], STD * hand.mean["head.weight"], rtol=1e-3)
    assert torch.allclose(ours.variance["head.bias"], STD**2 * hand.variance["head.bias"], rtol=1e-2)
    assert torch.allclose(ours.deviations["head.weight"], STD * hand.deviations["head.weight"], rtol=1e-2, atol=1e-3)


def test_a_loaded_checkpoint_without_its_last_layer_is_refused_or_begun_before(tmp_path):
    data = labeled(prices())
    trained(network(), tmp_path, data, save_strategy="epoch", num_train_epochs=1)
    (folder,) = tmp_path.glob("checkpoint-*")
    (folder / "standardized_head.safetensors").unlink()
    from hf_bkd.training.checkpoints import what_lacks

    assert "standardized_head.safetensors" in what_lacks(folder)


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_numbers_of_any_size_are_learned_alike(tmp_path, size):
    ours, by_hand, numbers = network(), network(), (prices() - MEAN) / STD
    trained(ours, tmp_path / "ours", labeled(size * numbers))
    trained(by_hand, tmp_path / "hand", labeled(numbers), standardize_labels=False)
    assert torch.allclose(answers(ours) / size, answers(by_hand), atol=1e-4)


@pytest.mark.parametrize(("size", "sentence"), [(1e30, "square float32 can't hold"), (1e-30, "multiply them by")])
def test_numbers_whose_squares_cannot_be_told_are_refused(tmp_path, size, sentence):
    with pytest.raises(UserError, match=sentence):
        trained(network(), tmp_path, labeled(size * (prices() - MEAN)))


def test_numbers_that_float32_holds_coarsely_are_refused(tmp_path):
    with pytest.raises(UserError, match="lie around 1e\\+06 .* subtract a number from all"):
        trained(network(), tmp_path, labeled(1e6 + (prices() - MEAN) / STD / 3))


def test_a_student_in_float64_reads_what_others_read(tmp_path):
    single, double, data = network(), network().double(), labeled(prices())
    trained(single, tmp_path / "single", data)
    trainer = trained(double, tmp_path / "double", data)
    with torch.no_grad():
        wide = double.eval()(torch.tensor(data["features"][:]).double())
    assert double.head.weight.dtype == torch.float64 and torch.allclose(wide, answers(single), rtol=1e-4)
    assert trainer.evaluate()["eval_rmse"] == pytest.approx((wide - prices()).square().mean().sqrt().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("dtype", "mean", "std"), [("bfloat16", 3e5, 1e3), ("float16", 3e5, 3e5), ("float16", 0.0, 1e-6)]
)
def test_numbers_that_a_layer_in_16_bits_cannot_answer_with_are_refused(tmp_path, dtype, mean, std):
    numbers = labeled(mean + std * (prices() - MEAN) / STD)
    with pytest.raises(UserError, match=f"last layer is {dtype}, which can't answer so: load .*float32"):
        trained(network().to(getattr(torch, dtype)), tmp_path, numbers)
    trained(network(), tmp_path, numbers)


def test_a_student_in_bfloat16_answers_with_prices_as_well_as_it_can(tmp_path):
    student = network().bfloat16()
    trained(student, tmp_path, labeled(prices()), num_train_epochs=20)
    with torch.no_grad():
        errors = student.eval()(torch.tensor(rows()["features"][:]).bfloat16()).double() - prices()
    assert errors.square().mean().sqrt() < 0.6 * STD


def test_a_student_compiled_before_the_training_learns_and_answers_as_another(tmp_path):
    plain, compiled, data = network(), network(), labeled(prices())
    trained(plain, tmp_path / "plain", data)
    args = arguments(tmp_path / "ours", **PLAIN, torch_compile=True, torch_compile_backend="eager")
    trainer = DistillationTrainer(compiled, args, train_dataset=data, eval_dataset=data)
    before = trainer.evaluate()["eval_rmse"]
    trainer.train()
    after = (answers(compiled) - prices()).square().mean().sqrt().item()
    assert torch.allclose(answers(plain), answers(compiled), rtol=1e-3)
    assert trainer.evaluate()["eval_rmse"] == pytest.approx(after, rel=1e-4) and after < before


def test_what_a_callback_reads_of_the_state_is_in_the_labels_units_and_can_be_put_back(tmp_path):
    class Averaging(TrainerCallback):
        state = None

        def on_step_end(self, args, state, control, model=None, **others):
            self.state, own = model.state_dict(), answers(model)
            plain = network(seed=11)
            plain.load_state_dict(self.state)
            assert torch.allclose(answers(plain), own, rtol=1e-5)
            model.load_state_dict(self.state)
            assert torch.allclose(answers(model), own, rtol=1e-5)
            model.train()

    watching, student = Averaging(), network()
    trained(student, tmp_path, labeled(prices()), callbacks=[watching])
    after = student.state_dict()
    assert all(torch.allclose(watching.state[name], after[name], rtol=1e-5) for name in after)
    assert not student.head._state_dict_hooks and not student.head._load_state_dict_pre_hooks
