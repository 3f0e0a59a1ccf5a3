"""Replayable augmentation: the right operators, and numbers that are random in every direction one can look."""

import itertools

import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import functional as vision

from hf_bkd import UserError
from hf_bkd.views import crop_and_flip, mix_bits, random_integers


def split_mix_finaliser(x: int) -> int:
    """Steele, Lea and Flood (2014), on unsigned Python integers."""
    mask = 2**64 - 1
    x &= mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def unsigned(x: torch.Tensor) -> list[int]:
    return [value % 2**64 for value in x.tolist()]


def test_mixing_is_split_mix_64():
    known = [0, 1, -1, 2**63 - 1, -(2**63), 0x9E3779B97F4A7C15 - 2**64]
    x = torch.cat([torch.tensor(known), torch.randint(-(2**63), 2**63 - 1, (2000,))])
    assert unsigned(mix_bits(x)) == [split_mix_finaliser(value) for value in x.tolist()]
    assert unsigned(mix_bits(torch.tensor([known[-1]]))) == [
        0xE220A8397B1DCDAF
    ]  # the generator's first output, seed 0


class TestRandomIntegers:
    def test_every_argument_matters_and_the_order_of_arguments_too(self):
        ids = torch.arange(100)
        drawn = {
            words: tuple(random_integers(ids, 2**31, seed=words[0], view=words[1], stream=words[2]).tolist())
            for words in itertools.product(range(4), repeat=3)
        }
        assert len(set(drawn.values())) == len(drawn)

    @pytest.mark.parametrize("high", [1, 2, 9, 10, 1000, 2**31])
    def test_stays_in_range(self, high):
        drawn = random_integers(torch.arange(-500, 500), high, seed=-7, view=3, stream=0)
        assert drawn.min() >= 0
        assert drawn.max() < high

    @pytest.mark.parametrize("high", [2, 9, 10])
    @pytest.mark.parametrize("over", ["ids", "views", "seeds", "streams"])
    def test_is_uniform(self, high, over):
        number = 20_000
        if over == "ids":
            drawn = random_integers(torch.arange(number), high, seed=1, view=2, stream=0)
        else:
            ids, name = torch.arange(100), {"views": "view", "seeds": "seed", "streams": "stream"}[over]
            fixed = {"seed": 1, "view": 2, "stream": 0}
            draws = [random_integers(ids, high, **(fixed | {name: i})) for i in range(number // len(ids))]
            drawn = torch.cat(draws)
        assert stats.chisquare(torch.bincount(drawn, minlength=high)).pvalue > 1e-4

    @pytest.mark.parametrize(
        "pair",
        ["neighbouring ids", "streams 0 1", "streams 0 2", "streams 1 2", "views", "seeds", "seed and view swapped"],
    )
    def test_pairs_are_independent(self, pair):
        ids, high = torch.arange(40_000), 9

        def draw(seed=5, view=3, stream=0):
            return random_integers(ids, high, seed=seed, view=view, stream=stream)

        first, second = {
            "neighbouring ids": lambda: (draw()[:-1], draw()[1:]),
            "streams 0 1": lambda: (draw(stream=0), draw(stream=1)),
            "streams 0 2": lambda: (draw(stream=0), draw(stream=2)),
            "streams 1 2": lambda: (draw(stream=1), draw(stream=2)),
            "views": lambda: (draw(view=3), draw(view=4)),
            "seeds": lambda: (draw(seed=5), draw(seed=6)),
            "seed and view swapped": lambda: (draw(seed=5, view=3), draw(seed=3, view=5)),
        }[pair]()
        table = torch.bincount(first * high + second, minlength=high * high).reshape(high, high)
        assert stats.chi2_contingency(table).pvalue > 1e-4


def by_torchvision(images, ids, seed, view, padding, flip):
    """Each image padded, cropped and flipped by itself, with the documented streams 0, 1 and 2."""
    height, width = images.shape[-2:]
    pictures = []
    for image, number in zip(images, ids, strict=True):
        top, left = (
            int(random_integers(number[None], 2 * padding + 1, seed=seed, view=view, stream=s)) for s in (0, 1)
        )
        flipped = flip and int(random_integers(number[None], 2, seed=seed, view=view, stream=2)) == 1
        if padding:
            image = vision.pad(image, [padding], padding_mode="reflect")
        image = vision.crop(image, top, left, height, width)
        pictures.append(vision.horizontal_flip(image) if flipped else image)
    return torch.stack(pictures)


class TestCropAndFlip:
    @pytest.mark.parametrize("flip", [True, False])
    @pytest.mark.parametrize(
        ("shape", "padding"), [((3, 8, 8), 4), ((1, 6, 9), 2), ((2, 5, 5), 4), ((3, 4, 4), 0), ((1, 2, 7), 1)]
    )
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_is_torchvisions_pad_crop_and_flip_image_by_image(self, shape, padding, flip, dtype):
        images = torch.randint(256, (40, *shape)).to(dtype)
        ids = torch.randperm(1000)[:40]
        found = crop_and_flip(images, ids, seed=3, view=5, padding=padding, flip=flip)
        assert found.dtype == dtype
        assert torch.equal(found, by_torchvision(images, ids, 3, 5, padding, flip))

    def test_shows_every_offset_and_both_sides(self):
        image = torch.arange(25).reshape(1, 1, 5, 5)
        pictures = crop_and_flip(image.expand(2000, -1, -1, -1), torch.arange(2000), seed=0, view=0, padding=1)
        assert len({tuple(picture.flatten().tolist()) for picture in pictures}) == 3 * 3 * 2

    def test_does_not_depend_on_the_rest_of_the_batch(self):
        images, ids = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8), torch.randperm(50)
        together = crop_and_flip(images, ids, seed=1, view=2)
        order = torch.randperm(50)
        assert torch.equal(crop_and_flip(images[order], ids[order], seed=1, view=2), together[order])
        for i in (0, 17, 49):
            assert torch.equal(crop_and_flip(images[i : i + 1], ids[i : i + 1], seed=1, view=2)[0], together[i])

    def test_reads_and_advances_no_random_state(self):
        images, ids = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8), torch.arange(50)
        state = torch.get_rng_state()
        first = crop_and_flip(images, ids, seed=1, view=2)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(99)
        assert torch.equal(crop_and_flip(images, ids, seed=1, view=2), first)

    @pytest.mark.parametrize("other", [{"view": 3}, {"seed": 2}])
    def test_another_view_or_seed_is_another_picture(self, other):
        images, ids = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8), torch.arange(50)
        changed = (
            crop_and_flip(images, ids, seed=1, view=2)
            != crop_and_flip(images, ids, **({"seed": 1, "view": 2} | other))
        ).flatten(1)
        assert changed.any(dim=1).double().mean() > 0.95

    @pytest.mark.parametrize("padding", [-1, 6, 20])
    def test_padding_that_cannot_be_mirrored_is_refused(self, padding):
        with pytest.raises(UserError, match=rf"6 x 9 pixels can't be padded by {padding}: .* between 0 and 5"):
            crop_and_flip(torch.zeros(2, 1, 6, 9), torch.arange(2), seed=0, view=0, padding=padding)
