"""Rule and RuleEndpoint objects of a cluster as a source of desired state (protocol P8.3).

What is wanted is compared with what the cluster has, object by object, and brought together; nothing depends on having
heard of every step. One object that cannot be wanted stops no other: it says so itself, in its conditions, and is tried
again when something in its namespace changes, and now and then.

Two of these at the same time, where a lease was lost and its holder does not know, do no harm: versions only rise, and
an object is removed by its uid, which never comes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from itertools import islice

import msgspec

from cloud.forwarders.kubestatus import ACCEPTED, Object, condition, conditions_of
from cloud.selection import ObjectKey
from cloud.settings.kubernetes import KubernetesSettings
from cloud.sources.desired import INVALID, Desired, Held, Refusal
from cloud.sources.reflector import Name, Reflector
from cloud.stores.status import FALSE, READY, TRUE, UNKNOWN, Condition
from common.backoff import Backoff
from common.clock import Clock
from common.errors import KubeError
from common.kube.client import KubeClient
from common.kube.resources import ENDPOINTS, RULES, Resource
from common.manifestfiles import load_manifests
from common.manifests import Finding, Manifest
from common.metrics import Counters
from common.models import clean_text
from common.rules import API_VERSION

log = logging.getLogger(__name__)

TRIES_MAX = 5  # of one write of conditions, each after a conflict
MESSAGE_BYTES_MAX = 4096  # of a condition
RETRY_S = 60.0  # until what was refused is tried again: what it wants may be there by another way
PUT_MAX = 1000  # objects that are put at once
SHOW_MAX = 8  # objects whose conditions are written at once
PENDING = "Pending"  # reason of a rule that was accepted and of which no node has said anything


class KubernetesSource:
    """Brings the objects of one API server into desired state while ``run`` runs. One controller at a time does.

    ``client`` is the caller's. ``delays`` makes the delays between tries (tests shorten them).
    """

    def __init__(
        self,
        client: KubeClient,
        desired: Desired,
        settings: KubernetesSettings,
        clock: Clock,
        delays: Callable[[], Backoff] = lambda: Backoff(0.5, 30.0),
    ) -> None:
        self._client, self._desired, self._clock = client, desired, clock
        self._namespace, self._backoff = settings.namespace, delays()
        self._show_at = self._asked_s = 0.0  # monotonic time, and seconds that the server asked for
        self._reflectors = {
            resource.kind: Reflector(
                client, resource, self._changes(resource.kind),
                namespace=settings.namespace, watch_s=settings.watch_s, backoff=delays(),
            )
            for resource in (ENDPOINTS, RULES)
        }  # fmt: skip
        self._held: dict[ObjectKey, Held] = {}
        self._dirty: set[ObjectKey] = set()
        self._refused: dict[ObjectKey, Refusal] = {}
        self._tried: dict[ObjectKey, Held] = {}  # what was refused: not again for every event of the object
        self._unshown: set[ObjectKey] = set()  # whose conditions could not be written yet
        self._wake = asyncio.Event()
        self._counters = Counters("put", "removed", "refused", "shown", "show_failures", "conflicts")

    def statistics(self) -> dict[str, int]:
        """Counters and gauges by name; ``ready`` is 1 when all is listed and can be watched."""
        ready = all(part.synced and not part.error for part in self._reflectors.values())
        watching = {
            f"{resource.plural}_{name}": value
            for resource in (RULES, ENDPOINTS)
            for name, value in self._reflectors[resource.kind].statistics().items()
        }
        waiting = {"held": len(self._held), "invalid": len(self._refused), "unshown": len(self._unshown)}
        return {**self._counters, **waiting, "ready": int(ready), **watching}

    async def run(self) -> None:
        """Watch and bring together until cancelled. Raises StorageError when desired state cannot be written."""
        owned = await self._desired.owned()
        self._held = {key: held for key, held in owned.items() if self._namespace in ("", key.namespace)}
        self._dirty = set(self._held)
        for per_object in (self._refused, self._tried, self._unshown):
            per_object.clear()
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors.values():
                group.create_task(reflector.run())
            group.create_task(self._reconcile())

    def _changes(self, kind: str) -> Callable[[Iterable[Name]], None]:
        def changed(names: Iterable[Name]) -> None:
            self._dirty.update(ObjectKey(kind, *name) for name in names)
            self._wake.set()

        return changed

    async def _reconcile(self) -> None:
        while True:
            delay = RETRY_S if self._refused else None
            if self._unshown:
                delay = max(0.0, self._show_at - self._clock.monotonic())
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                if not self._unshown:
                    self._try_again(list(self._refused))
            self._wake.clear()
            if all(reflector.synced for reflector in self._reflectors.values()):
                while self._dirty:
                    await self._bring_together()
                await self._show_some()

    async def _bring_together(self) -> None:
        """Work off what changed, and try again what was refused where something changed."""
        keys, self._dirty = self._dirty, set()
        try:
            changed = await self._bring(keys)
        except BaseException:
            self._dirty |= keys
            raise
        self._try_again([key for key in self._refused if key.namespace in changed])

    def _try_again(self, keys: Iterable[ObjectKey]) -> None:
        for key in keys:
            self._tried.pop(key, None)
            self._dirty.add(key)

    async def _bring(self, keys: set[ObjectKey]) -> set[str]:
        """Make desired state of these what the cluster has; return the namespaces in which something changed.

        Rules that go make room first; an endpoint comes before its rules and goes after them.
        """
        there = {key for key in keys if self._object(key) is not None}
        gone = sorted(keys - there)
        changed = await self._remove([key for key in gone if key.kind == RULES.kind])
        for kind in (ENDPOINTS.kind, RULES.kind):
            changed |= await self._put([key for key in sorted(there) if key.kind == kind])
        return changed | await self._remove([key for key in gone if key.kind == ENDPOINTS.kind])

    def _object(self, key: ObjectKey) -> Object | None:
        return self._reflectors[key.kind].get((key.namespace, key.name))

    async def _put(self, keys: list[ObjectKey]) -> set[str]:
        changed: set[str] = set()
        for at in range(0, len(keys), PUT_MAX):
            changed |= await self._put_some(keys[at : at + PUT_MAX])
        return changed

    async def _put_some(self, keys: list[ObjectKey]) -> set[str]:
        values = {key: value for key in keys if (value := self._object(key)) is not None}
        wanted = {key: held_of(value) for key, value in values.items()}
        manifests: dict[ObjectKey, tuple[Manifest, Held]] = {}
        refused: dict[ObjectKey, Refusal] = {}
        for key, value in values.items():
            if self._held.get(key) == wanted[key]:
                self._forget(key)
            elif self._tried.get(key) != wanted[key]:
                manifest, findings = manifest_of(key.kind, value)
                if manifest is None:
                    refused[key] = Refusal(INVALID, "; ".join(found.text for found in findings) or "it is no manifest")
                else:
                    manifests[key] = manifest, wanted[key]
        if manifests:
            refused |= await self._desired.put(manifests)
        for key, refusal in refused.items():
            self._counters["refused"] += self._refused.get(key) != refusal
            self._refused[key], self._tried[key] = refusal, wanted[key]
        done = manifests.keys() - refused.keys()
        for key in done:
            self._forget(key)
            self._held[key] = wanted[key]
        self._counters["put"] += len(done)
        for key, value in values.items():
            self._note(key, value, self._refused.get(key))
        return {key.namespace for key in done}

    async def _remove(self, keys: list[ObjectKey]) -> set[str]:
        going = {key: self._held[key].uid for key in keys if key in self._held}
        refused = await self._desired.remove(going) if going else {}
        for key, refusal in refused.items():  # an endpoint whose rules are not gone; no object is left to say it on
            if self._refused.get(key) != refusal:
                log.warning("%s %s/%s was deleted in Kubernetes: %s", *key, refusal.text)
            self._refused[key] = refusal
        for key in keys:
            if key not in refused:
                self._forget(key)
                self._held.pop(key, None)
        done = going.keys() - refused.keys()
        self._counters["removed"] += len(done)
        return {key.namespace for key in done}

    def _forget(self, key: ObjectKey) -> None:
        """Nothing stands against this object."""
        for per_object in (self._refused, self._tried):
            per_object.pop(key, None)
        self._unshown.discard(key)

    # -- what is said on the object itself -------------------------------------------------------------------------

    def _note(self, key: ObjectKey, value: Object, refusal: Refusal | None) -> None:
        """Remember to say what became of an object, where it does not say so already."""
        current = conditions_of(value["status"])
        if told(current, refusal, value["metadata"], key.kind, self._clock.time()) == current:
            self._unshown.discard(key)
        else:
            self._unshown.add(key)

    async def _show_some(self) -> None:
        """Write conditions until all are written, something else is to be done, or the server does not take them."""
        while self._unshown and not self._dirty and self._clock.monotonic() >= self._show_at:
            before, self._asked_s = self._counters["show_failures"], 0.0
            await asyncio.gather(*(self._show(key) for key in list(islice(self._unshown, SHOW_MAX))))
            if self._counters["show_failures"] == before:
                self._backoff.reset()
            else:
                self._show_at = self._clock.monotonic() + max(self._asked_s, self._backoff.next())

    async def _show(self, key: ObjectKey) -> None:
        resource = RULES if key.kind == RULES.kind else ENDPOINTS
        value = self._object(key)
        try:
            for _ in range(TRIES_MAX):
                if value is None or await self._shown(key, resource, value):
                    self._unshown.discard(key)
                    return
                self._counters["conflicts"] += 1
                value = await self._client.get(resource.path(key.namespace, key.name))
                if not self._is_still(key, value):
                    self._unshown.discard(key)  # it is another one by now: its next event comes
                    return
        except KubeError as exc:
            if exc.code == 404 and exc.named:
                self._unshown.discard(key)
                return
            self._asked_s = max(self._asked_s, exc.after_s)
            log.debug("the conditions of %s %s/%s cannot be written: %s", *key, exc)
        self._counters["show_failures"] += 1

    def _is_still(self, key: ObjectKey, value: Object) -> bool:
        known = self._object(key)
        fields = ("uid", "generation")
        return known is not None and all(known["metadata"].get(f) == value["metadata"].get(f) for f in fields)

    async def _shown(self, key: ObjectKey, resource: Resource, value: Object) -> bool:
        """Write the conditions. False when the object changed meanwhile."""
        metadata = value["metadata"]
        current = conditions_of(value.get("status") or {})
        wanted = told(current, self._refused.get(key), metadata, key.kind, self._clock.time())
        if wanted == current:
            return True
        status: Object = {"conditions": wanted}
        if resource is ENDPOINTS:
            status["observedGeneration"] = metadata.get("generation", 0)
        body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": status}
        try:
            await self._client.patch(resource.status(key.namespace, key.name), body)
        except KubeError as exc:
            if exc.code == 409:
                return False
            raise
        self._counters["shown"] += 1
        return True


def held_of(value: Object) -> Held:
    """Under which uid and version an object is wanted: its generation, which rises with its spec alone."""
    return Held(str(value["metadata"].get("uid", "")), int(value["metadata"].get("generation", 0)))


def manifest_of(kind: str, value: Object) -> tuple[Manifest | None, list[Finding]]:
    """An object of the API as a manifest, by the reader that files go through; or what is wrong with it."""
    names = ("name", "namespace", "uid", "labels", "annotations")
    metadata = {name: value["metadata"][name] for name in names if value["metadata"].get(name)}
    whole = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": value.get("spec") or {}}
    manifests, findings = load_manifests(msgspec.json.encode(whole).decode())
    return (manifests[0] if manifests else None), findings


def told(current: list[Object], refusal: Refusal | None, metadata: Object, kind: str, now: float) -> list[Object]:
    """The conditions of an object after its newest generation was accepted or refused; others stay as they are."""
    generation = int(metadata.get("generation", 0))
    text = clean_text(refusal.text, MESSAGE_BYTES_MAX) if refusal else "it is what its nodes are to have"
    wanted = {ACCEPTED: (FALSE, refusal.reason, text) if refusal else (TRUE, ACCEPTED, text)}
    before = {value["type"]: value for value in current}
    if kind == RULES.kind:
        ready = before.get(READY, {})
        if refusal:
            wanted[READY] = (FALSE, refusal.reason, text)
        elif ready.get("status") == FALSE and ready.get("reason") == before.get(ACCEPTED, {}).get("reason"):
            wanted[READY] = (UNKNOWN, PENDING, "accepted, its nodes have not answered yet")
    after = dict(before)
    for name, (status, reason, message) in wanted.items():
        there = before.get(name, {})
        made = condition(Condition(name, status, reason, message, now), generation)
        if there.get("status") == status and "lastTransitionTime" in there:
            made["lastTransitionTime"] = there["lastTransitionTime"]
        after[name] = made
    return sorted(after.values(), key=lambda value: str(value["type"]))
