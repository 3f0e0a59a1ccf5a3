"""The data of one condition and seed of a study."""

from dataclasses import dataclass

import datasets
import numpy as np

from .inputs import Images, Texts, Vectors


@dataclass
class Splits:
    """The data of one condition and seed: datasets with the column that ``inputs`` reads, and ``label``.

    Args:
        train, validation, test: nothing is chosen on ``test``.
        inputs: how networks read them.
        bayes: exact class probabilities [N, C] of ``train``, where they are known.
        ood: out-of-distribution examples, of no class or of several, which teachers should be unsure of; several sets
            by name.
        transfer: what teachers label and students are taught on (Hinton et al. 2015), if not ``train``: it may be
            larger, and its ``label`` counts only where lambda is below 1. An epoch stays as long as one of ``train``.
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    inputs: Images | Texts | Vectors
    bayes: np.ndarray | None = None
    ood: datasets.Dataset | dict[str, datasets.Dataset] | None = None
    transfer: datasets.Dataset | None = None

    @property
    def oods(self) -> dict[str, datasets.Dataset]:
        """The sets of out-of-distribution examples by name; ``""`` of the only one."""
        if isinstance(self.ood, dict):
            return self.ood
        return {} if self.ood is None else {"": self.ood}

    @property
    def every_ood(self) -> datasets.Dataset | None:
        """The examples of all sets; ``None`` without any."""
        return datasets.concatenate_datasets(list(self.oods.values())) if self.oods else None

    @property
    def taught(self) -> datasets.Dataset:
        """The examples that students with a teacher are trained on."""
        return self.train if self.transfer is None else self.transfer
