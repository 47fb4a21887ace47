"""How long an HTTP server asks to be left alone: its header ``Retry-After`` (RFC 9110 10.2.3)."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime


def retry_after(text: str, now: float) -> float:
    """Return the seconds of a header ``Retry-After``: a number, or a date against the wall clock ``now``; else 0."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    return max(0.0, http_date(text, now) - now)


def http_date(text: str, default: float) -> float:
    """Return unix seconds of a date as HTTP headers have it; ``default`` for what is none."""
    try:
        at = parsedate_to_datetime(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return default
