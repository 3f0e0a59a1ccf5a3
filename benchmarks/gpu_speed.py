"""How fast: ratios of two sides that are measured in turn, each written down as soon as it is known.

python benchmarks/gpu_speed.py --record FILE --work FOLDER
"""

import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property, partial
from importlib import import_module
from itertools import islice
from typing import Any

import torch
from gpu_loops import Setup, stored_labels, torchdistill_step, trainer_of, trainer_step, written_step
from gpu_record import Record, part_arguments
from gpu_waits import Waits
from gpu_works import describe
from harness import Bench, Claim, claim_of
from torch.profiler import ProfilerActivity, profile

ROUNDS = 5
SECONDS = 2.0  # of a claim of the other benchmarks, if more rounds fit than those it must have
PROFILED_STEPS = 10
# of the other benchmarks: script, function, and which of its claims
OTHERS = {
    "labeling": ("soft_labels", "labeling", 0),
    "Laplace": ("laplace_teacher", "predict", 0),
    "variational head": ("variational_teacher", "claims", 0),
    "whole network": ("variational_teacher", "claims", 2),
    "Laplace, memory": ("laplace_teacher", "predict", 1),
    "Laplace, fit": ("laplace_teacher", "claims", 2),
    "IVON": ("ivon_step", "claims", 0),
}
SMALL = {"student": "cnn6_small", "teacher": "cnn16_small", "classes": 10, "side": 8, "examples": 64}
SMALL |= {"batch": 8, "warmup": 1, "steps": 2}


class Speed:
    """What is measured, by name, in order of worth.

    Args:
        options: of the part.
    """

    def __init__(self, options: Namespace):
        self.options, self.toy = options, options.toy
        device = torch.device(options.device)
        self.setup = Setup(device, **SMALL) if options.toy else Setup(device)
        self.rounds = 1 if options.toy else ROUNDS
        self.bench = Bench(device, SECONDS)
        self.text = f"{self.setup.student}, {'bf16' if self.bench.on_gpu else 'float32'}, batch {self.setup.batch}"

    @cached_property
    def labels(self) -> Any:
        return stored_labels(self.setup)

    def measurements(self) -> dict[str, Callable[[], Any]]:
        """A measurement is a claim, or what can be read for its own sake."""
        ours = {
            "trainer, channels_last": partial(self.against_a_loop, True),
            "stored labels": self.distilling,
            "host waits in a step": self.waits,
            "trainer, channels first": partial(self.against_a_loop, False),
            "trainer with transformers' look at each loss": self.with_a_look_at_each_loss,
            "where a step's time goes": self.profiled,
            "torchdistill": self.torchdistill,
        }
        theirs = {name: partial(self.of_the_others, *where) for name, where in OTHERS.items()}
        first = ["trainer, channels_last", "stored labels"]
        second = ["labeling", "Laplace", "whole network", "where a step's time goes"]
        everything = ours | ({} if self.toy else theirs)
        order = [*first, *second, *everything]
        return {name: everything[name] for name in dict.fromkeys(order) if name in everything}

    def against_a_loop(self, channels_last: bool) -> Claim:
        kind = "channels_last" if channels_last else "channels first"
        text = f"images a second under the trainer / in a loop written by hand ({self.text}, {kind})"
        ours, theirs = (
            partial(side, self.setup, channels_last=channels_last) for side in (trainer_step, written_step)
        )
        return claim_of(text, self.in_turn(ours, theirs), 0.90, "higher")

    def distilling(self) -> Claim:
        text = f"step towards stored labels, top 10 and tail of 4 views / step on labels alone ({self.text})"
        ours = partial(trainer_step, self.setup, labels=self.labels)
        return claim_of(text, self.in_turn(ours, partial(trainer_step, self.setup)), 1.02)

    def with_a_look_at_each_loss(self) -> Claim:
        text = f"step with logging_nan_inf_filter, as transformers sets it / without it ({self.text})"
        ours = partial(trainer_step, self.setup, logging_nan_inf_filter=True)
        return claim_of(text, self.in_turn(ours, partial(trainer_step, self.setup)), None)

    def torchdistill(self) -> Claim:
        text = f"torchdistill's step, which asks {self.setup.teacher} / ours towards stored labels ({self.text})"
        theirs = partial(torchdistill_step, self.setup)
        return claim_of(text, self.in_turn(theirs, partial(trainer_step, self.setup, labels=self.labels)), None)

    def in_turn(self, ours: Callable[[], float], theirs: Callable[[], float]) -> list[tuple[float, float]]:
        """Seconds of both, round by round, after one round that isn't counted."""
        pairs = []
        for number in range(self.rounds + 1):
            sides = (ours, theirs) if number % 2 else (theirs, ours)
            seconds = [side() for side in sides]
            pairs.append(tuple(seconds if number % 2 else reversed(seconds)))
        return pairs[1:]

    def of_the_others(self, script: str, function: str, number: int) -> Claim:
        """One claim of another benchmark; those before it are measured too, where they share a function."""
        subject = getattr(import_module(script), function)
        return next(islice(subject(self.bench), number, None))

    def waits(self) -> dict[str, Any]:
        """Where the host waits in a step of the trainer, and how often."""
        if not self.bench.on_gpu:
            return {"not looked at": "only CUDA tells"}
        trainer = trainer_of(self.setup, labels=self.labels, max_steps=8)
        waits = Waits(first=4, last=8)
        trainer.add_callback(waits)
        with waits.watching():
            trainer.train()
        counted = {place: f"{waits.found.count(place) / 4:g} times a step" for place in sorted(set(waits.found))}
        return counted or {"nowhere": "0 times a step"}

    def profiled(self) -> dict[str, Any]:
        """Tables of torch's profiler, into ``profile.txt``; the share of the time in which the device had work."""
        short = replace(self.setup, steps=min(PROFILED_STEPS, self.setup.steps))
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self.bench.on_gpu
        pages, shares = [], {}
        for name, labels in (("on labels alone", None), ("towards stored labels", self.labels)):
            watched = profile(activities=activities)
            seconds = trainer_step(short, around=watched, labels=labels)
            events = watched.key_averages()
            kernels = [event for event in events if str(event.device_type).endswith("CUDA")]
            busy = sum(kernel.self_device_time_total for kernel in kernels) / 1e6
            shares[name] = f"{1e3 * seconds:.3g} ms a step, device busy {busy / (seconds * short.steps):.0%} of it"
            pages += [f"A step under the trainer {name}: {shares[name]}"]
            pages += [tabulated(events, by) for by in ("device", "cpu")]
        (self.options.work / "profile.txt").write_text("\n\n".join(pages) + "\n")
        return shares


def tabulated(events: Any, by: str) -> str:
    """The largest 30 by time of the device or the processor, under whatever name this version of torch sorts by."""
    names = {"device": ("self_device_time_total", "self_cuda_time_total"), "cpu": ("self_cpu_time_total",)}
    for name in names[by]:
        try:
            return events.table(sort_by=name, row_limit=30, max_name_column_width=60)
        except (AttributeError, ValueError, KeyError):
            continue
    return events.table(row_limit=30)


def main(argv: list[str] | None = None) -> int:
    """Measure what isn't measured yet."""
    options = part_arguments(argv)
    record = Record(options.record)
    describe(record, options.device)
    if options.device == "cuda":
        torch.backends.cudnn.benchmark = True
    speed = Speed(options)
    for name, measure in speed.measurements().items():
        if name in record:
            continue
        with record.attempt(name):
            found = measure()
            record.add(name, asdict(found) | {"verdict": found.verdict} if isinstance(found, Claim) else found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
