"""Desired state over the table of objects, all or nothing: what stands below the source in its tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import delete, insert, select

from cloud.sources.desired import ObjectKey
from cloud.sources.kubernetes import manifest_of
from cloud.stores.base import Store
from cloud.stores.tables import objects
from common.checks import check
from common.errors import ControlError
from common.manifests import Finding, Manifest
from common.rules import Rule


class _FindingsError(ControlError):
    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = findings
        super().__init__("\n".join(map(str, findings)))


class TableChanges:
    """All or nothing over the table of objects, with the checks of the node."""

    def __init__(self, store: Store) -> None:
        self._store, self.applied = store, 0

    async def apply(self, manifests: Sequence[Manifest], findings: Sequence[Finding] = (), *, origin: str) -> None:
        """Insert or update."""
        new = {(manifest.value.kind, manifest.value.key) for manifest in manifests}
        others = [m for m in await self._store.read(manifests_of) if (m.value.kind, m.value.key) not in new]
        if found := check([*others, *manifests]):
            raise _FindingsError(found)
        self.applied += 1

        def work(conn: Any) -> None:
            for manifest in manifests:
                value = manifest.value
                c, (namespace, name) = objects.c, value.key
                conn.execute(delete(objects).where(c.kind == value.kind, c.namespace == namespace, c.name == name))
                row = {"kind": value.kind, "namespace": namespace, "name": name, "uid": value.metadata.uid or "u"}
                text = msgspec.json.encode(value).decode()
                times = {"created_at": 0.0, "updated_at": 0.0}
                conn.execute(insert(objects).values(**row, **times, version=1, manifest=text, origin=origin))

        await self._store.write(work)

    async def delete(self, keys: Sequence[ObjectKey], *, origin: str) -> None:
        """Delete, unless a rule that stays needs it."""
        rules = [m.value for m in await self._store.read(manifests_of) if isinstance(m.value, Rule)]
        used = {name for value in rules for name in (value.spec.source, value.spec.target)}
        if any(key.kind == "RuleEndpoint" and key.name in used for key in keys):
            raise ControlError("it is in use by 1 rule")

        def work(conn: Any) -> None:
            for key in keys:
                c = objects.c
                conn.execute(
                    delete(objects).where(c.kind == key.kind, c.namespace == key.namespace, c.name == key.name)
                )

        await self._store.write(work)


def manifests_of(conn: Any) -> list[Manifest]:
    """All wanted objects."""
    found = []
    for (text,) in conn.execute(select(objects.c.manifest)):
        value = msgspec.json.decode(text)
        manifest, _ = manifest_of(value["kind"], value)
        assert manifest is not None
        found.append(manifest)
    return found
