"""Rules from the cloud, object by object: which version runs, what is refused and why, and what is told (P6)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.codec import decode_as
from common.errors import CodecError, ConfigError
from common.models import Refusal
from common.resource import RULE, RULEENDPOINT
from common.rulesync import APPLIED, REFUSED, SyncedObject, rules_version
from edge.messages import Arrival, FlowMessage
from edge.rules.synced import Offer, Synced
from edge.settings import DownlinkSettings
from edge.spooltables import Input
from tests.edge.cloudside import BUS, CloudFed, cloud_fed, manifest, order, spec
from tests.edge.support import results_of
from tests.faults.test_input import damaged
from tests.support.wait import eventually

BAD = spec(chain="accept\n  acept")
LOCAL = """\
endpoints: {default/bus: {ruleEndpointType: eventbus}}
rules:
  default/mine: {source: bus, sourceResource: {topic: mine}, target: bus, targetResource: {topic: out},
                 metadata: {uid: u-forged, resourceVersion: "9"}}
"""


def layer(tmp_path: Path, name: str, text: str) -> Path:
    """Write a layer; returns the directory of layers."""
    directory = tmp_path / "layers"
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.yaml").write_text(text)
    return directory


def states(node: CloudFed) -> dict[str, tuple[int, str, int]]:
    """Of each object: version, state, running version."""
    return {item.name: (item.version, item.state, item.running) for item in node.host.synced.shown()}


async def test_a_bare_agent_runs_what_the_cloud_sends(tmp_path: Path) -> None:
    """Without files or layers: endpoint and rule come, run, change, are disabled, and go; the hash tells each step."""
    async with cloud_fed(tmp_path) as node:
        assert (node.host.synced.version, await node.listed()) == ("", [])
        assert await node.endpoint("bus", 1, BUS) == "OK"
        assert await node.rule("a", 1, spec("x")) == "OK"
        assert node.runs() == {"a": ("u-a", "1", "x")}
        hashes = {node.host.synced.version}
        assert await node.rule("a", 2, spec("y")) == "OK"
        assert node.runs() == {"a": ("u-a", "2", "y")}
        assert await node.rule("a", 3, spec("y", enabled=False)) == "OK"
        assert node.runs() == {}
        listed = await node.listed()
        assert listed == [
            SyncedObject("Rule", "default", "a", "u-a", 3, APPLIED, 3),
            SyncedObject("RuleEndpoint", "default", "bus", "e-bus", 1, APPLIED, 1),
        ]
        assert node.host.synced.version == rules_version(listed)
        hashes.add(node.host.synced.version)
        assert await node.delete(RULE, "a", 3) == "OK"
        assert await node.delete(RULEENDPOINT, "bus", 1) == "OK"
        assert (node.host.synced.version, len(hashes), node.reports) == ("", 2, 6)


async def test_a_refused_version_keeps_the_last_good_one_and_touches_no_other(tmp_path: Path) -> None:
    """The refusal names line and column; it is in the list, with what runs instead; a later version heals it."""
    async with cloud_fed(tmp_path) as node:
        await node.offer(
            order(RULEENDPOINT, "bus", "e-bus", 1, BUS),
            order(RULE, "a", "u-a", 1, spec("x")),
            order(RULE, "b", "u-b", 1, spec("y")),
        )
        bindings = {wiring.consumer for wiring in node.bus.wirings}
        told = await node.rule("a", 2, BAD)
        assert told.startswith("invalid_manifest: Rule default/a: PC-LINK-UNKNOWN-COMMAND")
        assert "line 2, column 3" in told
        assert {wiring.consumer for wiring in node.bus.wirings} == bindings
        assert states(node) == {"bus": (1, APPLIED, 1), "a": (2, REFUSED, 1), "b": (1, APPLIED, 1)}
        assert "line 2, column 3" in (await node.listed())[0].error
        assert await node.rule("a", 3, spec("z")) == "OK"
        assert node.runs() == {"a": ("u-a", "3", "z"), "b": ("u-b", "1", "y")}
        shown = await node.host.operations()["config.show"]({})  # type: ignore[misc]
        assert ("rules.default/a.sourceResource.topic", "z", "node_gateway") in [tuple(row.values()) for row in shown]


async def test_one_broken_of_many_at_once_stops_none(tmp_path: Path) -> None:
    """A hundred rules come together, before their endpoint, every tenth broken: the others run, in one go."""
    orders = [order(RULE, f"r{n}", f"u{n}", 1, BAD if n % 10 == 3 else spec(f"t{n}")) for n in range(100)]
    async with cloud_fed(tmp_path) as node:
        told = await node.offer(*orders, order(RULEENDPOINT, "bus", "e-bus", 1, BUS))
        assert [n for n, answer in enumerate(told) if answer != "OK"] == list(range(3, 100, 10))
        assert len(node.runs()) == 90
        assert node.reports == 1


async def test_a_rule_waits_for_its_endpoint_whatever_comes_first(tmp_path: Path) -> None:
    """Refused with a finding while the endpoint is missing; when it comes the rule runs, and the hash says so."""
    async with cloud_fed(tmp_path) as node:
        assert "source 'bus' is no RuleEndpoint of namespace 'default'" in await node.rule("a", 1, spec("x"))
        assert states(node) == {"a": (1, REFUSED, 0)}
        before = node.reports
        assert await node.endpoint("bus", 1, BUS) == "OK"
        assert states(node) == {"a": (1, APPLIED, 1), "bus": (1, APPLIED, 1)}
        assert node.runs() == {"a": ("u-a", "1", "x")}
        assert node.reports == before + 1


async def test_an_endpoint_in_use_cannot_be_deleted_until_its_rules_are(tmp_path: Path) -> None:
    """The finding names the rules; the deletion is made up for when they are gone, also when both come at once."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 1, spec("x"))
        told = await node.delete(RULEENDPOINT, "bus", 2)
        assert told == "in_use: RuleEndpoint default/bus is still used by Rule default/a: delete or change these first"
        assert states(node) == {"bus": (2, REFUSED, 1), "a": (1, APPLIED, 1)}
        assert await node.delete(RULE, "a", 2) == "OK"
        assert (states(node), node.host.synced.version) == ({}, "")
        await node.endpoint("bus", 1, BUS, uid="e-2")
        await node.rule("a", 1, spec("x"), uid="u-2")
        told_both = await node.offer(
            order(RULEENDPOINT, "bus", "e-2", 1, None, "delete"), order(RULE, "a", "u-2", 1, None, "delete")
        )
        assert (told_both, states(node)) == (["OK", "OK"], {})


