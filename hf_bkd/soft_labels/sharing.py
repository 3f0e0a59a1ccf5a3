"""Soft labels are shared on the Hub as an ordinary dataset, with a card on what made them and how to use them."""

import re
from typing import Any

import datasets
from huggingface_hub import CommitOperationAdd, DatasetCard, HfApi

from ..data.labels import IN_WORDS
from ..hub.cards import CITATION, measures_table, shown
from ..hub.transfer import made_repository, pushing_to
from ..utils.errors import UserError
from ..utils.markdown import escaped
from .columns import teachers_of
from .layout import Layout
from .pictures import picture_of
from .reading import bytes_per_example
from .record import LabelRecord
from .record_parts import NEXT_TOKENS
from .writing import only_soft_labels

TAGS = ["hf_bkd", "knowledge-distillation", "soft-labels"]
SECTION = "<!-- soft labels of the configuration {} -->\n"
END = "<!-- end of soft labels -->\n"


def push_soft_labels(
    dataset: datasets.Dataset | datasets.DatasetDict,
    repo_id: str,
    *,
    config_name: str = "default",
    split: str | None = None,
    labels_only: bool = False,
    private: bool | None = None,
    token: str | None = None,
    license: str | None = None,
) -> None:
    """Push a labeled dataset to the Hub, with a card; ``datasets.load_dataset`` reads it.

    The configuration is replaced, with all of its splits; other configurations and the rest of the card stay. Labels
    and card are two commits: if the second fails, the same call repeats both.

    Args:
        dataset: with soft labels; the splits of a ``DatasetDict`` must carry the same record, so push a labeled
            training split and an unlabeled test split as two configurations.
        repo_id: of the dataset repository, made if need be.
        config_name: of the configuration in it.
        split: its name, for a single dataset; its own or "train" if not given.
        labels_only: push no images or texts; :func:`~hf_bkd.join_soft_labels` finds them again.
        private: whether a new repository is; True is refused for one that is public already.
        token: of the Hub, if not that of the user's login.
        license: the Hub's name of the labels' license, such as ``"cc-by-4.0"``; the card keeps its own if not given.

    Raises:
        UserError: no soft labels, labels without a record, splits that don't go together, or a Hub that can't be
            reached or refuses.
    """
    if isinstance(dataset, datasets.Dataset):
        dataset = datasets.DatasetDict({split or str(dataset.split or "train"): dataset})
    first = next(iter(dataset.values()))
    for each in dataset.values():
        if not teachers_of(each.column_names):
            raise UserError("there are no soft labels to push: add them with add_soft_labels")
        if each.features != first.features:
            raise UserError(
                "the splits have different columns or records, which one configuration can't hold: push each with a "
                "config_name of its own"
            )
    if labels_only:
        dataset = datasets.DatasetDict({name: only_soft_labels(each) for name, each in dataset.items()})
        first = next(iter(dataset.values()))
    picture, caption = picture_of(first)
    file = f"confidence-{config_name}.png"
    text = label_card(first, repo_id, config_name, next(iter(dataset))) + f"\n![{caption}]({file})\n\n*{caption}*\n"
    with pushing_to(repo_id, token):
        api = HfApi(token=token)
        repo_id = made_repository(api, repo_id, "dataset", private).repo_id
        dataset.push_to_hub(repo_id, config_name=config_name, token=token)
        card = DatasetCard.load(repo_id, token=token)
        card.data["tags"] = list(dict.fromkeys([*(card.data.get("tags") or []), *TAGS]))
        if license is not None:
            card.data["license"] = license
        card.data["size_categories"] = [_size(sum(map(len, dataset.values())))]
        card.text = _with_section(card.text, config_name, text)
        files = {"README.md": str(card).encode(), file: picture}
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repo_id, operations, commit_message="Card of the soft labels", repo_type="dataset")


def label_card(dataset: datasets.Dataset, repo_id: str, config_name: str = "default", split: str = "train") -> str:
    """The text of a dataset's card on its soft labels, in Markdown; UserError if they have no record."""
    parts = [f"# {repo_id.rpartition('/')[2]}: soft labels\n"]
    for teacher in teachers_of(dataset.column_names):
        layout = Layout.of(dataset.features, teacher)
        if layout.record is None:
            raise UserError(
                f"{layout.name} has no teacher_provenance, and labels of unknown origin aren't to be shared"
            )
        parts.append(_teacher_section(teacher, layout, bytes_per_example(dataset)))
    parts.append(_usage(dataset, repo_id, config_name, split))
    parts.append(CITATION)
    return "\n".join(parts)


