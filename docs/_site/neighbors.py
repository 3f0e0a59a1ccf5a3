"""The site has what its pages link to outside of docs/: cards with their plots as pages, sources as plain files."""

import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()\.\./((?:model_cards|recipes|hf_bkd)/[^)\s#]+|[A-Z]\w+\.md)")
DETAILS = re.compile(r"<details>")  # Markdown inside is rendered, as on GitHub


def on_files(files: Files, config: dict) -> Files:
    """Add the cards, and every file that a page links to."""
    linked = {name for page in Path(config["docs_dir"]).rglob("*.md") for _, name in LINK.findall(page.read_text())}
    cards = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("model_cards/*/*") if path.is_file()}
    for name in sorted(linked | cards):
        source = ROOT / name
        if name.endswith((".md", ".png", ".json")):
            files.append(File(name, str(ROOT), config["site_dir"], config["use_directory_urls"]))
        elif source.is_file():
            files.append(File.generated(config, f"{name}.txt", content=source.read_text()))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links out of docs/ as links within the site."""
    markdown = LINK.sub(lambda match: match[1] + match[2] + (".txt" if match[2].endswith(".py") else ""), markdown)
    markdown = markdown.replace("](docs/", "](")  # of the changelog, which lies beside docs/
    return DETAILS.sub("<details markdown>", markdown)
