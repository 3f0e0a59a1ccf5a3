"""`hf-bkd evaluate`: how good and how calibrated a saved teacher or student is, and how well it knows its limits."""

from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..conformal import METHODS, SetQuality, conformal_sets, set_quality
from ..data.labels import in_words
from ..data.loading import choose_split, load_splits
from ..data.preprocessors import class_names, tokenizer_of
from ..data.subsets import check_labeled
from ..hub.measures import push_metrics
from ..likelihoods import CATEGORICAL, scaled_predictions
from ..metrics import auroc
from ..models.loading_code import task_of
from ..models.token_networks import classifies_tokens, predicts_next_tokens
from ..soft_labels.identity import check_unseen
from ..teachers import Teacher, entropies_of_all, predict_all
from ..training.problem import Problem
from ..utils.checks import check_count
from ..utils.errors import UserError
from ..utils.files import bare_name
from ..utils.processes import processes
from . import options
from .arguments import metrics_text, quiet
from .examples import examples_of, inputs_of, labeled_batches, reader_of
from .language import in_tokens, measured, texts_of
from .networks import load_trained


class Tempered(NamedTuple):
    """The measures of probabilities p^(1/T), renormalized, with the T that is best on validation examples."""

    temperature: float
    num_validation: int
    metrics: dict[str, float]


class OutOfDistribution(NamedTuple):
    """The probability that an out-of-distribution example has the higher entropy than one of the split.

    ``epistemic`` is that of the mutual information, where there are draws, or a Dirichlet.
    """

    split: str
    num_examples: int
    auroc: float
    epistemic: float | None = None


class Conformal(NamedTuple):
    """Sets of classes at a level, calibrated on validation examples: each method's coverage and size on the split."""

    level: float
    num_validation: int
    sets: dict[str, SetQuality]


class Evaluation(NamedTuple):
    """The measures of a teacher on a split; ``tempered`` where there is a validation split, ``ood`` if asked for.

    ``entropy`` are the parts of the mean entropy in nats, where there are draws, or a Dirichlet; ``conformal`` are
    sets, if asked for.
    """

    method: str
    task: str
    split: str
    num_examples: int
    metrics: dict[str, float]
    tempered: Tempered | None
    ood: OutOfDistribution | None
    entropy: dict[str, float] | None = None
    conformal: Conformal | None = None


def evaluate(arguments: Namespace) -> Evaluation:
    """Measure a teacher, or a classifier, on a labeled split.

    Args:
        arguments: of the command.

    Raises:
        UserError: something can't be loaded or does not fit together, or there are no labels.
    """
    teacher = load_trained(arguments.model, arguments.problem_type).to(processes().device)
    likelihood, problem = teacher.likelihood, Problem(teacher.likelihood, classifies_tokens(teacher.network))
    per_token = problem.per_token or predicts_next_tokens(teacher.network)
    if arguments.ood is not None and (per_token or not likelihood.has_temperature):
        raise UserError(
            f"--ood compares entropies of whole examples, and {arguments.model} predicts "
            f"{in_words(likelihood.problem_type, per_token)}: omit it"
        )
    if arguments.conformal is not None:
        _check_conformal(arguments, problem._replace(per_token=per_token))
    if predicts_next_tokens(teacher.network):
        return _of_language_model(arguments, teacher)
    if arguments.max_length is not None:
        raise UserError(f"--max_length cuts the texts of a language model, and {arguments.model} is none: omit it")
    network, processing, num_samples = teacher.network, teacher.processing_class, arguments.num_samples
    splits = load_splits(arguments.dataset, configuration=arguments.dataset_config)
    split = choose_split(splits, arguments.split, ("test",), arguments.dataset)

    def batches(name: str) -> Iterable[Any]:
        rows = examples_of(splits[name], network, class_names(network), arguments, processing, problem)
        check_labeled(rows, name)
        return labeled_batches(network, rows, processing, problem, "predicting")

    def predict(name: str) -> tuple[Tensor, Tensor]:
        return predict_all(teacher, batches(name), num_samples)

    if arguments.conformal is not None:
        _check_calibration(splits, split, arguments.dataset)
    probs, labels = predict(split)
    tempered = outside = parts = sets = None
    if likelihood == CATEGORICAL and not problem.per_token and teacher.num_draws(num_samples) > 1:
        parts = entropies_of_all(teacher, batches(split), num_samples)
    if likelihood.has_temperature and "validation" in splits and split != "validation":
        held_out, held_out_labels = predict("validation")
        scaled = scaled_predictions(likelihood, (held_out, held_out_labels), (probs, labels))
        tempered = scaled and Tempered(scaled.temperature, len(held_out), scaled.metrics)
        if arguments.conformal is not None:
            sets = _conformal(held_out, held_out_labels, probs, labels, arguments.conformal)
    if arguments.ood is not None:
        others = load_splits(arguments.ood)
        ood_split = choose_split(others, arguments.ood_split, (split,), arguments.ood)
        rows = inputs_of(others[ood_split], network, None, (), processing)
        if not len(rows):
            raise UserError(f"the split {ood_split} of {arguments.ood} is empty")
        generator, reader = torch.Generator().manual_seed(0), reader_of(network, rows, processing)
        entropies = [
            likelihood.entropy(teacher.predict(batch, num_samples, generator).mean).cpu()
            for batch in reader.batches(rows, "predicting")
        ]
        outside = OutOfDistribution(ood_split, len(rows), auroc(likelihood.entropy(probs), torch.cat(entropies)))
        if parts is not None:
            others = entropies_of_all(teacher, reader.batches(rows, "predicting"), num_samples)
            outside = outside._replace(epistemic=auroc(parts.epistemic, others.epistemic))
    metrics, task = likelihood.measures(probs, labels), task_of(network) or "tabular-classification"
    means = None if parts is None else {name: value.mean().item() for name, value in parts._asdict().items()}
    return Evaluation(teacher.method, task, split, len(splits[split]), metrics, tempered, outside, means, sets)