def _teacher_section(teacher: str | None, layout: Layout, size: float) -> str:
    held_out = layout.record.held_out or {}
    facts = facts_of(layout.record)
    what = "probabilities" if layout.likelihood.classes_in else "means"
    facts |= {f"bytes of {what} a row, all views and teachers": f"{size:.4g}"}
    rows = "\n".join(f"| {name} | {shown(value)} |" for name, value in facts.items())
    heading = "The teacher" if teacher is None else f"Teacher {escaped(teacher)}"
    lines = [f"## {heading}\n", f"| | |\n| --- | --- |\n{rows}\n"]
    if measures := measures_table({"": held_out}):
        lines.append(f"The teacher on held-out examples:\n\n{measures}\n")
    return "\n".join(lines)


def facts_of(record: LabelRecord) -> dict[str, Any]:
    """What a record says, by names that people read; without what it doesn't say."""
    teacher, data, views = record.teacher, record.dataset, record.views or {}
    tempered = record.likelihood.has_temperature
    facts = {
        "teacher": teacher.method,
        "predicts": IN_WORDS.get(record.problem_type),
        "one label for each of": record.positions,
        "tokenizer (hash)": record.tokenizer,
        "from": " at ".join(map(str, (teacher.source or {}).values())),
        "weights (hash)": teacher.weights,
        "draws of its posterior": None if teacher.method == "deterministic" else record.num_samples,
        "temperature": f"{record.temperature:g} ({record.tempering.replace('_', ' ')})" if tempered else None,
        "cross-fitted": f"{record.folds['number']} folds" if record.folds else None,
        "views of each example": views.get("number"),
        "views made by": "; ".join(map(_in_words, views.get("transforms", []))),
        "views' seed": views.get("seed"),
        "preprocessing": record.preprocessing,
        "tokens" if record.positions == NEXT_TOKENS else record.likelihood.called: teacher.num_classes,
        "labeled dataset": data.repository or data.name,
        "its revision": data.revision,
        "split": data.split,
        "examples": data.rows,
        "fingerprint of the examples": data.fingerprint,
        "storage": record.storage,
        "seed": record.seed,
        "made with": ", ".join(f"{name} {version}" for name, version in (record.versions or {}).items()),
    }
    return {name: value for name, value in facts.items() if value not in (None, "", {})}


def _in_words(transform: dict[str, Any]) -> str:
    parameters = ", ".join(f"{name}={value}" for name, value in transform.items() if name != "name")
    return f"{transform['name']}({parameters})"


def _usage(dataset: datasets.Dataset, repo_id: str, config_name: str, split: str) -> str:
    name = "" if config_name == "default" else f', "{config_name}"'
    alone = len(only_soft_labels(dataset).column_names) == len(dataset.column_names)
    loaded = "labels" if alone else "train"
    joining = ["train = join_soft_labels(images, labels)  # your own copy of them, in any order"] if alone else []
    code = [
        "from datasets import load_dataset",
        f"from hf_bkd import DistillationTrainer{', join_soft_labels' if alone else ''}",
        "",
        f'{loaded} = load_dataset("{repo_id}"{name}, split="{split}")',
        *joining,
        "DistillationTrainer(student, train_dataset=train).train()",
    ]
    return "## How to use them\n\n```python\n" + "\n".join(code) + "\n```\n"


def _with_section(text: str, config_name: str, section: str) -> str:
    """The card's text with this configuration's section in the place of the older one, or at the end."""
    begin = SECTION.format(config_name)
    older = re.compile(re.escape(begin) + ".*?" + re.escape(END), re.DOTALL)
    new = begin + section + END
    return older.sub(lambda _: new, text) if older.search(text) else f"{text.rstrip()}\n\n{new}".lstrip()


def _size(rows: int) -> str:
    """The Hub's category for a number of rows."""
    limits = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
    return next((name for limit, name in limits.items() if rows < limit), "n>10M")
