"""First light on a GPU: does everything work there, how fast is it, and the first real cells of a study.

    python benchmarks/gpu.py --minutes 8 --output runs/gpu --data CIFAR100 [--only PART] [--toy]

The parts come in order of worth, each in a process of its own with a time of its own; what one leaves of it goes to
those after it. What is finished stands in ``--output`` a few seconds later, whatever becomes of the rest:

    gpu.json      card, versions, commit; each part's results and what failed, with the end of its traceback
    gpu.md        the same to be read
    results.json  the study's finished cells, and labels-*.zip their soft labels
    profile.txt   where the time of a training step goes

A second start with the same ``--output`` goes on: what is finished there is not run again, what failed is.
"""

import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

import gpu_cells_kept as cells_kept  # noqa: E402
from gpu_page import page_of  # noqa: E402
from gpu_record import AGAIN, read_json, write_json, write_text  # noqa: E402

POLL_SECONDS = 2.0
GRACE_SECONDS = 5.0  # that a part has to end by itself


@dataclass(frozen=True)
class Part:
    """share: of the minutes, at most; the last part has all that is left."""

    name: str
    script: str
    share: float


PARTS = (Part("works", "gpu_works", 0.3), Part("speed", "gpu_speed", 0.35), Part("cells", "gpu_cells", 1.0))


class Script:
    """One start of the script.

    Args:
        options: of the command line.
        parts: what to run; those of the script if not given.
    """

    def __init__(self, options: Namespace, parts: tuple[Part, ...] = PARTS):
        self.options, self.output, self.work = options, options.output, options.work
        self.parts = parts
        self.end = time.time() + 60 * options.minutes
        self.report = read_json(self.output / "gpu.json")
        commit = commit_of(ROOT)
        if self.report.get("commit") != commit or self.report.get("toy", False) != options.toy:
            self.report = {"commit": commit, "toy": options.toy, "parts": {}}
        self.report["started"] = time.strftime("%Y-%m-%d %H:%M")

    def run(self) -> None:
        """Run the parts, whatever becomes of each."""
        self.output.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(parents=True, exist_ok=True)
        cells_kept.restore(self.output, self.work / "study")
        for part in self.parts:
            self._forget_failures(part)
        self._write()
        chosen = [part for part in self.parts if self.options.only in (None, part.name)]
        for part in chosen:
            seconds = self.end - time.time()
            if part is not chosen[-1]:
                seconds = min(seconds, 60 * self.options.minutes * part.share)
            if seconds > 0:
                self._run_part(part, seconds)
        self._write()

    def _run_part(self, part: Part, seconds: float) -> None:
        started, status = time.time(), "cut off"
        try:
            status = self._until(part, started + seconds)
        except KeyboardInterrupt:
            raise
        except Exception as error:
            status = f"failed: {type(error).__name__}: {error}"
        finally:
            self.report["parts"].setdefault(part.name, {}).update(
                status=status, seconds=round(time.time() - started, 1)
            )
            self._write()

    def _until(self, part: Part, end: float) -> str:
        """Run a part, in several processes if the card forsakes one that has got further; how it ended."""
        while True:
            before = self._size(part)
            code = self._here(part, end) if self.options.in_process else self._process(part, end)
            if code is None:
                return "cut off"
            if code != AGAIN or self._size(part) == before:
                return "finished" if code == 0 else f"failed: exit code {code}"

    def _here(self, part: Part, end: float) -> int | None:
        try:
            return import_module(part.script).main(self._arguments(part, end)) or 0
        except SystemExit as ending:
            return ending.code

    def _process(self, part: Part, end: float) -> int | None:
        """Exit code of a part's process; ``None`` if its time was over first."""
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        environment.setdefault("CUDA_VISIBLE_DEVICES", "0")  # of several cards the Trainer would use all
        command = [sys.executable, str(HERE / f"{part.script}.py"), *self._arguments(part, end)]
        with (self.work / f"{part.name}.log").open("a") as log:
            process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
            try:
                while process.poll() is None and time.time() < end:
                    time.sleep(min(POLL_SECONDS, max(0.0, end - time.time())))
                    self._write()
                return process.poll()
            finally:
                stop(process)

    def _arguments(self, part: Part, end: float) -> list[str]:
        options = self.options
        arguments = ["--record", str(self._record(part)), "--work", str(self.work), "--data", options.data]
        arguments += ["--device", options.device, "--until", str(end)]
        return [*arguments, "--toy"] if options.toy else arguments

    def _record(self, part: Part) -> Path:
        return self.work / f"{part.name}.json"

    def _size(self, part: Part) -> int:
        record = read_json(self._record(part))
        return len(record.get("results", {})) + len(record.get("failures", {}))

    def _forget_failures(self, part: Part) -> None:
        """Begin a part with what was finished, so that it runs the rest."""
        finished = self.report["parts"].get(part.name, {}).get("results", {})
        write_json(self._record(part), {"results": finished})

    def _write(self) -> None:
        """All that is finished by now, into the output folder."""
        for part in self.parts:
            record = read_json(self._record(part))
            entry = self.report["parts"].setdefault(part.name, {"status": "not started"})
            entry |= {"results": record.get("results", {}), "failures": record.get("failures", {})}
            facts = record.get("facts", {})
            self.report["environment"] = facts.pop("environment", None) or self.report.get("environment")
            entry |= {"facts": facts} if facts else {}
        profile = self.work / "profile.txt"
        if profile.is_file():
            write_text(self.output / "profile.txt", profile.read_text())
        cells_kept.keep(self.work / "study", self.output)
        write_json(self.output / "gpu.json", self.report)
        write_text(self.output / "gpu.md", page_of(self.report, read_json(self.output / "results.json")))


def stop(process: subprocess.Popen) -> None:
    """End a process that is still there."""
    for end in (process.terminate, process.kill):
        if process.poll() is not None:
            return
        end()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def commit_of(folder: Path) -> str:
    """The commit of a checkout, with a plus if it was changed; "unknown" where git isn't there to say."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def parse(argv: list[str] | None) -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="in all")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu", help="folder of what is kept")
    parser.add_argument("--work", type=Path, help="folder of checkpoints and logs; --output with -work, if not given")
    parser.add_argument("--data", default="", help="folder of CIFAR-100, or of the parts that make gpu-kit made")
    parser.add_argument("--only", choices=[part.name for part in PARTS], help="run one part")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="walk through at sizes that a CPU can bear")
    parser.add_argument("--in_process", action="store_true", help="all in this process, and nothing is cut off")
    options = parser.parse_args(argv)
    options.output, work = options.output.absolute(), options.work
    options.work = work.absolute() if work else options.output.with_name(options.output.name + "-work")
    return options


def main(argv: list[str] | None = None, parts: tuple[Part, ...] = PARTS) -> dict[str, Any]:
    """Run the script, and return what it found."""
    options = parse(argv)
    script = Script(options, parts)
    script.run()
    print((options.output / "gpu.md").read_text())
    return script.report


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a part doesn't outlive the script
    main()
