"""What the cloud does with each type of message (protocol P7.2). Handlers take a batch and raise nothing on purpose."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from cloud.refusals import Refusals
from cloud.sessions import Sessions, is_retained
from cloud.stores.base import (
    CONFLICT,
    NOT_ASSIGNED,
    NOT_STORED,
    RETIRED,
    CommitOutcome,
    Confirmed,
    RefusedStatus,
    StatusMessage,
    Store,
)
from common.clock import Clock
from common.errors import RefusedError, TransportError
from common.faults import Fault, no_fault
from common.message import EDGECONTROLLER, ERROR, RESOURCE_GROUP, RESPONSE, Message, new
from common.messaging.base import MessageLayer
from common.models import (
    Confirmation,
    ControllerPresence,
    ExecResult,
    LossRecord,
    NodeBirth,
    NodeStatus,
    Refusal,
    parse_version,
)
from common.resource import (
    LOSSRECORD,
    NODE,
    NODESTATUS,
    RULE,
    RULEENDPOINT,
    RULESTATUS,
    build_resource,
    is_label,
    is_name,
)
from common.rulesync import SyncedObject

log = logging.getLogger(__name__)

# What the layer decodes the content of each resource type to.
CONTENT_TYPES: dict[str, Any] = {
    RULESTATUS: ExecResult | list[ExecResult],
    LOSSRECORD: LossRecord | list[LossRecord],
    NODE: NodeBirth,
    NODESTATUS: NodeStatus,
}
COUNT_MAX = 10**12  # executions in one summary, and microseconds in one duration, are far below in any honest report
DURATION_SUM_MAX = 10**15
MSG_ID_CHARS_MAX = 128
LOSS_RECORDS_MAX = 256  # in one message
LOSS_KIND_CHARS_MAX = 64

_is_rule_name = lru_cache(maxsize=16384)(is_name)


def status_message(message: Message[Any], at: float) -> StatusMessage:
    """Check a rulestatus or lossrecord message and return what the store commits. ``at`` is when it came.

    The node is the one of the topic, which the layer has put into the resource (P3.3). Every result must be of the
    resource's namespace, and of its rule when it names one (P1.4). An empty list is taken: it only moves the progress,
    as the record does that replaces a message which could not be accepted (P5.9). Raises RefusedError.
    """
    resource, header, content = message.parsed_resource(), message.header, message.content
    if not is_label(resource.node) or not is_label(resource.namespace):
        raise RefusedError("invalid_resource", f"{message.route.resource!r} names no node and namespace")
    epoch, sequence = parse_version(header.resourceversion)
    if not 0 <= header.low <= sequence:
        raise RefusedError("undecodable", f"low is {header.low}, which sequence {sequence} cannot have")
    if not 0 < len(header.msg_id) <= MSG_ID_CHARS_MAX:
        raise RefusedError("undecodable", f"msg_id has {len(header.msg_id)} characters, 1 to {MSG_ID_CHARS_MAX}")
    items = content if isinstance(content, list) else [content]
    results, losses = (items, []) if resource.type != LOSSRECORD else ([], items)
    if content is None or not isinstance(content, (list, ExecResult, LossRecord)):
        kind = "a LossRecord" if resource.type == LOSSRECORD else "an ExecResult"
        raise RefusedError("undecodable", f"content is neither {kind} nor a list of them")
    _check_losses(losses)
    _check_results(results, resource.namespace, resource.name)
    return StatusMessage(
        resource.node, epoch, sequence, header.low, header.msg_id, results, at, resource.namespace, losses
    )  # fmt: skip


def _check_losses(records: list[LossRecord]) -> None:
    if len(records) > LOSS_RECORDS_MAX:
        raise RefusedError("too_large", f"{len(records)} loss records in one message, at most {LOSS_RECORDS_MAX}")
    for record in records:
        if not record.id or not 0 < len(record.kind) <= LOSS_KIND_CHARS_MAX:
            raise RefusedError("undecodable", f"loss record {record.id[:80]!r} lacks an id, or a kind of fair length")


def _check_results(results: list[ExecResult], namespace: str, name: str) -> None:
    for result in results:
        if result.project_id != namespace:
            raise RefusedError("route_mismatch", f"ProjectID is {result.project_id!r}, the resource's {namespace!r}")
        if name and result.rule_id != name:
            raise RefusedError("route_mismatch", f"RuleID is {result.rule_id!r}, the resource's {name!r}")
        if result.count > COUNT_MAX or result.duration_us > COUNT_MAX or result.duration_sum > DURATION_SUM_MAX:
            raise RefusedError("undecodable", f"Count or a duration of rule {result.rule_id!r} is beyond all measure")
    for rule in {result.rule_id for result in results}:
        if not _is_rule_name(rule):
            raise RefusedError("invalid_resource", f"rule name {rule!r} is not a DNS subdomain")


class Downstream(Protocol):
    """What handlers tell the half that sends rules down (P7.2)."""

    def heard(self, node: str, rules_version: str, *, born: bool) -> None:
        """A node said which rules it has, as a hash; ``born`` with its birth."""
        ...

    async def take_replies(self, messages: Sequence[Message[Any]]) -> None:
        """Nodes answered to rules, endpoints or queries. Raises StorageError or QueueFullError."""
        ...

    async def wanted_of(self, node: str) -> list[SyncedObject]:
        """The rules and endpoints that a node is to have."""
        ...


class Handlers:
    """The handlers and what they share. ``on_committed`` is called after each commit that counted something,
    ``on_retired`` with a deleted node whose presence came, ``fault`` at the point ``confirming``.
    """

    def __init__(
        self,
        layer: MessageLayer,
        store: Store,
        sessions: Sessions,
        refusals: Refusals,
        clock: Clock,
        downstream: Downstream,
        on_committed: Callable[[CommitOutcome], None] = lambda outcome: None,
        on_retired: Callable[[str], None] = lambda node: None,
        fault: Fault = no_fault,
    ) -> None:
        self.layer, self.store, self.sessions, self.refusals, self.clock = layer, store, sessions, refusals, clock
        self._downstream, self._fault = downstream, fault
        self._on_committed, self._on_retired = on_committed, on_retired
        self._counts: Counter[str] = Counter()

    async def update_rule_status(self, messages: Sequence[Message[Any]]) -> None:
        """Count results, then confirm: effect and progress are on disk before anything is said (P5.5)."""
        at, accepted, taken = self.clock.time(), list[StatusMessage](), list[Message[Any]]()
        for message in messages:
            try:
                accepted.append(status_message(message, at))
                taken.append(message)
            except RefusedError as exc:
                self.refusals.message(message, exc)
        if not accepted:
            return
        await self.sessions.settled({message.node for message in accepted})
        outcome = await self.store.commit(accepted)
        if outcome.new:
            self._on_committed(outcome)
        if outcome.refused:
            originals = {id(checked): message for checked, message in zip(accepted, taken, strict=True)}
            for refused in outcome.refused:
                self._refuse(refused, originals[id(refused.message)])
        self._fault("confirming")
        confirming = [self._confirm(each) for each in outcome.confirmed]  # one a node; mostly there is one node
        sent = [await confirming[0]] if len(confirming) == 1 else await asyncio.gather(*confirming)
        self._counts["confirmations"] += sum(sent)
        self._counts["confirmations_lost"] += len(sent) - sum(sent)

    async def _confirm(self, confirmed: Confirmed) -> bool:
        """Send one confirmation at QoS 0; a lost one is repaired by the next, or when the node sends again (P5.5)."""
        content = Confirmation(str(confirmed.epoch), confirmed.through, confirmed.also)
        resource = build_resource(confirmed.node, confirmed.namespace, RULESTATUS)
        try:
            await self.layer.send(_answer(confirmed.msg_id, resource, content), qos=0)
        except (TransportError, RefusedError) as exc:
            log.debug("a confirmation to %s was not sent: %s", confirmed.node, exc)
            return False
        return True

    def _refuse(self, refused: RefusedStatus, original: Message[Any]) -> None:
        """Refuse what the store did not take. What a person may want back is kept: not what the node sends again, and
        not what is of a retired epoch.
        """
        reason, version = refused.reason, original.header.resourceversion
        error = RefusedError(reason, f"{version}: {refused.detail}")
        # A fault of ours is not answered: the node keeps the message and sends it again.
        keep = reason in (NOT_STORED, CONFLICT, NOT_ASSIGNED)
        self.refusals.message(original, error, answer=reason != NOT_STORED, keep=keep, uids=refused.uids)

    async def update_node(self, messages: Sequence[Message[Any]]) -> None:
        """Births and offline notices: presence and labels (P7.2). A node speaks only for itself (P3.3)."""
        await asyncio.gather(*map(self._take_birth, messages))

    async def _take_birth(self, message: Message[Any]) -> None:
        birth, node = message.content, message.parsed_resource().node
        try:
            if not isinstance(birth, NodeBirth):
                raise RefusedError("undecodable", "content is not a birth")
            if birth.node != node:
                raise RefusedError("route_mismatch", f"body says node {birth.node!r}, topic {node!r}")
            before = message.header.resourceversion
            taken = await self.sessions.take(birth, retained=is_retained(message), before=before)
        except RefusedError as exc:
            self.refusals.message(message, exc, keep=exc.reason != RETIRED)
            if exc.reason == RETIRED:
                self._on_retired(node)
            return
        if taken and birth.online and not is_retained(message):  # what a broker kept is old: its nodestatus tells more
            self._downstream.heard(node, birth.rules_version, born=True)

    async def update_node_status(self, messages: Sequence[Message[Any]]) -> None:
        """The agents' own statistics (P7.2)."""
        await asyncio.gather(*map(self._take_status, messages))

    async def _take_status(self, message: Message[Any]) -> None:
        node = message.parsed_resource().node
        if not node or not isinstance(message.content, NodeStatus):
            self.refusals.message(message, RefusedError("undecodable", "content is not a node's status"))
            return
        try:
            await self.sessions.report(node, message.content, message.header.timestamp / 1000)
        except RefusedError as exc:
            self.refusals.message(message, exc, keep=False)
            return
        self._downstream.heard(node, message.content.rules_version, born=False)

    async def update_controller(self, messages: Sequence[Message[Any]]) -> None:
        """What controllers, this one too, say of themselves (P3.4)."""
        for message in messages:
            if isinstance(message.content, ControllerPresence):
                self.sessions.controller(message.content, retained=is_retained(message))

    async def take_reply(self, messages: Sequence[Message[Any]]) -> None:
        """Replies that nobody waits for (the layer resolves waiters itself, P7.3): those about rules go to the store,
        others are counted by operation and type.
        """
        rules = []
        for message in messages:
            resource = message.parsed_resource()
            if resource.type in (RULE, RULEENDPOINT):
                rules.append(message)
                continue
            self._counts[f"unasked_{message.route.operation}"] += 1
            log.debug("%s of %s on %s/%s", message.route.operation, resource.node, resource.type, resource.name)
        if rules:
            await self._downstream.take_replies(rules)

    async def query_rules(self, messages: Sequence[Message[Any]]) -> None:
        """A node asks what it is to have, and gets the list (P6.6)."""
        for message in messages:
            wanted = await self._downstream.wanted_of(message.parsed_resource().node)
            try:
                try:
                    await self.layer.respond(message, wanted)
                except RefusedError as exc:  # longer than a message may be
                    await self.layer.respond(message, Refusal(exc.reason, exc.detail), operation=ERROR)
                self._counts["queries"] += 1
            except (TransportError, RefusedError) as exc:
                log.debug("a query of %s was not answered: %s", message.route.resource, exc)

    def statistics(self) -> dict[str, int]:
        """Counters by name."""
        return dict(self._counts)


def _answer(parent: str, resource: str, content: Any) -> Message[Any]:
    return new(
        parent, source=EDGECONTROLLER, group=RESOURCE_GROUP, operation=RESPONSE, resource=resource, content=content
    )
