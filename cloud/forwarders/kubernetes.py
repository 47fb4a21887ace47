"""The Kubernetes sink: writes the status of rules into the ``status`` subresource of their objects (protocol P8.3).

What is written are the exact totals of the store, never sums made here, so a write that is repeated, or whose answer
was lost, changes nothing. Every write names the ``resourceVersion`` it is based on: whoever wrote in between (a person
who edits the rule, another controller) makes it a conflict; then the object is read again, and what is there decides:
another uid is another rule, a higher ``statusVersion`` is a newer status, and neither is written over.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from cloud.forwarders import kubestatus
from cloud.forwarders.base import Answer, Delivered, Refused, Retry
from cloud.settings.kubernetes import KubernetesSettings
from cloud.stores.desired import KUBERNETES
from cloud.stores.status import RuleKey, RuleStatus
from common.clock import Clock
from common.errors import KubeError
from common.kube.client import CONNECTIONS_MAX, KubeClient, Object
from common.kube.resources import RULES
from common.metrics import Counters

log = logging.getLogger(__name__)

TRIES_MAX = 5  # of one delivery, each after a conflict
KNOWN_MAX = 20_000  # objects whose last state is remembered, about 1 KiB each; another one is read first
THROTTLED_S = 1.0  # after a 429 that does not say when
DEFINITION_S = 60.0  # until a cluster whose definitions are not ours is asked again
_INSTALL = "run fieldpost kube install --adopt"


class _Known(NamedTuple):
    """An object as it was last seen: enough to write the next status without reading it again."""

    version: str
    uid: str
    status_version: int
    status: bytes


class KubernetesSink:
    """Implements ``cloud.forwarders.base.Sink``. One API server, reached by ``client``, which it closes at stop."""

    def __init__(self, client: KubeClient, settings: KubernetesSettings, clock: Clock, name: str = KUBERNETES) -> None:
        self.name = name
        self.batch_max = CONNECTIONS_MAX
        self.interval_s = settings.interval_s
        self.rate_max = settings.writes_per_s_max
        self._client, self._settings, self._clock = client, settings, clock
        self._known: OrderedDict[RuleKey, _Known] = OrderedDict()
        self._overtaken: dict[RuleKey, tuple[int, int]] = {}  # (version there, ours) of a status that was newer
        self._closed_until = 0.0
        self._counters = Counters(
            "written", "unchanged", "superseded", "taken_over", "conflicts", "gone", "refused", "failed", "not_ours"
        )

    async def start(self) -> None:
        """Nothing to do: connections are made when needed."""

    async def stop(self) -> None:
        """Close the connections."""
        await self._client.close()

    def statistics(self) -> dict[str, int]:
        """Counters by name; those of the client begin with ``api_``."""
        return {**self._counters, **{f"api_{name}": n for name, n in self._client.statistics().items()}}

    async def deliver(self, statuses: Sequence[RuleStatus]) -> Sequence[Answer]:
        """Write those that have an object in Kubernetes, all at once; the slowest takes two of the calls' deadlines."""
        return await asyncio.gather(*(self._deliver(status) for status in statuses))

    async def _deliver(self, status: RuleStatus) -> Answer:
        if status.origin != KUBERNETES or not status.uid:  # it has no object there, and is never written
            self._counters["not_ours"] += 1
            return Delivered()
        try:
            async with asyncio.timeout(2 * self._settings.timeout_s):
                return await self._write(status)
        except KubeError as exc:
            return self._failed(status.key, exc)
        except TimeoutError:
            self._counters["failed"] += 1
            return Retry(f"{self._client.server} did not answer in time")
        except Exception as exc:  # a fault of ours must not end the forwarder; it stays visible as lag
            log.exception("the status of rule %s/%s cannot be written", status.namespace, status.rule)
            self._counters["failed"] += 1
            return Retry(f"{type(exc).__name__}: {exc}")

    async def _write(self, status: RuleStatus) -> Answer:
        path = RULES.status(status.namespace, status.rule)
        for _ in range(TRIES_MAX):
            if (wait := self._closed_until - self._clock.monotonic()) > 0:
                return Retry("the API server asked to wait", wait)
            known = self._known.get(status.key)
            fresh = known is None
            if known is None:
                known = self._remember(status.key, await self._client.get(RULES.path(status.namespace, status.rule)))
            if known.uid != status.uid:
                return self._gone(status.key, "the rule was deleted and made again: this status is of the one before")
            if self._is_overtaken(status, known):
                self._counters["superseded"] += 1
                return Delivered()
            current = _decode(known.status)
            fields = kubestatus.told(status, current, self._settings.errors_max)
            if kubestatus.same(fields, current):
                self._counters["unchanged"] += 1
                return Delivered()
            precondition = {"resourceVersion": known.version}
            try:
                written = await self._client.patch(path, {"metadata": precondition, "status": kubestatus.patch(fields)})
            except KubeError as exc:
                self._known.pop(status.key, None)
                if exc.code == 409:
                    self._counters["conflicts"] += 1
                    continue
                if exc.code == 404 and not fresh:
                    continue  # read it: the rule is gone, or its type takes no status
                if exc.code == 404:
                    return self._unfit("has no status subresource")
                raise
            return self._written(status, fields, written)
        self._counters["failed"] += 1
        return Retry(f"the object changed {TRIES_MAX} times while its status was to be written")

    def _written(self, status: RuleStatus, fields: Object, written: Object) -> Answer:
        """The answer holds the object as it is now: only what stands in it has been written."""
        self._remember(status.key, written)
        there = written.get("status") or {}
        if any(there.get(name) != fields[name] for name in ("successMessages", "failMessages")):
            self._known.pop(status.key, None)
            return self._unfit("drops the counts")
        self._counters["written"] += 1
        return Delivered()

    def _unfit(self, what: str) -> Retry:
        self._counters["failed"] += 1
        return Retry(f"the definition of rules in the cluster {what}: {_INSTALL}", DEFINITION_S)

    def _is_overtaken(self, status: RuleStatus, known: _Known) -> bool:
        """True when a newer status is there, of a controller that went on while this one hung.

        Versions count from the store's beginning. One that was restored or wiped is behind what is there; it is told
        from a late write by this: its next version is newer still, and nobody else has written meanwhile.
        """
        if known.status_version <= status.version:
            self._overtaken.pop(status.key, None)
            return False
        there, ours = self._overtaken.get(status.key, (0, 0))
        if there == known.status_version and ours < status.version:
            self._counters["taken_over"] += 1
            log.warning("rule %s/%s: status %d there is of another store, it is replaced by %d",
                        status.namespace, status.rule, there, status.version)  # fmt: skip
            return False
        self._overtaken[status.key] = (known.status_version, status.version)
        while len(self._overtaken) > KNOWN_MAX:
            self._overtaken.pop(next(iter(self._overtaken)))
        self._known.pop(status.key, None)  # so that the next decision is by what is there then
        return True

    def _remember(self, key: RuleKey, value: Object) -> _Known:
        metadata, status = value.get("metadata") or {}, value.get("status") or {}
        version = status.get("statusVersion")
        known = _Known(
            str(metadata.get("resourceVersion", "")),
            str(metadata.get("uid", "")),
            version if isinstance(version, int) else 0,
            _encode(status),
        )
        self._known[key] = known
        self._known.move_to_end(key)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return known

    def _failed(self, key: RuleKey, exc: KubeError) -> Answer:
        self._known.pop(key, None)
        if exc.code == 404 and exc.named:
            return self._gone(key, str(exc))
        if exc.permanent:
            self._counters["refused"] += 1
            return Refused(f"{exc.reason or exc.code}: {exc}")
        self._counters["failed"] += 1
        if exc.code == 404:
            return self._unfit("is missing")
        if wait := exc.after_s or (THROTTLED_S if exc.code == 429 else 0.0):
            self._closed_until = max(self._closed_until, self._clock.monotonic() + wait)
        return Retry(f"{exc.reason or exc.code or 'unreachable'}: {exc}", wait)

    def _gone(self, key: RuleKey, reason: str) -> Refused:
        self._counters["gone"] += 1
        self._known.pop(key, None)
        self._overtaken.pop(key, None)
        return Refused(f"gone: {reason}")


def _encode(status: Object) -> bytes:
    return msgspec.json.encode(status)


def _decode(status: bytes) -> Object:
    value: Object = msgspec.json.decode(status)
    return value
