"""Answers with labels of their tokens have those of add_soft_labels, and students learn from them."""

import numpy as np
import pytest
from datasets import Dataset, load_from_disk

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    EnsembleTeacher,
    UserError,
    add_soft_labels,
    aggregate_responses,
)
from hf_bkd.soft_labels import read, read_record
from tests.language.language_helpers import CHATS, TEMPLATE, llama, tokenizer

from .response_helpers import answered, prompts

LABELS = "teacher_responses_labels"
OF_TOKENS = ["input_ids", "labels", "teacher_tokens", "teacher_probs", "example_id", "teacher_provenance"]


def ensemble() -> EnsembleTeacher:
    return EnsembleTeacher([DeterministicTeacher(llama(seed)) for seed in range(2)])


def labeled(rows: Dataset, teacher=None, **settings) -> Dataset:
    settings = {"processing_class": tokenizer(), "progress": False} | settings
    return add_soft_labels(rows, DeterministicTeacher(llama()) if teacher is None else teacher, **settings)


@pytest.mark.parametrize(
    ("rows", "make"),
    [
        (prompts(), llama),
        (Dataset.from_dict({"messages": CHATS}), llama),
        (prompts(), lambda: DeterministicTeacher(llama(), temperature=2.0)),
        (prompts(), ensemble),
    ],
)
def test_labels_are_those_of_the_rows(rows, make, tmp_path):
    settings = {"temperature": 1.5, "top_k": 20}  # of the sampling alone
    made = answered(rows, make(), 3, token_labels=True, **settings)
    made.save_to_disk(tmp_path / "made")
    made = load_from_disk(tmp_path / "made")
    plain = answered(rows, make(), 3, **settings)
    assert made.remove_columns(LABELS).to_dict() == plain.to_dict()
    own = aggregate_responses(made, "all")
    whole = aggregate_responses(plain, "all")
    expected = labeled(whole, make() if hasattr(make(), "predict") else None)
    assert own.column_names == [*whole.column_names, *expected.column_names]
    assert own.select_columns(expected.column_names).features == expected.features
    for name in expected.column_names:
        if name == "teacher_probs":
            np.testing.assert_allclose(np.concatenate(own[name]), np.concatenate(expected[name]), atol=1e-3)
        elif name != "teacher_variance":
            assert own[name][:] == expected[name][:], name
    assert read_record(own.features) == read_record(expected.features)


def test_the_labels_of_a_chosen_answer_are_its_own():
    rows = prompts()
    made = answered(rows, llama(), 3, token_labels=True)
    all_labels = aggregate_responses(made, "all")
    encoder = {text: [len(text), number] for number, text in enumerate(sorted(set(all_labels["completion"])))}
    chosen = aggregate_responses(made, "mean", lambda texts: np.array([encoder[text] for text in texts], float))
    assert len(set(chosen["response"])) > 1
    for row, number in enumerate(chosen["response"]):
        assert chosen[row] == all_labels[3 * row + number]
    some = made.select([4, 2])
    assert aggregate_responses(some, "all", responses=[2, 0])[:] == all_labels.select([14, 12, 8, 6])[:]
    assert read(chosen).lengths is not None


def test_a_student_learns_from_them_as_from_labels_of_the_rows(tmp_path):
    made = answered(prompts(), llama(), 2, token_labels=True)

    def loss(rows, name: str) -> float:
        args = DistillationTrainingArguments(
            tmp_path / name, kd_lambda=1.0, max_steps=2, use_cpu=True, report_to="none", disable_tqdm=True
        )
        student = llama(3)
        own = {"train_dataset": rows, "processing_class": tokenizer()}
        return DistillationTrainer(student, args, **own).train().training_loss

    expected = loss(labeled(aggregate_responses(made.remove_columns(LABELS), "single")), "rows")
    assert loss(aggregate_responses(made, "single"), "answers") == pytest.approx(expected, abs=1e-4)


def test_an_interrupted_labeling_goes_on(tmp_path, monkeypatch):
    small = {"shard_rows": 2, "token_labels": True}
    whole = answered(prompts(), llama(), 2, **small)

    def killed(*args, **settings):
        if settings.get("folder") is not None:
            raise KeyboardInterrupt
        return add_soft_labels(*args, **settings)

    monkeypatch.setattr("hf_bkd.responses.labels.add_soft_labels", killed)
    with pytest.raises(KeyboardInterrupt):
        answered(prompts(), llama(), 2, folder=tmp_path / "part", **small)
    monkeypatch.undo()
    monkeypatch.setattr("hf_bkd.responses.speaking.sampled_answers", None)  # all answers are there
    for _ in range(2):
        assert answered(prompts(), llama(), 2, folder=tmp_path / "part", **small).to_dict() == whole.to_dict()


def test_labels_of_earlier_answers_do_not_stay():
    made = answered(prompts(), llama(), 2, token_labels=True)
    assert LABELS not in answered(made, llama(), 2, seed=1).column_names
    mine = prompts().add_column(LABELS, [0] * 5)
    with pytest.raises(UserError, match=f"has a column {LABELS} of its own"):
        answered(mine, llama())


def test_what_cannot_be_labeled_is_refused_before_anything_is_sampled(monkeypatch):
    monkeypatch.setattr("hf_bkd.responses.speaking.sampled_answers", None)
    own = tokenizer(TEMPLATE.replace("{% for", "{{ 'long ' if messages|length > 1 else 'a' }}{% for", 1))
    rows = Dataset.from_dict({"prompt": [[{"role": "user", "content": "hi"}]]})
    with pytest.raises(UserError, match="writes a prompt otherwise when a completion follows"):
        answered(rows, llama(), processing_class=own, token_labels=True)


def test_answers_that_fill_all_positions_lose_what_ends_them():
    """A prompt of 22 tokens and 6 of an answer fill 28 positions: the end-of-text token has none."""
    made = answered(prompts(), llama(max_position_embeddings=28), 2, token_labels=True)
    rows = aggregate_responses(made, "all")
    assert max(map(len, rows["input_ids"])) == 28
    cut = [each for row in made["teacher_responses_cut"] for each in row]
    full = [
        len(ids) == 28 and len(prompt) == 22 for ids, prompt in zip(rows["input_ids"], rows["prompt"], strict=True)
    ]
    assert any(full) and all(is_cut for is_cut, is_full in zip(cut, full, strict=True) if is_full)
