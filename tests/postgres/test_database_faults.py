"""PostgreSQL that dies, forbids, is full or does not answer: nothing lost, nothing doubled (reliability R3, sinks)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from sqlalchemy import inspect, text
from sqlalchemy.engine import make_url

from cloud.settings import StoreSettings
from cloud.stores.base import StatusMessage
from cloud.stores.leases import holder_of
from cloud.stores.sql import SqlStore
from cloud.stores.tables import SCHEMA_VERSION
from common.errors import StorageError
from tests.cloud.samples import AT, bad, birth, epoch, ok, status, totals
from tests.support.postgres import CommitCutter, Postgres, Schemas, execute
from tests.support.wait import eventually


@asynccontextmanager
async def opened(url: str, **settings: object) -> AsyncIterator[SqlStore]:
    """A started store, stopped at the end."""
    store = SqlStore(url, StoreSettings(**settings))  # type: ignore[arg-type]
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


async def test_a_lost_answer_to_commit_doubles_nothing(postgres_schemas: Schemas) -> None:
    """P5.7: the commit happened, its answer is lost: the group is done again and finds that all is there."""
    url = make_url(postgres_schemas.new())
    through = CommitCutter(url.port or 0)
    async with through as cutter, opened(url.set(port=through.port).render_as_string(False)) as store:
        for n in range(1, 6):
            cutter.cut = 1
            outcome = await store.commit([status(n, [ok(), bad()])])
            assert outcome.confirmed[0].through == n
        assert cutter.lost == 5
        assert store.statistics()["retries"] >= 5
        assert await totals(store) == (5, 5)
        assert (await store.nodes())[0].duplicates == 5


async def test_a_read_only_database_delays_and_loses_nothing(postgres_schemas: Schemas) -> None:
    """While nobody may write, as on a stand-by before it is promoted, groups wait; reads go on; then all is there."""
    url = postgres_schemas.new()
    name = make_url(url).database
    async with opened(url) as store:
        await store.commit([status(1)])
        only_read = f"ALTER DATABASE {name} SET default_transaction_read_only = "
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"  # noqa: E501
        execute(postgres_schemas.url, only_read + "on", ended)
        try:
            commit = asyncio.ensure_future(store.commit([status(2)]))
            await eventually(lambda: store.statistics()["retries"] >= 2)
            assert await totals(store) == (1, 0)
        finally:
            execute(postgres_schemas.url, "SET default_transaction_read_only = off", only_read + "off", ended)
        assert (await commit).confirmed[0].through == 2
        assert await totals(store) == (2, 0)


async def test_a_killed_server_delays_and_loses_nothing(own_postgres: Postgres) -> None:
    """kill -9 of PostgreSQL under load, and no connection left when it is back: what was confirmed is there, once."""
    own = own_postgres
    async with opened(own.url()) as store:
        load = asyncio.ensure_future(_load(store, 300))
        await eventually(lambda: store.statistics()["messages"] >= 60, 60, 0.002)
        own.kill()
        await eventually(lambda: store.statistics()["retries"] >= 1)
        own.start()
        others = _exhaust(own)
        execute_on = others[0]
        execute_on.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' "
            "AND application_name <> 'others' AND pid <> pg_backend_pid()"
        )
        others += _exhaust(own)
        before = store.statistics()["retries"]
        if not load.done():
            await eventually(lambda: store.statistics()["retries"] > before or load.done())
        for each in others:
            each.close()
        await load
        assert await totals(store) == (300, 300)


async def _load(store: SqlStore, count: int) -> None:
    for n in range(1, count + 1):
        outcome = await store.commit([status(n, [ok(), bad()])])
        assert outcome.confirmed[0].through == n
        await asyncio.sleep(0)


def _exhaust(own: Postgres) -> list[psycopg.Connection[tuple[object, ...]]]:
    """Take every connection that is left."""
    taken = []
    url = make_url(own.url()).set(drivername="postgresql").render_as_string(False)
    while True:
        try:
            taken.append(psycopg.connect(url, autocommit=True, application_name="others"))
        except psycopg.OperationalError:  # too many clients
            return taken


async def test_a_server_that_cannot_be_reached_is_one_line_without_the_password() -> None:
    """U2, R4: who starts a controller learns where it wanted to connect, and no secret."""
    with pytest.raises(StorageError) as caught:
        await SqlStore("postgresql://me:canary@127.0.0.1:1/fieldpost", StoreSettings()).start()
    assert "postgresql://me:***@127.0.0.1:1/fieldpost cannot be opened" in str(caught.value)
    assert "canary" not in str(caught.value)


async def test_controllers_that_start_together_make_one_schema(postgres_schemas: Schemas) -> None:
    """Whoever comes first makes the tables, the others wait and find them (advisory lock)."""
    stores = [SqlStore(url, StoreSettings()) for url in [postgres_schemas.new()] * 4]
    await asyncio.gather(*(store.start() for store in stores))
    outcomes = await asyncio.gather(*(store.commit([status(1)]) for store in stores))
    assert sorted(outcome.new for outcome in outcomes) == [0, 0, 0, 1]
    await asyncio.gather(*(store.stop() for store in stores))


# What takes a database back to an older version of the schema.
_SINCE_4 = ("ALTER TABLE progress ADD bits BIGINT NOT NULL DEFAULT 1", "ALTER TABLE progress DROP above")
_SINCE_3 = (
    *_SINCE_4,
    "DROP INDEX counters_by_rule",
    "ALTER TABLE counters DROP CONSTRAINT counters_pkey",
    "ALTER TABLE counters ADD PRIMARY KEY (namespace, rule, node, uid, status, outcome, reason)",
    "CREATE TABLE counter_rows (node VARCHAR(63) PRIMARY KEY, rows BIGINT NOT NULL)",
)
_SINCE_2 = (
    *_SINCE_3,
    "DROP TABLE objects, assignments, changes, deliveries, leases",
    "ALTER TABLE nodes DROP retired_at, DROP added_labels, DROP chosen_for, DROP rules_revision",
)
_OLDER = {
    4: (*_SINCE_4, "UPDATE fieldpost_schema SET version = 4"),
    3: (*_SINCE_3, "UPDATE fieldpost_schema SET version = 3"),
    2: (*_SINCE_2, "UPDATE fieldpost_schema SET version = 2"),
    1: (
        *_SINCE_2,
        "ALTER TABLE nodes DROP born_n, DROP claim, DROP reported_at",
        "ALTER TABLE progress DROP state, DROP session, DROP ended",
        "ALTER TABLE dead_letters DROP times",
        "DROP INDEX dead_letters_by_digest",
        "DROP TABLE retired, losses",
        "UPDATE fieldpost_schema SET version = 1",
    ),
}


@pytest.mark.parametrize("version", _OLDER)
async def test_older_schemas_are_brought_up_to_date(postgres_schemas: Schemas, version: int) -> None:
    """A database of an older schema gets what is missing, in one transaction, and keeps what it counts; controllers
    that start together do it once.
    """
    url = postgres_schemas.new()
    async with opened(url) as store:
        await store.commit([status(1), status(3)])  # bit 0 is set
    execute(url, *_OLDER[version])
    async with opened(url) as store, opened(url):
        outcome = await store.commit([status(1), status(3)])
        assert (outcome.new, outcome.confirmed[0].through, outcome.confirmed[0].also) == (0, 1, [3])
        assert (await store.commit([status(2)])).new == 1
        assert await totals(store) == (3, 0)
        found = await store.read(lambda conn: conn.execute(text("SELECT version FROM fieldpost_schema")).scalar())
        assert found == SCHEMA_VERSION
        keys = await store.read(lambda conn: inspect(conn).get_pk_constraint("counters")["constrained_columns"])
        assert keys[:2] == ["node", "namespace"]
        assert await store.losses() == []
        assert await store.read(lambda conn: holder_of(conn, "uplink", 5)) == ""


async def test_controllers_that_meet_at_the_same_rows_count_exactly(postgres_schemas: Schemas) -> None:
    """P5.7: births and messages of the same nodes in any order through four stores at once: each counts once, and
    where the database ends a deadlock the group is done again.
    """
    url, rng = postgres_schemas.new(), random.Random(5)
    nodes = [f"edge-{n}" for n in range(6)]
    async with opened(url) as one, opened(url) as two, opened(url) as three, opened(url) as four:
        await asyncio.gather(
            *(_hear_all(store, nodes, random.Random(rng.random())) for store in (one, two, three, four))
        )
        assert await totals(one) == (len(nodes) * 60, len(nodes) * 60)
        rows = await one.nodes()
        assert [(row.node, row.conflict, row.lost) for row in rows] == [(node, "", {}) for node in nodes]


async def _hear_all(store: SqlStore, nodes: list[str], rng: random.Random) -> None:
    for first in range(1, 61, 20):
        heard: list[StatusMessage] = [
            status(n, [ok(), bad(detail=f"{n % 7}")], node=node) for node in nodes for n in range(first, first + 20)
        ]
        rng.shuffle(heard)
        births = [store.presence(birth(1, node=node), epoch(1), AT) for node in rng.sample(nodes, len(nodes))]
        batches = [store.commit(heard[at : at + 30]) for at in range(0, len(heard), 30)]
        await asyncio.gather(*births, *batches)
