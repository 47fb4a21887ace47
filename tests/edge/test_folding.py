"""Folding results into summaries: counts exact, whatever is folded how often (protocol P5.10)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from common.message import new_id
from common.models import Epoch, ErrorMsg, ExecResult, LossRecord
from edge.batching import loss, pack, unpack
from edge.folding import duration_sum, fold, summary
from edge.quota import fold_step
from edge.spooldb import SpoolDb
from edge.spooltables import Changes, State
from tests.edge.support import NODE, ROOT, packed, result

_KINDS = [("SUCCESS", "delivered", ""), ("FAIL", "failed", "target_timeout"), ("FAIL", "failed", "loop")]
results = st.builds(
    lambda rule, kind, us, n, count: ExecResult(
        rule, "default", kind[0], ErrorMsg(f"detail {n}"), f"2026-01-01T00:00:{n:02d}Z", kind[1], kind[2],
        us, count=count, duration_sum=us * count if count > 1 else 0, duration_max=us if count > 1 else 0,
    ),
    st.sampled_from(["a", "b", "c"]), st.sampled_from(_KINDS), st.integers(0, 10**6), st.integers(0, 59),
    st.one_of(st.just(1), st.integers(1, 10**6)),
)  # fmt: skip


def _account(items: list[ExecResult]) -> tuple[Counter, Counter]:
    counts: Counter = Counter()
    durations: Counter = Counter()
    for item in items:
        key = (item.rule_id, item.status, item.outcome, item.reason)
        counts[key] += item.count
        durations[key] += duration_sum(item)
    return counts, durations


@given(st.lists(results, min_size=1, max_size=60), st.sampled_from(["json", "msgpack"]), st.integers(1, 7))
def test_folding_keeps_every_count_and_duration(items, codec, times):
    """However often and in whatever pieces results are folded, counts and durations per rule, outcome, reason stay."""
    rows = pack([packed(item, codec) for item in items], 5, 65536)
    for _ in range(times):
        folded = fold(rows[:4], codec)
        rows = [*folded.packed, *rows[4:]]
    left = [result for row in rows for result in unpack(row)]
    assert _account(left) == _account(items)
    assert sum(row.weight for row in rows) == sum(item.count for item in items)
    once = fold(rows, codec).packed
    assert len(once) <= 3
    assert sum(row.results for row in once) <= 9
    assert _account([result for row in once for result in unpack(row)]) == _account(items)


def test_a_summary_tells_its_span_and_its_last_detail():
    """P1.4: Count, First, Time, DurationSum, DurationMax; the detail and step are the last one's."""
    three = [
        ExecResult("r", "default", "FAIL", ErrorMsg(f"d{n}", f"t{n}"), f"t{n}", "failed", "loop", n * 10, step=f"s{n}")
        for n in (1, 2, 3)
    ]
    one = summary([summary(three[:2]), three[2]])
    assert (one.count, one.first, one.time, one.duration_sum, one.duration_max) == (3, "t1", "t3", 60, 30)
    assert (one.error.detail, one.step) == ("d3", "s3")


def test_what_is_alone_of_its_kind_keeps_its_details():
    """A single result is not made a summary, and not counted as folded; merged ones are, once."""
    items = [ExecResult("a", "default", "SUCCESS"), *[ExecResult("b", "default", "SUCCESS") for _ in range(3)]]
    folded = fold([packed(item) for item in items], "json")
    assert folded.executions == 3
    again = fold(folded.packed, "json")
    assert (again.executions, again.packed) == (0, folded.packed)


def test_one_step_folds_many_rules(tmp_path: Path):
    """P5.10: where the oldest thousand rows are all of different rules, a step still takes a thousand rows to fold."""
    db = SpoolDb(tmp_path / "spool.db", NODE, ROOT)
    db.open()
    rules, rounds = 2000, 4
    items = [packed(result(f"rule-{n % rules}", source_id=str(n))) for n in range(rules * rounds)]
    lost = [loss(LossRecord(str(n), "dropped"), "json") for n in range(20)]
    state = State(Epoch(1, new_id()))
    db.apply(Changes(state, new_results=[*lost, *items]))
    state.backlog_through = state.next_row - 1
    changes = Changes(structs.replace(state))
    fold_step(db, changes, "json", (256, 65536))
    assert len(changes.gone_results) - len(changes.folded_results) >= 500
    db.apply(changes)
    for _ in range(10):
        changes = Changes(structs.replace(changes.state))
        fold_step(db, changes, "json", (256, 65536))
        db.apply(changes)
    assert db.waiting(state.backlog_through) == (len(lost) + rules, 0)
    rows = db.oldest_results(1 << 30, 0, state.next_row, rows_max=10_000)
    assert sum(row.weight for row in rows) == rules * rounds
    first = [row.rows[0] for row in rows if row.kind == "rulestatus"]
    assert first == list(range(len(lost) + 1, len(lost) + 1 + rules))
    db.close()
