"""Ready and Degraded: when they change, what they say, and that a transition happens once (P8.1)."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from cloud.stores.conditions import Terms, transitions, write_transitions
from cloud.stores.sql import SqlStore
from cloud.stores.status import Condition, RuleKey, rule_statuses
from cloud.stores.tables import assignments, changes, objects
from tests.cloud.samples import AT, bad, birth, epoch, ok, open_store, status, want

KEY = RuleKey("default", "overheat", "u1")
STALE_S = 60.0


async def look(store: SqlStore, at: float = AT, *, silence: bool = True) -> int:
    """Look once, as the periodic look does; return how many conditions changed."""
    terms = Terms(at, STALE_S, silence, 0.1, 5)
    found = await store.read(lambda conn: transitions(conn, terms))
    return await store.write(lambda conn: write_transitions(conn, found, at, mark=True))


async def condition(store: SqlStore, kind: str, key: RuleKey = KEY) -> Condition | None:
    """What the status of the rule says."""
    (found,) = await store.read(lambda conn: rule_statuses(conn, [key], now=AT, stale_s=STALE_S))
    return found.condition(kind)


async def ready(store: SqlStore) -> tuple[str, str, str, float]:
    """Ready: status, reason, message and time of the last transition."""
    found = await condition(store, "Ready")
    assert found is not None
    return found.status, found.reason, found.message, found.since


async def mark(store: SqlStore) -> int:
    """The version of what is told of the rule."""
    query = select(changes.c.version).where(changes.c.rule == KEY.rule, changes.c.uid == KEY.uid)
    return await store.read(lambda conn: conn.execute(query).scalar() or 0)


async def set_share(store: SqlStore, node: str, **fields: object) -> None:
    """Change what is known of the rule on a node."""
    of = update(assignments).where(assignments.c.node == node)
    await store.write(lambda conn: conn.execute(of.values(**fields)).rowcount)


async def test_ready_follows_the_nodes(tmp_path: Path) -> None:
    """Pending until all nodes run the version, Refused while one refuses it, and each change is a transition."""
    async with open_store(tmp_path) as store:
        for node in ("edge-1", "edge-2"):
            await store.presence(birth(node=node), epoch(), AT)
        await want(store, "overheat", "u1", 2, edge_1={}, edge_2={"reported": 1, "state": "pending"})
        await look(store)
        assert await ready(store) == ("False", "Pending", "node edge-2 does not run version 2 yet", AT)
        await set_share(store, "edge-2", state="failed", refused=2, error="line 3, column 7: unknown command")
        await look(store, AT + 1)
        words = "node edge-2 refused version 2: line 3, column 7: unknown command; it keeps version 1"
        assert await ready(store) == ("False", "Refused", words, AT)
        await set_share(store, "edge-2", state="applied", reported=2, refused=0, error="")
        await look(store, AT + 2)
        assert await ready(store) == ("True", "Applied", "all assigned nodes run the desired version", AT + 2)


async def test_a_silent_node_makes_ready_unknown(tmp_path: Path) -> None:
    """Unknown after the stale time, whether the node said goodbye or not, and True again when it is heard."""
    async with open_store(tmp_path) as store:
        await store.presence(birth(), epoch(), AT)
        await want(store, "overheat", "u1", edge_1={})
        await look(store)
        await look(store, AT + 59)
        assert (await ready(store))[0] == "True"
        await look(store, AT + 61)
        words = "node edge-1 was not heard for longer than the stale time"
        assert await ready(store) == ("Unknown", "NodeSilent", words, AT + 61)
        await store.presence(birth(session=2), epoch(), AT + 70)
        await look(store, AT + 71)
        assert (await ready(store))[::3] == ("True", AT + 71)


async def test_the_second_silent_node_is_told_too(tmp_path: Path) -> None:
    """Ready stays Unknown since the first one, but says how many they are, and sinks hear of it, once."""
    async with open_store(tmp_path) as store:
        for node, at in (("edge-1", AT), ("edge-2", AT + 30)):
            await store.presence(birth(node=node), epoch(), at)
        await want(store, "overheat", "u1", edge_1={}, edge_2={})
        await look(store, AT + 61)
        before = await mark(store)
        await look(store, AT + 91)
        words = "node edge-1 and 1 more were not heard for longer than the stale time"
        assert await ready(store) == ("Unknown", "NodeSilent", words, AT + 61)
        await look(store, AT + 92)
        assert await mark(store) == before + 1


async def test_a_silent_node_is_told_beside_one_that_refused(tmp_path: Path) -> None:
    """Ready stays Refused or Pending, and sinks hear of each node that falls silent and of each that is back, once."""
    async with open_store(tmp_path) as store:
        for node, at in (("edge-1", AT + 40), ("edge-2", AT)):
            await store.presence(birth(node=node), epoch(), at)
        await want(
            store, "overheat", "u1", edge_1={"reported": 0, "state": "failed", "refused": 1, "error": "no"}, edge_2={}
        )
        await look(store, AT)
        for why, words in (("Refused", "node edge-1 refused version 1: no"),
                           ("Pending", "node edge-1 does not run version 1 yet")):  # fmt: skip
            before = await mark(store)
            assert await look(store, AT + 61, silence=False) == 0
            await look(store, AT + 61)
            tail = "; 1 node was not heard for longer than the stale time"
            assert await ready(store) == ("False", why, words + tail, AT)
            assert await look(store, AT + 62) == 0
            assert await look(store, AT + 50, silence=False) == 0
            await look(store, AT + 50)
            assert (await ready(store))[2] == words
            assert await mark(store) == before + 2
            await set_share(store, "edge-1", state="pending", refused=0)
            await look(store, AT + 50)


async def test_a_controller_that_heard_nothing_calls_nobody_silent(tmp_path: Path) -> None:
    """Silence that this controller could not have heard broken changes no condition."""
    async with open_store(tmp_path) as store:
        await store.presence(birth(), epoch(), AT)
        await want(store, "overheat", "u1", edge_1={})
        await look(store)
        assert await look(store, AT + 600, silence=False) == 0
        assert (await ready(store))[0] == "True"


async def test_a_rule_for_no_node_is_not_ready_and_a_deleted_one_is_nothing(tmp_path: Path) -> None:
    """A selector that chooses nobody is shown; what is deleted has no Ready."""
    async with open_store(tmp_path) as store:
        await want(store, "overheat", "u1")
        await look(store)
        assert (await ready(store))[:2] == ("False", "NoNode")
        await store.write(lambda conn: conn.execute(delete(objects)).rowcount)
        assert await look(store) == 1
        assert await condition(store, "Ready") is None


@pytest.mark.parametrize(("failing", "expected"), [(1, "False"), (2, "True")])
async def test_degraded_is_a_share_of_failures(tmp_path: Path, failing: int, expected: str) -> None:
    """More than a tenth of the last minutes' executions failed: Degraded, with numbers and the last error."""
    async with open_store(tmp_path) as store:
        results = [*[ok()] * (10 - failing), *[bad(detail="no route to host")] * failing]
        await store.commit([status(1, results)])
        await store.keep_statistics(AT, everything=True)
        await look(store)
        found = await condition(store, "Degraded", KEY._replace(uid=""))
    assert found is not None
    assert found.status == expected
    if failing == 2:
        words = "2 of 10 executions failed in the last 5 minutes, the last with timeout: no route to host"
        assert (found.reason, found.message) == ("Failing", words)


