"""Cards: what a student is, how it was taught and how good it is, for people and for the Hub."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .files import write_text

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


def write_student_card(folder: str | Path, recipe: str, dataset: str, record: dict[str, Any]) -> None:
    """Write ``README.md``: a model card with the metrics of one arm's record, readable by the Hub."""
    metrics = record["metrics"]
    dataset = Path(dataset).name if Path(dataset).exists() else dataset
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
    return " | ".join(f"{metrics[name]:.4f}" for name in ("accuracy", "nll", "ece", "brier"))
