"""Networks of GGUF files, whose weights transformers makes numbers of again, and then neither trains nor saves."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..utils.errors import UserError

MARKS = ("hf_quantizer", "is_quantized", "quantization_method")


def is_of_gguf(network: nn.Module) -> bool:
    """Whether transformers loaded a network from a GGUF file."""
    quantization: Any = getattr(getattr(network, "config", None), "quantization_config", None)
    method = getattr(quantization, "quant_method", None)
    return getattr(method, "value", method) == "gguf"


def forget_gguf(network: nn.Module) -> None:
    """Let a network of a GGUF file be trained and saved as any other, in place; nothing happens to others.

    Raises:
        UserError: its weights are in the file's blocks still.
    """
    if not is_of_gguf(network):
        return
    if any(tensor.dtype in (torch.uint8, torch.int8) for tensor in network.state_dict().values()):
        raise UserError(
            "the weights of this network are in the blocks of its GGUF file, which can be neither trained nor saved: "
            "load it with quantization_config=transformers.GgufConfig(dequantize=True)"
        )
    for name in MARKS:
        vars(network).pop(name, None)
    del network.config.quantization_config


def gguf_remedy(folder: str | Path) -> str:
    """Say how a GGUF file in a folder becomes a network that can be loaded from there; "" if there is none."""
    file = next(iter(sorted(Path(folder).glob("*.gguf"))), None)
    if file is None:
        return ""
    return (
        f" (it holds {file.name}: in Python, save what AutoModelForCausalLM and AutoTokenizer load from it with "
        "gguf_file= in a new folder, by hf_bkd.models.saving.save_network(network, folder) and "
        "tokenizer.save_pretrained(folder), and pass that)"
    )
