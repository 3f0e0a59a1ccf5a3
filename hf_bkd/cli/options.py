"""The arguments of every command, declared where nothing heavy is imported, so that a help text comes at once."""

import argparse
from collections.abc import Callable
from typing import Any

from ..utils.command_line import HelpAll, Parser
from ..utils.config_files import CONFIG_HELP, boolean

ALIASES = {  # names that transformers' examples have, and ours
    "dataset_name": "dataset",
    "train_file": "dataset",
    "train_dir": "dataset",
    "dataset_config_name": "dataset_config",
    "validation_file": "eval_dataset",
    "validation_dir": "eval_dataset",
    "image_column_name": "input_column",
    "text_column_name": "input_column",
    "audio_column_name": "input_column",
    "label_column_name": "label_column",
    "private": "hub_private_repo",
    "train_val_split": "validation_size",
}
METHODS = ("deterministic", "ensemble", "forest", "ivon", "laplace", "mc_dropout", "swa", "swag", "variational")
AUGMENTATIONS = ("crop_and_flip", "resized_crop")
STORAGES = ("float16", "float32", "uint8", "top_k")
ON_ERROR = ("raise", "skip")
VARIANCES = ("auto", "full", "sum", "none")
PRECISIONS = ("bf16", "fp16")
TEMPERATURE_SCALES = ("product", "squared", "none")
COLUMNS = {"nargs": "+", "metavar": "COLUMN"}
DATA = "folder, file (CSV, JSON, parquet) or Hub name"
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
PROBLEM = "what the outputs mean, if a classifier doesn't say it"
VARIANCE_TOO = "a new network for numbers predicts the variance of each too"
LENGTH = "tokens after which a language model's texts are cut"
ADAPTERS = "of the adapters by which a language model is trained"
SPLIT = "default: validation, or else test, of it"


def teacher_fit(prog: str) -> Parser:
    """Return the parser of the arguments of ``hf-bkd teacher fit`` that are not the methods'."""
    parser = _parser(
        prog,
        "--method METHOD --model MODEL --dataset DATASET --output_dir FOLDER [...]",
        "Fit a teacher and save it. A trained classifier becomes a teacher as it is (deterministic, laplace, "
        "mc_dropout) or is trained further (variational, ivon); an architecture is trained from scratch, for an "
        "ensemble as often as it has members. A forest needs no model and reads a table. The same command goes on "
        "where it was interrupted.",
        model_name_or_path="model",
        eval_split="validation_split",
    )
    add = _group(parser, "teacher (--method NAME --help shows the options of a method)")
    add("--method", "", f"{', '.join(METHODS)}", metavar="METHOD")
    add("--model", [], "trained network (folder, Hub name), timm architecture, mlp-64-64", nargs="+", metavar="MODEL")
    add("--output_dir", "", "a new folder for the teacher", metavar="FOLDER")
    add = _data(parser)
    add("--train_split", None, "to train and fit on (default: train, or the only one)", metavar="SPLIT")
    add("--validation_split", None, "to choose and measure on (default: validation, or held out)", metavar="SPLIT")
    add("--validation_size", None, "examples to hold out for that (default: a tenth)", rare=True, type=int)
    add("--eval_dataset", None, "another one that the validation split is of", rare=True, metavar="DATASET")
    add("--max_length", None, LENGTH, rare=True, type=int)
    add = _group(parser, "fitting")
    add("--num_samples", 10, "draws from the posterior that choices and measures are made with", rare=True, type=int)
    add("--augment", False, "train on random crops and flips of the images", rare=True)
    add("--image_size", None, "of a new network (default: the images', or its architecture's)", rare=True, type=int)
    add("--predict_variance", False, f"{VARIANCE_TOO} (not laplace)", rare=True)
    add("--lora_rank", None, ADAPTERS, rare=True, type=int)
    _training(parser)
    return _hub(parser, "the teacher")


