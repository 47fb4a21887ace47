"""Changing what a node runs when something is in the way: two at a time, half of it wrong, much of it (F4, F6)."""

from __future__ import annotations

import asyncio
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from common.chain.hookpoint import Engine
from common.chain.loader import single
from common.chain.run import Budgets
from common.errors import ConfigError
from common.rulechains import commands
from common.settings import BrokerSettings
from edge.agent import Agent
from edge.flow.hooks import Hooks
from edge.messages import Arrival, FlowMessage
from edge.rules.configuration import Configuration
from edge.rules.decision import REST_MAX_S, ChainDecision
from edge.rules.execution import Execution
from edge.rules.hooking import load_hooks, swap_hooks
from edge.rules.store import NAME
from edge.rules.turns import Account, Turns
from edge.settings import EdgeSettings, ListenerSettings, Settings
from edge.status import RuleRef
from tests.flow.node import ENDPOINTS, Played, rule
from tests.flow.test_executions import Forwards
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually

WEB = """\
endpoints: {default/bus: {ruleEndpointType: eventbus}, default/web: {ruleEndpointType: rest}}
rules:
  default/web:
    {source: web, sourceResource: {path: /in}, target: bus, targetResource: {topic: out}}
"""
APP = """\
endpoints: {default/app: {ruleEndpointType: servicebus, properties: {service_port: 9}}}
rules:
  default/app:
    {source: app, sourceResource: {target_url: 'http://a/b'}, target: bus, targetResource: {topic: out}}
"""


class Layered:
    """An agent over a directory of layers; its broker is away."""

    def __init__(self, tmp_path: Path, rest: ListenerSettings | None = None, **layers: str) -> None:
        self.layers = tmp_path / "layers"
        self.layers.mkdir(exist_ok=True)
        for name, text in layers.items():
            self.write(name, text)
        edge = EdgeSettings(
            node="edge-1", layers=str(self.layers), rest=rest or ListenerSettings(port=0),
            servicebus=ListenerSettings(port=0),
        )  # fmt: skip
        away = BrokerSettings(url="mqtt://127.0.0.1:1")
        self.agent = Agent(Settings(data_dir=str(tmp_path / "data"), broker=away, edge=edge))

    def write(self, layer: str, text: str) -> None:
        """Write a layer's file."""
        (self.layers / f"{layer}.yaml").write_text(text)

    async def ask(self, operation: str, **args: Any) -> Any:
        """Ask as the command line does."""
        return await self.agent.host.operations()[operation](args)  # type: ignore[misc]


async def test_two_reloads_at_a_time_bind_one_listener(tmp_path: Path, unused_tcp_port: int) -> None:
    """They go one after the other: a port that both want is taken once, and nothing is left behind."""
    it = Layered(tmp_path, ListenerSettings(port=unused_tcp_port))
    await it.agent.start()
    it.write("user_gateway", WEB)
    await asyncio.gather(*(it.ask("reload") for _ in range(3)))
    await it.agent.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", unused_tcp_port)


async def test_a_listener_that_cannot_be_had_keeps_no_other_from_starting(tmp_path: Path) -> None:
    """A reload says so, and everything else of it runs; the next reload tries again."""
    busy = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    it = Layered(tmp_path, ListenerSettings(port=busy.sockets[0].getsockname()[1]))
    await it.agent.start()
    it.write("user_gateway", WEB)
    it.write("post_gateway", APP)
    with pytest.raises(ConfigError, match=r"edge\.rest: cannot listen on 127\.0\.0\.1"):
        await it.ask("reload")
    assert it.agent.servicebus.listener.port
    assert len(it.agent.rules) == 2
    assert "cannot listen" in (await it.ask("config.show"))[0]["value"]
    busy.close()
    await busy.wait_closed()
    await it.ask("reload")
    assert it.agent.rest.listener.port
    assert (await it.ask("config.show"))[0]["key"] != "not running"
    await it.agent.stop()


async def test_a_start_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    """No task, no connection, no socket: a second start on the same data works."""
    busy = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    it = Layered(tmp_path, ListenerSettings(port=busy.sockets[0].getsockname()[1]), user_gateway=WEB, post_gateway=APP)
    before = asyncio.all_tasks()
    with pytest.raises(ConfigError):
        await it.agent.start()
    assert asyncio.all_tasks() == before
    busy.close()
    await busy.wait_closed()
    again = Layered(tmp_path)
    await again.agent.start()
    await again.agent.stop()


