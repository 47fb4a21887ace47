"""One edge node: the product's Spool, Uplink, Status and Presence over a simulated disk, writer and link.

``boot`` and ``_take`` do what Agent.start, _connected and _take do; the rest of the agent has no part in the promises.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from common.clock import Clock
from common.codec import CodecName, encode
from common.errors import QueueFullError
from common.message import ERROR, RESPONSE, Message
from common.messaging.base import Inbound
from common.messaging.inbound import Reader
from common.messaging.mqtt import _filters
from common.models import DELIVERED, Confirmation, ControllerPresence, ExecResult, Refusal
from edge.batching import Packed
from edge.presence import Presence
from edge.settings import SpoolSettings, UplinkSettings
from edge.spool import Spool
from edge.spooltables import Input
from edge.status import RuleRef, Status
from edge.uplink import Uplink
from tests.simulation.broker import Broker, SimLink
from tests.simulation.disk import Crash, Disk, FileDb, MemoryDb, SteppedWriter
from tests.simulation.truth import INPUT_RULE, Id, NodeTruth, Told, ids_in

ROOT, NAMESPACE = "fieldpost", "default"
POINTS = ("deleting", "spool_committed", "source_ack", "promoted", "published", "puback")  # of Spool and Uplink


class Node:
    """A node that can be booted and crashed. Everything but ``disk`` and ``truth`` is gone with a crash."""

    spool_class: type[Spool] = Spool
    uplink_class: type[Uplink] = Uplink
    presence_class: type[Presence] = Presence

    def __init__(
        self,
        name: str,
        broker: Broker,
        clock: Clock,
        rng: random.Random,
        spool: SpoolSettings,
        window: UplinkSettings,
        file: Path | None = None,
    ) -> None:
        self.name, self._broker, self._clock, self._rng = name, broker, clock, rng
        self._spool_settings, self._window, self._file = spool, window, file
        self.disk, self.truth = Disk(), NodeTruth(name, window)
        self.running = False
        self.doomed = ""  # the point at which this node is killed next
        self.boots = 0
        self.codec: CodecName = "json"
        self._numbers: dict[str, int] = {}
        self.inputs: dict[str, Id] = {}  # journalled or being journalled, in this life
        self._writers: list[SteppedWriter] = []

    # -- life ----------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start, as Agent does. Raises StorageError or Crash: then it does not run."""
        self.boots += 1
        kind, path = (FileDb, self._file) if self._file else (MemoryDb, Path("-"))
        self.db = db = kind(path, self.name, ROOT, self.disk, self.truth)
        self.spool = self.spool_class(
            Path("-"),
            self.name,
            ROOT,
            on_frozen=lambda frozen: self.uplink.add(frozen),
            on_fatal=_fatal,
            settings=self._spool_settings,
            window=self._window,
            codec=self.codec,
            clock=self._clock,
            fault=self._at,
            db=db,
            writer=self._make_writer,
        )
        self.status = Status(self.spool, codec=self.codec, clock=self._clock)
        self.presence = self.presence_class(ROOT, self.name, self.spool, dict, clock=self._clock)
        self.link = SimLink(self._broker, self.name, _filters(ROOT, "edge", self.name), self.presence.will)
        self.uplink = self.uplink_class(
            self.link,
            self.spool.confirm,
            self.spool.void,
            self.spool.split,
            settings=self._window,
            clock=self._clock,
            rng=self._rng,
            fault=self._at,
        )
        self.reader = Reader(ROOT, self.name, {})
        try:
            left, inputs = self.spool.open()
        except BaseException:
            db.close()
            raise
        self.spool.start()
        self.uplink.add(left)
        self.inputs = {item.id: ids_in(item.payload)[0] for item in inputs}
        self.link.on_connect, self.link.on_message = self._connected, self._take
        self.running = True

    def _make_writer(self, *args: Any, **options: Any) -> SteppedWriter:
        self.writer = SteppedWriter(*args, **options)
        return self.writer

    def _at(self, point: str) -> None:
        if point == self.doomed:
            self.doomed = ""
            self.crash()
            raise Crash

    def crash(self) -> None:
        """kill -9: memory is gone, the broker will notice."""
        if self.running:
            self.running = False
            self.link.dead()
            self.db.close()
            self.disk.power_cut()

    def stop(self) -> None:
        """A clean stop: commit what is queued, say goodbye, disconnect."""
        while self.writer.busy:
            self.commit(1000)
            self.writer.hand_over()
        if self.link.connected:
            self.presence.goodbye(self.link)
            while self._broker.receive(self.link):
                pass
            self.link.will = None
        self.crash()

    def _connected(self) -> None:
        self.spool.limit(self.link.payload_bytes_max)
        self.presence.birth(self.link)
        self.uplink.connected()

    def _take(self, inbound: Inbound) -> None:
        message = self.reader.read(inbound.topic, inbound.payload)
        assert isinstance(message, Message), message
        content = message.content
        if message.route.operation == RESPONSE:
            self.uplink.confirmed(msgspec.convert(content, Confirmation))
        elif message.route.operation == ERROR:
            self.uplink.refused(message.header.parent_msg_id, msgspec.convert(content, Refusal))
        elif isinstance(content, ControllerPresence):
            self.uplink.controller(content.controller, content.online)

    # -- what the scheduler does ---------------------------------------------------------------------------------------

    def commit(self, most: int) -> int:
        """Let the writer commit a group. Raises Crash when the power goes at that moment."""
        try:
            return self.writer.commit(most)
        except Crash:
            self.crash()
            raise

    def produce(self, rule: str, weight: int = 1) -> bool:
        """One execution of ``rule`` ends; False when the spool does not take its result now."""
        number = self._numbers.get(rule, 0) + 1
        each = Id(self.name, rule, number, weight)
        told: Callable[[], None] = Told(self.truth, each)
        try:
            if weight == 1:
                self.status.record(RuleRef(NAMESPACE, rule), source_id=str(each), on_durable=told)
            else:
                result = ExecResult(rule, NAMESPACE, "SUCCESS", outcome=DELIVERED, count=weight, source_id=str(each))
                body = encode(result, self.codec)
                self.spool.accept(Packed(NAMESPACE, rule, self.codec, 1, weight, body), told)
        except QueueFullError:
            return False
        self._numbers[rule] = number
        return True

    def journal(self) -> bool:
        """An execution takes longer: its input is journalled."""
        number = self._numbers.get(INPUT_RULE, 0) + 1
        each = Id(self.name, INPUT_RULE, number, 1)
        item = Input(str(number), NAMESPACE, INPUT_RULE, str(number), "devices/a", str(each).encode())
        try:
            self.spool.journal(item, Told(self.truth, each))
        except QueueFullError:
            return False
        self._numbers[INPUT_RULE] = number
        self.inputs[item.id] = each
        return True

    def finish(self, at: int) -> bool:
        """The execution of a journalled input ends."""
        if not self.inputs:
            return False
        name = list(self.inputs)[at % len(self.inputs)]
        each = self.inputs[name]
        try:
            self.status.record(
                RuleRef(NAMESPACE, INPUT_RULE),
                source_id=str(each),
                on_durable=Told(self.truth, each),
                input_id=name,
            )
        except QueueFullError:
            return False
        del self.inputs[name]
        return True

    @property
    def drained(self) -> bool:
        """True when nothing of this node waits for anything."""
        stats = self.spool.stats
        waiting = stats.pending or stats.window_messages or stats.waiting_rows or stats.held or stats.inputs
        return not (waiting or self.writer.busy or self.uplink.unconfirmed or self.inputs)


def _fatal(exc: BaseException) -> None:
    raise exc
