"""What does a student keep of a forest's gain? Tables of scikit-learn: trees, a logistic regression and a network.

Half of the rows train, half test; the forest's labels of its own rows are out of bag, and cross-fitted for comparison.
Further rows, of which nobody knows the label, are made of the training rows and labeled by the forest as well; how, is
chosen on tables of random numbers, of which none is measured.

    python recipes/tables.py          about six minutes of processor time
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
    make_classification,
    make_hastie_10_2,
)
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import Bunch

from hf_bkd import SklearnTeacher, add_soft_labels, weighted_rows
from hf_bkd.metrics import classification_metrics
from hf_bkd.reports.claims import Check, Claim, ClaimArguments, main

TABLES = {"iris": load_iris, "wine": load_wine, "breast cancer": load_breast_cancer, "digits": load_digits}
RANDOM = (
    lambda: make_classification(300, 12, n_informative=6, n_classes=3, random_state=1),
    lambda: make_classification(300, 20, n_informative=10, n_redundant=5, flip_y=0.05, random_state=2),
    lambda: make_hastie_10_2(400, random_state=3),
)
REPLACED = (0.1, 0.25, 0.5)  # of the values of a further row
MOST = 20_000  # further rows
BAR = 0.95  # of the forest's gain
RESAMPLINGS = 2000
OWN, FURTHER = "labels out of bag", "labels out of bag and further rows"


@dataclass
class Options(ClaimArguments):
    replicates: int = field(default=10, metadata={"help": "Divisions into training and test rows, each a seed."})
    trees: int = field(default=100, metadata={"help": "Of the forest."})
    folds: int = field(default=5, metadata={"help": "Of the cross-fitted labels."})
    further: int = field(default=60, metadata={"help": "Further rows for each row of the training set, at most."})
    choices: int = field(default=2, metadata={"help": "Divisions of each table on which the further rows are chosen."})


@dataclass
class Half:
    """The training and test rows of one seed, and what the forest says of the training rows and of further ones."""

    train: datasets.Dataset
    test: datasets.Dataset
    forest: SklearnTeacher
    labels: datasets.Dataset
    cross_fitted: datasets.Dataset
    further: dict[float, datasets.Dataset]

    @property
    def table(self) -> Any:
        return self.test.remove_columns("label").to_pandas()


def half(data: Any, forest: Any, options: Options, seed: int, replaced: set[float]) -> Half:
    is_class = not np.issubdtype(data.target.dtype, np.floating)
    train, test = train_test_split(
        np.arange(len(data.target)), test_size=0.5, random_state=seed, stratify=data.target if is_class else None
    )
    columns = [str(name) for name in data.feature_names]
    rows = datasets.Dataset.from_dict(dict(zip(columns, data.data.T.tolist(), strict=True)))
    names = [str(name) for name in data.target_names] if is_class else None
    feature = datasets.ClassLabel(names=names) if is_class else datasets.Value("float64")
    rows = rows.add_column("label", data.target.tolist()).cast_column("label", feature)
    train, test = rows.select(train), rows.select(test)
    quiet = {"progress": False, "storage": "float32"}
    teacher = SklearnTeacher.fit(forest, train, out_of_bag=True)
    fit = SklearnTeacher.fitting(forest)
    times = max(1, min(options.further, MOST // len(train)))
    further = {share: add_soft_labels(mixed(train, times, share, seed), teacher, **quiet) for share in replaced}
    cross_fitted = add_soft_labels(train, folds=options.folds, fit=fit, seed=seed, **quiet) if options.folds else train
    return Half(train, test, teacher, add_soft_labels(train, teacher, **quiet), cross_fitted, further)


def mixed(rows: datasets.Dataset, times: int, replaced: float, seed: int) -> datasets.Dataset:
    """Make further rows: copies, of which each value is another row's with probability ``replaced``.

    As MUNGE (Bucila, Caruana and Niculescu-Mizil 2006), with any other row in place of the nearest one.
    """
    rng, table = np.random.default_rng(seed), rows.remove_columns("label").to_pandas()
    own = np.repeat(np.arange(len(table)), times)
    other = rng.integers(len(table), size=len(own))
    values = np.where(rng.random((len(own), table.shape[1])) < replaced, table.values[other], table.values[own])
    return datasets.Dataset.from_dict(dict(zip(table.columns, values.T.tolist(), strict=True)))


def taught(student: Any, *sources: datasets.Dataset) -> Any:
    """Fit a student to the soft labels of some datasets."""
    parts = [weighted_rows(source) for source in sources]
    table = np.concatenate([part.features.to_numpy() for part in parts])
    labels, weights = (np.concatenate([part[place] for part in parts]) for place in (1, 2))
    last = student.steps[-1][0] if hasattr(student, "steps") else None
    return student.fit(table, labels, **{f"{last}__sample_weight" if last else "sample_weight": weights})


def arms(
    world: Half, student: Callable[[], Any], replaced: float | None, measure: Callable[[Any, Half], np.ndarray]
) -> dict[str, np.ndarray]:
    """Measure the student alone, with the forest's labels, with further rows too, and the forest."""
    alone = student().fit(world.train.remove_columns("label").to_pandas().to_numpy(), np.array(world.train["label"]))
    made = {"alone": alone, "cross-fitted labels": taught(student(), world.cross_fitted)}
    made[OWN] = taught(student(), world.labels)
    if replaced is not None:  # the others gain nothing from a forest
        made[FURTHER] = taught(student(), world.labels, world.further[replaced])
    return {name: measure(each, world) for name, each in (made | {"forest": world.forest.network.estimator}).items()}


