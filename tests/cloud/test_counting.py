"""Effects: exact counts whatever is sampled, bounded errors and ring (P8.1, P8.6)."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cloud.counting import CounterKey, Effects, Sampler
from common.models import ExecResult
from tests.cloud.samples import AT, bad, ok

some_results = st.lists(
    st.builds(
        lambda good, rule, count, us: (ok if good else bad)(rule, count=count, duration_us=us, duration_sum=us * count),
        st.booleans(),
        st.sampled_from(["a", "b", "c"]),
        st.integers(1, 50),
        st.integers(0, 10**6),
    ),
    max_size=40,
)


def effects(per_rule: int = 50, total: int = 2000, errors: int = 32) -> Effects:
    return Effects(Sampler(per_rule, total), errors)


@given(st.lists(st.tuples(st.sampled_from(["edge-1", "edge-2"]), some_results), max_size=10))
def test_counts_and_durations_are_exact(batches: list[tuple[str, list[ExecResult]]]) -> None:
    """Counts weigh each summary by its Count, and durations add up, per node, rule and status."""
    found, counts, sums = effects(per_rule=1, total=1), Counter[tuple[str, str, str]](), Counter[tuple[str, str, str]]()
    for node, results in batches:
        found.add(node, "default", results, AT)
        for result in results:
            key = (result.rule_id, node, result.status)
            counts[key] += result.count
            sums[key] += result.duration_us if result.count == 1 else result.duration_sum
    rows = found.counters()
    assert {(key.rule, key.node, key.status): tally.sums()[0] for key, tally in rows.items()} == dict(counts)
    assert {(key.rule, key.node, key.status): tally.sums()[1] for key, tally in rows.items()} == dict(+sums) | {
        key: 0 for key in counts if not sums[key]
    }


def test_rows_are_in_lock_order() -> None:
    """Counter rows come in (node, rule) order whatever came first: locked as the nodes are, a node's side by side."""
    found = effects()
    for node, rule in (("edge-2", "b"), ("edge-1", "b"), ("edge-2", "a"), ("edge-1", "a")):
        found.add(node, "default", [ok(rule, rule_uid="z" if node == "edge-1" else "a")], AT)
    order = [(key.node, key.rule) for key in found.counters()]
    assert order == [("edge-1", "a"), ("edge-1", "b"), ("edge-2", "a"), ("edge-2", "b")]


def test_a_key_has_every_part_that_is_counted_apart() -> None:
    """Status, outcome, reason and uid count apart; what is too long for an index is cut, and merged when equal then."""
    found = effects()
    found.add("edge-1", "default", [ok(), bad(), bad(reason="x" * 64 + "1"), bad(reason="x" * 64 + "2")], AT)
    rows = found.counters()
    assert rows[CounterKey("edge-1", "default", "overheat", "", "SUCCESS", "delivered", "")].sums()[0] == 1
    assert rows[CounterKey("edge-1", "default", "overheat", "", "FAIL", "failed", "timeout")].sums()[0] == 1
    assert rows[CounterKey("edge-1", "default", "overheat", "", "FAIL", "failed", "x" * 64)].sums()[0] == 2


def test_the_ring_takes_a_bounded_number_per_second_and_counts_take_all() -> None:
    """Above the rate only samples are kept, the next second has room again, and no count depends on it (P8.6)."""
    found = effects(per_rule=10)
    found.add("edge-1", "default", [ok() for _ in range(500)], AT)
    assert len(found.samples) == 10
    found.add("edge-1", "default", [ok() for _ in range(500)], AT + 1)
    assert len(found.samples) == 20
    assert sum(tally.sums()[0] for tally in found.counters().values()) == 1000


def test_a_flood_of_success_hides_no_fail_and_one_rule_not_another() -> None:
    """FAIL has a budget of its own, and so has every rule."""
    found = effects(per_rule=5)
    found.add("edge-1", "default", [*(ok() for _ in range(500)), bad(), ok("other")], AT)
    kept = Counter((sample.result.rule_id, sample.result.status) for sample in found.samples)
    assert kept == {("overheat", "SUCCESS"): 5, ("overheat", "FAIL"): 1, ("other", "SUCCESS"): 1}


def test_the_total_rate_bounds_many_rules() -> None:
    """With thousands of rules the ring takes no more than its total rate a second; 0 switches it off."""
    found = effects(per_rule=5, total=100)
    found.add("edge-1", "default", [ok(f"rule-{number}") for number in range(1000)], AT)
    assert len(found.samples) == 100
    off = effects(per_rule=0)
    off.add("edge-1", "default", [ok(), bad()], AT)
    assert off.samples == []


def test_distinct_errors_are_bounded_and_the_last_stay() -> None:
    """Of very many distinct details the last 32 are kept; one that comes again is kept with its count (P8.1)."""
    found = effects()
    found.add("edge-1", "default", [bad(detail="first")], AT)
    found.add("edge-1", "default", [bad(detail=f"d{number}") for number in range(20)], AT)
    found.add("edge-2", "default", [bad(detail="first", count=3, source_id="m-1", step="chain main:3")], AT + 5)
    found.add("edge-1", "default", [bad(detail=f"e{number}") for number in range(31)], AT)
    rows = {key.detail: tally for key, tally in found.errors().items()}
    assert len(rows) == 32
    first = rows["first"]
    assert (first.count, first.first_at, first.last_at) == (4, AT, AT + 5)
    assert (first.node, first.source_id, first.step) == ("edge-2", "m-1", "chain main:3")


def test_a_detail_is_cut_to_2_kib() -> None:
    """An error detail longer than 2 KiB is cut before it reaches the store (P8.1)."""
    found = effects()
    found.add("edge-1", "default", [bad(detail="ü" * 5000)], AT)
    (key,) = found.errors()
    assert len(key.detail.encode()) <= 2048