async def test_asking_before_the_rules_are_read(tmp_path: Path) -> None:
    """The socket answers from the first moment: nothing runs yet."""
    assert await Layered(tmp_path).ask("config.show") == []


async def test_passwords_are_not_shown(tmp_path: Path) -> None:
    """R4: neither in the configuration that is shown, nor in what a template says is wrong, nor to other users."""
    secret = (
        WEB
        + "  default/out:\n    {source: bus, sourceResource: {topic: in}, target: web, targetResource: "
        + ("{resource: 'http://user:s3cret@host/{topic[0]}/{$MSG.payload.x}'}}\n")
    )
    it = Layered(tmp_path, user_gateway=secret)
    await it.agent.start()
    shown = str(await it.ask("config.show"))
    assert "s3cret" not in shown
    assert "http://***@host" in shown
    (binding,) = (it.agent.rules.named("out"),)
    assert binding is not None
    results: list[Any] = []
    binding._target.deliver(FlowMessage(b"{}", "in"), results.append)
    assert results[0].reason == "target_url"
    assert "s3cret" not in results[0].detail
    assert stat.S_IMODE((tmp_path / "data" / NAME).stat().st_mode) == 0o600
    await it.agent.stop()


async def test_an_edit_needs_no_files(tmp_path: Path) -> None:
    """It goes over what runs: files that were broken since, or changed, wait for a reload."""
    it = Layered(tmp_path, user_gateway=WEB)
    await it.agent.start()
    it.write("user_gateway", "rules: [")
    edit = {"edit": "add", "address": "default/web", "text": "drop"}
    assert await it.ask("rule.edit", **edit) == {"rules": 1, "edits": 1}
    assert await it.ask("rule.edit", **edit) == {"rules": 1, "edits": 2}
    with pytest.raises(ConfigError):
        await it.ask("reload")
    assert len(await it.ask("config.show")) > 2
    await it.agent.stop()


# -- Python hooks ------------------------------------------------------------------------------------------------------


def accepting(payload: Any) -> None:
    """A hook for the tests below."""


def other(payload: Any) -> None:
    """Another one."""


