"""Does it work: the tests marked ``gpu``, each written down as soon as it has run.

python benchmarks/gpu_works.py --record FILE --work FOLDER
"""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from gpu_record import AGAIN, Record, is_broken, part_arguments

ROOT = Path(__file__).parents[1]
FILES = ("test_views.py", "test_teachers.py", "test_trainer.py")  # in order of worth; compiling comes last
TOY = "crop or deterministic-of"  # tests that take no time


class Reporter:
    """A plugin of pytest's that writes down each test's outcome, and leaves out those that have one."""

    def __init__(self, record: Record):
        self.record = record

    @pytest.hookimpl(trylast=True)  # after what was not chosen is gone
    def pytest_collection_modifyitems(self, config: Any, items: list[pytest.Item]) -> None:
        self.record.note(planned=len(items))
        left = [item for item in items if name_of(item.nodeid) not in self.record]
        config.hook.pytest_deselected(items=[item for item in items if item not in left])
        items[:] = left

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = name_of(report.nodeid)
        if report.failed:
            self.record.fail(name, report.longreprtext.strip().splitlines())
            if is_broken(report.longreprtext):
                pytest.exit("the card can't be used by this process any more", returncode=AGAIN)
        elif report.skipped:
            self.record.add(name, {"outcome": "skipped", "why": str(report.longrepr[-1]), "seconds": 0.0})
        elif report.when == "call":
            self.record.add(name, {"outcome": "passed", "seconds": round(report.duration, 2)})


def name_of(nodeid: str) -> str:
    """``FILE::TEST``, wherever pytest was started from."""
    file, _, test = nodeid.partition("::")
    return f"{Path(file).name}::{test}"


def main(argv: list[str] | None = None) -> int:
    """Run the tests; the exit code is 0 whether they pass or not, unless they have to be run on by another process."""
    options = part_arguments(argv)
    os.environ["HF_BKD_GPU_DEVICE"] = options.device
    record = Record(options.record)
    describe(record, options.device)
    tests = [str(ROOT / "tests" / "gpu" / name) for name in FILES]
    chosen = ["-k", TOY] if options.toy else []
    quiet = ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    code = pytest.main(["-m", "gpu", *chosen, *quiet, *tests], plugins=[Reporter(record)])
    if code == pytest.ExitCode.USAGE_ERROR or (code == pytest.ExitCode.INTERRUPTED and not record.results):
        record.fail("collecting the tests", [f"pytest ended with {code!r}: see the part's log"])
    return AGAIN if code == AGAIN else 0


def describe(record: Record, device: str) -> None:
    """Write down what the part runs on."""
    with record.attempt("describing the machine"):
        import torch
        from harness import described

        environment = described(torch.device(device))
        if device == "cuda":
            memory = torch.cuda.get_device_properties(0).total_memory / 2**30
            environment |= {"memory": f"{memory:.0f} GiB", "CUDA": torch.version.cuda}
            environment |= {"cuDNN": str(torch.backends.cudnn.version())}
        record.note(environment=environment)


if __name__ == "__main__":
    sys.exit(main())
