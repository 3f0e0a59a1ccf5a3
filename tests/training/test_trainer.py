"""The trainer against hand-written training, and what it refuses."""

import copy

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from hf_bkd import IVON, BatchedDataset, DistillationTrainer, UserError, Views
from hf_bkd.losses import temperature_factor
from hf_bkd.metrics import classification_metrics
from hf_bkd.soft_labels import read
from tests.training.training_helpers import (
    C,
    D,
    N,
    Plain,
    Recording,
    Tuple,
    WithKwargs,
    arguments,
    arrow,
    examples,
    largest_difference,
    losses,
    new,
    resident,
    same_weights,
    trained,
)


@pytest.mark.parametrize("scale", ["product", "squared", "none"])
def test_one_epoch_equals_steps_written_out_in_float64(tmp_path, scale):
    values = examples()
    settings = {"kd_lambda": 0.3, "teacher_temperature": 2.0, "student_temperature": 1.5, "temperature_scale": scale}
    dataset = resident(values, Recording)
    trainer = trained(tmp_path, dataset=dataset, num_train_epochs=1, **settings)

    model = new(Plain).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for rows in dataset.order:
        logits = model(values["features"][rows].double())
        target = values["teacher_probs"][rows].double() ** 0.5
        target = target / target.sum(dim=1, keepdim=True)
        student = (logits / 1.5).exp() / (logits / 1.5).exp().sum(dim=1, keepdim=True)
        divergence = (target * (target / student).log()).sum(dim=1).mean()
        likelihood = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
        cross_entropy = -likelihood[range(len(rows)), values["labels"][rows]].log().mean()
        loss = 0.7 * cross_entropy + 0.3 * {"product": 3.0, "squared": 2.25, "none": 1.0}[scale] * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert largest_difference(model, trainer.model) < 1e-6
    assert losses(trainer)[-1] == pytest.approx(loss.item(), abs=1e-5)
    assert losses(trainer, "cross_entropy")[-1] == pytest.approx(cross_entropy.item(), abs=1e-5)
    assert losses(trainer, "distillation")[-1] == pytest.approx(divergence.item(), abs=1e-5)


def test_the_logged_loss_is_made_of_the_logged_terms(tmp_path):
    trainer = trained(tmp_path, kd_lambda=0.4, teacher_temperature=3.0, student_temperature=2.0, logging_steps=2)
    factor = temperature_factor("product", 3.0, 2.0)
    parts = zip(losses(trainer), losses(trainer, "cross_entropy"), losses(trainer, "distillation"), strict=True)
    for total, cross_entropy, distillation in parts:
        assert total == pytest.approx(0.6 * cross_entropy + 0.4 * factor * distillation, rel=1e-5)


class OwnLoss(Plain):
    """Computes cross-entropy itself, for transformers' own Trainer."""

    def forward(self, features, labels=None):
        logits = self.layers(features)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_lambda_0_is_plain_cross_entropy_training_bit_for_bit(tmp_path, optim):
    ours = trained(tmp_path, kd_lambda=0.0, optim=optim)
    args = arguments(tmp_path, optim=optim).to_dict()
    allowed = {f for f in TrainingArguments.__dataclass_fields__ if TrainingArguments.__dataclass_fields__[f].init}
    plain_args = TrainingArguments(**{k: v for k, v in args.items() if k in allowed and k != "accelerator_config"})
    values = examples()
    rows = datasets.Dataset.from_dict({name: values[name].tolist() for name in ("features", "labels")})
    plain = Trainer(new(OwnLoss), plain_args, train_dataset=rows)
    plain.train()
    assert same_weights(ours.model, plain.model)
    assert not same_weights(ours.model, new(Plain))


