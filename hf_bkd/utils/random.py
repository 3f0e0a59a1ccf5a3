"""Counter-based random numbers: pure functions of their purpose, which read and advance no state.

The random numbers of an example depend on its id, the seed, the view and the number of the number; not on the batch or
the process that it is in, on the order of the data or on the device.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift logically: torch's ``>>`` copies the sign bit of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    constant %= 1 << 64
    return constant - (1 << 64) if constant >= 1 << 63 else constant


def mix_bits(x: Tensor) -> Tensor:
    """Scatter int64 by the finalizer of SplitMix64 (Steele, Lea and Flood 2014), a bijection."""
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def random_bits(ids: Tensor, *, seed: int, view: int, stream: int | Tensor) -> Tensor:
    """Draw 64 random bits per example, as int64 [B]; see :class:`Draws` for the arguments.

    ``stream`` may be an int64 tensor that broadcasts against ``ids``.
    """
    state = ids
    for word in (_signed(seed + 1), _signed(view + 1), stream + 1):
        state = mix_bits(state + _signed(GAMMA)) ^ word
    return mix_bits(state + _signed(GAMMA))


def normal_from_bits(bits: Tensor) -> Tensor:
    """Turn 64 random bits into a standard normal number, finite and float32, by its inverse distribution function."""
    centered = (_shift_right(bits, 12).double() + 0.5) * 2.0**-51 - 1  # exact, in the open interval (-1, 1)
    return (math.sqrt(2) * torch.erfinv(centered)).float()


@dataclass(frozen=True)
class Draws:
    """The random numbers of some examples.

    ``stream``, in all of its methods, numbers the random numbers that one view needs, 0 .. 255; with a ``range`` of
    streams there is one column for each: [B, number of streams] in place of [B]. Of uniform numbers it may be int64
    [B], each example's own and of any size, if no other purpose has the seed.

    Args:
        ids: int64 [B], one per example.
        seed, view: which run, and which view of the examples.
        block: number of the user of one view's numbers; each user has 256 streams.
    """

    ids: Tensor
    seed: int
    view: int
    block: int = 0

    def integers(self, high: int | Tensor, stream: int | range) -> Tensor:
        """Draw int64 [B], uniform over 0 .. high - 1 (the bias, below high / 2**63, can't be measured).

        Args:
            high: 1 .. 2**31, one for all or int64 [B].
        """
        return _shift_right(self._bits(stream), 1) % high

    def uniform(self, stream: int | range | Tensor) -> Tensor:
        """Draw float64 [B], uniform over the multiples of 2**-53 in [0, 1)."""
        return _shift_right(self._bits(stream), 11).double() * 2.0**-53

    def normal(self, number: int, stream: int) -> Tensor:
        """Draw float32 [B, number], independent standard normal numbers."""
        counters = torch.arange(1, number + 1, device=self.ids.device) * _signed(GAMMA)
        return normal_from_bits(mix_bits(self._bits(stream)[:, None] + counters))  # SplitMix64, seeded by example

    def _bits(self, stream: int | range | Tensor) -> Tensor:
        ids, streams = self.ids, stream
        if isinstance(stream, range):
            ids, streams = ids[:, None], torch.arange(stream.start, stream.stop, stream.step, device=ids.device)
        return random_bits(ids, seed=self.seed, view=self.view, stream=256 * self.block + streams)


class ExampleGenerator(torch.Generator):
    """A generator with the ids of a batch's examples: :func:`example_normal` draws the same for each in any batch.

    Calls after each other draw different numbers. As an ordinary generator it starts from seed and view alone, so that
    what all examples share, such as a draw of a network's weights, is the same in every batch.

    Args:
        ids: int64 [B], on any device.
        seed, view: which labeling, and which view of the examples.
    """

    def __new__(cls, ids: Tensor, seed: int, view: int = 0) -> Self:
        return super().__new__(cls)  # the host's, wherever the ids are: what examples share is drawn there

    def __init__(self, ids: Tensor, seed: int, view: int = 0):
        self.draws, self.asked = Draws(ids, seed, view, block=2**40), 0  # the last block: no end of streams
        start = random_bits(torch.zeros(1, dtype=torch.int64), seed=seed, view=view, stream=0)
        self.manual_seed(int(start) & (2**63 - 1))

    def batch_seed(self) -> int:
        """Return a seed, 0 .. 2**63 - 1, of this set of examples, for what can't draw for each of them by itself."""
        return int(random_bits(self.draws.ids, seed=self.initial_seed(), view=0, stream=1).sum()) & (2**63 - 1)

    def host_seed(self) -> int:
        """Return :meth:`batch_seed` of ids in the host's memory, and of others, without waiting, one for all sets."""
        return self.batch_seed() if self.draws.ids.device.type == "cpu" else self.initial_seed()


def named_seed(seed: int, name: str | None) -> int:
    """Return a seed of a name's own, 0 .. 2**63 - 1, so that what is drawn under two names is independent."""
    if name is None:
        return seed
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") & (2**63 - 1)


def named_generator(generator: torch.Generator | None, name: str) -> torch.Generator | None:
    """Return a generator of a name's own for the same examples; another generator than theirs goes on as it is."""
    if not isinstance(generator, ExampleGenerator):
        return generator
    draws = generator.draws
    return ExampleGenerator(draws.ids, named_seed(draws.seed, name), draws.view)


def standard_normal(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None, dtype: torch.dtype | None = None
) -> Tensor:
    """Draw N(0, 1) noise on the generator's device, so that a CPU generator gives the same draws to every device.

    ``dtype`` is that of the drawn numbers, torch's default if not given; what is returned has that of ``like``.
    """
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device, dtype=dtype).to(like)


