"""The base class of all teachers: a network with a distribution over its predictions.

A new kind of teacher subclasses :class:`Teacher`, names its ``method`` and implements ``draw_logits``; if it keeps
more than the network, also ``get_state`` and ``from_state``. Everything else (tempering, moments, saving, the Hub)
stands here once.
"""

import json
from abc import ABC, abstractmethod
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ..hub.transfer import push_folder
from ..likelihoods import CATEGORICAL, Likelihood
from ..models.adapter_bases import digest_of
from ..models.adapters import by_one_name, in_peft_model
from ..models.calling import Inputs, evaluation_mode, to_network, unwrapped
from ..models.class_names import names_of_network
from ..models.heads import num_classes_of
from ..models.problem_types import likelihood_of
from ..models.saving import load_network, save_network
from ..models.variational_layers import spread_names
from ..uncertainty import EntropyParts, entropy_parts
from ..utils.checks import check_choice, check_count, check_positive
from ..utils.errors import UserError
from ..utils.files import temporary_folder
from ..utils.random import ExampleGenerator
from ..utils.seeding import seeded
from .description import Description
from .predictive import Draws, Predictive, predictive_of
from .saving import load, save

TEMPERINGS = ("per_sample", "post_average")


class Teacher(ABC):
    """A network that answers with a distribution over what it predicts: class probabilities, or other values.

    Args:
        network: any module that returns logits, or a regression's numbers: a transformers model, a timm model or a
            plain module.
        temperature: T > 0 of the probabilities that it hands out.
        tempering: ``"per_sample"``: mean_s softmax(z_s / T), or ``"post_average"``: (mean_s softmax(z_s))^(1/T)
            renormalized; the forms that arXiv 2601.01484 uses for its variational and its Laplace teacher.
        likelihood: what the network's outputs mean, or transformers' word for it (``"multi_label_classification"``),
            where the network doesn't say it; see :func:`~hf_bkd.models.problem_types.likelihood_of`.

    ``record``, a dict that JSON can hold, says how the teacher was fitted and, as ``record["validation"]``, how good
    it was on held-out examples. It is saved with the teacher, shown on its card and written into the record of its
    labels; so is ``source``, the folder or repository that the teacher was loaded from. ``processing_class``, the
    tokenizer, image processor or feature extractor by which its network reads a dataset, is what the fit was given or
    the folder held; it can be set, and is saved with the network. Of a function or a transform only the name is: a
    loaded teacher reads no dataset before it is set or passed again.

    Raises:
        UserError: temperature not above 0 and finite, or not 1 for a regression; unknown tempering; a likelihood that
            isn't the network's; or one output, of which nobody says what it means.
    """

    method: ClassVar[str]
    network: nn.Module

    def __init__(
        self,
        network: nn.Module,
        temperature: float = 1.0,
        tempering: str = "post_average",
        likelihood: Likelihood | str | None = None,
    ):
        check_positive(temperature=temperature)
        check_choice(TEMPERINGS, tempering=tempering)
        self.likelihood = likelihood_of(network, likelihood)
        self.likelihood.check_temperature(temperature)
        self.network = in_peft_model(unwrapped(network, keep_adapters=True))
        self.temperature = float(temperature)
        self.tempering = tempering
        self.record: dict[str, Any] = {}
        self.source: dict[str, str] | None = None
        self.processing_class: Any = None

    @property
    def num_classes(self) -> int:
        """Number of values C that the teacher predicts: classes, labels or numbers."""
        return self.likelihood.num_values(num_classes_of(self.network))

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in the order of the answers, as the network has them; ``None`` if it doesn't."""
        names = names_of_network(self.network)
        return names if names is not None and len(names) == self.num_classes else None

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move the teacher to a device, in place, and return it."""
        self.network.to(device)
        return self

    def preprocessor_for(self, dataset: Any, processing_class: Any = None) -> Any:
        """Make the preprocessor by which the teacher reads a dataset.

        Args:
            dataset: a ``datasets.Dataset`` or ``IterableDataset``.
            processing_class: instead of the teacher's own.

        Returns:
            As :func:`hf_bkd.data.preprocessors.preprocessor_for`.
        """
        from ..data.preprocessors import preprocessor_for  # teachers need no datasets to answer

        own = self.processing_class if processing_class is None else processing_class
        return preprocessor_for(self.network, dataset, own)

    @abstractmethod
    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        """Draw logits [S, B, C] from the posterior; S may be 1 where the prediction is a single distribution.

        :meth:`predict` calls it with the network in evaluation mode.
        """

    def draws(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Draws:
        """Draw from the posterior; overridden where draws don't count equally or aren't independent."""
        return Draws(self.draw_logits(inputs, num_samples, generator))

    def num_draws(self, num_samples: int) -> int:
        """Number of independent draws in a prediction that is asked for S: 1 where it is a single distribution."""
        return num_samples

    @torch.no_grad()
    def predict(
        self,
        inputs: Inputs,
        num_samples: int = 10,
        generator: torch.Generator | None = None,
        return_samples: bool = False,
    ) -> Predictive:
        """Predict the values of one batch: class probabilities, or what else the teacher's likelihood says.

        The network is in evaluation mode meanwhile, and then in its own.

        Args:
            inputs: keyword arguments of the network's forward, or its first argument; B examples, on any device.
            num_samples: S >= 1, draws from the posterior; teachers without a posterior ignore it.
            generator: source of the draws' randomness, on any device; torch's global generator if not given.
            return_samples: whether to return the [S, B, C] draws.

        Raises:
            UserError: ``num_samples`` below 1; a network with one output that is to tell classes apart.
        """
        check_count(num_samples=num_samples)
        own = isinstance(generator, ExampleGenerator)  # then what the network draws by itself is the examples' too
        random = seeded(generator.host_seed(), self.device) if own else nullcontext()
        with random, evaluation_mode(self.network):
            drawn = self.draws(to_network(inputs, self.network), num_samples, generator)
        self.likelihood.check_outputs(drawn.logits.shape[-1])
        return predictive_of(drawn, self.temperature, self.tempering, return_samples, self.likelihood)

    def uncertainty(
        self, inputs: Inputs, num_samples: int = 10, generator: torch.Generator | None = None
    ) -> EntropyParts:
        """Split each prediction's entropy [B] by the draws of :meth:`predict`; UserError but of one of C classes.

        A teacher with a single draw has no epistemic part.
        """
        if self.likelihood != CATEGORICAL:
            raise UserError(
                "an entropy is split for one of C classes, and the teacher's problem_type is "
                f"{self.likelihood.problem_type!r}: see the variance and noise that predict returns"
            )
        answer = self.predict(inputs, num_samples, generator, return_samples=True)
        return entropy_parts(answer.samples, answer.weights)

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what the teacher has beside its network: arguments of its constructor as JSON, and tensors."""
        return {}, {}

    @classmethod
    def from_state(cls, network: Any, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Invert :meth:`get_state`; ``settings`` hold temperature and tempering too."""
        return cls(network, **settings)

    def fingerprint(self) -> str:
        """Hash all weights and the posterior, but not the tempering, to 16 hexadecimal digits."""
        settings, tensors = self.get_state()
        said = json.dumps(settings | self._likelihood_as_json(), sort_keys=True)
        return digest_of(self._weights() | tensors, said.encode())

    def describe(self) -> dict[str, Any]:
        """Describe the teacher as JSON, for the record of its labels."""
        settings = self.get_state()[0] | {"temperature": self.temperature, "tempering": self.tempering}
        facts = {"method": self.method, "num_classes": self.num_classes, **settings, "weights": self.fingerprint()}
        return facts | self._likelihood_as_json() | ({"record": self.record} if self.record else {})

    def save_pretrained(self, folder: str | Path, *, license: str | None = None) -> None:
        """Write ``teacher.json``, ``posterior.safetensors``, ``network/`` (no pickle) and a card.

        A folder that exists keeps what is not a saved teacher's: its other files, and a ``README.md`` of its own. The
        description is written last, with the digests of the other files: what a reader loads is the older teacher or
        this one, and never a mixture.

        Args:
            folder: made if need be.
            license: the Hub's name of the license that the card gives the teacher, such as ``"mit"``; none if not
                given.

        Raises:
            UserError: the folder has a ``teacher.json`` of something else, or a file where a folder has to be, or it
                can't be written.
        """
        save(self, Path(folder), license)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, network: nn.Module | None = None, revision: str | None = None
    ) -> Self:
        """Load a teacher saved by :meth:`save_pretrained`, from a folder or the Hub, without running saved code.

        Args:
            name_or_path: folder, or repository on the Hub.
            network: a module to load the weights into, built as the saved one was; needed only for a network whose
                class transformers does not have. An ensemble's members get a copy each. Of adapters of a language
                model, their base model, which all members share; by its name if not given.
            revision: branch, tag or commit on the Hub.

        Returns:
            The teacher that was saved, which must be an instance of the class that this is called on.

        Raises:
            UserError: no teacher there, another kind of teacher, damaged files, or weights of another network.
        """
        return load(cls, Teacher, name_or_path, network, revision)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, license: str | None = None
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hub, and return the repository's address."""
        with temporary_folder() as folder:
            self.save_pretrained(folder / "teacher", license=license)
            return push_folder(folder / "teacher", repo_id, private=private, token=token)

    def _likelihood_as_json(self) -> dict[str, Any]:
        """Return nothing for one of C classes, as older records say of it."""
        return {} if self.likelihood == CATEGORICAL else self.likelihood.as_json()

    def _weights(self) -> dict[str, Tensor]:
        spread = spread_names(self.network)
        weights = {name: value for name, value in self.network.state_dict().items() if name not in spread}
        return by_one_name(self.network, weights)

    def _save_networks(self, folder: Path) -> None:
        save_network(self.network, folder / "network", without=spread_names(self.network))

    @classmethod
    def _load_networks(cls, folder: Path, network: nn.Module | None) -> Any:
        return load_network(folder / "network", network)

    def _save_processing_class(self, folder: Path) -> None:
        from ..data.preprocessors.saved import processor_of, save_processor

        own = self.processing_class
        save_processor(processor_of(self.network) if own is None else own, folder / "network")

    def _reading(self) -> dict[str, Any]:
        """Describe what of the teacher's reading has no files: the order of columns, a function that isn't saved."""
        from ..data.preprocessors import order_of_columns
        from ..data.preprocessors.saved import NotSaved

        place, columns = NotSaved.of(self.processing_class, self.network), order_of_columns(self.network)
        return ({} if place is None else {"reads_by": place.name}) | ({"columns": list(columns)} if columns else {})

    def _load_processing_class(self, folder: Path, description: Description) -> None:
        from ..data.preprocessors import set_order_of_columns
        from ..data.preprocessors.saved import NotSaved, processor_beside, processor_of

        beside = processor_beside(self.network, folder / "network", folder)
        if beside is None and description.base is not None:
            beside = processor_of(self.network)
        self.processing_class = beside if description.reads_by is None else NotSaved(description.reads_by)
        set_order_of_columns(self.network, description.columns)
