"""What operators draw: torchvision's ``get_params``, one scalar at a time and in distribution, and its edge cases."""

import math

import pytest
import torch
from scipy import stats
from torchvision import transforms

from hf_bkd import UserError
from hf_bkd.data.augmentations import ColorJitter, CutMix, Mixup, RandomErasing, RandomResizedCrop
from hf_bkd.utils.random import Draws

NUMBER = 2000
DRAWS = Draws(torch.arange(NUMBER), 3, 5)


def attempts(draws, area, scale, ratio):
    """The areas and ratios of each example's ten attempts, by the documented streams, as Python numbers."""
    areas = torch.stack([draws.uniform(stream) for stream in range(10)], 1).tolist()
    levels = torch.stack([draws.integers(4096, stream) for stream in range(10, 20)], 1).tolist()
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for row, places in zip(areas, levels, strict=True):
        yield [
            (area * (scale[0] + (scale[1] - scale[0]) * share), math.exp(low + (high - low) * (place + 0.5) / 4096))
            for share, place in zip(row, places, strict=True)
        ]


def crop_params(height, width, draws, scale, ratio):
    """torchvision's RandomResizedCrop.get_params, with other random numbers; and how many attempts failed."""
    found = []
    for i, tries in enumerate(attempts(draws, height * width, scale, ratio)):
        here = Draws(draws.ids[i : i + 1], draws.seed, draws.view, draws.block)
        sides = [(round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))) for area, aspect in tries]
        fits = [0 < tall <= height and 0 < wide <= width for tall, wide in sides]
        failed = fits.index(True) if any(fits) else 10
        if any(fits):
            tall, wide = sides[failed]
            top, left = int(here.integers(height - tall + 1, 20)), int(here.integers(width - wide + 1, 21))
        else:
            tall, wide = height, width
            if width / height < ratio[0]:
                tall = round(width / ratio[0])
            elif width / height > ratio[1]:
                wide = round(height * ratio[1])
            top, left = (height - tall) // 2, (width - wide) // 2
        found.append((top, left, tall, wide, failed))
    return torch.tensor(found)


def erase_params(height, width, draws, scale, ratio, probability):
    """torchvision's RandomErasing.get_params, with other random numbers."""
    found = []
    for i, tries in enumerate(attempts(draws, height * width, scale, ratio)):
        here = Draws(draws.ids[i : i + 1], draws.seed, draws.view, draws.block)
        rectangle = (0, 0, 0, 0)
        for area, aspect in tries if float(here.uniform(22)) < probability else []:
            tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if tall < height and wide < width:
                top, left = int(here.integers(height - tall + 1, 20)), int(here.integers(width - wide + 1, 21))
                rectangle = (top, left, tall, wide)
                break
        found.append(rectangle)
    return torch.tensor(found)