def label(prog: str) -> Parser:
    """Return the parser of ``hf-bkd label``."""
    parser = _parser(
        prog,
        "--teacher TEACHER --dataset DATASET --output_dir FOLDER [...]",
        "Add a teacher's soft labels to a dataset. The same command goes on where it was interrupted.",
        model_name_or_path="teacher",
        model="teacher",
        per_device_eval_batch_size="batch_size",
        hub_model_id="push_to_hub",
    )
    add = _group(parser, "labels")
    add("--teacher", None, "folder or Hub name of a saved teacher or classifier", required=True)
    add("--output_dir", None, "a new folder for the labeled dataset", required=True, metavar="FOLDER")
    add("--num_samples", 10, "draws from the teacher's posterior", type=int)
    add("--temperature", None, "of the probabilities (default: the teacher's own)", type=float)
    add("--problem_type", None, PROBLEM, rare=True, choices=PROBLEM_TYPES)
    add("--views", None, "augmented views of each image to label (default: the image as it is)", type=int)
    add("--augmentation", "crop_and_flip", "of the views", rare=True, choices=AUGMENTATIONS)
    add(
        "--storage",
        "auto",
        "of the labels; auto: float16, regression float32, language models sampled",
        choices=("auto", *STORAGES, "sampled"),
    )
    add("--top_k", None, "classes that top_k (default: 10) or sampled (16) keeps", rare=True, type=int)
    add("--variance", "auto", "across draws", rare=True, choices=VARIANCES)
    add("--mean_log_probs", False, "keep what distance=dirichlet learns from", rare=True)
    add("--labels_only", False, "save the labels and example ids alone")
    add("--on_error", "raise", "of rows that can't be read: skip leaves them out", choices=ON_ERROR)
    add("--seed", 0, "of draws and views", rare=True, type=int)
    add = _data(parser, required=True)
    add("--split", None, "that is labeled (default: train, or the only one)", metavar="SPLIT")
    add("--held_out", None, "measures the teacher (default: validation, if there is one)", rare=True, metavar="SPLIT")
    add("--streaming", False, "don't load the dataset; saves the labels alone", rare=True)
    add("--max_length", None, LENGTH, rare=True, type=int)
    add = _group(parser, "running")
    add("--batch_size", None, "examples per call of the teacher", type=int)
    add("--mixed_precision", None, "of the teacher", rare=True, choices=PRECISIONS)
    return _hub(parser, "the labels")


def answer(prog: str) -> Parser:
    """Return the parser of ``hf-bkd answer``."""
    parser = _parser(
        prog,
        "--teacher MODEL --dataset DATASET --output_dir FOLDER [...]",
        "Sample a language model's answers for hf-bkd distill. The same command goes on where it was interrupted.",
        model="teacher",
        model_name_or_path="teacher",
    )
    add = _group(parser, "answers")
    add("--teacher", None, "folder or Hub name of a language model, or of a teacher of one", required=True)
    add("--output_dir", None, "a new folder for prompts and answers", required=True, metavar="FOLDER")
    add("--k", 1, "answers to a prompt", type=int)
    text = "answers that become a row: all, single, mean (nearest to the mean embedding); none: k beside each other"
    add("--aggregate", "all", text, choices=("all", "single", "mean", "none"))
    add("--encoder", None, "embeds the texts for mean: folder or Hub name", metavar="MODEL")
    add("--token_labels", False, "keep the teacher's distribution of each token too")
    add("--max_new_tokens", 64, "after which an answer is cut off", type=int)
    add("--temperature", 1.0, "of the sampling", type=float)
    add("--top_k", None, "most probable tokens to draw from (default: all)", type=int)
    add("--top_p", 1.0, "least mass of the tokens to draw from", type=float)
    add("--repetition_penalty", 1.0, "1 for none", rare=True, type=float)
    add("--num_samples", None, "draws from a posterior that share the answers (default: k / 2)", rare=True, type=int)
    add("--seed", 0, "of all draws", rare=True, type=int)
    add("--batch_size", 32, "answers that are sampled side by side", type=int)
    add = _group(parser, "data")
    add("--dataset", None, f"{DATA} with prompt, messages or question", metavar="DATASET", required=True)
    add("--dataset_config", None, "which of its configurations, where there are several", rare=True, metavar="NAME")
    add("--split", None, "that is asked (default: train, or the only one)", metavar="SPLIT")
    add("--template", None, "makes prompts of columns: 'Question: {question} Answer:'", metavar="TEXT")
    return _helping(parser, _general(parser))


