"""The desired state in the store: objects, whom they are for, and what is bounded (protocol P6.2, P6.4)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from cloud.downstream import DownstreamController, FindingsError
from cloud.selection import ObjectKey, Selection, Wanted
from cloud.stores import assigning, syncing
from cloud.stores.assigning import AssignmentRow, assignments_of
from cloud.stores.base import Store
from cloud.stores.desired import API, KUBERNETES, objects_of
from cloud.stores.tables import assignments, changes
from common.checks import check_text
from common.clock import ManualClock
from common.errors import ControlError
from common.manifestfiles import load_manifests
from common.messaging.memory import MemoryHub, MemoryLayer
from common.rules import ENDPOINT_KIND, RULE_KIND, Rule, selects
from common.rulesync import REFUSED, SyncedObject
from tests.cloud.rulesnode import endpoint, rule
from tests.cloud.samples import AT, birth, epoch, open_store

RELAY = ObjectKey(RULE_KIND, "default", "relay")
BUS = ObjectKey(ENDPOINT_KIND, "default", "bus")


def downstream(store: Store, clock: ManualClock | None = None) -> DownstreamController:
    """A controller's half that does not run: nothing is sent."""
    layer = MemoryLayer(MemoryHub(), root="fieldpost", side="cloud", source="edgecontroller", group="resource")
    return DownstreamController(layer, store, clock or ManualClock(AT))


async def apply(to: DownstreamController, *texts: str, origin: str = API) -> dict[str, tuple[str, int]]:
    """Apply manifests; outcome and version by name."""
    manifests, findings = load_manifests("".join(texts))
    done = await to.apply(manifests, findings, origin=origin)
    return {each.key.name: (each.outcome, each.version) for each in done}


async def born(store: Store, node: str, **labels: str) -> None:
    """Let a node be known and online."""
    await store.presence(birth(node=node, labels=labels), epoch(), AT)


async def rows(store: Store, **which: str) -> list[tuple[str, str, int]]:
    """Node, name and desired version of what is assigned."""
    found = await store.read(lambda conn: assignments_of(conn, AT, 60, **which))
    return [(row.node, row.name, row.desired) for row in found]


async def test_versions_and_uids_tell_what_is_new(tmp_path: Path) -> None:
    """An equal manifest is no new version, a changed one is, one that was deleted begins anew with another uid."""
    async with open_store(tmp_path) as store:
        to = downstream(store)
        assert await apply(to, endpoint(), rule()) == {"bus": ("created", 1), "relay": ("created", 1)}
        assert await apply(to, endpoint(), rule()) == {"bus": ("unchanged", 1), "relay": ("unchanged", 1)}
        assert await apply(to, rule(timeout="5s")) == {"relay": ("configured", 2)}
        (first,) = await store.read(lambda conn: objects_of(conn, *RELAY))
        assert first.manifest["metadata"] == {
            "name": "relay", "namespace": "default", "uid": first.uid, "resourceVersion": "2",
        }  # fmt: skip
        await to.delete([RELAY])
        assert await apply(to, rule(timeout="5s")) == {"relay": ("created", 1)}
        (second,) = await store.read(lambda conn: objects_of(conn, *RELAY))
        assert second.uid != first.uid
        await to.delete([BUS, RELAY])  # both at once: nothing uses the endpoint any more
        assert await store.read(objects_of) == []


async def test_objects_of_kubernetes_are_changed_there(tmp_path: Path) -> None:
    """An object from Kubernetes keeps its uid, another uid under its name is another object, and who applies or
    deletes it here is told where it belongs; the other way round it is the same.
    """
    async with open_store(tmp_path) as store:
        to = downstream(store)
        await apply(to, endpoint())
        text = rule().replace("{name: relay}", "{name: relay, uid: k-1, resourceVersion: '812'}")
        assert await apply(to, text, origin=KUBERNETES) == {"relay": ("created", 1)}
        assert await apply(to, text, origin=KUBERNETES) == {"relay": ("unchanged", 1)}
        with pytest.raises(FindingsError, match="belongs to Kubernetes"):
            await apply(to, rule(timeout="5s"))
        with pytest.raises(ControlError, match="belongs to Kubernetes"):
            await to.delete([RELAY])
        assert await apply(to, text.replace("k-1", "k-2"), origin=KUBERNETES) == {"relay": ("created", 1)}
        (row,) = await store.read(lambda conn: objects_of(conn, *RELAY))
        assert (row.uid, row.origin) == ("k-2", KUBERNETES)
        await to.delete([RELAY], origin=KUBERNETES)
        with pytest.raises(FindingsError, match="taken by what was applied with fieldpost"):
            await apply(to, endpoint(), origin=KUBERNETES)
        with pytest.raises(ControlError, match="was applied with fieldpost"):
            await to.delete([BUS], origin=KUBERNETES)
        assert [row.origin for row in await store.read(objects_of)] == [API]


