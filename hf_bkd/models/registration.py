"""Let timm, and so transformers, know the networks of this library without importing timm before it is used."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def register_networks() -> None:
    """Tell timm of the networks: at once if it is imported already, and otherwise at the end of its import."""
    if sys.modules.get("timm"):
        _import_networks()
    elif not any(isinstance(finder, TimmFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, TimmFinder())


def _import_networks() -> None:
    from . import cifar_resnet, small_cnn  # noqa: F401  (their import registers them)


class TimmFinder:
    """Finds timm where the finders after it do, and lets its import end with that of the networks."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "timm":
            return None
        later = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in later)), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if module.__name__ == name:  # a loader of zip files is that of other modules too
                _import_networks()

        spec.loader.exec_module = exec_module
        return spec
