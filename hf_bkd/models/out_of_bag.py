"""Out-of-bag answers: each row that a forest was fitted on is answered by the trees that were fitted without it."""

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from ..utils.errors import UserError
from .estimator_parts import name_of, steps_of

LEAST_TREES = 2  # that a row needs: of a single one there is no variance


class OutOfBag:
    """What each tree of a forest counts for a row (Breiman 1996, out-of-bag estimation).

    The trees that drew the row for their sample count nothing, the others equally. A row that the forest was not
    fitted on is out of bag for all trees. A row is known by its values; of several with the same values each has the
    mean of what they have one by one.

    Args:
        digests: of the content of U different rows, int64, sorted.
        weights: of the trees, float32 [U, S], with a sum of 1 over the trees.
    """

    def __init__(self, digests: np.ndarray, weights: np.ndarray):
        self.digests, self.weights = digests, weights

    @classmethod
    def of(cls, forest: Any, features: Any) -> "OutOfBag":
        """Recompute which rows each tree was fitted on.

        Args:
            forest: fitted, of S trees.
            features: all N rows that it was fitted on, in their order, as its trees read them.

        Raises:
            UserError: no forest, one that drew no samples, other rows, or a row that nearly all trees were fitted on.
        """
        check_samples(forest)
        features = as_trees_read(features)
        out = _left_out(forest, features)
        digests, group, copies = np.unique(digests_of(features), return_inverse=True, return_counts=True)
        counts = out.sum(axis=1)
        known = np.bincount(group[counts > 0], minlength=len(digests))
        share = np.where(counts > 0, 1 / np.maximum(counts, 1), 0) / np.maximum(known, 1)[group]
        weights = np.empty((len(digests), out.shape[1]), dtype=np.float32)
        for tree in range(out.shape[1]):
            weights[:, tree] = np.bincount(group, out[:, tree] * share, minlength=len(digests))
        trees = (weights > 0).sum(axis=1)[group]
        if trees.min() < LEAST_TREES:
            raise UserError(
                f"row {int(trees.argmin())} was drawn by all but {int(trees.min())} of the {out.shape[1]} trees, and "
                f"an answer out of bag needs {LEAST_TREES}: fit more trees (100), or label by folds=5, "
                "fit=SklearnTeacher.fitting(estimator)"
            )
        return cls(digests, weights)

    def weights_of(self, features: Any) -> np.ndarray:
        """Return what each tree counts for rows, as the trees read them: [S, B]."""
        digests = digests_of(as_trees_read(features))
        places = np.searchsorted(self.digests, digests).clip(max=len(self.digests) - 1)
        known = self.digests[places] == digests
        weights = np.where(known[:, None], self.weights[places], 1.0).astype(np.float64)
        return (weights / weights.sum(axis=1, keepdims=True)).T


def check_samples(estimator: Any) -> None:
    """Raise a UserError unless an estimator is a forest whose trees are each fitted on a sample of the rows."""
    forest = steps_of(estimator)[-1]
    if _is_a("BaseSearchCV", forest):
        forest = steps_of(forest.estimator)[-1]
    if not _is_a("BaseForest", forest) or not forest.bootstrap:
        raise UserError(
            f"{name_of(forest)} has no answers out of bag, for it is no forest of trees that are each fitted on a "
            "sample of the rows (bootstrap=True): label by folds=5, fit=SklearnTeacher.fitting(estimator)"
        )


def _is_a(name: str, estimator: Any) -> bool:
    return any(kind.__name__ == name for kind in type(estimator).__mro__)


def as_trees_read(features: Any) -> np.ndarray:
    """Return a table as a forest hands it to its trees: float32 [B, d]."""
    if isinstance(features, pd.DataFrame):
        features = features.to_numpy()
    return np.asarray(features.toarray() if hasattr(features, "toarray") else features, dtype=np.float32)


def digests_of(features: np.ndarray) -> np.ndarray:
    """Hash the values of each row [B, d] to an int64; missing values are alike, and so are 0 and -0."""
    plain = np.ascontiguousarray(np.where(np.isnan(features), np.float32(np.nan), features + 0))
    digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in plain)
    return np.frombuffer(digests, dtype=np.int64)


def _left_out(forest: Any, features: np.ndarray) -> np.ndarray:
    """Return which rows each tree was fitted without, bool [N, S]; UserError if the trees hold others than these."""
    samples = forest.estimators_samples_
    out = np.ones((len(features), len(samples)), dtype=bool)
    for number, (tree, sample) in enumerate(zip(forest.estimators_, samples, strict=True)):
        drawn = np.unique(sample)
        if (
            features.shape[1] != tree.tree_.n_features
            or drawn[-1] >= len(features)
            or not _holds(tree.tree_, features[drawn])
        ):
            raise UserError(
                f"the trees of {name_of(forest)} hold other rows than these: pass the table that it was fitted on, "
                "all rows in their order, or fit it by SklearnTeacher.fit(estimator, dataset, out_of_bag=True)"
            )
        out[drawn, number] = False
    return out


def _holds(tree: Any, rows: np.ndarray) -> bool:
    """Whether each leaf of a tree counts as many rows as fall into it."""
    leaves = tree.children_left == -1
    counts = np.bincount(tree.apply(rows), minlength=tree.node_count)
    return bool((counts[leaves] == tree.n_node_samples[leaves]).all())
