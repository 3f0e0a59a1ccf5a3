"""Tokens that stand in a dataset are the network's own tokenizer's, or are refused before anything is made of them."""

import datasets
import pytest
import torch
import transformers
from torch import nn
from transformers import DataCollatorWithPadding

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    LaplaceTeacher,
    UserError,
    add_soft_labels,
)
from hf_bkd.data.preprocessors import preprocessor_for
from hf_bkd.soft_labels import read
from tests.cli.fitting_helpers import bert, texts, tokenizer
from tests.data.test_preprocessor_for import roberta


def other():
    """The same words under other numbers, as another tokenizer has them."""
    words = tokenizer().get_vocab()
    turned = {word: number if number < 2 else 2 + len(words) - 1 - number for word, number in words.items()}
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer().backend_tokenizer)
        .backend_tokenizer, pad_token="[PAD]", unk_token="[UNK]",
    )  # fmt: skip
    made.backend_tokenizer.model = type(made.backend_tokenizer.model)(turned, unk_token="[UNK]")
    return made


def tokenized(by, rows=None, columns=("text",), **settings):
    rows = texts(20, 0) if rows is None else rows
    return rows.map(lambda row: dict(by(*(row[name] for name in columns), **settings)))


def pairs():
    few = texts(8, 0)
    return few.rename_columns({"text": "premise"}).add_column("hypothesis", texts(8, 1)["text"][:])


def trained(dataset, folder, **given):
    args = DistillationTrainingArguments(
        str(folder), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", max_steps=1, kd_lambda=0.0
    )
    return DistillationTrainer(bert(), args, train_dataset=dataset, **given).train()


ENTRIES = {
    "labels": lambda rows, _: add_soft_labels(
        rows, DeterministicTeacher(bert()), processing_class=tokenizer(), progress=False
    ),
    "fit": lambda rows, _: LaplaceTeacher.fit(bert(), rows, prior_precision=1.0, processing_class=tokenizer()),
    "trainer": lambda rows, folder: trained(rows, folder, processing_class=tokenizer()),
    "trainer with a collator": lambda rows, folder: trained(
        rows, folder, processing_class=tokenizer(), data_collator=DataCollatorWithPadding(tokenizer())
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_another_tokenizers_are_refused_everywhere_and_either_advice_works(entry, tmp_path):
    rows = tokenized(other())
    with pytest.raises(UserError, match="row 0 of column input_ids holds the tokens .* they are another tok") as e:
        ENTRIES[entry](rows, tmp_path)
    first, second = (each.split(",")[0].split(" so")[0] for each in str(e.value).split("dataset.remove_columns")[1:])
    ENTRIES[entry](eval(f"rows.remove_columns{second}"), tmp_path)  # the tokens are said to be right
    if "collator" not in entry:
        ENTRIES[entry](eval(f"rows.remove_columns{first}").select_columns(["text", "label"]), tmp_path)


def test_the_labels_of_a_networks_own_tokens_are_those_of_the_texts():
    teacher = DeterministicTeacher(bert())
    own = add_soft_labels(texts(20, 0), teacher, processing_class=tokenizer(), storage="float32", progress=False)
    ready = add_soft_labels(
        tokenized(tokenizer()), teacher, processing_class=tokenizer(), storage="float32", progress=False
    )
    assert torch.allclose(read(own).probs, read(ready).probs, atol=1e-6)


CUT = {"truncation": True, "max_length": 2}
OWN = {
    "cut": lambda: tokenized(tokenizer(), **CUT),
    "padded": lambda: tokenized(tokenizer(), padding="max_length", max_length=12),
    "after a prompt": lambda: texts(20, 0).map(lambda row: dict(tokenizer()("w1 w2 " + row["text"]))),
    "pairs": lambda: tokenized(tokenizer(), pairs(), ("premise", "hypothesis")),
    "pairs, cut": lambda: tokenized(tokenizer(), pairs(), ("premise", "hypothesis"), truncation=True, max_length=4),
    "pairs, turned": lambda: tokenized(tokenizer(), pairs(), ("hypothesis", "premise")),
    "one of two texts": lambda: tokenized(tokenizer(), pairs(), ("hypothesis",)),
    "beside a remark": lambda: tokenized(other(), texts(20, 0)).remove_columns("text").add_column("by", ["w3"] * 20),
    "nothing known": lambda: tokenized(
        tokenizer(), datasets.Dataset.from_dict({"text": ["zz"] * 3, "label": [0] * 3})
    ),
    "as a stream": lambda: tokenized(tokenizer()).to_iterable_dataset(),
}


@pytest.mark.parametrize("case", OWN)
def test_its_own_are_taken_however_they_were_made(case):
    preprocessor_for(bert(), OWN[case](), tokenizer())


def test_framed_ones_are_taken_too():
    network, framing = roberta()
    words = datasets.Dataset.from_dict({"text": ["w1 w2 w3", "w4"], "label": [0, 1]})
    preprocessor_for(network, tokenized(framing, words), framing)
    with pytest.raises(UserError, match="holds the tokens"):
        preprocessor_for(network, tokenized(tokenizer(), words), framing)


@pytest.mark.parametrize("change", [lambda rows: rows, lambda rows: rows.to_iterable_dataset()])
@pytest.mark.parametrize("token", [25, -1])
def test_numbers_that_a_network_does_not_know_are_refused_without_texts(change, token):
    known = bert().config.vocab_size
    ids = [[2, 3, 4]] * 9 + [[2, known if token > 0 else -1, 3]]
    rows = datasets.Dataset.from_dict({"input_ids": ids[::-1], "label": [0, 1] * 5})
    said = f"column input_ids holds the token {known if token > 0 else -1}, and Bert.* the tokens 0 to {known - 1}"
    with pytest.raises(UserError, match=said):
        preprocessor_for(bert(), change(rows))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, words):
        return self.head(self.words(words).mean(dim=1))


def test_so_are_those_of_a_plain_network():
    with pytest.raises(UserError, match="column words holds the token 10, and Bag knows the tokens 0 to 9"):
        preprocessor_for(Bag(), datasets.Dataset.from_dict({"words": [[1, 2], [3, 10]], "label": [0, 1]}))


def test_padding_that_a_decoder_does_not_know_is_refused_and_the_advice_works():
    config = transformers.GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=1, pad_token_id=0, num_labels=3)
    network = transformers.GPT2ForSequenceClassification(config).eval()
    padded = {"input_ids": [[5, 6, 9, 9], [5, 6, 7, 8]], "attention_mask": [[1, 1, 0, 0], [1, 1, 1, 1]]}
    rows = datasets.Dataset.from_dict(padded | {"label": [0, 1]})
    with pytest.raises(UserError, match="row 0 of column input_ids ends in the token 9, which its mask hides") as e:
        add_soft_labels(rows, DeterministicTeacher(network), progress=False)
    exec(str(e.value).rpartition(", or set ")[2], {"network": network})
    labeled = add_soft_labels(rows, DeterministicTeacher(network), storage="float32", progress=False)
    alone = network(input_ids=torch.tensor([[5, 6]])).logits.softmax(-1)[0]
    assert torch.allclose(read(labeled).probs[0], alone, atol=1e-6)
