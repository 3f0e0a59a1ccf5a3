"""A compact encoder of protein sequences, pre-trained on where other proteins belong in the cell.

Data: the training split of p-scldata (`pip install p-scldata==2025.6a2`), 13 classes of places, less all proteins that
are among those of `--dataset`, or nearly so: its teachers' labels should be what the study's students learn from.

    python recipes/protein_encoder.py --dataset FOLDER [--output_dir runs/protein_encoder]

On processors that compute in bfloat16, --bf16 True makes it about four times as fast.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from hf_bkd import BatchedDataset, DistillationTrainer, UserError
from hf_bkd.data.loading import load_splits
from hf_bkd.study.arguments import parse
from hf_bkd.utils.errors import told_in_a_sentence

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
UNKNOWN, HIDDEN = len(RESIDUES) + 1, len(RESIDUES) + 2  # beside 0, where nothing is, and 1 to 20
FIRST, LAST = 350, 150  # residues of a longer protein that are read
END = 60
DISTANCES = (15.0, 60.0)
SHARED = 0.25  # of the shorter one's runs of ten residues: nearly the same protein
RUN = 10


class ProteinEncoder(nn.Module, PyTorchModelHubMixin):
    """Convolutions over residues, pooled over all of them and over both ends, where the signals are.

    Args:
        num_classes: C.
        width: channels of the convolutions.
        heads: of the attention that pools them.
        features: d, the width of what the last layer reads.
    """

    def __init__(self, num_classes: int = 13, width: int = 128, heads: int = 4, features: int = 256):
        super().__init__()
        self.num_classes = num_classes
        self.embed = nn.Embedding(HIDDEN + 1, 32)
        self.first = nn.Conv1d(32 + 2 * len(DISTANCES), width, 11, padding=5)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(3))
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2 * d, dilation=d) for d in (1, 2, 4))
        self.attention = nn.Conv1d(width, heads, 1)
        pooled = width * (4 + heads)
        self.body = nn.Sequential(nn.BatchNorm1d(pooled), nn.Dropout(0.3), nn.Linear(pooled, features), nn.GELU())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(features, num_classes))

    def forward(self, residues: Tensor) -> Tensor:
        """Residues [B, L] as :func:`encoded` to logits [B, C]."""
        return self.head(self.features(residues))

    def features(self, residues: Tensor) -> Tensor:
        """[B, d]; training hides a tenth of the residues."""
        residues = residues.long()
        there = residues > 0
        if self.training:
            residues = residues.masked_fill(there & (torch.rand(residues.shape) < 0.1), HIDDEN)
        place = torch.arange(residues.shape[1]).expand_as(residues)
        to_end = (there.sum(dim=1, keepdim=True) - 1 - place).clamp_min(0)
        near = torch.stack([torch.exp(-side / d) for side in (place, to_end) for d in DISTANCES], dim=1)
        hidden = torch.cat([self.embed(residues).transpose(1, 2), near], dim=1) * there[:, None]
        hidden = F.max_pool1d(F.gelu(self.first(hidden)), 3)
        mask, place, to_end = (value[:, None, : 3 * hidden.shape[2] : 3] for value in (there, place, to_end))
        hidden = hidden * mask
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            hidden = hidden + F.gelu(convolution(norm(hidden) * mask))
        weights = self.attention(hidden).masked_fill(~mask, -torch.inf).softmax(dim=-1)
        pooled = [
            _highest(hidden, mask),
            (hidden * mask).sum(dim=2) / mask.sum(dim=2),
            _highest(hidden, mask & (place < END)),
            _highest(hidden, mask & (to_end < END)),
            torch.einsum("bhl,bcl->bhc", weights, hidden).flatten(1),
        ]
        return self.body(torch.cat(pooled, dim=1))

    @torch.no_grad()
    def features_of(self, sequences: Sequence[str], batch_size: int = 100) -> np.ndarray:
        """Float32 [N, d] of sequences, in evaluation mode."""
        self.eval()
        parts = encoded(sequences).split(batch_size)
        return torch.cat([self.features(part) for part in parts]).numpy()


def _highest(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(~mask, -torch.inf).amax(dim=2)


def encoded(sequences: Sequence[str]) -> Tensor:
    """Residues as numbers, uint8 [N, 500]: 1 to 20, 21 for others, 0 behind the end; long ones lose their middle."""
    numbers = np.zeros((len(sequences), FIRST + LAST), np.uint8)
    for row, sequence in zip(numbers, sequences, strict=True):
        if len(sequence) > len(row):
            sequence = sequence[:FIRST] + sequence[-LAST:]
        row[: len(sequence)] = [RESIDUES.find(residue) + 1 or UNKNOWN for residue in sequence]
    return torch.from_numpy(numbers)


def without(pool: datasets.Dataset, held: datasets.Dataset) -> tuple[datasets.Dataset, dict[str, int]]:
    """The pool's proteins that are none of the held ones, and how many were, by accession, sequence or likeness."""
    accessions, sequences, places = set(held["accession"][:]), set(held["sequence"][:]), defaultdict(list)
    sizes = []
    for number, sequence in enumerate(held["sequence"][:]):
        runs = _runs(sequence)
        sizes.append(len(runs))
        for run in runs:
            places[run].append(number)

    def reason(row: dict) -> str:
        if row["accession"] in accessions:
            return "accession"
        if row["sequence"] in sequences:
            return "sequence"
        runs = _runs(row["sequence"])
        shared = Counter(number for run in runs for number in places.get(run, ()))
        near = any(count > SHARED * min(sizes[number], len(runs)) for number, count in shared.items())
        return "likeness" if near else ""

    reasons = [reason(row) for row in pool]
    kept = pool.select([number for number, why in enumerate(reasons) if not why])
    return kept, {why: reasons.count(why) for why in ("accession", "sequence", "likeness")}


