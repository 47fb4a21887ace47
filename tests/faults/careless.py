"""A short life of a spool that does not wait for the disk: what the power-loss tests must find, or they prove nothing.

``synchronous = NORMAL`` is the setting that reliability R2 warns of.
"""

from __future__ import annotations

from pathlib import Path

from tests.faults import accepting


def live(directory: Path, seed: int) -> None:
    """The life of ``accepting``, with commits that are not synced."""
    accepting.live(directory, seed, synchronous="NORMAL")
