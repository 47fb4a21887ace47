"""The rules of a node, ready to run: manifests in, arrivals routed, everything that waits swept (flow F1, F4).

``load`` is the one way to change rules: validate (the caller has), build, swap at once for new messages, let what runs
end on its old version, then stop the old. A message is run wholly by one version.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from common.clock import Clock, SystemClock
from common.models import DROPPED
from common.resource import DEFAULT_NAMESPACE
from common.rules import RESULTS_SUMMARY, SERVICEBUS, Rule, RuleEndpoint, node_matches, selects
from edge.endpoints.base import Kind, Rendering, Target, Wiring
from edge.flow.events import Execution as AnyExecution
from edge.flow.events import Node, Place, SendEvent
from edge.flow.hooks import Hooks
from edge.flow.router import Points, Router
from edge.messages import Arrival, Ending, FlowMessage
from edge.rules.binding import Binding, Decision
from edge.rules.execution import Execution, RetryPolicy, Settlement
from edge.rules.turns import Turns
from edge.settings import FlowSettings
from edge.spool import Spool
from edge.spooltables import Input
from edge.status import RuleRef, Status
from edge.summaries import Summaries

log = logging.getLogger(__name__)

Resolve = Callable[[str, str], str | None]  # (verb, target) of a chain to the id of a node, None where there is none
Decide = Callable[[Rule, RuleRef, Resolve], Decision | None]  # makes the chain of a rule, None where it has none


class RuleSet:
    """All bindings of a node.

    Arguments: ``kinds`` are the endpoint types by name, filled before ``load``; ``labels`` are the node's; ``decide``
    makes a rule's chain; ``points`` are chains on the seven hook points.
    """

    def __init__(
        self,
        node: str,
        status: Status,
        spool: Spool,
        kinds: Mapping[str, Kind],
        *,
        labels: Mapping[str, str] | None = None,
        decide: Decide = lambda rule, ref, resolve: None,
        hooks: Hooks | None = None,
        points: Points | None = None,
        flow: FlowSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._node, self._status, self._spool, self._kinds, self._decide = node, status, spool, kinds, decide
        self._labels, self._flow, self._clock = labels or {}, flow or FlowSettings(), clock or SystemClock()
        self.hooks = hooks or Hooks()
        self.router = Router(self.hooks, self._find, points, self._begin)
        self.turns = Turns(self._clock.monotonic)
        self._summaries = Summaries(status, self._clock)
        self._bindings: dict[tuple[str, str], Binding] = {}
        self._endpoints: dict[tuple[str, str], RuleEndpoint] = {}
        self._rules: dict[tuple[str, str], Rule] = {}
        self._busy: set[Binding] = set()
        self._leaving: dict[tuple[str, str], Binding] = {}  # retired, with executions that have not ended
        self._past = (0, 0)  # late answers and uncounted messages of bindings that are gone
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._bindings)

    # -- rules ---------------------------------------------------------------------------------------------------------

    def load(self, manifests: Sequence[Rule | RuleEndpoint]) -> None:
        """Run exactly the enabled rules for this node of checked ``manifests`` (``common.manifests.check`` found
        nothing). A rule that says the same as before, on the same endpoints, goes on as it is.

        Raises ConfigError or StorageError when sources cannot be bound: the rules before go on then.
        """
        endpoints = {m.key: m for m in manifests if isinstance(m, RuleEndpoint)}
        wanted = [m for m in manifests if isinstance(m, Rule) and m.spec.enabled and self._for_this_node(m)]
        changed = {key[0] for key in endpoints.keys() | self._endpoints.keys()
                   if endpoints.get(key) != self._endpoints.get(key)}  # fmt: skip
        bindings: dict[tuple[str, str], Binding] = {}
        wirings: dict[str, list[Wiring]] = {name: [] for name in self._kinds}
        bound: list[str] = []
        try:
            for rule in wanted:
                source = endpoints[rule.metadata.namespace, rule.spec.source]
                binding = bindings[rule.key] = self._kept(rule, changed) or self._bind(rule, endpoints)
                wirings[source.spec.rule_endpoint_type].append(Wiring(source, rule.spec.source_resource, binding))
            for name, of_kind in wirings.items():
                bound.append(name)
                self._kinds[name].bind(of_kind)
        except Exception:
            self._bind_again(bound)
            for key, binding in bindings.items():
                if binding is not self._bindings.get(key):
                    binding.close()
            raise
        self._swap(bindings, {rule.key: rule for rule in wanted}, endpoints)

    def _swap(
        self,
        bindings: dict[tuple[str, str], Binding],
        rules: dict[tuple[str, str], Rule],
        endpoints: dict[tuple[str, str], RuleEndpoint],
    ) -> None:
        before, self._bindings = self._bindings, bindings
        self._rules, self._endpoints = rules, endpoints
        for key, old in before.items():
            if bindings.get(key) is not old:
                old.retire()
                self._busy.add(old)
                self._leaving[key] = old
        for key, new in bindings.items():
            if before.get(key) is not new and key in self._leaving:  # of its last version, or of a rule of its name
                new.follow(self._leaving[key])
                self._busy.add(new)
        self._sweep_later()

    def _bind_again(self, names: Sequence[str]) -> None:
        """After a failed change: give the sources back what they had."""
        for name in names:
            of_kind = [
                Wiring(source, rule.spec.source_resource, self._bindings[rule.key])
                for rule in self._rules.values()
                for source in (self._endpoints[rule.metadata.namespace, rule.spec.source],)
                if source.spec.rule_endpoint_type == name
            ]
            with contextlib.suppress(Exception):  # the error that is being raised says why
                self._kinds[name].bind(of_kind)

    def _for_this_node(self, rule: Rule) -> bool:
        """The labels of a rule of the cloud's are left to the cloud, where ``fieldpost node add`` may give others."""
        if rule.metadata.uid:
            return node_matches(rule.spec.source_resource.get("node_name", ""), self._node)
        return selects(rule.spec, self._node, self._labels)

    def _kept(self, rule: Rule, changed: Collection[str]) -> Binding | None:
        """The binding of a rule that says what it said, where no endpoint of its namespace has ``changed``."""
        same = self._rules.get(rule.key) == rule and rule.metadata.namespace not in changed
        return self._bindings[rule.key] if same else None

    def _bind(self, rule: Rule, endpoints: Mapping[tuple[str, str], RuleEndpoint]) -> Binding:
        meta, spec = rule.metadata, rule.spec
        ref = RuleRef(meta.namespace, meta.name, rule_version(rule), meta.uid)
        rendering = Rendering(self._node, meta.namespace, meta.name, spec.timeout_s)
        targets = _Targets(self._kinds, endpoints, rule, rendering, self._find)
        target_id = endpoint_id(meta.namespace, spec.target)
        return Binding(
            ref,
            targets.made(spec.target),
            self._status,
            self._spool,
            timeout_s=spec.timeout_s,
            retry=RetryPolicy(spec.retry.attempts, spec.retry.backoff_s),
            flow=self._flow,
            clock=self._clock,
            decision=self._decide(rule, ref, targets.resolve),
            target_id=target_id,
            router=self.router,
            find=targets.find,
            turns=self.turns,
            tally=self._summaries.of(ref, self._flow.journal_after_s) if spec.results == RESULTS_SUMMARY else None,
            wake=self._wake,
        )

    # -- messages ------------------------------------------------------------------------------------------------------

    def arrived(self, arrival: Arrival, consumers: Sequence[Binding]) -> None:
        """Begin one execution for each of ``consumers``."""
        settlement = Settlement(arrival.settle, len(consumers)) if arrival.settle is not None else None
        if self.router.active():
            self._send(arrival, consumers, settlement)
            self._busy.update(consumers)
        else:
            for binding in consumers:
                if binding.take(arrival, settlement):
                    self._busy.add(binding)
        if self._busy:
            self._sweep_later()

    def _send(self, arrival: Arrival, consumers: Sequence[Binding], settlement: Settlement | None) -> None:
        message = arrival.message
        if arrival.reliable or arrival.journal_now:  # hooks may change the message; the journal keeps what came
            message = message.clone()
        events: list[SendEvent] = []
        for binding in consumers:
            execution = binding.begin(arrival, settlement)
            if not execution.ended:
                events.append(SendEvent(message, Place(arrival.source), Place(binding.id), bool(events), execution))
        self.router.send(events)

    def _begin(self, event: SendEvent) -> AnyExecution | None:
        """The execution of an event that a hook added."""
        binding = self._bindings.get(rule_key(event.destination.id))
        if binding is None:
            return None
        self._wake(binding)
        return binding.begin(Arrival(event.msg, source=event.source.id), None)

    def _find(self, node_id: str) -> Node | None:
        """The node of an id: a rule, or an endpoint (flow F1)."""
        kind, _, rest = node_id.partition("/")
        namespace, _, name = rest.partition("/")
        if kind == "rule":
            return self._bindings.get((namespace, name))
        if kind == "endpoint" and (namespace, name) in self._endpoints:
            return _EndpointNode(node_id)
        return None

    def named(self, name: str) -> Binding | None:
        """The rule ``namespace/name``, ``rule/namespace/name``, or ``name`` in the default namespace."""
        namespace, _, short = name.removeprefix("rule/").rpartition("/")
        return self._bindings.get((namespace or DEFAULT_NAMESPACE, short))

    def resume(
        self, inputs: Sequence[Input], removed_uid: Callable[[str, str], str] = lambda namespace, name: ""
    ) -> None:
        """Run journalled inputs again. One whose rule is gone ends as dropped with reason ``rule_removed``;
        ``removed_uid`` gives the uid that the cloud's rule of that namespace and name had, if it was one.
        """
        for item in inputs:
            binding = self._bindings.get((item.namespace, item.rule))
            if binding is not None:
                binding.resume(item)
                self._busy.add(binding)
            else:
                gone = Ending(DROPPED, "rule_removed", "the rule was removed while this message waited on disk", "rule")
                ref = RuleRef(item.namespace, item.rule, uid=removed_uid(item.namespace, item.rule))
                self._status.record(ref, gone, source_id=item.msg_id, attempts=item.attempts, input_id=item.id)
        self._sweep_later()

    # -- time ----------------------------------------------------------------------------------------------------------

    def _wake(self, binding: Binding) -> None:
        self._busy.add(binding)
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
                if binding.retired:
                    self._left(binding)
        if self._busy:
            self._sweep_later()
        else:
            self._idle.set()

    def _left(self, binding: Binding) -> None:
        """The last execution of a retired binding has ended."""
        binding.close()
        key = rule_key(binding.id)
        if self._leaving.get(key) is binding:
            del self._leaving[key]
        self._past = self._past[0] + binding.late, self._past[1] + binding.records.uncounted

    async def drain(self) -> None:
        """Wait at most ``stop_s`` until every execution has ended; the others come again from source or journal."""
        self._idle.clear()
        if self._busy:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._flow.stop_s):
                    await self._idle.wait()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for binding in self._busy:
            binding.abandon()
        self._summaries.flush()

    def statistics(self) -> dict[str, int]:
        """Sums of the bindings' gauges and counters by name, and the router's."""
        late, uncounted = self._past
        sums: dict[str, int] = {"rules": len(self._bindings), "late": late, "uncounted": uncounted}
        for binding in {*self._bindings.values(), *self._busy}:
            for name, value in binding.statistics().items():
                sums[name] = sums.get(name, 0) + value
        return sums | {f"router_{name}": value for name, value in self.router.statistics().items()}


