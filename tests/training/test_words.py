"""A network of tokens is taught by texts in words: their labels and soft labels meet at the same tokens."""

import datasets
import pytest
import torch
from transformers import AutoModelForTokenClassification

from hf_bkd import (
    BatchedDataset,
    DistillationTrainer,
    UserError,
    VariationalTeacher,
    add_soft_labels,
    make_variational,
)
from hf_bkd.data.preprocessors import preprocessor_for
from hf_bkd.soft_labels import join_soft_labels, only_soft_labels
from tests.data.test_token_labels import LABELS, ROWS, rows, tagger, teacher, tokenizer
from tests.training.training_helpers import arguments, largest_difference, losses

WORDS, TAGS = ROWS * 4, LABELS * 4


def trained(folder, dataset, processing=None, online=None, **changes) -> DistillationTrainer:
    settings = {"kd_lambda": 0.7, "learning_rate": 0.05, "num_train_epochs": 2, "per_device_train_batch_size": 4}
    made = DistillationTrainer(
        tagger(),
        arguments(folder, **settings | changes),
        train_dataset=dataset,
        processing_class=processing or tokenizer(),
        teacher=online,
    )
    made.train()
    return made


def variational() -> VariationalTeacher:
    network = tagger()
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in network.parameters():
            weight += torch.randn(weight.shape)
    made = VariationalTeacher(make_variational(network, "head", initial_std=0.3))
    made.processing_class = tokenizer()
    return made


@pytest.mark.parametrize("storage", ["float32", "top_k", "uint8"])
def test_stored_is_online_step_by_step(tmp_path, storage):
    dataset = rows(WORDS, TAGS)
    options = {"storage": storage, "top_k": 3, "seed": 3, "num_samples": 4, "progress": False}
    stored = trained(tmp_path, add_soft_labels(dataset, variational(), **options))
    online = {"online_teacher": True, "teacher_samples": 4, "teacher_seed": 3}
    asked = trained(tmp_path, dataset, online=variational(), **online)
    near = {"float32": 2e-5, "top_k": 2e-3, "uint8": 2e-2}[storage]
    assert losses(stored) == pytest.approx(losses(asked), rel=near) and len(losses(stored)) == 6
    assert largest_difference(stored.model, asked.model) < near * 50


def test_the_loss_counts_the_first_pieces_of_words(tmp_path):
    """Against transformers' own loss of labels aligned by hand, as its guide does."""
    dataset = rows(WORDS, TAGS)
    own = trained(tmp_path, dataset, kd_lambda=0, num_train_epochs=1, per_device_train_batch_size=12)
    inputs = tokenizer()(WORDS, is_split_into_words=True, padding=True, return_tensors="pt")
    labels = []
    for number, tags in enumerate(TAGS):
        words = inputs.word_ids(number)
        first = [word is not None and word not in words[:place] for place, word in enumerate(words)]
        labels.append([tags[word] if starts else -100 for word, starts in zip(words, first, strict=True)])
    expected = tagger()(**inputs, labels=torch.tensor(labels)).loss.item()
    assert losses(own)[0] == pytest.approx(expected, rel=1e-5)


def test_another_tokenizer_is_refused_before_the_first_step(tmp_path):
    soft = add_soft_labels(rows(WORDS, TAGS), teacher(), progress=False)
    with pytest.raises(UserError, match="made for the tokens of another tokenizer"):
        trained(tmp_path, soft, tokenizer(do_lower_case=False))


def test_texts_that_are_cut_at_another_length_are_refused_by_row(tmp_path):
    soft = add_soft_labels(rows(WORDS, TAGS), teacher(), progress=False)
    with pytest.raises(UserError, match="row 0 of column teacher_probs has labels of 9 tokens, and its example has 6"):
        trained(tmp_path, soft, tokenizer(model_max_length=6))


def test_labels_that_were_shared_without_the_texts_teach_the_same(tmp_path):
    soft = add_soft_labels(rows(WORDS, TAGS), teacher(), progress=False)
    joined = join_soft_labels(rows(WORDS, TAGS), only_soft_labels(soft))
    first, second = (trained(tmp_path, each, kd_lambda=1.0) for each in (soft, joined))
    assert largest_difference(first.model, second.model) == 0
    first.save_model(tmp_path / "student")
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "student")
    assert largest_difference(first.model, loaded) == 0


@pytest.mark.parametrize("storage", ["float32", "top_k"])
def test_tokens_in_memory_train_as_rows_do(tmp_path, storage):
    options = {"storage": storage, "top_k": 3, "num_samples": 4, "progress": False}
    dataset = add_soft_labels(rows(WORDS, TAGS), variational(), **options)
    words = preprocessor_for(tagger(), dataset, tokenizer())
    in_memory = BatchedDataset.from_texts(dataset.rename_column("ner_tags", "label"), words, per_token=True)
    by_rows, by_batches = (trained(tmp_path / name, each) for name, each in (("rows", dataset), ("memory", in_memory)))
    assert losses(by_batches) == pytest.approx(losses(by_rows), rel=1e-6) and len(losses(by_rows)) == 6
    assert in_memory.class_names == ["O", "B-LOC", "I-LOC"]


def test_labels_of_tokens_that_a_function_makes_stand_where_it_does_not_pad():
    tokens = datasets.Dataset.from_dict({"text": ["a b", "a b c"], "label": [[1, 0], [2, 0, 1]]})

    def tokenize(rows):
        mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
        return {"input_ids": mask * 7, "attention_mask": mask}

    batch = BatchedDataset.from_texts(tokens, tokenize, per_token=True)[[0, 1]]
    assert batch["labels"].tolist() == [[1, 0, -100], [2, 0, 1]]
    short = tokens.select([0, 0])
    with pytest.raises(UserError, match="row 1 of column label has labels of 2 tokens, and its example has 3"):
        BatchedDataset.from_texts(short, tokenize, per_token=True)
