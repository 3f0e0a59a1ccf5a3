"""A compact encoder of protein sequences, pre-trained on where other proteins belong in the cell.

Data: the training split of p-scldata (`pip install p-scldata==2025.6a2`), 13 classes of places, less all proteins that
are among those of `--dataset`, or nearly so: its teachers' labels should be what the study's students learn from.

    python recipes/protein_encoder.py --dataset FOLDER [--output_dir runs/protein_encoder]

On processors that compute in bfloat16, --bf16 True makes it about four times as fast.
"""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import datasets
import torch
from common.proteins import ProteinEncoder, encoded

from hf_bkd import BatchedDataset, DistillationTrainer, UserError
from hf_bkd.data.loading import load_splits
from hf_bkd.study.arguments import parse
from hf_bkd.utils.errors import told_in_a_sentence
from hf_bkd.utils.files import write_json

SHARED = 0.25  # of the shorter one's runs of ten residues: nearly the same protein
RUN = 10


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
    known = pool.select([number for number, why in enumerate(reasons) if not why])
    return known, {why: reasons.count(why) for why in ("accession", "sequence", "likeness")}


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
    facts = {"proteins": len(known), "dropped": dropped} | trainer.evaluate()
    write_json(Path(args.output_dir, "pretraining.json"), facts)


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
