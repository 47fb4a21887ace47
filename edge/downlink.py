"""The downlink: what the cloud says of rules and endpoints, checked, put on the node, answered (protocol P6).

Messages wait in order and are taken together, so that a thousand of them are one change of the node's rules and one
write to its disk. Nothing here raises for what came: it is answered with ``error``, or counted where nobody can be
answered. An answer that gets lost is no harm: the cloud compares the node's hash.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from common import message as messages
from common.errors import FieldpostError, RefusedError, TransportError
from common.faults import Fault, no_fault
from common.message import DELETE, ERROR, INSERT, QUERY, RESOURCE_GROUP, RESPONSE, ROUTER, UPDATE, Message
from common.models import Refusal, clean_text
from common.resource import RULE, RULEENDPOINT, is_label, is_name
from common.rules import API_VERSION, ENDPOINT_KIND, RULE_KIND
from common.rulesync import ObjectKey, RulesQuery, page, parse_sync_version
from edge.rules.host import UNABLE, RuleHost
from edge.rules.layers import DELETE as DELETE_KEY
from edge.rules.synced import BYTES_MAX, INVALID, Offer
from edge.settings import DownlinkSettings

log = logging.getLogger(__name__)

KIND_OF = {RULE: RULE_KIND, RULEENDPOINT: ENDPOINT_KIND}  # by resource type
WAITING_MAX = 10_000  # messages; further ones are not taken, and counted
TOGETHER_MAX = 1000  # that are one change
ANSWERS_AT_ONCE = 32
NODE_FAULT = "node_fault"  # reason of a refusal: a fault of this program, see the agent's log
OK = "OK"


class _Metadata(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What an object of the cloud's must say of itself; more is taken as it is."""

    name: str
    namespace: str
    uid: str
    resource_version: str = ""


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    metadata: dict[str, Any]
    spec: dict[str, Any]
    api_version: str
    kind: str


