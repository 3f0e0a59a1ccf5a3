"""The code that loads a saved network, as its card shows it: without this library wherever that is possible."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import transformers
from torch import nn

from ..likelihoods import Gaussian
from ..utils.files import bare_name
from .calling import unwrapped
from .estimators import EstimatorNetwork
from .perceptron import Perceptron
from .plain_networks import DESCRIPTION, arguments_of, source_file
from .problem_types import stated_problem_type
from .prompted_network import PromptedNetwork
from .rebuilding import difference_when_loaded
from .timm_networks import WEIGHTS, Unknown, is_timm, is_timms_own, timm_config
from .token_networks import classifies_tokens, predicts_next_tokens

PLACE = "PATH_OR_REPOSITORY"
TASKS = {
    "pixel_values": "image-classification",
    "input_ids": "text-classification",
    "input_values": "audio-classification",
    "input_features": "audio-classification",
}
PROCESSORS = {
    "image-classification": "image_processor",
    "text-classification": "tokenizer",
    "token-classification": "tokenizer",
    "text-generation": "tokenizer",
    "audio-classification": "feature_extractor",
}
CALLED = {"text-generation": "generate"}  # a pipeline, if it doesn't classify
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # as the Hub names one
NAMED = 20  # classes, at most, whose names the code lists
AUTOMATIC = (
    "ForImageClassification", "ForSequenceClassification", "ForAudioClassification", "ForTokenClassification",
)  # fmt: skip


class Loading(NamedTuple):
    """How somebody else loads a network: the Hub's name of the library that does it, and the code."""

    library: str
    code: str


def task_of(network: nn.Module) -> str | None:
    """Return the Hub's name of what a classifier does; ``None`` if its inputs don't say."""
    if is_timm(network):
        return "image-classification"
    if isinstance(network, (Perceptron, EstimatorNetwork)):
        regresses = stated_problem_type(network) == Gaussian.problem_type
        return "tabular-regression" if regresses else "tabular-classification"
    if isinstance(network, PromptedNetwork):
        return "text-classification"
    if classifies_tokens(network):
        return "token-classification"
    if predicts_next_tokens(network):
        return "text-generation"
    return TASKS.get(getattr(network, "main_input_name", None) or "")


def loading_of(network: nn.Module, with_processor: bool = False) -> Loading:
    """Say how a network is loaded that was saved as the trainer saves it.

    Args:
        network: the student.
        with_processor: whether its tokenizer, image processor or feature extractor was saved beside it.
    """
    kind = type(network)
    if hasattr(network, "peft_config"):
        return Loading("peft", "\n".join(_adapters(network, with_processor)))
    if difference_when_loaded(network) is not None:
        return Loading("pytorch", _of_any_module(network))
    if isinstance(network, transformers.PreTrainedModel):
        return _of_transformers(network, with_processor)
    if isinstance(network, Perceptron):
        return Loading(
            "hf_bkd", f'from hf_bkd import {kind.__name__}\n\nmodel = {kind.__name__}.from_pretrained("{PLACE}")'
        )
    if is_timm(network):
        try:
            return _of_timm(timm_config(network)["architecture"])
        except Unknown:
            pass  # it is saved as any other module
    return Loading("pytorch", _of_any_module(network))


def _of_timm(architecture: str) -> Loading:
    lines = [
        *_registering(architecture),
        "import timm",
        "from transformers import pipeline",
        "",
        'model = timm.create_model("local-dir:PATH", pretrained=True).eval()  # or "hf-hub:REPOSITORY"',
        f'classify = pipeline("image-classification", "{PLACE}")  # from an image to its classes',
    ]
    return Loading("timm", "\n".join(lines))


def _registering(architecture: str | None) -> list[str]:
    ours = architecture is not None and not is_timms_own(architecture)
    return [f"import hf_bkd  # registers {architecture}"] if ours else []


def _automatic(network: nn.Module) -> str | None:
    """Return the name of the class of transformers that loads a network by its config; ``None`` if none does."""
    kind = type(network)
    own = getattr(transformers, kind.__name__, None) is kind
    if own and predicts_next_tokens(network):
        return "AutoModelForCausalLM"
    return next((f"AutoModel{ending}" for ending in AUTOMATIC if own and kind.__name__.endswith(ending)), None)


