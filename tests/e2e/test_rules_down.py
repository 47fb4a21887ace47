"""Rules from a real controller to real agents over a real broker, all in this process: every change ends right (P6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cloud.controller import Controller
from cloud.settings import Settings as CloudSettings
from cloud.stores import desired
from cloud.stores.assigning import assign_objects
from common.control import call, socket_path
from common.manifestfiles import load_manifests
from common.messaging.transport import MqttLink
from edge.agent import Agent
from edge.settings import EdgeSettings, Settings, UplinkSettings
from tests.cloud.rulesnode import endpoint, rule
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually

BAD = "|\n    echo one\n    acept"  # what the cloud's own check would have found, as when it is older than its nodes


class Fleet:
    """A controller, and agents ``gw-1`` to ``gw-<count>`` that are started and stopped at will."""

    def __init__(self, broker: Mosquitto, directory: Path, count: int) -> None:
        self._broker, self._directory = broker, directory
        self.names = [f"gw-{n}" for n in range(1, count + 1)]
        self.agents: dict[str, Agent] = {}
        settings = CloudSettings(broker=broker.settings(), data_dir=str(directory / "cloud"))
        self.controller = Controller(settings)

    async def start(self, name: str) -> None:
        """Start an agent, for the first time or again."""
        edge = EdgeSettings(node=name, uplink=UplinkSettings(nodestatus_s=1.0))
        settings = Settings(broker=self._broker.settings(), data_dir=str(self._directory / name), edge=edge)
        self.agents[name] = Agent(settings)
        await self.agents[name].start()

    async def ask(self, operation: str, **args: Any) -> Any:
        """Ask the controller."""
        return await call(socket_path(self._directory / "cloud", "cloud"), operation, **args)

    async def apply(self, *texts: str) -> None:
        """Apply these manifests."""
        await self.ask("apply", manifests=[{"text": "".join(texts)}])

    async def push(self, text: str) -> None:
        """Make a rule desired without a check: what a controller of another version may do."""
        (manifest,), _ = load_manifests(text)

        def work(conn: Any) -> set[str]:
            desired.lock(conn)
            before = desired.read_selection(conn)
            done, after = desired.apply_objects(conn, [manifest.value], before, origin=desired.API, at=1.0)
            return assign_objects(conn, [each.key for each in done], before, after, 1.0)

        await self.controller.store.write(work)
        await self.controller.downstream.sync_rule(*manifest.value.key)

    def running(self, name: str) -> dict[str, int]:
        """The versions of rules and endpoints that an agent runs of the cloud's, by name."""
        return {item.name: item.running for item in self.agents[name].host.synced.shown()}

    async def states(self, name: str) -> dict[str, tuple[str, int, int]]:
        """State, desired and reported version of a rule, by node."""
        rows = await self.ask("get.assignments", namespace="default", rule=name)
        return {row["node"]: (row["state"], row["desired"], row["reported"]) for row in rows}

    async def settled(self, name: str, wanted: dict[str, tuple[str, int, int]], timeout: float = 20) -> None:
        """Wait until the states of a rule are these."""

        async def same() -> bool:
            return await self.states(name) == wanted

        await eventually(same, timeout, interval=0.05, what=f"{name} is {wanted}")

    async def counted(self, name: str) -> dict[str, int]:
        """Results of a rule that are counted, by node."""
        rows = await self.ask("get.rules", rule=name, per_node=True)
        return {row["node"]: row["success"] + row["fail"] for row in rows}


@asynccontextmanager
async def fleet(broker: Mosquitto, directory: Path, count: int) -> AsyncIterator[Fleet]:
    """A controller with so many agents, which it knows; all stopped at the end."""
    made = Fleet(broker, directory, count)
    await made.controller.start()
    try:
        await asyncio.gather(*map(made.start, made.names))
        statistics = made.controller.downstream.statistics
        await eventually(lambda: statistics()["nodes_assigned"] == count, 30, what="all nodes are known")
        yield made
    finally:
        await asyncio.gather(*(agent.stop() for agent in made.agents.values()))
        await made.controller.stop()


def every(nodes: list[str], *state: Any) -> dict[str, tuple[Any, ...]]:
    """The same state of all nodes."""
    return dict.fromkeys(nodes, state)


