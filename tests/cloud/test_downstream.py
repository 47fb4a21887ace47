"""Rules downward, over a hub with scripted nodes: every change ends right, whatever is lost, late or refused (P6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.clock import ManualClock
from common.control import call
from common.errors import ControlError, QueueFullError
from common.message import new
from common.messaging.memory import MemoryHub
from common.models import Refusal
from common.rulesync import SyncedObject
from tests.cloud.node import ROOT, running
from tests.cloud.rulesnode import endpoint, rule, rules_node
from tests.cloud.samples import AT, ok, totals
from tests.support.wait import eventually


class Cloud:
    """The operations of a controller whose data are in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "data" / "cloud.sock"

    async def __call__(self, operation: str, **args: Any) -> Any:
        return await call(self._path, operation, **args)

    async def apply(self, *texts: str) -> dict[str, str]:
        """Apply these manifests; what became of each, by name."""
        done = await self("apply", manifests=[{"text": "".join(texts), "file": "f.yaml"}])
        return {row["name"]: row["outcome"] for row in done}

    async def states(self, name: str = "relay") -> dict[str, tuple[str, int, int]]:
        """State, desired and reported version of a rule, by node."""
        rows = await self("get.assignments", namespace="default", rule=name)
        return {row["node"]: (row["state"], row["desired"], row["reported"]) for row in rows}

    async def settled(self, wanted: dict[str, tuple[str, int, int]], name: str = "relay") -> None:
        """Wait until the states are these."""

        async def same() -> bool:
            return await self.states(name) == wanted

        await eventually(same, what=f"{name} is {wanted}")


async def test_a_rule_goes_to_its_nodes_and_runs_there(tmp_path: Path) -> None:
    """P6.1: insert with endpoint first, update, delete with rule first; the state of each node is what it said."""
    hub, cloud = MemoryHub(), Cloud(tmp_path)
    async with running(tmp_path, hub), rules_node(hub, "gw-1") as one, rules_node(hub, "gw-2") as two:
        await eventually(lambda: cloud("get.nodes"))
        assert await cloud.apply(rule(nodes="gw-1"), endpoint()) == {"bus": "created", "relay": "created"}
        await cloud.settled({"gw-1": ("applied", 1, 1)})
        assert one.taken == ["insert ruleendpoint bus 1", "insert rule relay 1"]
        assert await cloud.apply(rule(nodes="gw-1, gw-2"), endpoint()) == {"bus": "unchanged", "relay": "configured"}
        await cloud.settled({"gw-1": ("applied", 2, 2), "gw-2": ("applied", 2, 2)})
        assert one.taken[2:] == ["update rule relay 2"]
        assert two.taken == ["insert ruleendpoint bus 1", "insert rule relay 2"]
        (row,) = await cloud("get.objects", kind="rule")
        assert (row["version"], row["source"], row["enabled"]) == (2, "bus", True)
        assert row["summary"] == {"nodes": 2, "applied": 2, "pending": 0, "failed": 0, "stale": 0, "removing": 0}
        with pytest.raises(ControlError, match="default/bus is in use by 1 rule: relay; delete those first"):
            await cloud("delete", kind="endpoint", name="bus")
        await cloud("delete", kind="rule", name="relay")
        await cloud("delete", kind="endpoint", name="bus")
        await eventually(lambda: not one.objects and not two.objects)
        assert two.taken[2:] == ["delete rule relay 3", "delete ruleendpoint bus 2"]


async def test_nothing_is_applied_when_one_is_wrong(tmp_path: Path) -> None:
    """All findings with file, line and column, by the node's own checks, also about rules that are there and would
    break; and nothing of the text is taken. ``check`` says the same."""
    cloud = Cloud(tmp_path)
    async with running(tmp_path, MemoryHub()):
        await cloud.apply(endpoint(), rule())
        wrong = (
            endpoint("other")
            + rule("good", chain="accept")
            + rule("bad", chain="|\n    accept\n    drop && (")
            + rule("lost", target="buss")
        )
        for operation in ("apply", "check"):
            with pytest.raises(ControlError) as raised:
                await cloud(operation, manifests=[{"text": wrong, "file": "f.yaml"}])
            lines = str(raised.value).splitlines()
            assert any(line.startswith("f.yaml:26: Rule default/bad: PC-PARSE-BRACKET") for line in lines), lines
            assert any("line 2, column 9" in line for line in lines)
            assert any("target 'buss' is no RuleEndpoint" in line and "did you mean 'bus'" in line for line in lines)
        assert [row["name"] for row in await cloud("get.objects")] == ["relay", "bus"]
        breaking = (
            endpoint().replace("eventbus", "servicebus").replace("}\n---", ", properties: {service_port: '80'}}\n---")
        )
        with pytest.raises(ControlError, match=r"Rule default/relay: spec\.sourceResource\.target_url is missing"):
            await cloud.apply(breaking)
        with pytest.raises(ControlError, match="at most 65536"):
            await cloud.apply(rule("long", chain="echo " + "x" * 66_000))


