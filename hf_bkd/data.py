"""Where examples come from: loading a dataset, its columns, its parts, and labels made worse on purpose."""

from pathlib import Path

import datasets
import numpy as np

from .errors import UserError


def load_splits(name_or_path: str, needed: tuple[str, ...] = ()) -> datasets.DatasetDict:
    """A dataset from a folder (data files, or written by ``save_to_disk``) or from the Hub.

    Raises:
        UserError: a path that doesn't exist, a folder without data that can be read, a dataset the Hub does not have
            or can't deliver, or one without the splits ``needed``.
    """
    splits = _load(name_or_path)
    missing = [name for name in needed if name not in splits]
    if missing:
        raise UserError(f"{name_or_path} has no split {missing[0]!r}, only {', '.join(splits)}")
    return splits


def _load(name_or_path: str) -> datasets.DatasetDict:
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
        return datasets.load_dataset(str(path.resolve()) if local else name_or_path)
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
    image = next((n for n, f in dataset.features.items() if isinstance(f, datasets.Image)), None)
    if image is None:
        raise UserError(f"the dataset has no column of images, only {', '.join(dataset.column_names)}")
    label = next((n for n in ("label", "labels", "fine_label") if n in dataset.features), None)
    if label is None:
        raise UserError(
            f"the dataset has no labels column (label, labels or fine_label), only {', '.join(dataset.column_names)}"
        )
    feature = dataset.features[label]
    if not str(getattr(feature, "dtype", "")).startswith(("int", "uint")):
        raise UserError(
            f"the labels in column {label} are not class numbers but {feature}: use "
            f"dataset.class_encode_column({label!r})"
        )
    return image, label


def as_image_classification(dataset: datasets.Dataset) -> datasets.Dataset:
    """Only two columns, called ``image`` and ``label``."""
    image, label = find_columns(dataset)
    dataset = dataset.select_columns([image, label])
    return dataset.rename_columns({old: new for old, new in ((image, "image"), (label, "label")) if old != new})


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
