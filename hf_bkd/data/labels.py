"""What a column of labels holds, and how its rows become the labels of a network.

| a row holds               | feature                                      | label, of a network of C values          |
| ------------------------- | -------------------------------------------- | ---------------------------------------- |
| one class                 | `ClassLabel`, whole number, name             | int64 []; `UNLABELED` if there is none   |
| one class for each token  | list of such                                 | int64 [L], of a network of tokens        |
| which labels are there    | list of C numbers in [0, 1]                  | float32 [C]; NaN if there is no label    |
| the labels that are there | list of `ClassLabel`, whole numbers or names | float32 [C], zeros and ones; NaN         |
| one number, or C numbers  | number, list of C numbers                    | float32 [C]; NaN if there is no label    |

Which of them it is, the network's likelihood says; where it says nothing, :func:`problem_type_of_column` does.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, likelihood_from
from ..models.class_names import both_name, matching_places
from ..utils.errors import UserError
from .columns import class_numbers
from .label_values import LabelColumn, are_hot, as_arrow, lengths_of

IN_WORDS = {
    Categorical.problem_type: "one class for each example",
    Bernoulli.problem_type: "labels that are each there or not",
    Gaussian.problem_type: "numbers",
}


def in_words(problem_type: str, per_token: bool = False) -> str:
    """Say what a network of a problem predicts."""
    return "one class for each token" if per_token else IN_WORDS[problem_type]


SAY_IT = (  # of a column
    "cast it to datasets.List(datasets.ClassLabel(names=...)), or to "
    "datasets.List(datasets.Value('float32'), length=C)"
)


def problem_type_of_column(dataset: Any, name: str, per_token: bool = False, num_values: int | None = None) -> str:
    """Say which problem a column of labels poses, in transformers' words.

    Args:
        dataset: a ``datasets.Dataset``; of a streamed one the features alone speak.
        name: of the column.
        per_token: whether the network answers for each token of an example.
        num_values: of the network; one float a row is a class number where it has several.

    Raises:
        UserError: the column holds no labels, or lists of whole numbers, or of a stream's numbers, that may be either.
    """
    feature = dataset.features[name]
    is_list, inner = _shape_of(feature, name)
    if not is_list:
        is_number = inner == "float" and num_values in (None, 1)
        return Gaussian.problem_type if is_number else Categorical.problem_type
    if per_token:
        return Categorical.problem_type
    if inner == "name":
        return Bernoulli.problem_type
    rows = _rows_of(dataset, name)
    if rows is not None and are_hot(rows):
        return Bernoulli.problem_type
    if rows is not None and inner == "float":
        return Gaussian.problem_type
    if rows is not None and len(np.unique(lengths_of(rows))) > 1:
        return Bernoulli.problem_type
    whole = "whole " if inner == "whole" else ""
    raise UserError(
        f"column {name} holds lists of {whole}numbers, which may be the labels that are there or numbers to predict: "
        f"pass problem_type={Bernoulli.problem_type!r} or {Gaussian.problem_type!r}"
    )


def read_labels(
    dataset: Any,
    name: str,
    likelihood: Likelihood,
    num_values: int | None = None,
    classes: Sequence[str] | None = None,
    per_token: bool = False,
    form: str | None = None,
) -> LabelColumn:
    """Say how a column of labels is read for a network, by name where both sides name their classes.

    Args:
        dataset: has the column; rows of a ``datasets.Dataset`` say what its features don't.
        name: of the column.
        likelihood, num_values, classes: of the network: what it predicts, how many values and their names in order,
            where these are known.
        per_token: whether it answers for each token.
        form: of the training set's labels, :attr:`LabelColumn.form`, which whole numbers in lists have here too.

    Raises:
        UserError: labels of another kind than the network's, of other classes, or of another number.
    """
    feature, problem_type = dataset.features[name], likelihood.problem_type
    is_list, inner = _shape_of(feature, name)
    if not can_hold(feature, name, likelihood, per_token, num_values or 1):
        wanted = in_words(problem_type, per_token)
        if getattr(feature, "dtype", "") == "null":
            kind = "Value('int64')" if per_token else "Value('float32')"
            raise UserError(
                f"no row of column {name} has a label, so that nothing says of which kind these would be: pass "
                f"dataset.remove_columns({name!r}), or, for rows without labels, "
                f"dataset.cast_column({name!r}, datasets.List(datasets.{kind}))"
            )
        raise UserError(
            f"the network predicts {wanted}, and column {name} holds {feature}: take a network of that kind (its "
            "problem_type says which), or a column of such labels"
        )
    if problem_type == Bernoulli.problem_type and not is_list:
        return LabelColumn(name, "hot", 1)
    places, names = _classes(feature, name, inner, classes) if inner != "float" else (None, None)
    if problem_type == Categorical.problem_type:
        return LabelColumn(name, "classes of tokens" if per_token else "class", num_values, places, names)
    if problem_type == Gaussian.problem_type:
        return LabelColumn(name, "numbers", num_values)
    if inner == "name":
        return LabelColumn(
            name, "set", num_values or len(classes or getattr(feature.feature, "names", ())), places, names
        )
    if inner == "whole" and form in ("hot", "set") and num_values is not None:
        return LabelColumn(name, form, num_values)
    return _hot_or_set(dataset, name, inner, num_values)


def plain_labels(
    dataset: datasets.Dataset, name: str, problem_type: str | None = None
) -> tuple[Tensor, list[str] | None]:
    """Return a column's labels, and the names of the classes: numbers of these [N], or labels or numbers [N, C].

    Args:
        dataset: has the column.
        name: of the column.
        problem_type: what they are labels of; what they look like if not given.
    """
    feature = dataset.features[name]
    several = hasattr(feature, "feature")
    if problem_type is None and (several or str(getattr(feature, "dtype", "")).startswith(("float", "double"))):
        problem_type = problem_type_of_column(dataset, name)
    if problem_type not in (None, Categorical.problem_type):
        labels = read_labels(dataset, name, likelihood_from(problem_type))(dataset.with_format(None)[name][:])
    else:
        labels = torch.tensor(class_numbers(dataset, name))
    return labels, getattr(feature.feature if several else feature, "names", None)


def can_hold(
    feature: Any, name: str, likelihood: Likelihood, per_token: bool = False, num_values: int | None = None
) -> bool:
    """Return whether a column ``name`` of this feature can hold labels of a likelihood.

    A single label that is there or not, ``num_values`` of 1, may stand in a column of zeros and ones.

    Raises:
        UserError: it can hold no labels at all.
    """
    is_list, inner = _shape_of(feature, name)
    holds = {
        Categorical.problem_type: is_list == per_token and not (per_token and inner == "float"),
        Bernoulli.problem_type: not per_token and (is_list or (num_values == 1 and inner != "name")),
        Gaussian.problem_type: inner in ("whole", "float") and not per_token,
    }
    return holds[likelihood.problem_type]


def _hot_or_set(dataset: Any, name: str, inner: str, num_values: int | None) -> LabelColumn:
    """Tell lists of zeros and ones from lists of class numbers."""
    rows, length = _rows_of(dataset, name), getattr(dataset.features[name], "length", -1)
    if inner == "float" or length == num_values or (rows is not None and are_hot(rows)):
        lengths = np.unique(lengths_of(rows)) if rows is not None else [length]
        if num_values is None and len(lengths):
            num_values = int(lengths[0])
        if inner == "whole" and num_values == 2 and length < 0 and rows is not None and _all_name_both(rows):
            raise UserError(
                f"all rows of column {name} are [0, 1], which are both labels by number, or the second by a zero or "
                f"one for each: {SAY_IT}"
            )
        return LabelColumn(name, "hot", num_values)
    if rows is None or num_values is None:
        raise UserError(
            f"nothing says whether the whole numbers in column {name} are the labels that are there or a zero or one "
            f"for each: {SAY_IT}"
        )
    return LabelColumn(name, "set", num_values)


def _all_name_both(rows: pa.Array) -> bool:
    """Whether all rows are 0 and then 1, as both labels' numbers are mostly written."""
    pairs = np.asarray(rows.drop_null().flatten())
    return len(pairs) > 0 and bool((pairs.reshape(-1, 2) == [0, 1]).all())