class _EndpointNode:
    """A target endpoint as a node: the rule whose execution it is delivers there."""

    def __init__(self, node_id: str) -> None:
        self.id = node_id

    def receive(self, message: FlowMessage, execution: AnyExecution | None) -> None:
        if isinstance(execution, Execution):
            execution.message = message
            execution.binding.deliver_to(self.id, execution)
        else:
            log.warning("message %s for %s belongs to no rule; it is dropped", message.msgid, self.id)

    def failed(self, error: BaseException, message: FlowMessage) -> None:
        log.error("endpoint %s, message %s: %s", self.id, message.msgid, error)


class _Targets:
    """The targets of one rule: its own, and others of its namespace that its chain or a hook names."""

    def __init__(
        self,
        kinds: Mapping[str, Kind],
        endpoints: Mapping[tuple[str, str], RuleEndpoint],
        rule: Rule,
        rendering: Rendering,
        nodes: Callable[[str], Node | None],
    ) -> None:
        self._kinds, self._endpoints, self._rule, self._rendering = kinds, endpoints, rule, rendering
        self._nodes = nodes
        self._made: dict[str, Target] = {}

    def made(self, name: str) -> Target:
        """The target at endpoint ``name`` of the rule's namespace, with the rule's ``targetResource``."""
        if name not in self._made:
            endpoint = self._endpoints[self._rule.metadata.namespace, name]
            kind = self._kinds[endpoint.spec.rule_endpoint_type]
            self._made[name] = kind.target(endpoint, self._rule.spec.target_resource, self._rendering)
        return self._made[name]

    def find(self, node_id: str) -> Target | None:
        """The target of a node id; None when there is none, or the rule's ``targetResource`` does not fit it."""
        kind, _, rest = node_id.partition("/")
        namespace, _, name = rest.partition("/")
        endpoint = self._endpoints.get((namespace, name))
        if kind != "endpoint" or namespace != self._rule.metadata.namespace or endpoint is None:
            return None
        if (namespace, name) == (self._rule.metadata.namespace, self._rule.spec.target):
            return self.made(name)
        required = self._kinds[endpoint.spec.rule_endpoint_type].type.target_required
        if required is None or any(key not in self._rule.spec.target_resource for key in required):
            return None
        return self.made(name)

    def resolve(self, verb: str, target: str) -> str | None:
        """The node that ``forward`` or ``server`` means: a full node id, or an endpoint or rule of the namespace."""
        namespace = self._rule.metadata.namespace
        if target.startswith(("rule/", "endpoint/")):
            return target
        endpoint = self._endpoints.get((namespace, target))
        if verb == "server" and (endpoint is None or endpoint.spec.rule_endpoint_type != SERVICEBUS.name):
            return None
        if endpoint is not None:
            return endpoint_id(namespace, target)
        node_id = f"rule/{namespace}/{target}"  # also of a rule that came after this one
        return node_id if self._nodes(node_id) is not None else None


def rule_key(node_id: str) -> tuple[str, str]:
    """(namespace, name) of a rule's node id; ("", "") for another id."""
    kind, _, rest = node_id.partition("/")
    namespace, _, name = rest.partition("/")
    return (namespace, name) if kind == "rule" else ("", "")


def endpoint_id(namespace: str, name: str) -> str:
    """The node id of an endpoint."""
    return f"endpoint/{namespace}/{name}"


def rule_version(rule: Rule) -> str:
    """The version of a rule that results name: the cloud's, or of a rule of this node a hash over what it says."""
    if rule.metadata.uid:
        return rule.metadata.resource_version
    return hashlib.sha256(msgspec.json.encode(rule.spec, order="sorted")).hexdigest()[:12]
