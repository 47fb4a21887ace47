"""One cloud controller: the product's Reader, checks and commit decision between a simulated link and store.

It does what MqttLayer, UpstreamController and Handlers do, one step at a time: take, commit, confirm. Each step is the
scheduler's, so a crash can come between any two of them.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any

from cloud.handlers import CONTENT_TYPES, status_message
from cloud.sessions import Sessions, is_retained
from cloud.stores.base import TOO_MANY_EPOCHS, CommitOutcome, StatusMessage
from common.clock import Clock
from common.codec import encode
from common.errors import NotConnectedError, StorageError
from common.message import EDGECONTROLLER, ERROR, RESOURCE_GROUP, RESPONSE, Message, new
from common.messaging.base import Inbound, Will
from common.messaging.inbound import Reader
from common.messaging.mqtt import _filters
from common.models import Confirmation, ControllerPresence, Epoch, NodeBirth, Refusal
from common.resource import RULESTATUS, build_resource
from common.topics import DOWN, controller_presence_topic, topic_of
from tests.simulation.broker import Broker, SimLink
from tests.simulation.disk import Crash
from tests.simulation.node import ROOT
from tests.simulation.store import SimStore
from tests.simulation.truth import require

NAME = "cloud-1"


class _Awaited:
    """The store as Sessions expects it: to be awaited, though it answers at once."""

    def __init__(self, store: SimStore) -> None:
        self._store = store

    async def presence(self, birth: NodeBirth, epoch: Epoch, at: float, **more: Any) -> bool:
        """One transaction."""
        return self._store.presence(birth, epoch, at, **more)


class Controller:
    """A controller that can be started and crashed; the store outlives it. ``queue_max`` bounds what waits."""

    def __init__(self, broker: Broker, store: SimStore, clock: Clock, queue_max: int) -> None:
        self._broker, self._store, self._clock, self._queue_max = broker, store, clock, queue_max
        self.running = False
        self.overflow = self.refusals = 0
        self.start()

    def start(self) -> None:
        """Start with nothing but the store."""
        self.link = SimLink(
            self._broker,
            NAME,
            _filters(ROOT, "cloud", ""),
            lambda: Will(_TOPIC, _presence(online=False)),
        )
        self.link.on_connect = lambda: self.link.publish(_TOPIC, _presence(online=True), retain=True)
        self.link.on_message = self._take
        self._reader = Reader(ROOT, "", CONTENT_TYPES)
        self._sessions = Sessions(_Awaited(self._store), self._clock, 60.0, lambda: self.link.connected)  # type: ignore[arg-type]
        self.waiting: deque[StatusMessage] = deque()
        self.births: deque[Message[NodeBirth]] = deque()
        self.answers: deque[Message[object]] = deque()  # committed, not yet said
        self.running = True

    def crash(self) -> None:
        """kill -9."""
        self.running = False
        self.link.dead()

    def _take(self, inbound: Inbound) -> None:
        message = self._reader.read(inbound.topic, inbound.payload, inbound.retain)
        assert isinstance(message, Message), message
        content = message.content
        if isinstance(content, NodeBirth):
            self._sessions.note_birth(message)
            self.births.append(message)
        elif not isinstance(content, ControllerPresence):
            if len(self.waiting) >= self._queue_max:
                self.overflow += 1  # discarded and counted (P5.5)
            else:
                self._sessions.note_message(message)
                self.waiting.append(status_message(message, self._clock.time()))

    def commit(self, most: int) -> int:
        """Commit up to ``most`` messages in one transaction; -1 on an error of the store: they stay."""
        if not self.waiting or self.births:  # births that came go first, as Sessions.settled has it
            return 0
        group = [self.waiting[at] for at in range(min(most, len(self.waiting)))]
        try:
            outcome = self._store.commit(group)
        except StorageError:
            return -1
        except Crash:
            self.crash()
            raise
        for _ in group:
            self.waiting.popleft()
        self._answer(outcome)
        return len(group)

    def take_birth(self) -> int:
        """Take one birth or offline notice."""
        if not self.births:
            return 0
        message = self.births[0]
        before = message.header.resourceversion
        taking = self._sessions.take(message.content, retained=is_retained(message), before=before)
        try:
            taking.send(None)
        except StopIteration:
            pass
        except StorageError:
            return -1
        except Crash:
            self.crash()
            raise
        self._sessions.birth_done(self.births.popleft())
        return 1

    def _answer(self, outcome: CommitOutcome) -> None:
        for it in outcome.confirmed:
            content = Confirmation(str(it.epoch), it.through, it.also)
            resource = build_resource(it.node, it.namespace, RULESTATUS)
            self.answers.append(_answer(it.msg_id, resource, RESPONSE, content))
        for refused in outcome.refused:
            message = refused.message
            self.refusals += 1
            require(refused.reason != TOO_MANY_EPOCHS, "{} is refused: {}", message.node, refused.detail)
            resource = build_resource(message.node, message.namespace, RULESTATUS)
            self.answers.append(_answer(message.msg_id, resource, ERROR, Refusal(refused.reason, refused.detail)))

    def say(self, at: int = 0) -> bool:
        """Send one answer at QoS 0; two workers may overtake each other, so it is not always the oldest."""
        if not self.answers:
            return False
        self.answers.rotate(-at)
        message = self.answers.popleft()
        self.answers.rotate(at)
        node = message.parsed_resource().node
        with suppress(NotConnectedError):  # lost; the node sends again
            self.link.publish(topic_of(ROOT, DOWN, node, message.route), encode(message), qos=0)
        return True


_TOPIC = controller_presence_topic(ROOT, NAME)


def _presence(*, online: bool) -> bytes:
    return encode(ControllerPresence(NAME, online))


def _answer(parent: str, resource: str, operation: str, content: object) -> Message[object]:
    return new(
        parent, source=EDGECONTROLLER, group=RESOURCE_GROUP, operation=operation, resource=resource, content=content
    )
