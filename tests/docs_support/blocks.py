"""What stands in the fenced blocks of README.md and docs/: commands, manifests, settings, payloads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """One fenced block: its page, the line on which it begins, its language, and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        """A name for the test's report."""
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    """The page as people write it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The page's fenced blocks."""
    text = page.read_text()
    return [
        Block(name_of(page), text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in _FENCE.finditer(text)
    ]


def of_language(*languages: str) -> list[Block]:
    """The blocks of all pages in one of ``languages``; the template in docs/decisions/README.md has none of ours."""
    return [block for page in pages() for block in blocks(page) if block.language in languages]


def commands(page: Path) -> list[str]:
    """The shell commands of a page: each line of an ``sh`` block, and of ``console`` blocks what follows ``$ ``."""
    found = []
    for block in blocks(page):
        lines = block.text.splitlines()
        if block.language == "sh":
            found += [line for line in lines if line.strip() and not line.startswith("#")]
        elif block.language == "console":
            found += [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return found


def links(page: Path) -> list[str]:
    """Targets of the page's links that are files, without the part after ``#``."""
    targets = (target.partition("#")[0] for target in _LINK.findall(_FENCE.sub("", page.read_text())))
    return [target for target in targets if target and "://" not in target]


def inline(page: Path) -> list[str]:
    """What stands between single backticks."""
    return _CODE.findall(_FENCE.sub("", page.read_text()))


def tables(page: Path) -> list[list[str]]:
    """All rows of the page's tables, as cells, heads and rulers included."""
    rows = (line for line in page.read_text().splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
