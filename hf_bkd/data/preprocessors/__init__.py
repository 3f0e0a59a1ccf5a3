"""A network knows its own preprocessing: rows of any dataset become the inputs that it was made for.

:func:`preprocessor_for` is what labeling, fitting, training and the command line ask; each kind of input has a file.
"""

from typing import Any
from weakref import WeakKeyDictionary

import datasets
import torch
from torch import nn

from ...models.calling import unwrapped
from ...models.class_names import names_of_network, predicts_variances
from ...models.estimators import EstimatorNetwork
from ...models.heads import num_classes_of
from ...models.prompted_network import PromptedNetwork
from ...models.token_networks import check_no_other_language_model, predicts_next_tokens
from ...utils.errors import UserError
from ..preprocessing import ImagePreprocessor
from .audio import audio_preprocessor
from .base import Preprocessor, called, several
from .content import INPUT_NAMES, Content, columns_as_inputs, holds_words, ready_columns
from .features import feature_preprocessor
from .functions import function_preprocessor
from .images import MODES, image_preprocessor
from .next_tokens import next_token_preprocessor
from .prompts import prompt_preprocessor
from .saved import NAMES, SOURCES, NotSaved, folders_of, network_kind, saved_processor
from .tables import table_preprocessor
from .texts import text_preprocessor, warn_of_another
from .tokens import check_tokens, some_rows, token_preprocessor
from .word_labels import tokenizer_hash

__all__ = [
    "MODES",
    "Preprocessor",
    "called",
    "class_names",
    "columns_as_inputs",
    "order_of_columns",
    "preprocessor_for",
    "ready_columns",
    "set_order_of_columns",
    "several",
    "tokenizer_hash",
    "tokenizer_of",
]

_READ: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()  # columns of numbers, in their order
AnyDataset = datasets.Dataset | datasets.IterableDataset
ANOTHER_RESIZE = 0.1  # mean difference of pixels, in standard deviations, that another interpolation makes at most
READS = {"image": "images", "text": "texts", "audio": "sound", "features": "numbers"}


def preprocessor_for(network: nn.Module, dataset: AnyDataset, processing_class: Any = None) -> Preprocessor | None:
    """Make the preprocessor by which a network reads a dataset.

    Args:
        network: a model of transformers, one of timm (plain or in transformers' wrapper), or any module.
        dataset: its features say which columns are images, texts, sound and numbers. Labels, soft labels and columns
            called ``id`` or ``idx`` are never read. Of texts it is the only column, or the one called ``text`` or
            ``sentence``, or a pair such as ``premise`` and ``hypothesis``; a network of tokens reads lists of words,
            such as ``tokens``, where there are some.
        processing_class: a tokenizer, image processor, feature extractor or processor of transformers; a transform of
            one image (torchvision's or timm's); an :class:`~hf_bkd.ImagePreprocessor`; or any function from rows
            (column name -> list) to inputs. If not given, what lies beside the network's weights, or timm's data
            configuration of the network.

    Returns:
        The preprocessor; ``None`` where the columns are the network's inputs already (``input_ids``, ``pixel_values``,
        other names of its arguments, one column of equally long lists of numbers) or the dataset has a transform.

    Raises:
        UserError: nothing says how rows become inputs, no column that the network could read, several and nothing that
            says which, or a ``processing_class`` for another kind of input than the network's, or one that was not
            saved with a teacher.
    """
    if isinstance(processing_class, Preprocessor):
        return processing_class
    if isinstance(processing_class, NotSaved):
        processing_class.refuse(unwrapped(network))
    network, given = unwrapped(network), _kind_of_processor(processing_class)
    if given == "function" or isinstance(processing_class, ImagePreprocessor):
        return function_preprocessor(processing_class, dataset)
    check_no_other_language_model(network)
    content = Content.of(dataset)
    if content.has_transform:
        return None
    if isinstance(network, EstimatorNetwork):
        table = table_preprocessor(network, dataset, _READ.get(network, ()))
        _READ[network] = table.columns
        return table
    if isinstance(network, PromptedNetwork):
        return prompt_preprocessor(network, dataset, _part(processing_class, "text"))
    if getattr(network, "feature_names", None):
        return feature_preprocessor(network, content.named(network.feature_names))
    if predicts_next_tokens(network):
        return next_token_preprocessor(network, content, tokenizer_of(network, processing_class))
    kind = network_kind(network)
    if given not in (None, "any") and kind not in (None, given):
        raise UserError(
            f"{type(network).__name__} reads {READS[kind]}, and the {type(processing_class).__name__} that was passed "
            f"reads {READS[given]}: pass the network's own"
        )
    kind = kind or (None if given == "any" else given)
    ready = ready_columns(network, dataset, kind)
    if ready is not None:
        ragged = content.ragged(ready)
        check_ready(network, dataset, processing_class)
        if "input_ids" in ragged:
            return token_preprocessor(network, ready, tokenizer_of(network, processing_class))
        if not ragged or set(ready) & set(INPUT_NAMES):
            return None
    return _made(kind or content.only_kind(network), network, content, processing_class)


