"""The card of a student on the Hub, written from what its trainer knows."""

from pathlib import Path
from typing import Any

from transformers import Trainer

from ..hub.cards import METRICS, write_student_card
from ..models.calling import unwrapped
from ..models.loading_code import adapters_in_words, base_on_hub, loading_of, task_of
from ..soft_labels.record import LabelRecord
from ..soft_labels.sharing import facts_of
from .next_token_targets import StoredTokens
from .online_teacher import Source
from .supervision import StoredLabels


def write_training_card(trainer: Trainer, source: Source | None, model_name: str | None = None, **given: Any) -> None:
    """Write ``README.md`` and a plot of the accuracies into the trainer's ``output_dir``.

    Args:
        trainer: a :class:`~hf_bkd.DistillationTrainer` that has been trained.
        source: where its targets come from.
        model_name: title of the card.
        given: what `Trainer.push_to_hub` passes on for a card: ``tags``, ``dataset``, ``license`` and others that are
            not used.
    """
    args, folder = trainer.args, Path(trainer.args.output_dir)
    record = _record(source)
    name = model_name or folder.name
    (epochs, accuracies), headline = trainer.evaluations(), trainer.likelihood.headline
    figures = {}
    if len(accuracies) > 1:
        from ..reports.plots import write_accuracy_plot  # takes a second, which a training needn't wait for

        figures = write_accuracy_plot(name, epochs, accuracies, trainer.noise_window(), folder, headline)
    entries = [entry for entry in trainer.state.log_history if f"eval_{headline}" in entry]
    evaluated = entries[-1] if entries else {}
    metrics = {metric: evaluated[f"eval_{metric}"] for metric in METRICS if f"eval_{metric}" in evaluated}
    student = unwrapped(trainer.model, keep_adapters=True)
    training = {
        "lambda": args.kd_lambda,
        "lambda by example": args.lambda_schedule if args.lambda_schedule != "fixed" else None,
        "T_t": trainer.teacher_temperature,
        "T_s": args.student_temperature,
        "scale, by the rule": args.temperature_scale,
        "distance": args.distance if args.distance != "kl" else None,
        "problem type": trainer.likelihood.problem_type if trainer.likelihood.independent else None,
        "epochs": trainer.state.epoch or args.num_train_epochs,
        "learning rate": args.learning_rate,
        "batch size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "training seed": args.seed,
        "adapters": adapters_in_words(student),
        "convergence noise": trainer.convergence_noise(),
    }
    dataset = given.get("dataset") or (record and record.dataset.name) or "unknown"
    tags = given.get("tags") or []
    write_student_card(
        folder,
        title=name,
        how=f" from a {record.teacher.method} teacher" if record else "",
        measured=_measured(evaluated),
        metrics=metrics,
        teacher_metrics=record and record.held_out,
        facts=training | (facts_of(record) if record else {}),
        dataset=dataset if isinstance(dataset, str) else dataset[0],
        split="evaluation",
        task=task_of(student),
        tags=[tags] if isinstance(tags, str) else tags,
        license=given.get("license") or args.license,
        base=base_on_hub(student),
        **loading_of(student, with_processor=trainer.processing_class is not None)._asdict(),
        figures=figures,
    )


def _record(source: Source | None) -> LabelRecord | None:
    """Return the record of the first teacher's labels, if it says which draws of a teacher they average."""
    if not isinstance(source, (StoredLabels, StoredTokens)):
        return None
    record = next(iter(source.stored.values())).layout.record
    return record if record is not None and record.num_samples is not None else None


def _measured(evaluated: dict[str, Any]) -> str:
    if not evaluated:
        return "It has not been evaluated yet."
    return (
        f"The student was measured on its trainer's evaluation set after epoch {evaluated['epoch']:g}; the teacher, "
        "where there are numbers, on examples that were held out from it."
    )
