"""Settings of transformers' Trainer that would have no effect on a distillation, or stop it halfway, are refused."""

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from ..likelihoods import Likelihood
from ..models.calling import unwrapped
from ..models.token_networks import predicts_next_tokens
from ..utils.errors import UserError
from .arguments import DistillationTrainingArguments
from .problem import Problem

BY_LENGTH = ("group_by_length", "batch_rebalance")  # of train_sampling_strategy
FOR_METRICS = ("inputs", "loss")
RECOMPUTED = ("activation_checkpointing", "gradient_checkpointing")  # one setting, by two names


def check_loss(compute_loss_func: Any, args: DistillationTrainingArguments) -> None:
    """Refuse a loss of the caller's, or smoothed labels, where they would not be what is minimized."""
    if args.label_smoothing_factor and args.kd_lambda == 1 and args.lambda_schedule == "fixed":
        raise UserError(
            "label_smoothing_factor smooths the labels, which kd_lambda=1 never reads: pass kd_lambda below 1, or "
            "omit it"
        )
    if compute_loss_func is None:
        return
    if args.kd_lambda > 0:
        raise UserError(
            f"compute_loss_func takes the place of the whole loss, and kd_lambda is {args.kd_lambda:g}: pass "
            "kd_lambda=0, or omit compute_loss_func"
        )
    if args.label_smoothing_factor:
        raise UserError(
            "label_smoothing_factor would have no effect beside compute_loss_func: smooth the labels there instead"
        )


def check_problem(likelihood: Likelihood, args: DistillationTrainingArguments) -> None:
    """Refuse settings that mean nothing for what the student predicts."""
    likelihood.check_label_smoothing(args.label_smoothing_factor)
    for temperature in (args.student_temperature, args.teacher_temperature or 1.0):
        likelihood.check_temperature(temperature)
    asked = {"distance": args.distance != "kl", "combine": args.combine == "mixture"}
    for name in (name for name, value in asked.items() if value and likelihood.independent):
        raise UserError(
            f"{name} is {getattr(args, name)!r}, which is for distributions over classes, and the student's "
            f"problem_type is {likelihood.problem_type!r}: omit {name}"
        )


def check_language_model(
    model: nn.Module | None, args: DistillationTrainingArguments, compute_loss_func: Any, compute_metrics: Any
) -> None:
    """Refuse settings that are for one label an example, or whose loss sampled labels would bias."""
    if model is None or not predicts_next_tokens(model):
        return
    own = {"compute_loss_func": compute_loss_func, "compute_metrics": compute_metrics}
    for name in (name for name, value in own.items() if value is not None):
        raise UserError(
            f"{name} needs the logits of all tokens, which are never held for a language model: omit it; evaluations "
            "have accuracy, NLL, ECE and Brier score of each token"
        )
    usual = {"distance": "kl", "lambda_schedule": "fixed", "combine": "average", "teacher_weights": "equal"}
    usual |= {"dropout_masks": 1}
    for name, value in usual.items():
        if getattr(args, name) != value:
            raise UserError(
                f"{name} is {getattr(args, name)!r}, and a language model learns by {value!r} alone, for which "
                f"sampled labels have no bias: omit {name}"
            )
    if args.kd_lambda > 1:
        raise UserError(
            f"kd_lambda is {args.kd_lambda:g}, and a language model's labels are not subtracted, since most are among "
            "the tokens that aren't stored: pass at most 1"
        )
    if getattr(getattr(unwrapped(model), "config", None), "output_router_logits", False):
        raise UserError(
            f"{type(unwrapped(model)).__name__} adds a loss of its routers, which is not learned from here: set "
            "model.config.output_router_logits = False"
        )


def check_metrics(
    args: DistillationTrainingArguments, compute_metrics: Any, preprocess_logits_for_metrics: Any
) -> None:
    """Refuse what the metrics that are computed without a ``compute_metrics`` can't use."""
    unknown = [name for name in args.include_for_metrics if name not in FOR_METRICS]
    if unknown:
        raise UserError(f"include_for_metrics has {unknown[0]!r}, and can have {' and '.join(map(repr, FOR_METRICS))}")
    if compute_metrics is not None:
        return
    given = {
        "include_for_metrics": args.include_for_metrics,
        "batch_eval_metrics": args.batch_eval_metrics,
        "preprocess_logits_for_metrics": preprocess_logits_for_metrics is not None,
    }
    for name in (name for name, value in given.items() if value):
        raise UserError(
            f"{name} is for metrics of your own, and those that are computed without any need the logits of all "
            f"examples and nothing else: pass compute_metrics, or omit {name}"
        )


def _measured_by(problem: Problem) -> list[str]:
    """Return the names of what an evaluation of a problem computes without metrics of the caller's."""
    likelihood, values = problem.likelihood, torch.full((1, problem.num_values or 2), 0.5, dtype=torch.float64)
    labels = torch.ones_like(values) if likelihood.independent else torch.ones(1, dtype=torch.int64)
    outputs = likelihood.outputs_of(values, torch.ones_like(values))
    return ["loss", *likelihood.measures(likelihood.prediction(outputs), labels)]