async def test_an_endpoint_that_would_break_its_rules_is_refused_and_a_good_change_beside_it_is_not(
    tmp_path: Path,
) -> None:
    """Which of several new versions breaks the others is found out; the rest of the same batch is applied."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 1, spec("x"))
        told = await node.offer(
            order(RULEENDPOINT, "bus", "e-bus", 2, {"ruleEndpointType": "rest"}),
            order(RULE, "a", "u-a", 2, spec("y")),
            order(RULE, "c", "u-c", 1, spec("z")),
        )
        assert told[0].startswith("invalid_manifest: RuleEndpoint default/bus cannot run beside Rule default/a, Rule ")
        assert told[1:] == ["OK", "OK"]
        assert node.runs() == {"a": ("u-a", "2", "y"), "c": ("u-c", "1", "z")}


@pytest.mark.parametrize("version", [1, 2])
async def test_what_is_known_is_ok_without_effect(tmp_path: Path, version: int) -> None:
    """Copies and older versions change nothing, whatever is in them; what was refused is refused again, and tried."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 1, spec("x"))
        await node.rule("a", 2, spec("y"))
        before, reports = node.host.synced.version, node.reports
        assert await node.rule("a", version, BAD) == "OK"
        assert (node.host.synced.version, node.reports, node.runs()["a"][2]) == (before, reports, "y")
        assert (await node.rule("a", 3, BAD)).startswith("invalid_manifest")
        assert (await node.rule("a", 3, BAD)).startswith("invalid_manifest")
        assert await node.rule("a", 2, spec("y")) == "OK"
        assert states(node)["a"] == (3, REFUSED, 2)


