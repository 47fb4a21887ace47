"""All forwarders of a controller: made from the settings, started and stopped together, each on its own (P8.2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

from cloud.forwarders.base import AnySink, ResultSink, Sink
from cloud.forwarders.feed import Feed
from cloud.forwarders.forwarder import Forwarder, SinkRow
from cloud.forwarders.log import LogSink
from cloud.forwarders.mqtt import MqttSink
from cloud.forwarders.resultfeed import ResultFeed
from cloud.forwarders.statusfeed import Statuses, StatusFeed
from cloud.settings.forward import ForwardSettings
from cloud.stores.base import Store
from common.clock import Clock
from common.errors import FieldpostError
from common.messaging.base import Link
from common.metrics import Family
from common.tasks import Tasks

log = logging.getLogger(__name__)

LOOK_S = 1.0  # between two looks at what waits, for people and metrics
HELP = {
    "delivered": "statuses, or single results, that the sink took",
    "retries": "answers after which something is told again",
    "refused": "versions that the sink will never take",
    "failures": "batches of which nothing got through",
    "breaker_openings": "times that the sink was left alone after failures in a row",
    "missed": "single results that the ring dropped before they were told",
}


def make_sinks(settings: ForwardSettings, link: Link, root: str, clock: Clock) -> tuple[list[Sink], list[ResultSink]]:
    """Return the sinks of the settings: those of rules, and those of single results.

    ``link`` is the controller's connection to the broker. Raises ConfigError for a webhook that can never work.
    """
    sinks: list[Sink] = []
    results: list[ResultSink] = []
    for name, webhook in settings.webhooks.items():
        from cloud.forwarders.webhook import WebhookSink  # here, so that a controller without one loads no HTTP client

        sink = WebhookSink(f"webhook:{name}", webhook, clock, root)
        (sinks if webhook.tell == "rules" else results).append(sink)
    if settings.mqtt.enabled:
        sinks.append(MqttSink(link, root, settings.mqtt))
    if settings.log.enabled:
        sinks.append(LogSink(settings.log))
    return sinks, results


class Forwarding:
    """The forwarders of one controller.

    Arguments: ``holder`` is the controller's id, which its claims carry; ``statuses`` reads the status of rules;
    ``sinks`` are told of rules, ``result_sinks`` of single results.
    """

    def __init__(
        self,
        settings: ForwardSettings,
        store: Store,
        clock: Clock,
        holder: str,
        statuses: Statuses,
        sinks: Sequence[Sink],
        result_sinks: Sequence[ResultSink] = (),
    ) -> None:
        self._sinks: list[AnySink] = [*sinks, *result_sinks]
        feeds: list[Feed] = [StatusFeed(sink, store, clock, holder, statuses) for sink in sinks]
        feeds += [ResultFeed(sink, store, clock, holder) for sink in result_sinks]
        self._forwarders = [
            Forwarder(feed, settings, clock, batch_max=sink.batch_max, rate_max=sink.rate_max)
            for feed, sink in zip(feeds, self._sinks, strict=True)
        ]
        self._tasks = Tasks("forwarding")
        self._running = False

    async def start(self) -> None:
        """Start all, after the store and before anything is committed. Raises StorageError."""
        self._running = True
        for forwarder in self._forwarders:
            await forwarder.prepare()
            self._tasks.start(forwarder.name, forwarder.run)
        if self._forwarders:
            self._tasks.start("look", self._look)

    async def stop(self) -> None:
        """End what is under way, let go of what is claimed, and close the sinks. Before the store stops."""
        if not self._running:
            return
        self._running = False
        await self._tasks.stop()
        await asyncio.gather(*(forwarder.let_go() for forwarder in self._forwarders))
        for sink in self._sinks:
            await sink.stop()

    @property
    def fingerprint(self) -> str:
        """Which sinks these are, as a short text that names none: equal for controllers with the same ones."""
        names = "\n".join(sorted(sink.name for sink in self._sinks))
        return blake2b(names.encode(), digest_size=8).hexdigest()

    @property
    def restarts(self) -> int:
        """How often a forwarder failed and was started again."""
        return self._tasks.restarts

    def wake(self) -> None:
        """Something was committed here."""
        for forwarder in self._forwarders:
            forwarder.wake()

    async def _look(self) -> None:
        """Keep what is shown up to date, also while a sink hangs."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                for forwarder in self._forwarders:
                    await forwarder.look()
            except FieldpostError as exc:
                log.debug("what waits for sinks is not known: %s", exc)

    def rows(self) -> list[SinkRow]:
        """The sinks as people see them."""
        return [forwarder.row() for forwarder in self._forwarders]

    def statistics(self) -> dict[str, Any]:
        """Counters by sink and name."""
        return {forwarder.name: forwarder.statistics() for forwarder in self._forwarders}

    def families(self) -> Iterator[Family]:
        """Metrics, each with the label ``sink``."""
        if not self._forwarders:
            return
        rows = [({"sink": row.sink}, row) for row in self.rows()]
        yield Family(
            "forwarder_lag_seconds", "gauge", "age of the oldest change that the sink was not told",
            [(labels, row.lag_s) for labels, row in rows],
        )  # fmt: skip
        yield Family(
            "forwarder_pending", "gauge", "rules, or single results, that wait for the sink",
            [(labels, float(row.pending)) for labels, row in rows],
        )  # fmt: skip
        for name, text in HELP.items():
            counts = [({"sink": each.name}, float(each.statistics()[name])) for each in self._forwarders]
            yield Family(f"forwarder_{name}", "counter", text, list(counts))
