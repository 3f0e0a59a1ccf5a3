"""The cost of language models' soft labels: to make them beside the forward passes, and to learn from them.

python benchmarks/language.py
"""

import tempfile
from collections.abc import Callable, Iterator

import datasets
import torch
from harness import Bench, Claim, claim_of, main
from transformers import LlamaConfig, LlamaForCausalLM

from hf_bkd import DeterministicTeacher, DistillationTrainer, DistillationTrainingArguments, add_soft_labels
from hf_bkd.training.next_token_reader import TokenRows
from hf_bkd.training.next_token_targets import StoredTokens

VOCABULARY = 49_152  # SmolLM2's
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_key_value_heads": 3}
SMALL = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_key_value_heads": 4}
TINY = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_key_value_heads": 1}
LONG, SHORT = 512, 128  # tokens of a row


def claims(bench: Bench) -> Iterator[Claim]:
    yield from labeling(bench)
    yield from learning(bench)
    yield reading(bench)


def labeling(bench: Bench) -> Iterator[Claim]:
    """Measure labeling against the teacher's forward passes of the same batches."""
    number, batch = (1024, 64) if bench.on_gpu else (32, 8)
    network, data = llama(bench, SMOLLM2, heads=9), rows(number, SHORT)
    teacher, ids = DeterministicTeacher(network), torch.tensor(data["input_ids"][:], device=bench.device)

    def bare() -> None:
        with torch.no_grad():
            for start in range(0, number, batch):
                part = ids[start : start + batch]
                network(input_ids=part, attention_mask=torch.ones_like(part), use_cache=False)

    yield bench.speedup(
        f"add_soft_labels, 16 sampled tokens / the bare forward loop (SmolLM2-135M, {batch} rows of {SHORT} tokens): "
        "tokens a second",
        lambda: add_soft_labels(data, teacher, batch_size=batch, progress=False),
        bare,
        bar=0.90,
    )


def learning(bench: Bench) -> Iterator[Claim]:
    """Measure a step from stored labels against the student's plain step on the same tokens."""
    batch = 16 if bench.on_gpu else 4
    data = labeled(bench, batch, SHORT)
    ours, theirs = (llama(bench, SMALL, heads=4).train() for _ in range(2))
    step, plain = stored_step(ours, data, batch), plain_step(theirs, data)
    millions = sum(each.numel() for each in ours.parameters()) / 1e6
    text = f"(Llama of {millions:.0f} M weights, {batch} x {SHORT} tokens)"
    yield bench.slowdown(f"a step from stored labels / a plain step {text}", step, plain, bar=1.10)
    peaks = [(bench.working_memory(step) / 2**20, bench.working_memory(plain) / 2**20)] * 3
    yield claim_of(f"memory of a step from stored labels / of a plain step {text}", peaks, 1.5, unit="MiB")


def reading(bench: Bench) -> Claim:
    """Measure the milliseconds of reading the labels of 4,096 tokens out of a dataset, of its rows in any order."""
    data = labeled(bench, 32, LONG)
    source = stored_rows(llama(bench, TINY, heads=1), data).source
    read = data.with_format("arrow").select_columns(source.columns)
    places, chosen = torch.ones(8, LONG, dtype=torch.bool), torch.randperm(32)[:8].tolist()
    layout = {name: name for name in source.columns}

    def batch() -> None:
        table = read[chosen]
        source.from_table({name: table[name].combine_chunks() for name in layout}, places)

    rounds = bench.rounds(batch, lambda: None)
    milliseconds = [(1e3 * own, 1.0) for own, _ in rounds]
    return claim_of("milliseconds to read the labels of 4,096 tokens, 16 of 49,152 each", milliseconds, 1.0, unit="ms")


def llama(bench: Bench, sizes: dict[str, int], heads: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = sizes | {"num_attention_heads": heads, "vocab_size": VOCABULARY, "max_position_embeddings": LONG}
    config = LlamaConfig(tie_word_embeddings=True, **sizes)
    return LlamaForCausalLM(config).to(bench.device).eval()


def rows(number: int, length: int) -> datasets.Dataset:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (number, length), generator=generator).tolist()
    return datasets.Dataset.from_dict({"input_ids": tokens, "labels": tokens})


def labeled(bench: Bench, number: int, length: int) -> datasets.Dataset:
    return add_soft_labels(rows(number, length), DeterministicTeacher(llama(bench, TINY, heads=1)), progress=False)


def trainer_of(student: LlamaForCausalLM, data: datasets.Dataset, batch: int) -> DistillationTrainer:
    device = next(student.parameters()).device
    args = DistillationTrainingArguments(
        tempfile.mkdtemp(), report_to=[], use_cpu=device.type == "cpu", per_device_train_batch_size=batch
    )
    return DistillationTrainer(student, args, train_dataset=data)


def stored_rows(student: LlamaForCausalLM, data: datasets.Dataset) -> TokenRows:
    dataset = trainer_of(student, data, 8)._train.dataset
    assert isinstance(dataset.source, StoredTokens)
    return dataset


def stored_step(student: LlamaForCausalLM, data: datasets.Dataset, batch: int) -> Callable[[], None]:
    """Return a step of the trainer: it reads a batch, and computes the loss and its gradient."""
    trainer = trainer_of(student, data, batch)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3)
    student.train()

    def step() -> None:
        inputs = trainer.batch_of(list(range(batch)))
        optimizer.zero_grad()
        trainer.compute_loss(student, inputs).backward()
        optimizer.step()

    return step


def plain_step(student: LlamaForCausalLM, data: datasets.Dataset) -> Callable[[], None]:
    """Return a step of plain language modeling, with transformers' own loss, on tensors in memory."""
    ids = torch.tensor(data["input_ids"][:], device=next(student.parameters()).device)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        student(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False).loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main(claims)