def distill(prog: str) -> Parser:
    """Return the parser of the arguments that ``hf-bkd distill`` explains; all of the Trainer's are taken too."""
    parser = _parser(
        prog,
        "--student MODEL --dataset LABELED --output_dir FOLDER [--eval_dataset DATASET] [...]",
        "Train a student towards the soft labels of a dataset, or towards a teacher that is asked at each step, and "
        "save it. The same command goes on where it was interrupted.",
        model_name_or_path="student",
        model="student",
        validation_split="eval_split",
    )
    add = _group(parser, "student")
    add("--student", None, "network (folder, Hub name), timm architecture, mlp-64-64", metavar="MODEL")
    add("--teacher", None, "ask this teacher at each step, instead of reading labels", metavar="TEACHER")
    add("--output_dir", "", "a new folder for the student", metavar="FOLDER")
    add("--image_size", None, "of a new network (default: that which the teacher reads)", rare=True, type=int)
    add("--predict_variance", False, VARIANCE_TOO, rare=True)
    add("--ignore_mismatched_sizes", False, "give a network of other classes a new head", rare=True)
    add("--lora_rank", None, ADAPTERS, rare=True, type=int)
    add = _data(parser, "written by hf-bkd label, or what the teacher is asked about", are_known=True)
    add("--train_split", None, "what is trained on (default: train, or the only one)", rare=True, metavar="SPLIT")
    add("--eval_dataset", None, "what the student is measured on (default: the same dataset)", metavar="DATASET")
    add("--eval_split", None, SPLIT, metavar="SPLIT")
    add("--max_length", None, LENGTH, rare=True, type=int)
    add = _group(parser, "loss")
    add("--kd_lambda", 1.0, "weight of the distillation term, 1 - kd_lambda of the labels", type=float)
    add("--teacher_temperature", None, "of the target (default: that of the labels)", type=float)
    add("--student_temperature", 1.0, "of the student in the distillation term", rare=True, type=float)
    add("--temperature_scale", "product", "factor on that term", rare=True, choices=TEMPERATURE_SCALES)
    _training(parser)
    return _hub(parser, "the student")


def evaluate(prog: str) -> Parser:
    """Return the parser of ``hf-bkd evaluate``."""
    parser = _parser(
        prog,
        "MODEL --dataset DATASET [...]",
        "How good and how calibrated a teacher or a student is, by the measures of what it predicts.",
        model="",
        model_name_or_path="",
        teacher="",
        student="",
    )
    parser.add_argument("model", help="folder or Hub name of a saved teacher or classifier")
    add = _data(parser, required=True)
    add("--split", None, "that is predicted (default: test, or the only one)", metavar="SPLIT")
    add("--max_length", None, LENGTH, rare=True, type=int)
    add("--num_samples", 10, "draws from a teacher's posterior", type=int)
    add("--problem_type", None, PROBLEM, rare=True, choices=PROBLEM_TYPES)
    add("--ood", None, "out-of-distribution examples, of other classes: does entropy detect them?", metavar="DATASET")
    add("--ood_split", None, "of that dataset (default: the same as --split)", metavar="SPLIT")
    text = "sets of classes that hold the label so often, such as 0.9; calibrated on the validation split"
    add("--conformal", None, text, type=float, metavar="LEVEL")
    add = _general(parser)
    text = "write the measures into the model's card there (default: that of MODEL)"
    add("--push_to_hub", False, text, **REPOSITORY)
    return _helping(parser, add)


