"""Subsets of a labeled dataset (the first rows, few of each class, a stratified part), and noise on its labels."""

import datasets
import numpy as np

from ..utils.checks import check_share
from ..utils.errors import UserError


def check_labeled(dataset: datasets.Dataset, split: str) -> None:
    """Raise a UserError if rows of the split have no label."""
    is_class = str(getattr(dataset.features["label"], "dtype", "")).startswith("int")
    lacking = sum(label in ((-1, None) if is_class else (None,)) for label in dataset["label"][:])
    if lacking:
        raise UserError(f"{lacking} of the {len(dataset)} examples of the split {split!r} have no label")


def few_first(dataset: datasets.Dataset, size: int | None) -> datasets.Dataset:
    """Return the first ``size`` examples; all of them if that is ``None`` or more than there are."""
    return dataset if size is None else dataset.select(range(min(size, len(dataset))))


def stratified_split(dataset: datasets.Dataset, size: int, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split off ``size`` examples with the dataset's class proportions; return them and the rest.

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


def random_split(dataset: datasets.Dataset, size: int, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split off ``size`` random examples; return them and the rest.

    Raises:
        UserError: either part would be empty.
    """
    if not 0 < size < len(dataset):
        raise UserError(f"{len(dataset)} examples can't be split into {size} and the rest: take more examples")
    parts = dataset.train_test_split(test_size=size, seed=seed)
    return parts["test"], parts["train"]


def few_shot(dataset: datasets.Dataset, per_class: int, seed: int) -> datasets.Dataset:
    """Return ``per_class`` random examples of each class; UserError if a class has fewer."""
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
        seed: seed of the draw.

    Returns:
        The dataset with noisy labels, and P(noisy label | image) [N, C] = (1 - rate) onehot + rate / C.
    """
    check_share(rate=rate)
    feature = dataset.features["label"]
    clean = np.asarray(dataset["label"][:])
    rng = np.random.default_rng(seed)
    replaced = rng.random(len(clean)) < rate
    noisy = np.where(replaced, rng.integers(feature.num_classes, size=len(clean)), clean)
    bayes = (1 - rate) * np.eye(feature.num_classes)[clean] + rate / feature.num_classes
    dataset = dataset.remove_columns("label").add_column("label", noisy.tolist(), feature=feature)
    return dataset, bayes.astype(np.float32)
