"""Where examples come from: loading a dataset, its columns, its parts, and labels made worse on purpose."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np

from ..utils.errors import UserError

LABEL_COLUMNS = ("label", "labels", "fine_label")


def load_splits(
    name_or_path: str, needed: tuple[str, ...] = (), configuration: str | None = None
) -> datasets.DatasetDict:
    """A dataset from a folder (data files, or written by ``save_to_disk``) or from the Hub.

    Args:
        name_or_path: of the dataset.
        needed: splits that it must have.
        configuration: which of its configurations, where there are several; its own default if not given.

    Raises:
        UserError: a path that doesn't exist, a folder without data that can be read, a dataset the Hub does not have
            or can't deliver, or one without the splits ``needed``.
    """
    splits = _load(name_or_path, configuration)
    for name in needed:
        check_split(splits, name, name_or_path)
    return splits


def check_split(splits: datasets.DatasetDict, name: str, dataset: str) -> None:
    """UserError if the dataset that the user calls ``dataset`` lacks the split ``name``."""
    if name not in splits:
        raise UserError(f"{dataset} has no split {name!r}, only {', '.join(splits)}")


def load_stream(name_or_path: str, split: str) -> datasets.IterableDataset:
    """A split that is read as it passes by, from data files in a folder or from the Hub.

    Raises:
        UserError: as for :func:`load_splits`, or a dataset that doesn't say what columns it has.
    """
    path = Path(name_or_path).expanduser()
    try:
        splits = datasets.load_dataset(str(path.resolve()) if path.is_dir() else name_or_path, streaming=True)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{name_or_path!r} can't be streamed ({_first_line(error)})") from None
    check_split(splits, split, name_or_path)
    if splits[split].features is None:
        raise UserError(f"{name_or_path!r} doesn't say what columns it has: load it without streaming")
    return splits[split]


def _load(name_or_path: str, configuration: str | None) -> datasets.DatasetDict:
    path = Path(name_or_path).expanduser()
    local = path.is_dir()
    if not local and (name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1):
        raise UserError(
            f"there is no folder {name_or_path}; pass the path of a dataset's folder or its name on the Hub"
        )
    try:
        if (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(path)
        if (path / "state.json").is_file():
            dataset = datasets.load_from_disk(path)
            return datasets.DatasetDict({str(dataset.split or "train"): dataset})
        return datasets.load_dataset(str(path.resolve()) if local else name_or_path, configuration)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if local:
            raise UserError(f"{name_or_path} holds no dataset that can be read: {_first_line(error)}") from None
        raise UserError(
            f"the Hub could not deliver {name_or_path!r} ({_first_line(error)}); pass --dataset with a local folder"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def find_columns(dataset: datasets.Dataset) -> tuple[str, str]:
    """Names of the image and the label column; UserError if there is none of either, or labels are no numbers."""
    image, label = find_input(dataset, "image"), find_label(dataset)
    feature = dataset.features[label]
    if not _is_number(feature):
        raise UserError(
            f"the labels in column {label} are not class numbers but {feature}: use "
            f"dataset.class_encode_column({label!r})"
        )
    return image, label


def find_input(dataset: datasets.Dataset, kind: str, beside: str | None = None) -> str:
    """Name of the first column of images, or of the one of texts (``kind``) that is neither labels nor ``beside``.

    Raises:
        UserError: there is none, or there are several of texts and not one of them is called text or sentence.
    """
    others = (*LABEL_COLUMNS, beside)
    found = [name for name, feature in dataset.features.items() if _holds(feature, kind) and name not in others]
    if kind == "text" and len(found) > 1:
        found = [name for name in found if name in ("text", "sentence")] or found
        if len(found) > 1:
            raise UserError(f"the dataset has several columns of texts ({', '.join(found)}): pass --input_column")
    if not found:
        raise UserError(f"the dataset has no column of {kind}s, only {', '.join(dataset.column_names)}")
    return found[0]


def find_label(dataset: datasets.Dataset) -> str:
    """Name of the label column; UserError if there is none of the usual names."""
    if not has_labels(dataset):
        raise UserError(
            f"the dataset has no labels column (label, labels or fine_label), only {', '.join(dataset.column_names)}"
        )
    return next(name for name in LABEL_COLUMNS if name in dataset.features)


def has_labels(dataset: datasets.Dataset) -> bool:
    """Whether there is a label column of a usual name."""
    return any(name in dataset.features for name in LABEL_COLUMNS)


def _holds(feature: object, kind: str) -> bool:
    if kind == "image":
        return isinstance(feature, datasets.Image)
    return getattr(feature, "dtype", "") in ("string", "large_string")


def _is_number(feature: object) -> bool:
    return str(getattr(feature, "dtype", "")).startswith(("int", "uint"))


def as_image_classification(dataset: datasets.Dataset) -> datasets.Dataset:
    """Only two columns, called ``image`` and ``label``."""
    image, label = find_columns(dataset)
    dataset = dataset.select_columns([image, label])
    return dataset.rename_columns({old: new for old, new in ((image, "image"), (label, "label")) if old != new})


def as_classification(
    dataset: datasets.Dataset,
    kind: str,
    classes: Sequence[str] | None = None,
    input_column: str | None = None,
    label_column: str | None = None,
) -> datasets.Dataset:
    """Only two columns: ``image`` or ``text``, and ``label``, numbered as a network numbers its classes.

    Args:
        dataset: N rows; labels are a ClassLabel, numbers or names, and -1 or ``None`` where there is none.
        kind: ``"image"`` or ``"text"``.
        classes: the network's C names. Labels go by name where the dataset has the same ones, in whatever order and
            case, and else by number. If not given, the dataset's own; bare names in alphabetical order.
        input_column, label_column: for a dataset whose columns are not told by their types and usual names.

    Returns:
        N rows; ``label`` is a ClassLabel of C classes, -1 where there is none.

    Raises:
        UserError: no such columns, or other classes than the network's.
    """
    label = label_column or find_label(dataset)
    _check_column(dataset, label)
    inputs = as_inputs(dataset, kind, input_column or find_input(dataset, kind, beside=label))
    names, numbers = _numbered(dataset, label, classes)
    return inputs.add_column("label", numbers, feature=datasets.ClassLabel(names=names))


def as_inputs(dataset: datasets.Dataset, kind: str, input_column: str | None = None) -> datasets.Dataset:
    """The only column ``image`` or ``text`` (``kind``); UserError if ``input_column`` is not of that kind."""
    column = input_column or find_input(dataset, kind)
    _check_column(dataset, column)
    if not _holds(dataset.features[column], kind):
        raise UserError(f"the column {column!r} holds no {kind}s but {dataset.features[column]}")
    dataset = dataset.select_columns([column])
    return dataset if column == kind else dataset.rename_column(column, kind)


def _check_column(dataset: datasets.Dataset, name: str) -> None:
    if name not in dataset.column_names:
        raise UserError(f"the dataset has no column {name!r}, only {', '.join(dataset.column_names)}")


def _numbered(dataset: datasets.Dataset, label: str, classes: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """The classes' names in the network's order, and each row's number."""
    feature, values = dataset.features[label], dataset.with_format(None)[label][:]
    named, bare = isinstance(feature, datasets.ClassLabel), _holds(feature, "text")
    if named:
        names = list(feature.names)
    elif bare:
        names = sorted({value for value in values if value is not None})
    elif _is_number(feature):
        highest = max((value for value in values if value is not None), default=-1)
        names = [str(number) for number in range(max(highest + 1, len(classes or ())))]
    else:
        raise UserError(f"the labels in column {label} are neither class numbers nor names but {feature}")
    classes = list(classes or names)
    unlike = all(len({name.lower() for name in group}) == len(group) for group in (classes, names))
    key = str.lower if unlike else str
    place = {key(name): number for number, name in enumerate(classes)}
    by_name = (named or bare) and all(key(name) in place for name in names)
    if not by_name if bare else len(names) != len(classes):
        raise UserError(
            f"the network knows {_listed(classes)}, and the column {label} has {_listed(names)}: take a network or "
            "a --label_column that fits"
        )
    new = [place[key(name)] if by_name else number for number, name in enumerate(names)]
    numbers = dict(zip(names if bare else range(len(names)), new, strict=True))
    ordered = [name for _, name in sorted(zip(new, names, strict=True))] if named else classes
    return ordered, [numbers.get(value, -1) for value in values]


