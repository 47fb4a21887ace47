"""Values that the cloud's tests share: results, messages, a store in a directory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert

from cloud.settings import StoreSettings
from cloud.stores.base import RuleRow, StatusMessage, Store
from cloud.stores.sql import SqlStore
from cloud.stores.tables import assignments, objects
from common.models import FAIL, SUCCESS, Epoch, ErrorMsg, ExecResult, NodeBirth

AT = 1_763_683_200.0


def epoch(n: int = 1, tail: int = 0) -> Epoch:
    """An epoch with a made-up uuid."""
    return Epoch(n, f"0193aaaa-0000-7000-8000-{n:08d}{tail:04d}")


def ok(rule: str = "overheat", **more: Any) -> ExecResult:
    """A SUCCESS of 100 us."""
    return ExecResult(rule, "default", SUCCESS, **{"outcome": "delivered", "duration_us": 100, **more})


def bad(rule: str = "overheat", detail: str = "no answer", **more: Any) -> ExecResult:
    """A FAIL with a detail."""
    fields = {"outcome": "failed", "reason": "timeout", "duration_us": 300, **more}
    return ExecResult(rule, "default", FAIL, ErrorMsg(detail, "2026-01-01T00:00:00Z"), **fields)


def status(
    sequence: int,
    results: list[ExecResult] | None = None,
    *,
    node: str = "edge-1",
    of: Epoch | None = None,
    low: int = 1,
    at: float = AT,
) -> StatusMessage:
    """A checked rulestatus message as the store takes it; one SUCCESS when nothing else is said."""
    held = [ok()] if results is None else results
    return StatusMessage(node, of or epoch(), sequence, low, f"id-{sequence}", held, at, "default")


def birth(n: int = 1, *, node: str = "edge-1", session: int = 1, online: bool = True, **more: Any) -> NodeBirth:
    """A birth (or, with ``online=False``, an offline notice) of epoch ``n``."""
    return NodeBirth(node, str(epoch(n)), online=online, session=session, **more)


def url_in(directory: Path) -> str:
    """URL of the store that belongs to ``directory``; the suite's PostgreSQL half puts its own in this place."""
    return f"sqlite:///{directory / 'cloud.db'}"


@asynccontextmanager
async def open_store(
    directory: Path, *, fault: Callable[[str], None] = lambda point: None, mark_changes: bool = False, **settings: Any
) -> AsyncIterator[SqlStore]:
    """A started store of ``directory``, stopped at the end."""
    store = SqlStore(url_in(directory), StoreSettings(**settings), fault=fault, mark_changes=mark_changes)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


async def totals(store: Store, rule: str = "overheat") -> tuple[int, int]:
    """(SUCCESS, FAIL) of a rule over all nodes."""
    rows: list[RuleRow] = await store.rules(rule=rule)
    return sum(row.success for row in rows), sum(row.fail for row in rows)


async def want(store: SqlStore, rule: str, uid: str, version: int = 1, **nodes: dict[str, Any]) -> None:
    """Write desired state as ``apply`` does: the rule, in the place of one of its name, and its row on each node.

    ``_`` in a node's name stands for -.
    """
    key = {"kind": "Rule", "namespace": "default", "name": rule, "uid": uid}

    def work(conn: Connection) -> None:
        made = {"manifest": "{}", "origin": "api", "created_at": AT, "updated_at": AT}
        conn.execute(delete(objects).filter_by(kind="Rule", namespace="default", name=rule))
        conn.execute(insert(objects).values(**key, **made, version=version))
        for node, fields in nodes.items():
            row = {"desired": version, "reported": version, "state": "applied", "error": "", "changed_at": AT, **fields}
            conn.execute(insert(assignments).values(node=node.replace("_", "-"), **key, **row))

    await store.write(work)