async def test_a_change_that_came_between_is_checked_anew(tmp_path: Path) -> None:
    """Two controllers over one store: the endpoint is deleted after the other one's check and before its change."""
    async with open_store(tmp_path) as store:
        one, two = downstream(store), downstream(store)
        await apply(one, endpoint(), endpoint("spare"))
        check, raced = two.check, list[int]()

        async def slow(*args: Any) -> int:
            revision = await check(*args)
            if not raced:
                raced.append(revision)
                await one.delete([BUS])
            return revision

        two.check = slow  # type: ignore[method-assign]
        with pytest.raises(FindingsError, match="'bus' is no RuleEndpoint"):
            await apply(two, rule())
        assert [row.name for row in await store.read(objects_of)] == ["spare"]


def _fleet(rng: random.Random) -> dict[str, dict[str, str]]:
    return {f"gw-{n}": {"site": rng.choice("ab")} if rng.random() < 0.7 else {} for n in range(1, 8)}


def _random_rule(rng: random.Random, name: str) -> str:
    nodes = rng.choice(["", "gw-*", "gw-1", "gw-2, gw-3", "gw-?", "*-5, gw-1", "fw-*"])
    more = {"nodeSelector": f"{{site: {rng.choice('ab')}}}"} if rng.random() < 0.4 else {}
    return rule(name, nodes=nodes, target=rng.choice(["bus", "other"]), timeout=f"{rng.randint(1, 9)}s", **more)


def _naive(rules: dict[str, Rule], fleet: dict[str, dict[str, str]]) -> set[tuple[str, str, str]]:
    """Node, kind and name of all that is for somebody, straight from the words of P6.2."""
    found = set()
    for name, value in rules.items():
        for node, labels in fleet.items():
            if selects(value.spec, node, labels):
                found.add((node, RULE_KIND, name))
                found |= {(node, ENDPOINT_KIND, each) for each in (value.spec.source, value.spec.target)}
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_changes_the_right_nodes_are_chosen(tmp_path: Path, seed: int) -> None:
    """P6.2: rules and nodes come, change and go in any order; what is assigned is what the words say, every time."""
    rng, fleet, rules = random.Random(seed), dict[str, dict[str, str]](), dict[str, Rule]()
    async with open_store(tmp_path) as store:
        to = downstream(store)
        await apply(to, endpoint(), endpoint("other"))
        for _ in range(40):
            name, (node, labels) = f"r{rng.randint(1, 5)}", rng.choice(sorted(_fleet(rng).items()))
            what = rng.random()
            if what < 0.5:
                text = _random_rule(rng, name)
                await apply(to, text)
                (manifest,), _ = load_manifests(text)
                assert isinstance(manifest.value, Rule)
                rules[name] = manifest.value
            elif what < 0.65 and name in rules:
                await to.delete([ObjectKey(RULE_KIND, "default", name)])
                del rules[name]
            elif what < 0.75 and node in fleet:
                await to.retire_node(node)
                del fleet[node]
            else:
                await to.add_node(node, labels)
                fleet[node] = labels
            found = await store.read(lambda conn: assignments_of(conn, AT, 60))
            assert {(row.node, row.kind, row.name) for row in found if row.desired} == _naive(rules, fleet), seed
        assert await _in_pieces(store) == found, seed


async def _in_pieces(store: Store) -> list[AssignmentRow]:
    """All assignments, three at a time, each time after the last one's key."""
    found: list[AssignmentRow] = []
    while True:
        last = [getattr(found[-1], name) for name in ("kind", "namespace", "name", "node", "uid")] if found else []
        some = await store.read(lambda conn, last=last: assignments_of(conn, AT, 60, after=last, limit=3))  # type: ignore[misc]
        if not some:
            return found
        found += some


def test_a_selection_is_the_same_from_both_sides() -> None:
    """What a node gets, and who gets an object, are two questions with one answer; 10,000 rules are no burden."""
    rng = random.Random(1)
    texts = [_random_rule(rng, f"r{n}") for n in range(50)]
    manifests, findings = check_text(endpoint() + endpoint("other") + "".join(texts))
    assert not findings
    selection = Selection.of(((each.value, Wanted("u", 1)) for each in manifests), 1)
    fleet = _fleet(rng)
    by_node = {(node, key) for node, labels in fleet.items() for key in selection.of_node(node, labels)}
    keys = [ObjectKey(each.value.kind, *each.value.key) for each in manifests]
    assert {(node, key) for node, key, _ in selection.of_objects(keys, fleet)} == by_node
    assert by_node