class Downlink:
    """Takes the cloud's messages about rules for one node.

    Arguments: ``host`` runs them, ``send`` sends an answer; ``fault`` is called at the point ``rules_answering``.
    """

    def __init__(
        self,
        host: RuleHost,
        send: Callable[[Message[Any]], Awaitable[None]],
        settings: DownlinkSettings | None = None,
        *,
        fault: Fault = no_fault,
    ) -> None:
        self._host, self._send, self._fault = host, send, fault
        self._settings = settings or DownlinkSettings()
        self._waiting: deque[tuple[Message[Any], int]] = deque()
        self._bytes = 0
        self._some, self._paused = asyncio.Event(), False
        self._counts = dict.fromkeys(("taken", "refused", "overflowed", "answers_lost"), 0)

    def take(self, message: Message[Any]) -> None:
        """Take a message about a rule or an endpoint; it is answered later. Above a bound it is dropped and counted."""
        size = len(msgspec.json.encode(message.content))
        if len(self._waiting) >= WAITING_MAX or self._bytes + size > self._settings.bytes_max:
            self._counts["overflowed"] += 1
            return
        self._waiting.append((message, size))
        self._bytes += size
        self._some.set()

    def pause(self) -> None:
        """Change nothing more, before the agent stops: what waits is not answered, and comes again."""
        self._paused = True

    async def run(self) -> None:
        """Apply and answer what came; runs until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting and not self._paused:
                await self._take_some()

    async def _take_some(self) -> None:
        """One query, or all changes up to the next one, or to a second one of the same object."""
        batch: list[tuple[Message[Any], Offer]] = []
        keys: set[ObjectKey] = set()
        while self._waiting and len(batch) < TOGETHER_MAX:
            message, size = self._waiting[0]
            try:
                offer = None if message.route.operation == QUERY else read_offer(message, size, self._settings)
            except RefusedError as exc:
                self._pop()
                await self._answer(message, Refusal(exc.reason, exc.detail))
                continue
            if offer is None:
                if not batch:
                    self._pop()
                    await self._answer_query(message)
                break
            if offer.key in keys:
                break
            self._pop()
            keys.add(offer.key)
            batch.append((message, offer))
        if batch:
            await self._change(batch)

    def _pop(self) -> None:
        self._bytes -= self._waiting.popleft()[1]
        self._counts["taken"] += 1

    async def _change(self, batch: Sequence[tuple[Message[Any], Offer]]) -> None:
        answers: list[Refusal | None]
        try:
            answers = await self._host.offer([offer for _, offer in batch])
        except FieldpostError as exc:
            log.error("rules of the cloud are not taken: %s", exc)
            answers = [Refusal(UNABLE, str(exc))] * len(batch)
        except Exception as exc:  # a fault of ours: it must stop neither the downlink nor what came with it
            if len(batch) > 1:
                for one in batch:
                    await self._change([one])
                return
            log.exception("message %s cannot be dealt with", batch[0][0].header.msg_id)
            answers = [Refusal(NODE_FAULT, f"{type(exc).__name__}: {exc}")]
        self._fault("rules_answering")
        for at in range(0, len(batch), ANSWERS_AT_ONCE):
            some = zip(batch[at : at + ANSWERS_AT_ONCE], answers[at : at + ANSWERS_AT_ONCE], strict=True)
            await asyncio.gather(*(self._answer(message, answer) for (message, _), answer in some))

    async def _answer_query(self, message: Message[Any]) -> None:
        try:
            query = msgspec.convert(message.content or {}, RulesQuery)
        except msgspec.ValidationError as exc:
            return await self._answer(message, Refusal("undecodable", str(exc)))
        synced = self._host.synced
        await self._reply(message, page(synced.shown(), query.after), RESPONSE, synced.version)

    async def _answer(self, message: Message[Any], refusal: Refusal | None) -> None:
        version = message.header.resourceversion
        if refusal is None:
            return await self._reply(message, OK, RESPONSE, version)
        self._counts["refused"] += 1
        told = Refusal(refusal.reason, clean_text(refusal.detail))
        log.warning("message %s for %s refused: %s", message.header.msg_id, message.route.resource, told.detail)
        await self._reply(message, told, ERROR, version)

    async def _reply(self, message: Message[Any], content: Any, operation: str, version: str) -> None:
        answer = messages.reply(message, content, source=ROUTER, group=RESOURCE_GROUP, operation=operation)
        answer.header.resourceversion = version
        try:
            await self._send(answer)
        except (TransportError, RefusedError) as exc:
            self._counts["answers_lost"] += 1
            log.debug("answer to %s not sent: %s", message.header.msg_id, exc)

    def statistics(self) -> dict[str, int]:
        """Counters and gauges by name."""
        synced = self._host.synced
        failing = sum(1 for held in synced if held.error)
        return {**self._counts, "waiting": len(self._waiting), "objects": len(synced), "failing": failing}


def read_offer(message: Message[Any], size: int, settings: DownlinkSettings) -> Offer:
    """Return what a message asks for; ``size`` is that of its content as JSON, in bytes.

    What is wrong with its manifest is a refusal inside the offer, as then it is known which version is refused.
    Raises RefusedError for a message of which even that cannot be said.
    """
    operation, resource = message.route.operation, message.parsed_resource()
    if operation not in (INSERT, UPDATE, DELETE):
        raise RefusedError("unknown_type", f"operation {operation!r} is none of insert, update, delete, query")
    uid, version = parse_sync_version(message.header.resourceversion)
    if not version:
        raise RefusedError("undecodable", "versions count from 1")
    key = KIND_OF[resource.type], resource.namespace, resource.require_name()
    if not is_label(resource.namespace) or not is_name(resource.name) or len(uid) > 64:
        raise RefusedError("invalid_resource", f"{resource} with uid {uid[:80]!r}: no names of an object")
    sent = message.header.timestamp
    if operation == DELETE:
        return Offer(key, uid, version, delete=True, sent_ms=sent)
    if size > settings.manifest_bytes_max:
        text = f"a manifest of {size} bytes, at most {settings.manifest_bytes_max} (edge.downlink.manifest_bytes_max)"
        return Offer(key, uid, version, sent_ms=sent, refusal=Refusal(BYTES_MAX, text))
    try:
        manifest = _manifest(message.content, key, uid, version)
    except (msgspec.ValidationError, ValueError) as exc:
        text = f"{key[0]} {key[1]}/{key[2]}: {exc}"
        return Offer(key, uid, version, sent_ms=sent, refusal=Refusal(INVALID, text))
    return Offer(key, uid, version, manifest, bytes=size, sent_ms=sent)


def _manifest(content: Any, key: ObjectKey, uid: str, version: int) -> dict[str, Any]:
    """``metadata`` and ``spec`` of a manifest that says of itself what its message says. Raises ValueError."""
    found = msgspec.convert(content, _Manifest)
    metadata = msgspec.convert(found.metadata, _Metadata)
    says = (found.kind, metadata.namespace, metadata.name, metadata.uid, metadata.resource_version or str(version))
    if found.api_version != API_VERSION:
        raise ValueError(f"apiVersion is {found.api_version!r}, expected {API_VERSION}")
    if says != (*key, uid, str(version)):
        raise ValueError(f"the manifest says {' '.join(says)[:400]!r}, its message {' '.join((*key, uid))} {version}")
    if "metadata" in found.spec:
        raise ValueError("unknown key spec.metadata")
    if _has_delete(found.spec) or _has_delete(found.metadata):
        raise ValueError(f"{DELETE_KEY} belongs into a layer, not into a manifest")
    return {"metadata": found.metadata, "spec": found.spec}


def _has_delete(value: Any) -> bool:
    if isinstance(value, dict):
        return DELETE_KEY in value or any(map(_has_delete, value.values()))
    return isinstance(value, list) and any(map(_has_delete, value))
