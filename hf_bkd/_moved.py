"""Modules that lived elsewhere before version 0.2: importing one by its old name warns and gives the new one."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings

MOVED = {
    "adaptive": "training.draw_variance",
    "augmentations": "data.augmentations",
    "cards": "hub.cards",
    "checkpoints": "training.checkpoints",
    "claims": "reports.claims",
    "convergence": "teachers.mcmc_diagnostics",
    "data.reading": "data.preprocessors",
    "diagnostics": "training.diagnostics",
    "errors": "utils.errors",
    "evaluate_metric": "reports.evaluate_metric",
    "files": "utils.files",
    "flatness": "training.sharpness",
    "images": "data.preprocessing",
    "ivon": "teachers.ivon",
    "langevin": "teachers.langevin_dynamics",
    "layers": "models.variational_layers",
    "noise": "utils.random",
    "perceptron": "models.perceptron",
    "plots": "reports.plots",
    "predictive": "teachers.base",
    "report": "reports.report",
    "resampling": "data.resampling",
    "resident": "training.batched_dataset",
    "results": "reports.results",
    "small_cnn": "models.small_cnn",
    "supervision": "training.supervision",
    "trainer": "training.trainer",
    "training_args": "training.arguments",
    "views": "data.views",
}


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``hf_bkd.OLD`` where it lives now."""

    def find_spec(self, name, path=None, target=None):
        package, _, old = name.partition(".")
        if package != "hf_bkd" or old not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        new = f"hf_bkd.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"{spec.name} has moved: import {new}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module):
        """Give the module, which is loaded already, its own specification back."""
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Let old names be found, after all names that exist."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
