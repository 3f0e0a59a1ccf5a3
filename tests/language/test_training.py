"""Language models learn from stored labels as from the teacher itself; what would mislead them is refused."""

import json
import os
from pathlib import Path
from statistics import NormalDist

import peft
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset, Features, List, Value
from transformers import DataCollatorForLanguageModeling, default_data_collator

from hf_bkd import DeterministicTeacher, DistillationTrainer, DistillationTrainingArguments, add_soft_labels
from hf_bkd.language import tokenized
from hf_bkd.metrics import classification_metrics
from hf_bkd.soft_labels import attach
from hf_bkd.soft_labels.next_tokens import encoded
from hf_bkd.soft_labels.packing import with_record_of
from hf_bkd.training.next_token_loss import Positions, TokenLoss
from hf_bkd.utils.errors import UserError

from .language_helpers import CHATS, TEMPLATE, WORDS, V, learned, llama, texts, tokenizer

KINDS = {"probs": torch.float32, "classes": torch.int64}


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return tokenized(texts(8), tokenizer())


@pytest.fixture(scope="module")
def teacher(rows) -> DeterministicTeacher:
    return DeterministicTeacher(learned(llama(), rows))


@pytest.fixture(scope="module")
def sampled(rows, teacher) -> Dataset:
    return add_soft_labels(rows, teacher, processing_class=tokenizer(), progress=False)


@pytest.fixture(scope="module")
def dense(rows, teacher) -> Dataset:
    return add_soft_labels(rows, teacher, processing_class=tokenizer(), storage="float32", progress=False)


def trainer(
    folder: Path, dataset: Dataset, student=None, evaluated=None, teacher=None, **settings
) -> DistillationTrainer:
    usual = {
        "num_train_epochs": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "save_strategy": "no",
        "learning_rate": 1e-3, "report_to": [], "use_cpu": True, "disable_tqdm": True, "max_grad_norm": 0.0,
    }  # fmt: skip
    processing, collator = settings.pop("processing_class", tokenizer()), settings.pop("data_collator", None)
    return DistillationTrainer(
        llama(1) if student is None else student,
        DistillationTrainingArguments(str(folder), **(usual | settings)),
        train_dataset=dataset,
        eval_dataset=evaluated,
        processing_class=processing,
        data_collator=collator,
        teacher=teacher,
    )


def losses(folder: Path, dataset: Dataset, *args, **settings) -> list[float]:
    trained = trainer(folder, dataset, *args, **settings)
    trained.train()
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


def weights(trained: DistillationTrainer) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in trained.model.parameters()])


def test_the_loss_is_that_of_the_logits_of_each_taught_token(tmp_path, dense):
    made = trainer(tmp_path, dense, kd_lambda=0.3, student_temperature=2.0, per_device_train_batch_size=8)
    batch = made.batch_of(list(range(8)))
    made.model.train()
    loss = made.compute_loss(made.model, batch)
    logits, taught = made.model(batch["input_ids"], batch["attention_mask"]).logits, batch["labels"][:, 1:] != -100
    logits, target = logits[:, :-1][taught], batch["teacher_probs"][:, :-1][taught]
    cross_entropy = torch.nn.functional.cross_entropy(logits, batch["labels"][:, 1:][taught])
    divergence = torch.nn.functional.kl_div((logits / 2).log_softmax(-1), target, reduction="batchmean")
    torch.testing.assert_close(loss, 0.7 * cross_entropy + 0.3 * 2 * divergence, rtol=1e-5, atol=1e-6)