class TestRandomResizedCrop:
    @pytest.mark.parametrize(
        ("height", "width", "scale", "ratio", "failed"),
        [
            (32, 32, (0.08, 1.0), (3 / 4, 4 / 3), range(3)),
            (40, 20, (0.5, 1.0), (3 / 4, 4 / 3), range(0, 11)),
            (20, 61, (0.5, 1.0), (3 / 4, 4 / 3), [10]),
            (61, 20, (0.5, 1.0), (3 / 4, 4 / 3), [10]),
            (9, 9, (0.9, 1.0), (2.0, 3.0), [10]),
            (9, 10, (1.0, 1.0), (0.5, 2.0), range(0, 11)),
        ],
    )
    def test_parts_are_those_of_torchvisions_loop(self, height, width, scale, ratio, failed):
        draws = Draws(torch.arange(400), 3, 5, 16)
        found = torch.stack(RandomResizedCrop(8, scale, ratio).parts(height, width, draws), 1)
        expected = crop_params(height, width, draws, scale, ratio)
        assert set(failed) <= set(expected[:, 4].tolist())
        assert torch.equal(found, expected[:, :4])

    @pytest.mark.parametrize(("height", "width"), [(100, 100), (100, 60)])
    def test_parts_have_the_distribution_of_torchvisions(self, height, width):
        operator, image = RandomResizedCrop(8), torch.empty(1, height, width)
        theirs = transforms.RandomResizedCrop.get_params
        samples = torch.tensor([theirs(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(NUMBER)])
        compare_parts(torch.stack(operator.parts(height, width, DRAWS), 1), samples, height, width)

    def test_half_of_the_images_are_flipped(self):
        image = torch.arange(10, dtype=torch.uint8).expand(NUMBER, 1, 10, 10)
        found = RandomResizedCrop(10, scale=(1, 1), ratio=(1, 1))(image, DRAWS)
        flipped = (found == image.flip(3)).flatten(1).all(1)
        assert ((found == image).flatten(1).all(1) | flipped).all()
        assert stats.binomtest(int(flipped.sum()), NUMBER).pvalue > 1e-4


class TestRandomErasing:
    @pytest.mark.parametrize(
        ("height", "width", "scale", "ratio", "probability", "unchanged"),
        [
            (32, 32, (0.02, 0.33), (0.3, 3.3), 1.0, 0.0),
            (32, 32, (0.02, 0.33), (0.3, 3.3), 0.4, 0.6),
            (10, 60, (0.3, 0.9), (0.3, 3.3), 1.0, 0.75),
            (10, 10, (1.0, 1.0), (1.0, 1.0), 1.0, 1.0),
            (10, 10, (0.5, 0.5), (0.3, 3.3), 0.0, 1.0),
        ],
    )
    def test_rectangles_are_those_of_torchvisions_loop(self, height, width, scale, ratio, probability, unchanged):
        draws = Draws(torch.arange(400), 3, 5, 16)
        operator = RandomErasing(probability, scale, ratio)
        expected = erase_params(height, width, draws, scale, ratio, probability)
        top, left, tall, wide = operator.parts(height, width, draws)
        erases = tall > 0
        assert torch.equal(torch.stack([tall, wide], 1), expected[:, 2:])
        assert torch.equal(torch.stack([top, left], 1)[erases], expected[erases, :2])
        assert abs((~erases).double().mean() - unchanged) < 0.08

    def test_rectangles_have_the_distribution_of_torchvisions(self):
        image, theirs = torch.empty(1, 100, 80), transforms.RandomErasing.get_params
        samples = torch.tensor([theirs(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(NUMBER)])
        compare_parts(torch.stack(RandomErasing(1.0).parts(100, 80, DRAWS), 1), samples, 100, 80)


def compare_parts(ours, theirs, height, width):
    """Kolmogorov and Smirnov's test on the areas, ratios and places of rectangles (top, left, height, width)."""
    measures = [
        lambda part: part[:, 2] * part[:, 3],
        lambda part: part[:, 2] / part[:, 3],
        lambda part: part[:, 0] / (height - part[:, 2] + 1),
        lambda part: part[:, 1] / (width - part[:, 3] + 1),
    ]
    for measure in measures:
        assert stats.ks_2samp(measure(ours).numpy(), measure(theirs).numpy()).pvalue > 1e-4


def test_factors_of_color_are_uniform_and_of_their_own():
    factors = torch.stack(ColorJitter(0.4, 1.5, 0.1).factors(DRAWS)).double()
    for found, (low, high) in zip(factors, [(0.6, 1.4), (0, 2.5), (0.9, 1.1)], strict=True):
        assert stats.kstest(found.numpy(), "uniform", (low, high - low)).pvalue > 1e-4
    assert (torch.corrcoef(factors) - torch.eye(3)).abs().max() < 4 / NUMBER**0.5


@pytest.mark.parametrize("kind", [Mixup, CutMix])
@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_of_mixtures_are_beta(kind, alpha):
    share = kind(alpha).share(DRAWS)
    assert stats.kstest(share.numpy(), "beta", (alpha, alpha)).pvalue > 1e-4
    level = DRAWS.integers(4096, 0).numpy()
    expected = stats.beta.ppf((level + 0.5) / 4096, alpha, alpha)
    torch.testing.assert_close(share, torch.from_numpy(expected), rtol=1e-12, atol=0)


def test_the_kept_share_of_cutmix_is_that_of_torchvision():
    images, draws = torch.zeros(NUMBER, 1, 20, 30, dtype=torch.uint8), DRAWS
    kept = (CutMix(1.0)(images, images + 1, draws) == 0).double().mean((1, 2, 3))
    theirs = transforms.v2.CutMix(alpha=1.0, num_classes=2)
    samples = [theirs.make_params([images])["lam_adjusted"] for _ in range(NUMBER)]
    assert stats.ks_2samp(kept.numpy(), samples).pvalue > 1e-4


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: RandomResizedCrop(0), "size must be a whole number of at least 1, and it is 0"),
        (lambda: RandomResizedCrop(7.5), "size must be a whole number of at least 1, and it is 7.5"),
        (lambda: RandomResizedCrop(8, (0.5, 1.1)), r"scale must be two numbers above 0, at most 1, .* \(0.5, 1.1\)"),
        (lambda: RandomResizedCrop(8, (0.5, 0.4)), "scale must be .* the lower one first"),
        (lambda: RandomResizedCrop(8, (0.0, 0.4)), "scale must be .* above 0"),
        (lambda: RandomResizedCrop(8, 0.5), "scale must be two numbers .* and it is 0.5"),
        (lambda: RandomResizedCrop(8, ratio=(1, 2, 3)), "ratio must be two numbers above 0, the lower"),
        (lambda: RandomResizedCrop(8, ratio=(math.nan, 2)), "ratio must be two numbers"),
        (lambda: ColorJitter(contrast=-0.1), "contrast must be at least 0 and finite, and it is -0.1"),
        (lambda: ColorJitter(saturation=math.inf), "saturation must be at least 0 and finite, and it is inf"),
        (lambda: RandomErasing(1.2), "probability must be between 0 and 1, and it is 1.2"),
        (lambda: RandomErasing(value=256), "value must be at most 255, and it is 256"),
        (lambda: RandomErasing(value=0.5), "value must be a whole number"),
        (lambda: RandomErasing(scale=(-0.1, 0.2)), "scale must be"),
        (lambda: RandomErasing(ratio=(0, 1)), "ratio must be"),
        (lambda: Mixup(0), "alpha must be above 0 and finite, and it is 0"),
        (lambda: CutMix(math.nan), "alpha must be above 0 and finite, and it is nan"),
    ],
)
def test_parameters_out_of_range_are_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
