"""Cards: what a student is, how it was taught and how good it is, for people and for the Hub."""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..likelihoods import likelihood_from
from ..utils.files import bare_name, write_text
from ..utils.markdown import capitalized, escaped, table

METRICS = {
    "accuracy": "accuracy",
    "mean_average_precision": "mAP",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "rmse": "RMSE",
    "mae": "MAE",
    "nll": "NLL",
    "ece": "ECE",
    "brier": "Brier",
    "coverage": "coverage of 90 %",
    "interval_error": "error of intervals",
}
"""What pages call each measure, in the order of their columns."""
HEADLINES = ("mean_average_precision", "rmse", "accuracy")  # of several labels, of numbers, of one class
ANY_TASK = "other"  # the Hub's name of a task that it has no name for
NEXT_TOKENS = "text-generation"  # and of a language model's
CITATION = """
## Citation

```bibtex
@inproceedings{morad2026sgd,
  title = {SGD-Based Knowledge Distillation with Bayesian Teachers},
  author = {Morad and Shlezinger and Eldar},
  booktitle = {International Conference on Learning Representations},
  year = {2026},
  note = {arXiv:2601.01484}
}
```
"""

STUDENT_CARD = (
    """---
{{ card_data }}
---

# {{ title }}

A student distilled with [hf_bkd](https://arxiv.org/abs/2601.01484){{ how }}.

- **Finding.** {{ finding }}
- **Data.** {{ data }}. {{ measured }}
- **Limits.** One training: what another seed would change is not known, and no interval can be given.

{{ measures }}

```python
{{ code }}
```

<details>
<summary>How it was taught</summary>

loss = (1 - lambda) * loss of the labels + lambda * scale * KL(teacher, student)

| | |
| --- | --- |
{%- for name, value in facts.items() %}
| {{ name }} | {{ value }} |
{%- endfor %}

</details>
{% for file, caption in figures.items() %}
![{{ caption }}]({{ file }})

*{{ caption }}*
{% endfor %}
"""
    + CITATION
)

TEACHER_CARD = (
    """---
{{ card_data }}
---

# {{ method }} teacher

A {{ network }} {{ num_classes }} {{ outputs }}{% if method != "deterministic" %} and a distribution over its \
predictions{% endif %}, made with hf_bkd to label data for a student \
([arXiv 2601.01484](https://arxiv.org/abs/2601.01484)).

- **Finding.** {{ finding }}
- **Data.** {{ data }}.
- **Limits.** One fit: what another seed would change is not known, and no interval can be given.

<details>
<summary>Settings and training</summary>

| | |
| --- | --- |
{%- for name, value in facts.items() %}
| {{ name }} | {{ value }} |
{%- endfor %}

</details>
{% if validation %}
Of the averaged {{ values }} on held-out examples{% if chosen %} (the same that a setting above was chosen on)\
{% endif %}; NLL is in nats{% if bins %}, ECE has 10 bins{% endif %}.

{{ validation }}
{% endif %}
```python
from hf_bkd import Teacher, add_soft_labels
{% if needs_network %}
network = ...  # built as {{ needs_network }} describes it
teacher = Teacher.from_pretrained("PATH_OR_REPOSITORY", network=network)
{%- else %}
teacher = Teacher.from_pretrained("PATH_OR_REPOSITORY")
{%- endif %}
labeled = add_soft_labels(dataset, teacher, num_samples=10)
```
"""
    + CITATION
)


def has_card_of_another(folder: str | Path) -> bool:
    """Whether a folder has a ``README.md`` that is not a card of this library, and so is not to be replaced."""
    card = Path(folder, "README.md")
    if not card.is_file():
        return False
    header, _, _ = card.read_text(errors="replace").partition("\n---")
    return not header.startswith("---") or "hf_bkd" not in header


def write_teacher_card(
    folder: str | Path,
    description: dict[str, Any],
    task: str | None,
    license: str | None = None,
    needs_network: str | None = None,
) -> None:
    """Write ``README.md`` from what ``teacher.json`` says: how the teacher was fitted and how calibrated it is.

    Args:
        folder: of the teacher.
        description: what ``teacher.json`` holds.
        task: the Hub's name of what the teacher does, where it has one.
        license: the Hub's name of the teacher's license; the card names none if not given.
        needs_network: the file that describes the network which has to be built for loading, where one has to.
    """
    record = description["record"]
    validation, dataset = record.get("validation"), record.get("dataset")
    results = [
        EvalResult(task or ANY_TASK, dataset, dataset, name, value, dataset_split="validation")
        for name, value in (validation.items() if validation and dataset else ())
    ]
    method, likelihood = description["method"], likelihood_from(description.get("likelihood"))
    data = ModelCardData(
        license=license,
        library_name="hf_bkd",
        tags=["knowledge-distillation", "bayesian", "hf_bkd", method],
        model_name=f"{method} teacher",
        eval_results=results or None,
    )
    facts = description["settings"] | {name: value for name, value in record.items() if name != "validation"}
    if "base" in description:
        facts |= {"base model": bare_name(description["base"]["name"])}
    outputs = "tokens" if task == NEXT_TOKENS else likelihood.called
    examples = f", {escaped(record['examples'])} examples" if "examples" in record else ""
    card = _filled(
        data,
        TEACHER_CARD,
        method=escaped(method),
        num_classes=description["num_classes"],
        finding=_finding(
            validation or {}, None, "Its calibration has not been measured: `hf-bkd teacher evaluate` does.", task
        ),
        data=escaped(dataset or "A dataset that it does not name") + examples,
        facts={escaped(name.replace("_", " ")): shown(value) for name, value in facts.items()},
        network="language model of" if task == NEXT_TOKENS else "network with",
        outputs=outputs.removesuffix("s" if description["num_classes"] == 1 else ""),
        values="probabilities" if likelihood.classes_in else "predictions",
        bins="ece" in (validation or {}),
        validation=measures_table({"": validation}) if validation else "",
        chosen="validation NLL" in record.values(),
        needs_network=needs_network,
    )
    write_text(Path(folder) / "README.md", str(card))


