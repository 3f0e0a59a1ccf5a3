"""What the networks of a study read (images, texts, features): rows as their inputs, and which networks there are."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from textwrap import shorten
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from ..data.augmentations import CropAndFlip
from ..data.labels import read_labels
from ..data.preprocessing import ImagePreprocessor
from ..data.preprocessors import preprocessor_for
from ..data.preprocessors.saved import TOKENIZER_FILES, saved_processor
from ..data.views import Views
from ..hub.transfer import local_folder
from ..likelihoods import Categorical, Gaussian, likelihood_from
from ..models.classifier import create_classifier
from ..models.perceptron import Perceptron
from ..soft_labels.identity import content_column, dataset_ids
from ..training.batched_dataset import BatchedDataset
from ..utils.errors import UserError

ALL_LAYERS = "all-layers"


class Images:
    """Images of one size; networks are timm's, and start from random weights.

    Args:
        mean, std: of the channels, on the scale of [0, 1].
        augment: whether networks are trained on random crops and flips.
        problem_type: see :class:`Vectors`.
    """

    column, task, plain = "image", "image-classification", False

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        augment: bool = False,
        problem_type: str = Categorical.problem_type,
    ):
        self.mean, self.std, self.augment, self.problem_type = mean, std, augment, problem_type
        self.preprocess = ImagePreprocessor(mean, std)

    def views(self, seed: int, number: int | None = None) -> Views | None:
        """The augmented views that networks see, if they do; a new one each epoch if their number is not given."""
        return Views(CropAndFlip(), num_views=number, seed=seed) if self.augment else None

    def batched(
        self, dataset: datasets.Dataset, views: Views | None, device: torch.device, progress: bool
    ) -> BatchedDataset:
        """The rows as training and evaluation read them."""
        about = {"progress": progress, "problem_type": self.problem_type}
        return BatchedDataset.from_images(dataset, self.preprocess, views, device, **about)

    def network(self, architecture: str, classes: list[str], train: BatchedDataset, **settings: Any) -> nn.Module:
        """A new network for the images of ``train``; ``settings`` are those of ``create_classifier``."""
        shown = {"in_chans": len(self.mean), "image_size": train.values["pixel_values"].shape[-1]}
        shown |= {"mean": self.mean, "std": self.std, "label_names": classes}
        shown |= _stated(self.problem_type)
        return create_classifier(architecture, len(classes), **shown, **settings)

    def save(self, folder: Path) -> None:
        """Nothing: a network's config says how it reads images."""


class Texts:
    """Texts; networks are a pretrained encoder, or some of its layers, with a new head.

    Args:
        weights: the encoder with its tokenizer, such as BERT: folder or name on the Hub.
        problem_type: see :class:`Vectors`. Classes of each token are for the trainer and the commands alone.

    Raises:
        UserError: they can't be loaded.
    """

    column, task, plain = "text", "text-classification", False

    def __init__(self, weights: str, problem_type: str = Categorical.problem_type):
        self.folder, self.problem_type = local_folder(weights), problem_type
        with _loading(self.folder), torch.device("meta"):
            self.config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
            network = AutoModelForSequenceClassification.from_config(self.config)
        tokenizer = saved_processor("text", self.folder)
        if tokenizer is None:
            raise UserError(f"{self.folder} holds no tokenizer ({TOKENIZER_FILES[0]}): put the files of its own there")
        features = datasets.Features({self.column: datasets.Value("string")})
        self.preprocess = preprocessor_for(network, datasets.Dataset.from_dict({self.column: []}, features), tokenizer)

    def views(self, seed: int, number: int | None = None) -> None:
        """Texts are not augmented."""

    def batched(
        self, dataset: datasets.Dataset, views: Views | None, device: torch.device, progress: bool
    ) -> BatchedDataset:
        """The rows as training and evaluation read them."""
        return BatchedDataset.from_texts(dataset, self.preprocess, device, self.problem_type)

    def network(
        self,
        architecture: str,
        classes: list[str],
        train: BatchedDataset,
        start: nn.Module | None = None,
        frozen_embeddings: bool = False,
        **settings: Any,
    ) -> nn.Module:
        """A new classifier with the encoder's layers, or some of them.

        Args:
            architecture: ``"all-layers"``, or ``"layers-1-4"`` for the first and the fourth, and so on.
            classes: C names.
            train: unused.
            start: a trained classifier whose layers these are, and whose weights it starts from; the pretrained
                encoder with a new head if not given.
            frozen_embeddings: leave those of words as they are: a small dataset has few of all words.
            settings: of its config.

        Raises:
            UserError: no such layers, or weights that can't be loaded.
        """
        network = self._pretrained(classes, settings) if start is None else deepcopy(start)
        _keep_layers(network, architecture)
        network.get_input_embeddings().requires_grad_(not frozen_embeddings)
        return network

    def _pretrained(self, classes: list[str], settings: dict[str, Any]) -> nn.Module:
        names = {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}
        settings = {"num_labels": len(classes), **names, **_stated(self.problem_type), **settings}
        with _loading(self.folder):
            return AutoModelForSequenceClassification.from_pretrained(
                self.folder, use_safetensors=True, trust_remote_code=False, **settings
            )

    def save(self, folder: Path) -> None:
        """The tokenizer, beside a network that needs it."""
        self.preprocess.save(folder)