def _of_transformers(network: nn.Module, with_processor: bool) -> Loading:
    kind, task = type(network), task_of(network)
    architecture = getattr(network.config, "architecture", None) if hasattr(network, "timm_model") else None
    own, automatic = getattr(transformers, kind.__name__, None) is kind, _automatic(network)
    name = automatic or kind.__name__
    lines = _registering(architecture)
    ready = automatic and task and (with_processor or architecture is not None)
    if own:
        lines.append(f"from transformers import {name}{', pipeline' if ready else ''}")
    else:
        lines.append(_importing(kind))
    lines += ["", f'model = {name}.from_pretrained("{PLACE}")']
    if ready:
        lines.append(f'{CALLED.get(task, "classify")} = pipeline("{task}", "{PLACE}")')
    return Loading("transformers", "\n".join(lines))


def _adapters(network: nn.Module, with_processor: bool) -> list[str]:
    """Return the code that loads adapters of PEFT: transformers loads their network with them, by its name."""
    base, (config, *_) = unwrapped(network), network.peft_config.values()
    name, task = config.base_model_name_or_path, task_of(base)
    automatic = _automatic(base)
    if not name or automatic is None:
        return [
            "from peft import PeftModel",
            "",
            "base = ...  # the model that the adapters were trained on, with as many classes",
            f'model = PeftModel.from_pretrained(base, "{PLACE}")',
        ]
    names = base.config.id2label
    classes = f", id2label={names}" if len(names) <= NAMED else f", num_labels={len(names)}"
    classes = "" if predicts_next_tokens(base) else classes
    lines = [
        f"from transformers import {automatic}{', pipeline' if with_processor else ''}",
        "",
        f"# adapters (pip install peft) of {bare_name(name)}, which is loaded with them",
        f'model = {automatic}.from_pretrained("{PLACE}"{classes})',
    ]
    if with_processor:
        called = CALLED.get(task, "classify")
        lines.append(f'{called} = pipeline("{task}", model=model, {PROCESSORS[task]}="{PLACE}")')
    return lines


def adapters_in_words(network: nn.Module) -> str | None:
    """Say in a few words of which kind and how large a network's adapters are; ``None`` if it has none."""
    configs = getattr(network, "peft_config", None) or {}
    return "; ".join(dict.fromkeys(map(_adapter_in_words, configs.values()))) or None


def _adapter_in_words(config: Any) -> str:
    parts = {"rank": getattr(config, "r", None), "alpha": getattr(config, "lora_alpha", None)}
    sizes = [f"{name} {value}" for name, value in parts.items() if value is not None]
    layers = getattr(config, "target_modules", None) or ()
    layers = [layers] if isinstance(layers, str) else sorted(layers)
    kind = getattr(config.peft_type, "value", config.peft_type)
    return ", ".join([kind, *sizes]) + (f", of {' '.join(layers)}" if layers else "")


def base_on_hub(network: nn.Module) -> str | None:
    """Return the name on the Hub of the model that a network's adapters are of, if it has some and is from there."""
    configs = getattr(network, "peft_config", None) or {}
    names = [config.base_model_name_or_path or "" for config in configs.values()]
    return next((name for name in names if REPOSITORY.fullmatch(name) and not Path(name).exists()), None)


def _of_any_module(network: nn.Module) -> str:
    kind, arguments = type(network), arguments_of(network)
    if is_timm(network):
        arguments = None  # those of its class, which timm calls
    ours = not kind.__module__.startswith(("torch.", "timm.", "transformers."))
    call = None if arguments is None else ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    built = f"{kind.__name__}({call})" if ours and call is not None else "..."
    note = "" if built != "..." else f"  # build the network that {DESCRIPTION} describes"
    lines = [
        "from safetensors.torch import load_file",
        *([_importing(kind)] if ours else []),
        "",
        'folder = "PATH"  # or huggingface_hub.snapshot_download("REPOSITORY")',
        f"model = {built}{note}",
        f'model.load_state_dict(load_file(f"{{folder}}/{WEIGHTS}"))',
        "model.eval()",
    ]
    return "\n".join(lines)


def _importing(kind: type) -> str:
    """Return the line that imports a class, which is in the script itself where its module is ``__main__``."""
    file = source_file(kind)
    module = kind.__module__
    if module == "__main__":
        module = (file or "the_script.py").removesuffix(".py")
    where = f"  # in {file}" if file else ""
    return f"from {module} import {kind.__qualname__.partition('.')[0]}{where}"