async def test_labels_and_patterns_choose_and_follow(tmp_path: Path) -> None:
    """P6.2: name, list, glob and nodeSelector; a node that is new or has other labels gets and loses rules."""
    hub, cloud = MemoryHub(), Cloud(tmp_path)
    async with running(tmp_path, hub), rules_node(hub, "gw-1", site="a") as node:
        await cloud.apply(endpoint(), rule("every"), rule("site-a", nodeSelector="{site: a}"),
                          rule("site-b", nodeSelector="{site: b}"), rule("glob", nodes="gw-*"),
                          rule("both", nodes="gw-?", nodeSelector="{site: b}"),
                          rule("far", nodes="fw-*, gw-11"))  # fmt: skip
        await eventually(lambda: set(node.running()) == {"default/every", "default/site-a", "default/glob"})
        node.labels = {"site": "b"}
        node.gone()
        node.born()
        await eventually(lambda: set(node.running()) == {f"default/{n}" for n in ("every", "site-b", "glob", "both")})
        await cloud("node.add", node="gw-1", labels={"site": "a"})  # a person's word goes over the node's
        await eventually(lambda: set(node.running()) == {"default/every", "default/site-a", "default/glob"})
        async with rules_node(hub, "gw-11") as late:
            await eventually(lambda: set(late.running()) == {"default/every", "default/glob", "default/far"})
        (_, row) = await cloud("get.nodes")
        assert row["node"] == "gw-11"
        assert (await cloud("get.nodes"))[0]["labels"] == {"site": "a"}


async def test_a_node_that_was_offline_ends_right(tmp_path: Path) -> None:
    """P6.2: rules that came, changed and went meanwhile; nothing is sent to a node that is offline."""
    hub, cloud = MemoryHub(), Cloud(tmp_path)
    async with running(tmp_path, hub) as controller, rules_node(hub, "gw-1") as node:
        await cloud.apply(endpoint(), rule("stays"), rule("goes"), rule("changes"))
        await eventually(lambda: len(node.running()) == 3)
        await cloud.settled({"gw-1": ("applied", 1, 1)}, "goes")
        node.gone()
        await eventually(lambda: _offline(cloud))
        sent = controller.downstream.statistics()["sent"]
        await cloud.apply(rule("comes"), rule("changes", topic="elsewhere"), rule("comes-and-goes"))
        await cloud("delete", kind="rule", name="goes")
        await cloud("delete", kind="rule", name="comes-and-goes")
        assert (await cloud.states("changes"))["gw-1"] == ("pending", 2, 1)
        assert (await cloud.states("goes"))["gw-1"] == ("pending", 0, 1)
        assert controller.downstream.statistics()["sent"] == sent
        node.born()
        await eventually(lambda: node.running() == {"default/stays": 1, "default/comes": 1, "default/changes": 2})
        await cloud.settled({"gw-1": ("applied", 2, 2)}, "changes")
        await cloud.settled({}, "goes")


async def _offline(cloud: Cloud) -> bool:
    return any(row["state"] == "offline" for row in await cloud("get.nodes"))


