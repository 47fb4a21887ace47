"""``chain fmt`` of a YAML file: the texts of its blocks in canonical form, everything else as it is.

Only blocks that are written as literal scalars (``block: |``) are touched, line by line in their place: keys, comments
and the order of the file stay.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.chain.errors import ChainError, ChainErrors
from common.chain.format import format_text
from common.chain.loader import load_yaml
from common.chain.nodes import BlockSource, LibSource


def format_yaml(text: str, *, file: str = "") -> str:
    """Return the YAML text with formatted blocks.

    Raises ChainErrors where it does not load, and with the errors of all blocks that do not parse.
    """
    return format_blocks(text, load_yaml(text, file=file).values())


def format_blocks(text: str, libs: Iterable[LibSource]) -> str:
    """As ``format_yaml``, for lists of chains whose blocks stand in the text at the lines that they name."""
    lines = text.split("\n")
    errors: list[ChainError] = []
    for where, block in _last_first(libs):
        try:
            formatted = format_text(block.text)
        except ChainErrors as wrong:
            errors += [error.at(where, block.text) for error in reversed(wrong.errors)]
            continue
        _replace(lines, block, formatted)
    if errors:
        raise ChainErrors(errors[::-1])
    return "\n".join(lines)


def _last_first(libs: Iterable[LibSource]) -> list[tuple[str, BlockSource]]:
    """The blocks from the end of the file to its beginning, each once: what an alias names stands in one place."""
    found = {
        (block.line, block.text): (f"{lib.id}:{chain.id}:{block.id}", block)
        for lib in libs
        for chain in lib.chains
        for block in chain.blocks
    }
    return [found[place] for place in sorted(found, reverse=True)]


def _replace(lines: list[str], block: BlockSource, formatted: str) -> None:
    """Put the formatted lines in the place of the block's, where the file has them line by line."""
    old = block.text.rstrip("\n").split("\n")
    first = block.line - 1
    there = lines[first : first + len(old)]
    indents = {line[: len(line) - len(text)] for line, text in zip(there, old, strict=False) if text}
    indent = next(iter(indents), "")
    if len(indents) != 1 or indent.strip() or not indent:
        return  # a plain or quoted scalar
    if any(text and line != indent + text for line, text in zip(there, old, strict=True)):
        return  # a folded one
    new = formatted.rstrip("\n").split("\n")
    lines[first : first + len(old)] = [indent + line if line else "" for line in new]