def error_and_nll(model: Any, world: Half) -> np.ndarray:
    """Return the share of wrong answers and the negative log-likelihood, in nats, of the test rows."""
    own_names = hasattr(model, "feature_names_in_")
    probs = model.predict_proba(world.table if own_names else world.table.to_numpy())
    metrics = classification_metrics(torch.tensor(probs).clamp(1e-7, 1), torch.tensor(world.test["label"]))
    return np.array([1 - metrics["accuracy"], metrics["nll"]])


def squared_error(model: Any, world: Half) -> np.ndarray:
    own_names = hasattr(model, "feature_names_in_")
    predicted = model.predict(world.table if own_names else world.table.to_numpy())
    return np.array([np.mean((predicted - np.array(world.test["label"])) ** 2)])


def share(losses: dict[str, np.ndarray], arm: str) -> tuple[float, float, float]:
    """Return the kept share of the forest's gain, a ratio of means over seeds, with the bounds of 95 %.

    The seeds are resampled in pairs.
    """
    kept, gain = losses["alone"] - losses[arm], losses["alone"] - losses["forest"]
    drawn = np.random.default_rng(0).integers(len(gain), size=(RESAMPLINGS, len(gain)))
    ratios = kept[drawn].mean(axis=1) / gain[drawn].mean(axis=1)
    return kept.mean() / gain.mean(), *np.quantile(ratios, (0.025, 0.975))


def gains(losses: dict[str, np.ndarray]) -> bool:
    """Return whether the forest is better than the student alone, as far as the seeds tell."""
    gain = losses["alone"] - losses["forest"]
    return bool(gain.mean() > 2.3 * gain.std(ddof=1) / len(gain) ** 0.5)  # t of 9 degrees, 95 %


def shown(measured: dict[str, dict[str, np.ndarray]], names: list[str]) -> str:
    """Return a table of all students and arms; the share only where the forest gains, as far as the seeds tell."""
    lines = ["", f"| student | arm | {' | '.join(f'{name} | gain kept' for name in names)} |"]
    lines += ["| --- " * (2 + 2 * len(names)) + "|"]
    for student, by_arm in measured.items():
        for arm, losses in by_arm.items():
            cells = []
            for place in range(len(names)):
                own = {name: each[:, place] for name, each in by_arm.items()}
                cells.append(f"{losses[:, place].mean():.4f}")
                if arm in ("alone", "forest"):
                    cells.append("")
                else:
                    low_high = "{:.2f} [{:.2f}, {:.2f}]".format(*share(own, arm))
                    cells.append(low_high if gains(own) else "the forest gains nothing")
            lines.append(f"| {student} | {arm} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


STUDENTS = {
    "decision tree": lambda: DecisionTreeClassifier(random_state=0),
    "boosted trees": lambda: HistGradientBoostingClassifier(early_stopping=False, random_state=0),
    "logistic regression": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)),
    "network": lambda: make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=100, random_state=0)),
}
OF_TREES = ("decision tree", "boosted trees")


