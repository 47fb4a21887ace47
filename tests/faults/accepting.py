"""A short life of a spool: accept, journal, publish, confirm; and what must be true of its file after any death.

The records are the oracle: ``accepted`` and ``journalled`` are written after ``on_durable``, ``published`` when a
message is handed over for sending (so the cloud may have counted it), ``confirmed`` before the spool is told.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sqlite3
from collections import Counter
from pathlib import Path

import msgspec

from common.codec import decode
from common.models import Confirmation, ExecResult
from edge.batching import Frozen
from edge.settings import UplinkSettings
from edge.spool import Spool
from edge.spooldb import SpoolDb
from edge.spooltables import Input
from tests.edge.support import NODE, ROOT, packed, result
from tests.faults.records import Record, read, words

ROUNDS = 9
WINDOW = UplinkSettings(window_messages=4)  # small, so that results wait in both stages
CHECKPOINT_PAGES = 8  # so that a short life does what a long one does every 1,000 pages


class _Life:
    def __init__(self, directory: Path, seed: int, synchronous: str) -> None:
        self._rng, self._synchronous = random.Random(seed), synchronous
        self._accepted, self._journalled = Record(directory, "accepted"), Record(directory, "journalled")
        self._published, self._confirmed = Record(directory, "published"), Record(directory, "confirmed")
        self._fatal: list[BaseException] = []
        self._durable = asyncio.Event()
        self._open: list[str] = []  # journalled inputs without a result yet
        self._unconfirmed: list[Frozen] = []
        self._waiting = 0
        self.spool = Spool(
            directory / "spool.db", NODE, ROOT, on_frozen=self._send, on_fatal=self._fatal.append, window=WINDOW
        )

    async def live(self) -> None:
        left, inputs = self.spool.open()
        assert self.spool._committer.db._db is not None
        self.spool._committer.db._db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self.spool._committer.db._db.execute(f"PRAGMA synchronous = {self._synchronous}")
        self.spool.start()
        self._send(left)
        self._open = [item.id for item in inputs]
        for number in range(ROUNDS):
            for _ in range(self._rng.randint(1, 3)):
                self._accept(f"{os.getpid()}-{number}-{self._rng.getrandbits(32):x}")
            if self._rng.random() < 0.4:
                self._journal(f"in-{os.getpid()}-{number}")
            if self._open and self._rng.random() < 0.5:
                source = self._open.pop(0)
                self._accept(source, input_id=source)
            self._confirm()
            if self._rng.random() < 0.8:
                await self._settle()
        await self._settle()
        await self.spool.stop()
        if self._fatal:
            raise self._fatal[0]

    def _accept(self, source: str, input_id: str = "") -> None:
        item = packed(result(f"rule-{self._rng.randrange(3)}", source))
        self._waiting += 1
        self.spool.accept(item, lambda: self._on_disk(self._accepted, source), input_id)

    def _journal(self, source: str) -> None:
        self._waiting += 1
        item = Input(source, "default", "rule-0", source, "topic", b"x" * self._rng.randrange(6000))
        self.spool.journal(item, lambda: self._on_disk(self._journalled, source))
        self._open.append(source)

    def _on_disk(self, record: Record, source: str) -> None:
        record(source)
        self._waiting -= 1
        self._durable.set()

    def _send(self, messages: list[Frozen]) -> None:
        for message in messages:
            sources = [item.source_id for item in _results(message.payload)]
            self._published(message.epoch.n, message.sequence, _digest(message.payload), *sources)
        self._unconfirmed += messages

    def _confirm(self) -> None:
        """The cloud confirms some of what it got, in any order."""
        for message in self._rng.sample(self._unconfirmed, self._rng.randint(0, len(self._unconfirmed))):
            self._unconfirmed.remove(message)
            self._confirmed(message.epoch.n, message.sequence)
            self.spool.confirm(Confirmation(str(message.epoch), 0, [message.sequence]))

    async def _settle(self) -> None:
        while self._waiting:
            self._durable.clear()
            await asyncio.wait_for(self._durable.wait(), 20)


def live(directory: Path, seed: int, synchronous: str = "FULL") -> None:
    """Open the spool of ``directory``, use it for some rounds, and stop it."""

    async def whole() -> None:
        await _Life(directory, seed, synchronous).live()

    asyncio.run(whole())


def _results(payload: bytes) -> list[ExecResult]:
    content = decode(payload, ExecResult | list[ExecResult]).content
    return content if isinstance(content, list) else [content]


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()[:16]


def check(directory: Path) -> int:
    """Raise AssertionError unless the spool is what its records allow; return how many ids were accepted.

    Every accepted id is exactly once among what the cloud can have counted and what waits; a published message never
    changes and never goes before its confirmation; sequences are dense; the account balances (P5.1 to P5.3, P5.11).
    """
    file = directory / "spool.db"
    accepted, journalled = words(directory, "accepted"), words(directory, "journalled")
    db = SpoolDb(file, NODE, ROOT)
    state = db.open()
    db.close()
    with sqlite3.connect(file) as raw:
        assert raw.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        messages = {(n, s): p for n, s, p in raw.execute("SELECT epoch_n, sequence, payload FROM messages")}
        rows = [body for (body,) in raw.execute("SELECT body FROM results")]
        inputs = {item for (item,) in raw.execute("SELECT id FROM inputs")}
        pending = sum(raw.execute("SELECT coalesce(sum(weight), 0) FROM messages").fetchone())
        pending += sum(raw.execute("SELECT coalesce(sum(weight), 0) FROM results").fetchone())
    raw.close()
    sent = {(int(n), int(s)): (digest, ids) for n, s, digest, *ids in read(directory, "published")}
    confirmed = {(int(n), int(s)) for n, s in read(directory, "confirmed")}
    for key, (digest, _) in sent.items():
        if key in messages:
            assert _digest(messages[key]) == digest, f"message {key} was published with other bytes"
        else:
            assert key in confirmed, f"message {key} was published and is gone without a confirmation"
    found = Counter(item for _, ids in sent.values() for item in ids)
    for key, payload in messages.items():
        found.update(item.source_id for item in _results(payload) if key not in sent)
    for body in rows:
        found.update(item.source_id for item in msgspec.json.decode(b"[" + body + b"]", type=list[ExecResult]))
    assert [item for item in accepted if found[item] != 1] == [], "accepted, and not exactly once"
    assert [item for item, times in found.items() if times > 1] == [], "doubled"
    for item in journalled:
        assert (item in inputs) != bool(found[item]), f"input {item}: journalled, and neither waits nor ended"
    _check_account(state.epoch.n, state.next_sequence, messages.keys() | sent.keys(), confirmed)
    assert state.accepted - state.confirmed == pending, "the account does not balance"
    return len(accepted)


def _check_account(
    epoch: int, next_sequence: int, known: set[tuple[int, int]], confirmed: set[tuple[int, int]]
) -> None:
    newest = {s for n, s in known if n == epoch}
    assert newest == set(range(1, next_sequence)), "sequences of the last epoch are not dense"
    assert confirmed <= known
    assert max((n for n, _ in known), default=0) <= epoch
