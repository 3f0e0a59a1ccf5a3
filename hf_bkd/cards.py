"""Cards: what a student is, how it was taught and how good it is, for people and for the Hub."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .files import bare_name, write_text

STUDENT_CARD = """---
{{ card_data }}
---

# {{ student }} taught by: {{ arm }}

A student trained with [hf_bkd](https://arxiv.org/abs/2601.01484) by the recipe `{{ recipe }}` on `{{ dataset }}`
{%- if condition %} ({{ condition }}){% endif %}, seed {{ seed }}.

| | accuracy | NLL | ECE | Brier |
| --- | --- | --- | --- | --- |
| student | {{ student_row }} |
{%- if teacher_row %}
| teacher ({{ teacher }}) | {{ teacher_row }} |
{%- endif %}

Measured on the test split after the last epoch; nothing was selected on it.
loss = (1 - lambda) CE + lambda * scale * KL, lambda = {{ kd_lambda }}, T_t = {{ teacher_temperature }}, \
T_s = {{ student_temperature }}, scale by the rule "{{ temperature_scale }}", {{ num_samples }} draws of the \
teacher's posterior where it has one.

```python
import hf_bkd  # registers the network
from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("PATH_OR_REPOSITORY")
```
"""


TEACHER_CARD = """---
{{ card_data }}
---

# {{ method }} teacher

A network with {{ num_classes }} classes{% if method != "deterministic" %} and a distribution over its \
predictions{% endif %}, made with hf_bkd to label data for a student \
([arXiv 2601.01484](https://arxiv.org/abs/2601.01484)).

| | |
| --- | --- |
{%- for name, value in facts.items() %}
| {{ name }} | {{ value }} |
{%- endfor %}
{% if validation %}
On held-out examples{% if chosen %} (the same that a setting above was chosen on){% endif %}: accuracy, negative \
log-likelihood in nats, expected calibration error (10 bins) and Brier score of the averaged probabilities.

| accuracy | NLL | ECE | Brier |
| --- | --- | --- | --- |
| {{ validation }} |
{% else %}
Its calibration has not been measured: `hf-bkd teacher evaluate` does.
{% endif %}
```python
from hf_bkd import Teacher, add_soft_labels

teacher = Teacher.from_pretrained("PATH_OR_REPOSITORY")
labelled = add_soft_labels(dataset, teacher, num_samples=10)
```
"""


def write_teacher_card(folder: str | Path, description: dict[str, Any], task: str) -> None:
    """Write ``README.md`` from what ``teacher.json`` says: how the teacher was fitted and how calibrated it is.

    Args:
        description: what ``teacher.json`` holds.
        task: the Hub's name of what the teacher does.
    """
    record = description["record"]
    validation, dataset = record.get("validation"), record.get("dataset")
    results = [
        EvalResult(task, dataset, dataset, name, value, dataset_split="validation")
        for name, value in (validation.items() if validation and dataset else ())
    ]
    method = description["method"]
    data = ModelCardData(
        library_name="hf_bkd",
        tags=["knowledge-distillation", "bayesian", "hf_bkd", method],
        model_name=f"{method} teacher",
        eval_results=results or None,
    )
    facts = description["settings"] | {name: value for name, value in record.items() if name != "validation"}
    card = ModelCard.from_template(
        data,
        template_str=TEACHER_CARD,
        method=method,
        num_classes=description["num_classes"],
        facts={name.replace("_", " "): f"{v:.4g}" if isinstance(v, float) else v for name, v in facts.items()},
        validation=_row(validation) if validation else "",
        chosen="validation NLL" in record.values(),
    )
    write_text(Path(folder) / "README.md", str(card))


def write_student_card(folder: str | Path, recipe: str, dataset: str, record: dict[str, Any]) -> None:
    """Write ``README.md``: a model card with the metrics of one arm's record, readable by the Hub."""
    metrics = record["metrics"]
    dataset = bare_name(dataset)
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["knowledge-distillation", "hf_bkd", record["teacher"]],
        model_name=f"{record['student']}, {record['arm']}",
        eval_results=[
            EvalResult("image-classification", dataset, dataset, name, metrics[name], dataset_split="test")
            for name in ("accuracy", "nll", "ece", "brier")
        ],
    )
    card = ModelCard.from_template(
        data,
        template_str=STUDENT_CARD,
        recipe=recipe,
        dataset=dataset,
        student_row=_row(metrics),
        teacher_row=_row(record["teacher_metrics"]) if record["teacher_metrics"] else "",
        **{name: value for name, value in record.items() if isinstance(value, (str, int, float))},
    )
    write_text(Path(folder) / "README.md", str(card))


def _row(metrics: dict[str, float]) -> str:
    names = ("accuracy", "nll", "ece", "brier")
    return " | ".join(f"{metrics[name]:.4f}" if name in metrics else "–" for name in names)