def check_best_metric(
    args: DistillationTrainingArguments, eval_dataset: Any, compute_metrics: Any, problem: Problem
) -> None:
    """Refuse a metric of the best model that no evaluation would have.

    Args:
        args: the trainer's.
        eval_dataset: what is evaluated, or several by name.
        compute_metrics: the caller's.
        problem: of the student.
    """
    if args.metric_for_best_model is None or args.eval_strategy == "no" or eval_dataset is None:
        return
    sets = list(eval_dataset) if isinstance(eval_dataset, Mapping) else []
    name = args.metric_for_best_model.removeprefix("eval_")
    own = [each for each in sets if name.startswith(f"{each}_")]
    if sets and not own:
        raise UserError(
            f"metric_for_best_model is {name!r}, and each of several evaluation sets has its own: pass "
            f"metric_for_best_model='eval_{sets[0]}_{name}', or that of another set"
        )
    measured = [] if compute_metrics is not None else _measured_by(problem)
    if measured and not any(name.removeprefix(f"{each}_") in measured for each in own or [""]):
        first = f"{own[0]}_" if own else ""
        raise UserError(
            f"metric_for_best_model is {name!r}, and without compute_metrics an evaluation has "
            f"{', '.join(first + each for each in measured)}: take one of these, or pass compute_metrics"
        )


def check_optimizer(model: nn.Module, args: DistillationTrainingArguments) -> None:
    """Refuse settings that the optimizer doesn't read."""
    for name in ("optim_args", "optim_target_modules"):
        if getattr(args, name) is None:
            continue
        without = copy(args)
        setattr(without, name, None)
        try:
            read = _optimizer(args, model) != _optimizer(without, model)
        except (ValueError, ImportError):  # without it there is no such optimizer
            continue
        if not read:
            raise UserError(f"optim={args.optim.value!r} doesn't read {name}: omit it, or take an optimizer that does")


def _optimizer(args: DistillationTrainingArguments, model: nn.Module) -> Any:
    return Trainer.get_optimizer_cls_and_kwargs(args, model)


def check_hardware(args: DistillationTrainingArguments) -> None:
    """Refuse what has no effect on this number of processes or this device."""
    if args.fp16 and args.device.type == "cpu":
        raise UserError("fp16 has no effect on the CPU: pass bf16=True, or omit it")
    if args.world_size > 1 and not args.average_tokens_across_devices:
        raise UserError(
            "the loss is the average over the examples of all processes, which average_tokens_across_devices=False "
            "can't change: omit it"
        )


def check_network_settings(model: nn.Module, args: DistillationTrainingArguments) -> None:
    """Refuse settings that ask something of the student that it doesn't have."""
    network = unwrapped(model)
    name = type(network).__name__
    if args.neftune_noise_alpha is not None and _embeddings(network) is None:
        raise UserError(f"neftune_noise_alpha adds noise to a text model's embeddings, and {name} has none: omit it")
    recomputed = [each for each in RECOMPUTED if getattr(args, each, False)]
    if recomputed and not hasattr(network, "gradient_checkpointing_enable"):
        raise UserError(f"{recomputed[0]} needs a transformers model, and {name} is none: omit it")
    counted = args.include_num_input_tokens_seen not in (False, "no")
    for setting, asked in (
        ("include_for_metrics", "inputs" in args.include_for_metrics),
        ("include_num_input_tokens_seen", counted),
    ):
        if asked and not hasattr(model, "main_input_name"):
            raise UserError(
                f"{setting} asks for the student's inputs, and {name} doesn't say which these are: set its attribute "
                "main_input_name to the name of its input"
            )


def _embeddings(network: nn.Module) -> Any:
    try:
        return network.get_input_embeddings() if hasattr(network, "get_input_embeddings") else None
    except (NotImplementedError, AttributeError):
        return None


def check_rows(rows: Any, loaded: Any, args: DistillationTrainingArguments) -> None:
    """Refuse settings that the training set gives nothing to.

    Args:
        rows: the training set, as the caller gave it.
        loaded: what the Trainer's loader reads of it.
        args: the trainer's.
    """
    features, asked = getattr(rows, "features", None), args.label_names or []
    if features is not None and asked and not any(name in features or name == "labels" for name in asked):
        raise UserError(
            f"label_names has {asked[0]!r}, which is no column of the training set ({', '.join(features)}): name one "
            "of these, or omit label_names"
        )
    stream = not hasattr(rows, "__len__")
    if stream and args.dataloader_drop_last:
        raise UserError("dataloader_drop_last has no effect on a stream: omit it")
    if args.train_sampling_strategy not in BY_LENGTH:
        return
    if stream:
        raise UserError(
            f"train_sampling_strategy is {args.train_sampling_strategy!r}, and a stream comes in its own order: omit "
            "it"
        )
    if args.length_column_name not in (features or ()) and not _has_length(loaded[0]):
        raise UserError(
            f"train_sampling_strategy is {args.train_sampling_strategy!r}, and the rows have neither input_ids nor a "
            f"column {args.length_column_name!r} with their lengths: add one, or omit it"
        )


def _has_length(row: Any) -> bool:
    return isinstance(row, Mapping) and "input_ids" in row and len(getattr(row["input_ids"], "shape", (0,))) == 1


def check_spread(trainer: Trainer) -> None:
    """Refuse ways to cut a student into pieces, which no part of the library has been tried with."""
    used = {
        "fsdp": trainer.args.fsdp or trainer.is_fsdp_enabled,
        "deepspeed": trainer.args.deepspeed or trainer.is_deepspeed_enabled,
        "parallelism_config": trainer.args.parallelism_config,
    }
    for name in (name for name, value in used.items() if value):
        raise UserError(
            f"{name} cuts the student into pieces, which the loss of soft labels has not been tried with: omit it, "
            "and start a process for each device with torchrun or accelerate launch"
        )