async def test_a_name_used_again_has_a_uid_of_its_own(tmp_path: Path) -> None:
    """A deleted uid never comes back, its deletion does not remove the new object, and results name the new uid."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 5, spec("x"), uid="u-old")
        late = order(RULE, "a", "u-old", 6, spec("late"))
        assert await node.delete(RULE, "a", 5, uid="u-old") == "OK"
        assert await node.rule("a", 1, spec("new"), uid="u-new") == "OK"
        assert await node.offer(late) == ["OK"]
        assert await node.delete(RULE, "a", 7, uid="u-old") == "OK"
        assert node.runs() == {"a": ("u-new", "1", "new")}


async def test_a_late_message_of_a_replaced_uid_changes_nothing(tmp_path: Path) -> None:
    """Between uids the newest message counts by the cloud's time, unless its clock is off by more than ten minutes."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        late, other_clock = order(RULE, "a", "u-1", 1, spec("old")), order(RULE, "a", "u-3", 1, spec("clock"))
        newer = order(RULE, "a", "u-2", 1, spec("new"))
        late.header.timestamp = newer.header.timestamp - 5
        other_clock.header.timestamp = newer.header.timestamp - 3_600_000
        assert await node.offer(newer) == ["OK"]
        assert await node.offer(late) == ["OK"]
        assert node.runs() == {"a": ("u-2", "1", "new")}
        assert await node.offer(other_clock) == ["OK"]
        assert node.runs() == {"a": ("u-3", "1", "clock")}


async def test_a_deleted_uid_comes_back_only_for_a_cloud_that_means_it(tmp_path: Path) -> None:
    """A node that is chosen again gets the same uid again; a message that was sent before the delete is late."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 1, spec("x"))
        await node.delete(RULE, "a", 2)
        for after_s, runs in ((-500, False), (1, True)):
            again = order(RULE, "a", "u-a", 1, spec("x"))
            again.header.timestamp += after_s * 1000
            assert await node.offer(again) == ["OK"]
            assert bool(node.runs()) is runs
        assert await node.delete(RULE, "a", 2) == "OK"
        assert node.runs() == {}


async def test_a_new_object_that_is_refused_leaves_what_ran_under_its_name(tmp_path: Path) -> None:
    """Also when its uid is another: the node goes on, and the list says that nothing of the new one runs."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 4, spec("x"), uid="u-1")
        assert (await node.rule("a", 1, BAD, uid="u-2")).startswith("invalid_manifest")
        assert node.runs() == {"a": ("u-1", "4", "x")}
        assert states(node)["a"] == (1, REFUSED, 0)
        assert await node.delete(RULE, "a", 2, uid="u-2") == "OK"
        assert node.runs() == {}


async def test_own_rules_have_no_uid_and_are_not_taken_over(tmp_path: Path) -> None:
    """P6.4: what a layer says of uids counts nothing. A cloud's rule of the same name is refused with the place; the
    same endpoint on both sides is none of a clash, another one is.
    """
    layers = layer(tmp_path, "user_gateway", LOCAL)
    async with cloud_fed(tmp_path, layers) as node:
        assert (await node.rule("mine", 1, spec("x"))).startswith("invalid_manifest: Rule default/mine: this node has ")
        assert await node.endpoint("bus", 1, BUS) == "OK"
        assert "user_gateway" in await node.endpoint("bus", 2, {"ruleEndpointType": "rest"})
        uid, version, topic = node.runs()["mine"]
        assert (uid, len(version), topic) == ("", 12, "mine")


