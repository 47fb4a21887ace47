"""Rows as people and programs read them: tables, single lines, JSON, YAML (experience U2)."""

from __future__ import annotations

import io
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


def _field(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: str(row.get(name, ""))


def _time(name: str) -> Callable[[dict[str, Any]], str]:
    def text(row: dict[str, Any]) -> str:
        at = row.get(name) or 0
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S") if at else "-"

    return text


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


def _status(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: str((row.get("status") or {}).get(name, "-"))


def _losses(row: dict[str, Any]) -> str:
    """``312 results dropped, 5 messages cloud_lost``."""
    sums = ((kind, lost.get("results"), lost.get("messages")) for kind, lost in (row.get("lost") or {}).items())
    told = [f"{f'{r} results' if r else f'{m} messages' if m else 'results'} {kind}" for kind, r, m in sums]
    return ", ".join(told) or "-"


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
    Column("SINCE (UTC)", _time("since")),
    Column("VERSION", _field("version")),
    Column("ACCEPTED", _status("accepted"), True),
    Column("CONFIRMED", _status("confirmed"), True),
    Column("PENDING", _status("pending_results"), True),
    Column("DUPLICATES", _field("duplicates"), True),
    Column("LAST SEEN (UTC)", _time("last_seen")),
    Column("LOST", _losses),
    Column("CONFLICT", _field("conflict")),
)
RULES = (
    Column("NAMESPACE", _field("namespace")),
    Column("RULE", _field("rule")),
    Column("VERSION", _version("version"), True),
    Column("NODES", _on_nodes),
    Column("NOT RIGHT", _not_right),
    Column("SUCCESS", _field("success"), True),
    Column("FAIL", _field("fail"), True),
    Column("P95 MS", _percentile("p95_us"), True),
    Column("PER MIN", _field("last_minute"), True),
    Column("READY", _condition("ready")),
    Column("DEGRADED", _condition("degraded")),
    Column("LAST FAILURE (UTC)", _time("last_failure")),
)
RATES = (
    *RULES[:2],
    Column("SUCCESS/S", _field("success_per_s"), True),
    Column("FAIL/S", _field("fail_per_s"), True),
    Column("MEAN MS", lambda row: "-" if row.get("mean_ms") is None else f"{row['mean_ms']:.1f}", True),
    Column("SUCCESS", _field("success"), True),
    Column("FAIL", _field("fail"), True),
)
_MEAN = Column("MEAN MS", _mean, True)
_LAST_SUCCESS = Column("LAST SUCCESS (UTC)", _time("last_success"))
RULES_WIDE = (
    *RULES,
    _MEAN,
    Column("P50 MS", _percentile("p50_us"), True),
    _LAST_SUCCESS,
    Column("ENABLED", _field("enabled")),
    Column("SOURCE", _field("source")),
    Column("TARGET", _field("target")),
    Column("OWNER", _field("origin")),
    Column("UID", _field("uid")),
)
RULES_PER_NODE = (*RULES[:2], Column("NODE", _field("node")), *RULES[5:7], _MEAN, _LAST_SUCCESS, RULES[-1])
RESULTS = (
    Column("TIME", _field("time"), width=24),
    Column("NODE", _field("node"), width=12),
    Column("RULE", lambda row: f"{row.get('namespace', '')}/{row.get('rule', '')}", width=20),
    Column("STATUS", _field("status"), width=7),
    Column("MS", _milliseconds, True, width=7),
    Column("OUTCOME", _said),
)
ERRORS = (
    Column("NAMESPACE", _field("namespace")),
    Column("RULE", _field("rule")),
    Column("REASON", _field("reason")),
    Column("COUNT", _field("count"), True),
    Column("LAST (UTC)", _time("last")),
    Column("NODE", _field("node")),
    Column("STEP", _field("step")),
    Column("DETAIL", _field("detail")),
)

LOSSES = (
    Column("NODE", _field("node")),
    Column("KIND", _field("kind")),
    Column("RESULTS", _field("results"), True),
    Column("MESSAGES", _field("messages"), True),
    Column("FROM", _field("since")),
    Column("TO", _field("until")),
    Column("REASON", _field("reason")),
    Column("TOLD BY", _field("origin")),
    Column("DETAIL", _field("detail")),
)
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
    Column("AT (UTC)", _time("at")),
    Column("WHO", _field("who")),
    Column("ROLE", _field("role")),
    Column("FROM", _field("remote")),
    Column("OPERATION", _field("operation")),
    Column("OUTCOME", _field("outcome")),
    Column("ARGUMENTS", _field("arguments")),
    Column("DETAIL", _field("detail")),
)
FINDINGS = (
    Column("LEVEL", _field("level")),
    Column("CHECK", _field("check")),
    Column("WHAT", _field("what")),
    Column("WHAT TO DO", _field("do")),
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
ENDPOINTS = (
    Column("NAMESPACE", _field("namespace")),
    Column("ENDPOINT", _field("name")),
    Column("TYPE", _field("type")),
    Column("VERSION", _version("version"), True),
    Column("NODES", _on_nodes),
    Column("NOT RIGHT", _not_right),
)
ENDPOINTS_WIDE = (*ENDPOINTS, Column("OWNER", _field("origin")), Column("UID", _field("uid")))
SINKS = (
    Column("SINK", _field("sink")),
    Column("BREAKER", _field("breaker")),
    Column("PENDING", _field("pending"), True),
    Column("LAG S", lambda row: f"{row.get('lag_s', 0):.1f}", True),
    Column("DELIVERED", _field("delivered"), True),
    Column("RETRIES", _field("retries"), True),
    Column("REFUSED", _field("refused"), True),
    Column("LAST SUCCESS (UTC)", _time("last_success")),
    Column("LAST ERROR (UTC)", _time("last_error_at")),
    Column("ERROR", _field("last_error")),
)
BROKER_USERS = (
    Column("NAME", _field("name")),
    Column("KIND", _field("kind")),
    Column("CERTIFICATE ENDS", _field("certificate_ends")),
    Column("WRITES", lambda row: " ".join(row["write"])),
    Column("READS", lambda row: " ".join(row["read"])),
)
VALUES = (Column("KEY", _field("key")), Column("VALUE", _field("value")))
ORIGINS = (*VALUES, Column("ORIGIN", _field("origin")))

LETTERS = (
    Column("ID", _field("id")),
    Column("AT (UTC)", _time("at")),
    Column("REASON", _field("reason")),
    Column("BYTES", _field("size"), True),
    Column("TOPIC", _field("topic")),
    Column("DETAIL", _field("detail")),
)


def render(columns: Sequence[Column], rows: Any, output: str) -> str:
    """Return all rows as ``table`` (or ``wide``), ``json`` (one array) or ``yaml``, with a final newline."""
    if output == "json":
        return msgspec.json.format(msgspec.json.encode(rows), indent=2).decode() + "\n"
    if output == "yaml":
        return msgspec.yaml.encode(rows).decode()
    if not rows:
        return "nothing yet\n"
    cells = [[printable(column.text(row)) for column in columns] for row in rows]
    widths = [max(len(column.title), *(len(row[at]) for row in cells)) for at, column in enumerate(columns)]
    out = io.StringIO()
    for row in [[column.title for column in columns], *cells]:
        padded = (
            text.rjust(width) if column.number else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        )
        out.write("  ".join(padded).rstrip() + "\n")
    return out.getvalue()


def line(columns: Sequence[Column], row: dict[str, Any], output: str) -> str:
    """Return one row as one line: of a table without a head, or as a JSON object (for ``json`` and ``yaml``)."""
    if output in ("json", "yaml"):
        return msgspec.json.encode(row).decode()
    texts = ((column, printable(column.text(row))) for column in columns)
    return " ".join(text.rjust(c.width) if c.number else text.ljust(c.width) for c, text in texts).rstrip()


def printable(text: str) -> str:
    """Return ``text`` with all escaped that could move the cursor of a terminal: what devices send is hostile."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