def _check_conformal(arguments: Namespace, problem: Problem) -> None:
    """Raise a UserError for a level that is none, or a model of something else than one of C classes."""
    if not 0 < arguments.conformal < 1:
        raise UserError(f"--conformal must be between 0 and 1, and it is {arguments.conformal:g}")
    if problem.per_token or problem.likelihood != CATEGORICAL:
        predicts = in_words(problem.likelihood.problem_type, problem.per_token)
        raise UserError(f"--conformal makes sets of classes, and {arguments.model} predicts {predicts}: omit it")


def _check_calibration(splits: Mapping[str, Any], split: str, dataset: str) -> None:
    """Raise a UserError if nothing can calibrate sets, or what was trained on would."""
    if "validation" not in splits or split == "validation":
        raise UserError(
            f"--conformal is calibrated on the split validation, and "
            f"{'it is the one that is measured' if split == 'validation' else f'{dataset} has none'}: "
            "pass a dataset with one, and another --split"
        )
    if "train" in splits:
        check_unseen(splits["validation"], splits["train"], "the split validation", "of the split train")


def _conformal(calibration: Tensor, known: Tensor, probs: Tensor, labels: Tensor, level: float) -> Conformal:
    sets = {name: conformal_sets(calibration, known, probs, level, name) for name in METHODS}
    return Conformal(level, len(known), {name: set_quality(each, labels) for name, each in sets.items()})


def _of_language_model(arguments: Namespace, teacher: Teacher) -> Evaluation:
    """Measure what a language model says of each token that is taught in a split."""
    splits = load_splits(arguments.dataset, configuration=arguments.dataset_config)
    split = choose_split(splits, arguments.split, ("test",), arguments.dataset)
    tokenizer = teacher.processing_class or tokenizer_of(teacher.network)
    (rows,) = in_tokens([texts_of(splits[split], arguments)], tokenizer, arguments)
    metrics = measured(teacher, rows, arguments.num_samples)
    return Evaluation(teacher.method, "text-generation", split, len(rows), metrics, None, None)


def main(argv: list[str], prog: str) -> None:
    """Measure a saved teacher or student and print what was measured."""
    arguments = options.evaluate(prog).read(argv)
    check_count(num_samples=arguments.num_samples)
    repository = arguments.model if arguments.push_to_hub is True else arguments.push_to_hub
    if repository and Path(repository).is_dir():
        raise UserError(f"{repository} is a folder here: pass --push_to_hub with the name of the model's repository")
    quiet()
    measured = evaluate(arguments)
    place = f"{arguments.dataset}, {measured.split}"
    print(f"{arguments.model} ({measured.method}) on {measured.num_examples} examples of {place}:")
    print(metrics_text(measured.metrics))
    if measured.tempered is not None:
        temperature, number, metrics = measured.tempered
        print(f"after temperature scaling, T = {temperature:.2f} chosen on {number} validation examples:")
        print(metrics_text(metrics))
    if measured.entropy is not None:
        print("entropy in nats, of which the epistemic part is what the draws disagree about:")
        print(metrics_text(measured.entropy))
    if measured.ood is not None:
        outside = measured.ood
        print(f"entropy tells {outside.num_examples} examples of {arguments.ood}, {outside.split} apart:")
        also = "" if outside.epistemic is None else f", by its epistemic part {outside.epistemic:.4f}"
        print(f"auroc {outside.auroc:.4f}{also}")
    if measured.conformal is not None:
        level, number, sets = measured.conformal
        print(f"conformal sets of level {level:g}, calibrated on {number} validation examples:")
        said = (f"{name} covers {each.coverage:.4f} with {each.size:.2f} classes" for name, each in sets.items())
        print(", ".join(said))
    if repository:
        measures = bare_name(arguments.dataset), measured.split, measured.metrics
        print(f"pushed: {push_metrics(repository, *measures, task=measured.task)}")
