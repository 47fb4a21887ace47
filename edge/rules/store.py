"""The last configuration that ran, on disk: what a node runs when its files are broken at a start (flow F4).

A gateway that restarts beside a broken file goes on with what it ran before, and says so; without a last good version
it does not start.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec

from common.durable import write_synced
from edge.rules.configuration import Files
from edge.rules.layers import Layer

log = logging.getLogger(__name__)

NAME = "rules.last-good.json"


class _Layer(msgspec.Struct, frozen=True):
    name: str
    file: str
    value: dict[str, Any]


class _Kept(msgspec.Struct, frozen=True):
    """The layers below the cloud's objects, and those above."""

    below: list[_Layer]
    above: list[_Layer]


class LastGood:
    """One file in the data directory, written as a whole."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    def save(self, files: Files) -> None:
        """Keep what the files say. A disk that does not take it is no reason not to run it: it is logged."""
        kept = _Kept([_layer(layer) for layer in files.below], [_layer(layer) for layer in files.above])
        new = self._path.with_suffix(".new")
        try:
            write_synced(new, msgspec.json.encode(kept))  # private: URLs of targets may hold passwords
            new.replace(self._path)
        except OSError as exc:
            log.error("%s: %s; a later start beside broken files has no last good version", self._path, exc.strerror)

    def load(self) -> Files | None:
        """What was kept, None when there is nothing or it cannot be read."""
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as exc:
            log.error("%s: %s; there is no last good version", self._path, exc)
            return None
        return Files([_known(layer) for layer in kept.below], [_known(layer) for layer in kept.above])


def _layer(layer: Layer) -> _Layer:
    return _Layer(layer.name, layer.file, layer.value)


def _known(layer: _Layer) -> Layer:
    return Layer(layer.name, f"{layer.file} (last good version)", layer.value)
