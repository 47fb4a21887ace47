"""The endpoint type ``eventbus``: one connection for each broker that endpoints name, shared by all rules (flow F3)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.clock import Clock
from common.errors import ConfigError
from common.messaging.base import Link
from common.rules import EVENTBUS, RuleEndpoint
from common.templates import TopicTemplate
from edge.endpoints.base import OnArrival, Rendering, Wiring
from edge.endpoints.eventbus import Bound, Eventbus, EventbusTarget


class Buses:
    """The node's own bus and further brokers.

    Arguments: ``link`` makes the connection to a broker by its URL ("" is the node's own) under a name; ``directory``
    is where each bus remembers its subscriptions.
    """

    type = EVENTBUS

    def __init__(
        self, link: Callable[[str, str], Link], on_arrival: OnArrival, directory: Path, *, clock: Clock | None = None
    ) -> None:
        self._link, self._on_arrival, self._directory, self._clock = link, on_arrival, directory, clock
        self._pending: dict[str, Link] = {}  # made while running, to be started
        self._stopping: set[asyncio.Task[None]] = set()
        self.buses: dict[str, Eventbus] = {}

    def bind(self, wirings: Sequence[Wiring]) -> None:
        """See Kind."""
        bound: dict[str, list[Bound]] = {url: [] for url in self.buses}
        for endpoint, resource, consumer in wirings:
            url = endpoint.spec.properties.get("broker", "")
            bound.setdefault(url, []).append(Bound(resource["topic"], int(resource.get("qos", "1")), consumer))
        for url, of_bus in bound.items():
            self._bus(url).bind(of_bus)

    def target(self, endpoint: RuleEndpoint, resource: Mapping[str, str], rendering: Rendering) -> EventbusTarget:
        """See Kind."""
        return EventbusTarget(
            self._bus(endpoint.spec.properties.get("broker", "")),
            TopicTemplate(resource["topic"]),
            rendering,
            qos=int(resource.get("qos", "1")),
            retain=resource.get("retain", "false") == "true",
            on_close=self._leave,
        )

    async def start(self) -> None:
        """Begin to connect; also called after a change of rules, for brokers that are new, and those that nobody uses.

        Raises ConfigError for what can never work, after the others have begun.
        """
        self._leave()
        pending, self._pending = self._pending, {}
        failed: list[str] = []
        for url, link in pending.items():
            try:
                await link.start()
            except ConfigError as exc:  # a file that is not there: the next change tries again
                self._pending[url] = link
                failed.append(str(exc))
        if failed:
            raise ConfigError("\n".join(failed))

    def _leave(self) -> None:
        """Disconnect from brokers that no rule names any more; the node's own stays."""
        for url, bus in list(self.buses.items()):
            if url and not bus.used:
                del self.buses[url]
                if self._pending.pop(url, None) is None:
                    task = asyncio.get_running_loop().create_task(bus.link.stop())
                    self._stopping.add(task)
                    task.add_done_callback(self._stopping.discard)

    def pause(self) -> None:
        """See Kind."""
        for bus in self.buses.values():
            bus.pause()

    async def stop(self) -> None:
        """See Kind."""
        for bus in self.buses.values():
            await bus.link.stop()
        await asyncio.gather(*self._stopping)

    def statistics(self) -> dict[str, Any]:
        """Of each broker."""
        return {url or "own": bus.statistics() for url, bus in self.buses.items()}

    def _bus(self, url: str) -> Eventbus:
        if url not in self.buses:
            # The same id twice at one broker, under two names of it, would end each other's connection for ever.
            name = f"bus-{hashlib.sha256(url.encode()).hexdigest()[:8]}" if url else "bus"
            link = self._link(url, name)
            self._pending[url] = link
            memory = self._directory / f"{name}.json"
            self.buses[url] = Eventbus(link, self._on_arrival, memory, name=name, clock=self._clock)
        return self.buses[url]
