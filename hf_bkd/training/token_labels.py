"""Labels of an example's tokens stand where the network's inputs have these tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ..data.labels import read_labels
from ..likelihoods import CATEGORICAL, UNLABELED
from ..soft_labels.lists import AS_LABELED, check_lengths, combined, number_of_tokens

ONE_EACH = f"give each token one, {UNLABELED} where it has none"


def placed(
    labels: Sequence[Tensor], inputs: Mapping[str, Tensor], name: str, numbers: Sequence[int] | None = None
) -> Tensor:
    """Return the labels of tokens as one tensor, ``UNLABELED`` where inputs are padded or rows have none.

    Args:
        labels: int64 of each of B rows, one for each of its tokens, or of its inputs where these are padded already;
            empty where a row has no labels.
        inputs: of the network for these rows; an ``attention_mask`` [B, L] says where they are padded.
        name, numbers: of the column of labels, and of the rows, in errors.

    Returns:
        int64 [B, L].

    Raises:
        UserError: a row has another number of labels than tokens.
    """
    mask, longest = inputs.get("attention_mask"), next(iter(inputs.values())).shape[1]
    mask = torch.ones(len(labels), longest) if mask is None else mask
    lengths = torch.tensor([len(row) for row in labels])
    places = mask.bool().masked_fill((lengths == longest).unsqueeze(1).to(mask.device), True)
    places = places.masked_fill((lengths == 0).unsqueeze(1).to(mask.device), False)
    check_lengths(name, lengths, places.sum(dim=1).cpu(), numbers, ONE_EACH)
    result = torch.full(places.shape, UNLABELED, device=mask.device)
    result[places] = torch.cat(list(labels)).to(mask.device)
    return result


def labeled_tokens(dataset: datasets.Dataset, rows: Mapping[str, Any], tokenize: Any) -> dict[str, Tensor]:
    """Return a network's inputs for rows, and the labels int64 [N, L] in their column ``label``.

    Args:
        dataset: of the rows.
        rows: column name -> N values.
        tokenize: rows to inputs; a preprocessor of words places their labels itself.
    """
    labels = read_labels(dataset, "label", CATEGORICAL, per_token=True)(rows["label"])
    if getattr(tokenize, "prepare_labeled", None) is not None:
        return tokenize.labeled(rows, labels)
    inputs = tokenize(rows)
    return inputs | {"labels": placed(labels, inputs, "label")}


def check_all_lengths(dataset: datasets.Dataset, name: str, columns: Sequence[str], remedy: str = AS_LABELED) -> None:
    """Compare the lengths of tokens' labels in all rows with those of inputs that are there as they are.

    Args:
        dataset: the rows.
        name: of the column of labels, or of soft labels.
        columns: of inputs, of which the first holds a list for each row; one of the name ``attention_mask`` says how
            many of its entries are no padding.
        remedy: what is to be done about other lengths.
    """
    table = dataset.with_format("arrow").select_columns([name, *columns])[:]
    lengths, expected = (_lengths(table[each]) for each in (name, columns[0]))
    if "attention_mask" in columns:
        attended = number_of_tokens("attention_mask", combined(table["attention_mask"]))
        expected = torch.where(lengths == expected, expected, attended)
    check_lengths(name, lengths, torch.where(lengths == 0, 0, expected), remedy=remedy)


def _lengths(rows: Any) -> Tensor:
    rows = pc.struct_field(rows, "probs") if pa.types.is_struct(rows.type) else rows
    return torch.from_numpy(pc.list_value_length(rows).fill_null(0).to_numpy().astype("int64"))