async def test_a_hash_that_could_not_be_noted_is_noted_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is full when a right hash would settle what waits: the next nodestatus settles it."""
    hub, cloud, failed = MemoryHub(), Cloud(tmp_path), list[object]()

    async def full(work: object) -> None:
        failed.append(work)
        raise QueueFullError("store", 1)

    async with running(tmp_path, hub) as controller, rules_node(hub, "gw-1") as node:
        await eventually(lambda: controller.downstream.statistics()["compared"])
        node.mute = True
        await cloud.apply(endpoint(), rule())
        await eventually(lambda: node.running() == {"default/relay": 1})
        with monkeypatch.context() as patched:
            patched.setattr(controller.store, "write", full)
            await node.report()
            await eventually(lambda: failed)
        assert (await cloud.states())["gw-1"] == ("pending", 1, 0)
        await node.report()
        await cloud.settled({"gw-1": ("applied", 1, 1)})


async def test_a_lost_message_is_repaired_by_the_next_nodestatus(tmp_path: Path) -> None:
    """P6.2: the node's hash differs, it is asked once, and what was lost is sent again; a lost answer needs no asking,
    as the hash says that all is well.
    """
    hub, cloud = MemoryHub(), Cloud(tmp_path)
    async with running(tmp_path, hub) as controller, rules_node(hub, "gw-1") as node:
        await eventually(lambda: controller.downstream.statistics()["compared"])
        node.lose = lambda text: text == "insert rule relay 1"
        await cloud.apply(endpoint(), rule())
        await eventually(lambda: node.objects)
        assert (await cloud.states())["gw-1"] == ("pending", 1, 0)
        node.lose = lambda text: False
        await node.report()
        await cloud.settled({"gw-1": ("applied", 1, 1)})
        assert node.queries == 1
        node.mute = True
        await cloud.apply(rule(topic="elsewhere"))
        await eventually(lambda: node.running() == {"default/relay": 2})
        await node.report()
        await cloud.settled({"gw-1": ("applied", 2, 2)})
        assert node.queries == 1
        assert controller.downstream.statistics()["settled"] == 1
        for _ in range(5):  # nothing to say, nothing to do
            await node.report()
        sent = controller.downstream.statistics()["sent"]
        assert (node.queries, sent) == (1, len(node.taken) + 1)


async def test_a_node_that_stays_wrong_is_no_storm(tmp_path: Path) -> None:
    """P6.2: a node whose hash never comes right is asked after 10, 20, 40 ... seconds, whatever it sends meanwhile."""
    hub, clock = MemoryHub(), ManualClock(AT)
    async with running(tmp_path, hub, clock=clock) as controller, rules_node(hub, "gw-1") as node:
        await eventually(lambda: controller.downstream.statistics()["compared"])
        node.lose = lambda text: True
        node.objects["Rule", "other", "of-another-cloud"] = SyncedObject("Rule", "other", "of-another-cloud", "u", 1)
        for _ in range(0, 150, 10):
            clock.advance(10)
            reports = controller.sessions.statistics()["reports"]
            await node.report()
            await eventually(lambda: controller.sessions.statistics()["reports"] > reports)  # noqa: B023
        await eventually(lambda: node.queries)
        assert node.queries <= 5
        node.lose = lambda text: False  # what another store gave it is taken from it
        node.born()
        await eventually(lambda: not node.objects)


async def test_a_refused_version_is_shown_and_not_sent_again(tmp_path: Path) -> None:
    """P6.1 to P6.3: the last good version goes on, the node's finding is shown with desired and reported version, and
    a later good version makes it well.
    """
    hub, cloud = MemoryHub(), Cloud(tmp_path)
    async with running(tmp_path, hub), rules_node(hub, "gw-1") as good, rules_node(hub, "gw-2") as node:
        await cloud.apply(endpoint(), rule())
        await cloud.settled({"gw-1": ("applied", 1, 1), "gw-2": ("applied", 1, 1)})
        node.refuse = lambda manifest: (
            "chain line 3 column 9: no such hook" if manifest["metadata"]["name"] == "relay" else ""
        )
        await cloud.apply(rule(topic="elsewhere"))
        await cloud.settled({"gw-1": ("applied", 2, 2), "gw-2": ("failed", 2, 1)})
        taken = len(node.taken)
        await node.report()
        node.gone()
        node.born()
        await node.report()
        await cloud.settled({"gw-1": ("applied", 2, 2), "gw-2": ("failed", 2, 1)})
        assert (len(node.taken), node.queries) == (taken, 0)
        told = await cloud("describe.rule", rule="relay")
        assert told["words"] == [
            "rule relay: running on 1 of 2 nodes",
            "gw-2 refused version 2: chain line 3 column 9: no such hook",
        ]
        assert told["summary"]["failed"] == 1
        node.refuse = lambda manifest: ""
        await cloud("disable", rule="relay")
        await cloud.settled({"gw-1": ("applied", 3, 3), "gw-2": ("applied", 3, 3)})
        assert good.manifests["Rule", "default", "relay"]["spec"]["enabled"] is False
        told = await cloud("describe.rule", rule="relay")
        assert told["words"] == ["rule relay: disabled, as 2 of 2 nodes know"]
        await cloud("enable", rule="relay")
        await cloud.settled({"gw-1": ("applied", 4, 4), "gw-2": ("applied", 4, 4)})


async def test_a_rule_refused_for_want_of_its_endpoint_is_offered_again(tmp_path: Path) -> None:
    """The endpoint was lost on its way, so the rule was refused: when the node has the endpoint, it gets the rule."""
    hub, cloud = MemoryHub(), Cloud(tmp_path)
    async with running(tmp_path, hub) as controller, rules_node(hub, "gw-1") as node:
        await eventually(lambda: controller.downstream.statistics()["compared"])
        node.lose = lambda text: text == "insert ruleendpoint bus 1"
        there = ("RuleEndpoint", "default", "bus")
        node.refuse = lambda m: "" if m["kind"] == "RuleEndpoint" or there in node.objects else "bus is no RuleEndpoint"
        await cloud.apply(endpoint(), rule())
        await cloud.settled({"gw-1": ("failed", 1, 0)})
        node.lose = lambda text: False
        await node.report()
        await cloud.settled({"gw-1": ("applied", 1, 1)})


async def test_a_rule_made_again_is_another_one(tmp_path: Path) -> None:
    """P6.2: delete and apply give a new uid and version 1; the node loses the old one first, and counts start anew."""
    hub, cloud = MemoryHub(), Cloud(tmp_path)
    async with running(tmp_path, hub), rules_node(hub, "gw-1") as node:
        await cloud.apply(endpoint(), rule())
        await cloud.settled({"gw-1": ("applied", 1, 1)})
        (before,) = await cloud("get.objects", kind="rule")
        await cloud("delete", kind="rule", name="relay")
        await cloud.apply(rule())
        (after,) = await cloud("get.objects", kind="rule")
        assert (before["uid"] != after["uid"], after["version"]) == (True, 1)
        await cloud.settled({"gw-1": ("applied", 1, 1)})
        of_rule = [text for text in node.taken if " rule " in text]
        assert of_rule == ["insert rule relay 1", "delete rule relay 2", "insert rule relay 1"]
        assert node.objects["Rule", "default", "relay"].uid == after["uid"]


async def test_a_late_answer_changes_nothing(tmp_path: Path) -> None:
    """P7.2: an answer counts while uid and version are still what is wanted; others are passed over and counted."""
    hub, cloud = MemoryHub(), Cloud(tmp_path)
    async with running(tmp_path, hub) as controller, rules_node(hub, "gw-1") as node:
        await cloud.apply(endpoint(), rule())
        await cloud.apply(rule(topic="elsewhere"))
        await cloud.settled({"gw-1": ("applied", 2, 2)})
        (row,) = await cloud("get.objects", kind="rule")
        ignored = controller.downstream.statistics()["replies_ignored"]
        wrong = (f"{row['uid']}.1", f"{row['uid']}.3", "other.2", "rubbish")
        for version in wrong:
            message = new("parent", source="router", group="resource", operation="error",
                          resource="node/gw-1/default/rule/relay", content=Refusal("invalid", "late"))  # fmt: skip
            message.header.resourceversion = version
            await node.layer.send(message)
        await eventually(lambda: controller.downstream.statistics()["replies_ignored"] == ignored + len(wrong))
        assert await cloud.states() == {"gw-1": ("applied", 2, 2)}


async def test_a_long_list_comes_in_pages(tmp_path: Path) -> None:
    """The node's list may be longer than a message: it is asked for page by page, and taken when it is whole."""
    hub, cloud = MemoryHub(), Cloud(tmp_path)
    async with running(tmp_path, hub) as controller, rules_node(hub, "gw-1") as node:
        await eventually(lambda: controller.downstream.statistics()["compared"])
        await cloud.apply(endpoint(), *(rule(f"r{n}") for n in range(10)))
        await eventually(lambda: len(node.running()) == 10)
        node.page = 4
        del node.objects["Rule", "default", "r7"]
        await node.report()
        await eventually(lambda: len(node.running()) == 10)
        assert (node.queries, controller.downstream.statistics()["lists"]) == (3, 1)


