"""Language models on the command line: texts or messages to label, to train a student on, and to measure one on."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import datasets
import torch
from torch import nn

from ..data.preprocessors import preprocessor_for
from ..language import tokenized
from ..likelihoods import UNLABELED
from ..metrics import summarized_metrics, summary
from ..models.saving import is_adapted_language_model, load_network
from ..models.token_networks import CAUSAL
from ..soft_labels.column_names import teachers_of
from ..teachers import Teacher
from ..training.arguments import DistillationTrainingArguments
from ..utils.checks import check_count
from ..utils.errors import UserError
from ..utils.files import read_json
from ..utils.progress import track
from .networks import network_folder, processor_of
from .splits import check_taught, split_to_measure_on, split_to_train_on

TOKENS_AT_ONCE = 2**26  # probabilities of one call of a teacher that is measured


def is_language_model(name: str) -> bool:
    """Say whether a saved network is a causal language model, by its config."""
    folder = network_folder(name)
    file = folder / "config.json"
    config = read_json(file) if file.is_file() else {}
    return is_adapted_language_model(folder) or any(
        each.endswith(CAUSAL) for each in config.get("architectures") or []
    )


def texts_of(rows: datasets.Dataset, arguments: Namespace) -> datasets.Dataset:
    """Return the columns of a split that a language model is to read; one that was asked for is called ``text``.

    Raises:
        UserError: a column that isn't there, or one of labels, which texts are themselves.
    """
    if not len(rows):
        raise UserError("the split is empty: pass another one")
    if arguments.label_column:
        raise UserError("a language model's labels are the texts' own tokens: omit --label_column")
    asked = arguments.input_column
    for name in asked or ():
        if name not in rows.column_names:
            raise UserError(f"the dataset has no column {name!r}, only {', '.join(rows.column_names)}")
    if not asked:
        return rows
    rows = rows.select_columns(list(asked))
    return rows.rename_column(asked[0], "text") if len(asked) == 1 and asked[0] not in ("messages", "text") else rows


def in_tokens(
    several: Sequence[datasets.Dataset | None], tokenizer: Any, arguments: Namespace
) -> list[datasets.Dataset | None]:
    """Return datasets as rows of tokens, as they are or made of texts or messages.

    Raises:
        UserError: as :func:`~hf_bkd.tokenized`, or a maximum length though there are no texts.
    """
    texts = [each is not None and "input_ids" not in each.features for each in several]
    if arguments.max_length is not None and not any(texts):
        raise UserError("--max_length cuts texts, and the rows are tokens already: omit it")
    length = arguments.max_length
    pairs = zip(several, texts, strict=True)
    return [tokenized(rows, tokenizer, length) if are_texts else rows for rows, are_texts in pairs]


def student_and_rows(
    arguments: Namespace, args: DistillationTrainingArguments
) -> tuple[nn.Module, Any, datasets.Dataset, datasets.Dataset | None]:
    """Return the student, its tokenizer, what it is trained on and, if there is such, what it is measured on.

    Raises:
        UserError: something can't be loaded, or there are no soft labels though they are to be learned from.
    """
    name = arguments.student
    tokenizer = processor_of(name, "text")
    _, rows, others = split_to_train_on(arguments)
    check_taught(rows, arguments, args.kd_lambda)
    rows = rows if teachers_of(rows.column_names) else texts_of(rows, arguments)
    student = load_network(network_folder(name)).train()
    if arguments.lora_rank is not None:
        student = _adapted(student, arguments.lora_rank)
    measured_on = split_to_measure_on(arguments, others)
    evaluated = None if measured_on is None else texts_of(measured_on[1], arguments)
    return student, tokenizer, *in_tokens([rows, evaluated], tokenizer, arguments)


def _adapted(student: nn.Module, rank: int) -> nn.Module:
    """Return a network of which low-rank adapters of all linear layers but its head are trained (Hu et al. 2022)."""
    check_count(lora_rank=rank)
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError("--lora_rank needs peft: pip install 'hf_bkd[lm]'") from error
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(student, config)


@torch.no_grad()
def measured(teacher: Teacher, rows: datasets.Dataset, num_samples: int) -> dict[str, float]:
    """Measure what a language model, or a teacher that is one, says of each taught token of rows of tokens."""
    prepare = preprocessor_for(teacher.network, rows, teacher.processing_class)
    generator, seen = torch.Generator().manual_seed(0), []
    lengths = torch.tensor([len(each) for each in rows["input_ids"]])
    size = max(TOKENS_AT_ONCE // (teacher.num_classes * int(lengths.max())), 1)
    columns = rows.with_format(None).select_columns([*prepare.columns, *prepare.beside])
    for start in track(range(0, len(rows), size), "predicting"):
        inputs = dict(prepare(columns[start : start + size]))
        labels, _ = inputs.pop("labels"), inputs.pop("lengths")
        probs = teacher.predict(inputs, num_samples, generator).mean[:, :-1]
        taught = labels[:, 1:] != UNLABELED
        probs, labels = probs[taught.to(probs.device)].double().cpu(), labels[:, 1:][taught]
        seen.append(summary(probs.clamp_min(torch.finfo(torch.float64).tiny).log(), labels))
    measures = summarized_metrics(torch.cat(seen))
    if not measures:
        raise UserError("no token of the split is taught, all of its labels are -100: nothing can be measured on it")
    return measures
