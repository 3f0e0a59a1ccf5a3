"""The README's five lines, on text: nothing between a teacher and its student knows what an example is."""

import datasets
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from hf_bkd import DistillationTrainer, DistillationTrainingArguments, LaplaceTeacher, UserError, add_soft_labels

WORDS = {"who": 0, "where": 1, "when": 2}
LENGTH, C = 6, 3


def questions(number: int, seed: int) -> datasets.Dataset:
    """Token ids in which one of three question words, among fillers, tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(C, (number,), generator=generator)
    ids = torch.randint(10, 40, (number, LENGTH), generator=generator)
    ids[torch.arange(number), torch.randint(LENGTH, (number,), generator=generator)] = labels + 3
    texts = [" ".join(map(str, row)) for row in ids.tolist()]
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "input_ids": datasets.List(datasets.Value("int64"), length=LENGTH),
            "attention_mask": datasets.List(datasets.Value("int64"), length=LENGTH),
            "label": datasets.ClassLabel(names=list(WORDS)),
        }
    )
    columns = {"text": texts, "input_ids": ids.tolist(), "attention_mask": [[1] * LENGTH] * number}
    return datasets.Dataset.from_dict(columns | {"label": labels.tolist()}, features=features)


def network(layers: int) -> BertForSequenceClassification:
    torch.manual_seed(layers)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": LENGTH}
    return BertForSequenceClassification(
        BertConfig(vocab_size=40, num_hidden_layers=layers, num_labels=C, pad_token_id=0, **sizes)
    )


def arguments(folder, **changes) -> DistillationTrainingArguments:
    return DistillationTrainingArguments(
        output_dir=str(folder),
        **{
            "num_train_epochs": 6,
            "learning_rate": 5e-3,
            "per_device_train_batch_size": 16,
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        | changes,
    )


def batches(rows: datasets.Dataset) -> DataLoader:
    def collate(examples):
        names = ("input_ids", "attention_mask")
        batch = {name: torch.tensor([example[name] for example in examples]) for name in names}
        return batch | {"labels": torch.tensor([example["label"] for example in examples])}

    return DataLoader(rows, batch_size=50, collate_fn=collate)


def test_text_from_a_network_to_a_student(tmp_path):
    train, validation, test = questions(320, 0), questions(60, 1), questions(100, 2)
    taught = DistillationTrainer(network(2), arguments(tmp_path, kd_lambda=0.0), train_dataset=train)
    taught.train()
    teacher = LaplaceTeacher.fit(taught.model, batches(train), batches(validation))
    inputs = train.select_columns(["text", "input_ids", "attention_mask", "label"])
    labeled = add_soft_labels(inputs, teacher, num_samples=5, progress=False)
    trainer = DistillationTrainer(
        network(1), arguments(tmp_path, kd_lambda=1.0), train_dataset=labeled, eval_dataset=test
    )
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] > 0.9
    with pytest.raises(UserError, match="made for other examples"):
        tokens = list(reversed(labeled.with_format(None)["input_ids"][:]))
        moved = labeled.remove_columns("input_ids").add_column("input_ids", tokens)
        DistillationTrainer(network(1), arguments(tmp_path), train_dataset=moved)
