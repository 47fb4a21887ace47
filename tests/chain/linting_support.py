"""What the tests of lint share: a hook point, and findings as one line each."""

from __future__ import annotations

from collections.abc import Iterable

from common.chain.hookpoint import Access, HookPoint
from common.chain.lint import Finding, lint
from common.chain.loader import single

POINT = HookPoint("main", inputs={"REQ": Access.READ_ONLY, "RESP": Access.WRITABLE, "NODES": Access.READ_ONLY})


def short(finding: Finding) -> str:
    """A finding as ``severity CODE line:column message => fix``."""
    fix = f" => {finding.fix}" if finding.fix else ""
    return f"{finding.severity} {finding.code} {finding.span.line}:{finding.span.column} {finding.message}{fix}"


def lines(text: str, *, from_cyfs: bool = False) -> list[str]:
    """The findings of a text that is one block on ``POINT``."""
    found = lint([single(text)], point=POINT, from_cyfs=from_cyfs)
    return [short(finding) for finding in found if not from_cyfs or _of_cyfs(finding)]


def _of_cyfs(finding: Finding) -> bool:
    return finding.code.startswith("PC-LINT-CYFS-")


def codes(found: Iterable[Finding]) -> list[str]:
    """Block and code of findings."""
    return [f"{finding.where.rpartition(':')[2]} {finding.code}" for finding in found]
