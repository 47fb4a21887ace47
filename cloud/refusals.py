"""What cannot be accepted: counted by reason, kept as dead letter, answered with an error (protocol P5.9, P4.2).

Answers and dead letters wait in bounded queues of their own, so a flood of rubbish delays nothing else; answers are
limited per node and second, so that nobody is made to send more than he gets (reliability R3, amplification).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, NamedTuple

from cloud.settings import CloudSettings
from cloud.stores.base import DeadLetter, Store
from common.clock import Clock
from common.codec import encode
from common.errors import FieldpostError, QueueFullError, RefusedError
from common.message import EDGECONTROLLER, ERROR, RESOURCE_GROUP, RESPONSE, Message, new
from common.messaging.base import MessageLayer, Refused
from common.models import UIDS_MAX, Refusal, clean_text
from common.resource import DEFAULT_NAMESPACE, RULESTATUS, build_resource, is_label
from common.tasks import Tasks
from common.topics import UP, topic_of

log = logging.getLogger(__name__)

DETAIL_BYTES_MAX = 512  # of the text in an answer
LETTERS_AT_ONCE = 256  # dead letters handed to the store together


class _Answer(NamedTuple):
    resource: str
    parent: str
    refusal: Refusal


class Refusals:
    """Counts, keeps and answers refused messages. ``reasons`` counts by reason, for statistics and metrics."""

    def __init__(self, layer: MessageLayer, store: Store, clock: Clock, settings: CloudSettings, root: str) -> None:
        self._layer, self._store, self._clock, self._root = layer, store, clock, root
        self._watched: dict[int, list[RefusedError]] = {}
        self._bytes_max = settings.store.dead_letter_bytes_max
        self._per_node_max = settings.queues.refusals_per_node_max
        self._answers: asyncio.Queue[_Answer] = asyncio.Queue(settings.queues.refusals_max)
        self._letters: asyncio.Queue[DeadLetter] = asyncio.Queue(settings.queues.refusals_max)
        self._second = -1
        self._answered: Counter[str] = Counter()
        self._logged: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        names = ("answers", "answers_suppressed", "answers_lost", "letters", "letters_lost")
        self._counts = dict.fromkeys(names, 0)

    def start(self, tasks: Tasks) -> None:
        """Run the two senders among the owner's tasks."""
        tasks.start("refusals-answer", self._send_answers)
        tasks.start("refusals-keep", self._keep_letters)

    def packet(self, refused: Refused) -> None:
        """Take what the layer could not make a message of: its ``on_refused``."""
        reason, detail = refused.error.reason, refused.error.detail
        self.reasons[reason] += 1
        digest = sha256(refused.payload).hexdigest()
        node = refused.node if is_label(refused.node) else ""
        level = logging.WARNING if self._has_share(node) else logging.DEBUG
        log.log(level, "refused a packet on %s: %s: %s", refused.topic[:256], reason, detail[:256])
        self._keep(node, refused.topic, reason, detail, refused.payload)
        if not node or (refused.route and refused.route.operation in (RESPONSE, ERROR)):
            return  # nobody to answer, or an answer itself: errors about errors would never end
        resource = refused.route.resource if refused.route else build_resource(node, DEFAULT_NAMESPACE, RULESTATUS)
        named = "" if refused.msg_id else digest
        self.answer(node, resource, refused.msg_id, Refusal(reason, clean_text(detail, DETAIL_BYTES_MAX), named))

    @contextmanager
    def watch(self, message: Message[Any]) -> Iterator[list[RefusedError]]:
        """While the block runs, refusals of exactly this message are only counted and gathered in the list."""
        found = self._watched[id(message)] = list[RefusedError]()
        try:
            yield found
        finally:
            del self._watched[id(message)]

    def message(
        self,
        message: Message[Any],
        error: RefusedError,
        *,
        answer: bool = True,
        keep: bool = True,
        uids: Sequence[str] = (),
    ) -> None:
        """Take a message that was decoded but cannot be accepted. ``answer`` False does not answer it, ``keep`` False
        makes no dead letter of it. ``uids``: only the results of these rules are refused.
        """
        self.reasons[error.reason] += 1
        if id(message) in self._watched:
            self._watched[id(message)].append(error)
            return
        route = message.route
        try:
            node, payload = message.parsed_resource().node, encode(message)
        except RefusedError:
            node, payload = "", b""
        level = logging.WARNING if self._has_share(node) else logging.DEBUG
        log.log(level, "refused %s %s: %s", route.operation, route.resource[:256], str(error)[:512])
        if keep:
            self._keep(node, self._topic(node, message), error.reason, error.detail, payload)
        if answer and node and route.operation not in (RESPONSE, ERROR):
            refusal = Refusal(error.reason, clean_text(error.detail, DETAIL_BYTES_MAX), uids=list(uids[:UIDS_MAX]))
            self.answer(node, route.resource, message.header.msg_id, refusal)

    def _topic(self, node: str, message: Message[Any]) -> str:
        """The topic on which a message came, or words for it when it has none."""
        try:
            return topic_of(self._root, UP, node, message.route)
        except RefusedError:
            return f"{message.route.operation} {message.route.resource}"

    def answer(self, node: str, resource: str, parent: str, refusal: Refusal) -> None:
        """Queue one error reply to ``node`` unless it had its share of this second."""
        self._advance()
        self._answered[node] += 1
        if self._answered[node] > self._per_node_max:
            self._counts["answers_suppressed"] += 1
            return
        try:
            self._answers.put_nowait(_Answer(resource, parent, refusal))
        except asyncio.QueueFull:
            self._counts["answers_lost"] += 1

    def _advance(self) -> None:
        second = int(self._clock.monotonic())
        if second != self._second:
            self._second = second
            self._answered.clear()
            self._logged.clear()

    def _has_share(self, node: str) -> bool:
        """True while this node's refusals of this second may be logged: a flood must not fill the log either."""
        self._advance()
        self._logged[node] += 1
        return self._logged[node] <= self._per_node_max

    def _keep(self, node: str, topic: str, reason: str, detail: str, payload: bytes) -> None:
        letter = DeadLetter(
            node, topic, reason, clean_text(detail), sha256(payload).hexdigest(), len(payload),
            payload[: self._bytes_max], self._clock.time(),
        )  # fmt: skip
        try:
            self._letters.put_nowait(letter)
        except asyncio.QueueFull:
            self._counts["letters_lost"] += 1

    async def _send_answers(self) -> None:
        while True:
            resource, parent, refusal = await self._answers.get()
            reply = new(
                parent, source=EDGECONTROLLER, group=RESOURCE_GROUP, operation=ERROR, resource=resource, content=refusal
            )
            try:
                await self._layer.send(reply, qos=0)
                self._counts["answers"] += 1
            except (
                FieldpostError
            ) as exc:  # not connected, or no topic can be made: the node sends again and is told then
                self._counts["answers_lost"] += 1
                log.debug("an error reply on %s was not sent: %s", resource, exc)

    async def _keep_letters(self) -> None:
        while True:
            letters = [await self._letters.get()]
            while not self._letters.empty() and len(letters) < LETTERS_AT_ONCE:
                letters.append(self._letters.get_nowait())
            kept = await asyncio.gather(*map(self._store.dead_letter, letters), return_exceptions=True)
            lost = [each for each in kept if isinstance(each, BaseException)]
            self._counts["letters"] += len(kept) - len(lost)
            self._counts["letters_lost"] += len(lost)
            if lost and not isinstance(lost[0], QueueFullError):
                log.warning("%d dead letters were not kept: %s", len(lost), lost[0])

    def statistics(self) -> dict[str, int]:
        """Counters by name; what was refused, by reason."""
        return {**self._counts, **{f"reason_{reason}": count for reason, count in sorted(self.reasons.items())}}