def test_its_gradient_is_that_of_the_whole_logits(tmp_path, sampled, monkeypatch):
    gradients = []
    for at_once, splits in ((2**23, True), (V * 5, True), (V * 5, False)):
        monkeypatch.setattr("hf_bkd.training.next_token_loss.ON_OTHERS", at_once)
        made = trainer(tmp_path, sampled, kd_lambda=0.5, label_smoothing_factor=0.1)
        made._splits = splits
        made.model.train()
        made.compute_loss(made.model, made.batch_of([0, 1, 2, 3])).backward()
        gradients.append(torch.cat([each.grad.flatten() for each in made.model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-4, atol=1e-6)


def test_stored_labels_teach_step_by_step_what_the_teacher_itself_does(tmp_path, rows, dense, teacher):
    stored = losses(tmp_path / "stored", dense)
    online = losses(tmp_path / "online", rows, teacher=teacher, online_teacher=True)
    assert stored == pytest.approx(online, rel=1e-6)


def test_all_tokens_of_the_vocabulary_are_the_dense_labels(tmp_path, rows, teacher):
    for storage in ("sampled", "top_k"):
        labels = {"processing_class": tokenizer(), "progress": False}
        whole = losses(tmp_path, add_soft_labels(rows, teacher, storage="float16", **labels))
        kept = losses(tmp_path, add_soft_labels(rows, teacher, storage=storage, top_k=V, **labels))
        assert kept == pytest.approx(whole, rel=1e-6 if storage == "sampled" else 1e-4)


def test_gradients_of_sampled_labels_average_to_that_of_the_whole_distribution(tmp_path, rows, teacher, dense):
    """2,000 samples of the labels of a batch, whose gradients in the head's output are q - t."""
    made = trainer(tmp_path, dense)
    batch = made.batch_of([0, 1])
    probs = batch["teacher_probs"][:, :-1][batch["labels"][:, 1:] != -100]
    generator, count, width = torch.Generator().manual_seed(0), 2000, len(probs)
    logits, hidden = torch.randn(V, generator=generator), torch.randn(width, 6, generator=generator)

    def gradients(target: torch.Tensor, classes: torch.Tensor | None) -> torch.Tensor:
        """Of the head [number of samples, V, 6], for samples of the labels one after the other."""
        heads = torch.zeros(len(target) // width, V, 6, requires_grad=True)
        made = (torch.einsum("nd,svd->snv", hidden, heads) + logits).flatten(0, 1)
        at = torch.arange(len(target))
        TokenLoss(1.0)(made, Positions(at, torch.zeros_like(at), target, classes))[0].backward()
        return heads.grad / width

    start = torch.rand(count * width, dtype=torch.float64, generator=generator)
    kept = [encoded(probs.repeat(50, 1), "sampled", 8, each) for each in start.split(50 * width)]
    drawn = gradients(*(torch.cat([each[name].to(kind) for each in kept]) for name, kind in KINDS.items())).flatten(1)
    error = drawn.mean(dim=0) - gradients(probs, None)[0].flatten()
    # the squared error is a sum over the covariance's directions: its mean and 3 of its standard errors
    centered = drawn - drawn.mean(dim=0)
    covariance = centered.T @ centered / (count - 1)
    assert error.square().sum() <= (covariance.trace() + 3 * 2**0.5 * covariance.norm()) / count
    # each entry, as far as a normal distribution says what can be: 3 standard errors, by Bonferroni for all of them
    tau = kept[0]["probs"][:width].float().min(dim=-1, keepdim=True).values
    variance = (hidden.square().T @ (probs * (tau - probs).clamp_min(0))).T.flatten() / width**2
    often = (count * (probs / tau).clamp_max(1).sum(dim=0) >= 25)[:, None].expand(V, 6).flatten()
    rounded = 2**-11 * (hidden.abs().T @ probs).T.flatten() / width  # of what float16 holds
    quantile = NormalDist().inv_cdf(1 - (1 - NormalDist().cdf(3)) / int(often.sum()))
    assert often.float().mean() > 0.5 and 4 < quantile < 4.7
    assert (error.abs() <= quantile * (variance / count).sqrt() + rounded)[often].all()


def test_a_bucket_is_all_other_tokens_together():
    logits = torch.tensor([[1.0, 2.0, 0.5, -1.0]], dtype=torch.float64)
    target, classes = torch.tensor([[0.5, 0.2]], dtype=torch.float64), torch.tensor([[1, 0]])
    positions = Positions(torch.tensor([0]), torch.tensor([0]), target, classes)
    q = logits.softmax(-1)[0]
    expected = 0.5 * (0.5 / q[1]).log() + 0.2 * (0.2 / q[0]).log() + 0.3 * (0.3 / (q[2] + q[3])).log()
    torch.testing.assert_close(TokenLoss(1.0, is_cut=True)(logits, positions)[0], expected)


def test_accumulated_batches_are_one_batch(tmp_path, sampled):
    """In float64, since Adam brings the rounding of gradients near zero to that of whole steps."""
    finals = []
    for size, steps in ((8, 1), (1, 8), (4, 2)):
        made = trainer(
            tmp_path,
            sampled,
            llama(1).double(),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            kd_lambda=0.5,
        )
        made.train()
        finals.append((weights(made), [each["loss"] for each in made.state.log_history if "loss" in each]))
    for final, logged in finals[1:]:
        torch.testing.assert_close(final, finals[0][0], rtol=0, atol=1e-8)
        assert logged == pytest.approx(finals[0][1], rel=1e-6)


def in_two_steps(folder: Path, dataset: Dataset, size: int) -> DistillationTrainer:
    evaluation = {"evaluated": dataset.select_columns(["input_ids", "labels"]), "per_device_eval_batch_size": 3}
    settings = {"kd_lambda": 0.5, "max_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    student = llama(1).double()  # as in test_accumulated_batches_are_one_batch
    made = trainer(folder, dataset, student, per_device_train_batch_size=size, **settings, **evaluation)
    made.train()
    return made


def in_each_process(rank: int, folder: Path, dataset: Dataset) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost"}
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    made = in_two_steps(folder, dataset, 2)
    assert made.args.world_size == 2
    if made.is_world_process_zero():
        (folder / "said.json").write_text(json.dumps(made.state.log_history))
        torch.save(weights(made), folder / "weights.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path, sampled):
    """With other numbers of taught tokens in each."""
    alone = in_two_steps(tmp_path, sampled, 4)
    torch.multiprocessing.start_processes(in_each_process, (tmp_path, sampled), 2, start_method="fork")
    both = json.loads((tmp_path / "said.json").read_text())
    for name in ("loss", "distillation", "cross_entropy", "eval_loss", "eval_nll", "eval_ece"):
        expected = [entry[name] for entry in alone.state.log_history if name in entry]
        assert expected and [entry[name] for entry in both if name in entry] == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(torch.load(tmp_path / "weights.pt"), weights(alone), rtol=0, atol=1e-8)


def test_a_resumed_training_is_an_uninterrupted_one(tmp_path, sampled):
    settings = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 2}
    whole = trainer(tmp_path / "whole", sampled, **settings)
    whole.train()
    resumed = trainer(tmp_path / "whole", sampled, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert torch.equal(weights(resumed), weights(whole))


def test_packed_rows_teach_what_their_texts_do(tmp_path, sampled):
    lists = [name for name, feature in sampled.features.items() if hasattr(feature, "feature")]
    order = [(0, 1, 2), (3, 4), (5, 6, 7)]
    packed = {name: [[entry for n in group for entry in sampled[n][name]] for group in order] for name in lists}
    packed["seq_lengths"] = [[len(sampled[n]["input_ids"]) for n in group] for group in order]
    features = {name: sampled.features[name] for name in lists} | {"seq_lengths": List(Value("int64"))}
    made = trainer(tmp_path, sampled, per_device_train_batch_size=8)
    rows = Dataset.from_dict(packed, features=Features(features))  # as trl.pack_dataset makes them
    together = trainer(tmp_path, with_record_of(rows, sampled), per_device_train_batch_size=3)
    one, other = (each.batch_of(list(range(size))) for each, size in ((made, 8), (together, 3)))
    for each in (made, together):
        each.model.train()
    alone, joint = made.compute_loss(made.model, one), together.compute_loss(together.model, other)
    torch.testing.assert_close(alone, joint, rtol=1e-5, atol=1e-6)


def test_prompts_that_are_tuned_are_no_tokens_of_a_row(tmp_path, rows):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    student = peft.get_peft_model(llama(1), config).eval()
    lost = []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            logits = student(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 3:-1]
        lost.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    first = losses(tmp_path, rows, student, kd_lambda=0.0, per_device_train_batch_size=8)[0]
    assert first == pytest.approx(float(torch.cat(lost).mean()), rel=1e-4)


def test_padding_is_not_taught_where_labels_name_it(tmp_path, rows, teacher):
    longest = max(map(len, rows["input_ids"]))

    def padded(row: dict) -> dict:
        fill = longest - len(row["input_ids"])
        ids, mask = [*row["input_ids"], *[0] * fill], [1] * len(row["input_ids"]) + [0] * fill
        return {"input_ids": ids, "labels": ids, "attention_mask": mask}

    whole = rows.map(padded)
    labeled = [
        add_soft_labels(each, teacher, processing_class=tokenizer(), storage="float32", progress=False)
        for each in (whole, rows)
    ]
    assert losses(tmp_path, labeled[0]) == pytest.approx(losses(tmp_path, labeled[1]), rel=1e-5)
    collated = {"data_collator": default_data_collator, "kd_lambda": 0.0}
    assert losses(tmp_path, whole, **collated) == pytest.approx(losses(tmp_path, rows, kd_lambda=0.0), rel=1e-5)


def test_a_student_with_an_adapter_learns_by_it_alone(tmp_path, sampled, rows, caplog):
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    made = trainer(tmp_path, sampled, peft.get_peft_model(llama(1), config), rows, learning_rate=1e-2)
    before = made.evaluate()["eval_loss"]
    made.train()
    assert made._splits
    assert made.evaluate()["eval_loss"] < before
    made.save_model(str(tmp_path / "student"))
    assert (tmp_path / "student" / "adapter_model.safetensors").is_file() and "weights beside" not in caplog.text
    made.model.get_base_model().lm_head.requires_grad_(True)
    trainer(tmp_path, rows, made.model, kd_lambda=0.0, max_steps=1).train()
    assert "1 weights beside the adapters are trained, and only adapters are saved" in caplog.text


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"bf16": True}])
def test_less_memory_is_the_same_training(tmp_path, sampled, settings):
    usual = losses(tmp_path, sampled)
    assert losses(tmp_path, sampled, **settings) == pytest.approx(usual, rel=1e-6 if "bf16" not in settings else 0.03)


def test_something_after_the_head_is_seen_and_its_logits_are_taken_whole(tmp_path, sampled):
    class Capped(type(llama())):
        def forward(self, *args, **kwargs):
            outputs = super().forward(*args, **kwargs)
            outputs.logits = 5 * (outputs.logits / 5).tanh()
            return outputs

    Capped.__name__ = "CappedForCausalLM"
    student = llama(1)
    student.__class__ = Capped
    made = trainer(tmp_path, sampled, student)
    made.model.train()
    batch = made.batch_of([0, 1])
    loss = made.compute_loss(made.model, batch)
    assert made._splits is False
    plain = trainer(tmp_path, sampled)
    plain.model.train()
    assert not torch.isclose(loss, plain.compute_loss(plain.model, batch))


def test_an_evaluation_measures_each_taught_token(tmp_path, rows, sampled):
    made = trainer(tmp_path, sampled, evaluated=rows, per_device_eval_batch_size=3)
    measured = made.evaluate()
    probs, labels = [], []
    for row in rows:
        with torch.no_grad():
            probs.append(made.model(torch.tensor([row["input_ids"]])).logits[0, :-1].softmax(-1))
        labels.append(torch.tensor(row["labels"][1:]))
    for name, value in classification_metrics(torch.cat(probs), torch.cat(labels)).items():
        assert measured[f"eval_{name}"] == pytest.approx(value, rel=1e-5), name
    assert measured["eval_loss"] == pytest.approx(measured["eval_nll"], rel=1e-6)
    assert made.predict(rows).predictions.shape == (8, max(map(len, rows["input_ids"])), 4)


def test_a_stream_is_trained_on_as_the_rows_are(tmp_path, sampled):
    usual = losses(tmp_path / "rows", sampled, train_sampling_strategy="sequential", max_steps=2)
    stream = losses(tmp_path / "stream", sampled.to_iterable_dataset(), max_steps=2)
    assert stream == pytest.approx(usual, rel=1e-6)


@pytest.mark.parametrize("side", ["right", "left"])
def test_batches_of_ones_own_collator_teach_the_same(tmp_path, sampled, side):
    own = tokenizer()
    own.padding_side = side
    made = trainer(tmp_path / "usual", sampled)
    args = DistillationTrainingArguments(str(tmp_path), report_to=[], use_cpu=True, per_device_train_batch_size=4)
    rows = sampled.remove_columns("labels")
    collated = DistillationTrainer(
        llama(1), args, data_collator=DataCollatorForLanguageModeling(own, mlm=False), train_dataset=rows
    )
    first, batch = made.batch_of([0, 1, 2, 3]), collated._train.collate([rows[number] for number in range(4)])
    for each in (made, collated):
        each.model.train()
    torch.testing.assert_close(
        made.compute_loss(made.model, first), collated.compute_loss(collated.model, batch), rtol=1e-5, atol=1e-6
    )


def shifted(dataset: Dataset, by: int) -> Dataset:
    names = [name for name in ("teacher_tokens", "teacher_probs") if name in dataset.features]

    def move(row: dict) -> dict:
        return {name: row[name][-by:] + row[name][:-by] if by > 0 else row[name][1:] + row[name][:1] for name in names}

    return dataset.map(move, features=dataset.features)


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("storage", ["sampled", "float32"])
def test_labels_that_are_off_by_one_are_refused(tmp_path, sampled, dense, by, storage):
    dataset = shifted(sampled if storage == "sampled" else dense, by).remove_columns("labels")
    with pytest.raises(UserError, match="they are shifted by one"):
        trainer(tmp_path, dataset)


def test_a_token_that_is_taught_without_a_label_is_refused(tmp_path, sampled):
    with pytest.raises(UserError, match="has no soft label"):
        trainer(tmp_path, shifted(sampled, 1))


def other_tokenizer():
    return tokenizer(words=[*WORDS[:10], *WORDS[10:][::-1]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processing_class": other_tokenizer()}, "another tokenizer"),
        ({"teacher_temperature": 2.0}, "temperature"),
        ({"teacher_temperature": 0.5}, "temperature"),
        ({"distance": "standardized"}, "distance is 'standardized'"),
        ({"lambda_schedule": "adaptive"}, "lambda_schedule is 'adaptive'"),
        ({"dropout_masks": 2}, "dropout_masks is 2"),
        ({"kd_lambda": 1.5}, "kd_lambda is 1.5"),
        ({"student": llama(1, output_router_logits=True)}, "adds a loss of its routers"),
        ({"student": llama(1, vocab_size=90)}, "knows the tokens 0 to 89|the student has 90"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, sampled, settings, message):
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, sampled, **settings)


@pytest.mark.parametrize("name", ["compute_loss_func", "compute_metrics"])
def test_functions_of_all_logits_are_refused(tmp_path, rows, name):
    args = DistillationTrainingArguments(str(tmp_path), report_to=[], use_cpu=True, kd_lambda=0.0)
    with pytest.raises(UserError, match="needs the logits of all tokens"):
        DistillationTrainer(llama(1), args, train_dataset=rows, **{name: lambda *given: {}})


def test_a_wider_vocabulary_than_the_teachers_is_fine(tmp_path, sampled):
    assert len(losses(tmp_path, sampled, llama(1, vocab_size=128))) == 4


def test_messages_by_another_template_are_refused(tmp_path, teacher):
    chats = Dataset.from_dict({"messages": CHATS})
    dataset = add_soft_labels(chats, teacher, processing_class=tokenizer(), progress=False)
    with pytest.raises(UserError, match="by another chat template"):
        trainer(tmp_path, dataset, processing_class=tokenizer(TEMPLATE.replace("<", "[")))
    trainer(tmp_path, dataset, processing_class=tokenizer(None))


def test_columns_that_were_cut_are_refused(tmp_path, sampled):
    def cut(row: dict) -> dict:
        return {"input_ids": row["input_ids"][:4], "labels": row["labels"][:4]}

    with pytest.raises(UserError, match="tokens"):
        trainer(tmp_path, sampled.map(cut, features=sampled.features))


def test_labels_of_examples_do_not_teach_a_language_model(tmp_path):
    record = {"format": 1, "temperature": 1.0, "tempering": "post_average", "teacher": {"num_classes": 2}}
    rows = attach(tokenized(texts(4), tokenizer()), torch.full((4, 2), 0.5).numpy(), record)
    with pytest.raises(UserError, match="holds no labels of next tokens"):
        trainer(tmp_path, rows)


def test_several_teachers_labels_are_refused(tmp_path, rows, teacher):
    settings = {"processing_class": tokenizer(), "progress": False}
    dataset = add_soft_labels(add_soft_labels(rows, teacher, name="a", **settings), teacher, name="b", **settings)
    with pytest.raises(UserError, match="learns from those of one"):
        trainer(tmp_path, dataset)


def test_a_training_set_that_teaches_nothing_is_refused(tmp_path, rows):
    nothing = rows.map(lambda row: {"labels": [-100] * len(row["labels"])})
    with pytest.raises(UserError, match="no token of the training set is taught"):
        trainer(tmp_path, nothing, kd_lambda=0.0)
