"""Every operator against torchvision's own, image by image, for the parameters that it has drawn."""

import math

import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as vision

from hf_bkd import UserError
from hf_bkd.data.augmentations import MIXING, ColorJitter, CropAndFlip, CutMix, Mixup, RandomErasing, RandomResizedCrop
from hf_bkd.data.resampling import resize, resize_weights
from hf_bkd.utils.random import Draws

OPERATORS = [
    CropAndFlip(2),
    RandomResizedCrop(7),
    RandomResizedCrop(24, scale=(0.3, 0.9), flip=False),
    ColorJitter(0.4, 0.3, 0.5),
    RandomErasing(1.0),
    Mixup(0.8),
    CutMix(1.0),
]


def random_images(*shape):
    return torch.randint(256, shape, dtype=torch.uint8)


def apply(operator, images, ids, seed=1, view=2, block=16):
    """The partner of an image, where there is one, is its negative."""
    others = (255 - images,) if isinstance(operator, MIXING) else ()
    return operator(images, *others, Draws(ids, seed, view, block))


def differences(found, expected):
    assert found.dtype == torch.uint8
    assert found.shape == expected.shape
    return (found.int() - expected.int()).abs()


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: type(operator).__name__)
class TestEveryOperator:
    def test_does_not_depend_on_the_rest_of_the_batch(self, operator):
        images, ids, order = random_images(50, 3, 14, 11), torch.randperm(1000)[:50], torch.randperm(50)
        together = apply(operator, images, ids)
        assert torch.equal(apply(operator, images[order], ids[order]), together[order])
        for i in (0, 17, 49):
            assert torch.equal(apply(operator, images[i : i + 1], ids[i : i + 1])[0], together[i])

    def test_reads_and_advances_no_random_state_and_leaves_its_input(self, operator):
        images, ids = random_images(20, 3, 14, 11), torch.arange(20)
        state, before = torch.get_rng_state(), images.clone()
        first = apply(operator, images, ids)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(images, before)
        torch.manual_seed(99)
        assert torch.equal(apply(operator, images, ids), first)

    @pytest.mark.parametrize("other", [{"view": 3}, {"seed": 2}, {"block": 17}])
    def test_another_view_seed_or_block_is_another_picture(self, operator, other):
        images, ids = random_images(100, 3, 14, 11), torch.arange(100)
        changed = (apply(operator, images, ids) != apply(operator, images, ids, **other)).flatten(1).any(1)
        assert changed.double().mean() > 0.9

    def test_no_images_stay_no_images(self, operator):
        found = apply(operator, random_images(0, 3, 14, 11), torch.arange(0))
        assert found.shape[:2] == (0, 3)

    def test_reduced_precision_around_it_changes_nothing(self, operator):
        images, ids = random_images(20, 3, 14, 11), torch.arange(20)
        plain = apply(operator, images, ids)
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            assert torch.equal(apply(operator, images, ids), plain)


@pytest.mark.parametrize("operator", [RandomResizedCrop(7), ColorJitter(0.4), Mixup(1.0)])
def test_normalized_images_are_refused(operator):
    with pytest.raises(UserError, match=f"{type(operator).__name__} needs uint8 images, .*float32: augment before"):
        apply(operator, torch.zeros(2, 3, 8, 8), torch.arange(2))