async def test_a_node_may_ask_what_it_is_to_have(tmp_path: Path) -> None:
    """P6.6, P7.2: a node's query is answered with its list, of itself only."""
    hub, cloud = MemoryHub(), Cloud(tmp_path)
    async with running(tmp_path, hub), rules_node(hub, "gw-1") as node:
        await cloud.apply(endpoint(), rule(), rule("far", nodes="gw-2"))
        await eventually(lambda: node.running())
        for kind in ("rule", "ruleendpoint"):
            query = new(source="router", group="resource", operation="query", resource=f"node/gw-1/default/{kind}")
            answer = await node.layer.send_sync(query, 10)
            assert [(each["kind"], each["name"], each["version"]) for each in answer.content] == [
                ("Rule", "relay", 1), ("RuleEndpoint", "bus", 1),
            ]  # fmt: skip


async def test_a_deleted_node_is_out_until_it_is_added(tmp_path: Path) -> None:
    """P6.5: its results, births and statistics are refused as ``retired`` and counted, its assignments end, it is shown
    no more; added again it counts and runs as before. A node can be added before it was ever heard.
    """
    hub, cloud = MemoryHub(), Cloud(tmp_path)
    async with running(tmp_path, hub) as controller, rules_node(hub, "gw-1") as node:
        await cloud.apply(endpoint(), rule())
        await cloud.settled({"gw-1": ("applied", 1, 1)})
        await node.results(1, [ok()])
        await eventually(lambda: node.confirmations())
        await cloud("node.delete", node="gw-1")
        assert (await cloud("get.nodes"), await cloud.states()) == ([], {})
        await node.results(2, [ok()])
        node.born()
        await node.report()
        await eventually(lambda: [each.reason for each in node.errors()] == ["retired"] * 3)
        assert controller._refusals.reasons["retired"] == 3
        assert await totals(controller.store) == (1, 0)
        with pytest.raises(ControlError, match="node gw-1 is not known here; it was deleted before"):
            await cloud("node.delete", node="gw-1")
        with pytest.raises(ControlError, match="not known here"):
            await cloud("node.delete", node="gw-9")
        assert (await cloud("node.add", node="gw-1"))["outcome"] == "added"
        node.born()
        await node.results(2, [ok()])
        await cloud.settled({"gw-1": ("applied", 1, 1)})
        await eventually(lambda: totals_are(controller, (2, 0)))
        await cloud("node.add", node="gw-2", labels={"site": "a"})
        assert (await cloud.states())["gw-2"] == ("pending", 1, 0)
        (_, row) = await cloud("get.nodes")
        assert (row["node"], row["state"], row["labels"]) == ("gw-2", "unknown", {"site": "a"})
        for wrong in ({"node": "Gw"}, {"node": "cloud"}, {"node": "gw-3", "labels": {"a b": "c"}}):
            with pytest.raises(ControlError, match=r"DNS label|reserved|label 'a b'"):
                await cloud("node.add", **wrong)


