"""The columns of sampled answers, and the record of what made them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..soft_labels.record import as_json
from ..soft_labels.record_parts import Part, TeacherRecord
from ..soft_labels.writing import with_columns
from ..utils.environment import version_of
from ..utils.errors import UserError
from ..utils.files import parsed_json

RESPONSES = "teacher_responses"
DRAWS = "teacher_response_draws"
CUT = "teacher_responses_cut"
RECORD = "teacher_responses_record"
LABELS = "teacher_responses_labels"
FORMAT = 1
COLUMNS = {
    RESPONSES: datasets.List(datasets.Value("string")),
    DRAWS: datasets.List(datasets.Value("int32")),
    CUT: datasets.List(datasets.Value("bool")),
}


@dataclass(frozen=True, kw_only=True)
class ResponsesRecord(Part):
    """What made sampled answers.

    Args:
        k: answers to a prompt.
        num_samples: S, draws of the teacher's weights of which they come.
        seed: of all draws.
        temperature, top_k, top_p, repetition_penalty, max_new_tokens: see
            :class:`~hf_bkd.responses.sampling.Sampling`.
        teacher: what answered.
        rows: N.
        prompts: hash of the prompts' tokens in their order.
        template: by which texts were made of columns, if they were.
        tokenizer: hash of what made the tokens.
        chat_template: hash of what wrote messages, if there are some.
        cut_off: number of answers that were cut off.
        empty: number of answers without a character.
        versions: of the libraries.
    """

    k: int
    num_samples: int
    seed: int
    temperature: float
    top_k: int | None
    top_p: float
    repetition_penalty: float
    max_new_tokens: int
    teacher: TeacherRecord
    rows: int
    prompts: str
    template: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    cut_off: int
    empty: int
    versions: dict[str, str] | None = None


def make_responses_record(**content: Any) -> ResponsesRecord:
    """Make the record of answers that were just sampled, of its fields."""
    versions = {name: version_of(name) for name in ("hf_bkd", "torch", "transformers", "datasets")}
    return _record(as_json({"format": FORMAT, **content, "versions": versions}))


def _record(content: dict[str, Any]) -> ResponsesRecord:
    return ResponsesRecord._read(content, teacher=TeacherRecord.from_json(content["teacher"]))


def read_responses_record(dataset: datasets.Dataset) -> ResponsesRecord:
    """Read the record of a dataset's sampled answers.

    Raises:
        UserError: there is none, or none that this version reads.
    """
    if not isinstance(dataset, datasets.Dataset):
        raise UserError(f"sampled answers stand in a Dataset, and this is a {type(dataset).__name__}: pass one split")
    feature = dataset.features.get(RECORD)
    names = getattr(feature, "names", None)
    if RESPONSES not in dataset.features or not names:
        raise UserError(
            f"the dataset has no columns {RESPONSES} and {RECORD}: sample answers with generate_responses(dataset, "
            "teacher, k)"
        )
    content = parsed_json(names[0], RECORD)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{RECORD} is of another format than {FORMAT}, which this version of hf_bkd reads")
    try:
        return _record(content)
    except (KeyError, TypeError) as error:
        raise UserError(f"{RECORD} is damaged ({error}): sample the answers again") from error


def check_own_columns(features: Mapping[str, Any]) -> None:
    """Raise a UserError if a column has the name of one of ours and no record of ours stands beside it."""
    for name in (*COLUMNS, LABELS, RECORD):
        if name in features and not getattr(features.get(RECORD), "names", None):
            raise UserError(
                f"the dataset has a column {name} of its own, a name that sampled answers need: pass "
                f"dataset.rename_column({name!r}, {'own_' + name!r})"
            )


def with_responses(dataset: datasets.Dataset, table: pa.Table, record: ResponsesRecord) -> datasets.Dataset:
    """Add the columns of ``COLUMNS`` and their record to a dataset, in the place of earlier ones."""
    dataset = dataset.remove_columns([name for name in (*COLUMNS, LABELS, RECORD) if name in dataset.column_names])
    columns = {name: (table[name], feature) for name, feature in COLUMNS.items()}
    feature = datasets.ClassLabel(names=[json.dumps(record.to_json(), sort_keys=True)])
    return with_columns(dataset, columns | {RECORD: (pa.array(np.zeros(len(table), np.int64)), feature)})
