"""Tables of the command line: what fits into a terminal, what is clipped, and where all of it is (experience U2)."""

from __future__ import annotations

import json

from common import tables

COLUMNS_MAX = 100  # of a terminal
AT = 1_795_661_574.0
RULE = {
    "namespace": "production", "rule": "overheat", "version": 12, "success": 12_345_678, "fail": 1_234,
    "p95_us": 12_345, "last_minute": 12_345, "ready": "False", "ready_reason": "Refused", "degraded": "False",
    "summary": {"applied": 37, "nodes": 40, "failed": 3}, "last_success": AT, "last_failure": AT, "enabled": True,
}  # fmt: skip
NODE = {
    "node": "gateway-0042", "state": "offline", "last_seen": AT, "since": AT, "version": "0.1.0", "duplicates": 3,
    "status": {"accepted": 12_345_678, "confirmed": 12_345_678, "pending_results": 1_234}, "lost": {}, "conflict": "",
}  # fmt: skip


def test_rules_and_nodes_fit_into_a_terminal() -> None:
    """Rules and nodes with names and counts of a usual length take at most 100 columns; wide has more of them."""
    for narrow, wide, row in ((tables.RULES, tables.RULES_WIDE, RULE), (tables.NODES, tables.NODES_WIDE, NODE)):
        lines = tables.render(narrow, [row], "table").splitlines()
        assert max(map(len, lines)) <= COLUMNS_MAX
        assert {column.title for column in narrow} < {column.title for column in wide}


def test_every_table_fits_into_a_terminal() -> None:
    """With texts of any length every table wraps what may wrap; nothing is lost, and wide is one line a row."""
    long = "the broker does not let this user publish there, " * 8
    row = {
        "node": "gateway-0042", "state": "offline", "status": {"accepted": 12_345_678}, "lost": {}, "conflict": long,
        "namespace": "plant", "rule": "overheat", "reason": "target_unreachable", "detail": long, "count": 12_345,
        "last": AT, "first": AT, "at": AT, "who": "ada", "role": "operator", "remote": "203.0.113.17", "level": "fail",
        "operation": "node.replace", "outcome": "refused", "arguments": long, "check": "certificates", "what": long,
        "do": long, "sink": "webhook:production", "breaker": "half-open", "last_error": long, "kind": "restored_copy",
        "until": "2026-11-21T03:54:59.471Z", "write": [long], "read": [long], "key": "rules.plant/overheat.source",
        "value": long, "origin": long, "name": "overheat", "success": 1, "fail": 2, "last_at": AT, "size": 65_536,
    }  # fmt: skip
    for columns in (
        tables.NODES, tables.ERRORS, tables.LOSSES, tables.AUDIT, tables.FINDINGS, tables.SINKS, tables.LETTERS,
        tables.BROKER_USERS, tables.ORIGINS, tables.RULES_PER_NODE, tables.ON_NODE, tables.RESULTS,
    ):  # fmt: skip
        lines = tables.render(columns, [row], "table").splitlines()
        assert max(map(len, lines)) <= COLUMNS_MAX, columns
        assert len(tables.render(columns, [row], "wide").splitlines()) == 2
    told = tables.render(tables.ERRORS, [row], "table")
    assert told.count("publish") == 8, "each word of the detail is there"
    assert max(map(len, tables.render(tables.ERRORS, [row], "table", 80).splitlines())) < COLUMNS_MAX


def test_words_longer_than_a_line_are_broken_and_stay_whole() -> None:
    """A topic without a blank goes on in the next line, character by character."""
    topic = "/".join(str(number) for number in range(60))
    row = {"key": "k", "value": topic[:59], "origin": topic}
    lines = tables.render(tables.ORIGINS, [row], "table", 60).splitlines()[1:]
    assert max(map(len, lines)) <= 60
    assert len(lines) > 2
    at = lines[0].rindex(topic[:5])
    assert "".join(line[at:] for line in lines).replace(" ", "") == topic


def test_long_arguments_are_clipped_in_tables_only() -> None:
    """The arguments of a change end with dots in a table; wide and JSON have them to the end."""
    row = {"at": AT, "who": "ada", "operation": "apply", "arguments": "x" * 500 + "END"}
    assert "..." in tables.render(tables.AUDIT, [row], "table")
    assert "xEND" in tables.render(tables.AUDIT, [row], "wide")
    assert json.loads(tables.render(tables.AUDIT, [row], "json")) == [row]


def test_zeros_of_a_node_are_zeros() -> None:
    """Statistics leave zeros out: they are shown as 0, and as - only while there are none."""
    assert tables.render(tables.NODES, [NODE | {"status": {"accepted": 7}}], "table").splitlines()[1].split()[4:] == [
        "7", "0", "0", "-"
    ]  # fmt: skip
    assert tables.render(tables.NODES, [NODE | {"status": None}], "table").splitlines()[1].split()[4:] == ["-"] * 4


def test_a_disabled_rule_is_told() -> None:
    """READY says disabled of a rule that is kept and not run, whatever its nodes say."""
    assert "disabled" in tables.render(tables.RULES, [RULE | {"enabled": False, "ready": "True"}], "table")
    assert "disabled" not in tables.render(tables.RULES, [RULE], "table")
