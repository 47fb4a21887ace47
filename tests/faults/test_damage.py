"""Damaged files: a node sets its spool aside and goes on, a controller refuses to run; nothing is deleted (R3, P5.8).

What SQLite cannot see, as it has no checksums outside the WAL, is listed in the tests that flip bits in rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from common import codec as codecs
from common.errors import DamageError, FieldpostError
from common.models import Confirmation, LossRecord
from edge.batching import Frozen
from edge.settings import SpoolSettings, UplinkSettings
from edge.spooldb import SpoolDb
from tests.cloud.samples import ok, open_store, status
from tests.edge.support import NODE, ROOT, Collected, packed, result, results_of
from tests.support.wait import eventually

FLIPS = 60
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
async def copy(tmp_path: Path) -> Path:
    """A spool with messages and waiting results, as a kill leaves it: database and WAL."""
    run = tmp_path / "run"
    run.mkdir()
    collected = Collected(run)
    for n in range(300):
        collected.spool.accept(packed(result(f"rule-{n % 5}", f"{n}-" + "y" * 1200)))
    await eventually(lambda: collected.spool.stats.accepted == 300)
    copied = tmp_path / "copy"
    shutil.copytree(run, copied, ignore=shutil.ignore_patterns("*-shm"))
    await collected.spool.stop()
    assert (copied / "spool.db-wal").stat().st_size > 100_000
    return copied


@pytest.fixture
async def closed(copy: Path) -> Path:
    """The same after a clean stop: the database alone."""
    db = SpoolDb(copy / "spool.db", NODE, ROOT)
    db.open()
    db.close()
    assert not (copy / "spool.db-wal").exists()
    return copy


def _prints(directory: Path) -> dict[str, str]:
    """Digests of what holds data; a look leaves an empty WAL and shared memory behind."""
    files = [file for file in directory.iterdir() if file.name.startswith("spool.db") and "-shm" not in file.name]
    files = [file for file in files if file.stat().st_size or file.name == "spool.db"]
    return {file.name: _digest(file) for file in files}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _damage(directory: Path, how: str) -> None:
    file = directory / "spool.db"
    data = bytearray(file.read_bytes())
    if how == "rubbish":
        data[:] = random.Random(1).randbytes(len(data))
    elif how == "header":
        data[3] ^= 0xFF
    elif how == "truncated":
        del data[len(data) // 2 :]
    elif how == "root-page":  # the first page of a table, where its kind and cells are said
        data[4096 * 2 : 4096 * 2 + 64] = b"\xff" * 64
    elif how == "emptied":
        data.clear()
    file.write_bytes(data)


def _aside(directory: Path) -> dict[str, str]:
    """Digests of what was set aside, by the name that it had."""
    kept = [f for f in directory.glob("spool.db.damaged-*") if not f.name.endswith("-shm")]
    named = {re.sub(r"\.damaged-[0-9TZ.]+", "", f.name): f for f in kept}
    return {name: _digest(f) for name, f in named.items() if f.stat().st_size or name == "spool.db"}


@pytest.mark.parametrize("how", ["rubbish", "header", "truncated", "root-page"])
async def test_damaged_database_is_set_aside_as_it_is(closed: Path, how: str, caplog: pytest.LogCaptureFixture):
    """R3, R1.8: the bytes are kept under another name, one line says so, and the node goes on with a new spool."""
    _damage(closed, how)
    before = _prints(closed)
    collected = Collected(closed)
    assert _aside(closed) == before
    assert "spool.db.damaged-" in caplog.text
    await _goes_on(collected)


async def test_emptied_database_is_set_aside_with_its_wal(copy: Path):
    """SQLite would take a file of 0 bytes for a new database and delete the WAL, where the accepted results are."""
    _damage(copy, "emptied")
    before = _prints(copy)
    collected = Collected(copy)
    assert _aside(copy) == before
    await _goes_on(collected)


async def test_random_flips_never_let_a_spool_run_that_cannot_be_read(closed: Path, rng: random.Random):
    """Flipped bits anywhere: either the spool is set aside at the start, or all that it holds can be read and sent."""
    whole = (closed / "spool.db").read_bytes()
    set_aside = 0
    for _ in range(FLIPS):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            # Half of them where structure is: the first bytes of pages.
            page = rng.randrange(len(data) // 4096) * 4096
            at = page + rng.randrange(64) if rng.random() < 0.5 else rng.randrange(len(data))
            data[at] ^= 1 << rng.randrange(8)
        (closed / "spool.db").write_bytes(data)
        before = _prints(closed)
        try:
            collected = Collected(closed)
        except FieldpostError as exc:  # a flip in the schema's number, or in whose spool it is: a person must look
            assert "spool.db" in str(exc)  # noqa: PT017
            assert _prints(closed) == before
        else:
            if aside := _aside(closed):
                set_aside += 1
                assert aside == before
            await _goes_on(collected)
        for file in closed.glob("spool.db*"):
            file.unlink()
    assert set_aside


async def _goes_on(collected: Collected) -> None:
    """Everything can be read, and a further result is accepted. Values may have changed: nothing here sees that."""
    collected.accept(result(source_id="more"))
    await eventually(lambda: collected.durable == ["more"] and not collected.spool._writer.waiting)
    await collected.spool.stop()
    assert not collected.fatal
    db = SpoolDb(collected.spool._committer.db._path, NODE, ROOT)
    db.open()
    assert len(db.messages()) + sum(db.waiting(0)) >= 1
    db.oldest_results(1 << 30, 0, 1 << 62)
    db.inputs()
    db.close()


async def test_damage_that_shows_while_the_agent_runs_ends_it_and_is_set_aside(tmp_path: Path):
    """R3, R1.8: a damaged page is not tried for ever: the agent ends, and its next start sets the spool aside."""
    collected = Collected(tmp_path, window=UplinkSettings(window_messages=1, batch_results=8))
    for n in range(400):  # more than SQLite keeps in memory, so that old pages are read again
        collected.spool.accept(packed(result(f"rule-{n % 5}", f"{n}-" + "y" * 12_000)))
    await eventually(lambda: collected.spool.stats.accepted == 400)
    file = tmp_path / "spool.db"
    data = bytearray(file.read_bytes())
    for page in range(4096 * 8, len(data), 4096):
        data[page : page + 64] = b"\xff" * 64
    file.write_bytes(data)
    collected.confirm(collected.frozen)
    await eventually(lambda: collected.fatal)
    assert isinstance(collected.fatal[0], DamageError)
    await collected.spool.stop()
    again = Collected(tmp_path)
    assert _aside(tmp_path)
    await eventually(lambda: _losses(again.frozen))
    await _goes_on(again)


async def test_wal_whose_database_is_gone_is_kept(copy: Path):
    """A kill between two renamings, or a person who moved one file of two: SQLite would delete the WAL."""
    wal = _digest(copy / "spool.db-wal")
    (copy / "spool.db").unlink()
    collected = Collected(copy)
    assert _aside(copy) == {"spool.db-wal": wal}
    await _goes_on(collected)


async def test_spool_that_is_gone_is_told_whoever_took_it_away(closed: Path):
    """R1.5: a kill right after a spool was set aside, or a person who moves it away: a loss record says that it was."""
    (closed / "spool.epoch").write_text("1")
    (closed / "spool.db").rename(closed / "elsewhere.db")
    collected = Collected(closed)
    await eventually(lambda: _losses(collected.frozen))
    (record,) = _losses(collected.frozen)
    assert (record.kind, record.reason) == ("set_aside", "missing")
    assert "epochs up to 1, was moved away or set aside" in record.detail
    await collected.spool.stop()
    again = Collected(closed)  # told once
    assert [record.id for record in _losses(again.left)] == [record.id]
    await again.spool.stop()


async def test_new_directory_and_one_killed_at_its_first_start_have_lost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """No false alarm: where nothing was ever accepted, nothing is told."""
    killed: list[SpoolDb] = []
    with monkeypatch.context() as patched:
        patched.setattr(SpoolDb, "remember_epoch", lambda self, n: killed.append(self) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Collected(tmp_path)
    killed[0].close()
    collected = Collected(tmp_path)
    await _goes_on(collected)
    assert [len(results_of(message)) for message in collected.frozen] == [1]


def _losses(messages: list[Frozen]) -> list[LossRecord]:
    found = [codecs.decode(m.payload, LossRecord | list[LossRecord]).content for m in messages if "loss" in m.topic]
    return [record for each in found for record in (each if isinstance(each, list) else [each])]


@pytest.mark.parametrize(
    ("harm", "given_up"),
    [("body = x'7b226f'", 0), ("rule = 'rule-7'", 0), ("codec = 'jsoo'", 0), ("namespace = 'a/+b'", 1)],
    ids=["body", "rule", "codec", "namespace"],
)
async def test_a_flipped_row_stops_no_other(tmp_path: Path, harm: str, given_up: int):
    """R1.7: bits that changed in a waiting row, which SQLite cannot see: it is sent for the cloud to refuse, or given
    up with a record; the others are folded and sent, and the account balances.
    """
    small = SpoolSettings(bytes_max=(1 << 20) + (1 << 17 if not given_up else 1 << 20))
    first = Collected(tmp_path, window=UplinkSettings(window_messages=1, batch_results=1))  # a row each
    for n in range(90):
        first.accept(result(f"rule-{n % 3}", f"{n}-" + "y" * 400))
    await first.spool.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "spool.db")) as raw:
        assert raw.execute(f"UPDATE results SET {harm} WHERE id = 31 AND rule = 'rule-1'").rowcount == 1
        raw.commit()
    second = Collected(tmp_path, small, UplinkSettings(window_messages=1, batch_results=4))
    for n in range(240):
        second.accept(result("rule-1", f"{n}-" + "z" * 400))
    await eventually(lambda: len(second.durable) == 240)
    assert bool(second.spool.stats.folded) is not bool(given_up)
    sent = list(second.left)
    while second.spool.stats.pending:
        before = second.spool.stats.confirmed + second.spool.stats.set_aside
        epoch = second.spool.stats.previous[0] if second.spool.stats.previous else second.spool.stats.epoch
        second.spool.confirm(Confirmation(str(epoch), 1000))
        await eventually(lambda: second.spool.stats.confirmed + second.spool.stats.set_aside > before)  # noqa: B023
    stats = second.spool.stats
    assert not second.fatal
    assert (stats.accepted, stats.dropped, stats.held) == (330, 0, 0)
    assert stats.set_aside == given_up
    assert sum(record.results for record in _losses(sent + second.frozen)) == stats.set_aside
    await second.spool.stop()


async def _runs_empty(collected: Collected) -> None:
    """Confirm until nothing is left; an exception or a stuck writer fails."""
    spool = collected.spool
    collected.confirm(collected.left)

    async def empty() -> bool:
        fresh, collected.frozen[:] = list(collected.frozen), []
        collected.confirm(fresh)
        stats = spool.stats
        return not stats.window_messages and not stats.waiting_rows

    await eventually(empty)
    assert not collected.fatal
    await spool.stop()


async def test_cut_wal_opens_with_what_came_before_the_cut(copy: Path, rng: random.Random):
    """A truncated WAL is, to SQLite, one that ends earlier: what is left is whole and is sent; the file is sound.

    That the end is missing is not seen here. The cloud sees it when it knows higher sequences of the epoch (P5.8).
    """
    wal = (copy / "spool.db-wal").read_bytes()
    for _ in range(10):
        (copy / "spool.db-wal").write_bytes(wal[: rng.randrange(len(wal))])
        shutil.copytree(copy, other := copy.with_name("other"))
        await _runs_empty(Collected(other))
        shutil.rmtree(other)


@pytest.mark.parametrize("how", ["rubbish", "truncated"])
async def test_damaged_store_of_the_cloud_is_one_clear_line(tmp_path: Path, how: str):
    """The controller ends with 1 and one line that names its store; the file stays as it is."""
    async with open_store(tmp_path) as store:
        await store.commit([status(n, [ok(source_id="z" * 500)] * 20) for n in range(1, 40)])
    file = tmp_path / "cloud.db"
    data = file.read_bytes()
    damaged = random.Random(1).randbytes(len(data)) if how == "rubbish" else data[: len(data) // 2]
    file.write_bytes(damaged)
    command = [sys.executable, "-m", "cloud", "--data-dir", str(tmp_path), "--broker", "mqtt://127.0.0.1:9"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fieldpost cloud:")]
    assert "cloud.db" in line
    assert "Traceback" not in done.stderr
    assert file.read_bytes() == damaged