def _classes(
    feature: Any, name: str, inner: str, classes: Sequence[str] | None
) -> tuple[tuple[int, ...] | None, tuple[str, ...] | None]:
    """Return the network's numbers of a ClassLabel's, or its names where the column holds names."""
    single = getattr(feature, "feature", feature)
    if isinstance(single, datasets.ClassLabel):
        if not both_name(single.names, classes):
            return None, None
        places = matching_places(single.names, classes)
        if places is None:
            there, here = (", ".join(each[:5]) + ", ..." * (len(each) > 5) for each in (single.names, list(classes)))
            raise UserError(
                f"the column {name} has the classes {there}, and the network {here}, which can't be matched by name: "
                "take a network of these classes, or, if they are the same in the same order, give its "
                "config.id2label the column's names"
            )
        return (None if places == list(range(len(places))) else tuple(places)), None
    if inner == "name":
        if classes is None:
            raise UserError(
                f"the column {name} holds names, and nothing says which number each has: cast it to "
                "datasets.ClassLabel (in datasets.List, where rows hold several), or set the network's config.id2label"
            )
        return None, tuple(classes)
    return None, None


def _shape_of(feature: Any, name: str) -> tuple[bool, str]:
    """Return whether rows hold lists, and whether of names (also numbered ones), whole numbers or floats."""
    is_list = isinstance(feature, (datasets.List, datasets.LargeList))
    single = feature.feature if is_list else feature
    dtype = str(getattr(single, "dtype", ""))
    if isinstance(single, datasets.ClassLabel) or dtype in ("string", "large_string"):
        return is_list, "name"
    if isinstance(single, datasets.Value) and dtype.startswith(("int", "uint", "bool", "null")):
        return is_list, "whole"
    if isinstance(single, datasets.Value) and dtype.startswith(("float", "double")):
        return is_list, "float"
    raise UserError(
        f"column {name} holds {feature}, which is no label: labels are classes (numbers, names, ClassLabel), numbers, "
        "or one list of these for each row"
    )


def _rows_of(dataset: Any, name: str) -> pa.Array | None:
    """Return all rows of a column; ``None`` of a streamed dataset."""
    if not isinstance(dataset, datasets.Dataset):
        return None
    return as_arrow(dataset.with_format("arrow").select_columns([name])[:][name], name)
