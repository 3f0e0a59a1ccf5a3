"""A study that takes a second: three classes of points, perceptrons, one epoch, in this process."""

import json

import datasets
import numpy as np

from hf_bkd.study import CONTROLS, LAPLACE, VARIATIONAL, Arm, Splits, Study, Vectors, main
from hf_bkd.study.arguments import parse
from hf_bkd.study.cell import Cell

NAMES, DIMENSIONS = ["red", "green", "blue"], 4
DEFAULTS = {
    "dataset": "blobs", "student_model": "mlp-8", "teacher_model": "mlp-16", "seeds": "0", "num_train_epochs": 1,
    "learning_rate": 1e-2, "per_device_train_batch_size": 16, "num_samples": 5, "ensemble_size": 2,
    "save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True,
}  # fmt: skip


def blobs(size: int, seed: int) -> datasets.Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=size)
    features = labels[:, None] + rng.normal(size=(size, DIMENSIONS))
    kinds = {"features": datasets.List(datasets.Value("float32"), length=DIMENSIONS)}
    kinds |= {"label": datasets.ClassLabel(names=NAMES), "name": datasets.Value("string")}
    rows = {"features": features.tolist(), "label": labels.tolist(), "name": [f"{seed}-{i}" for i in range(size)]}
    return datasets.Dataset.from_dict(rows, datasets.Features(kinds))


def plain(options, seed) -> Splits:
    return Splits(blobs(120, 1), blobs(60, 2), blobs(90, 3), Vectors())


STUDY = Study("small", (*CONTROLS, LAPLACE, VARIATIONAL), {"": plain})


def words(folder, options: dict) -> list[str]:
    given = {"--output_dir": folder} | {f"--{name}": value for name, value in options.items()}
    return [str(part) for pair in given.items() for part in pair]


def run(study: Study, folder, **options) -> dict:
    """The results of a study that ends well."""
    main(study, DEFAULTS, words(folder, options))
    return json.loads((folder / "results.json").read_text())


def status(folder, study: Study = STUDY, **options) -> int:
    """The exit status of a study that may not."""
    try:
        run(study, folder, **options)
    except SystemExit as stop:
        return stop.code
    return 0


def cell_of(folder, *arms: Arm, **options) -> Cell:
    """The one cell of a study of these arms."""
    parsed, args = parse(DEFAULTS, words(folder, options))
    return Cell(Study("cell", arms, {"": plain}), "", 0, parsed, args)
