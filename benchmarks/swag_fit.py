"""The cost of SWAG beside one plain training of the same length: snapshots, and batch norms' statistics of each draw.

python benchmarks/swag_fit.py
"""

import tempfile
from collections.abc import Iterator

import torch
from harness import Bench, Claim, main
from subjects import NUM_CLASSES, classifier, images, labels
from torch import nn

from hf_bkd import BatchedDataset, DistillationTrainingArguments, SWAGTeacher

ARCHITECTURE, EPOCHS, BATCH, DRAWS = "wrn_16_1_cifar", 30, 64, 10


def claims(bench: Bench) -> Iterator[Claim]:
    size = 8192 if bench.on_gpu else 128
    rows = BatchedDataset({"pixel_values": images(size, bench.device), "labels": labels(size, bench.device)})
    with tempfile.TemporaryDirectory() as folder:
        yield bench.slowdown(
            f"SWAG with {DRAWS} draws, statistics of half the images / one training ({ARCHITECTURE}, "
            f"{NUM_CLASSES} classes, {EPOCHS} epochs of {size} images)",
            lambda: with_swag(bench.device, rows, folder),
            lambda: trained(bench.device, rows, folder),
            bar=1.1,
        )


def trained(device: torch.device, rows: BatchedDataset, folder: str, *callbacks: object) -> nn.Module:
    from hf_bkd.training.trainer import DistillationTrainer  # takes seconds to import

    network = classifier(ARCHITECTURE, device)
    args = DistillationTrainingArguments(
        folder,
        kd_lambda=0.0,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        learning_rate=5e-3,
        lr_scheduler_type="cosine",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
    )
    DistillationTrainer(network, args, train_dataset=rows, callbacks=list(callbacks)).train()
    return network


def with_swag(device: torch.device, rows: BatchedDataset, folder: str) -> SWAGTeacher:
    from hf_bkd.teachers.snapshots import SnapshotCallback

    callback = SnapshotCallback()
    network = trained(device, rows, folder, callback)
    return SWAGTeacher.fit(network, callback.moments(network), rows.batches(len(rows) // 2), draws=DRAWS, batches=1)


if __name__ == "__main__":
    main(claims)
