"""How many examples hypothesis makes: few in every run, each run other ones; all of them in a thorough run.

``HYPOTHESIS_PROFILE=thorough make test`` chooses the latter.
"""

from __future__ import annotations

import os

from hypothesis import settings

SHARES = {"quick": 0.4, "thorough": 1.0}
DEFAULT_EXAMPLES = 100
_SHARE = SHARES[os.environ.get("HYPOTHESIS_PROFILE", "quick")]


def examples(thorough: int) -> int:
    """The number of examples of this run, of as many as a thorough run makes."""
    return max(1, round(thorough * _SHARE))


def load_profile() -> None:
    """Make the number for tests that name none; no deadline, for other work may hold the machine."""
    settings.register_profile("fieldpost", max_examples=examples(DEFAULT_EXAMPLES), deadline=None)
    settings.load_profile("fieldpost")
