"""A node for tests of the flow: real rules, router, spool and status; endpoints that the test plays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.checks import check
from common.manifestfiles import load_manifests
from common.models import ExecResult
from common.rules import EVENTBUS, RuleEndpoint
from edge.endpoints.base import Rendering, Wiring
from edge.messages import DELIVERED, Arrival, Delivery, FlowMessage
from edge.rules.ruleset import RuleSet
from edge.settings import FlowSettings
from edge.status import Status
from tests.edge.support import Collected, results_of
from tests.support.wait import eventually

ENDPOINTS = """\
apiVersion: rules.kubeedge.io/v1
kind: RuleEndpoint
metadata: {name: bus}
spec: {ruleEndpointType: eventbus}
---
apiVersion: rules.kubeedge.io/v1
kind: RuleEndpoint
metadata: {name: other}
spec: {ruleEndpointType: eventbus}
"""


def rule(name: str, target: str = "bus", extra: str = "") -> str:
    """A manifest: source bus, topic in/<name>, target topic out/<name>."""
    return f"""\
---
apiVersion: rules.kubeedge.io/v1
kind: Rule
metadata: {{name: {name}}}
spec:
  {{source: bus, sourceResource: {{topic: "in/#"}}, target: {target}, targetResource: {{topic: "out/{name}"}}{extra}}}
"""


class PlayedTarget:
    """Notes what it is to deliver, and answers at once, or as the test says."""

    ready = True

    def __init__(self, endpoint: str, kind: PlayedKind, rendering: Rendering) -> None:
        self.endpoint, self.kind, self.rule = endpoint, kind, rendering.rule
        self.closed = False

    def deliver(self, message: FlowMessage, done: Callable[[Delivery], None]) -> None:
        """See Target."""
        self.kind.delivered.append((self.rule, self.endpoint, message))
        self.kind.answer(done)

    def close(self) -> None:
        """See Target."""
        self.closed = True


class PlayedKind:
    """An endpoint type that the test plays."""

    type = EVENTBUS

    def __init__(self) -> None:
        self.wirings: Sequence[Wiring] = ()
        self.delivered: list[tuple[str, str, FlowMessage]] = []
        self.targets: list[PlayedTarget] = []
        self.answer: Callable[[Callable[[Delivery], None]], None] = lambda done: done(DELIVERED)

    def bind(self, wirings: Sequence[Wiring]) -> None:
        """See Kind."""
        self.wirings = wirings

    def target(self, endpoint: RuleEndpoint, resource: Mapping[str, str], rendering: Rendering) -> PlayedTarget:
        """See Kind."""
        self.targets.append(PlayedTarget(endpoint.metadata.name, self, rendering))
        return self.targets[-1]


class Played:
    """One node. ``arrive`` brings a message for all rules; ``results`` are what the spool has frozen so far."""

    def __init__(self, path: Path, manifests: str, *, flow: FlowSettings | None = None, **ruleset: Any) -> None:
        self.spool, self.kind = Collected(path), PlayedKind()
        self.status = Status(self.spool.spool)
        self.rules = RuleSet(
            "edge-1", self.status, self.spool.spool, {"eventbus": self.kind},
            flow=flow or FlowSettings(journal_after_s=0.01), **ruleset,
        )  # fmt: skip
        self.hooks = self.rules.hooks
        self.settled: list[str] = []
        self._confirmed = 0
        self.load(manifests)

    def load(self, manifests: str) -> None:
        """Change the rules to exactly these."""
        loaded, findings = load_manifests(ENDPOINTS + manifests)
        assert not findings + check(loaded)
        self.rules.load([one.value for one in loaded])

    def arrive(self, msgid: str, payload: Any = b"p", reliable: bool = False) -> FlowMessage:
        """A message comes; returns it."""
        message = FlowMessage(payload, f"in/{msgid}", msgid)
        settle = (lambda: self.settled.append(msgid)) if reliable else None
        arrival = Arrival(message, reliable, settle, source="source/bus")
        self.rules.arrived(arrival, [wiring.consumer for wiring in self.kind.wirings])
        return message

    def results(self) -> list[ExecResult]:
        """All results so far; they are confirmed, so that there is room for more."""
        self.spool.confirm(self.spool.frozen[self._confirmed :])
        self._confirmed = len(self.spool.frozen)
        return [result for message in self.spool.frozen for result in results_of(message)]

    async def ended(self, count: int) -> list[ExecResult]:
        """Wait for ``count`` results, and that there are no more once all executions ended."""
        await eventually(lambda: len(self.results()) >= count)
        await self.rules.drain()
        results = self.results()
        assert len(results) == count, results
        return results

    async def close(self) -> None:
        """End."""
        await self.rules.drain()
        await self.spool.spool.stop()
