"""The last configuration that ran, on disk: what a node runs when its files are broken at a start (flow F4).

A gateway that restarts beside a broken file goes on with what it ran before, and says so; without a last good version
it does not start.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import msgspec

log = logging.getLogger(__name__)

NAME = "rules.last-good.json"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # URLs of targets may hold passwords


class LastGood:
    """One file in the data directory, written as a whole."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    def save(self, value: dict[str, Any]) -> None:
        """Keep a merged configuration. A disk that does not take it is no reason not to run it: it is logged."""
        new = self._path.with_suffix(".new")
        try:
            with open(new, "wb", opener=_private) as file:
                file.write(msgspec.json.encode(value))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as exc:
            log.error("%s: %s; a later start beside broken files has no last good version", self._path, exc.strerror)

    def load(self) -> dict[str, Any] | None:
        """What was kept, None when there is nothing or it cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Any])
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as exc:
            log.error("%s: %s; there is no last good version", self._path, exc)
            return None