def test_labels_are_smoothed_for_models_without_a_config_too(tmp_path):
    """One step of plain SGD on PyTorch's smoothed cross-entropy."""
    settings = {"per_device_train_batch_size": N, "max_steps": 1, "kd_lambda": 0.0, "label_smoothing_factor": 0.2}
    trainer = trained(tmp_path, **settings)
    assert trainer.args.label_smoothing_factor == 0.2
    values, model = examples(), new(Plain)
    torch.nn.functional.cross_entropy(model(values["features"]), values["labels"], label_smoothing=0.2).backward()
    for mine, theirs in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.detach(), (theirs - 0.1 * theirs.grad).detach(), rtol=1e-5, atol=1e-6)


def test_lambda_0_needs_no_soft_labels(tmp_path):
    values = examples()
    del values["teacher_probs"]
    assert same_weights(trained(tmp_path, kd_lambda=0.0).model, trained(tmp_path, values=values, kd_lambda=0.0).model)


def test_lambda_1_never_reads_a_label(tmp_path):
    values, nonsense, without = examples(), examples(), examples()
    nonsense["labels"] = torch.full((N,), 10**6)
    del without["labels"]
    models = [trained(tmp_path, values=v, kd_lambda=1.0).model for v in (values, nonsense, without)]
    assert same_weights(models[0], models[1]) and same_weights(models[0], models[2])
    assert not same_weights(models[0], trained(tmp_path, values=values, kd_lambda=0.99).model)


@pytest.mark.parametrize("kind", [WithKwargs, Tuple])
def test_any_output_with_logits_gives_the_same_training(tmp_path, kind):
    assert same_weights(trained(tmp_path, kind, kd_lambda=0.5).model, trained(tmp_path, kd_lambda=0.5).model)


