"""The outbox, and controllers that share one, are tested on every database (style 3): with SQLite, and PostgreSQL."""

from __future__ import annotations

import pytest

from tests.cloud.conftest import _database  # noqa: F401 - the fixture

ON_BOTH = ("test_outbox", "test_sharing")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of those modules once for each database."""
    if metafunc.module.__name__.rpartition(".")[2] in ON_BOTH and "tmp_path" in metafunc.fixturenames:
        metafunc.parametrize("_database", ["sqlite", "postgresql"], indirect=True)
