"""A spool at its bounds, and what the cloud refuses for good: folded, dropped, void; the ledger balances (P5.9 to
P5.11).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from common import codec as codecs
from common.models import Confirmation, ErrorMsg, ExecResult, LossRecord, Refusal
from edge.settings import SpoolSettings, UplinkSettings
from edge.spooldb import SpoolDb
from edge.spooltables import UPGRADES
from tests.edge.support import NODE, ROOT, Collected, result, results_of
from tests.support.wait import eventually

BYTES = (1 << 20) + (1 << 18)  # less 1 MiB of reserve: 256 KiB for results
NARROW = UplinkSettings(window_messages=4, batch_results=16, window_bytes=1 << 17)


def _balance(it: Collected) -> None:
    stats = it.spool.stats
    assert stats.accepted == stats.confirmed + stats.dead + stats.dropped + stats.set_aside + stats.pending


async def _drain(it: Collected) -> None:
    while it.spool.stats.pending:
        before = it.spool.stats.confirmed
        it.spool.confirm(Confirmation(str(it.spool.stats.epoch), it.spool.stats.next_sequence - 1))
        await eventually(lambda: it.spool.stats.confirmed > before)  # noqa: B023
        _balance(it)


async def _fill(it: Collected, items: list[ExecResult]) -> None:
    for at in range(0, len(items), 100):
        for item in items[at : at + 100]:
            it.accept(item)
        await eventually(lambda: len(it.durable) == min(at + 100, len(items)))  # noqa: B023


async def _fill_one(it: Collected, item: ExecResult) -> None:
    it.accept(item)
    await eventually(lambda: item.source_id in it.durable and not it.spool.stats.waiting_rows)


def _losses(it: Collected) -> list[LossRecord]:
    messages = [m for m in it.frozen if "/insert/default/lossrecord/" in m.topic]
    contents = [codecs.decode(m.payload, LossRecord | list[LossRecord]).content for m in messages]
    return [record for content in contents for record in (content if isinstance(content, list) else [content])]


async def test_long_outage_folds_details_and_keeps_every_count(tmp_path: Path):
    """P5.10: from 80 % on the oldest results become summaries; counts stay exact, nothing is dropped or held."""
    it = Collected(tmp_path, SpoolSettings(bytes_max=BYTES), NARROW)
    items = [result(f"rule-{n % 3}", source_id=f"{n:05d}" + "x" * 400) for n in range(6000)]
    await _fill(it, items)
    stats = it.spool.stats
    assert (stats.accepted, stats.pending, stats.dropped, stats.held) == (6000, 6000, 0, 0)
    assert stats.bytes_used <= BYTES
    assert stats.folded > 5000
    await _drain(it)
    told = [r for m in it.frozen for r in results_of(m)]
    counts = {f"rule-{n}": sum(r.count for r in told if r.rule_id == f"rule-{n}") for n in range(3)}
    assert counts == {"rule-0": 2000, "rule-1": 2000, "rule-2": 2000}
    assert sum(1 for r in told if r.count == 1) == 6000 - it.spool.stats.folded
    await it.spool.stop()


async def test_interleaved_rules_fold_too(tmp_path: Path):
    """P5.10: also when the oldest thousand rows are all of different rules, those of one rule are found and folded."""
    it = Collected(tmp_path, SpoolSettings(bytes_max=BYTES), NARROW)
    items = [result(f"rule-{n % 200}", source_id="x" * 200) for n in range(4000)]
    for item in items:  # one by one, so that each is a row of its own
        it.accept(item)
        if len(it.durable) < 200:
            await eventually(lambda: it.spool.stats.accepted == len(it.durable))
    await eventually(lambda: len(it.durable) == 4000)
    assert (it.spool.stats.dropped, it.spool.stats.held) == (0, 0)
    await _drain(it)
    told = [r for m in it.frozen for r in results_of(m)]
    assert sum(r.count for r in told) == 4000
    assert {sum(r.count for r in told if r.rule_id == f"rule-{n}") for n in range(200)} == {20}
    await it.spool.stop()


async def test_what_does_not_fold_is_dropped_with_a_record(tmp_path: Path):
    """P5.10: results that are all different go, the oldest first, when nothing else helps; the loss is told exactly."""
    it = Collected(tmp_path, SpoolSettings(bytes_max=BYTES), NARROW)
    items = [result(f"rule-{n}", source_id=f"{n:05d}" + "x" * 400) for n in range(1500)]
    await _fill(it, items)
    assert 0 < it.spool.stats.dropped < 1500
    await _drain(it)
    dropped = it.spool.stats.dropped
    told = [r.rule_id for m in it.frozen if "lossrecord" not in m.topic for r in results_of(m)]
    assert len(told) == len(set(told)) == 1500 - dropped
    losses = _losses(it)
    assert sum(record.results for record in losses) == dropped
    assert {(record.kind, record.reason) for record in losses} == {("dropped", "spool_full")}
    await it.spool.stop()


async def test_block_holds_the_sources_instead(tmp_path: Path):
    """P5.10: with ``full: block`` nothing is dropped; what does not fit is not accepted until the cloud makes room."""
    it = Collected(tmp_path, SpoolSettings(bytes_max=BYTES, full="block"), NARROW)
    items = [result(f"rule-{n}", source_id=f"{n:05d}" + "x" * 400) for n in range(1500)]
    for item in items:
        it.accept(item)
    await eventually(lambda: it.spool.stats.held > 0)
    assert it.spool.room == 0
    assert 0 < it.spool.stats.accepted < 1500
    while len(it.durable) < 1500 or it.spool.stats.pending:
        before = it.spool.stats.confirmed
        it.spool.confirm(Confirmation(str(it.spool.stats.epoch), it.spool.stats.next_sequence - 1))
        await eventually(lambda: it.spool.stats.confirmed > before)  # noqa: B023
        assert it.spool.stats.bytes_used <= BYTES
    assert it.spool.stats.dropped == 0
    assert len({r.rule_id for m in it.frozen for r in results_of(m)}) == 1500
    await it.spool.stop()


async def test_refused_message_becomes_void_and_a_dead_letter(tmp_path: Path):
    """P5.9: same epoch and sequence, a loss record instead of results; the original is kept, and all behind it goes
    on.
    """
    it = Collected(tmp_path, window=UplinkSettings(batch_results=1))
    await _fill(it, [result(source_id=str(n)) for n in range(3)])
    bad = it.frozen[1]
    it.spool.void((bad.epoch.n, bad.sequence), Refusal("route_mismatch", "by the test"))
    await eventually(lambda: it.spool.stats.dead == 1)
    _balance(it)
    void = it.frozen[3]
    assert (void.epoch, void.sequence, void.weight) == (bad.epoch, bad.sequence, 0)
    (record,) = _losses(it)
    assert (record.kind, record.results, record.reason, record.first_sequence) == ("void", 1, "route_mismatch", 2)
    it.spool.void((bad.epoch.n, bad.sequence), Refusal("route_mismatch", "a late second reply"))
    it.spool.confirm(Confirmation(str(bad.epoch), 3))
    await eventually(lambda: it.spool.stats.pending == 0)
    assert (it.spool.stats.confirmed, it.spool.stats.dead) == (2, 1)
    await it.spool.stop()
    db = SpoolDb(tmp_path / "spool.db", NODE, ROOT)
    db.open()
    assert [(letter.reason, letter.payload) for letter in db.dead()] == [("route_mismatch", bad.payload)]
    db.close()


async def test_dead_letters_leave_the_spool_its_room(tmp_path: Path):
    """R1.6: a cloud that refuses everything does not fill the spool with dead letters: the oldest go, counted, with a
    record.
    """
    it = Collected(tmp_path, SpoolSettings(bytes_max=BYTES), UplinkSettings(batch_results=1))
    for n in range(30):
        await _fill_one(it, ExecResult("overheat", "default", "FAIL", ErrorMsg("x" * 9000), source_id=f"{n:03d}"))
        (bad,) = [m for m in it.frozen if m.weight and f'"{n:03d}"'.encode() in m.payload]
        it.spool.void((bad.epoch.n, bad.sequence), Refusal("route_mismatch", "by the test"))
        await eventually(lambda: it.spool.stats.dead + it.spool.stats.dropped == n + 1)  # noqa: B023
        it.spool.confirm(Confirmation(str(bad.epoch), it.spool.stats.next_sequence - 1))
        _balance(it)
    assert 5 < it.spool.stats.dead < 9
    letters = await it.spool.dead()
    assert sum(len(letter.payload) for letter in letters) <= (BYTES - (1 << 20)) // 4
    assert b'"029"' in letters[-1].payload
    full = [record for record in _losses(it) if record.reason == "dead_letters_full"]
    assert sum(record.results for record in full) == it.spool.stats.dropped == 30 - len(letters)
    await it.spool.stop()


async def test_a_refusal_of_some_rules_leaves_the_others(tmp_path: Path):
    """P6.4: of a message with several rules' results only the refused ones become a dead letter; the others go out
    again in a message of their own, and the account balances all the time.
    """
    it = Collected(tmp_path, window=UplinkSettings(batch_results=16))
    results = [result(f"rule-{n}", source_id=str(n), count=n + 1) for n in range(8)]
    for each in results:
        each.rule_uid = f"u{each.source_id}"
    await _fill(it, results)
    mixed = next(frozen for frozen in it.frozen if len(results_of(frozen)) > 2)
    held = results_of(mixed)
    foreign, others = held[1], [each.source_id for each in held if each is not held[1]]
    it.spool.void((mixed.epoch.n, mixed.sequence), Refusal("not_assigned", "by the test", uids=[foreign.rule_uid]))
    await eventually(lambda: it.spool.stats.dead == foreign.count)
    _balance(it)
    (record,) = _losses(it)
    assert (record.results, record.first_sequence) == (foreign.count, mixed.sequence)
    (letter,) = await it.spool.dead()
    assert codecs.decode(letter.payload, ExecResult | list[ExecResult]).content == foreign
    await _drain(it)
    sent = [
        each.source_id
        for frozen in it.frozen
        if frozen.sequence > mixed.sequence and frozen.weight
        for each in results_of(frozen)
    ]
    assert set(others) <= set(sent)
    assert it.spool.stats.confirmed == sum(each.count for each in results) - foreign.count
    await it.spool.stop()


@pytest.mark.parametrize("order", ["redrive", "drop"])
async def test_dead_letters_are_redriven_or_dropped(tmp_path: Path, order: str):
    """P5.9, P5.11: redrive sends the results again as new messages; drop makes them a loss; the ledger balances."""
    it = Collected(tmp_path, window=UplinkSettings(batch_results=8))
    await _fill(it, [result(source_id=str(n)) for n in range(5)])
    bad = it.frozen[0]
    it.spool.void((bad.epoch.n, bad.sequence), Refusal("undecodable", "by the test"))
    await eventually(lambda: it.spool.stats.dead == bad.weight)
    assert await it.spool.letters(order, ["no such id"]) == 0
    assert await it.spool.letters(order, [bad.msg_id]) == 1
    assert await it.spool.letters(order, []) == 0
    await eventually(lambda: it.spool.stats.dead == 0)
    _balance(it)
    await _drain(it)
    expected = (5, 0) if order == "redrive" else (5 - bad.weight, bad.weight)
    assert (it.spool.stats.confirmed, it.spool.stats.dropped) == expected
    if order == "drop":
        assert [(r.reason, r.results) for r in _losses(it)][-1] == ("dlq_drop", bad.weight)
    await it.spool.stop()


async def test_a_spool_of_schema_1_is_taken_over(tmp_path: Path):
    """R3 people: the file of the version before goes on with its account and what it holds."""
    it = Collected(tmp_path, window=UplinkSettings(window_messages=1))
    await _fill(it, [result(source_id=str(n)) for n in range(3)])
    await it.spool.stop()
    db = sqlite3.connect(tmp_path / "spool.db")
    for statement in reversed(UPGRADES[1].split(";")):
        words = statement.split()
        if words[:2] == ["ALTER", "TABLE"]:
            db.execute(f"ALTER TABLE {words[2]} DROP COLUMN {words[5]}")
        elif words[:2] == ["CREATE", "TABLE"]:
            db.execute(f"DROP TABLE {words[2]}")
        elif words[:2] == ["CREATE", "INDEX"]:
            db.execute(f"DROP INDEX {words[2]}")
    db.execute("PRAGMA user_version = 1")
    db.close()
    again = Collected(tmp_path, window=UplinkSettings(window_messages=1))
    assert (again.spool.stats.accepted, again.spool.stats.pending) == (3, 3)
    assert len(again.left) == 1
    again.confirm(again.left)
    await eventually(lambda: again.spool.stats.confirmed >= 1)
    await _drain(again)
    await again.spool.stop()


@pytest.mark.parametrize("harm", ["garbage", "torn", "empty with a WAL"])
async def test_damaged_spool_is_set_aside_and_told(tmp_path: Path, harm: str):
    """P5.8, R3: a damaged file is kept under another name, a higher epoch begins, and the loss travels up."""
    first = Collected(tmp_path)
    await _fill(first, [result(source_id=str(n)) for n in range(50)])
    epoch = first.spool.stats.epoch
    await first.spool.stop()
    file = tmp_path / "spool.db"
    if harm == "garbage":
        file.write_bytes(b"not a database, and long enough to be looked at" * 100)
    elif harm == "torn":
        file.write_bytes(file.read_bytes()[:5000] + b"\xff" * 9000)
    else:
        file.write_bytes(b"")
        (tmp_path / "spool.db-wal").write_bytes(b"something")
    damaged = file.read_bytes()
    second = Collected(tmp_path)
    (kept,) = tmp_path.glob("spool.db.damaged-*[0-9Z]")
    assert kept.read_bytes() == damaged
    assert second.spool.stats.epoch.n == epoch.n + 1
    await eventually(lambda: len(_losses(second)) == 1)
    (record,) = _losses(second)
    assert (record.kind, record.reason, record.results) == ("set_aside", "damaged", 0)
    assert kept.name in record.detail
    await _fill(second, [result(source_id="after")])
    await _drain(second)
    await second.spool.stop()
    assert Collected(tmp_path).spool.stats.epoch.n == epoch.n + 2


async def test_epochs_are_never_used_again_after_a_restored_copy(tmp_path: Path):
    """P5.8: a spool restored from an older copy begins above every epoch that was used here, and says what it
    follows.
    """
    first = Collected(tmp_path)
    await _fill(first, [result()])
    await first.spool.stop()
    copy = (tmp_path / "spool.db").read_bytes()
    for _ in range(3):
        again = Collected(tmp_path)
        await _fill(again, [result()])
        await again.spool.stop()
    (tmp_path / "spool.db").write_bytes(copy)
    restored = Collected(tmp_path)
    assert restored.spool.stats.epoch.n == 5
    assert restored.spool.stats.follows == f"{first.spool.stats.epoch}.2"
    await restored.spool.stop()
