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


def test_long_texts_are_clipped_in_tables_only() -> None:
    """The arguments of a change end with dots in a table; wide and JSON have them to the end."""
    row = {"at": AT, "who": "ada", "operation": "apply", "arguments": "x" * 500 + "END"}
    assert max(map(len, tables.render(tables.AUDIT, [row], "table").splitlines())) < 2 * COLUMNS_MAX
    assert "..." in tables.render(tables.AUDIT, [row], "table")
    assert "xEND" in tables.render(tables.AUDIT, [row], "wide")
    assert json.loads(tables.render(tables.AUDIT, [row], "json")) == [row]


def test_a_disabled_rule_is_told() -> None:
    """READY says disabled of a rule that is kept and not run, whatever its nodes say."""
    assert "disabled" in tables.render(tables.RULES, [RULE | {"enabled": False, "ready": "True"}], "table")
    assert "disabled" not in tables.render(tables.RULES, [RULE], "table")
