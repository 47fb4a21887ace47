"""Manifests as they were loaded, and findings: what is wrong with one, and where (flow F4).

``common.manifestfiles`` loads them; what would not work is for ``common.checks``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from common.rules import Rule, RuleEndpoint


class Finding(NamedTuple):
    """One thing that is wrong: where (line from 1, 0 when unknown), in which object, and what to do about it."""

    file: str
    line: int
    kind: str
    name: str
    text: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return where + (f"{self.kind} {self.name}: " if self.kind else "") + self.text


class Manifest(NamedTuple):
    """A Rule or RuleEndpoint, and where it and its keys stand (``lines``: dotted key -> line; ``files`` likewise, for
    keys that stand in another file than the rest).
    """

    value: Rule | RuleEndpoint
    file: str = ""
    line: int = 0
    lines: Mapping[str, int] = {}
    files: Mapping[str, str] = {}

    def finding(self, key: str, text: str) -> Finding:
        """A Finding at ``key``, or at the nearest key around it."""
        file, line = self.file, 0
        while not line and key:
            line, file = self.lines.get(key, 0), self.files.get(key, self.file)
            key = key.rpartition(".")[0]
        return Finding(file, line or self.line, self.value.kind, "/".join(self.value.key), text)


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that follow an unknown name: the nearest known one, or all of them."""
    import difflib  # for an error only: a start does not pay for it

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known) or 'none'}"
