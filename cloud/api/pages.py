"""Pages: rows up to a limit, and a cursor that leads to the next ones (experience U5).

A cursor says where the last page ended, never how many rows there were: what is added or goes away meanwhile moves no
row from one page to another. Where the operation can begin at an id or a key, as in the lists that grow with the fleet,
the store reads no more than the page.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from cloud.api.problems import ApiError
from cloud.operations import ID_MAX

CURSOR_CHARS_MAX = 1024

Ask = Callable[[dict[str, Any]], Awaitable[Any]]
Key = tuple[Any, ...]
_Cut = tuple[list[Any], Key | None]  # rows of the page, and where it ends when more follow


class Page(msgspec.Struct, frozen=True):
    """Rows, and the cursor of the next ones; None after the last."""

    items: list[Any]
    next: str | None


async def page(operation: str, ask: Ask, args: dict[str, Any], limit: int, cursor: str) -> Page:
    """Return one page of an operation's rows. Raises ApiError for a cursor that is not one of this operation's."""
    mark = _read(cursor, operation) if cursor else None
    if mark is not None and operation in _TEXTS and not (len(mark) == _TEXTS[operation] and _are_texts(mark)):
        raise _wrong()
    if operation in _BY_ID:
        items, end = await _by_id(ask, args, limit, mark)
    elif operation == "get.assignments" or args.get("per_node"):
        items, end = await _in_store(ask, args, limit, mark, _KEYS[operation])
    else:
        rows, key = await ask(args), _KEYS.get(operation)
        items, end = _by_key(rows, key, limit, mark) if key else _by_place(rows, limit, mark)
    return Page(items, _write((operation, *end)) if end is not None else None)


async def _by_id(ask: Ask, args: dict[str, Any], limit: int, mark: Key | None) -> _Cut:
    """The newest rows first; with ``since`` those above that id, the oldest first, for who follows."""
    if mark is not None:
        if len(mark) != 2 or mark[0] not in ("since", "before") or not _whole(mark[1]):
            raise _wrong()
        args = {**args, mark[0]: mark[1]}
    forward = "since" in args
    rows = sorted(await ask({**args, "limit": limit + 1}), key=lambda row: row.id, reverse=not forward)
    kept = rows[:limit]
    return kept, ("since" if forward else "before", kept[-1].id) if len(rows) > limit else None


async def _in_store(ask: Ask, args: dict[str, Any], limit: int, mark: Key | None, key: Callable[[Any], Key]) -> _Cut:
    """The rows after the mark, in the store's own order, which need not be Python's."""
    rows = await ask({**args, "limit": limit + 1, "after": list(mark or ())})
    kept = rows[:limit]
    return kept, key(kept[-1]) if len(rows) > limit else None


def _by_key(rows: list[Any], key: Callable[[Any], Key], limit: int, mark: Key | None) -> _Cut:
    keyed = sorted(((key(row), row) for row in rows), key=lambda pair: pair[0])
    if mark is not None:
        try:
            keyed = [pair for pair in keyed if pair[0] > mark]
        except TypeError:
            raise _wrong() from None
    kept = keyed[:limit]
    return [row for _, row in kept], kept[-1][0] if len(keyed) > limit else None


def _by_place(rows: list[Any], limit: int, mark: Key | None) -> _Cut:
    if mark is not None and (len(mark) != 1 or not _whole(mark[0])):
        raise _wrong()
    begin = mark[0] if mark else 0
    end = begin + limit
    return rows[begin:end], (end,) if end < len(rows) else None


def _fields(*names: str) -> Callable[[Any], Key]:
    return lambda row: tuple(row[name] if isinstance(row, Mapping) else getattr(row, name) for name in names)


def _error_key(row: Any) -> Key:
    digest = blake2b(row.detail.encode(), digest_size=8).hexdigest()
    return (row.namespace, row.rule, row.uid, -row.last, row.reason, digest)


_BY_ID = {"get.results", "dlq.ls", "get.audit"}
# operation -> the key by which its rows are in order; other operations' rows have their place in the answer
_KEYS: Mapping[str, Callable[[Any], Key]] = {
    "get.nodes": _fields("node"),
    "get.rules": _fields("namespace", "rule", "node", "uid"),
    "get.errors": _error_key,
    "get.objects": _fields("kind", "namespace", "name"),
    "get.assignments": _fields("kind", "namespace", "name", "node", "uid"),
    "get.sinks": _fields("sink"),
    "get.losses": lambda row: (-row.received_at, row.node, row.id),
}


_TEXTS = {"get.rules": 4, "get.assignments": 5}  # keys that are texts only, and of how many


def _are_texts(mark: Key) -> bool:
    return all(isinstance(value, str) and "\0" not in value for value in mark)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= ID_MAX


def _write(key: Key) -> str:
    return urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def _read(cursor: str, operation: str) -> Key:
    if len(cursor) > CURSOR_CHARS_MAX:
        raise _wrong()
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        of, *mark = msgspec.json.decode(raw, type=list[str | int | float])
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise _wrong() from None
    if of != operation:
        raise _wrong()
    return tuple(mark)


def _wrong() -> ApiError:
    return ApiError("bad_request", "cursor: not one that this path gave; leave it out to begin anew")
