"""What the GPU script needs on a machine without a network: wheels and CIFAR-100, in three folders to be carried.

    python benchmarks/gpu_kit.py --data CIFAR100 --output build/gpu-kit

Such a machine is taken to have PyTorch, torchvision, transformers, timm and their like for Python 3.12. ``part-1``
holds wheels of what else hf_bkd imports, the test split and the first training images, ``part-2`` and ``part-3`` the
others, so that all are of one size, 46 MB: the dataset's own PNG, byte for byte, which no lossless code that Pillow
reads makes a quarter smaller. Of the training images the script takes those that are there.
"""

import shutil
import subprocess
import sys
from argparse import ArgumentParser
from importlib.metadata import version
from pathlib import Path

# hf_bkd's requirements, and theirs, that machines for deep learning lack; none needs a compiler
WHEELS = (
    "datasets", "dill", "multiprocess", "xxhash", "evaluate", "laplace-torch", "curvlinops-for-pytorch",
    "backpack-for-pytorch", "asdfghjkl", "einconv", "unfoldNd", "opt_einsum", "torchdistill",
)  # fmt: skip
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")
MOST_BYTES = 60_000_000
PARTS = 3


def wheels(folder: Path) -> None:
    """Download the wheels, in the versions that are installed here."""
    named = [f"{name}=={version(name)}" for name in WHEELS]
    choice = ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON]
    choice += [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *choice, "-d", str(folder), *named]
    subprocess.run(command, check=True)


def data(source: str, output: Path) -> None:
    """Write CIFAR-100 as parquet files: the test split into the first part, the training split where there is room."""
    from hf_bkd import load_splits

    splits = load_splits(source, needed=("train", "test"))
    splits["test"].to_parquet(made(output / "part-1") / "test-00000-of-00001.parquet")
    train, there = splits["train"], sizes(output)["part-1"]
    rows = first_rows(len(train), train.data.nbytes, there)
    ends = [0, *(rows + (len(train) - rows) * number // (PARTS - 1) for number in range(PARTS))]
    for number, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
        name = f"train-{number:05d}-of-{PARTS:05d}.parquet"
        train.select(range(start, end)).to_parquet(made(output / f"part-{number + 1}") / name)


def first_rows(rows: int, size: int, there: int) -> int:
    """How many of ``rows`` rows of ``size`` bytes fit beside ``there`` bytes for all parts to be of one size."""
    room = (size + there) / PARTS - there
    return max(0, int(rows * room / size))


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sizes(output: Path) -> dict[str, int]:
    """Bytes of each part."""
    return {
        part.name: sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
        for part in sorted(output.glob("part-*"))
    }


def main(argv: list[str] | None = None) -> dict[str, int]:
    """Gather the kit; SystemExit if a part is too large to be carried."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="uoft-cs/cifar100", help="CIFAR-100: folder, or name on the Hub")
    parser.add_argument("--output", type=Path, default=Path("build/gpu-kit"))
    options = parser.parse_args(argv)
    shutil.rmtree(options.output, ignore_errors=True)
    wheels(made(options.output / "part-1" / "wheels"))
    data(options.data, options.output)
    found = sizes(options.output)
    for part, size in found.items():
        print(f"{options.output / part}: {size / 1e6:.1f} MB")
    if max(found.values()) > MOST_BYTES:
        sys.exit(f"a part is larger than {MOST_BYTES / 1e6:.0f} MB: divide the training split into more of them")
    return found


if __name__ == "__main__":
    main()
