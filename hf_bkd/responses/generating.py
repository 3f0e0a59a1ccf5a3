"""A language model, or each draw of a Bayesian one's weights, answers prompts k times."""

import logging
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from ..data.columns import EXAMPLE_ID
from ..data.preprocessors.texts import longest_text, vocabulary_hash
from ..data.preprocessors.word_labels import hash_of_tokens
from ..models.calling import unwrapped
from ..models.token_networks import check_next_tokens
from ..soft_labels.record import description
from ..soft_labels.shards import Shards
from ..teachers import Teacher
from ..utils.checks import check_count
from ..utils.errors import UserError
from ..utils.locks import sole_user
from ..utils.processes import failing_together, processes
from ..utils.progress import progress_bar
from ..utils.random import Draws, named_seed, random_bits
from .labels import Labeling
from .prompts import Prompts, check_lengths, read_prompts
from .record import COLUMNS, CUT, DRAWS, RESPONSES, check_own_columns, make_responses_record, with_responses
from .sampling import Sampling
from .speaking import Speaker, teacher_of, tokenizer_of_all
from .weights import weight_draws

logger = logging.getLogger(__name__)


def generate_responses(
    dataset: datasets.Dataset,
    teacher: Teacher | nn.Module | str | Path,
    k: int,
    *,
    num_samples: int | None = None,
    processing_class: Any = None,
    template: str | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    max_new_tokens: int = 64,
    token_labels: bool = False,
    batch_size: int = 32,
    seed: int = 0,
    folder: str | Path | None = None,
    shard_rows: int = 64,
    progress: bool = True,
) -> datasets.Dataset:
    """Sample k answers of a language model to each prompt (arXiv 2601.18909).

    Answers are the same whatever the batch (to the rounding of the network), in one process of an accelerate launch
    and in several, and when they were interrupted and went on with the same ``folder``. The first answers of a larger
    k are those of a smaller one where the teacher's weights have one draw. By default they are drawn from the model's
    own distribution, whatever its ``generation_config`` says of sampling.

    Args:
        dataset: N rows with ``prompt``, texts or messages; with ``messages``, which are asked up to the last that the
            assistant didn't say; or with ``question``.
        teacher: a causal language model of transformers, or a teacher of one: a ``DeterministicTeacher``, an
            ``EnsembleTeacher``, each of whose members answers by itself, a ``VariationalTeacher`` (of IVON) or
            ``SWAGTeacher``, or an ``MCDropoutTeacher``, whose draws leave out the same units at all tokens; or the
            folder or name on the Hub of a saved model or teacher. A student that is to answer for itself is one too.
        k: answers to a prompt, at least 1. They are shared evenly among the draws of the weights, in an order that is
            each prompt's own.
        num_samples: S, draws from a posterior over weights; if not given, half of k, so that each answers twice, or k
            below 4. A single network has one, and an ensemble its members.
        processing_class: the tokenizer, if none is saved with the teacher.
        template: by which a prompt is made of a row's columns, such as ``"{passage} Question: {question} Answer:"``.
        temperature: T > 0 of the sampling, beside the teacher's own.
        top_k: how many of the most probable tokens are drawn from; all if not given.
        top_p: in (0, 1], the least mass of the most probable tokens that are drawn from; 1 for all.
        repetition_penalty: > 0; 1 for none.
        max_new_tokens: of an answer, after which it is cut off, which is counted and warned of.
        token_labels: whether the teacher's distribution of each token of the answers is kept too, as
            :func:`~hf_bkd.add_soft_labels` of all answers stores it, by one more pass over each of them. It is that of
            the teacher itself, averaged over its draws, whatever the settings of sampling.
        batch_size: answers that are sampled side by side.
        seed: of all draws.
        folder: where finished shards are kept, so that the same call goes on from them; in memory if not given.
        shard_rows: prompts a shard.
        progress: whether to show a bar.

    Returns:
        The dataset with ``prompt``, as it was asked, and

        - ``teacher_responses``, k texts a row;
        - ``teacher_response_draws``, k numbers in 0 .. S - 1: which draw of the weights each comes from;
        - ``teacher_responses_cut``, whether each was cut off;
        - ``teacher_responses_labels``, if asked for: tokens and labels of each, which ``aggregate_responses`` makes
          columns of;
        - ``teacher_responses_record``, what made them (see :func:`~hf_bkd.responses.read_responses_record`).

        ``aggregate_responses`` makes rows of it that students are trained on.

    Raises:
        UserError: a number out of its range; a teacher that is no causal language model, or whose configuration
            doesn't say which token ends an answer; another tokenizer than the model's; no prompts, an empty one, or
            one that is too long; a folder of another labeling; answers that are all empty.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty, max_new_tokens)
    check_count(k=k, batch_size=batch_size, shard_rows=shard_rows)
    check_count(0, seed=seed)
    k, seed, batch_size, shard_rows = map(int, (k, seed, batch_size, shard_rows))
    if not isinstance(dataset, datasets.Dataset):
        raise UserError("answers are written beside whole datasets: load it without streaming, and pass one split")
    if len(dataset) == 0:
        raise UserError("the dataset to answer is empty")
    check_own_columns(dataset.features)
    teacher = teacher_of(teacher)
    tokenizer = tokenizer_of_all(teacher, processing_class)
    prompts = read_prompts(dataset, tokenizer, template)
    draws = weight_draws(teacher, num_samples, k, seed)
    speakers = [Speaker.of(draw, tokenizer, sampling, seed) for draw in draws]
    for network in {id(draw.network): draw.network for draw in draws}.values():
        check_lengths(prompts, longest_text(network, tokenizer), max_new_tokens, type(unwrapped(network)).__name__)
        check_next_tokens(network, {"input_ids": torch.tensor([[*prompts.tokens[0], prompts.tokens[0][-1]]])})
    labeling = Labeling.of(teacher, tokenizer, num_samples, seed, folder, progress) if token_labels else None
    if labeling is not None:
        labeling.check(prompts.dataset)
    settings = {"k": k, "num_samples": len(draws), "seed": seed, **asdict(sampling)}
    ends = sorted({end for each in speakers for end in each.ends})
    about = {"teacher": description(teacher, len(draws)), "rows": len(dataset), "prompts": prompts.fingerprint}
    with nullcontext() if folder is None else sole_user(folder):
        shards = Shards(folder, {"responses": {**settings, "shard_rows": shard_rows, "end_tokens": ends}, **about})
        table = _answered(prompts, speakers, k, seed, shards, batch_size, shard_rows, progress)
        table = pa.table({name: table[name].combine_chunks() for name in COLUMNS})
    cut_off, empty = _counted(table, sampling)
    source = getattr(teacher, "source", None)
    about["teacher"] |= {"source": source} if source else {}
    record = make_responses_record(
        **settings,
        **about,
        template=prompts.template,
        tokenizer=hash_of_tokens(tokenizer, vocabulary_hash(tokenizer)),
        chat_template=prompts.chat_template,
        cut_off=cut_off,
        empty=empty,
    )
    responses = with_responses(prompts.dataset, table, record)
    return responses if labeling is None else labeling(responses)


def shared_out(keys: Tensor, k: int, num_draws: int, seed: int) -> np.ndarray:
    """Return which draw of the weights each of k answers [N, k] comes from, evenly and in each prompt's own order."""
    random = Draws(keys, named_seed(seed, "order of draws"), 0).uniform(torch.arange(num_draws)[:, None])
    order = random.argsort(dim=0).T.numpy()
    return order[:, np.arange(k) % num_draws].astype(np.int32)


