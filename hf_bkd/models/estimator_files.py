"""Estimators of scikit-learn in files that are read without pickle, by skops, and what identifies them."""

import hashlib
import importlib
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.environment import version_of
from ..utils.errors import UserError
from .estimator_parts import name_of
from .saving import ESTIMATOR

UNSEEN = ("n_jobs", "verbose", "_sklearn_version")  # parameters that change no answer


def save_estimator(estimator: Any, folder: Path) -> None:
    """Save an estimator with skops into a new folder.

    Raises:
        UserError: skops is not installed, or the estimator has parts that could not be loaded again: functions, or
            classes of others than scikit-learn.
    """
    io = skops_io("saving")
    folder.mkdir(parents=True)
    try:
        io.dump(estimator, folder / ESTIMATOR)
    except Exception as error:
        raise UserError(f"{name_of(estimator)} can't be saved by skops ({type(error).__name__}: {error})") from error
    _trusted(io, folder / ESTIMATOR)


def load_estimator(folder: Path) -> Any:
    """Load what :func:`save_estimator` saved; no class is made that is not scikit-learn's, numpy's or Python's own.

    scikit-learn warns of a file that another version of it wrote.

    Raises:
        UserError: skops is not installed, the file is missing, or it asks for other classes.
    """
    io = skops_io("loading")
    file = Path(folder) / ESTIMATOR
    if not file.is_file():
        raise UserError(f"{folder} holds no estimator, for {ESTIMATOR} is missing: save it again")
    estimator = io.load(file, trusted=_trusted(io, file))
    _check_trees(estimator)
    return estimator


def versions_of(estimator: Any) -> dict[str, str]:
    """Return the version of the library that an estimator's class is of, and of scikit-learn."""
    own = type(estimator).__module__.partition(".")[0]
    names = {"sklearn": "scikit-learn"}
    versions = {names.get(name, name): version_of(names.get(name, name)) for name in dict.fromkeys(("sklearn", own))}
    return {name: version for name, version in versions.items() if version != "not installed"}


def parameters_of(estimator: Any) -> dict[str, Any]:
    """Return an estimator's parameters as JSON: numbers, words and ``None`` as they are, all else as it is printed."""
    if not hasattr(estimator, "get_params"):
        return {}
    plain = (bool, int, float, str, type(None))
    return {
        name: value if isinstance(value, plain) else _printed(value)
        for name, value in sorted(estimator.get_params(deep=False).items())
        if name not in UNSEEN
    }


def fingerprint_of(value: Any) -> str:
    """Hash all that an object holds to 16 hexadecimal digits, the same before it is saved and after it was loaded."""
    digest = hashlib.sha256()
    _feed(digest, value, [])
    return digest.hexdigest()[:16]


def _printed(value: Any) -> str:
    return " ".join(repr(value).split()) if " at 0x" not in repr(value) else type(value).__name__


def _feed(digest: Any, value: Any, above: list[int]) -> None:
    """Feed a digest with a value's type and parts; ``above`` are the objects that it is a part of."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        digest.update(f"{type(value).__name__} {value!r}\0".encode(errors="surrogatepass"))
        return
    if isinstance(value, (bytes, bytearray)):
        digest.update(b"bytes" + bytes(value))
        return
    if isinstance(value, np.ndarray):
        _feed_array(digest, value, above)
        return
    if _changes_no_answer(value):
        value = type(value)
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        digest.update(f"{value.__module__}.{value.__qualname__}\0".encode())
        return
    if id(value) in above:
        digest.update(f"above {above[::-1].index(id(value))}\0".encode())
        return
    above = [*above, id(value)]
    if isinstance(value, dict):
        parts = sorted(value.items(), key=lambda item: repr(item[0]))
        parts = [part for name, each in parts if name not in UNSEEN for part in (name, each)]
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    elif isinstance(value, (set, frozenset)):
        parts = sorted(value, key=repr)
    else:
        made = value.__reduce_ex__(2)
        parts = [made] if isinstance(made, str) else [*made[:3], *(list(each or ()) for each in made[3:5])]
    digest.update(f"{type(value).__name__} {len(parts)}\0".encode())
    for part in parts:
        _feed(digest, part, above)


def _changes_no_answer(value: Any) -> bool:
    """Whether an object counts what was asked (as trees of neighbors, whose rows stand beside them) or draws."""
    kind = type(value)
    is_search = kind.__module__.startswith("sklearn.neighbors.") and kind.__name__.startswith(("KDTree", "BallTree"))
    return is_search or kind.__module__.startswith("numpy.random")


def _feed_array(digest: Any, array: np.ndarray, above: list[int]) -> None:
    if array.dtype.names:  # field by field: between them lies what nobody wrote
        for name in array.dtype.names:
            _feed(digest, name, above)
            _feed_array(digest, array[name], above)
        return
    digest.update(f"array {array.dtype.str if array.dtype != object else 'object'} {array.shape}\0".encode())
    if array.dtype == object:
        for each in array.ravel().tolist():
            _feed(digest, each, above)
    else:
        digest.update(np.ascontiguousarray(array).tobytes())


def skops_io(what: str) -> Any:
    """Import what reads and writes estimators; UserError, with ``what`` it is needed for, if it is not installed."""
    try:
        import skops.io
    except ImportError as error:
        raise UserError(
            f"{what} an estimator without pickle needs skops: pip install 'hf_bkd[tables]' (or label in the program "
            "that fits it, which needs no file)"
        ) from error
    return skops.io


def _trusted(io: Any, file: Path) -> list[str]:
    """Return the classes of a file that are scikit-learn's own; UserError if it holds any other's, or functions."""
    names = io.get_untrusted_types(file=file)
    others = [name for name in names if not _is_sklearn_class(name)]
    if others:
        raise UserError(
            f"the estimator holds {', '.join(others[:3])}, which is loaded by running code that is not "
            "scikit-learn's, and nothing of that kind is saved or loaded: label in the program that fits it"
        )
    return names


def _is_sklearn_class(name: str) -> bool:
    if name == "numpy.dtype":
        return True
    module, _, attribute = name.rpartition(".")
    if not module.startswith("sklearn."):
        return False
    try:
        return isinstance(getattr(importlib.import_module(module), attribute, None), type)
    except ImportError:
        return False


def _check_trees(estimator: Any) -> None:
    """UserError if a tree points beyond its own nodes or features: scikit-learn would follow it into other memory."""
    for tree in _trees(estimator, set()):
        children = np.stack([tree.children_left, tree.children_right])
        inner = tree.children_left != -1
        count = tree.node_count
        ok = (children[:, inner] > np.arange(count)[inner]).all() and (children < count).all()
        ok = ok and (children[:, ~inner] == -1).all()
        ok = ok and ((tree.feature[inner] >= 0) & (tree.feature[inner] < tree.n_features)).all()
        if not ok:
            raise UserError("the estimator's file is damaged: a tree in it points beyond its own nodes")


def _trees(value: Any, seen: set[int]) -> list[Any]:
    """Return the trees within an object, through its attributes, lists and arrays of objects."""
    if id(value) in seen or isinstance(value, (str, bytes, int, float, type(None), type)):
        return []
    seen.add(id(value))
    if type(value).__name__ == "Tree" and type(value).__module__.startswith("sklearn."):
        return [value]
    if isinstance(value, np.ndarray):
        parts = value.ravel().tolist() if value.dtype == object else []
    elif isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    else:
        parts = list(getattr(value, "__dict__", {}).values())
    return [tree for part in parts for tree in _trees(part, seen)]