def chosen(options: Options) -> dict[str, float]:
    """Choose the share of replaced values for each student, by the negative log-likelihood on tables of their own."""
    shares: dict[str, dict[float, list]] = {name: {replaced: [] for replaced in REPLACED} for name in OF_TREES}
    for make in RANDOM:
        data, target = make()
        classes, target = np.unique(target, return_inverse=True)
        columns = [f"x{number}" for number in range(data.shape[1])]
        table = Bunch(data=data, target=target, feature_names=columns, target_names=classes.astype(str))
        for seed in range(options.choices):
            forest = RandomForestClassifier(options.trees, random_state=seed)
            world = half(table, forest, options, seed, set(REPLACED))
            for name in OF_TREES:
                for replaced in REPLACED:
                    student = taught(STUDENTS[name](), world.labels, world.further[replaced])
                    shares[name][replaced].append(error_and_nll(student, world)[1])
    return {name: min(by, key=lambda replaced: np.mean(by[replaced])) for name, by in shares.items()}  # noqa: B023


def measured_arms(
    data: Any, forest: Any, students: dict, measure: Any, options: Options, replaced: dict[str, float]
) -> dict:
    """Return student -> arm -> losses [seeds, measures]."""
    collected: dict[str, dict[str, list]] = {}
    for seed in range(options.seed, options.seed + options.replicates):
        world = half(data, forest.set_params(random_state=seed), options, seed, set(replaced.values()))
        for name, student in students.items():
            for arm, losses in arms(world, student, replaced.get(name), measure).items():
                collected.setdefault(name, {}).setdefault(arm, []).append(losses)
    return {name: {arm: np.stack(each) for arm, each in by.items()} for name, by in collected.items()}


def claim_of(title: str, measured: dict, names: list[str], note: str) -> Claim:
    """Return the claim of a table, with a check for each measure in which the forest beats a student of trees."""
    checks, sentences = [], []
    for student in (each for each in OF_TREES if each in measured):
        for place, name in enumerate(names):
            losses = {arm: each[:, place] for arm, each in measured[student].items()}
            if not gains(losses):
                continue
            kept, low, high = share(losses, FURTHER)
            alone, cross_fitted = share(losses, OWN)[0], share(losses, "cross-fitted labels")[0]
            checks.append(Check(f"{title}: {student}, gain in {name}", BAR, kept, compare="at least"))
            sentences.append(
                f"Of the forest's gain in {name}, a student of {student} keeps {kept:.2f} [{low:.2f}, {high:.2f}] "
                f"with its labels of the student's rows and further ones, {alone:.2f} with those of its rows alone "
                f"(cross-fitted {cross_fitted:.2f})."
            )
    return Claim(
        title,
        "\n".join(sentences) + "\n" + shown(measured, names),
        "The bar of the project: 95 % of what the forest gains over the same student without it",
        checks,
        caveat="Where the forest is no better than the student alone there is no gain to keep, and no share is shown. "
        + note,
    )


def claims(options: Options) -> list[Claim]:
    datasets.disable_progress_bars()
    made, replaced = [], chosen(options)
    said = ", ".join(f"{share:g} for a student of {name}" for name, share in replaced.items())
    note = f"The share of replaced values of the further rows: {said}."
    print(note, flush=True)
    for name, load in TABLES.items():
        data = load()
        own = {
            student: each for student, each in STUDENTS.items() if student != "boosted trees" or data.target.max() < 3
        }
        forest = RandomForestClassifier(options.trees)
        measured = measured_arms(data, forest, own, error_and_nll, options, replaced)
        made.append(claim_of(name, measured, ["error", "NLL"], note))
        print(f"{name}:\n{made[-1].text}", flush=True)
    trees = {"decision tree": lambda: DecisionTreeRegressor(random_state=0)}
    forest = RandomForestRegressor(options.trees)
    measured = measured_arms(load_diabetes(), forest, trees, squared_error, options, replaced)
    made.append(claim_of("diabetes", measured, ["squared error"], note))
    return made


if __name__ == "__main__":
    main(
        "tables",
        "Tables that scikit-learn ships; a random forest teaches by weighted rows, its labels of its own training "
        "rows out of bag. How further rows are made is chosen on three tables of random numbers.",
        claims,
        Options,
    )