async def test_tombstones_stay_within_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P6.4: what a node had stays known, the last ones; what it never got leaves nothing."""
    monkeypatch.setattr(assigning, "TOMBSTONES_PER_NODE_MAX", 3)
    clock = ManualClock(AT)
    async with open_store(tmp_path) as store:
        to = downstream(store, clock)
        await born(store, "gw-1")
        await to.add_node("gw-1")
        await apply(to, endpoint(), rule("keeps"))

        async def had() -> dict[str, str]:
            query = select(assignments.c.name, assignments.c.state).where(assignments.c.kind == RULE_KIND)
            return dict(tuple(row) for row in await store.read(lambda conn: conn.execute(query).all()))

        await apply(to, rule("never-sent"))
        await to.delete([RELAY._replace(name="never-sent")])
        assert await had() == {"keeps": "pending"}
        for name in ("r0", "r1", "r2", "r3", "r4", "r5"):
            await apply(to, rule(name))
            await _sent(store, clock)
            await to.delete([RELAY._replace(name=name)])
            assert (await had())[name] == "pending"  # its delete is still to be told
            await _sent(store, clock)
            await _answered(store, clock, name)
            assert (await had())[name] == "removed"
        assert set(await had()) <= {"keeps", "r2", "r3", "r4", "r5"}
        await to.retire_node("gw-1")
        assert set((await had()).values()) == {"removed"}


async def _sent(store: Store, clock: ManualClock) -> None:
    """Let the time come, and send what is due."""
    clock.advance(10)
    await store.write(lambda conn: syncing.claim(conn, "gw-1", clock.time()))


async def _answered(store: Store, clock: ManualClock, name: str) -> None:
    """Let gw-1 answer OK to what was sent of a rule."""
    query = select(assignments).where(assignments.c.name == name)
    rows = await store.read(lambda conn: conn.execute(query).all())
    replies = [syncing.Reply(row.node, RELAY._replace(name=name), row.uid, syncing.expects(row)) for row in rows]
    await store.write(lambda conn: syncing.take_replies(conn, replies, Selection({}, {}, -1), clock.time()))


async def test_what_is_told_of_a_rule_is_marked_as_changed(tmp_path: Path) -> None:
    """P8.2: assigning, an answer and a list each raise the version of what is told, in their own transaction."""
    async with open_store(tmp_path) as store:
        to = downstream(store)
        await born(store, "gw-1")
        await to.add_node("gw-1")
        await apply(to, endpoint(), rule())

        async def version() -> int:
            return int(await store.read(lambda conn: conn.execute(select(changes.c.version)).scalar_one()))

        assert await version() == 1
        (row,) = await store.read(lambda conn: objects_of(conn, *RELAY))
        reply = syncing.Reply("gw-1", RELAY, row.uid, 1, True, "no")
        selection = Selection({}, {}, -1)
        for _ in range(2):  # the second time it is no news
            await store.write(lambda conn: syncing.take_replies(conn, [reply], selection, AT))
            assert await version() == 2
        item = SyncedObject(*RELAY, row.uid, 1, REFUSED, 0, "no")
        await store.write(lambda conn: syncing.take_list(conn, "gw-1", [item], selection, AT, 0))
        assert await version() == 2
        await store.write(lambda conn: syncing.take_list(conn, "gw-1", [], selection, AT, 0))
        assert await version() == 3
        assert await rows(store, kind=RULE_KIND) == [("gw-1", "relay", 1)]


async def test_a_nodestatus_of_a_fleet_at_rest_costs_one_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are worked out once, and again only for the nodes that a change concerns."""
    asked: list[list[str]] = []
    expected = syncing.expected
    monkeypatch.setattr(syncing, "expected", lambda conn, of: asked.append(sorted(of)) or expected(conn, of))
    async with open_store(tmp_path) as store:
        to = downstream(store)
        for node in ("gw-1", "gw-2", "gw-3"):
            await born(store, node)
        to.start()
        try:
            for _ in range(3):
                await _heard(to, "gw-1", "gw-2", "gw-3")
            assert asked == [["gw-1", "gw-2", "gw-3"]]
            await apply(to, endpoint(), rule(nodes="gw-2"))
            await _heard(to, "gw-1", "gw-2", "gw-3")
            assert asked[1:] == [["gw-2"]]
        finally:
            await to.stop()


async def _heard(to: DownstreamController, *nodes: str) -> None:
    from tests.support.wait import eventually

    before = to.statistics()["compared"]
    for node in nodes:
        to.heard(node, "", born=False)
    await eventually(lambda: to.statistics()["compared"] == before + len(nodes))
