"""Secrets are not shown: one mask, and what is found in texts by its form (reliability R4)."""

from __future__ import annotations

import re
from typing import Any

MASKED = "***"

_URL_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")


def mask_urls(value: Any) -> Any:
    """The value with ``***`` for users and passwords in URLs, in texts, lists and maps."""
    if isinstance(value, str):
        return _URL_PASSWORD.sub(MASKED + "@", value)
    if isinstance(value, list | tuple):
        return [mask_urls(part) for part in value]
    if isinstance(value, dict):
        return {key: mask_urls(part) for key, part in value.items()}
    return value