def _keep_layers(network: nn.Module, architecture: str) -> None:
    """Remove the layers of an encoder that its architecture doesn't name; UserError if it names others."""
    if architecture == ALL_LAYERS:
        return
    depth = network.config.num_hidden_layers
    named = re.fullmatch(r"layers((?:-\d+)+)", architecture)
    chosen = [int(number) for number in named[1].split("-")[1:]] if named else []
    if not chosen or chosen != sorted(set(chosen)) or chosen[0] < 1 or chosen[-1] > depth:
        raise UserError(
            f"there is no network {architecture!r} of texts: it must be {ALL_LAYERS}, or such as layers-1-2, with "
            f"rising numbers from 1 to {depth}"
        )
    layers = next(each for each in network.modules() if isinstance(each, nn.ModuleList) and len(each) == depth)
    for number in range(depth, 0, -1):
        if number not in chosen:
            del layers[number - 1]
    network.config.num_hidden_layers = len(chosen)


class Vectors:
    """Features [N, d] that were computed once; networks are perceptrons, ``mlp-128-64`` by their hidden widths.

    Such networks are ``plain`` modules: they have to be built before their weights can be loaded.

    Args:
        problem_type: what networks predict, in transformers' words. Labels of ``"multi_label_classification"`` are
            lists of `datasets.ClassLabel` or of zeros and ones, those of ``"regression"`` numbers or lists of them.
    """

    column, plain = "features", True

    def __init__(self, problem_type: str = Categorical.problem_type):
        self.problem_type = problem_type
        is_regression = problem_type == Gaussian.problem_type
        self.task = "tabular-regression" if is_regression else "tabular-classification"

    def preprocess(self, rows: dict[str, list]) -> dict[str, Tensor]:
        """The column ``features`` of some rows, [B, d]."""
        return {self.column: torch.tensor(rows[self.column], dtype=torch.float32)}

    def views(self, seed: int, number: int | None = None) -> None:
        """Features are not augmented."""

    def batched(
        self, dataset: datasets.Dataset, views: Views | None, device: torch.device, progress: bool
    ) -> BatchedDataset:
        """The rows as training and evaluation read them, recognized by their content column, or else by features."""
        rows, content = dataset.with_format(None), content_column(dataset.features) or self.column
        labels = read_labels(rows, "label", likelihood_from(self.problem_type))(rows["label"][:])
        values = self.preprocess({self.column: rows[self.column][:]}) | {"labels": labels}
        values = {name: value.to(device) for name, value in values.items()}
        return BatchedDataset(values, example_ids=dataset_ids(dataset, content))

    def network(self, architecture: str, classes: list[str], train: BatchedDataset, **settings: Any) -> nn.Module:
        """A new perceptron, on the scale of ``train``; ``settings`` are its further arguments.

        Raises:
            UserError: ``architecture`` is no such name.
        """
        named = re.fullmatch(r"mlp((?:-\d+)*)", architecture)
        if not named:
            raise UserError(f"there is no network {architecture!r} of features: it must be such as mlp-128-64")
        hidden = [int(width) for width in named[1].split("-")[1:]]
        features = train.values[self.column]
        network = Perceptron(features.shape[1], len(classes), hidden, **settings)
        network.standardize(features)
        if self.problem_type != Categorical.problem_type:
            network.problem_type = self.problem_type
        return network

    def save(self, folder: Path) -> None:
        """Nothing: a perceptron knows the scale of its features."""


def _stated(problem_type: str) -> dict[str, str]:
    """Return what a network's config says of its problem, which goes without saying of one class."""
    return {} if problem_type == Categorical.problem_type else {"problem_type": problem_type}


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # transformers and safetensors each have their own
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"no classifier of texts can be made from the weights in {folder} ({reason})") from error