@pytest.mark.parametrize("kd_lambda", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("kind", [Plain, WithKwargs])
def test_accumulated_small_batches_make_the_step_of_a_large_one(tmp_path, kind, kd_lambda):
    """22 examples in batches of 8, 8 and 6: micro-batches of 3 leave ragged ends, which a mean of means gets wrong."""
    whole = trained(tmp_path, kind, kd_lambda=kd_lambda, per_device_train_batch_size=8)
    ones = trained(tmp_path, kind, kd_lambda=kd_lambda, per_device_train_batch_size=1, gradient_accumulation_steps=8)
    assert len(losses(whole)) == len(losses(ones)) == 6
    assert largest_difference(whole.model, ones.model) < 1e-6
    assert losses(whole) == pytest.approx(losses(ones), rel=1e-5)
    ragged = [
        trained(tmp_path, kind, kd_lambda=kd_lambda, per_device_train_batch_size=b, gradient_accumulation_steps=a)
        for b, a in ((12, 1), (6, 2))
    ]
    assert largest_difference(ragged[0].model, ragged[1].model) < 1e-6


def test_each_mask_of_the_dropout_has_its_own_pass_and_the_loss_is_their_mean(tmp_path):
    class Masked(Plain):
        """Passes of a batch scale the logits by 1 and by 3, in turn."""

        passes = 0

        def forward(self, features):
            self.passes += self.training
            return super().forward(features) * (3 if self.training and self.passes % 2 == 0 else 1)

    values = examples()
    dataset = resident(values, Recording)
    trainer = trained(tmp_path, Masked, dataset=dataset, num_train_epochs=1, kd_lambda=0.3, dropout_masks=2)
    model = new(Plain).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for rows in dataset.order:
        logits = model(values["features"][rows].double())
        target, labels = values["teacher_probs"][rows].double(), values["labels"][rows]
        loss = sum(
            0.7 * F.cross_entropy(each, labels) + 0.3 * F.kl_div(each.log_softmax(1), target, reduction="batchmean")
            for each in (logits, 3 * logits)
        )
        optimizer.zero_grad()
        (loss / 2).backward()
        optimizer.step()
    assert largest_difference(model, trainer.model) < 1e-6
    assert losses(trainer)[-1] == pytest.approx(loss.item() / 2, abs=1e-5)
    with pytest.raises(UserError, match="dropout_masks must be a whole number of at least 1"):
        arguments(tmp_path, dropout_masks=0)


def test_arrow_rows_and_resident_columns_train_alike(tmp_path):
    values = examples()
    resident = trained(tmp_path, values=values, kd_lambda=0.5)
    rows = trained(tmp_path, dataset=arrow(values), kd_lambda=0.5)
    assert largest_difference(resident.model, rows.model) < 1e-6
    assert losses(resident, "distillation") == pytest.approx(losses(rows, "distillation"), rel=1e-5)


@pytest.mark.parametrize("storage", ["float32", "uint8", "top_k"])
def test_a_stream_trains_as_its_rows_do(tmp_path, storage):
    """In their order, with each storage decoded batch by batch."""
    rows = arrow(examples(), storage=storage, teacher={"num_classes": C})
    settings = {"kd_lambda": 0.5, "num_train_epochs": 1, "max_steps": 2}
    streamed = trained(tmp_path, dataset=rows.to_iterable_dataset(), **settings)
    teacher = read(rows).probs[: len(losses(streamed)) * 8].double()
    assert len(losses(streamed)) == 2
    model, values = new(Plain), examples()
    logits = model(values["features"][:8]).double()
    divergence = (teacher[:8] * (teacher[:8].clamp_min(1e-300).log() - logits.log_softmax(dim=1))).sum(dim=1).mean()
    assert losses(streamed, "distillation")[0] == pytest.approx(divergence.item(), rel=1e-4)


def test_columns_that_the_model_does_not_know_are_dropped_and_soft_labels_kept(tmp_path):
    rows = arrow(examples()).add_column("comment", ["x"] * N)
    trainer = trained(tmp_path, dataset=rows, kd_lambda=1.0)
    assert losses(trainer, "distillation")


def test_several_teachers_count_equally(tmp_path):
    values = examples()
    first, second = values.pop("teacher_probs"), examples(1)["teacher_probs"]
    two = trained(tmp_path, values=values | {"teacher_probs__a": first, "teacher_probs__b": second})
    mean = trained(tmp_path, values=values | {"teacher_probs": (first + second) / 2})
    assert largest_difference(two.model, mean.model) < 1e-6


class TestTemperature:
    def test_is_that_of_the_labels_unless_given(self, tmp_path):
        trainer = DistillationTrainer(
            new(Plain), arguments(tmp_path), train_dataset=arrow(examples(), temperature=4.0)
        )
        assert trainer.teacher_temperature == 4.0

    def test_brings_labels_to_another_one_where_that_is_exact(self, tmp_path):
        values = examples()
        sharp = arrow(values, temperature=1.0, tempering="post_average")
        flat = {**values, "teacher_probs": (values["teacher_probs"].log() / 2).softmax(dim=-1)}
        stored = arrow(flat, temperature=2.0, tempering="post_average")
        models = [trained(tmp_path, dataset=d, teacher_temperature=3.0).model for d in (sharp, stored)]
        assert largest_difference(*models) < 1e-5

    def test_refuses_to_where_it_is_not(self, tmp_path):
        with pytest.raises(UserError, match="averaged over draws at temperature 4 and can't be brought to 2"):
            DistillationTrainer(
                new(Plain),
                arguments(tmp_path, teacher_temperature=2.0),
                train_dataset=arrow(examples(), temperature=4.0, tempering="per_sample"),
            )

    def test_of_half_precision_labels_cannot_be_raised(self, tmp_path):
        """What float16 rounds to 0 would count: p = 2e-9 is 0.007 of the mode at T = 4."""
        with pytest.raises(UserError, match="stored as float16.*label with teacher.temperature = 4"):
            stored = arrow(examples(), storage="float16")
            DistillationTrainer(new(Plain), arguments(tmp_path, teacher_temperature=4.0), train_dataset=stored)
        stored = arrow(examples(), temperature=4.0, storage="float16", tempering="post_average")
        DistillationTrainer(new(Plain), arguments(tmp_path, teacher_temperature=1.0), train_dataset=stored)


def test_a_tokenizers_collator_is_kept(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    vocabulary = WordLevel({"[PAD]": 0, "a": 1}, unk_token="a")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(vocabulary), pad_token="[PAD]")
    trainer = DistillationTrainer(
        new(Plain), arguments(tmp_path), processing_class=tokenizer, train_dataset=resident()
    )
    short, long = [0.5, 0.5, 0.0, 0.0], [0.1, 0.9, 0.0, 0.0]
    ragged = [{"input_ids": [1], "teacher_probs": short}, {"input_ids": [1, 1], "teacher_probs": long}]
    batch = trainer.data_collator(ragged)
    assert batch["input_ids"].tolist() == [[1, 0], [1, 1]]
    torch.testing.assert_close(batch["teacher_probs"], torch.tensor([short, long]))


class TestWhatIsTheCallers:
    def test_arguments_keep_their_values(self, tmp_path):
        args = arguments(tmp_path, max_grad_norm=1.0, label_smoothing_factor=0.1, kd_lambda=0.5)
        before, model = copy.deepcopy(args.to_dict()), new(Plain)
        optimizers = (IVON(model.parameters(), 0.1, N), None)
        trainer = DistillationTrainer(model, args, train_dataset=resident(), optimizers=optimizers)
        trainer.train()
        assert args.to_dict() == before
        assert trainer.args.max_grad_norm == 0 and trainer.args.label_smoothing_factor == 0.1

    def test_a_dataset_keeps_its_epoch_and_order(self, tmp_path):
        dataset = resident()
        before = dict(vars(dataset))
        trainer = trained(tmp_path, dataset=dataset, view_order="shuffle")
        assert vars(dataset) == before and dataset.view == 0
        assert trainer.train_dataset.view == 1 and trainer.train_dataset.view_order == "shuffle"

    def test_a_config_that_networks_share_stays_as_it_is(self, tmp_path):
        config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=C)
        network, before = BertForSequenceClassification(config), config.to_dict()
        DistillationTrainer(network, arguments(tmp_path))
        assert config.to_dict() == before and not network.config.use_cache
        assert network.config is network.bert.config is not config

    def test_a_collator_is_used_as_it_is(self, tmp_path):
        seen = []

        def collator(rows):
            seen.append(rows)
            return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}

        rows = arrow(examples())
        trainer = DistillationTrainer(new(Plain), arguments(tmp_path), data_collator=collator, train_dataset=rows)
        assert trainer.data_collator.per_example is collator
        seen.clear()  # of the rows that the trainer looked at
        trainer.train()
        assert len(seen) == 6 and set(seen[0][0]) == {"features", "labels"}
        assert same_weights(trainer.model, trained(tmp_path, dataset=rows).model)