class TestCropAndFlip:
    def by_torchvision(self, images, draws, padding, flip):
        """Each image padded, cropped and flipped by itself, with the documented streams 0, 1 and 2."""
        tops, lefts = (draws.integers(2 * padding + 1, stream).tolist() for stream in (0, 1))
        pictures = []
        for image, top, left, side in zip(images, tops, lefts, draws.integers(2, 2), strict=True):
            padded = vision.pad(image, [padding], padding_mode="reflect") if padding else image
            picture = vision.crop(padded, top, left, *image.shape[1:])
            pictures.append(vision.horizontal_flip(picture) if flip and side == 1 else picture)
        return torch.stack(pictures)

    @pytest.mark.parametrize("flip", [True, False])
    @pytest.mark.parametrize(
        ("shape", "padding"), [((3, 8, 8), 4), ((1, 6, 9), 2), ((2, 5, 5), 4), ((3, 4, 4), 0), ((1, 2, 7), 1)]
    )
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_is_torchvisions_pad_crop_and_flip_image_by_image(self, shape, padding, flip, dtype):
        images, draws = random_images(40, *shape).to(dtype), Draws(torch.randperm(1000)[:40], 3, 5)
        found = CropAndFlip(padding, flip)(images, draws)
        assert found.dtype == dtype
        assert torch.equal(found, self.by_torchvision(images, draws, padding, flip))

    def test_shows_every_offset_and_both_sides(self):
        image = torch.arange(25).reshape(1, 1, 5, 5)
        pictures = CropAndFlip(1)(image.expand(2000, -1, -1, -1), Draws(torch.arange(2000), 0, 0))
        assert len({tuple(picture.flatten().tolist()) for picture in pictures}) == 3 * 3 * 2

    @pytest.mark.parametrize("padding", [-1, 6, 20])
    def test_padding_that_cannot_be_mirrored_is_refused(self, padding):
        with pytest.raises(UserError, match=rf"6 x 9 pixels can't be padded by {padding}: .* between 0 and 5"):
            CropAndFlip(padding)(torch.zeros(2, 1, 6, 9), Draws(torch.arange(2), 0, 0))


class TestRandomResizedCrop:
    @pytest.mark.parametrize(
        ("shape", "size", "scale"),
        [
            ((3, 40, 40), 32, (0.08, 1.0)),
            ((1, 50, 23), 9, (0.2, 1.0)),
            ((3, 9, 17), 30, (0.1, 1.0)),
            ((2, 64, 64), 4, (0.8, 1.0)),
            ((3, 16, 16), 16, (1.0, 1.0)),
            ((1, 12, 12), 1, (0.08, 1.0)),
        ],
    )
    @pytest.mark.parametrize("flip", [True, False])
    def test_is_torchvisions_crop_resize_and_flip_image_by_image(self, shape, size, scale, flip):
        images, draws = random_images(40, *shape), Draws(torch.randperm(1000)[:40], 3, 5)
        operator = RandomResizedCrop(size, scale, flip=flip)
        found, parts = operator(images, draws), torch.stack(operator.parts(*shape[1:], draws), 1).tolist()
        sides, distances = draws.integers(2, 22).tolist(), []
        for picture, image, part, side in zip(found, images, parts, sides, strict=True):
            native, exact = (
                vision.resized_crop(kind, *part, [size, size], antialias=True) for kind in (image, image.double())
            )
            if flip and side == 1:
                picture = picture.flip(2)
            assert differences(picture, native).max() <= 1
            distances.append((picture - exact).abs().max())
        assert max(distances) < 0.5 + 0.25
        assert not flip or 0 < sum(sides) < 40

    @pytest.mark.parametrize(
        ("height", "width", "size"), [(256, 300, 224), (40, 30, 64), (500, 333, 32), (32, 32, 32)]
    )
    def test_values_before_rounding_are_torchs_interpolation(self, height, width, size):
        images = random_images(6, 2, height, width)
        heights, widths = torch.randint(height // 4, height + 1, (6,)), torch.randint(width // 4, width + 1, (6,))
        tops, lefts = (height - heights) // 2, (width - widths) // 3
        found = resize(images, resize_weights(tops, heights, height, size), resize_weights(lefts, widths, width, size))
        parts = torch.stack([tops, lefts, heights, widths], 1).tolist()
        for image, picture, (top, left, tall, wide) in zip(images, found, parts, strict=True):
            part = image[None, :, top : top + tall, left : left + wide].double() / 255
            exact = interpolate(part, (size, size), mode="bilinear", antialias=True)[0]
            assert (picture / 255 - exact).abs().max() < 1e-3
            assert (picture / 255 - exact).mean().abs() < 2e-5

    def test_weights_are_whole_numbers_that_no_order_of_summation_can_change(self):
        heights, tops = torch.tensor([100, 37, 224, 255, 9]), torch.tensor([3, 50, 0, 1, 240])
        for size in (224, 32, 7):
            rows = resize_weights(tops, heights, 256, size)
            assert torch.equal(rows, rows.round())
            assert 0 < rows.max() <= 2**11 and rows.min() == 0
            assert rows.sum(2).max() * 255 * 8 < 2**24
            images = random_images(5, 3, 256, 256)
            order = torch.randperm(256)
            shuffled = resize(images[:, :, order][..., order], rows[..., order], rows[..., order])
            assert torch.equal(resize(images, rows, rows), shuffled)

    def test_flat_images_stay_flat_to_the_gray_level(self):
        images = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 31, 23)
        found = RandomResizedCrop(13)(images, Draws(torch.arange(256), 0, 0))
        assert torch.equal(found, images[:, :, :13, :13])


