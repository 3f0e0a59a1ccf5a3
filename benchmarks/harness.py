"""Measure the two sides of a claim in turn, and record the ratio.

A side is a function of no arguments. A round runs both, each often enough to be timed well, and gives one ratio, so
that whatever else the machine does slows both. A claim's ratio is the median over at least seven rounds, and its
spread their 10th and 90th percentile.
"""

import atexit
import gc
import json
import math
import os
import statistics
import tempfile
import time
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hf_bkd.utils.files import write_json

warnings.filterwarnings("ignore", category=FutureWarning)  # of laplace-torch's backends

Side = Callable[[], Any]
LEAST_ROUNDS = 7
LEAST_SECONDS = 0.02  # of one timing of a side


@dataclass(frozen=True)
class Claim:
    """A ratio, and the bar that it is to stay below or reach; ``None`` if the ratio is merely reported.

    better: "lower" or "higher".
    spread: the 10th and the 90th percentile of the ratio over ``runs`` rounds.
    sides: what a call of our side and one of the other take, as text.
    """

    claim: str
    ratio: float
    bar: float | None
    better: str
    runs: int
    spread: list[float]
    sides: str = ""

    @property
    def verdict(self) -> str:
        """Whether the ratio meets the bar, in one word."""
        if self.bar is None:
            return "reported"
        passed = self.ratio <= self.bar if self.better == "lower" else self.ratio >= self.bar
        return "pass" if passed else "FAIL"


def claim_of(
    text: str, pairs: Sequence[tuple[float, float]], bar: float | None, better: str = "lower", unit: str = "s"
) -> Claim:
    """Make a claim of what calls of both sides take, round by round; "higher" is theirs over ours."""
    ratios = [own / other if better == "lower" else other / own for own, other in pairs]
    low, high = np.quantile(ratios, [0.1, 0.9]).tolist()
    sides = " against ".join(f"{statistics.median(side):.3g} {unit}" for side in zip(*pairs, strict=True))
    return Claim(text, statistics.median(ratios), bar, better, len(ratios), [low, high], sides)


@dataclass(frozen=True)
class Bench:
    """The device to measure on, and the seconds for each claim if more than its seven rounds fit."""

    device: torch.device
    seconds: float = 20.0

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is measured."""
        return self.device.type == "cuda"

    def slowdown(self, text: str, ours: Side, theirs: Side, bar: float | None) -> Claim:
        """Measure the time of our side over that of the other."""
        return claim_of(text, self.rounds(ours, theirs), bar)

    def speedup(self, text: str, ours: Side, theirs: Side, bar: float | None) -> Claim:
        """Measure the time of the other side over that of ours."""
        return claim_of(text, self.rounds(ours, theirs), bar, "higher")

    def rounds(self, ours: Side, theirs: Side) -> list[tuple[float, float]]:
        """Measure the seconds of a call of both sides, round by round; the sides take turns to go first."""
        sides = ours, theirs
        repeats = [self._repeats(side) for side in sides]
        rounds: list[tuple[float, float]] = []
        end = time.perf_counter() + self.seconds
        while len(rounds) < LEAST_ROUNDS or time.perf_counter() < end:
            seconds = [0.0, 0.0]
            for index in (0, 1) if len(rounds) % 2 == 0 else (1, 0):
                seconds[index] = self._seconds(sides[index], repeats[index])
            rounds.append((seconds[0], seconds[1]))
        return rounds

    def _repeats(self, side: Side) -> int:
        """Find how many calls make a timing; the first call, mostly set-up, counts only if it is long."""
        seconds = self._seconds(side)
        if seconds < 1:
            seconds = self._seconds(side)
        return max(1, math.ceil(LEAST_SECONDS / seconds))

    def _seconds(self, side: Side, repeats: int = 1) -> float:
        """Measure the seconds of a call."""
        self._synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            side()
        self._synchronize()
        return (time.perf_counter() - start) / repeats

    def _synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def working_memory(self, side: Side) -> int:
        """Measure the most bytes of tensors that a call holds at a time beside those that existed before."""
        side()  # what only a first call allocates does not count
        if not self.on_gpu:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces its starts and stops
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                side()
            return peak_of(allocations(profiler))
        self._synchronize()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        side()
        self._synchronize()
        return torch.cuda.max_memory_allocated(self.device) - before


def allocations(profiler: profile) -> list[int]:
    """List the bytes of every allocation, negative for a release, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    of_memory = sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"])
    return [event["args"]["Bytes"] for event in of_memory]


def peak_of(changes: Iterable[int]) -> int:
    """Find the highest sum of the first n changes, n >= 0."""
    total = peak = 0
    for change in changes:
        total += change
        peak = max(peak, total)
    return peak


def size_of(tensors: Iterable[Tensor]) -> int:
    """Count the bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


Claims = Callable[[Bench], Iterator[Claim]]


def main(*subjects: Claims, output: Path | None = None) -> None:
    """Measure the claims of some subjects, show each, and write them all to ``output``."""
    parser = ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0, help="at least, for each claim")
    parser.add_argument("--threads", type=int, default=physical_cores(), help="of torch; one a physical core")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(torch.device("cuda" if torch.cuda.is_available() else "cpu"), options.seconds)
    facts = described(bench.device)
    gc.freeze()  # collecting garbage would otherwise go through all imported libraries again and again
    atexit.register(gc.unfreeze)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    claims = []
    for subject in subjects:
        for claim in subject(bench):
            print(line_of(claim), flush=True)
            claims.append(claim)
    print(summary_of(claims))
    if output is not None:
        write_json(output, {"environment": facts, "claims": [record_of(claim) for claim in claims]})
        print(f"results: {output}")


def described(device: torch.device) -> dict[str, str]:
    """Describe versions and hardware, the number of threads, and how busy the machine was before."""
    from hf_bkd.utils.environment import environment  # takes seconds to import

    threads = f"{torch.get_num_threads()} of {physical_cores()} physical cores"
    cpu = {"threads": threads, "instructions": torch.backends.cpu.get_cpu_capability()}
    return environment(device, 1) | cpu | {"load before": f"{os.getloadavg()[0]:.2f}"}


def physical_cores() -> int:
    """Count the physical cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or usable, usable)


def record_of(claim: Claim) -> dict[str, Any]:
    """Convert a claim for ``results.json``."""
    return {name: value for name, value in asdict(claim).items() if name != "sides"}


def line_of(claim: Claim) -> str:
    """Format a claim, with its bar, its spread and its sides."""
    sign = "<=" if claim.better == "lower" else ">="
    bar = "" if claim.bar is None else f" {sign} {claim.bar:g}"
    low, high = claim.spread
    rounds = f"{low:.4g} to {high:.4g} in {claim.runs}; {claim.sides}"
    return f"{claim.verdict:<9} {claim.claim}\n          {claim.ratio:.4g}{bar}  ({rounds})"


def summary_of(claims: list[Claim]) -> str:
    """Count the bars that are met."""
    verdicts = [claim.verdict for claim in claims]
    met, missed = verdicts.count("pass"), verdicts.count("FAIL")
    return f"{met} of {met + missed} bars met"
