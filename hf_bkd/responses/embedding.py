"""Answers as points: their embeddings by any sentence encoder, and the mean and variance of those to a prompt."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch import Tensor, nn

from ..data.preprocessors.texts import check_vocabulary, longest_text
from ..models.calling import evaluation_mode
from ..theory import average_responses, variance_components
from ..utils.checks import check_count
from ..utils.errors import UserError
from .record import DRAWS, RESPONSES, read_responses_record

Encoder = Callable[[list[str]], Any]  # texts -> [N, D], a tensor or an array
LONGEST = 512  # tokens of a text, where neither encoder nor tokenizer says less


class EmbeddingEstimates(NamedTuple):
    """The embeddings of k answers to each of N prompts, in float64.

    embeddings: [N, k, D]. mean: over the answers [N, D].
    variance: *of this mean* [N], the average over the D dimensions (ddof 1); ``None`` if it is unknown, with k = 1 or
        where a prompt's answers all come from one of several draws of the teacher's weights.
        Divided by nothing: it is that of an answer / k already, or that between the draws of the teacher's weights / S
        where several answers come from one.
    between, within: the variance of an answer [N], averaged over the dimensions, between draws of the teacher's
        weights (epistemic, without bias and so perhaps below 0) and within them (aleatoric); ``None`` where they can't
        be told apart. Answers of a single draw have the second alone.
    """

    embeddings: Tensor
    mean: Tensor
    variance: Tensor | None
    between: Tensor | None
    within: Tensor | None


def sentence_encoder(
    model: nn.Module, tokenizer: Any, batch_size: int = 64, max_length: int | None = None, normalize: bool = True
) -> Encoder:
    """Make an encoder of texts from a transformers encoder, by the mean of its last hidden states over the tokens.

    Args:
        model: such as ``AutoModel.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")`` loads.
        tokenizer: its own.
        batch_size: texts a batch.
        max_length: tokens after which texts are cut; what the model and its tokenizer take, at most 512, if not given.
        normalize: whether embeddings have length 1, as those of that model do.

    Returns:
        A function from N texts to a tensor [N, D], float32.

    Raises:
        UserError: a number below 1, a maximum that is more than the model reads, another model's tokenizer, or a
            model that has a decoder or, when it is called, returns no hidden states.
    """
    check_count(batch_size=batch_size)
    limit = longest_text(model, tokenizer)
    if max_length is not None:
        check_count(max_length=max_length)
        if limit is not None and max_length > limit:
            raise UserError(f"max_length is {max_length}, and {type(model).__name__} reads {limit} tokens: pass less")
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False) and model.get_encoder() is not model:
        raise UserError(f"{type(model).__name__} has a decoder too: pass model.get_encoder()")
    check_vocabulary(model, tokenizer)
    longest = max_length or min(LONGEST, limit or LONGEST)
    if tokenizer.pad_token is None:  # which the mask hides, so that any will do
        tokenizer = deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)

    @torch.no_grad()
    def encode(texts: list[str]) -> Tensor:
        order = np.argsort([len(text) for text in texts], kind="stable")  # texts of like lengths need little padding
        parts = []
        with evaluation_mode(model):
            for first in range(0, len(texts), batch_size):
                batch = [texts[place] for place in order[first : first + batch_size]]
                inputs = tokenizer(
                    batch, padding=True, truncation=True, max_length=longest, return_tensors="pt", padding_side="right"
                ).to(next(model.parameters()).device)
                mask = inputs["attention_mask"][..., None].float()
                states = getattr(model(**inputs), "last_hidden_state", None)
                if states is None:
                    raise UserError(
                        f"{type(model).__name__} returns no last_hidden_state: pass what AutoModel.from_pretrained "
                        "loads, a network without a head"
                    )
                states = states.float()
                parts.append(((states * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)).cpu())
        embeddings = torch.cat(parts)[torch.from_numpy(np.argsort(order))]
        return nn.functional.normalize(embeddings, dim=-1) if normalize else embeddings

    return encode


def embedding_estimates(
    dataset: datasets.Dataset,
    encoder: Encoder,
    variance: float | None = None,
    responses: Sequence[int] | None = None,
) -> EmbeddingEstimates:
    """Embed the answers of :func:`~hf_bkd.generate_responses`, and estimate each prompt's mean and its variance.

    Args:
        dataset: with N rows of k answers.
        encoder: a function from texts to embeddings [n, D], as :func:`~hf_bkd.sentence_encoder` makes one, or an
            object with such a method ``encode``. Each text is embedded once.
        variance: of one answer, averaged over the dimensions, above 0, if it is known; estimated if not given.
        responses: numbers, 0 .. k - 1, of the answers that count; all if not given.

    Raises:
        UserError: no answers, numbers of answers that aren't there, embeddings of another number or that aren't
            finite, or a known variance of answers that are not independent.
    """
    numbers = chosen_numbers(dataset, responses)
    rows = dataset.with_format(None)
    if not len(rows):
        raise UserError("there are no answers, the dataset is empty: take the rows that generate_responses returned")
    texts = [[row[number] for number in numbers] for row in rows[RESPONSES]]
    draws = torch.tensor([[row[number] for number in numbers] for row in rows[DRAWS]])
    embeddings = _embedded([text for row in texts for text in row], encoder).reshape(len(texts), len(numbers), -1)
    counts = (
        [own.unique(return_counts=True)[1] for own in draws] if read_responses_record(dataset).num_samples > 1 else []
    )
    if variance is not None and any(each.max() > 1 for each in counts):
        raise UserError(
            "variance= is that of independent answers, and several of these come from one draw of the teacher's "
            "weights: omit it, or pass responses= with the numbers of answers of different draws"
        )
    known = variance is not None or (len(numbers) > 1 and all(len(each) > 1 for each in counts))
    parts = [_components(*each) for each in zip(embeddings, draws, strict=True)]
    return EmbeddingEstimates(
        embeddings,
        embeddings.mean(dim=1),
        torch.stack([_variance(*each, variance) for each in zip(embeddings, draws, strict=True)]) if known else None,
        *(None if None in each else torch.stack(each) for each in zip(*parts, strict=True)),
    )


def chosen_numbers(dataset: datasets.Dataset, responses: Sequence[int] | None) -> list[int]:
    """Return the numbers of the answers that count; UserError for none, repeated ones, or any that aren't there."""
    k = read_responses_record(dataset).k
    for row, answers in enumerate(dataset.with_format(None)[RESPONSES]):
        if answers is None or len(answers) != k or None in answers:
            raise UserError(
                f"row {row} of column {RESPONSES} has {len(answers or ())} answers, and the record says {k} to each "
                "prompt: keep all, and pass responses= with the numbers of those that count, or leave whole rows out"
            )
    numbers = np.arange(k) if responses is None else np.asarray(responses)
    whole = numbers.ndim == 1 and numbers.dtype.kind in "iu" and len(numbers) > 0
    if not whole or len(set(numbers.tolist())) < len(numbers) or not set(numbers.tolist()) <= set(range(k)):
        raise UserError(
            f"responses must be numbers of answers, each once, and it is {responses}: there are {k}, numbered from 0 "
            f"to {k - 1}"
        )
    return numbers.tolist()


