"""Where in the cell does a protein belong? Two protein language models teach a small network (arXiv 2605.27967).

Data: 3,500 proteins of DeepLoc 2.0 with the logits of ESM-2 650M and of a T5 encoder, and 2,000 that belong to several
places at once, of which a student should be unsure. Students see what residues a protein is composed of or, with
`--pretrained`, what the encoder of `protein_encoder.py` makes of its sequence.

    python recipes/proteins_multi_teacher.py --dataset FOLDER [--pretrained runs/protein_encoder]     half an hour

The folder has the configurations `single_label` (splits train, test) and `multi_label` (test) with the columns
`accession`, `sequence`, `label`, and of the former `teacher_logits_esm_650m` and `teacher_logits_t5`.
"""

from collections.abc import Callable, Sequence

import datasets
import numpy as np
import torch
from common.defaults import ON_CPU
from common.proteins import ProteinEncoder, composed
from torch import nn

from hf_bkd import LaplaceTeacher, import_soft_labels
from hf_bkd.data.loading import load_splits
from hf_bkd.data.subsets import few_first, stratified_split
from hf_bkd.likelihoods import best_temperature
from hf_bkd.study import LABEL_SMOOTHING, Arm, Splits, Stored, Study, StudyArguments, Vectors, combined, main

TEACHERS = {"ESM-2 650M": "teacher_logits_esm_650m", "T5": "teacher_logits_t5"}
STRENGTHS = (1.0, 5.0, 20.0)
DRAWS = 100
NOTE = (
    "Proteins of a single place; 500 of 2,500 are held out to choose how strong the teachers' prior is (1, 5 or 20 "
    "examples). Of the teachers only logits are known: each becomes a posterior over linear maps of them, a Laplace "
    "approximation around identity, and its labels average 100 draws. Scaled: the logits as they are, at the "
    "temperature of least NLL on the held-out proteins. The teachers were trained on those too (their accuracies are "
    "0.81 and 0.83 on what students learn from, and 0.75 and 0.76 on the test split), so that this temperature, and a "
    "teacher's own of its scaled measures, is too low: 0.84 where the test split would have 1.11. Average: the "
    "student is taught the teachers' weighted mean. Mixture: the prior of MT-BKD (arXiv 2605.27967), under which the "
    "teachers that the student agrees with count more. Uncertain examples: 2,000 proteins of several places. "
    "Features: what residues a protein is composed of (460 numbers), or those of a frozen convolutional encoder "
    "(256), pre-trained on the places of other proteins, of which none has the accession or the sequence of any "
    "protein here, or shares a quarter of its runs of ten residues with one. There may be more distant relatives "
    "among them, and between training and test proteins. The chains are not the paper's: its step of 8e-8 moves a "
    "weight by 0.020 in its 2,560 steps, where this head's posterior has a typical width of 0.25 at the paper's "
    "weights of labels, teachers and decay. To forget its start such a chain would need 1,300 steps in the stiffest "
    "direction and 800,000 in the median one. Ours are preconditioned by the curvature, so that all directions are "
    "alike."
)
SINGLE = tuple(Arm(name, Stored(), strengths=STRENGTHS) for name in TEACHERS)
SCALED = tuple(Arm(f"{arm.name}, scaled", Stored(), strengths=STRENGTHS) for arm in SINGLE)
NO_TEACHER = Arm("no teacher")


def composition(options: StudyArguments, seed: int) -> Splits:
    return proteins(options, lambda sequences: np.stack([composed(sequence) for sequence in sequences]))


def sequence(options: StudyArguments, seed: int) -> Splits:
    return proteins(options, ProteinEncoder.from_pretrained(options.pretrained).features_of)


def proteins(options: StudyArguments, features: Callable[[Sequence[str]], np.ndarray]) -> Splits:
    splits = load_splits(options.dataset, needed=("train", "test"))
    uncertain = load_splits(options.dataset, ("test",), "multi_label")["test"]
    uncertain = uncertain.add_column("label", [0] * len(uncertain))  # none is the only one
    train, test, uncertain = (with_features(rows, features) for rows in (splits["train"], splits["test"], uncertain))
    validation, train = stratified_split(train, options.validation_size, seed=0)
    train = few_first(train, options.max_train_samples)
    for column, arm, scaled in zip(TEACHERS.values(), SINGLE, SCALED, strict=True):
        teacher = on_logits(column, train, validation)
        temperature = best_temperature(tensor(validation, column), torch.tensor(validation["label"][:]))
        train, validation, test = (
            labeled(labeled(rows, arm, draws(teacher, logits), kind="probs"), scaled, logits, temperature=temperature)
            for rows, logits in ((rows, tensor(rows, column)) for rows in (train, validation, test))
        )
    return Splits(train, validation, test, Vectors(), ood=uncertain)


def with_features(rows: datasets.Dataset, features: Callable[[Sequence[str]], np.ndarray]) -> datasets.Dataset:
    values = features(rows["sequence"][:])
    kind = datasets.List(datasets.Value("float32"), length=values.shape[1])
    return rows.add_column("features", list(values), feature=kind)


def on_logits(column: str, train: datasets.Dataset, validation: datasets.Dataset) -> LaplaceTeacher:
    """A teacher of which nothing but logits is known becomes a posterior over linear maps of them, around identity."""
    head = nn.Linear(len(train[0][column]), train.features["label"].num_classes)
    nn.init.eye_(head.weight)
    nn.init.zeros_(head.bias)
    batches = ([(tensor(rows, column), torch.tensor(rows["label"][:]))] for rows in (train, validation))
    return LaplaceTeacher.fit(nn.Sequential(head), *batches, link="mc", num_samples=DRAWS)


def draws(teacher: LaplaceTeacher, logits: torch.Tensor) -> torch.Tensor:
    return teacher.predict(logits, DRAWS, torch.Generator().manual_seed(0), return_samples=True).samples


def labeled(rows: datasets.Dataset, arm: Arm, values: torch.Tensor, **about) -> datasets.Dataset:
    about |= {"name": arm.label_name, "storage": "float32", "made_by": arm.name}
    return import_soft_labels(rows, values, rows["accession"][:], "accession", **about)


def tensor(rows: datasets.Dataset, column: str) -> torch.Tensor:
    return torch.tensor(rows[column][:])


def study(options: StudyArguments) -> Study:
    return Study(
        name="proteins_multi_teacher",
        arms=(NO_TEACHER, LABEL_SMOOTHING, *SINGLE, *SCALED, *combined(SINGLE, STRENGTHS)),
        conditions={"composition": composition} | ({"encoder": sequence} if options.pretrained else {}),
        student_args={"dropout": 0.5},
        reference=NO_TEACHER.name,
        measure="nll",
        posterior={"prior_precision": (10.0, 100.0, 1000.0), "steps": 3_000, "thinning": 5},
        note=NOTE,
    )


DEFAULTS = ON_CPU | {
    "output_dir": "runs/proteins_multi_teacher",
    "dataset": "deeploc2_mtbkd",
    "student_model": "mlp-128",
    "seeds": "0,1,2,3,4",
    "num_train_epochs": 30,
    "validation_size": 500,
    "num_samples": 200,
    "learning_rate": 2e-3,
    "weight_decay": 1e-2,
    "per_device_eval_batch_size": 1000,
    "noise_epochs": 10,
}

if __name__ == "__main__":
    main(study, DEFAULTS)