class TestColorJitter:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("spreads", [(0.8, 0, 0), (0, 0.8, 0), (0, 0, 0.8), (0.4, 0.4, 0.4), (2, 3, 4), (0, 0, 0)])
    def test_is_torchvisions_image_by_image(self, channels, spreads):
        images, draws = random_images(60, channels, 13, 9), Draws(torch.randperm(1000)[:60], 3, 5)
        operator = ColorJitter(*spreads)
        found, factors = operator(images, draws), torch.stack(operator.factors(draws), 1).tolist()
        alone = []
        for image, (brightness, contrast, saturation) in zip(images, factors, strict=True):
            image = vision.adjust_contrast(vision.adjust_brightness(image, brightness), contrast)
            alone.append(vision.adjust_saturation(image, saturation))
        apart = differences(found, torch.stack(alone))
        assert apart.max() <= 1
        assert (apart > 0).double().mean() < 2e-3

    def test_other_channels_are_refused(self):
        with pytest.raises(UserError, match="1 or 3 channels, these have 4: convert them to RGB"):
            apply(ColorJitter(0.1), random_images(2, 4, 5, 5), torch.arange(2))


class TestRandomErasing:
    def test_is_torchvisions_image_by_image(self):
        images, draws = random_images(100, 3, 15, 12), Draws(torch.randperm(1000)[:100], 3, 5)
        operator = RandomErasing(0.6, value=77)
        parts = torch.stack(operator.parts(15, 12, draws), 1).tolist()
        value = torch.tensor(77, dtype=torch.uint8)
        alone = [
            vision.erase(image, top, left, tall, wide, value)
            for image, (top, left, tall, wide) in zip(images, parts, strict=True)
        ]
        found = operator(images, draws)
        assert torch.equal(found, torch.stack(alone))
        assert 40 <= (found != images).flatten(1).any(1).sum() <= 80


class TestMixing:
    def test_mixup_is_a_weighted_mean(self):
        images, others, draws = random_images(60, 3, 9, 9), random_images(60, 3, 9, 9), Draws(torch.arange(60), 3, 5)
        share = Mixup(0.4).share(draws)[:, None, None, None]
        expected = share * images.double() + (1 - share) * others.double()
        found = Mixup(0.4)(images, others, draws)
        assert found.dtype == torch.uint8
        assert (found - expected).abs().max() < 0.5 + 1e-4
        assert torch.equal(Mixup(0.4)(images, images, draws), images)

    @pytest.mark.parametrize(("height", "width"), [(12, 12), (7, 20)])
    def test_cutmix_is_the_box_of_torchvision(self, height, width):
        images, others = random_images(200, 3, height, width), random_images(200, 3, height, width)
        draws = Draws(torch.arange(200), 3, 5)
        shares, down, right = CutMix(1.0).share(draws).tolist(), draws.integers(height, 1), draws.integers(width, 2)
        expected = images.clone()
        for i, (share, row, column) in enumerate(zip(shares, down.tolist(), right.tolist(), strict=True)):
            half = 0.5 * math.sqrt(1 - share)
            tall, wide = int(half * height), int(half * width)
            rows = slice(max(row - tall, 0), min(row + tall, height))
            columns = slice(max(column - wide, 0), min(column + wide, width))
            expected[i, :, rows, columns] = others[i, :, rows, columns]
        assert torch.equal(CutMix(1.0)(images, others, draws), expected)
        assert not torch.equal(expected, images)