class TestEvaluation:
    def test_computes_the_metrics_of_the_logits(self, tmp_path):
        values = examples()
        trainer = DistillationTrainer(
            new(Plain),
            arguments(tmp_path),
            train_dataset=resident(values),
            eval_dataset=resident(values),
        )
        found = trainer.evaluate()
        probs = trainer.model(values["features"]).detach().double().softmax(dim=-1)
        for name, value in classification_metrics(probs, values["labels"]).items():
            assert found[f"eval_{name}"] == pytest.approx(value, abs=1e-6)
        assert found["eval_loss"] == pytest.approx(found["eval_nll"], rel=1e-5)

    def test_own_metrics_take_the_place_of_ours(self, tmp_path):
        trainer = DistillationTrainer(
            new(Plain), arguments(tmp_path), train_dataset=resident(),
            eval_dataset=resident(), compute_metrics=lambda prediction: {"mine": 1.0},
        )  # fmt: skip
        found = trainer.evaluate()
        assert found["eval_mine"] == 1.0 and "eval_accuracy" not in found

    def test_predicts_without_labels(self, tmp_path):
        values = examples()
        del values["labels"]
        trainer = DistillationTrainer(new(Plain), arguments(tmp_path), train_dataset=resident(values))
        assert trainer.predict(resident(values)).predictions.shape == (N, C)

    @pytest.mark.parametrize(("noise_epochs", "window"), [(3, 3), (50, 5)])
    def test_convergence_noise_is_logged_at_the_end(self, tmp_path, noise_epochs, window):
        trainer = DistillationTrainer(
            new(Plain),
            arguments(tmp_path, num_train_epochs=10, eval_strategy="epoch", noise_epochs=noise_epochs),
            train_dataset=resident(),
            eval_dataset=resident(examples(1)),
        )
        trainer.train()
        accuracies = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
        assert len(set(accuracies)) > 1
        assert trainer.noise_window() == window
        expected = np.std(accuracies[-window:], ddof=1)
        assert losses(trainer, "convergence_noise") == [pytest.approx(expected)]
        trainer.evaluate()
        trainer.evaluate()
        assert len(trainer.evaluations()[1]) == 10 and trainer.noise_window() == window


