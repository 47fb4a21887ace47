"""The rules of a node, ready to run: manifests in, arrivals routed, everything that waits swept (flow F1, F4)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence

import msgspec

from common.clock import Clock, SystemClock
from common.models import DROPPED
from common.rules import Rule, RuleEndpoint, TopicTemplate, node_matches
from edge.endpoints.base import Arrival
from edge.endpoints.eventbus import Bound, Eventbus, EventbusTarget
from edge.rules.binding import Binding, RetryPolicy, Settlement
from edge.settings import FlowSettings
from edge.spool import Spool
from edge.spooldb import Input
from edge.status import Ending, RuleRef, Status

log = logging.getLogger(__name__)


class RuleSet:
    """All bindings of a node.

    Arguments: ``bus_of`` gives the eventbus for a broker URL ("" is the node's own).
    """

    def __init__(
        self,
        node: str,
        status: Status,
        spool: Spool,
        bus_of: Callable[[str], Eventbus],
        *,
        flow: FlowSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._node, self._status, self._spool, self._bus_of = node, status, spool, bus_of
        self._flow, self._clock = flow or FlowSettings(), clock or SystemClock()
        self._bindings: dict[tuple[str, str], Binding] = {}
        self._busy: set[Binding] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self.version = ""

    def __len__(self) -> int:
        return len(self._bindings)

    def load(self, manifests: Sequence[Rule | RuleEndpoint]) -> None:
        """Bind every enabled rule for this node of checked ``manifests`` (``common.manifests.check`` found nothing)."""
        endpoints = {(m.metadata.namespace, m.metadata.name): m for m in manifests if isinstance(m, RuleEndpoint)}
        consumers: dict[str, list[Bound]] = {}
        for rule in (m for m in manifests if isinstance(m, Rule) and m.spec.enabled):
            if not node_matches(rule.spec.source_resource.get("node_name", ""), self._node):
                continue
            source, target = (endpoints[rule.metadata.namespace, name] for name in (rule.spec.source, rule.spec.target))
            binding = self._bind(rule, target)
            self._bindings[binding.rule.namespace, binding.rule.name] = binding
            resource = rule.spec.source_resource
            bound = Bound(resource["topic"], int(resource.get("qos", "1")), binding)
            consumers.setdefault(source.spec.properties.get("broker", ""), []).append(bound)
        for broker, of_broker in consumers.items():
            self._bus_of(broker).bind(of_broker)
        self.version = hashlib.sha256(msgspec.json.encode(list(manifests), order="sorted")).hexdigest()[:16]

    def _bind(self, rule: Rule, target: RuleEndpoint) -> Binding:
        meta, spec = rule.metadata, rule.spec
        ref = RuleRef(meta.namespace, meta.name, rule_version(rule), meta.uid)
        known = {"node": self._node, "rule": meta.name, "namespace": meta.namespace}
        resource = spec.target_resource
        delivers = EventbusTarget(
            self._bus_of(target.spec.properties.get("broker", "")),
            TopicTemplate(resource["topic"]),
            known,
            qos=int(resource.get("qos", "1")),
            retain=resource.get("retain", "false") == "true",
        )
        return Binding(
            ref,
            delivers,
            self._status,
            self._spool,
            timeout_s=spec.timeout_s,
            retry=RetryPolicy(spec.retry.attempts, spec.retry.backoff_s),
            flow=self._flow,
            clock=self._clock,
        )

    def arrived(self, arrival: Arrival, consumers: Sequence[Binding]) -> None:
        """Begin one execution for each of ``consumers``."""
        settlement = Settlement(arrival.settle, len(consumers))
        for binding in consumers:
            binding.take(arrival, settlement)
            self._busy.add(binding)
        self._sweep_later()

    def resume(self, inputs: Sequence[Input]) -> None:
        """Run journalled inputs again. One whose rule is gone ends as dropped with reason ``rule_removed``."""
        for item in inputs:
            binding = self._bindings.get((item.namespace, item.rule))
            if binding is not None:
                binding.resume(item)
                self._busy.add(binding)
            else:
                gone = Ending(DROPPED, "rule_removed", "the rule was removed while this message waited on disk", "rule")
                ref = RuleRef(item.namespace, item.rule)
                self._status.record(ref, gone, source_id=item.msg_id, attempts=item.attempts, input_id=item.id)
        self._sweep_later()

    def _sweep_later(self) -> None:
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(self._flow.journal_after_s / 2, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        for binding in list(self._busy):
            try:
                binding.sweep()
            except Exception:  # one rule's fault must not keep the others from ending
                log.exception("rule %s/%s: sweep failed", binding.rule.namespace, binding.rule.name)
            if binding.idle:
                self._busy.discard(binding)
        if self._busy:
            self._sweep_later()
        else:
            self._idle.set()

    async def drain(self) -> None:
        """Wait at most ``stop_s`` until every execution has ended; the others come again from source or journal."""
        self._idle.clear()
        if self._busy:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._flow.stop_s):
                    await self._idle.wait()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def statistics(self) -> dict[str, int]:
        """Sums of the bindings' gauges by name."""
        sums: dict[str, int] = {"rules": len(self._bindings)}
        for binding in self._busy:
            for name, value in binding.statistics().items():
                sums[name] = sums.get(name, 0) + value
        return sums


def rule_version(rule: Rule) -> str:
    """The version of a rule that results name: a hash over what it says."""
    return hashlib.sha256(msgspec.json.encode(rule.spec, order="sorted")).hexdigest()[:12]
