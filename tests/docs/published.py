"""What pages quote of published results, between `<!-- made: NAME -->` and `<!-- end -->`.

`python -m tests.docs.published` writes it.
"""

import re
from pathlib import Path

from . import published_proteins, published_teachers
from .pages import ROOT

MADE = published_teachers.MADE | published_proteins.MADE
PLACE = re.compile(r"(<!-- made: ([^>]+?) -->).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return the pages that quote any."""
    return [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if quoted(path)]


def quoted(path: Path) -> list[str]:
    """Return the names of what a page quotes."""
    return [name for _, name, _ in PLACE.findall(path.read_text())]


def written(path: Path) -> str:
    """Return a page with what the published results say in its places."""
    return PLACE.sub(lambda match: match[1] + MADE[match[2]]() + match[3], path.read_text())


if __name__ == "__main__":
    for each in pages():
        each.write_text(written(each))