async def test_the_operators_last_word_is_laid_over_the_clouds_rules(tmp_path: Path) -> None:
    """post_gateway changes a key, waits for a rule that is not there yet, and results tell that it was not the plain
    version; a rule that it breaks is the operator's fault at a reload, and the newcomer's when it comes.
    """
    text = "rules: {default/a: {sourceResource: {topic: mended}}}\n"
    layers = layer(tmp_path, "post_gateway", text)
    async with cloud_fed(tmp_path, layers) as node:
        shown = await node.host.operations()["config.show"]({})  # type: ignore[misc]
        assert ("rules default/a", "waits for the cloud to send it") in [(row["key"], row["value"]) for row in shown]
        await node.endpoint("bus", 1, BUS)
        assert await node.rule("a", 1, spec("x")) == "OK"
        uid, version, topic = node.runs()["a"]
        assert (uid, version[:2], topic) == ("u-a", "1+", "mended")
        layer(tmp_path, "post_gateway", "rules: {default/a: {source: none}, default/b: {source: none}}\n")
        with pytest.raises(ConfigError, match=r"post_gateway\.yaml:1: Rule default/a: source 'none' is no RuleEnd"):
            await node.host.reload()
        assert node.runs()["a"][2] == "mended"
        layer(tmp_path, "post_gateway", "rules: {default/b: {source: none}}\n")
        await node.host.reload()
        assert node.runs()["a"] == ("u-a", "1", "x")
        assert "post_gateway.yaml:1: Rule default/b: source 'none'" in await node.rule("b", 1, spec("y"))
        assert set(node.runs()) == {"a"}


async def test_a_reload_keeps_the_clouds_objects_and_files_go_before(tmp_path: Path) -> None:
    """A rule that the operator adds takes the name; the cloud's waits, as the hash says, and returns after it."""
    layers = layer(tmp_path, "boot_gateway", "{}")
    async with cloud_fed(tmp_path, layers) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 1, spec("cloud"))
        await node.host.reload()
        assert node.runs() == {"a": ("u-a", "1", "cloud")}
        before = node.host.synced.version
        layer(tmp_path, "boot_gateway", LOCAL.replace("default/mine", "default/a"))
        await node.host.reload()
        assert (node.runs()["a"][0], node.runs()["a"][2], states(node)["a"]) == ("", "mine", (1, REFUSED, 0))
        assert node.host.synced.version != before
        layer(tmp_path, "boot_gateway", "{}")
        await node.host.reload()
        assert (node.runs(), node.host.synced.version) == ({"a": ("u-a", "1", "cloud")}, before)


async def test_an_edit_is_no_reason_to_refuse_and_goes_when_it_fits_no_more(tmp_path: Path) -> None:
    """The overlay stays over rules that change, as long as what it is addressed to is there."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 1, spec("x"))
        edit = node.host.operations()["rule.edit"]
        await edit({"edit": "add", "address": "default/a:main:main", "text": "drop"})  # type: ignore[misc]
        assert await node.rule("a", 2, spec("y")) == "OK"
        assert node.runs()["a"][1][:2] == "2+"
        assert await node.delete(RULE, "a", 3) == "OK"
        shown = await node.host.operations()["config.show"]({})  # type: ignore[misc]
        assert not [row for row in shown if row["origin"] == "overlay"]


async def test_what_no_check_sees_is_the_finding_of_that_object(tmp_path: Path) -> None:
    """A rule whose source cannot be bound is found among others that come with it, and they run."""
    async with cloud_fed(tmp_path) as node:
        node.bus.fails = "cursed"
        told = await node.offer(
            order(RULEENDPOINT, "bus", "e-bus", 1, BUS),
            *(order(RULE, name, f"u-{name}", 1, spec(topic)) for name, topic in (("a", "x"), ("b", "cursed"))),
        )
        assert told[:2] == ["OK", "OK"]
        assert "nobody can bind cursed" in told[2]
        assert set(node.runs()) == {"a"}


async def test_a_long_list_comes_in_pages_that_fit_and_add_up(tmp_path: Path) -> None:
    """The resourceversion of each page is the hash of the whole list, so who asks knows when it is complete."""
    async with cloud_fed(tmp_path) as node:
        long = [order(RULE, f"r{n}-{'x' * 200}", f"u{n}", 1, {"source": "s" * 500}) for n in range(400)]
        await node.offer(*long)
        first = len(node.answers)
        assert len(await node.listed()) == 400
        assert len(node.answers) - first > 2


async def test_changes_under_traffic_lose_nothing_and_results_tell_the_versions(tmp_path: Path) -> None:
    """Every message has one result, of the version that took it; a version that is refused takes none."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 1, spec("x"))
        for version in range(2, 8):
            for number in range(20):
                arrival = Arrival(FlowMessage(b"p", "x", f"{version}-{number}"), source="source/bus")
                node.host.rules.arrived(arrival, [wiring.consumer for wiring in node.bus.wirings])
            await node.rule("a", version, BAD if version == 4 else spec("x", chain=f"echo {version}\n accept"))
        await node.host.rules.drain()

        def results() -> list[tuple[str, str]]:
            node.collected.confirm(node.collected.frozen)
            return [(r.rule_uid, r.rule_version) for m in node.collected.frozen for r in results_of(m)]

        await eventually(lambda: len(results()) >= 120)
        assert {uid for uid, _ in results()} == {"u-a"}
        counts = [[version for _, version in results()].count(str(version)) for version in range(1, 8)]
        assert counts == [20, 20, 40, 0, 20, 20, 0]