async def test_a_label_that_a_program_has_is_refused_before_anything_changes(tmp_path: Path) -> None:
    """Hooks and rules change together or not at all."""
    it = Layered(tmp_path)
    await it.agent.start()
    it.agent.rules.hooks.add("preRoute.mine", accepting)
    here = "tests.rules.test_host_faults"
    it.write("user_gateway", WEB + f"hooks: {{preRoute: {{mine: '{here}:other', yours: '{here}:other'}}}}\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"preRoute\.mine"):
            await it.ask("reload")
    assert len(it.agent.rules) == 0
    assert not it.agent.rules.hooks.has("preRoute.yours")
    await it.agent.stop()


def test_a_hook_of_a_package_needs_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one it could not be taken away at the next reload."""

    class Entry:
        name, value = "preRoute", f"{__name__}:accepting"

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Entry()])
    with pytest.raises(ConfigError, match="label"):
        load_hooks({})


@pytest.mark.parametrize("kept", [True, False])
async def test_a_reload_does_not_let_a_message_pass_its_hook_by(kept: bool) -> None:
    """What waits at one hook meets the next one, whether a reload left it as it was or put another in its place."""
    gate, seen, hooks = asyncio.Event(), list[Any](), Hooks()

    async def wait(payload: Any) -> None:
        await gate.wait()

    def noted(payload: Any) -> None:
        seen.append(payload)

    before = {"preDeliver.a": wait, "preDeliver.b": noted}
    swap_hooks(hooks, {}, before)
    waiting = hooks.trigger("preDeliver", "event")
    swap_hooks(hooks, before, {"preDeliver.a": wait, "preDeliver.b": noted if kept else other})
    gate.set()
    assert waiting is not None
    await waiting
    assert seen == ["event"]
    await hooks.trigger("preDeliver", "next")  # type: ignore[misc]
    assert seen == (["event", "next"] if kept else ["event"])


# -- chains ------------------------------------------------------------------------------------------------------------


class PlayedClock:
    """A monotonic clock that the test moves."""

    now = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def time(self) -> float:
        """Seconds."""
        return self.now


async def test_a_rule_rests_for_as_long_as_it_takes(tmp_path: Path) -> None:
    """F5: rests double up to the longest, also the thousandth, after which there is no larger number."""
    clock: Any = PlayedClock()
    engine = Engine(commands(), budgets=Budgets(output_bytes_max=4), clock=clock)
    source = single("\n".join(['echo "x"'] * 10 + ["accept"]))
    decision = ChainDecision(source, RuleRef("default", "a"), {}, engine, lambda verb, target: target, clock)
    node = Played(tmp_path, rule("a"))
    (wiring,) = node.kind.wirings
    message = FlowMessage(b"", "a")
    execution = Execution(wiring.consumer, Arrival(message), None, 0.0, message, wiring.consumer.rule)
    for _ in range(1200):
        assert decision.decide(execution).reason == "chain_limit"  # type: ignore[union-attr]
        clock.now = max(clock.now, decision._rests_until) + 0.001
    assert decision.decide(execution).reason == "chain_limit"  # type: ignore[union-attr]
    assert 0 < decision._rests_until - clock.now <= REST_MAX_S
    assert decision.decide(execution).reason == "suspended"  # type: ignore[union-attr]
    await node.close()


class Endless:
    """A rule that has something to do until ``left`` is False."""

    def __init__(self, turns: Turns, clock: PlayedClock) -> None:
        self._turns, self._clock, self.served, self.left, self.account = turns, clock, 0, True, Account()

    def turn(self) -> bool:
        """See Taker."""
        if not self.left:
            return False
        began = self._clock.now
        self._clock.now += 0.0005
        self._turns.used(self.account, began, self._clock.now)
        self.served += 1
        return True


async def test_a_rule_that_worked_alone_for_long_is_not_set_back_for_it() -> None:
    """F4: turns go by the time used while others wanted some, not by the time since the start."""
    clock = PlayedClock()
    turns = Turns(clock.monotonic)
    old, new = Endless(turns, clock), Endless(turns, clock)
    turns.used(old.account, clock.now - 600, clock.now)
    turns.later(new, new.account)
    turns.later(old, old.account)
    await eventually(lambda: new.served > 600, interval=0.001)
    new.left = old.left = False
    assert old.served > 100


# -- size --------------------------------------------------------------------------------------------------------------


def test_reading_takes_time_in_proportion(tmp_path: Path) -> None:
    """Four times the rules take no more than eight times as long, and a thousand are read in seconds."""

    def seconds(count: int) -> float:
        (tmp_path / "rules.yaml").write_text(ENDPOINTS + "".join(rule(f"r{n}") for n in range(count)))
        began = time.process_time()
        Configuration([str(tmp_path / "rules.yaml")]).read()
        return time.process_time() - began

    seconds(50)
    assert seconds(1200) < 8 * seconds(300)


async def test_targets_of_a_removed_rule_are_closed(tmp_path: Path) -> None:
    """All of them, also those that its chain or a hook named."""
    node = Played(tmp_path, rule("a"), decide=Forwards({"a": "other"}).of)
    node.arrive("m-1")
    await node.ended(1)
    assert [t.endpoint for t in node.kind.targets] == ["bus", "other"]
    node.load("")
    await eventually(lambda: all(t.closed for t in node.kind.targets))
    await node.close()


async def test_a_broker_that_no_rule_names_any_more_is_left(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Its connection ends with the reload after the rules that used it."""
    it = Layered(tmp_path, user_gateway=WEB)
    far = f"endpoints: {{default/far: {{ruleEndpointType: eventbus, properties: {{broker: '{mosquitto.url}'}}}}}}\n"
    far += "rules: {default/far: {source: far, sourceResource: {topic: a}, target: far, targetResource: {topic: b}}}\n"
    await it.agent.start()
    it.write("post_gateway", far)
    await it.ask("reload")
    link = it.agent.buses.buses[mosquitto.url].link
    await eventually(lambda: link.connected)
    it.write("post_gateway", "")
    await it.ask("reload")
    await eventually(lambda: not link.connected)
    assert mosquitto.url not in it.agent.buses.buses
    it.write("post_gateway", far)
    await it.ask("reload")
    await eventually(lambda: it.agent.buses.buses[mosquitto.url].link.connected)
    await it.agent.stop()
