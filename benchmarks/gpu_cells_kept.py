"""What comes back of a study that runs on a GPU: its finished cells' records and soft labels, in few small files.

The study's folder holds teachers and checkpoints too, of hundreds of megabytes. With the labels, students can go on
being taught where there is no GPU.
"""

import zipfile
from pathlib import Path
from typing import Any

from gpu_record import read_json, write_json

MOST_BYTES = 15_000_000  # of an archive, if it holds several cells' labels
HEADER, SETTINGS = "header.json", "settings.json"
CONTENT = ("train", "cost.json")  # of a labels' folder; the teacher's answers for the test split are in the records


def keep(study: Path, output: Path) -> None:
    """Write ``results.json`` and ``labels-N.zip`` of what is finished in a study's folder."""
    arms = sorted(study.glob("arms/*/*/*.json"), key=lambda path: path.stat().st_mtime)
    costs = [path for path in study.glob("labels/*/*/*/cost.json") if not path.parent.name.startswith(".")]
    if not arms and not costs:
        return
    files = [str(path.relative_to(study)) for path in arms]
    if read_json(output / "results.json").get("files") != files:
        results = read_json(study / HEADER) | {"settings": read_json(study / SETTINGS), "files": files}
        write_json(output / "results.json", results | {"arms": [read_json(path) for path in arms]})
    there = {name for archive in archives(output) for name in folders_in(archive)}
    for cost in sorted(costs, key=lambda path: path.stat().st_mtime):
        if str(cost.parent.relative_to(study)) not in there:
            _add(cost.parent, study, output)


def restore(output: Path, study: Path) -> None:
    """Put back into a study's folder what :func:`keep` wrote, so that it is not run again."""
    results = read_json(output / "results.json")
    for name, record in zip(results.get("files", []), results.get("arms", []), strict=True):
        _put_back(study / name, record)
    if results:
        _put_back(study / SETTINGS, results["settings"])
        _put_back(study / HEADER, {k: v for k, v in results.items() if k not in ("arms", "files", "settings")})
    for archive in archives(output):
        with zipfile.ZipFile(archive) as content:
            for folder in folders_in(archive):
                if not (study / folder).is_dir():
                    content.extractall(study, [name for name in content.namelist() if name.startswith(f"{folder}/")])


def archives(output: Path) -> list[Path]:
    """The archives of soft labels, in the order in which they were begun."""
    return sorted(output.glob("labels-*.zip"), key=lambda path: int(path.stem.rpartition("-")[2]))


def folders_in(archive: Path) -> list[str]:
    """``labels/CONDITION/seed-S/NAME`` of the labels in an archive; none of one that can't be read."""
    try:
        with zipfile.ZipFile(archive) as content:
            return [name.removesuffix("/cost.json") for name in content.namelist() if name.endswith("/cost.json")]
    except (OSError, zipfile.BadZipFile):
        return []


def _put_back(path: Path, content: Any) -> None:
    if not path.is_file():
        write_json(path, content)


def _add(folder: Path, study: Path, output: Path) -> None:
    """One folder of labels into the last archive, or into a new one if that would be too large."""
    files = [path for part in CONTENT for path in (folder / part, *(folder / part).rglob("*")) if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    present = archives(output)
    fits = present and present[-1].stat().st_size + size <= MOST_BYTES
    target = present[-1] if fits else output / f"labels-{len(present) + 1}.zip"
    temporary = target.with_name(f".{target.name}")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        if fits:
            with zipfile.ZipFile(target) as before:
                for name in before.namelist():
                    archive.writestr(name, before.read(name), zipfile.ZIP_DEFLATED)
        for path in files:
            archive.write(path, path.relative_to(study))
    temporary.replace(target)
