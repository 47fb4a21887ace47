"""A local copy of all objects of one type in the API server, kept up to date by a list and a watch.

The copy begins with a list; a watch goes on from its version. A watch that ends goes on from the last version that was
heard of (bookmarks tell it also when nothing happens). When the server no longer knows that version (410), it is listed
anew; what vanished meanwhile is found by comparing. What cannot be reached is tried again with growing delays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from common.backoff import Backoff
from common.errors import KubeError
from common.kube.client import KubeClient, Object
from common.kube.resources import Resource
from common.metrics import Counters

log = logging.getLogger(__name__)

PAGE_MAX = 500  # objects in one answer of a list
LISTS_MAX = 3  # begun anew in a row because pages expired; then the whole is asked for at once
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

Name = tuple[str, str]  # namespace, name


class Reflector:
    """The objects of ``resource`` in ``namespace`` (empty: in all), as of the last event.

    ``on_change`` is called with the names that may have changed. ``synced`` is True after the first list; ``error`` is
    what is wrong now, empty when all is well.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        on_change: Callable[[Iterable[Name]], None],
        *,
        namespace: str = "",
        watch_s: float = 120.0,
        backoff: Backoff | None = None,
    ) -> None:
        self.resource, self.synced, self.error = resource, False, ""
        self._client, self._on_change, self._watch_s = client, on_change, watch_s
        self._path = resource.collection(namespace)
        self._backoff = backoff or Backoff(0.5, 30.0)
        self._objects: dict[Name, bytes] = {}
        self._version = ""
        self._counters = Counters("lists", "watches", "events", "relists", "failures")

    def statistics(self) -> dict[str, int]:
        """Counters, and how many objects there are."""
        return {**self._counters, "objects": len(self._objects)}

    def get(self, name: Name) -> Object | None:
        """The object, with ``conditions`` as all of its status; None when there is none."""
        raw = self._objects.get(name)
        value: Object | None = msgspec.json.decode(raw) if raw is not None else None
        return value

    async def run(self) -> None:
        """List and watch until cancelled. It begins anew each time: what was known may be long ago."""
        self.synced, self._version, self._objects = False, "", {}
        while True:
            try:
                if not self._version:
                    await self._list()
                before = self._counters["events"]
                await self._watch()
                if self._counters["events"] > before:
                    continue
                await asyncio.sleep(min(self._backoff.next(), 1.0))  # a server that ends every watch at once
            except KubeError as exc:
                await self._failed(exc)

    async def _failed(self, exc: KubeError) -> None:
        if exc.code == 410:
            self._counters["relists"] += 1
            self._version = ""
            log.info("%s: version is too old, listing anew", self._path)
        else:
            self._counters["failures"] += 1
            if not self.error:
                log.warning("%s cannot be watched: %s", self._path, exc)
            self.error = str(exc)
        await asyncio.sleep(exc.after_s or self._backoff.next())

    async def _list(self) -> None:
        self._counters["lists"] += 1
        for last in (*(False,) * LISTS_MAX, True):
            try:
                found, version = await self._pages(0 if last else PAGE_MAX)
                break
            except KubeError as exc:
                if exc.code != 410 or last:
                    raise
        before, self._objects = self._objects, found
        self._version, self.synced = version, True
        self._well()
        self._on_change(before.keys() | found.keys())

    async def _pages(self, limit: int) -> tuple[dict[Name, bytes], str]:
        found: dict[Name, bytes] = {}
        more = ""
        while True:
            query = {"limit": str(limit)} if limit else {}
            page = await self._client.get(self._path, **query, **({"continue": more} if more else {}))
            for value in page.get("items") or ():
                found[_name(value)] = _slim(value)
            metadata = page.get("metadata") or {}
            more = str(metadata.get("continue") or "")
            if not more:
                return found, str(metadata.get("resourceVersion", ""))

    async def _watch(self) -> None:
        self._counters["watches"] += 1
        async for event in self._client.watch(self._path, self._version, self._watch_s, self._well):
            value = event.get("object") or {}
            self._version = str((value.get("metadata") or {}).get("resourceVersion") or self._version)
            if event.get("type") == "BOOKMARK":
                continue
            self._counters["events"] += 1
            name = _name(value)
            if event.get("type") == "DELETED":
                self._objects.pop(name, None)
            else:
                self._objects[name] = _slim(value)
            self._on_change((name,))

    def _well(self) -> None:
        """The server answers."""
        self._backoff.reset()
        if self.error:
            log.info("%s can be watched again", self._path)
            self.error = ""


def _name(value: Object) -> Name:
    metadata = value.get("metadata") or {}
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))


def _slim(value: Object) -> bytes:
    """What is needed of an object, as bytes: ten thousand whole ones would take more memory than all the rest."""
    metadata: dict[str, Any] = dict(value.get("metadata") or {})
    metadata.pop("managedFields", None)
    annotations = {k: v for k, v in (metadata.pop("annotations", None) or {}).items() if k != _LAST_APPLIED}
    conditions = (value.get("status") or {}).get("conditions") or []
    kept = {"metadata": metadata | ({"annotations": annotations} if annotations else {}), "spec": value.get("spec")}
    return msgspec.json.encode({**kept, "status": {"conditions": conditions}})