def _answered(
    prompts: Prompts,
    speakers: list[Speaker],
    k: int,
    seed: int,
    shards: Shards,
    batch_size: int,
    shard_rows: int,
    progress: bool,
) -> pa.Table:
    """Answer all prompts, less those whose shards are finished: the columns of ``COLUMNS``."""
    state, names = processes(), []
    hidden = not progress or not state.is_main_process
    order = shared_out(prompts.keys, k, len(speakers), seed)
    with failing_together(), progress_bar(disable=hidden, rate="prompts") as bar:
        task = bar.add_task("answering", total=len(prompts.tokens))
        for number, first in enumerate(range(0, len(prompts.tokens), shard_rows)):
            names.append(f"rows-{number:06d}")
            rows = slice(first, min(first + shard_rows, len(prompts.tokens)))
            if number % state.num_processes == state.process_index and names[-1] not in shards:
                answered = _shard(prompts.tokens[rows], prompts.keys[rows], order[rows], speakers, batch_size)
                shards.write(names[-1], answered)
            bar.advance(task, rows.stop - rows.start)
    shards.share()
    return pa.concat_tables([shards.read(name) for name in names])


def _shard(
    tokens: list[list[int]], keys: Tensor, order: np.ndarray, speakers: list[Speaker], batch_size: int
) -> pa.Table:
    texts = np.empty(order.shape, dtype=object)
    cut = np.zeros(order.shape, dtype=bool)
    numbers = torch.arange(order.shape[1])[:, None]
    own = random_bits(keys, seed=0, view=0, stream=numbers).T  # [B, k], each answer's
    for number, speaker in enumerate(speakers):
        rows, places = np.nonzero(order == number)
        if len(rows):
            answers = speaker.answers([tokens[row] for row in rows], own[rows, places], batch_size)
            texts[rows, places] = [text for text, _ in answers]
            cut[rows, places] = [is_cut for _, is_cut in answers]
    columns = {RESPONSES: texts.tolist(), DRAWS: order.tolist(), CUT: cut.tolist()}
    kinds = datasets.Features(COLUMNS).arrow_schema
    made = {name: pa.array(values, kinds.field(name).type) for name, values in columns.items()}
    return pa.table(made | {EXAMPLE_ID: pa.array(keys.numpy())})


def _counted(table: pa.Table, sampling: Sampling) -> tuple[int, int]:
    """Count answers that were cut off and empty ones, and say so."""
    cut = int(table[CUT].combine_chunks().flatten().to_numpy(zero_copy_only=False).sum())
    texts = table[RESPONSES].combine_chunks().flatten().to_pylist()
    empty = sum(not text.strip() for text in texts)
    if empty == len(texts):
        raise UserError(
            "all answers are empty, the teacher ends them at once: see whether it was trained on prompts of this form "
            "(a model that chats is asked with messages), or pass template="
        )
    if processes().is_main_process:
        if cut:
            logger.warning(
                "%d of %d answers have more than max_new_tokens=%d tokens, and lose their end: students learn to stop "
                "there", cut, len(texts), sampling.max_new_tokens
            )  # fmt: skip
        if empty:
            logger.warning("%d of %d answers are empty", empty, len(texts))
    return cut, empty
