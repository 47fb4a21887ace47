"""Desired state in the store, as the Kubernetes source sees it (protocol P6, P8.3).

Who owns a name is told by the object's origin: what was applied by command line or API stays, and the object in
Kubernetes is told that its name is taken. The generation travels as an annotation of the manifest, so that after a
restart, or in another controller, it is known which one is wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import structs
from sqlalchemy import ColumnElement, Connection, select

from cloud.checking import TAKEN
from cloud.selection import ObjectKey
from cloud.sources.desired import CONFLICT, IN_USE, INVALID, Held, Refusal
from cloud.stores.base import Store
from cloud.stores.desired import KUBERNETES
from cloud.stores.tables import objects
from common.errors import ControlError
from common.manifests import Finding, Manifest

GENERATION = "fieldpost/generation"  # annotation of a manifest: the object's generation in its cluster
NAMES_AT_ONCE = 500  # in one query

Put = Mapping[ObjectKey, tuple[Manifest, Held]]


class Changes(Protocol):
    """Where desired state is changed. Both do all or nothing, and raise ControlError; one that is about manifests which
    would not work has them as ``findings``.
    """

    async def apply(self, manifests: Sequence[Manifest], findings: Sequence[Finding] = (), *, origin: str) -> Any:
        """Want these."""
        ...

    async def delete(self, keys: Sequence[ObjectKey], *, origin: str) -> Any:
        """Want these no more."""
        ...


class _Row(NamedTuple):
    """An object as it is wanted now."""

    origin: str
    held: Held


class WantedInStore:
    """Implements ``Desired``: reads ``store``, changes through ``changes``."""

    def __init__(self, changes: Changes, store: Store) -> None:
        self._changes, self._store = changes, store

    async def owned(self) -> dict[ObjectKey, Held]:
        """See Desired."""
        rows = await self._store.read(lambda conn: _rows(conn, objects.c.origin == KUBERNETES))
        return {key: row.held for key, row in rows.items()}

    async def put(self, manifests: Put) -> dict[ObjectKey, Refusal]:
        """See Desired. Raises ControlError when others change the same all the time."""
        there = await self._rows(manifests)
        late = {key for key, (_, held) in manifests.items() if key in there and _is_late(held, there[key].held)}
        return await self._apply({key: value for key, value in manifests.items() if key not in late})

    async def _rows(self, keys: Collection[ObjectKey]) -> dict[ObjectKey, _Row]:
        found: dict[ObjectKey, _Row] = {}
        names = sorted({key.name for key in keys})
        for at in range(0, len(names), NAMES_AT_ONCE):
            some = objects.c.name.in_(names[at : at + NAMES_AT_ONCE])
            found |= await self._store.read(partial(_rows, where=some))
        return found

    async def _apply(self, manifests: Put) -> dict[ObjectKey, Refusal]:
        """Apply what can be applied. A finding about an object leaves it out; one about another object, which is broken
        by one of these, leaves out whichever breaks it.
        """
        left, refused = dict(manifests), dict[ObjectKey, Refusal]()
        while left:
            try:
                await self._changes.apply([_marked(*each) for each in left.values()], origin=KUBERNETES)
                break
            except ControlError as exc:
                findings: Sequence[Finding] = getattr(exc, "findings", ())
                if not findings:
                    raise
                named = {_key_of(finding) for finding in findings} & left.keys()
                if not named and len(left) > 1:
                    for key, value in left.items():
                        refused |= await self._apply({key: value})
                    break
                for key in named or list(left):
                    about = [
                        f.text if _key_of(f) == key else str(f) for f in findings if not named or _key_of(f) == key
                    ]
                    refused[key] = Refusal(CONFLICT if TAKEN in about else INVALID, "; ".join(about))
                    del left[key]
        return refused

    async def remove(self, uids: Mapping[ObjectKey, str]) -> dict[ObjectKey, Refusal]:
        """See Desired."""
        there = await self._rows(uids)
        here = {key: row.held.uid for key, row in there.items() if row.origin == KUBERNETES}
        keys = [key for key, uid in uids.items() if here.get(key) == uid]
        return await self._delete(keys)

    async def _delete(self, keys: list[ObjectKey]) -> dict[ObjectKey, Refusal]:
        if not keys:
            return {}
        try:
            await self._changes.delete(keys, origin=KUBERNETES)
        except ControlError as exc:
            if len(keys) == 1:
                return {keys[0]: Refusal(IN_USE, str(exc))}
            refused: dict[ObjectKey, Refusal] = {}
            for key in keys:
                refused |= await self._delete([key])
            return refused
        return {}


def _is_late(held: Held, there: Held) -> bool:
    return held.uid == there.uid and held.version < there.version


def _key_of(finding: Finding) -> ObjectKey:
    namespace, _, name = finding.name.partition("/")
    return ObjectKey(finding.kind, namespace, name)


def _marked(manifest: Manifest, held: Held) -> Manifest:
    metadata = manifest.value.metadata
    annotations = {**metadata.annotations, GENERATION: str(held.version)}
    marked = structs.replace(metadata, uid=held.uid, annotations=annotations)
    return manifest._replace(value=structs.replace(manifest.value, metadata=marked))


def _rows(conn: Connection, where: ColumnElement[bool]) -> dict[ObjectKey, _Row]:
    c = objects.c
    found = {}
    for kind, namespace, name, uid, origin, text in conn.execute(
        select(c.kind, c.namespace, c.name, c.uid, c.origin, c.manifest).where(where)
    ):
        annotations = (msgspec.json.decode(text).get("metadata") or {}).get("annotations") or {}
        generation = str(annotations.get(GENERATION, ""))
        version = int(generation) if generation.isascii() and generation.isdigit() and len(generation) < 19 else 0
        found[ObjectKey(kind, namespace, name)] = _Row(origin, Held(uid, version))
    return found
