"""Rows as people and programs read them: tables, single lines, JSON, YAML (experience U2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec


class Column(NamedTuple):
    """A column: its title, how a row becomes its text, and whether it is a number (aligned to the right)."""

    title: str
    text: Callable[[dict[str, Any]], str]
    number: bool = False
    width: int = 0  # in single lines
    clip: int = 0  # characters in a table, when it is not wide; 0: all
    wrap: bool = False  # goes on in further lines where a table would be too wide


WIDTH = 100  # characters of a table that goes to a file or pipe; on a terminal its own
WORD_CHARS_MAX = 24  # longer words are broken where a column has to be narrow
_GAP = 2


def _field(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: str(row.get(name, ""))


def _time(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: moment(row.get(name) or 0)


def moment(at: float) -> str:
    """Unix seconds as people read them, in UTC; ``-`` for 0."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S") if at else "-"


def _moment(name: str) -> Callable[[dict[str, Any]], str]:
    """A time that is RFC 3339 in the row, as ``_time`` shows those that are seconds."""
    return lambda row: str(row.get(name) or "-")[:19].replace("T", " ")


def _milliseconds(row: dict[str, Any]) -> str:
    return f"{row.get('duration_us', 0) / 1000:.1f}"


def _mean(row: dict[str, Any]) -> str:
    count = row.get("success", 0) + row.get("fail", 0)
    return f"{row.get('duration_sum', 0) / count / 1000:.1f}" if count else "-"


