"""A short life of the cloud's store: commit in and out of order, twice, with births and letters; and what must be true.

The record ``confirmed`` is written after a commit returned, as the confirmation to the node would be sent.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from cloud.progress import Progress
from cloud.stores.base import CommitOutcome, DeadLetter, StatusMessage
from common.models import ExecResult
from tests.cloud.samples import AT, bad, birth, epoch, ok, open_store, status
from tests.faults.records import Record, read

ROUNDS = 8
NODES = ("edge-1", "edge-2")
CHECKPOINT_PAGES = 8


def _checkpoint_often(connection: Any, _record: Any) -> None:
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")


def results_of(node: str, sequence: int) -> list[ExecResult]:
    """The results that this message always holds, with ids of their own."""
    named = [ok(source_id=f"{node}/{sequence}/{n}") for n in range(1 + sequence % 3)]
    return [*named, bad(source_id=f"{node}/{sequence}/bad")] if sequence % 5 == 0 else named


def _message(node: str, sequence: int, low: int) -> StatusMessage:
    return status(sequence, results_of(node, sequence), node=node, low=low)


def live(directory: Path, seed: int) -> None:
    """Open the store of ``directory``, commit some rounds from where it stands, and stop it."""
    event.listen(Engine, "connect", _checkpoint_often)  # here: other tests of this process want it as it is
    asyncio.run(_live(directory, random.Random(seed)))


async def _live(directory: Path, rng: random.Random) -> None:
    confirmed = Record(directory, "confirmed")
    async with open_store(directory, ring_rate_max=10**6, ring_rate_total_max=10**6) as store:

        def note(outcome: CommitOutcome) -> None:
            for said in outcome.confirmed:
                confirmed(said.node, said.through, *said.also)

        for node in NODES:
            await store.presence(birth(node=node), epoch(), AT)
        marks = {}
        for node in NODES:
            outcome = await store.commit([_message(node, 1, 1)])
            note(outcome)
            marks[node] = outcome.confirmed[0].through
        for _ in range(ROUNDS):
            batches = []
            for node in NODES:
                ahead = [marks[node] + n for n in rng.sample(range(1, 7), 4)]
                again = [max(1, marks[node] - n) for n in range(2)]
                sequences = [*ahead, *again, *ahead[:1]]
                batches.append(store.commit([_message(node, n, max(1, marks[node] - 3)) for n in sequences]))
            if rng.random() < 0.3:
                letter = DeadLetter("edge-1", "t", "undecodable", "rubbish", "00", 900, b"\xff" * 900, AT)
                batches.append(store.dead_letter(letter))
            for outcome in await asyncio.gather(*batches):
                if outcome is not None:
                    note(outcome)
                    marks[outcome.confirmed[0].node] = outcome.confirmed[-1].through


def check(directory: Path) -> int:
    """Raise AssertionError unless counts, results and progress agree; return how many messages were confirmed.

    What was confirmed is committed; what is committed has its effect exactly once; nothing else has any (P5.5, P5.7).
    """
    with sqlite3.connect(directory / "cloud.db") as raw:
        assert raw.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        said = read(directory, "confirmed")
        if "progress" not in tables:
            assert not said, "confirmed, and there are no tables"
            return 0
        seen = {
            node: _sequences(mark, above) for node, mark, above in raw.execute("SELECT node, mark, above FROM progress")
        }
        counts = {
            (node, result): count
            for node, result, count in raw.execute("SELECT node, status, sum(count) FROM counters GROUP BY 1, 2")
        }
        kept = Counter(source for (source,) in raw.execute("SELECT source_id FROM results"))
    raw.close()
    for node, through, *also in said:
        wanted = set(range(1, int(through) + 1)) | set(map(int, also))
        assert wanted <= seen.get(node, set()), f"{node}: confirmed {sorted(wanted - seen.get(node, set()))}, not there"
    expected = [item for node, sequences in seen.items() for n in sequences for item in results_of(node, n)]
    assert kept == Counter(item.source_id for item in expected), "results and progress disagree"
    weights = Counter((item.source_id.partition("/")[0], item.status) for item in expected)
    assert counts == dict(weights), "counts and progress disagree"
    return len(said)


def _sequences(mark: int, above: str) -> set[int]:
    return set(range(1, mark + 1)) | set(Progress(mark, above).also())
