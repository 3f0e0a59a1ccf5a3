"""What a network calls its classes, however its config says it."""

import pytest

from hf_bkd import UserError
from hf_bkd.models.class_names import names_of_network
from tests.cli.fitting_helpers import WORDS, bert

MADE_UP = {number: f"LABEL_{number}" for number in range(3)}
TURNED = {"when": 0, "where": 1, "who": 2}


def network(id2label, label2id=None):
    made = bert()
    vars(made.config)["id2label"], vars(made.config)["label2id"] = id2label, label2id
    return made


@pytest.mark.parametrize(
    "said",
    [
        (dict(enumerate(WORDS)), None),
        ({str(number): name for number, name in enumerate(WORDS)}, None),  # as JSON has the numbers
        (WORDS, None),
        (MADE_UP, {name: number for number, name in enumerate(WORDS)}),
        (MADE_UP, {name: str(number) for number, name in enumerate(WORDS)}),
        (dict(enumerate(WORDS)), {name: number for number, name in MADE_UP.items()}),
        (dict(enumerate(WORDS)), {"cat": 0, "dog": 1, "bird": 2}),  # of the head that it was pretrained with
    ],
)
def test_names_are_found(said):
    assert names_of_network(network(*said)) == WORDS


@pytest.mark.parametrize("said", [(MADE_UP, None), ({}, {}), ({0: "who", 2: "when"}, None), ({"a": "who"}, None)])
def test_no_names_are_made_of_none(said):
    assert names_of_network(network(*said)) is None


def test_two_orders_in_one_config_are_refused_and_either_advice_works():
    odd = network(dict(enumerate(WORDS)), TURNED)
    with pytest.raises(
        UserError, match=r"id2label says who, where, when, and its config.label2id when, where, who"
    ) as e:
        names_of_network(odd)
    advice = str(e.value).rpartition(": set ")[2].split(", or ")[0]
    exec(advice, {"config": odd.config})
    assert names_of_network(odd) == WORDS
    assert names_of_network(network({number: name for name, number in TURNED.items()}, TURNED)) == list(TURNED)
