"""Does a language model that was never trained for a task help to teach it? Its label words beside a small encoder.

Data: TREC's questions in six classes; a hundred of them are labeled, and the others are not. MiniLM with six layers
(Wang et al. 2020) is trained on the hundred; a language model is asked with prompts, and its answers are divided by
what it says of questions on average. Students, two of MiniLM's layers, learn what the two say of all questions.

    python recipes/prompted_teacher.py [--dataset TREC] [--pretrained FOLDER] [--language_model FOLDER]

The language model labels once; the labels are kept in --labels for all seeds and for other studies of the same rows.
"""

from dataclasses import dataclass, field
from pathlib import Path

import datasets
import torch
from common.defaults import ON_CPU
from transformers import AutoModelForCausalLM

from hf_bkd import PromptedTeacher, add_soft_labels
from hf_bkd.data.columns import as_classification
from hf_bkd.data.loading import load_splits
from hf_bkd.data.subsets import few_first, stratified_split
from hf_bkd.hub.transfer import local_folder
from hf_bkd.study import Arm, Deterministic, Several, Splits, Stored, Study, StudyArguments, Texts, main

PROMPTS = ["Question: {text}\nThe answer to this question is a", "{text}\nThis question asks for a"]
WORDS = {
    "ABBR": [" abbreviation", " acronym"],
    "ENTY": [" thing", " animal", " product"],
    "DESC": [" description", " definition", " reason"],
    "HUM": [" person", " group", " man"],
    "LOC": [" place", " city", " country"],
    "NUM": [" number", " date", " year"],
}
COARSE = "coarse_label"  # TREC has fifty finer classes beside
LABELED = 100  # questions that somebody labeled
CALIBRATING = 50  # questions, unlabeled
NOTE = (
    "A hundred questions are labeled, another hundred for each seed; students with a teacher learn what it says of "
    "all training questions, in as many steps as the others take on the hundred. MiniLM is all-MiniLM-L6-v2, "
    "trained on the hundred. The language model, SmolLM2-135M-Instruct unless --language_model names another, is "
    "trained for nothing here: its labels are the probabilities of two or three words for each class after two "
    "prompts, each divided by its mean over 50 unlabeled questions, and averaged. The prompts were chosen among "
    "three, and this calibration rather than by texts without content, on 80 training questions. Mixtures average "
    "both teachers' labels, equally or by their entropies. All students start from the same two layers of the "
    "pretrained encoder."
)
MINILM, LANGUAGE_MODEL = Arm("MiniLM", Deterministic()), Arm("language model", Stored())
BOTH = (MINILM, LANGUAGE_MODEL)


@dataclass
class Arguments(StudyArguments):
    language_model: str = field(
        default="HuggingFaceTB/SmolLM2-135M-Instruct", metadata={"help": "Causal; folder or name on the Hub."}
    )
    labels: str = field(default="runs/prompted_teacher_labels", metadata={"help": "Folder of its labels."})


def questions(options: Arguments, seed: int) -> Splits:
    splits = load_splits(options.dataset, needed=("train", "test"))
    own_label = COARSE if COARSE in splits["train"].column_names else None
    splits = {name: as_classification(rows, "text", label_column=own_label) for name, rows in splits.items()}
    train, test = (splits[name].shuffle(seed=0) for name in ("train", "test"))
    train, test = few_first(train, options.max_train_samples), few_first(test, options.max_test_samples)
    rows = with_labels(datasets.concatenate_datasets([train, test]), options)
    train, test = rows.select(range(len(train))), rows.select(range(len(train), len(rows)))
    validation, rest = stratified_split(train, options.validation_size or len(train) // 8, seed=0)
    own, _ = stratified_split(rest, LABELED, seed=seed)
    order = sorted(range(len(rest)), key=lambda number: len(rest[number]["text"]))
    return Splits(own, validation, test, Texts(options.pretrained), transfer=rest.select(order).flatten_indices())


def with_labels(rows: datasets.Dataset, options: Arguments) -> datasets.Dataset:
    """Label rows with the language model, unless they have been; the first ones calibrate it."""
    folder = Path(options.labels)
    if not (folder / "dataset_info.json").is_file():
        model = AutoModelForCausalLM.from_pretrained(local_folder(options.language_model), dtype=torch.bfloat16)
        teacher = PromptedTeacher(model.eval(), prompts=PROMPTS, label_words=WORDS)
        teacher.calibrate(rows["text"][:CALIBRATING])
        shards = folder.with_name(f"{folder.name}.shards")
        about = {"name": LANGUAGE_MODEL.label_name, "folder": shards, "shard_rows": 50, "batch_size": 50}
        add_soft_labels(rows, teacher, storage="float32", **about).save_to_disk(folder)
    return datasets.load_from_disk(folder)


def study(options: Arguments) -> Study:
    return Study(
        name="prompted_teacher",
        arms=(
            Arm("labels alone"),
            MINILM,
            Arm("MiniLM, scaled", Deterministic(scaled=True)),
            LANGUAGE_MODEL,
            Arm("mixture", Several(BOTH)),
            Arm("mixture, entropy weights", Several(BOTH, "entropy")),
        ),
        conditions={"": questions},
        student_args={"frozen_embeddings": True},
        reference=MINILM.name,
        note=NOTE,
    )


DEFAULTS = ON_CPU | {
    "dataset": "CogComp/trec",
    "output_dir": "runs/prompted_teacher",
    "pretrained": "sentence-transformers/all-MiniLM-L6-v2",
    "teacher_model": "all-layers",
    "student_model": "layers-2-4",
    "max_train_samples": 600,
    "max_test_samples": 300,
    "workers": 1,
    "teacher_epochs": 16,
    "teacher_learning_rate": 1e-4,
    "num_train_epochs": 20,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
    "train_sampling_strategy": "group_by_length",
    "per_device_train_batch_size": 20,
    "per_device_eval_batch_size": 100,
    "noise_epochs": 4,
}

if __name__ == "__main__":
    main(study, DEFAULTS, arguments=Arguments)