def _listed(names: list[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def check_labeled(dataset: datasets.Dataset, split: str) -> None:
    """UserError if rows of the split have no label."""
    lacking = sum(label == -1 for label in dataset["label"][:])
    if lacking:
        raise UserError(f"{lacking} of the {len(dataset)} examples of the split {split!r} have no label")


def few_first(dataset: datasets.Dataset, size: int | None) -> datasets.Dataset:
    """The first ``size`` examples; all of them if that is ``None`` or more than there are."""
    return dataset if size is None else dataset.select(range(min(size, len(dataset))))


def stratified_split(dataset: datasets.Dataset, size: int, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """``size`` examples with the dataset's class proportions, and the rest.

    Raises:
        UserError: either part would be smaller than the number of classes, or a class has a single example.
    """
    counts = np.unique(dataset["label"][:], return_counts=True)[1]
    if min(size, len(dataset) - size) < len(counts) or counts.min() < 2:
        raise UserError(
            f"{len(dataset)} examples of {len(counts)} classes can't be split into {size} and the rest with every "
            "class in both: take more examples"
        )
    parts = dataset.train_test_split(test_size=size, stratify_by_column="label", seed=seed)
    return parts["test"], parts["train"]


def few_shot(dataset: datasets.Dataset, per_class: int, seed: int) -> datasets.Dataset:
    """``per_class`` random examples of each class; UserError if a class has fewer."""
    labels = np.asarray(dataset["label"][:])
    rng = np.random.default_rng(seed)
    picked = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class:
            raise UserError(f"class {label} has {len(members)} examples, fewer than the {per_class} asked for")
        picked.append(rng.choice(members, per_class, replace=False))
    return dataset.select(np.sort(np.concatenate(picked)))


def with_label_noise(dataset: datasets.Dataset, rate: float, seed: int) -> tuple[datasets.Dataset, np.ndarray]:
    """Replace a share of the labels at random, so that the Bayes class probabilities of clean data become known.

    Args:
        dataset: N rows whose ``label`` is a ClassLabel of C classes.
        rate: share in [0, 1] of the labels that are drawn anew, uniformly over all classes.
        seed: of the draw.

    Returns:
        The dataset with noisy labels, and P(noisy label | image) [N, C] = (1 - rate) onehot + rate / C.
    """
    if not 0 <= rate <= 1:
        raise UserError(f"the share of noisy labels must be between 0 and 1, and it is {rate}")
    feature = dataset.features["label"]
    clean = np.asarray(dataset["label"][:])
    rng = np.random.default_rng(seed)
    replaced = rng.random(len(clean)) < rate
    noisy = np.where(replaced, rng.integers(feature.num_classes, size=len(clean)), clean)
    bayes = (1 - rate) * np.eye(feature.num_classes)[clean] + rate / feature.num_classes
    dataset = dataset.remove_columns("label").add_column("label", noisy.tolist(), feature=feature)
    return dataset, bayes.astype(np.float32)
