"""Counter-based random numbers: right to the bit, and random in every direction one can look."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from hf_bkd.utils.random import (
    Draws,
    ExampleGenerator,
    example_normal,
    log_gamma_draws,
    mix_bits,
    normal_from_bits,
    standard_normal,
)

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15
OVER = ["ids", "views", "seeds", "streams", "blocks"]


def split_mix_finalizer(x: int) -> int:
    """Steele, Lea and Flood (2014), on unsigned Python integers."""
    x &= MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def plain_bits(number: int, seed: int, view: int, block: int, stream: int) -> int:
    for word in (seed, view, 256 * block + stream):
        number = split_mix_finalizer(number + GAMMA) ^ ((word + 1) & MASK)
    return split_mix_finalizer(number + GAMMA)


def unsigned(x: torch.Tensor) -> list[int]:
    return [value % 2**64 for value in x.tolist()]


def drawn(kind, over, number=20_000):
    """``number`` results of one method of Draws, along one of the things that tell draws apart."""
    fixed = {"ids": torch.arange(100), "seed": 1, "view": 2, "block": 3}
    if over == "ids":
        return getattr(Draws(**(fixed | {"ids": torch.arange(number)})), kind[0])(*kind[1:], stream=0)
    many = range(number // 100)
    if over == "streams":
        return torch.cat([getattr(Draws(**fixed), kind[0])(*kind[1:], stream=i) for i in many])
    return torch.cat([getattr(Draws(**(fixed | {over[:-1]: i})), kind[0])(*kind[1:], stream=0) for i in many])


def test_mixing_is_split_mix_64():
    known = [0, 1, -1, 2**63 - 1, -(2**63), GAMMA - 2**64]
    x = torch.cat([torch.tensor(known), torch.randint(-(2**63), 2**63 - 1, (2000,))])
    assert unsigned(mix_bits(x)) == [split_mix_finalizer(value) for value in x.tolist()]
    counters = [GAMMA, 2 * GAMMA % 2**64, 3 * GAMMA % 2**64]
    first_outputs_of_seed_0 = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert unsigned(mix_bits(torch.tensor(counters, dtype=torch.uint64).view(torch.int64))) == first_outputs_of_seed_0


class TestDraws:
    @pytest.mark.parametrize(
        ("seed", "view", "block", "stream"), [(0, 0, 0, 0), (5, 3, 16, 255), (-7, 2**40, 2, 1), (2**63 + 5, 1, 20, 8)]
    )
    def test_are_the_documented_function_of_their_arguments(self, seed, view, block, stream):
        ids = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 123_456_789])
        draws = Draws(ids, seed, view, block)
        bits = [plain_bits(number, seed, view, block, stream) for number in ids.tolist()]
        assert draws.integers(1000, stream).tolist() == [(value >> 1) % 1000 for value in bits]
        assert draws.uniform(stream).tolist() == [(value >> 11) / 2**53 for value in bits]
        expected = [
            [split_mix_finalizer(state + (i + 1) * GAMMA) for i in range(5)] for state in bits
        ]  # of a SplitMix64 generator whose seed is an example's
        shares = np.array([[((value >> 12) + 0.5) / 2**52 for value in row] for row in expected])
        normal = draws.normal(5, stream)
        assert normal.dtype == torch.float32
        np.testing.assert_allclose(normal.numpy(), stats.norm.ppf(shares), rtol=1e-6, atol=1e-7)

    def test_every_argument_matters_and_the_order_of_arguments_too(self):
        ids = torch.arange(100)
        found = {
            (seed, view, block, stream): tuple(Draws(ids, seed, view, block).integers(2**31, stream).tolist())
            for seed, view, block, stream in itertools.product(range(4), repeat=4)
        }
        assert len(set(found.values())) == len(found) == 256

    def test_a_range_of_streams_is_a_column_each(self):
        draws = Draws(torch.randperm(50), 1, 2, 3)
        assert torch.equal(draws.uniform(range(4, 7)), torch.stack([draws.uniform(s) for s in (4, 5, 6)], 1))
        assert torch.equal(
            draws.integers(9, range(0, 5, 2)), torch.stack([draws.integers(9, s) for s in (0, 2, 4)], 1)
        )

    @pytest.mark.parametrize("high", [1, 2, 9, 10, 1000, 2**31])
    def test_integers_stay_in_range(self, high):
        found = Draws(torch.arange(-500, 500), -7, 3).integers(high, 0)
        assert found.min() >= 0
        assert found.max() < high

    def test_each_example_may_have_its_own_highest_integer(self):
        ids, high = torch.arange(300), torch.randint(1, 50, (300,))
        found = Draws(ids, 1, 2).integers(high, 3)
        alone = [int(Draws(ids[i : i + 1], 1, 2).integers(int(high[i]), 3)) for i in range(300)]
        assert found.tolist() == alone

    @pytest.mark.parametrize("high", [2, 9, 10])
    @pytest.mark.parametrize("over", OVER)
    def test_integers_are_uniform(self, high, over):
        counts = torch.bincount(drawn(("integers", high), over), minlength=high)
        assert stats.chisquare(counts).pvalue > 1e-4

    @pytest.mark.parametrize("over", OVER)
    def test_uniform_is_uniform(self, over):
        found = drawn(("uniform",), over)
        assert found.dtype == torch.float64
        assert found.min() >= 0 and found.max() < 1
        assert stats.kstest(found.numpy(), "uniform").pvalue > 1e-4
        low_bits = (found * 2**53).long() & 15
        assert stats.chisquare(torch.bincount(low_bits, minlength=16)).pvalue > 1e-4

    @pytest.mark.parametrize("over", OVER)
    def test_normal_is_normal(self, over):
        found = drawn(("normal", 5), over)
        assert stats.kstest(found.flatten().numpy(), "norm").pvalue > 1e-4
        for column in found.double().T:
            assert stats.kstest(column.numpy(), "norm").pvalue > 1e-4

    def test_normal_has_the_moments_of_a_normal_distribution(self):
        found = Draws(torch.arange(500), 0, 0).normal(1000, 0).double()
        for power, moment, spread in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10_170)]:
            assert abs(float((found**power).mean()) - moment) < 4 * (spread / found.numel()) ** 0.5

    def test_normal_is_finite_whatever_the_bits(self):
        ends = torch.tensor([-1, 0, 2**63 - 1, -(2**63)])
        found = normal_from_bits(ends)
        assert found.isfinite().all()
        assert found[0] == -found[1] and found[0] > 8
        assert found[2] == -found[3] and 0 > found[2] > -1e-9

    @pytest.mark.parametrize("method", ["integers", "normal"])
    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ({}, {"ids": 1}),
            ({"stream": 0}, {"stream": 1}),
            ({"stream": 0}, {"stream": 2}),
            ({"stream": 1}, {"stream": 2}),
            ({"view": 3}, {"view": 4}),
            ({"seed": 5}, {"seed": 6}),
            ({"seed": 5, "view": 3}, {"seed": 3, "view": 5}),
            ({"block": 16}, {"block": 17}),
            ({"block": 16, "stream": 255}, {"block": 17, "stream": 0}),
        ],
        ids=str,
    )
    def test_pairs_are_independent(self, method, first, second):
        def draw(ids=0, seed=5, view=3, block=0, stream=0):
            draws = Draws(torch.arange(ids, 40_000 + ids), seed, view, block)
            if method == "integers":
                return draws.integers(9, stream)
            return (torch.special.ndtr(draws.normal(2, stream)[:, 0].double()) * 9).long()

        table = torch.bincount(draw(**first) * 9 + draw(**second), minlength=81).reshape(9, 9)
        assert stats.chi2_contingency(table).pvalue > 1e-4

    def test_normal_numbers_of_one_example_are_independent(self):
        found = Draws(torch.arange(2000), 0, 0).normal(60, 0).double()
        correlation = np.corrcoef(found.T.numpy()) - np.eye(60)
        assert abs(correlation).max() < 5.5 / 2000**0.5
        assert abs(np.corrcoef(found.numpy()) - np.eye(2000)).max() < 6.5 / 60**0.5

    def test_read_and_advance_no_random_state(self):
        state = torch.get_rng_state()
        first = Draws(torch.arange(9), 1, 2).normal(3, 0)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(99)
        assert torch.equal(Draws(torch.arange(9), 1, 2).normal(3, 0), first)


class TestExampleGenerator:
    like = torch.zeros(1)

    def draw(self, ids, seed=1, view=2, calls=1, shape=(3, 4)):
        generator = ExampleGenerator(ids, seed, view)
        samples, width = shape
        found = [example_normal((samples, len(ids), width), self.like, generator) for _ in range(calls)]
        return found[-1]

    def test_each_examples_noise_goes_by_its_id_alone(self):
        ids = torch.randperm(1000)[:40]
        together, order = self.draw(ids), torch.randperm(40)
        assert together.shape == (3, 40, 4)
        assert torch.equal(self.draw(ids[order]), together[:, order])
        assert torch.equal(self.draw(ids[5:12]), together[:, 5:12])
        assert torch.equal(self.draw(ids[7:8])[:, 0], together[:, 7])
        assert together.unique().numel() == together.numel()

    def test_calls_seeds_and_views_differ_and_repeat(self):
        ids = torch.arange(10)
        found = [
            self.draw(ids, *words) for words in [(1, 2, 1), (1, 2, 2), (1, 2, 3), (1, 3, 1), (2, 2, 1), (2, 1, 1)]
        ]
        assert torch.stack(found).unique().numel() == 6 * 120
        assert torch.equal(self.draw(ids, 1, 2, 3), found[2])

    def test_noise_is_normal_over_samples_examples_and_calls(self):
        found = self.draw(torch.arange(500), shape=(10, 5))
        assert stats.kstest(found.flatten().numpy(), "norm").pvalue > 1e-4
        one = torch.cat([self.draw(torch.arange(1), calls=i, shape=(1, 9)).flatten() for i in range(1, 20)])
        assert stats.kstest(one.numpy(), "norm").pvalue > 1e-4

    def test_has_numbers_of_its_own_however_often_it_is_asked(self):
        ids = torch.arange(1)
        generator = ExampleGenerator(ids, 1, 2)
        mine = {float(example_normal((1, 1, 1), self.like, generator)) for _ in range(257 * 3)}
        others = {
            float(Draws(ids, 1, 2, block).normal(1, stream)) for block in range(20) for stream in (0, 1, 2, 20, 255)
        }
        assert not mine & others

    def test_as_an_ordinary_generator_it_goes_by_seed_and_view_alone(self):
        def plain(ids, seed, view):
            return torch.randn(20, generator=ExampleGenerator(ids, seed, view))

        first = plain(torch.arange(5), 1, 2)
        assert torch.equal(plain(torch.arange(7, 90), 1, 2), first)
        others = [plain(torch.arange(5), *words) for words in [(1, 3), (2, 2), (2, 1)]]
        assert torch.stack([first, *others]).unique().numel() == 80
        used = ExampleGenerator(torch.arange(5), 1, 2)
        example_normal((1, 5, 1), self.like, used)
        assert torch.equal(torch.randn(20, generator=used), first)
        assert ExampleGenerator(torch.arange(5), -1).initial_seed() >= 0

    def test_batch_seed_goes_by_the_examples(self):
        words = [(0, 5, 1, 2), (0, 6, 1, 2), (1, 6, 1, 2), (0, 5, 2, 2), (0, 5, 1, 3)]
        seeds = [
            ExampleGenerator(torch.arange(first, last), seed, view).batch_seed() for first, last, seed, view in words
        ]
        assert len(set(seeds)) == 5
        assert all(0 <= seed < 2**63 for seed in seeds)
        assert ExampleGenerator(torch.tensor([4, 2, 0, 1, 3]), 1, 2).batch_seed() == seeds[0]

    def test_another_generator_or_none_is_torchs_own(self):
        shape, like = (2, 3, 4), torch.zeros(1, dtype=torch.float64)
        found = example_normal(shape, like, torch.Generator().manual_seed(3))
        assert found.dtype == torch.float64
        assert torch.equal(found, torch.randn(shape, generator=torch.Generator().manual_seed(3)).double())
        torch.manual_seed(3)
        assert torch.equal(standard_normal(shape, like, None), found)
        assert self.draw(torch.arange(3)).dtype == torch.float32


def test_tokens_have_the_same_noise_whatever_their_example_is_padded_to():
    like, ids = torch.zeros(1), torch.tensor([5, 7, 9])
    long, short = (
        example_normal((4, len(own), length, 2), like, ExampleGenerator(own, seed=3))
        for own, length in ((ids, 6), (ids[1:], 3))
    )
    assert long.shape == (4, 3, 6, 2) and torch.equal(long[:, 1:, :3], short)
    flat = long.flatten()
    assert len(flat.unique()) == len(flat)
    plain = example_normal((4, 3, 12), like, ExampleGenerator(ids, seed=3))
    assert plain.shape == (4, 3, 12) and torch.equal(plain[:, :, :2][:1], long[:1, :, 0])


class TestGamma:
    @pytest.mark.parametrize("shape", [0.01, 0.3, 1.0, 7.5])
    @pytest.mark.parametrize("own", [True, False])
    def test_logarithms_have_scipys_distribution(self, shape, own):
        plain = torch.Generator().manual_seed(0)
        generator = ExampleGenerator(torch.arange(10), seed=0) if own else plain
        drawn = log_gamma_draws(torch.full((10, 3), shape, dtype=torch.float64), 1000, generator)
        assert drawn.shape == (1000, 10, 3)
        assert stats.kstest(drawn.flatten().numpy(), stats.loggamma(shape).cdf).pvalue > 1e-3
        assert abs(np.corrcoef(drawn.flatten(0, 1).T.numpy())[0, 1]) < 0.04

    def test_a_shape_of_0_has_no_mass_and_tiny_ones_stay_finite(self):
        drawn = log_gamma_draws(torch.tensor([[0.0, 1e-6, 2.0]]), 50, torch.Generator().manual_seed(0))
        assert (drawn[..., 0] == -torch.inf).all()
        assert drawn[..., 1:].isfinite().all() and drawn.dtype == torch.float32
