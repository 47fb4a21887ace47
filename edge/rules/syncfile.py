"""The cloud's objects on disk: what the node runs of them after any crash, before it has a connection (protocol P6).

One file, written anew at each change and synced before the cloud is told. Its first line holds a checksum of the rest.
The version before is kept beside it: a damaged file is set aside, and the node goes on with what it had before, or with
nothing; its list then differs from what the cloud wants, and the cloud repairs it. A file of another node id is set
aside too: a node that was renamed is not to run what the cloud gave the node that it was.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from common.durable import sync_directory, write_synced
from common.errors import StorageError
from common.faults import Fault, no_fault
from edge.rules.synced import Gone, Held, Synced

log = logging.getLogger(__name__)

NAME = "rules.cloud.json"
FORMAT = 1
DAMAGED_MAX = 8  # damaged files that are kept; the last is replaced then
FOREIGN = NAME + ".of-another-node"


class _Head(msgspec.Struct, frozen=True):
    """The first line."""

    format: int
    sha256: str


class _Body(msgspec.Struct, frozen=True):
    """The rest. ``gone`` are deleted uids, oldest first; ``node`` whose it is, "" in files of earlier versions."""

    objects: list[Held]
    gone: list[tuple[str, Gone]]
    node: str = ""


class _OtherNodeError(Exception):
    """The file is whole, and of another node, which is the argument."""


class SyncFile:
    """The file of ``node`` in the data directory. ``damaged`` counts files that were set aside since the start."""

    def __init__(self, directory: Path, node: str, *, fault: Fault = no_fault) -> None:
        self._path, self._node, self._fault = directory / NAME, node, fault
        self._before = self._path.with_name(NAME + ".before")
        self.damaged = 0

    def save(self, synced: Synced) -> None:
        """Put all of it on the disk; returns when a power cut cannot take it. Raises StorageError: nothing changed."""
        body = msgspec.json.encode(_Body(list(synced), list(synced.gone.items()), self._node))
        head = msgspec.json.encode(_Head(FORMAT, hashlib.sha256(body).hexdigest()))
        new = self._path.with_name(NAME + ".new")
        try:
            write_synced(new, head + b"\n" + body)  # private: URLs of targets may hold passwords
            self._fault("rules_written")
            self._keep_before()
            self._fault("rules_kept")
            new.replace(self._path)
            sync_directory(self._path.parent)
        except OSError as exc:
            raise StorageError(f"{self._path}: {exc.strerror or exc}; the cloud's rules are as they were") from exc
        self._fault("rules_replaced")

    def load(self) -> Synced:
        """What was saved last; of a damaged file what was saved before it, else nothing. A damaged one is set aside.

        Nothing of another node's file, which is set aside, too.

        Raises StorageError when a file is there and cannot be read, or is of a later version of this program.
        """
        for path in (self._path, self._before):
            try:
                return self._decoded(path.read_bytes())
            except FileNotFoundError:
                continue
            except _OtherNodeError as exc:
                path.replace(path.with_name(FOREIGN))
                log.warning("%s holds the rules of node %s, and this is %s: it is set aside as %s; the cloud sends "
                            "what this node is to have", path, exc, self._node, FOREIGN)  # fmt: skip
                break
            except OSError as exc:
                raise StorageError(f"{path}: {exc.strerror or exc}") from exc
            except (ValueError, msgspec.MsgspecError) as exc:
                self._set_aside(path, exc)
        return Synced()

    def _decoded(self, raw: bytes) -> Synced:
        first, newline, body = raw.partition(b"\n")
        if not newline:
            raise ValueError("it ends early")
        head = msgspec.json.decode(first, type=_Head)
        if hashlib.sha256(body).hexdigest() != head.sha256:
            raise ValueError("its checksum is wrong")
        if head.format != FORMAT:
            raise StorageError(f"{NAME} is of format {head.format}, this version knows {FORMAT}: use a newer one")
        found = msgspec.json.decode(body, type=_Body)
        if found.node not in ("", self._node):
            raise _OtherNodeError(found.node)
        return Synced(found.objects, dict(found.gone))

    def _keep_before(self) -> None:
        spare = self._path.with_name(NAME + ".spare")
        with suppress(FileNotFoundError):
            spare.unlink()
        with suppress(FileNotFoundError):  # the first time there is none
            os.link(self._path, spare)
            spare.replace(self._before)

    def _set_aside(self, path: Path, why: Exception) -> None:
        self.damaged += 1
        for number in range(1, DAMAGED_MAX + 1):
            aside = self._path.with_name(f"{NAME}.damaged-{number}")
            if not aside.exists():
                break
        path.replace(aside)
        log.critical("%s is damaged (%s) and set aside as %s; the cloud will send again what is missing",
                     path, why, aside.name)  # fmt: skip
