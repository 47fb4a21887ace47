"""What cloud and node tell each other of rules (protocol P6): the node's list, and the hash by which both compare.

A rule or endpoint goes down as its manifest, whose metadata hold ``uid`` and, as ``resourceVersion``, the desired
version (a decimal number). The message's own ``resourceversion`` is ``<uid>.<version>``, and the node's reply, ``OK``
or a Refusal, repeats it: so any controller can take the reply, also one that never sent the request.

The node's list may be larger than a message. Each answer to a ``query`` is a page of it, in the order of (kind,
namespace, name), and its ``resourceversion`` is the hash of the whole list. Who asks goes on with ``RulesQuery.after``
until the hash of what it has is that hash; when the pages name different ones, the list changed and it begins anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from common.errors import RefusedError
from common.models import Count, Short

APPLIED, REFUSED = "applied", "refused"
ITEMS_MAX = 10_000  # of a node's list in one message
ERROR_BYTES_MAX = 2048  # of what a node says about a manifest that it refuses
LIST_BYTES_MAX = 96 * 1024  # of a page of the list, so that it fits into a message of 128 KiB
NO_RULES = ""  # the hash of a node that has nothing of the cloud's

ObjectKey = tuple[str, str, str]  # kind, namespace, name


class SyncedObject(msgspec.Struct, frozen=True, omit_defaults=True, order=True):
    """What a node has of an object of the cloud's: the last version that it was offered, and what became of it.

    ``running`` is the version that it runs, 0 when none; with ``state`` applied it is ``version``. ``error`` is the
    finding, with line and column, when it was refused.
    """

    kind: Short
    namespace: Short
    name: Short
    uid: Short
    version: Count
    state: Short = APPLIED
    running: Count = 0
    error: Annotated[str, Meta(max_length=ERROR_BYTES_MAX)] = ""


class RulesQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """Content of a ``query``, which may have none: the list from behind ``after`` (kind, namespace, name) on."""

    after: tuple[Short, Short, Short] = ("", "", "")


def page(items: Iterable[SyncedObject], after: ObjectKey = ("", "", "")) -> list[SyncedObject]:
    """Return what stands behind ``after`` in the list, as much as fits into one message; empty at its end."""
    behind = sorted(item for item in items if (item.kind, item.namespace, item.name) > after)
    size, fits = 0, 0
    for item in behind[:ITEMS_MAX]:
        size += len(msgspec.json.encode(item)) + 1
        if size > LIST_BYTES_MAX:
            break
        fits += 1
    return behind[:fits]


def rules_version(items: Iterable[SyncedObject]) -> str:
    """Return the hash over (kind, namespace, name, uid, version, applied or refused), in any order (P6.2)."""
    told = sorted((item.kind, item.namespace, item.name, item.uid, item.version, item.state) for item in items)
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16] if told else NO_RULES


def sync_version(uid: str, version: int) -> str:
    """Return the ``resourceversion`` of a message that carries an object."""
    return f"{uid}.{version}"


def parse_sync_version(text: str) -> tuple[str, int]:
    """Return uid and version of a message's ``resourceversion``. Raises RefusedError ``undecodable``."""
    uid, _, version = text.rpartition(".")
    if not uid or not version.isdecimal() or len(version) > 18:
        raise RefusedError("undecodable", f"resourceversion {text[:80]!r} is not <uid>.<version>")
    return uid, int(version)
