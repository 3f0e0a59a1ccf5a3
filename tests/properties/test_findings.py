"""What drawn pairs of network and dataset found, each as the smallest case with the labels computed by hand."""

from collections import Counter

import datasets
import numpy as np
import pytest
import torch

from hf_bkd import DeterministicTeacher, UserError, add_soft_labels
from hf_bkd.data.preprocessors import preprocessor_for

from .demands import Case, answer, outcome_of
from .pictures import encoded, transform_of
from .pictures import network_of as image_network
from .texts import CLS, SEP, network_of, numbers_of, tokenizer_of

LONG, SHORT = "who where when why", "how"


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "gpt2"])
def test_a_tokenizer_that_pads_before_the_text(kind):
    """Encoders read the first token, and counted positions from the padding: short texts had others' labels."""
    network = network_of(kind, 3, 0, None)
    tokenizer = tokenizer_of(True, pad_token="[PAD]", padding_side="left")
    rows = datasets.Dataset.from_dict({"text": [LONG, SHORT, ""]})
    tokens = [[CLS, *numbers_of(text), SEP] for text in rows["text"]]
    expected = [answer(network, input_ids=torch.tensor([each])) for each in tokens]
    for size in (1, 3):
        case = Case(network, rows, expected, True, tokenizer, {"batch_size": size})
        assert not isinstance(outcome_of(case, Counter()), UserError)
    assert tokenizer.padding_side == "left"  # it is the user's


def test_tokens_of_such_a_tokenizer():
    network, tokenizer = network_of("bert", 3, 0, None), tokenizer_of(True, pad_token="[PAD]", padding_side="left")
    rows = datasets.Dataset.from_dict({"input_ids": [[CLS, 5, 6, 7, SEP], [CLS, SEP]]})
    expected = [answer(network, input_ids=torch.tensor([each])) for each in rows["input_ids"]]
    outcome_of(Case(network, rows, expected, True, tokenizer), Counter())


def test_a_network_that_reads_the_last_position_is_padded_as_its_tokenizer_says():
    class Last(torch.nn.Module):
        """Of somebody who takes the last position, and says so by the tokenizer."""

        main_input_name = "input_ids"

        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2))

        def forward(self, input_ids):
            return self.layers(input_ids[:, -1])

    tokenizer = tokenizer_of(False, pad_token="[PAD]", padding_side="left")
    rows = datasets.Dataset.from_dict({"text": [LONG, SHORT]})
    inputs = preprocessor_for(Last(), rows, tokenizer)(rows[:])
    assert inputs["input_ids"].tolist() == [numbers_of(LONG), [0, 0, 0, *numbers_of(SHORT)]]


@pytest.mark.parametrize("text", ["", "   "])
def test_a_text_without_tokens_is_refused_and_named(text):
    """Beside other texts it was labeled as whatever attention makes of padding alone."""
    network, tokenizer = network_of("bert", 2, 0, None), tokenizer_of(False, pad_token="[PAD]")
    rows = datasets.Dataset.from_dict({"text": [LONG, SHORT, LONG, text]})
    with pytest.raises(UserError, match="row 3: the text has no tokens, and nothing could be said of it"):
        add_soft_labels(rows, DeterministicTeacher(network), processing_class=tokenizer, progress=False)


def test_a_row_without_tokens_is_refused_and_named():
    rows = datasets.Dataset.from_dict({"input_ids": [[4, 5, 6], [4], [6, 6], []]})
    with pytest.raises(UserError, match="row 3: the text has no tokens"):
        add_soft_labels(rows, DeterministicTeacher(network_of("bert", 2, 0, None)), progress=False)


def test_an_image_of_16_bits_is_named():
    """The refusal said what is wrong, and not which of a million rows it was."""
    network = image_network("vit", 2, 0)
    files = [encoded(mode, (8, 8), 0) for mode in ("RGB", "L", "RGB", "I;16")]
    rows = datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())
    with pytest.raises(UserError, match="row 3: images of mode I;16 have more than 8 bits"):
        add_soft_labels(
            rows, DeterministicTeacher(network), processing_class=transform_of("vit", network)[0], progress=False
        )


def test_names_in_another_order_and_other_names():
    """Columns were in the network's order, beside labels in the dataset's; other names were taken for the same."""
    tokenizer, names = tokenizer_of(True, pad_token="[PAD]"), ["cat", "dog", "eel"]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = datasets.Dataset.from_dict({"text": [LONG, SHORT], "label": [0, 1]}, features=features)
    network = network_of("bert", 3, 0, ["EEL", "CAT", "DOG"])
    tokens = [torch.tensor([[CLS, *numbers_of(text), SEP]]) for text in (LONG, SHORT)]
    expected = [answer(network, input_ids=each)[[1, 2, 0]] for each in tokens]
    outcome_of(Case(network, rows, expected, True, tokenizer), Counter())
    other = network_of("bert", 3, 0, ["owl", "cat", "dog"])
    with pytest.raises(UserError, match="which can't be matched by name"):
        add_soft_labels(rows, DeterministicTeacher(other), processing_class=tokenizer, progress=False)
    assert np.allclose(sum(expected[0]), 1)