def categories(probs: Tensor, count: int, generator: torch.Generator | None, replacement: bool = True) -> Tensor:
    """Draw ``count`` classes by probabilities [C] or [B, C], as `torch.multinomial`, on the generator's device."""
    own = probs if generator is None else probs.to(generator.device)
    return torch.multinomial(own, count, replacement=replacement, generator=generator).to(probs.device)


def example_normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw N(0, 1) noise [S, B, ..., K], each example's own: an :class:`ExampleGenerator` draws it by their ids.

    Of examples with positions [S, B, L, K], what a position gets does not depend on how many come after it.
    """
    if not isinstance(generator, ExampleGenerator):
        return standard_normal(shape, like, generator)
    samples, batch, *positions, width = shape
    draws = replace(generator.draws, ids=generator.draws.ids.to(like.device))
    noise = draws.normal(samples * width * math.prod(positions), generator.asked)
    generator.asked += 1
    return noise.reshape(batch, *positions, samples, width).movedim(-2, 0).to(like)


GAMMA_ROUNDS = 8  # each is accepted with a probability above 0.95


def log_gamma_draws(shape: Tensor, num_samples: int, generator: torch.Generator | None) -> Tensor:
    """Draw logarithms [S, B, K] of Gamma(shape, 1) numbers, each example's own as in :func:`example_normal`.

    Marsaglia and Tsang (2000), with their step for shapes below 1, in logarithms: draws of tiny shapes are too small
    for any float.

    Args:
        shape: [B, K], >= 0; a shape of 0 gives -inf.
        num_samples: S.
    """
    size = (num_samples, *shape.shape)
    d = shape.double() + 2 / 3
    draws = torch.zeros(size, dtype=torch.float64, device=shape.device)
    missing = torch.ones_like(draws, dtype=torch.bool)
    for _ in range(GAMMA_ROUNDS):
        x, log_u = (example_normal(size, d, generator) for _ in range(2))
        log_v = 3 * torch.log1p((x / (9 * d).sqrt()).clamp_min(-1))
        accepted = torch.special.log_ndtr(log_u) < x.square() / 2 + d - d * log_v.exp() + d * log_v
        draws = torch.where(missing, d.log() + log_v, draws)  # should all be refused, the last stands
        missing &= ~accepted
    below_one = torch.special.log_ndtr(example_normal(size, d, generator)) / shape.double()
    return (draws + below_one).to(shape.dtype)
