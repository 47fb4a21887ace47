"""The controller: composes link, layer, store, dispatch and control socket, and says that it is there (P3.4)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection

from cloud.api.health import Health, Readiness
from cloud.audit import Audit
from cloud.clearing import Clearing
from cloud.deadletters import DeadLetters
from cloud.describing import Descriptions
from cloud.downstream import DownstreamController
from cloud.forwarders.forwarding import Forwarding, make_sinks
from cloud.handlers import CONTENT_TYPES, Handlers
from cloud.ledger import Ledger
from cloud.metering import Metering
from cloud.operations import Operations
from cloud.operations_rules import RuleOperations
from cloud.refusals import Refusals
from cloud.sessions import Sessions
from cloud.settings import Settings, store_url
from cloud.standby import Sharing, first_uplink
from cloud.stores.base import CommitOutcome, Store
from cloud.stores.sql import SqlStore
from cloud.stores.status import RuleKey, RuleStatus, rule_statuses
from cloud.upkeep import Upkeep
from cloud.upstream import UpstreamController, extended, routes
from common.clock import Clock, SystemClock
from common.config import make_data_dir
from common.control import ControlServer, Operation, socket_path
from common.errors import ConfigError, TransportError
from common.faults import Fault, no_fault
from common.message import EDGECONTROLLER, RESOURCE_GROUP
from common.messaging.announcing import Announcing
from common.messaging.base import Link, Refused, Will
from common.messaging.mqtt import MqttLayer, UplinkPart
from common.metrics import Family, exposition, families
from common.models import ControllerPresence, rfc3339
from common.tasks import Tasks
from common.topics import controller_presence_topic
from common.version import VERSION

if TYPE_CHECKING:
    from cloud.api.service import ApiService

log = logging.getLogger(__name__)

MakeLink = Callable[[Settings, Callable[[], Will | None]], Link]
# What may also fall, of all parts' statistics.
_GAUGES = {
    "connected", "in_flight", "queued", "waiting", "connections", "running", "watching", "standing_by", "nodes_queued",
    "statistics_waiting", "held", "invalid", "unshown", "ready", "rules_objects", "ruleendpoints_objects",
}  # fmt: skip
_QUEUED = "_queued"  # after the type, in the upstream's statistics


def mqtt_link(settings: Settings, will: Callable[[], Will | None]) -> Link:
    """Return the connection to the broker: client id = controller id, clean session (P5.5)."""
    from common.messaging.transport import MqttLink  # here, so that a controller over another link needs no paho

    return MqttLink(settings.broker, settings.cloud.controller, will=will, with_properties=False)


class Controller:
    """One cloud controller, from ``start`` to ``stop``.

    Arguments: ``settings``; ``clock``; ``make_link`` gives the connection (a hub's link in tests); ``store`` another
    store than the one of the settings; ``fault`` is called at the cloud's named fault points. What it owns can be
    looked at: ``store``, ``sessions``, ``upstream``, ``downstream``, ``layer``.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        make_link: MakeLink = mqtt_link,
        store: Store | None = None,
        fault: Fault = no_fault,
    ) -> None:
        self.settings = settings
        cloud = settings.cloud
        self._clock = clock or SystemClock()
        self._presence_topic = controller_presence_topic(settings.root, cloud.controller)
        self._link = make_link(settings, lambda: Will(self._presence_topic, self._presence(online=False)))
        self.layer = self._make_layer()
        self._link.on_connect = self._announce
        self._link.on_disconnect = self._disconnected
        sinks, of_results = make_sinks(cloud.forward, self._link, settings.root, self._clock)
        marks = bool(sinks) or cloud.kubernetes.enabled
        self.store: Store = store or SqlStore(store_url(settings), cloud.store, fault=fault, mark_changes=marks)
        self._sharing = Sharing(self.layer, self.store, settings, self._clock, self._say_again)
        self._refusals = Refusals(self.layer, self.store, self._clock, cloud, settings.root)
        self._letters = DeadLetters(settings.root, self.store, self._refusals, self._clock)
        self._upkeep = Upkeep(self.store, self._clock, cloud, lambda: self._link.connected, mark=marks)
        self.downstream = DownstreamController(self.layer, self.store, self._clock)
        self._cluster = None
        if cloud.kubernetes.enabled:
            from cloud.sources.cluster import cluster_of  # here, so that a controller without it loads no HTTP client

            self._cluster = cluster_of(cloud.kubernetes, self.downstream, self.store, self._clock, cloud.controller)
            sinks.append(self._cluster.sink)
        self.forwarding = Forwarding(
            cloud.forward, self.store, self._clock, cloud.controller, self._rule_statuses, sinks, of_results
        )
        self.sessions = Sessions(
            self.store, self._clock, cloud.stale_s, lambda: self._link.connected, cloud.controller,
            self.forwarding.fingerprint,
        )  # fmt: skip
        self._ledger = Ledger(self.sessions, self.store, self._clock)
        self._operations = Operations(
            self.store, self.sessions, self._letters, self._ledger, self.statistics, self.metrics, self.forwarding.rows
        )
        self._clearing = Clearing(self._link, settings.root)
        self._handlers = Handlers(
            self.layer, self.store, self.sessions, self._refusals, self._clock, self.downstream, self._committed,
            self._clearing.clear, fault,
        )  # fmt: skip
        table = extended(routes(self._handlers, cloud.queues), self._handlers)
        self.upstream = UpstreamController(self.layer, table, self._handlers)
        self._letters.redrive_to(self.upstream.redrive)
        self._metering = Metering(self.store, self.sessions, self._clock, self._queues, cloud.api.metrics_rules_max)
        self._audit = Audit(self.store, self._clock, cloud.controller, cloud.api.audit_max)
        self._health = Health(self.store, self._clock, lambda: self._link.connected)
        rules = RuleOperations(self.downstream, self.store, self._clock, cloud.stale_s, self._clearing.clear)
        told = Descriptions(self.store, self.sessions, self._ledger, self._clock, cloud.stale_s)
        operations = self._operations.table() | rules.table() | told.table() | {"ready": self._ready}
        self._control = ControlServer(socket_path(settings.data_dir, "cloud"), self._audit.wrapped(operations))
        self.api = self._make_api(operations) if cloud.api.enabled else None
        self._tasks = Tasks("controller")
        self._announcing = Announcing(self._say_again)
        self._stopping = False
        self._undo: list[Callable[[], Any]] = []  # what stop has to do, the last first

    async def start(self) -> None:
        """Open the store, listen on the control socket, and begin to connect.

        Raises ConfigError (data directory, another controller there) or StorageError; then nothing is left running.
        """
        make_data_dir(self.settings.data_dir)
        try:
            self._control.claim()  # nobody else may open the store, and nobody may ask before it is open
            self._undo.append(self._control.stop)
            await self.store.start()
            self._undo.append(self.store.stop)
            await self._control.start()
            self._undo.append(self._health.stop)
            self.downstream.start()
            self._undo.append(self.downstream.stop)
            self._undo.append(self._upkeep.stop)
            self._undo.append(self.forwarding.stop)
            await self.forwarding.start()
            if self._cluster is not None:
                self._undo.append(self._cluster.stop)
                await self._cluster.start()
            self.upstream.start()
            self._undo.append(self.upstream.stop)
            await self.layer.start()
            self._undo.append(self.layer.stop)
            self._tasks.start("announce", self._announcing.run)
            self._tasks.start("sharing", self._sharing.run)
            self._upkeep.start(self._tasks)
            self._undo.append(self._tasks.stop)
            if self.api is not None:
                self._undo.append(self.api.stop)
                await self.api.start()
        except BaseException:
            await self.stop()
            raise
        log.info("controller %s is up; store %s", self.settings.cloud.controller, type(self.store).__name__)

    async def stop(self) -> None:
        """Say that it goes, disconnect, commit what was taken, and close. May be called at any time."""
        self._stopping = True
        if self._link.connected:
            self._publish_presence(online=False)
        while self._undo:
            await self._undo.pop()()

    def _make_layer(self) -> MqttLayer:
        settings, cloud = self.settings, self.settings.cloud
        return MqttLayer(
            self._link,
            root=settings.root,
            side="cloud",
            codec=settings.codec,
            source=EDGECONTROLLER,
            group=RESOURCE_GROUP,
            content_types=CONTENT_TYPES,
            on_refused=self._refused,
            receive_queue_max=cloud.queues.receive_max,
            uplink=first_uplink(settings) or UplinkPart.NOTHING,
            sharers=cloud.sharing.group,
        )

    def _make_api(self, operations: dict[str, Operation]) -> ApiService:
        try:
            from cloud.api.service import ApiService  # here, so that a controller without the API needs no FastAPI
        except ImportError as exc:
            raise ConfigError(f"cloud.api.enabled needs {exc.name}: pip install 'fieldpost[api]'") from exc
        return ApiService(
            self.settings.cloud.api, Path(self.settings.data_dir), operations, self.metrics,
            audit=self._audit, health=self._health, clock=self._clock,
        )  # fmt: skip

    async def _ready(self, args: dict[str, Any]) -> Readiness:
        return await self._health.ready()

    def _presence(self, *, online: bool) -> bytes:
        controller, at = self.settings.cloud.controller, rfc3339(self._clock.time())
        standby = online and self._sharing.standing_by
        instance, sinks = self.sessions.instance, self.sessions.sinks
        return msgspec.json.encode(ControllerPresence(controller, online, VERSION, at, standby, instance, sinks))

    def _announce(self) -> None:
        log.info("%s: connected", self.settings.cloud.controller)
        self.sessions.announced()
        self._publish_presence(online=True)
        self._announcing.connected()
        self._sharing.connected()
        self.forwarding.wake()

    def _say_again(self) -> None:
        if self._link.connected and not self._stopping:
            self._publish_presence(online=True)

    def _disconnected(self, reason: str) -> None:
        self._sharing.disconnected()
        level = logging.INFO if self._stopping else logging.WARNING
        log.log(level, "%s: disconnected: %s", self.settings.cloud.controller, reason)

    def _publish_presence(self, *, online: bool) -> None:
        try:
            self._link.publish(self._presence_topic, self._presence(online=online), qos=1, retain=True)
        except TransportError as exc:  # the connection just ended: the will, or the next connect, says it
            log.debug("presence was not published: %s", exc)

    def _committed(self, outcome: CommitOutcome) -> None:
        self._operations.committed(outcome)
        self.forwarding.wake()

    def _rule_statuses(self, conn: Connection, keys: Sequence[RuleKey]) -> list[RuleStatus]:
        return rule_statuses(conn, keys, now=self._clock.time(), stale_s=self.settings.cloud.stale_s)

    def _refused(self, refused: Refused) -> None:
        self._refusals.packet(refused)

    def statistics(self) -> dict[str, Any]:
        """Counters and gauges by part."""
        cloud = self.settings.cloud
        return {
            "controller": {
                "id": cloud.controller,
                "version": VERSION,
                "connected": self._link.connected,
                "broker": self.settings.broker.url,
                "sharing": self._sharing.mode,
                "lease_holder": self._sharing.holder,
            },
            "link": dict(self._link.statistics()),
            "layer": dict(self.layer.statistics()),
            "upstream": self.upstream.statistics(),
            "downstream": self.downstream.statistics(),
            "handlers": self._handlers.statistics(),
            "refusals": self._refusals.statistics(),
            "dead_letters": self._letters.statistics(),
            "ledger": self._ledger.statistics(),
            "upkeep": self._upkeep.statistics(),
            "sessions": self.sessions.statistics(),
            "clearing": self._clearing.statistics(),
            "sharing": self._sharing.statistics(),
            "tasks": {"restarts": self._tasks.restarts + self.forwarding.restarts},
            "store": self.store.statistics(),
            "audit": self._audit.statistics(),
            "forwarders": self.forwarding.statistics(),
            **({"kubernetes": self._cluster.statistics()} if self._cluster is not None else {}),
            **({"api": self.api.statistics()} if self.api is not None else {}),
        }

    async def metrics(self) -> str:
        """The same, and what only the store knows, in Prometheus' text format (experience U6)."""
        await self._ledger.refresh()
        await self._metering.refresh()
        return exposition("cloud", self._families())

    def _queues(self) -> dict[str, int]:
        found = self.upstream.statistics()
        return {name.removesuffix(_QUEUED): count for name, count in found.items() if name.endswith(_QUEUED)}

    def _families(self) -> Iterator[Family]:
        yield from self._metering.families()
        for owner, values in self.statistics().items():
            if owner not in ("controller", "forwarders"):
                in_table = owner == "upstream"  # its queues are one family, with the type as label
                shown = {name: value for name, value in values.items() if not (in_table and name.endswith(_QUEUED))}
                yield from families(owner, shown, set(shown) if owner == "ledger" else _GAUGES)
        yield from self.forwarding.families()