async def test_degraded_passes(tmp_path: Path) -> None:
    """When the failures are older than the minutes that count, the rule is not degraded any more."""
    key = KEY._replace(uid="")
    async with open_store(tmp_path) as store:
        await store.commit([status(1, [bad()])])
        await store.keep_statistics(AT, everything=True)
        await look(store)
        await look(store, AT + 300)
        first = await condition(store, "Degraded", key)
        await look(store, AT + 420)
        second = await condition(store, "Degraded", key)
    assert first is not None
    assert second is not None
    assert (first.status, first.since, second.status, second.since) == ("True", AT, "False", AT + 420)


async def test_a_transition_happens_once_and_marks_the_rule(tmp_path: Path) -> None:
    """Two controllers that see the same change write it once: one mark for the sinks, one time of transition."""
    async with open_store(tmp_path) as store:
        await store.presence(birth(), epoch(), AT)
        await want(store, "overheat", "u1", edge_1={"reported": 0, "state": "pending"})
        await look(store)
        before = await mark(store)
        await set_share(store, "edge-1", state="applied", reported=1)
        terms = Terms(AT + 1, STALE_S, True, 0.1, 5)
        found = await store.read(lambda conn: transitions(conn, terms))
        written = [
            await store.write(lambda conn, at=at: write_transitions(conn, found, at, mark=True))
            for at in (AT + 1, AT + 2)
        ]
        assert written == [1, 0]
        assert await mark(store) == before + 1
        assert (await ready(store))[3] == AT + 1
        assert await look(store, AT + 3) == 0