class TestRefuses:
    def test_a_training_set_without_soft_labels(self, tmp_path):
        values = examples()
        del values["teacher_probs"]
        with pytest.raises(UserError, match="no teacher_probs column.*features, labels.*add_soft_labels.*kd_lambda=0"):
            trained(tmp_path, values=values, kd_lambda=0.5)

    def test_batches_without_labels(self, tmp_path):
        values = examples()
        del values["labels"]
        with pytest.raises(UserError, match="no labels column.*kd_lambda=1"):
            trained(tmp_path, values=values, kd_lambda=0.5)

    def test_labels_of_another_number_of_classes(self, tmp_path):
        from hf_bkd import create_classifier

        model = create_classifier("cnn6_small", 7, in_chans=1, image_size=8, mean=(0.5,), std=(0.5,))
        values = examples()
        with pytest.raises(UserError, match="teacher_probs has 4 classes and the model has 7"):
            DistillationTrainer(model, arguments(tmp_path), train_dataset=resident(values))

    def test_workers_that_cannot_read_the_dataset_or_learn_its_views(self, tmp_path):
        elsewhere = BatchedDataset({"features": torch.empty(N, D, device="meta")})
        with pytest.raises(UserError, match="dataloader_num_workers is 2, .* on meta: pass 0, or keep .* on the CPU"):
            DistillationTrainer(
                new(Plain), arguments(tmp_path, kd_lambda=0.0, dataloader_num_workers=2), train_dataset=elsewhere
            )
        lasting = arguments(tmp_path, kd_lambda=0.0, dataloader_num_workers=1, dataloader_persistent_workers=True)
        seen = BatchedDataset(examples(), views=Views())
        with pytest.raises(UserError, match="dataloader_persistent_workers is True, .* which view an epoch shows"):
            DistillationTrainer(new(Plain), lasting, train_dataset=seen)

    @pytest.mark.parametrize("kd_lambda", [0.5, 1.0])
    def test_a_transform_that_drops_the_soft_labels(self, tmp_path, kd_lambda):
        rows = arrow(examples())
        rows.set_transform(lambda batch: {"features": torch.tensor(batch["features"]), "labels": batch["labels"]})
        with pytest.raises(UserError, match="batches lack teacher_probs .only features, labels"):
            trained(tmp_path, dataset=rows, kd_lambda=kd_lambda, remove_unused_columns=False)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"kd_lambda": -0.1}, "kd_lambda must be between 0 and 2, and it is -0.1"),
            ({"kd_lambda": 2.5}, "kd_lambda must be between 0 and 2"),
            ({"kd_lambda": float("nan")}, "kd_lambda must be between 0 and 2"),
            ({"teacher_temperature": 0.0}, "teacher_temperature must be above 0"),
            ({"student_temperature": -1.0}, "student_temperature must be above 0"),
            (
                {"temperature_scale": "hinton"},
                "temperature_scale is 'hinton'; it must be one of product, squared, none",
            ),
            ({"noise_epochs": 1}, "noise_epochs must be a whole number of at least 2"),
        ],
    )
    def test_arguments_out_of_range(self, tmp_path, change, words):
        with pytest.raises(UserError, match=words):
            arguments(tmp_path, **change)
