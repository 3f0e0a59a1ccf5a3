"""Language models on the command line: texts or messages to label, to train a student on, and to measure one on."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from torch import nn

from ..hub.transfer import check_base_is_shared
from ..language import tokenized
from ..models.adapter_bases import named_base
from ..models.adapters import is_adapted, own_weights, sharing
from ..models.saving import is_adapted_language_model, load_network
from ..models.token_networks import CAUSAL
from ..soft_labels.columns import teachers_of
from ..teachers import Teacher
from ..teachers.next_tokens import TokenBatches, token_measures
from ..training.arguments import DistillationTrainingArguments
from ..utils.checks import check_count
from ..utils.errors import UserError
from ..utils.files import read_json
from .networks import network_folder, processor_of
from .splits import check_taught, split_to_measure_on, split_to_train_on


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
    student = load_language_model(name).train()
    if arguments.lora_rank is not None:
        student = adapted(student, arguments.lora_rank)
    elif is_adapted(student):
        train_adapters(student)
    check_others_have_base(student, args)
    measured_on = split_to_measure_on(arguments, others)
    evaluated = None if measured_on is None else texts_of(measured_on[1], arguments)
    return student, tokenizer, *in_tokens([rows, evaluated], tokenizer, arguments)


def load_language_model(name: str) -> nn.Module:
    """Load a language model, which goes on to be called as on the Hub, so that its adapters name it to others."""
    folder = network_folder(name)
    network = load_network(folder)
    if is_adapted(network):
        return network
    is_here = Path(name).expanduser().exists()
    network.name_or_path = network.config._name_or_path = str(folder.resolve()) if is_here else name
    network.config._commit_hash = None if is_here else folder.name
    return network


def train_adapters(network: nn.Module) -> None:
    """Have a language model's own adapters trained further, which are loaded to be used alone."""
    for weight in own_weights(network):
        weight.requires_grad_(True)


def check_others_have_base(network: nn.Module, args: DistillationTrainingArguments) -> None:
    """Raise a UserError if adapters are to be pushed, and nobody else has their base model."""
    base = named_base(network) if args.push_to_hub and is_adapted(network) else None
    if base is not None:
        check_base_is_shared(base.name)


def adapted(network: nn.Module, rank: int, dropout: float = 0.0) -> nn.Module:
    """Return a network of which low-rank adapters of all linear layers but its head are trained (Hu et al. 2022).

    It shares the network's weights.
    """
    check_count(lora_rank=rank)
    if is_adapted(network):
        raise UserError("the network has adapters already, which are trained further: omit --lora_rank")
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError("--lora_rank needs peft: pip install 'hf_bkd[lm]'") from error
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(sharing(network), config)


def measured(
    teacher: Teacher, rows: datasets.Dataset, num_samples: int, tokenizer: Any = None, progress: str = "predicting"
) -> dict[str, float]:
    """Measure what a language model, or a teacher that is one, says of each taught token of rows of tokens.

    ``tokenizer`` is that which made the rows, if it isn't the teacher's own.
    """
    draws, tokenizer = teacher.num_draws(num_samples), tokenizer or teacher.processing_class
    batches = TokenBatches.of(teacher.network, rows, tokenizer, progress, draws)
    return token_measures(teacher, batches, num_samples)