def report(prog: str) -> Parser:
    """Return the parser of ``hf-bkd report``."""
    parser = _parser(prog, "FOLDER [...]", "Write a run's report anew from its results.json.", output_dir="")
    parser.add_argument("output_dir", help="of a recipe's run")
    return _helping(parser, _general(parser))


def _parser(prog: str, usage: str, description: str, **aliases: str) -> Parser:
    return Parser(ALIASES | aliases, prog=prog, usage=f"{prog} {usage}", description=description, add_help=False)


def _group(parser: Parser, title: str) -> Callable[..., None]:
    """Return a function that adds an argument with its default and its text to a new group; bare flags are taken.

    One that is ``rare`` is shown by ``--help_all`` alone.
    """
    group = parser.add_argument_group(title)

    def add(name: str, default: Any, text: str, rare: bool = False, **settings: Any) -> None:
        if default is False and "type" not in settings:
            settings |= {"type": boolean, "nargs": "?", "const": True}
        if settings.get("choices"):
            settings["metavar"] = "NAME"
        elif settings.get("type") in (int, float):
            settings["metavar"] = "N" if settings["type"] is int else "X"
        names = [name, *settings.pop("names", ())]
        group.add_argument(*names, default=default, help=text, **settings).rare = rare

    return add


def _data(parser: Parser, dataset: str = DATA, required: bool = False, are_known: bool = False) -> Callable[..., None]:
    """Add the arguments of a dataset; its columns are known where labels were written for a network."""
    add = _group(parser, "data")
    add("--dataset", None, dataset, metavar="DATASET", required=required)
    add("--dataset_config", None, "which of its configurations, where there are several", rare=True, metavar="NAME")
    add(
        "--input_column",
        None,
        "of images, texts (two: pairs) or numbers; default: by type and name",
        are_known,
        **COLUMNS,
    )
    add("--label_column", None, "of labels (several: numbers, or 0 and 1); default: by type and name", **COLUMNS)
    return add


def _training(parser: Parser) -> None:
    add = _group(parser, "training, with every argument of transformers' Trainer (--help-all)")
    rates = "default: 0.001 if new, 5e-05 if trained, 0.0002 of adapters"
    add("--num_train_epochs", argparse.SUPPRESS, "default: 50 of a new network, 3 of a trained one", type=float)
    add("--learning_rate", argparse.SUPPRESS, rates, type=float)
    add("--per_device_train_batch_size", argparse.SUPPRESS, "default: 64 if new, 32 if trained", type=int)
    add("--seed", 42, "of the training", type=int)


def _hub(parser: Parser, what: str) -> Parser:
    add = _general(parser)
    add("--push_to_hub", False, f"push {what} (default: under the name of the folder)", **REPOSITORY)
    add("--hub_private_repo", None, "make a new repository private", rare=True, type=boolean, nargs="?", const=True)
    add("--license", None, "that the card names, such as cc-by-4.0 (default: none)", rare=True, metavar="LICENSE")
    return _helping(parser, add)


def _general(parser: Parser) -> Callable[..., None]:
    return _group(parser, "general (underscores and hyphens in names are alike)")


def _helping(parser: Parser, add: Callable[..., None]) -> Parser:
    add("--config", argparse.SUPPRESS, CONFIG_HELP, metavar="FILE")
    add("-h", argparse.SUPPRESS, "show this text; --help-all shows all arguments", names=["--help"], action="help")
    add("--help_all", argparse.SUPPRESS, "show all arguments", rare=True, action=HelpAll)
    return parser


def _repository(word: str) -> str | bool:
    try:
        return boolean(word)
    except argparse.ArgumentTypeError:
        return word


REPOSITORY = {"type": _repository, "nargs": "?", "const": True, "metavar": "REPOSITORY"}
PARSERS = {
    "teacher fit": teacher_fit,
    "teacher evaluate": evaluate,
    "label": label,
    "answer": answer,
    "distill": distill,
    "evaluate": evaluate,
    "report": report,
}