async def test_an_input_that_waited_for_a_removed_rule_is_counted_for_its_uid(tmp_path: Path) -> None:
    """P6.4: the result of a message whose rule the cloud deleted is not taken for one of a local rule."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 1, spec("x"))
        await node.delete(RULE, "a", 2)
        node.host.resume([Input("i1", "default", "a", "m1", "x", b"p"), Input("i2", "default", "b", "m2", "x", b"p")])
        await eventually(lambda: len(node.collected.frozen) >= 1)

        def found() -> dict[str, str]:
            node.collected.confirm(node.collected.frozen)
            return {r.rule_id: r.rule_uid for m in node.collected.frozen for r in results_of(m)}

        await eventually(lambda: len(found()) == 2)
        assert found() == {"a": "u-a", "b": ""}


async def test_bounds_have_names_and_counters(tmp_path: Path) -> None:
    """Objects of a node, bytes of a manifest and of all: the one above is refused by name, the others stay."""
    settings = DownlinkSettings(objects_max=2, manifest_bytes_max=2000, bytes_max=1 << 16)
    async with cloud_fed(tmp_path, settings=settings) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 1, spec("x"))
        assert (await node.rule("b", 1, spec("y"))).startswith("objects_max: ")
        assert (await node.rule("a", 2, spec("x", chain="#" * 3000))).startswith("bytes_max: a manifest of ")
        assert states(node) == {"bus": (1, APPLIED, 1), "a": (2, REFUSED, 1)}
        node.downlink.take(order(RULE, "c", "u-c", 1, spec("x", chain="#" * 70_000)))
        counts = node.downlink.statistics()
        assert (counts["overflowed"], counts["refused"], counts["objects"], counts["failing"]) == (1, 2, 2, 1)


HOSTILE = [
    (order(RULE, "a", "u", 1, None), "invalid_manifest"),
    (order(RULE, "a", "u", 1, "text"), "invalid_manifest"),
    (order(RULE, "a", "u", 1, [1]), "invalid_manifest"),
    (order(RULE, "a", "u", 1, {"metadata": {}}), "invalid_manifest"),
    (order(RULE, "a", "u", 1, {"metadata": 3, "spec": {}, "kind": "Rule", "apiVersion": "x"}), "invalid_manifest"),
    (order(RULE, "a", "u", 1, {"$delete": True}), "invalid_manifest"),
    (order(RULE, "a", "u", 1, spec(chains={"m": {"$delete": True}})), "invalid_manifest"),
    (order(RULE, "a", "u", 1, {**spec(), "metadata": {"name": "b"}}), "invalid_manifest"),
    (order(RULE, "a", "u", 1, spec(timeout=[7])), "invalid_manifest"),
    (order(RULE, "a", "u", 1, spec(chains=3)), "invalid_manifest"),
    (order(RULE, "a", "u", 1, spec(sourceResource="x")), "invalid_manifest"),
    (order(RULE, "a", "u", 1, spec(retry={"attempts": "many"})), "invalid_manifest"),
    (order(RULEENDPOINT, "a", "u", 1, {"ruleEndpointType": 7}), "invalid_manifest"),
    (order(RULEENDPOINT, "a", "u", 1, {"ruleEndpointType": "eventbus", "properties": [1]}), "invalid_manifest"),
    (order(RULE, "a", "", 1, spec()), "undecodable"),
    (order(RULE, "a", "u", 0, spec()), "undecodable"),
    (order(RULE, "A b", "u", 1, spec()), "invalid_resource"),
    (order(RULE, "a", "u" * 65, 1, spec()), "invalid_resource"),
    (order(RULE, "a", "u", 1, spec(), operation="patch"), "unknown_type"),
    (order(RULE, "a", "u", 1, {"metadata": 0, "after": 3}, operation="query"), "undecodable"),
]  # fmt: skip


async def test_hostile_content_is_refused_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever comes is answered with an error; no traceback, and what runs goes on."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("good", 1, spec("x"))
        for hostile, reason in HOSTILE:
            (told,) = await node.offer(hostile)
            assert told.startswith(reason + ": "), (told, hostile.content)
        assert node.runs() == {"good": ("u-good", "1", "x")}
        assert node.downlink.statistics()["refused"] == len(HOSTILE)
        assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("seed", range(2))
async def test_damaged_manifests_never_raise(tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int) -> None:
    """Honest manifests with flipped, cut and hostile values in them: each is answered, and what runs goes on."""
    rng = random.Random(seed)
    chains = {"m": {"priority": 1, "blocks": {"b": {"block": "accept"}}}}
    honest = [
        (RULE, "a", spec("x", chain="accept", retry={"attempts": 2, "backoff": "1s"}, timeout="3s", enabled=True)),
        (RULE, "b", spec("x", chains=chains, results="summary")),
        (RULEENDPOINT, "other", {**BUS, "properties": {"broker": "mqtt://far:1883"}}),
    ]
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("good", 1, spec("x"))
        refused = taken = 0
        for version in range(1, 400):
            kind, name, of = rng.choice(honest)
            raw = msgspec.json.encode(manifest(kind, name, f"u-{name}", version, of))
            with contextlib.suppress(CodecError):
                content = decode_as(damaged(rng, raw, raw), Any)
                message = order(kind, name, f"u-{name}", version, None)
                message.content = content
                (told,) = await node.offer(message)
                refused, taken = refused + (told != "OK"), taken + 1
        assert taken > refused > 20
        assert node.runs()["good"] == ("u-good", "1", "x")
        assert not [record for record in caplog.records if record.exc_info]


async def test_a_fault_of_ours_refuses_one_message_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even a defect that one message sets off stops neither the downlink nor what came with it."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        take = Synced.take

        def poisoned(synced: Synced, offer: Offer, limits: DownlinkSettings) -> Refusal | None:
            if offer.uid == "u-b":
                raise ZeroDivisionError("a defect")
            return take(synced, offer, limits)

        monkeypatch.setattr(Synced, "take", poisoned)
        told = await node.offer(*(order(RULE, name, f"u-{name}", 1, spec(name)) for name in "abc"))
        assert told == ["OK", "node_fault: ZeroDivisionError: a defect", "OK"]
        assert set(node.runs()) == {"a", "c"}


async def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be made durable does not run, is not noted, and may come again."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 1, spec("x"))
        before = node.host.synced.version

        def full(number: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            assert "unable: " in await node.rule("a", 2, spec("y"))
        assert (node.runs(), node.host.synced.version) == ({"a": ("u-a", "1", "x")}, before)
        assert await node.rule("a", 2, spec("y")) == "OK"


async def test_a_reload_and_the_cloud_at_once_go_one_after_the_other(tmp_path: Path) -> None:
    """Neither loses what the other did."""
    layers = layer(tmp_path, "user_gateway", LOCAL)
    async with cloud_fed(tmp_path, layers) as node:
        reloads = [asyncio.create_task(node.host.reload()) for _ in range(3)]
        assert await node.rule("a", 1, spec("x")) == "OK"
        await asyncio.gather(*reloads)
        assert set(node.runs()) == {"a", "mine"}


async def test_a_node_that_stops_changes_nothing_more(tmp_path: Path) -> None:
    """What comes while it stops is not answered, and not lost for the cloud, which compares the hash."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        node.downlink.pause()
        node.downlink.take(order(RULE, "a", "u-a", 1, spec("x")))
        for _ in range(20):
            await asyncio.sleep(0)
        assert (node.runs(), len(node.answers), node.downlink.statistics()["waiting"]) == ({}, 1, 1)
