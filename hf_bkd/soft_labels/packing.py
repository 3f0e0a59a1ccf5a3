"""Rows of tokens with their soft labels are packed, several texts to a row."""

import datasets
import pyarrow as pa

from ..data.columns import EXAMPLE_ID
from ..utils.checks import check_count
from ..utils.errors import UserError
from .columns import read_record, teachers_of
from .identity import Identity, summarized_ids
from .layout import Layout
from .record import LabelRecord, identified
from .writing import label_columns, with_columns


def pack_soft_labels(dataset: datasets.Dataset, max_length: int, strategy: str = "bfd") -> datasets.Dataset:
    """Pack a language model's labeled rows by ``trl.pack_dataset``, and keep the record of what made their labels.

    Args:
        dataset: with ``input_ids``, ``labels`` and soft labels of next tokens.
        max_length: tokens of a packed row.
        strategy: of trl: ``"bfd"`` keeps texts whole, and cuts those that are longer; ``"bfd_split"`` cuts them into
            several; ``"wrapped"`` fills all rows, whose texts then see those before their own.

    Returns:
        Packed rows with the same columns of lists, ``seq_lengths``, by which the texts of a row are kept apart, and
        ids of their own; all other columns are gone.

    Raises:
        UserError: no labels of next tokens, or trl is not there.
    """
    check_count(2, max_length=max_length)
    try:
        from trl import pack_dataset
    except ImportError as error:
        raise UserError("packing needs trl: pip install 'hf_bkd[packing]'") from error
    for teacher in teachers_of(dataset.column_names) or [None]:
        if not Layout.of(dataset.features, teacher).next_tokens:
            raise UserError("only labels of next tokens are packed: label with a language model")
    lists = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.List)]
    packed = pack_dataset(dataset.with_format(None).select_columns(lists), max_length, strategy)
    return with_record_of(packed.with_format(None), dataset)


def with_record_of(packed: datasets.Dataset, dataset: datasets.Dataset) -> datasets.Dataset:
    """Return packed rows with the records of the dataset that they are made of, and ids of their own."""
    identity = Identity(tuple(name for name in ("input_ids", "seq_lengths") if name in packed.column_names))
    ids = identity.of_dataset(packed)
    columns = {}
    for teacher in teachers_of(dataset.column_names):
        record = read_record(dataset.features, teacher)
        if record is None:
            continue
        content = record.to_json()
        about = content["dataset"] | {"rows": len(packed)} | identified(identity, summarized_ids(ids))
        record = LabelRecord.from_json(content | {"dataset": about})
        columns |= label_columns(pa.table({EXAMPLE_ID: ids}), record, teacher)
    return with_columns(packed, columns)
