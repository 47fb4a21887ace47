"""Fixtures for all tests: a real broker of each kind, one per test, on a free port; PostgreSQL, one per session."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.brokers import NO_MOSQUITTO, Broker, Embedded, Mosquitto, Protocol, find_mosquitto
from tests.support.examples import load_profile
from tests.support.postgres import NO_POSTGRES, URL_VARIABLE, Postgres, Schemas, find_postgres, own_server, server

# The longest first: they wait more than they work, and what is short fills the workers at the end.
LONG_FIRST = (
    "tests/test_docs.py",
    "tests/e2e/",
    "tests/faults/",
    "tests/postgres/",
    "tests/messaging/",
    "tests/edge/",
    "tests/kubernetes/",
    "tests/endpoints/",
    "tests/api/",
    "tests/cloud/",
    "tests/flow/",
)
ANY_BROKER = ("embedded-3.1.1", "mosquitto-5", "mosquitto-3.1.1")


load_profile()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long tests first; the order within a directory stays."""
    places = {prefix: place for place, prefix in enumerate(LONG_FIRST)}

    def place(item: pytest.Item) -> int:
        return next((at for prefix, at in places.items() if item.nodeid.startswith(prefix)), len(places))

    items.sort(key=place)


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """Mosquitto without persistence; MQTT 5 in its settings."""
    async for broker in _mosquitto(tmp_path / "mosquitto", "5"):
        yield broker


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Embedded]:
    """The embedded broker, MQTT 3.1.1."""
    async with Embedded(tmp_path / "embedded") as broker:
        yield broker


@pytest.fixture(params=ANY_BROKER)
async def any_broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    """Each kind of broker and protocol version in turn: what must hold everywhere is tested with this."""
    kind, _, version = str(request.param).partition("-")
    if kind == "embedded":
        async with Embedded(tmp_path / "embedded") as broker:
            yield broker
        return
    protocol: Protocol = "5" if version == "5" else "3.1.1"
    async for mosquitto_broker in _mosquitto(tmp_path / "mosquitto", protocol):
        yield mosquitto_broker


async def _mosquitto(directory: Path, protocol: Protocol) -> AsyncIterator[Mosquitto]:
    if find_mosquitto() is None:
        pytest.skip(NO_MOSQUITTO)
    async with Mosquitto(directory, protocol=protocol) as broker:
        yield broker


@pytest.fixture(scope="session")
def postgres_schemas() -> Iterator[Schemas]:
    """Empty schemas in a PostgreSQL database of this session."""
    if find_postgres() is None and not os.environ.get(URL_VARIABLE):
        pytest.skip(NO_POSTGRES)
    with server() as url:
        yield Schemas(url)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that the test may kill."""
    if find_postgres() is None:
        pytest.skip(NO_POSTGRES)
    with own_server() as started:
        yield started
