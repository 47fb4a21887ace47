"""The suite of the store runs on every database that it supports (style 3): with SQLite, and with PostgreSQL."""

from __future__ import annotations

import pytest

from tests.cloud import samples
from tests.support.postgres import Schemas

SUITE = (
    "test_conditions",
    "test_conflicts",
    "test_desired",
    "test_leases",
    "test_losses",
    "test_ownership",
    "test_statistics",
    "test_status",
    "test_store",
    "test_store_rings",
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "sqlite: of the store's suite, but for SQLite alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the suite's tests once for each database."""
    if metafunc.module.__name__.rpartition(".")[2] in SUITE:
        alone = metafunc.definition.get_closest_marker("sqlite") is not None
        metafunc.parametrize("_database", ["sqlite"] if alone else ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def _database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``open_store`` use the database of this test's parameter: SQLite's file, or a schema for each directory."""
    if getattr(request, "param", "sqlite") == "postgresql":
        schemas: Schemas = request.getfixturevalue("postgres_schemas")
        monkeypatch.setattr(samples, "url_in", schemas.url_for)