async def test_three_agents_follow_what_is_wanted(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Apply reaches all; one that was offline while rules came, changed and went ends right; a message that was lost on
    its way down is repaired by the next nodestatus; what runs counts under the rule's name.
    """
    async with fleet(mosquitto, tmp_path, 3) as all_:
        names = all_.names
        await all_.apply(endpoint(), rule("stays", topic="o/{node}"), rule("changes"), rule("goes"))
        for name in ("stays", "changes", "goes"):
            await all_.settled(name, every(names, "applied", 1, 1))
        await all_.agents["gw-2"].stop()
        await eventually(lambda: _offline(all_), what="gw-2 is offline")
        await all_.apply(rule("changes", topic="p"), rule("comes"))
        await all_.ask("delete", kind="rule", name="goes")
        others = every(["gw-1", "gw-3"], "applied", 1, 1)
        await all_.settled("comes", others | {"gw-2": ("pending", 1, 0)})
        await all_.settled("goes", {"gw-2": ("pending", 0, 1)})
        await all_.start("gw-2")
        await all_.settled("comes", every(names, "applied", 1, 1))
        await all_.settled("changes", every(names, "applied", 2, 2))
        await all_.settled("goes", {})
        take, lost = all_.agents["gw-3"].downlink.take, []
        all_.agents["gw-3"].downlink.take = lost.append  # type: ignore[method-assign]
        await all_.apply(rule("comes", topic="q"))
        await eventually(lambda: lost, what="the message is lost")
        all_.agents["gw-3"].downlink.take = take  # type: ignore[method-assign]
        await all_.settled("comes", every(names, "applied", 2, 2))
        await all_.apply(rule("comes", topic="q", nodes="gw-1"))
        await all_.settled("comes", {"gw-1": ("applied", 3, 3)})
        await all_.apply(rule("comes", topic="q"))  # for all again: the same rule, not another one
        await all_.settled("comes", every(names, "applied", 4, 4))
        assert [all_.running(name).get("comes") for name in names] == [4, 4, 4]
        await all_.ask("delete", kind="rule", name="stays")  # what is deleted and made again is another rule
        await all_.apply(rule("stays", topic="r/{node}"))
        await all_.settled("stays", every(names, "applied", 1, 1))
        async with _device(mosquitto) as link:
            link.publish("in/x", b"1")
            await eventually(lambda: _counted(all_, "stays", every(names, 1)), 20, what="each node counts it once")


async def _offline(all_: Fleet) -> bool:
    return any(row["state"] == "offline" for row in await all_.ask("get.nodes"))


async def _counted(all_: Fleet, name: str, wanted: dict[str, Any]) -> bool:
    return await all_.counted(name) == {node: count for node, (count,) in wanted.items()}


@asynccontextmanager
async def _device(broker: Mosquitto) -> AsyncIterator[MqttLink]:
    link = MqttLink(broker.settings(), "device")
    await link.start()
    await eventually(lambda: link.connected)
    yield link
    await link.stop()


async def _found_by_all(all_: Fleet, names: list[str]) -> bool:
    """True when the description of relay has the finding of each node, with line and column."""
    told = await all_.ask("describe.rule", rule="relay")
    assert told["words"][0] == f"rule relay: running on 0 of {len(names)} nodes"
    found = {
        share["node"]
        for share in told["nodes"]
        if "PC-LINK-UNKNOWN-COMMAND" in share["error"] and "line 2, column 1" in share["error"]
    }
    return found == set(names)


async def test_twenty_agents_refuse_a_bad_version_and_go_on(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """A bad version is refused by each with line and column, desired and reported versions show it, the last good one
    and the other rule go on on every node, and a later good version makes all well.
    """
    async with fleet(mosquitto, tmp_path, 20) as all_:
        names = all_.names
        await all_.apply(endpoint(), rule("relay", topic="o/{node}"), rule("other", topic="p/{node}"))
        await all_.settled("relay", every(names, "applied", 1, 1))
        await all_.push(rule("relay", topic="o/{node}", chain=BAD))
        await all_.settled("relay", every(names, "failed", 2, 1))
        await eventually(lambda: _found_by_all(all_, names), what="each finding is shown")
        async with _device(mosquitto) as link:
            link.publish("in/x", b"1")
            for name in ("relay", "other"):
                await eventually(lambda: _counted(all_, name, every(names, 1)), 30, what=f"{name} runs")  # noqa: B023
        assert all(result["status"] == "SUCCESS" for result in await all_.ask("get.results"))
        await all_.apply(rule("relay", topic="q/{node}"))
        await all_.settled("relay", every(names, "applied", 3, 3))
