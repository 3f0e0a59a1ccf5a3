"""How a teacher's networks are made and trained in a cell of a study, and where a fitted teacher is kept."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import datasets
from accelerate import PartialState
from torch import Tensor, nn
from torch.optim import Optimizer

from ..teachers import Teacher
from ..training.batched_dataset import BatchedDataset
from ..utils.files import whole_folder
from ..utils.processes import decided_by_main
from .arms import Arm
from .cell import Cell
from .fitting import Fitting

Rows = datasets.Dataset | None  # of the training split that a teacher is fitted on; None for all


class CellFitting(Fitting):
    """The context in which an arm's teacher is fitted: networks of a cell, kept in its folders.

    Args:
        cell: the condition and seed.
        arm: whose network it is.
        given: the user's own teacher.
        rows: of the training split, to fit on; all if not given.
        prefix: of the names of what is kept, which says which rows these are.
    """

    seed = 0

    def __init__(self, cell: Cell, arm: Arm, given: Teacher | None, rows: Rows = None, prefix: str = ""):
        self.cell, self.arm, self.given, self.rows, self.prefix = cell, arm, given, rows, prefix
        self.num_samples = cell.options.num_samples
        self.learning_rate = cell.options.teacher_learning_rate or cell.args.learning_rate
        self.problem_type = cell.args.problem_type

    @cached_property
    def data(self) -> BatchedDataset:
        """The rows as networks are trained on them."""
        return self.cell.train if self.rows is None else self.cell.batched(self.rows, augment=True)

    @property
    def num_train(self) -> int:
        """N, the number of rows."""
        return len(self.data)

    def train_batches(self) -> Iterator[dict[str, Tensor]]:
        """Iterate over the rows, not augmented."""
        return self.data.batches()

    def validation_batches(self) -> Iterator[dict[str, Tensor]]:
        """Iterate over the validation split."""
        return self.cell.validation.batches()

    def members(self, number: int | None) -> list[Self]:
        """Return a context for each member of an ensemble."""
        size = self.cell.options.ensemble_size if number is None else number
        return [self.with_(number=member) for member in range(size)]

    def supplied(self, method: str) -> Teacher | None:
        """Return the user's teacher; folds and members need their own, and so does an arm with its own network."""
        own = self.rows is not None or self.number or self.arm.network_name
        return self.given if self.given is not None and self.given.method == method and not own else None

    def network(self, **settings: Any) -> nn.Module:
        """Return a new network of the arm's architecture, initialized by the member's seed."""
        return self.cell.network(*self._architecture(settings), self.data, self._network_seed)

    def train(
        self, network: nn.Module, optimizer: Optimizer | None = None, callbacks: Sequence[Any] = (), masks: int = 1
    ) -> nn.Module:
        """Train a network on the rows' labels."""
        cell = self.cell
        cell.train_network(
            network,
            self.data,
            name=f"teacher-{self._full_name}",
            seed=self._network_seed,
            epochs=cell.teacher_epochs,
            optimizer=optimizer,
            callbacks=callbacks,
            dropout_masks=masks,
            learning_rate=self.learning_rate,
            teacher_temperature=None,
            kd_lambda=0.0,
        )
        return network

    def keep(self, fit: Callable[[], Teacher], **settings: Any) -> Teacher:
        """Return a teacher from its folder, fitted and saved first if it is not there."""
        cell = self.cell
        folder = cell.folder("teachers", self._full_name)
        if decided_by_main(lambda: not folder.is_dir()):
            teacher = fit()
            decided_by_main(lambda: self._save(teacher, folder))
        if PartialState().is_main_process:  # also those that a run left which was killed once the teacher was saved
            cell.forget_checkpoints(f"teacher-{self._full_name}")
        network = None
        if cell.inputs.plain:
            architecture, settings = self._architecture(settings)
            network = cell.new_network(architecture, settings, cell.train)
        return Teacher.from_pretrained(folder, network).to(cell.args.device)

    def _save(self, teacher: Teacher, folder: Path) -> None:
        with whole_folder(folder) as temporary:
            teacher.save_pretrained(temporary)
            self.cell.inputs.save(temporary)

    def _architecture(self, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        arm, cell = self.arm, self.cell
        if arm.architecture:
            return arm.architecture, arm.architecture_args | settings
        return cell.options.teacher_model, cell.study.teacher_args | arm.architecture_args | settings

    @property
    def _network_seed(self) -> int:
        return 1000 * (self.cell.seed + 1) + self.number

    @property
    def _full_name(self) -> str:
        return "-".join(filter(None, [self.prefix, self.arm.network_name, self.name]))
