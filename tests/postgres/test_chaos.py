"""Two controllers on PostgreSQL, one killed with -9 every second: exact counts, a balanced ledger (P5.7, R1.2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres.chaos import broken, run
from tests.support.brokers import Embedded, Mosquitto
from tests.support.postgres import Schemas


async def test_controllers_killed_by_turns_lose_and_double_nothing(
    tmp_path: Path, mosquitto: Mosquitto, postgres_schemas: Schemas
) -> None:
    """The short form of ``python -m tests.postgres.chaos``: shared subscriptions, kills in the middle of everything."""
    report = await run(mosquitto, tmp_path, postgres_schemas.new(), 5.5, seed=1)
    assert report.kills >= 4
    assert report.made > 500
    assert broken(report) == [], report


@pytest.mark.timeout(180)
async def test_a_stand_by_takes_over_from_a_killed_controller(
    tmp_path: Path, embedded: Embedded, postgres_schemas: Schemas
) -> None:
    """The same where the broker has no shared subscriptions: the lease goes from one to the other."""
    report = await run(embedded, tmp_path, postgres_schemas.new(), 1.5, seed=2)
    assert report.kills == 1
    assert report.made > 100
    assert broken(report) == [], report