def check_ready(network: nn.Module, dataset: AnyDataset, processing_class: Any = None) -> None:
    """Refuse columns that are a network's inputs as they are, and that another tokenizer or image processor made.

    Arguments as for :func:`preprocessor_for`; see :func:`~hf_bkd.data.preprocessors.tokens.check_tokens`. Images that
    stand beside ready ``pixel_values`` are prepared by the network's own processor, where it is known, and compared.
    """
    network, content = unwrapped(network), Content.of(dataset)
    ready = ready_columns(network, dataset) or ()
    if "pixel_values" in ready and content.of_kind("image") and network_kind(network) == "image":
        _check_pictures(network, content, processing_class)
    whole = [name for name in ready if content.may_be_tokens(name)]
    of_its_own = len(whole) == 1 and whole[0] not in INPUT_NAMES and network_kind(network) in (None, "text")
    column = "input_ids" if "input_ids" in whole else whole[0] if of_its_own else None
    if column is not None:
        tokenizer = tokenizer_of(network, processing_class) if content.of_kind("text") else None
        check_tokens(network, content, column, tokenizer)


def _check_pictures(network: nn.Module, content: Content, processing_class: Any) -> None:
    try:
        own = _made("image", network, content, processing_class)
    except UserError:  # nothing says how, so that nothing can be compared
        return
    (column,) = own.columns
    for number, row in some_rows(content, "pixel_values", [column]).items():
        try:
            expected = own({column: [row[column]]})["pixel_values"][0]
        except UserError:  # an image that can't be read, and isn't
            continue
        ready = torch.as_tensor(row["pixel_values"], dtype=torch.float32)
        if ready.shape != expected.shape or (ready - expected).abs().mean() > ANOTHER_RESIZE:
            raise UserError(
                f"row {number} of column pixel_values holds something else {list(ready.shape)} than the preprocessing "
                f"of {type(network).__name__} makes of its {column} {list(expected.shape)}: pass "
                "dataset.remove_columns('pixel_values'), so that the images are read, or, if they are right, "
                f"dataset.remove_columns({column!r})"
            )


def tokenizer_of(network: nn.Module, processing_class: Any = None) -> Any:
    """Return the tokenizer that was passed, itself or in a processor, or lies beside a network's weights."""
    own = _part(processing_class, "text") if _kind_of_processor(processing_class) in ("text", "any") else None
    return saved_processor("text", *folders_of(network)) if own is None else own


def _made(kind: str, network: nn.Module, content: Content, processing_class: Any = None) -> Preprocessor:
    """Make the preprocessor of a kind of input."""
    columns = content.columns(kind, network)
    processor = _part(processing_class, kind)
    if processor is None and kind in SOURCES:
        processor = saved_processor(kind, *folders_of(network))
    elif kind == "text":
        warn_of_another(network, processor, saved_processor(kind, *folders_of(network)))
    if kind == "text":
        return text_preprocessor(network, columns, processor, holds_words(content.features[columns[0]]))
    if kind == "image":
        return image_preprocessor(network, columns, processor)
    if kind == "audio":
        return audio_preprocessor(network, columns, processor)
    if set(_READ.get(network, ())) == set(columns):
        columns = _READ[network]  # as the network read them first, in whatever order another dataset has them
    _READ[network] = columns
    return feature_preprocessor(network, columns)


def order_of_columns(network: nn.Module) -> tuple[str, ...]:
    """Return the columns of numbers that a network read side by side, in their order; none if it did not."""
    return _READ.get(unwrapped(network), ())


def set_order_of_columns(network: nn.Module, columns: tuple[str, ...]) -> None:
    """Let a network read columns of these names in this order, whatever order a dataset has them in."""
    if columns:
        _READ[unwrapped(network)] = columns


def _kind_of_processor(processor: Any) -> str | None:
    """Return what a processor reads, ``"any"`` if it has several parts, ``"function"`` if it is a function of rows."""
    if processor is None:
        return None
    if isinstance(processor, ImagePreprocessor):
        return "image"
    import transformers
    from transformers.image_processing_base import ImageProcessingMixin

    kinds = {
        transformers.PreTrainedTokenizerBase: "text",
        ImageProcessingMixin: "image",
        transformers.FeatureExtractionMixin: "audio",
        transformers.ProcessorMixin: "any",
    }
    kind = next((kind for each, kind in kinds.items() if isinstance(processor, each)), None)
    if kind is None and type(processor).__module__.startswith(("torchvision.", "timm.")):
        return "image"
    if kind is None and not callable(processor):
        raise UserError(
            f"processing_class is a {type(processor).__name__}: pass a tokenizer, an image processor, a feature "
            "extractor, a torchvision transform, or a function from rows to inputs"
        )
    return kind or "function"


def _part(processor: Any, kind: str) -> Any:
    """Return the part of a processor that reads a kind of input, or the processor itself."""
    if _kind_of_processor(processor) != "any":
        return processor
    part = getattr(processor, NAMES.get(kind, "").replace(" ", "_"), None)
    if part is None:
        raise UserError(f"the {type(processor).__name__} that was passed has nothing that reads {READS[kind]}")
    return part


def class_names(network: nn.Module) -> list[str]:
    """Return the names of a network's classes, or numbers, in order; ``LABEL_0`` and so on where it has none."""
    names, number = names_of_network(network), num_classes_of(network)
    if isinstance(network, EstimatorNetwork):
        names = network.known_names  # "0" and "1" are names to an estimator of strings
    if predicts_variances(network):
        number //= 2
    return names if names is not None and len(names) == number else [f"LABEL_{each}" for each in range(number)]