def write_student_card(
    folder: str | Path,
    *,
    title: str,
    how: str,
    measured: str,
    metrics: dict[str, float],
    teacher_metrics: dict[str, float] | None,
    facts: dict[str, Any],
    dataset: str,
    split: str,
    task: str | None,
    tags: list[str],
    library: str,
    code: str,
    license: str | None = None,
    base: str | None = None,
    figures: dict[str, str] | None = None,
) -> None:
    """Write ``README.md``: a model card with metrics that the Hub can read.

    Args:
        folder: of the student.
        title: of the card.
        how: end of the sentence "A student distilled with hf_bkd", in Markdown.
        measured: a sentence on where the metrics are from.
        metrics, teacher_metrics: those of ``METRICS`` that are known.
        facts: what else there is to know of the training, by name.
        dataset, split: that were measured on.
        task: the Hub's name of it, such as ``"image-classification"``, where it has one.
        tags: beside those that every student has.
        library, code: what loads the student, see :func:`~hf_bkd.models.loading_code.loading_of`.
        license: the Hub's name of the student's license, such as ``"mit"``; the card names none if not given.
        base: the name on the Hub of the model that the student's adapters are of.
        figures: file -> caption.
    """
    dataset = bare_name(dataset)
    known = {name: metrics[name] for name in METRICS if name in metrics}
    data = ModelCardData(
        base_model=base,
        license=license,
        library_name=library,
        pipeline_tag=task,
        tags=["knowledge-distillation", "hf_bkd", *tags],
        model_name=title,
        eval_results=[
            EvalResult(task or ANY_TASK, dataset, dataset, *each, dataset_split=split) for each in known.items()
        ]
        or None,
    )
    card = _filled(
        data,
        STUDENT_CARD,
        title=escaped(title),
        how=f" {escaped(how, markup=True)}" if how else "",
        finding=_finding(metrics, teacher_metrics, "It has not been evaluated yet.", task),
        data=f"{escaped(dataset)}, {escaped(split)} split",
        measured=escaped(measured, markup=True),
        measures=measures_table({"student": metrics} | ({"teacher": teacher_metrics} if teacher_metrics else {})),
        code=code,
        facts={escaped(name): shown(value) for name, value in facts.items() if value not in (None, "")},
        figures={file: escaped(caption) for file, caption in (figures or {}).items()},
    )
    write_text(Path(folder) / "README.md", str(card))


def shown(value: Any) -> str:
    """Return a value as a cell of a table."""
    return escaped(f"{value:.4g}" if isinstance(value, float) else value)


def measures_table(measured: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table of the measures of some models: name -> its measures; a dash where one is missing."""
    names = [name for name in METRICS if any(name in metrics for metrics in measured.values())]
    if not names:
        return ""
    named = [""] * any(measured)  # no column of names for a single model without one
    rows = [
        [*([model] if model else []), *(f"{metrics[name]:.4f}" if name in metrics else "–" for name in names)]
        for model, metrics in measured.items()
    ]
    return table([[*named, *(METRICS[name] for name in names)], *rows]).strip()


_compiled = cache(jinja2.Template)


def _filled(data: ModelCardData, template: str, /, **values: Any) -> ModelCard:
    """Return a card as `ModelCard.from_template` makes it, which compiles the template each time."""
    return ModelCard(_compiled(template).render(card_data=data.to_yaml(), **data.to_dict() | values))


def _finding(
    metrics: dict[str, float], teacher_metrics: dict[str, float] | None, without: str, task: str | None
) -> str:
    headlines, of_what = (("nll",), " of each next token") if task == NEXT_TOKENS else (HEADLINES, "")
    name = next((name for name in headlines if name in metrics), None)
    if name is None:
        return without
    ece = f" and ECE {metrics['ece']:.4f}" if "ece" in metrics else ""
    text = f"{capitalized(METRICS[name])} {metrics[name]:.4f}{ece}{of_what} on held-out examples"
    if name in (teacher_metrics or {}):
        text += f"; the teacher's was {teacher_metrics[name]:.4f} on those that it was measured on"
    return f"{text}."