def _percentile(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: f"{row[name] / 1000:.1f}" if row.get(name) else "-"


def _condition(name: str) -> Callable[[dict[str, Any]], str]:
    """``True``, or ``False (Refused)``: why it is not."""

    def text(row: dict[str, Any]) -> str:
        status, reason = row.get(name) or "-", row.get(f"{name}_reason")
        return f"{status} ({reason})" if reason and status not in ("-", _FINE[name]) else status

    return text


_FINE = {"ready": "True", "degraded": "False"}


def _ready(row: dict[str, Any]) -> str:
    return "disabled" if row.get("enabled") is False else _condition("ready")(row)


def _status(name: str) -> Callable[[dict[str, Any]], str]:
    """A number of the node's own statistics, which leave out zeros; ``-`` before the first ones came."""
    return lambda row: str(row["status"].get(name, 0)) if row.get("status") else "-"


def _losses(row: dict[str, Any]) -> str:
    """``312 results dropped, 5 messages cloud_lost, some results set_aside`` where nobody knows how many."""
    sums = ((kind, lost.get("results"), lost.get("messages")) for kind, lost in (row.get("lost") or {}).items())
    told = [f"{f'{r} results' if r else f'{m} messages' if m else 'some results'} {kind}" for kind, r, m in sums]
    return ", ".join(told) or "-"


def _lost(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: str(row.get(name)) if row.get("results") or row.get("messages") else "unknown"


def _version(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: str(row.get(name) or "-")


def _on_nodes(row: dict[str, Any]) -> str:
    """``3/4``: on so many of the nodes that it is for it runs as wanted; ``-`` for a rule of nodes' own layers."""
    summary = row.get("summary")
    return f"{summary['applied']}/{summary['nodes']}" if summary else "-"


def _not_right(row: dict[str, Any]) -> str:
    """``1 failed, 2 stale``."""
    summary = row.get("summary") or {}
    told = [f"{summary[name]} {name}" for name in ("failed", "pending", "stale", "removing") if summary.get(name)]
    return ", ".join(told) or "-"


def plural(count: int, word: str) -> str:
    """``1 node``, ``3 nodes``."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def _said(row: dict[str, Any]) -> str:
    return " ".join(filter(None, (row.get("outcome", ""), row.get("reason", ""), row.get("detail", ""))))


NODES = (
    Column("NODE", _field("node")),
    Column("STATE", _field("state")),
    Column("LAST SEEN (UTC)", _time("last_seen")),
    Column("ACCEPTED", _status("accepted"), True),
    Column("CONFIRMED", _status("confirmed"), True),
    Column("PENDING", _status("pending_results"), True),
    Column("LOST", _losses, wrap=True),
)
NODES_WIDE = (
    *NODES,
    Column("SINCE (UTC)", _time("since")),
    Column("VERSION", _field("version")),
    Column("DUPLICATES", _field("duplicates"), True),
    Column("CONFLICT", lambda row: row.get("conflict") or "-"),
)
RULES = (
    Column("NAMESPACE", _field("namespace")),
    Column("RULE", _field("rule")),
    Column("VERSION", _version("version"), True),
    Column("NODES", _on_nodes),
    Column("SUCCESS", _field("success"), True),
    Column("FAIL", _field("fail"), True),
    Column("P95 MS", _percentile("p95_us"), True),
    Column("PER MIN", lambda row: str(row.get("last_minute", 0)), True),
    Column("READY", _ready, wrap=True),
    Column("DEGRADED", _condition("degraded"), wrap=True),
)
_LAST = (
    Column("LAST SUCCESS (UTC)", _time("last_success"), wrap=True),
    Column("LAST FAILURE (UTC)", _time("last_failure"), wrap=True),
)
RATES = (
    *RULES[:2],
    Column("SUCCESS/S", _field("success_per_s"), True),
    Column("FAIL/S", _field("fail_per_s"), True),
    Column("MEAN MS", lambda row: "-" if row.get("mean_ms") is None else f"{row['mean_ms']:.1f}", True),
    Column("SUCCESS", _field("success"), True),
    Column("FAIL", _field("fail"), True),
)
RULES_WIDE = (
    *RULES,
    Column("NOT RIGHT", _not_right),
    Column("MEAN MS", _mean, True),
    Column("P50 MS", _percentile("p50_us"), True),
    *_LAST,
    Column("ENABLED", _field("enabled")),
    Column("SOURCE", _field("source")),
    Column("TARGET", _field("target")),
    Column("OWNER", _field("origin")),
    Column("UID", _field("uid")),
)
RULES_PER_NODE = (
    *RULES[:2],
    Column("NODE", _field("node")),
    Column("SUCCESS", _field("success"), True),
    Column("FAIL", _field("fail"), True),
    Column("MEAN MS", _mean, True),
    *_LAST,
)
RESULTS = (
    Column("TIME", _field("time"), width=24),
    Column("NODE", _field("node"), width=12),
    Column("RULE", lambda row: f"{row.get('namespace', '')}/{row.get('rule', '')}", width=20),
    Column("STATUS", _field("status"), width=7),
    Column("MS", _milliseconds, True, width=7),
    Column("OUTCOME", _said, wrap=True),
)
ERRORS = (
    Column("RULE", lambda row: f"{row.get('namespace', '')}/{row.get('rule', '')}"),
    Column("REASON", _field("reason")),
    Column("COUNT", _field("count"), True),
    Column("LAST (UTC)", _time("last"), wrap=True),
    Column("NODE", _field("node")),
    Column("DETAIL", _field("detail"), wrap=True),
)
ERRORS_WIDE = (*ERRORS, Column("FIRST (UTC)", _time("first")), Column("STEP", _field("step")))
LOSSES = (
    Column("NODE", _field("node")),
    Column("KIND", _field("kind")),
    Column("RESULTS", _lost("results"), True),
    Column("MESSAGES", _lost("messages"), True),
    Column("TO (UTC)", _moment("until"), wrap=True),
    Column("REASON", _field("reason")),
    Column("DETAIL", _field("detail"), wrap=True),
)
LOSSES_WIDE = (*LOSSES, Column("FROM (UTC)", _moment("since")), Column("TOLD BY", _field("origin")))
LEDGER = (
    Column("NODE", _field("node")),
    Column("BALANCE", _field("balance")),
    Column("ACCEPTED", _field("accepted"), True),
    Column("CONFIRMED", _field("confirmed"), True),
    Column("PENDING", _field("pending"), True),
    Column("DEAD", _field("dead"), True),
    Column("DROPPED", _field("dropped"), True),
    Column("SET ASIDE", _field("set_aside"), True),
    Column("COUNTED", _field("counted"), True),
)
AUDIT = (
    Column("AT (UTC)", _time("at"), wrap=True),
    Column("WHO", _field("who")),
    Column("ROLE", _field("role")),
    Column("FROM", _field("remote"), wrap=True),
    Column("OPERATION", _field("operation")),
    Column("OUTCOME", _field("outcome")),
    Column("ARGUMENTS", _field("arguments"), clip=40, wrap=True),
    Column("DETAIL", _field("detail"), wrap=True),
)
FINDINGS = (
    Column("LEVEL", _field("level")),
    Column("CHECK", _field("check")),
    Column("WHAT", _field("what"), wrap=True),
    Column("WHAT TO DO", _field("do"), wrap=True),
)
SHARES = (
    Column("NODE", _field("node")),
    Column("STATE", _field("state")),
    Column("WANTED", _version("desired"), True),
    Column("RUNS", _version("reported"), True),
    Column("REFUSED", _version("refused"), True),
    Column("SUCCESS", _field("success"), True),
    Column("FAIL", _field("fail"), True),
)
ON_NODE = (
    Column("KIND", lambda row: "rule" if row.get("kind") == "Rule" else "endpoint"),
    Column("NAME", lambda row: f"{row.get('namespace', '')}/{row.get('name', '')}"),
    *SHARES[1:5],
    Column("SUCCESS", lambda row: str(row["success"]) if row.get("kind") == "Rule" else "-", True),
    Column("FAIL", lambda row: str(row["fail"]) if row.get("kind") == "Rule" else "-", True),
    Column("LAST (UTC)", _time("last_at"), wrap=True),
)
ENDPOINTS = (
    Column("NAMESPACE", _field("namespace")),
    Column("ENDPOINT", _field("name")),
    Column("TYPE", _field("type")),
    Column("VERSION", _version("version"), True),
    Column("NODES", _on_nodes),
    Column("NOT RIGHT", _not_right, wrap=True),
)
ENDPOINTS_WIDE = (*ENDPOINTS, Column("OWNER", _field("origin")), Column("UID", _field("uid")))
SINKS = (
    Column("SINK", _field("sink")),
    Column("BREAKER", _field("breaker")),
    Column("PENDING", _field("pending"), True),
    Column("LAG S", lambda row: f"{row.get('lag_s', 0):.1f}", True),
    Column("DELIVERED", _field("delivered"), True),
    _LAST[0],
    Column("ERROR", lambda row: row.get("last_error") or "-", wrap=True),
)
SINKS_WIDE = (*SINKS, Column("RETRIES", _field("retries"), True), Column("REFUSED", _field("refused"), True))
BROKER_USERS = (
    Column("NAME", _field("name")),
    Column("KIND", _field("kind")),
    Column("CERTIFICATE ENDS", _field("certificate_ends")),
    Column("WRITES", lambda row: " ".join(row["write"]), wrap=True),
    Column("READS", lambda row: " ".join(row["read"]), wrap=True),
)
VALUES = (Column("KEY", _field("key")), Column("VALUE", _field("value"), clip=60, wrap=True))
ORIGINS = (*VALUES, Column("ORIGIN", _field("origin"), wrap=True))

_LETTER = (
    Column("AT (UTC)", _time("at"), wrap=True),
    Column("REASON", _field("reason")),
    Column("BYTES", _field("size"), True),
    Column("DETAIL", _field("detail"), wrap=True),
)
LETTERS_OF_EDGE = (Column("ID", _field("id")), *_LETTER)
LETTERS = (Column("ID", _field("id"), True), Column("NODE", _field("node")), *_LETTER)
TOPIC = Column("TOPIC", _field("topic"))


def render(columns: Sequence[Column], rows: Any, output: str, width: int = WIDTH) -> str:
    """Return all rows as ``table``, ``wide``, ``json`` (one array) or ``yaml``, with a newline.

    In a table long texts are clipped, and wrapped so that it takes ``width`` characters at most, if they allow it.
    """
    if output == "json":
        return msgspec.json.format(msgspec.json.encode(rows), indent=2).decode() + "\n"
    if output == "yaml":
        return msgspec.yaml.encode(rows).decode()
    return "".join(blocks(columns, rows, output, width)) if rows else "nothing yet\n"


def blocks(columns: Sequence[Column], rows: Sequence[dict[str, Any]], output: str, width: int = WIDTH) -> list[str]:
    """Return the head of a ``table`` (or ``wide``) and each of its rows, as text of one or more whole lines."""
    cells = [[column.title for column in columns]]
    cells += [[_clipped(column, printable(column.text(row)), output) for column in columns] for row in rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    if output == "table":
        widths = _fitted(columns, cells, widths, width)
    return [_block(columns, row, widths) for row in cells]


def _fitted(columns: Sequence[Column], cells: Sequence[Sequence[str]], widths: Sequence[int], bound: int) -> list[int]:
    """Make the widest of the columns that wrap narrower, down to their longest words, until all fit."""
    found, gaps = list(widths), _GAP * (len(widths) - 1)
    if sum(found) + gaps <= bound:
        return found
    least = [
        max((min(len(word), WORD_CHARS_MAX) for row in cells for word in row[at].split()), default=1)
        if column.wrap
        else widths[at]
        for at, column in enumerate(columns)
    ]
    while sum(found) + gaps > bound:
        at = max(range(len(found)), key=lambda each: found[each] if found[each] > least[each] else 0)
        if found[at] <= least[at]:
            break
        found[at] -= 1
    return found


def _block(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int]) -> str:
    parts = [_wrapped(text, width) for text, width in zip(row, widths, strict=True)]
    lines = []
    for number in range(max(map(len, parts))):
        texts = (part[number] if number < len(part) else "" for part in parts)
        padded = (
            text.rjust(width) if column.number else text.ljust(width)
            for text, width, column in zip(texts, widths, columns, strict=True)
        )
        lines.append((" " * _GAP).join(padded).rstrip() + "\n")
    return "".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    import textwrap  # where a table is too wide only: a command starts without it

    return textwrap.wrap(text, width, break_on_hyphens=False)


def _clipped(column: Column, text: str, output: str) -> str:
    return text[: column.clip - 3] + "..." if output == "table" and 0 < column.clip < len(text) else text


def line(columns: Sequence[Column], row: dict[str, Any], output: str) -> str:
    """Return one row as one line: of a table without a head, or as a JSON object (for ``json`` and ``yaml``)."""
    if output in ("json", "yaml"):
        return msgspec.json.encode(row).decode()
    texts = ((column, printable(column.text(row))) for column in columns)
    return " ".join(text.rjust(c.width) if c.number else text.ljust(c.width) for c, text in texts).rstrip()


def printable(text: str) -> str:
    """Return ``text`` with all escaped that could move the cursor of a terminal: what devices send is hostile."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