async def test_nothing_is_retained_of_a_deleted_node(tmp_path: Path) -> None:
    """P3.4: its birth is cleared with it, and so is what it says later, or what was kept while no controller was there;
    other nodes' stay. A node that is taken back is heard as before.
    """
    hub, cloud = MemoryHub(), Cloud(tmp_path)
    kept = [f"{ROOT}/presence/+"]

    def nodes() -> list[str]:
        return [inbound.topic.rpartition("/")[2] for inbound in hub.retained(kept)]

    async with running(tmp_path, hub) as controller, rules_node(hub, "gw-1") as node, rules_node(hub, "gw-2"):
        await eventually(lambda: controller.sessions.statistics()["births"] == 2)
        await cloud("node.delete", node="gw-1")
        await eventually(lambda: nodes() == ["gw-2"])
        node.born()
        await eventually(lambda: controller.statistics()["clearing"]["cleared"] == 2)
        assert nodes() == ["gw-2"]
    async with rules_node(hub, "gw-1") as node:
        await eventually(lambda: set(nodes()) == {"gw-1", "gw-2"})
        async with running(tmp_path, hub) as controller:
            await eventually(lambda: nodes() == ["gw-2"])
            await cloud("node.add", node="gw-1")
            node.born()
            await eventually(lambda: controller.sessions.statistics()["births"] == 2)
            assert set(nodes()) == {"gw-1", "gw-2"}


