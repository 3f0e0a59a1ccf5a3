"""A network labels a dataset as it is computed by hand, or the refusal comes before any work."""

from collections import Counter

import pytest

from .demands import fast, outcome_of
from .numbers import of_numbers
from .pictures import of_images
from .texts import of_pairs, of_texts, of_tokens

DRAWN = {  # how many cases are drawn of each: in all runs, and in the slow ones
    "numbers": (of_numbers(), 16, 700),
    "texts": (of_texts(), 14, 600),
    "pairs": (of_pairs(), 5, 100),
    "tokens": (of_tokens(), 6, 250),
    "images": (of_images(), 12, 350),
}


def run(name: str, number: int) -> Counter:
    seen: Counter = Counter()

    @fast(number, DRAWN[name][0])
    def labels_are_those_by_hand(case):
        outcome_of(case, seen)

    labels_are_those_by_hand()
    return seen


@pytest.mark.parametrize("name", DRAWN)
def test_some(name):
    seen = run(name, DRAWN[name][1])
    assert seen["labeled"] >= DRAWN[name][1] / 4, seen


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_two_thousand(name):
    seen = run(name, DRAWN[name][2])
    assert seen["labeled"] >= DRAWN[name][2] / 4, seen
    print(name, dict(seen))
