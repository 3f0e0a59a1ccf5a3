"""Which places does a protein belong to? Two teachers that know more proteins teach a network several labels at once.

Data: 2,000 proteins of DeepLoc 2.0 that belong to two to five places each, and 2,500 of a single place that teachers
alone are trained on beside them. All read what residues a protein is composed of.

    python recipes/proteins_multi_label.py --dataset FOLDER     ten minutes

The folder has the configurations `multi_label` (split test: column `labels`) and `single_label` (train: `label`).
"""

import datasets
import numpy as np
import torch
from common.defaults import ON_CPU
from common.proteins import composed
from sklearn.ensemble import ExtraTreesClassifier

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    EnsembleTeacher,
    Perceptron,
    SklearnTeacher,
    Teacher,
    add_soft_labels,
)
from hf_bkd.data.loading import load_splits
from hf_bkd.data.subsets import few_first
from hf_bkd.study import LABEL_SMOOTHING, Arm, Several, Splits, Stored, Study, StudyArguments, Vectors, main

PROBLEM = "multi_label_classification"
FOLDS = 3
MEMBERS = 3
EPOCHS = 10
NOTE = (
    "Proteins of two to five places each, of ten; 500 of 2,000 are the test split and 300 are held out. Students see "
    "what residues a protein is composed of (460 numbers), and so do the teachers, which are trained on 2,500 more "
    "proteins, of a single place: three perceptrons, and extremely randomized trees. The labels of the training split "
    "are cross-fitted: each protein is labeled by teachers that were trained without it. mAP is the mean over the "
    "places of the average precision. Scaled: the first of the networks, at the temperature of least NLL on the "
    "held-out proteins. Two thirds of the proteins that the teachers know have one place, so that they "
    "expect fewer places than there are: students that learn from them alone are under-confident, and at the "
    "threshold 1/2 they find few."
)
NETWORKS, TREES, SCALED = (Arm(name, Stored()) for name in ("networks", "trees", "one network, scaled"))
NO_TEACHER = Arm("no teacher")


def proteins(options: StudyArguments, seed: int) -> Splits:
    rows = with_features(load_splits(options.dataset, ("test",), "multi_label")["test"], "labels")
    others = with_features(load_splits(options.dataset, ("train",), "single_label")["train"], "label")
    parts = few_first(rows, options.max_train_samples).train_test_split(test_size=0.25, seed=seed)
    test, parts = parts["test"], parts["train"].train_test_split(test_size=options.validation_size, seed=seed)
    train, validation = parts["train"], parts["test"]
    held_out, ensembles = validation, {}

    def more(rest: datasets.Dataset) -> datasets.Dataset:
        return datasets.concatenate_datasets([rest.select_columns(["features", "label"]), others])

    def ensemble(rest: datasets.Dataset, fold: int) -> EnsembleTeacher:
        if fold not in ensembles:
            ensembles[fold] = networks(more(rest), 100 * seed + fold)
        return ensembles[fold]

    def scaled(rest: datasets.Dataset, fold: int) -> Teacher:
        return DeterministicTeacher.fit(ensemble(rest, fold).members[0].network, held_out)

    def forest(rest: datasets.Dataset, fold: int) -> Teacher:
        return trees(more(rest), 100 * seed + fold)

    for arm, fit in ((NETWORKS, ensemble), (TREES, forest), (SCALED, scaled)):
        about = {"num_samples": 200, "name": arm.label_name, "seed": seed, "storage": "float32", "progress": False}
        teacher = fit(train, FOLDS)
        validation, test = (add_soft_labels(rows, teacher, **about) for rows in (validation, test))
        train = add_soft_labels(train, folds=FOLDS, fit=fit, **about)
    return Splits(train, validation, test, Vectors(PROBLEM))


def with_features(rows: datasets.Dataset, label: str) -> datasets.Dataset:
    """Features [460] of each protein, and the places that it belongs to."""
    places = rows.features[label]
    places = getattr(places, "feature", places)
    values = np.stack([composed(sequence) for sequence in rows["sequence"]])
    labels = [each if isinstance(each, list) else [each] for each in rows[label]]
    return datasets.Dataset.from_dict(
        {"features": values, "label": labels},
        datasets.Features(
            {
                "features": datasets.List(datasets.Value("float32"), length=values.shape[1]),
                "label": datasets.List(places),
            }
        ),
    )


def networks(rows: datasets.Dataset, seed: int) -> EnsembleTeacher:
    """Perceptrons that differ in their first weights and the order of examples."""
    features = torch.tensor(rows["features"][:])
    members = []
    for member in range(MEMBERS):
        torch.manual_seed(1000 * seed + member)
        network = Perceptron(features.shape[1], 10, (256,), dropout=0.5)
        network.problem_type = PROBLEM
        network.standardize(features)
        args = DistillationTrainingArguments(
            output_dir="unused",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            kd_lambda=0.0,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=64,
            learning_rate=2e-3,
            weight_decay=1e-2,
            seed=1000 * seed + member,
            use_cpu=True,
        )
        DistillationTrainer(network, args, train_dataset=rows).train()
        members.append(DeterministicTeacher(network))
    return EnsembleTeacher(members)


def trees(rows: datasets.Dataset, seed: int) -> Teacher:
    """A forest, whose trees are its draws."""
    labels = np.zeros((len(rows), 10), int)
    for row, places in enumerate(rows["label"][:]):
        labels[row, places] = 1
    forest = ExtraTreesClassifier(200, min_samples_leaf=2, random_state=seed)
    return SklearnTeacher(forest.fit(np.array(rows["features"][:]), labels))


def study(options: StudyArguments) -> Study:
    both = Several((NETWORKS, TREES))
    return Study(
        name="proteins_multi_label",
        arms=(
            NO_TEACHER,
            LABEL_SMOOTHING,
            NETWORKS,
            SCALED,
            TREES,
            Arm("both, averaged", both),
            Arm("both, entropy weights", Several((NETWORKS, TREES), "entropy")),
        ),
        conditions={"": proteins},
        student_args={"dropout": 0.5},
        reference=NO_TEACHER.name,
        measure="mean_average_precision",
        note=NOTE,
    )


DEFAULTS = ON_CPU | {
    "output_dir": "runs/proteins_multi_label",
    "dataset": "deeploc2_mtbkd",
    "student_model": "mlp-128",
    "seeds": "0,1,2,3,4",
    "num_train_epochs": 30,
    "validation_size": 300,
    "learning_rate": 2e-3,
    "weight_decay": 1e-2,
    "per_device_eval_batch_size": 500,
    "noise_epochs": 10,
}

if __name__ == "__main__":
    main(study, DEFAULTS)
