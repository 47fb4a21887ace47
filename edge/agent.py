"""The agent: composes the parts of an edge node, starts them in order, and stops them in order."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import msgspec

from common import message as messages
from common.clock import Clock, SystemClock
from common.config import make_data_dir
from common.control import ControlServer, Operation, socket_path
from common.errors import ControlError, FieldpostError, TransportError
from common.faults import Fault, no_fault
from common.memory import give_back, resident_bytes
from common.message import ERROR, RESOURCE_GROUP, RESPONSE, ROUTER, UPDATE, Message
from common.messaging.announcing import Announcing
from common.messaging.base import Link, Refused
from common.messaging.mqtt import MqttLayer
from common.messaging.transport import MqttLink
from common.models import Confirmation, ControllerPresence, NodeStatus, Refusal
from common.resource import DEFAULT_NAMESPACE, LOSSRECORD, NODESTATUS, RULE, RULEENDPOINT, RULESTATUS, build_resource
from common.settings import BrokerSettings
from common.tasks import Tasks
from common.version import VERSION
from edge import letters, metering
from edge.batching import Frozen
from edge.downlink import Downlink
from edge.endpoints.base import Kind
from edge.endpoints.buses import Buses
from edge.endpoints.http_target import HttpClient
from edge.endpoints.rest import Rest
from edge.endpoints.servicebus import Servicebus
from edge.presence import Presence
from edge.rules.configuration import Configuration
from edge.rules.host import RuleHost
from edge.rules.store import LastGood
from edge.rules.syncfile import SyncFile
from edge.settings import Settings
from edge.spool import Spool
from edge.spooltables import Input
from edge.status import Status
from edge.uplink import Uplink

log = logging.getLogger(__name__)

REPORT_S = 1.0  # at least between two nodestatus, whatever there is to say


class Agent:
    """One edge node.

    ``status`` takes results of executions that happen elsewhere in the process (an embedding program, a benchmark).
    ``failed`` is set when the agent cannot go on; whoever runs it stops it then and ends with an error. ``fault`` is
    called at the edge's named fault points.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        fault: Fault = no_fault,
    ) -> None:
        self._settings, self._clock = settings, clock or SystemClock()
        self.node = settings.node_id()
        edge, data = settings.edge, make_data_dir(settings.data_dir)
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.spool = Spool(
            data / "spool.db",
            self.node,
            settings.root,
            on_frozen=lambda frozen: self.uplink.add(frozen),
            on_fatal=self._fatal,
            settings=edge.spool,
            window=edge.uplink,
            codec=settings.codec,
            clock=self._clock,
            fault=fault,
        )
        self.status = Status(self.spool, codec=settings.codec, clock=self._clock)
        self._presence = Presence(settings.root, self.node, self.spool, self._describe, clock=self._clock)
        self._link = MqttLink(settings.broker, self.node, will=self._presence.will, with_properties=False)
        self._layer = MqttLayer(
            self._link,
            root=settings.root,
            side="edge",
            node=self.node,
            codec=settings.codec,
            source=ROUTER,
            group=RESOURCE_GROUP,
            on_refused=self._refused,
        )
        self.uplink = Uplink(
            self._link,
            self.spool.confirm,
            self.spool.void,
            self.spool.split,
            settings=edge.uplink,
            clock=self._clock,
            rng=rng,
            fault=fault,
        )
        self._kinds: dict[str, Kind] = {}
        self.host = RuleHost(
            self.node, edge.labels, self.status, self.spool, self._kinds, _configuration(settings),
            flow=edge.flow, clock=self._clock, last_good=LastGood(data),
            sync_file=SyncFile(data, self.node, fault=fault), downlink=edge.downlink,
        )  # fmt: skip
        self.rules = self.host.rules
        self.buses = Buses(self._bus_link, self.rules.arrived, data, clock=self._clock)
        client = HttpClient(edge.http, self._clock)
        self.rest = Rest(self.node, edge.rest, client, self.rules.arrived, self._clock)
        self.servicebus = Servicebus(edge.servicebus, client, self.rules.arrived, self._clock)
        self.host.listeners = (self.rest.listener, self.servicebus.listener)
        self._kinds |= {kind.type.name: kind for kind in (self.buses, self.rest, self.servicebus)}
        self._control = ControlServer(socket_path(data, "edge"), self._operations())
        self._tasks = Tasks("edge")
        self._announcing = Announcing(self._say_again)
        self._started = self._clock.monotonic()
        self._report = asyncio.Event()  # the next nodestatus is due now
        self._told = ""  # the hash of the rules that the last birth said
        self.host.on_synced = self._report.set
        self.downlink = Downlink(self.host, self._layer.send, edge.downlink, fault=fault)
        self._refusals = 0
        self._reload_asked = asyncio.Event()

    # -- life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the spool, bind the rules, begin to connect. Raises ConfigError, StorageError: nothing runs then."""
        left, inputs = self.spool.open()
        try:
            await self._begin(left, inputs)
        except BaseException:
            await self.stop()
            raise

    async def _begin(self, left: list[Frozen], inputs: list[Input]) -> None:
        self.spool.start()
        await self._control.start()
        self.uplink.add(left)
        self.host.begin()
        self.host.resume(inputs)
        self._link.on_connect = self._connected
        await self._layer.start()
        await self.host.connect()
        self._tasks.start("receive", self._receive)
        self._tasks.start("announce", self._announcing.run)
        self._tasks.start("reload", self._reload)
        self._tasks.start("downlink", self.downlink.run)
        self._tasks.start("resend", self.uplink.run)
        self._tasks.start("nodestatus", self._send_nodestatus)
        log.info("node %s runs %d rules; %d messages and %d inputs are left of an earlier run",
                 self.node, len(self.rules), len(left), len(inputs))  # fmt: skip

    async def stop(self) -> None:
        """Let running executions end, make everything durable, say goodbye, disconnect."""
        self.downlink.pause()
        for kind in self._kinds.values():
            kind.pause()
        await self.rules.drain()
        await self._tasks.stop()
        await self._control.stop()
        await self.spool.stop()  # before the sources: what it commits now is still acknowledged to its source
        for kind in self._kinds.values():
            await kind.stop()
        if self._link.connected:
            self._presence.goodbye(self._link)
        await self._layer.stop()

    def reload_soon(self) -> None:
        """Read the rules again (SIGHUP); what is wrong with them is logged, and nothing changes then."""
        self._reload_asked.set()

    async def _reload(self) -> None:
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            try:
                await self.host.reload()
            except FieldpostError as exc:
                log.error("not reloaded: %s", exc)

    def _fatal(self, exc: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_result(exc)

    # -- the uplink's connection ---------------------------------------------------------------------------------------

    def _connected(self) -> None:
        self.spool.limit(self._link.payload_bytes_max)
        self._presence.birth(self._link)
        self._report.set()
        self.uplink.connected()
        self._announcing.connected()

    def _say_again(self) -> None:
        if self._link.connected:
            self._presence.birth(self._link)

    async def _receive(self) -> None:
        while True:
            message = await self._layer.receive()
            try:
                self._take(message)
            except msgspec.ValidationError as exc:
                self._refusals += 1
                log.warning("message %s for %s ignored: %s", message.header.msg_id, message.route.resource, exc)

    def _take(self, message: Message[Any]) -> None:
        operation, kind = message.route.operation, message.parsed_resource().type
        content = message.content
        if (operation, kind) == (RESPONSE, RULESTATUS):
            self.uplink.confirmed(msgspec.convert(content, Confirmation))
        elif operation == ERROR and kind in (RULESTATUS, LOSSRECORD):
            self.uplink.refused(message.header.parent_msg_id, msgspec.convert(content, Refusal))
        elif kind in (RULE, RULEENDPOINT):
            self.downlink.take(message)
        elif isinstance(content, ControllerPresence):
            if self.uplink.controller(content.controller, content.online and not content.standby):
                state = "standing by" if content.standby else "online" if content.online else "offline"
                log.info("controller %s is %s", content.controller, state)
                self._report.set()
        else:
            log.warning("message %s of type %s ignored: unknown here", operation, kind)

    def _refused(self, refused: Refused) -> None:
        self._refusals += 1
        log.warning("message on %s refused: %s", refused.topic, refused.error)

    # -- eventbus ------------------------------------------------------------------------------------------------------

    def _bus_link(self, url: str, name: str) -> Link:
        own = self._settings.edge.eventbus.broker or self._settings.broker
        return MqttLink(
            BrokerSettings(url=url) if url else own,
            f"{self.node}-{name}",
            manual_ack=True,
            session_expiry_s=self._settings.edge.eventbus.session_expiry_s,
        )

    # -- what the node says of itself ----------------------------------------------------------------------------------

    def _describe(self) -> dict[str, object]:
        self._told = self.host.synced.version
        return {"version": VERSION, "rules_version": self._told, "labels": self._settings.edge.labels}

    def nodestatus(self) -> NodeStatus:
        """The statistics that travel to the cloud."""
        stats = self.spool.stats
        return NodeStatus(
            epoch=str(stats.epoch),
            accepted=stats.accepted,
            confirmed=stats.confirmed,
            pending_results=stats.pending,
            pending_messages=stats.window_messages,
            pending_inputs=stats.inputs,
            spool_bytes=stats.bytes_used,
            resends=self.uplink.statistics()["resent"],
            dead=stats.dead,
            dropped=stats.dropped,
            set_aside=stats.set_aside,
            folded=stats.folded,
            backlog_results=stats.backlog,
            rules=len(self.rules),
            rules_version=self.host.synced.version,
            labels=self._settings.edge.labels,
            rss_bytes=resident_bytes(),
            uptime_s=int(self._clock.monotonic() - self._started),
        )

    async def _send_nodestatus(self) -> None:
        """Regularly, and soon when there is news. The retained birth follows news of the rules at the regular time, so
        that many changes are not many births. Memory that is free goes back to the system first, so it is not reported.
        """
        regular = self._settings.edge.uplink.nodestatus_s
        pause = min(REPORT_S, regular)
        while True:
            self._report.clear()
            give_back()
            if await self._report_once():
                await asyncio.sleep(pause)
            try:
                async with asyncio.timeout(regular - pause):
                    await self._report.wait()
            except TimeoutError:
                if self._told != self.host.synced.version:
                    self._say_again()

    async def _report_once(self) -> bool:
        resource = build_resource(self.node, DEFAULT_NAMESPACE, NODESTATUS, self.node)
        route = {"source": ROUTER, "group": RESOURCE_GROUP, "operation": UPDATE, "resource": resource}
        try:
            if self._link.connected:
                await self._layer.send(messages.new(content=self.nodestatus(), **route), qos=0)
                return True
        except TransportError as exc:
            log.debug("nodestatus not sent: %s", exc)
        return False

    def _operations(self) -> dict[str, Operation]:
        return {
            "statistics": self._statistics,
            "metrics": self._metrics,
            **self.host.operations(),
            "dlq.ls": self._dlq_ls,
            "dlq.show": self._dlq_show,
            "dlq.redrive": lambda args: self._dlq_order("redrive", args),
            "dlq.drop": lambda args: self._dlq_order("drop", args),
        }

    async def _dlq_ls(self, args: dict[str, Any]) -> list[dict[str, Any]]:
        return [letters.shown(letter) for letter in await self.spool.dead()]

    async def _dlq_show(self, args: dict[str, Any]) -> dict[str, Any]:
        for letter in await self.spool.dead():
            if letter.id == args.get("id"):
                return letters.shown(letter, payload=True)
        raise ControlError(f"no dead letter {args.get('id')!r} on this node")

    async def _dlq_order(self, order: str, args: dict[str, Any]) -> dict[str, Any]:
        ids = args.get("ids")
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise ControlError(f"dlq.{order}: ids must be a list of texts; empty means all")
        return {"done": await self.spool.letters(order, ids)}

    async def _metrics(self, args: dict[str, Any]) -> str:
        return metering.text(self.nodestatus(), self.status.outcomes)

    async def _statistics(self, args: dict[str, Any]) -> dict[str, Any]:
        return {
            "node": self.node,
            "status": msgspec.to_builtins(self.nodestatus()),
            "outcomes": {"/".join(filter(None, key)): count for key, count in self.status.outcomes.items()},
            "uplink": self.uplink.statistics(),
            "link": self._link.statistics(),
            "layer": self._layer.statistics(),
            "rules": self.rules.statistics(),
            "downlink": self.downlink.statistics(),
            "endpoints": {name: kind.statistics() for name, kind in self._kinds.items()},
            "refused": self._refusals,
            "now": self._clock.time(),
        }


def _configuration(settings: Settings) -> Configuration:
    flow = settings.edge.flow
    return Configuration(
        settings.edge.rules, settings.edge.layers, loops=flow.loops or settings.broker.protocol != "3.1.1"
    )
