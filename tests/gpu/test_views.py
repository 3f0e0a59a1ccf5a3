"""Pictures and random numbers are the same wherever they are made; datasets that lie on a GPU read as others do."""

import numpy as np
import pytest
import torch

from hf_bkd import BatchedDataset, CropAndFlip, Views
from hf_bkd.data.augmentations import ColorJitter, CutMix, Mixup, RandomErasing, RandomResizedCrop
from hf_bkd.utils.random import Draws, example_normal

from .gpu_helpers import PREPROCESS, held, images

pytestmark = pytest.mark.gpu
PICTURES, WIDE = 64, 32
CHAINS = {
    "crop and flip": (CropAndFlip(),),
    "resized crop": (RandomResizedCrop(24),),
    "jitter": (ColorJitter(0.4, 0.4, 0.4),),
    "erasing": (RandomErasing(0.7),),
    "mixup": (CropAndFlip(), Mixup(0.4)),
    "cutmix": (RandomResizedCrop(WIDE), ColorJitter(0.2, 0.2, 0.2), RandomErasing(0.5), CutMix(1.0)),
}


def pictures(device: torch.device | str, chain: tuple) -> BatchedDataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (PICTURES, 3, WIDE, WIDE), dtype=torch.uint8, generator=generator)
    values = {"pixel_values": pixels.to(device), "labels": torch.zeros(PICTURES, dtype=torch.int64, device=device)}
    ids = np.random.default_rng(1).integers(2**62, size=PICTURES)
    return BatchedDataset(values, None, Views(*chain, num_views=3, seed=5), example_ids=ids)


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("chain", CHAINS)
def test_pictures_are_equal_to_the_byte(chain, tf32, device):
    if device.type == "cuda" and tf32:
        torch.backends.fp32_precision = "tf32"
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    here, there = (pictures(on, CHAINS[chain]) for on in ("cpu", device))
    for epoch in (0, 2):
        for dataset in (here, there):
            dataset.set_epoch(epoch)
        rows = list(range(0, PICTURES, 2))
        expected, found = here[rows]["pixel_values"], there[rows]["pixel_values"]
        assert found.device.type == device.type and found.dtype == torch.uint8
        assert torch.equal(found.cpu(), expected)
        assert not torch.equal(expected, here.values["pixel_values"][rows]) or expected.shape[-1] != WIDE


def test_numbers_drawn_for_examples_are_the_same_everywhere(device):
    ids = torch.tensor([0, 1, -5, 2**62, 77])
    here, there = (Draws(ids.to(on), seed=3, view=2) for on in ("cpu", device))
    for stream in (0, range(1, 7)):
        assert torch.equal(there.integers(2**31, stream).cpu(), here.integers(2**31, stream))
        assert torch.equal(there.uniform(stream).cpu(), here.uniform(stream))
    torch.testing.assert_close(there.normal(1000, 1).cpu(), here.normal(1000, 1), rtol=1e-6, atol=1e-6)


def test_normal_numbers_without_an_example_are_drawn_where_the_generator_is(device):
    drawn = [
        example_normal((2, 3, 4), torch.empty(0, device=on), torch.Generator().manual_seed(1))
        for on in ("cpu", device)
    ]
    assert drawn[1].device.type == device.type and torch.equal(drawn[0], drawn[1].cpu())


@pytest.mark.parametrize("views", [None, Views(CropAndFlip(padding=2))])
def test_a_dataset_on_the_device_reads_as_one_on_the_cpu(views, device):
    here, there = (held(images(), on, views) for on in ("cpu", device))
    for row in ([3], [7, 0, 23, 7], list(range(24))):
        expected, found = here[row], there[row]
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert value.device.type == device.type
            torch.testing.assert_close(value.cpu(), expected[name], rtol=0, atol=1e-6)
    for found, expected in zip(there.batches(10), here.batches(10), strict=True):
        torch.testing.assert_close(found["pixel_values"].cpu(), expected["pixel_values"], rtol=0, atol=1e-6)
    assert PREPROCESS.normalize(there.values["pixel_values"]).device.type == device.type