async def totals_are(controller: Any, wanted: tuple[int, int]) -> bool:
    """True when the counts of the rule overheat are these."""
    return await totals(controller.store) == wanted


async def test_a_silent_node_is_stale(tmp_path: Path) -> None:
    """P6.3: what runs on a node that nobody has heard for stale_s is shown as stale, until its next word."""
    hub, cloud, clock = MemoryHub(), Cloud(tmp_path), ManualClock(AT)
    async with running(tmp_path, hub, clock=clock), rules_node(hub, "gw-1") as node:
        await cloud.apply(endpoint(), rule())
        await cloud.settled({"gw-1": ("applied", 1, 1)})
        clock.advance(61)
        assert await cloud.states() == {"gw-1": ("stale", 1, 1)}
        assert (await cloud("describe.rule", rule="relay"))["words"] == ["rule relay: running on 0 of 1 nodes"]
        await node.report()
        await cloud.settled({"gw-1": ("applied", 1, 1)})
        node.gone()
        await eventually(lambda: _offline(cloud))
        assert await cloud.states() == {"gw-1": ("applied", 1, 1)}
        clock.advance(61)
        assert await cloud.states() == {"gw-1": ("stale", 1, 1)}


@pytest.mark.parametrize(
    ("operation", "arguments", "text"),
    [
        ("delete", {"kind": "pod", "name": "x"}, "kind is 'pod'"),
        ("delete", {"kind": "rule", "name": "x"}, "rule default/x is not there"),
        ("enable", {"rule": "x"}, "rule default/x is not there"),
        ("describe.rule", {"rule": "x"}, "rule default/x is not there"),
        ("apply", {"manifests": []}, "no rules and endpoints"),
        ("apply", {"manifests": [{"text": "a: [", "file": "f"}]}, "f:"),
        ("get.objects", {"kin": "rule"}, "kin"),
    ],
)
async def test_wrong_questions_are_answered_clearly(
    tmp_path: Path, operation: str, arguments: dict[str, Any], text: str
) -> None:
    """What is not there or makes no sense is a ControlError that says so."""
    async with running(tmp_path, MemoryHub()):
        with pytest.raises(ControlError, match=text):
            await Cloud(tmp_path)(operation, **arguments)


async def test_two_controllers_share_the_work(tmp_path: Path) -> None:
    """Both hear every answer, over one store: what one of them was asked to apply is sent once and taken once."""
    hub, cloud = MemoryHub(), Cloud(tmp_path / "one")
    url = {"url": f"sqlite:///{tmp_path / 'shared.db'}"}
    async with (
        running(tmp_path / "one", hub, controller="cloud-1", store=store_settings(url)) as one,
        running(tmp_path / "two", hub, controller="cloud-2", store=store_settings(url)) as two,
        rules_node(hub, "gw-1") as node,
    ):
        await eventually(lambda: all(each.downstream.statistics()["compared"] for each in (one, two)))
        await cloud.apply(endpoint(), rule())
        await cloud.settled({"gw-1": ("applied", 1, 1)})
        await Cloud(tmp_path / "two").apply(rule(topic="elsewhere"))
        await cloud.settled({"gw-1": ("applied", 2, 2)})
        assert node.taken == ["insert ruleendpoint bus 1", "insert rule relay 1", "update rule relay 2"]
        counts = [each.downstream.statistics() for each in (one, two)]
        await eventually(lambda: sum(e.downstream.statistics()["replies_ignored"] for e in (one, two)) == 3)
        assert sum(count["replies"] for count in counts) == 3


def store_settings(values: dict[str, Any]) -> Any:
    """Settings of the store."""
    from cloud.settings import StoreSettings

    return StoreSettings(**values)
