"""Three weeks offline at small size: counts exact, details as declared, drain paced, live results not delayed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge import lanes
from tests.simulation.offline import Outage, Shape
from tests.simulation.truth import Violation

SMALL = Shape(results=20_000, rules=20, spool_bytes=1 << 22, link_bytes_s=100_000.0)


@pytest.mark.parametrize("rules", [20, 2000], ids=["few rules", "many rules"])
def test_outage_keeps_its_account(tmp_path: Path, rules: int) -> None:
    """P5.6, P5.10, P5.11: the run checks its account itself; here it must also have done what it is about."""
    account = Outage(tmp_path, SMALL._replace(rules=rules)).run()
    assert account.accepted == account.counted > SMALL.results
    assert account.folded > 0
    assert account.live_results > 20
    assert account.kills == 7


def test_outage_notices_a_delayed_live_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account can be wrong: when every turn is the backlog's, the run fails for it."""
    monkeypatch.setattr(lanes, "is_backlogs_turn", lambda sequence, share: True)
    with pytest.raises(Violation, match="before a live result"):
        Outage(tmp_path, SMALL).run()