def _runs(sequence: str) -> set[str]:
    return {sequence[start : start + RUN] for start in range(len(sequence) - RUN + 1)}


def pool() -> datasets.Dataset:
    try:
        from scldata.loader import load
    except ImportError:
        raise UserError("the proteins to pre-train on are missing: pip install p-scldata==2025.6a2") from None
    rows = load("train")
    places = {"accession": rows.index.tolist(), "sequence": rows["seq"].tolist(), "label": rows["scl"].tolist()}
    return datasets.Dataset.from_dict(places).class_encode_column("label")


def resident(rows: datasets.Dataset) -> BatchedDataset:
    return BatchedDataset({"residues": encoded(rows["sequence"][:]), "labels": torch.tensor(rows["label"][:])})


def pretrain(argv: list[str]) -> None:
    options, args = parse(DEFAULTS, argv)
    single, several = (load_splits(options.dataset, configuration=name) for name in ("single_label", "multi_label"))
    held = [each.select_columns(["accession", "sequence"]) for each in (*single.values(), *several.values())]
    rows = pool()
    known, dropped = without(rows, datasets.concatenate_datasets(held))
    print(f"{len(known)} of {len(rows)} proteins; dropped by {dropped}")
    split = known.train_test_split(test_size=options.validation_size, seed=0)
    network = ProteinEncoder(known.features["label"].num_classes)
    trainer = DistillationTrainer(
        network, args, train_dataset=resident(split["train"]), eval_dataset=resident(split["test"])
    )
    trainer.train()
    network.save_pretrained(args.output_dir)
    told = {"proteins": len(known), "dropped": dropped} | trainer.evaluate()
    Path(args.output_dir, "pretraining.json").write_text(json.dumps(told, indent=2) + "\n")


DEFAULTS = {
    "dataset": "deeploc2_mtbkd",
    "output_dir": "runs/protein_encoder",
    "validation_size": 500,
    "kd_lambda": 0.0,
    "num_train_epochs": 8,
    "learning_rate": 2e-3,
    "weight_decay": 0.02,
    "max_grad_norm": 5.0,
    "label_smoothing_factor": 0.05,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.2,  # of the training
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 100,
    "eval_strategy": "epoch",
    "save_strategy": "no",
    "logging_strategy": "epoch",
    "use_cpu": True,
}

if __name__ == "__main__":
    with told_in_a_sentence():
        pretrain(sys.argv[1:])