def _embedded(texts: list[str], encoder: Encoder) -> Tensor:
    encode = encoder if isinstance(encoder, str) else getattr(encoder, "encode", encoder)
    if not callable(encode) or isinstance(encode, nn.Module) or hasattr(encoder, "convert_ids_to_tokens"):
        raise UserError(
            f"encoder is a {type(encoder).__name__}, and has to be a function from texts to embeddings: pass "
            "hf_bkd.sentence_encoder(model, tokenizer)"
        )
    distinct = list(dict.fromkeys(texts))
    made = encode(distinct)
    if isinstance(made, (list, tuple)) and made and all(isinstance(each, Tensor) for each in made):
        made = torch.stack([each.detach().cpu() for each in made])
    try:
        made = made if isinstance(made, Tensor) else torch.as_tensor(np.asarray(made, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the encoder returned no array of numbers ({error}): pass a function of a list of texts"
        ) from error
    if made.ndim != 2 or len(made) != len(distinct):
        raise UserError(
            f"the encoder returned {list(made.shape)} for {len(distinct)} texts, and embeddings are [texts, "
            "dimensions]: pass a function of a list of texts"
        )
    if not made.isfinite().all():
        raise UserError("the encoder returned embeddings that are no finite numbers: see which texts it can't read")
    places = {text: place for place, text in enumerate(distinct)}
    return made.detach().cpu().double()[[places[text] for text in texts]]


def _variance(embeddings: Tensor, draws: Tensor, variance: float | None) -> Tensor:
    return average_responses(embeddings, variance, draws).variance.mean()


def _components(embeddings: Tensor, draws: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Average the variance between and within the draws of the weights over the dimensions, where it is known."""
    number = len(draws.unique())
    if 1 < number < len(draws):
        parts = variance_components(embeddings, draws)
        return parts.between.mean(), parts.within.mean()
    return None, embeddings.var(dim=0).mean() if number == 1 < len(draws) else None
