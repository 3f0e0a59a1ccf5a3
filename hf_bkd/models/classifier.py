"""Make any timm network an image classifier of transformers."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import timm
import torch
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from ..likelihoods import likelihood_from
from ..utils.checks import check_count
from ..utils.errors import UserError


def create_classifier(
    architecture: str,
    num_labels: int,
    *,
    in_chans: int = 3,
    image_size: int = 32,
    mean: Sequence[float],
    std: Sequence[float],
    label_names: Sequence[str] | None = None,
    problem_type: str | None = None,
    **model_args: Any,
) -> TimmWrapperForImageClassification:
    """Make a timm network a transformers model from ``pixel_values`` to logits [B, C].

    The weights are timm's own initialization, drawn from torch's global generator. (A wrapper built from a config
    alone draws all convolutions from N(0, 0.02^2) and sets the norms that timm starts at 0 to 1.) The folder that
    ``save_pretrained`` writes is read by ``AutoModelForImageClassification`` and ``AutoImageProcessor``.

    Args:
        architecture: any name that timm knows.
        num_labels: C, at least 2, or 1 of another problem than one class for each image.
        in_chans: channels of the images.
        image_size: height and width of the images, so that ``pixel_values`` are [B, in_chans, image_size, image_size].
        mean: one number for each channel, of pixels in [0, 1], by which the image processor normalizes.
        std: likewise.
        label_names: C names.
        problem_type: what the outputs mean, in transformers' words.
        model_args: further arguments of ``timm.create_model`` that JSON can hold, such as ``drop_rate``.

    Raises:
        UserError: unknown architecture, fewer than 2 classes, or a wrong number of names, means or deviations.
    """
    if not timm.is_model(architecture):
        near = ", ".join(get_close_matches(architecture, timm.list_models())) or "see timm.list_models()"
        raise UserError(f"timm has no architecture {architecture!r}; close ones: {near}")
    check_count(likelihood_from(problem_type).least_values, num_labels=num_labels)
    names = [f"LABEL_{index}" for index in range(num_labels)] if label_names is None else list(label_names)
    if len(names) != num_labels:
        raise UserError(f"{len(names)} label names were given for {num_labels} classes")
    if not len(mean) == len(std) == in_chans:
        raise UserError(f"{in_chans} channels need as many means and deviations, not {len(mean)} and {len(std)}")
    model_args = {"in_chans": in_chans, **model_args}
    if getattr(timm.get_pretrained_cfg(architecture), "fixed_input_size", False):
        model_args.setdefault("img_size", image_size)
    images = {"input_size": [in_chans, image_size, image_size], "mean": list(mean), "std": list(std)}
    config = TimmWrapperConfig(
        architecture=architecture,
        model_args=model_args,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type=problem_type,
        pretrained_cfg={**images, "interpolation": "bicubic", "crop_pct": 1.0},
    )
    network = timm.create_model(architecture, num_classes=num_labels, **model_args)
    with torch.device("meta"):  # the wrapper's own network costs nothing, draws nothing and is replaced
        wrapper = TimmWrapperForImageClassification(config)
    wrapper.timm_model = network
    for module in network.modules():
        module._is_hf_initialized = True  # transformers' mark for what it must not initialize
    return wrapper
