"""The context of `hf-bkd teacher fit` in which networks are trained on the dataset alone."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import set_seed

from ..data.preprocessing import ImagePreprocessor
from ..data.preprocessors import MODES
from ..training.arguments import DistillationTrainingArguments
from ..training.batched_dataset import BatchedDataset
from ..training.saving import name_problem
from .architectures import ImageShape, StandIn, image_shapes, new_image_network, new_perceptron, reads_features
from .examples import Examples, reader_of
from .fitting import CommandLineFitting
from .label_columns import outputs_of
from .networks import load_for_classes, processor_of, saved_kind


class NewNetworks(CommandLineFitting):
    """Networks that are trained on the dataset alone: architectures, and pretrained encoders with a new head.

    Raises:
        UserError: an architecture that can't be built for the data.
    """

    def __init__(self, options: Any, args: DistillationTrainingArguments):
        super().__init__(options, args)
        name = options.model[0]
        if not options.from_scratch:
            self._of_encoder(saved_kind(name))
        elif reads_features(name):
            self._of_features()
        else:
            self._of_images(name)

    @property
    def _outputs(self) -> list[str]:
        """The names of what new networks put out."""
        return outputs_of(self.examples.classes, self.examples.problem, self.options.predict_variance)

    def _of_encoder(self, kind: str) -> None:
        """Prepare for a pretrained network without a head for classes."""
        name = self.options.model[0]
        self.processing_class = processor_of(name, kind)
        self.examples = Examples(self.options, StandIn(name, kind), None)
        classes, problem = self._outputs, self.examples.problem
        self._build = lambda model: load_for_classes(model, kind, classes, len(classes), problem=problem)
        self._reads = self.network()
        self.reader = reader_of(self._reads, self.examples.validation, self.processing_class)

    def _of_features(self) -> None:
        """Prepare for perceptrons, on the scale of the training examples."""
        self.examples = Examples(self.options, StandIn(self.options.model[0], "features"), None)
        rows, classes = self.examples.train, self._outputs
        columns = [name for name in rows.column_names if name != "label"]
        self._build = lambda model, **settings: new_perceptron(model, classes, rows, columns, **settings)
        self._reads = self.network()
        self.reader = reader_of(self._reads, self.examples.validation)

    def _of_images(self, architecture: str) -> None:
        """Prepare for images: as they are if all have one shape, or else as the architecture wants them."""
        self.examples = Examples(self.options, StandIn(architecture, "image"), None)
        rows, classes, size = self.examples.train, self._outputs, self.options.image_size
        shapes = image_shapes(rows) | image_shapes(self.examples.validation)
        ((mode, height, width), *others) = shapes
        if not others and mode in MODES.values() and height == width and size in (None, height):
            problem_type, progress = self.examples.problem.likelihood.problem_type, not self.args.disable_tqdm
            decoded = BatchedDataset.from_images(
                rows, None, device=self.args.device, progress=progress, problem_type=problem_type
            )
            mean, std = _channel_statistics(decoded.values["pixel_values"])
            decoded.preprocessor = ImagePreprocessor(mean, std)
            self._training_examples = decoded
            shape = ImageShape(len(mean), height, mean, std, {})
        else:
            shape = ImageShape.of_architecture(
                architecture, size, 1 if {each[0] for each in shapes} <= {"L", "1"} else 3
            )
        likelihood = self.examples.problem.likelihood
        self._build = lambda model, **settings: new_image_network(model, classes, shape, likelihood, **settings)
        for member in self.members(None):  # one that can't be built is refused at once
            self._reads = member.network()
        self.reader = reader_of(self._reads, self.examples.validation)

    def supplied(self, method: str) -> None:
        """Return nothing: all teachers are new."""

    def network(self, **settings: Any) -> nn.Module:
        """Return a new network of the member's architecture, initialized by its seed."""
        models = self.options.model
        name = models[self.number] if len(models) > 1 else models[0]
        set_seed(self.args.seed + self.number)
        network, likelihood = self._build(name, **settings), self.examples.problem.likelihood
        if likelihood.independent:
            name_problem(network, likelihood.problem_type)
        return network.to(self.args.device)


def _channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images [N, C, H, W], on the scale of [0, 1]."""
    levels = torch.arange(256, dtype=torch.float64, device=images.device) / 255
    shares = [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]
    shares = [counts / counts.sum() for counts in shares]
    means = [(share * levels).sum().item() for share in shares]
    variances = [(share * (levels - mean).square()).sum().item() for share, mean in zip(shares, means, strict=True)]
    return tuple(round(mean, 4) for mean in means), tuple(round(variance**0.5, 4) for variance in variances)
