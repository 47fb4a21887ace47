"""Logging to standard error: one line per record, text or JSON, with node, rule and message id bound (experience U6).

What devices and users send ends up in messages, so control characters are escaped: a payload can neither forge a second
line nor move the cursor of a terminal.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import msgspec

from common.models import rfc3339
from common.settings import LogSettings

FIELDS = ("node", "namespace", "rule", "msg_id")  # what a record may carry beside its message, in this order
MESSAGE_CHARS_MAX = 16_384
_QUIET = {"asyncio": logging.WARNING, "sqlalchemy": logging.WARNING, "aiohttp.access": logging.WARNING}
_CONTROL = {i: f"\\x{i:02x}" for i in (*range(32), *range(127, 160))} | {
    0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029",
}  # fmt: skip


class Bound(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records carry fields; ``extra`` of a single call adds to them."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def bind(logger: logging.Logger | Bound, **fields: str) -> Bound:
    """Return a logger that adds ``fields`` (names of ``FIELDS``) to what ``logger`` adds already."""
    unknown = fields.keys() - set(FIELDS)
    if unknown:
        raise ValueError(f"fields {sorted(unknown)} are not among {FIELDS}")
    if isinstance(logger, Bound):
        return Bound(logger.logger, {**(logger.extra or {}), **fields})
    return Bound(logger, fields)


def setup(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send all records of ``settings.level`` and above to ``stream`` (standard error). Calling again replaces it."""
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(max(level, root.level))
    logging.captureWarnings(True)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that ``setup`` can find it again."""


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO edge.uplink node=edge-1 rule=overheat: message``, always one line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        text = f"{rfc3339(record.created)} {record.levelname} {record.name}{fields}: {_message(record)}"
        if problem := _problem(self, record):
            text += "\n" + problem
        return _clean(text).translate(_CONTROL)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, the bound fields, and error (a traceback)."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_fields(record),
        }
        if problem := _problem(self, record):
            entry["error"] = problem
        return msgspec.json.encode({key: _clean(value) for key, value in entry.items()}).decode()


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if len(text) <= MESSAGE_CHARS_MAX:
        return text
    return f"{text[:MESSAGE_CHARS_MAX]}... ({len(text)} characters)"


def _fields(record: logging.LogRecord) -> dict[str, str]:
    return {name: str(value) for name in FIELDS if (value := getattr(record, name, ""))}


def _problem(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def _clean(text: str) -> str:
    """``text`` without lone surrogates, which no stream and no JSON takes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
