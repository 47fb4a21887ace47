"""Calls and jumps: exec, invoke and goto, from text to outcome (L6)."""

from __future__ import annotations

from typing import Any

import pytest

from common.chain.hookpoint import Engine
from common.chain.linking import TARGET_CHARS_MAX
from tests.chain.mounting import blocks, chains, lib, point

# -- exec and invoke ---------------------------------------------------------------------------------------------------


def test_a_block_of_the_same_chain_shares_its_variables_and_not_its_block_names() -> None:
    """exec sees and sets the chain's variables; ``local`` names are each block's own."""
    outcome = blocks(a="x = 1\nlocal y = 2\nexec _b\nresp = [$x, $y]", _b='x = "${x}${y}!"\nlocal y = 3')
    assert outcome.resp == ["1!", 2]


def test_anything_else_runs_in_a_fresh_environment() -> None:
    """Blocks of other chains, chains and lists, and everything that is invoked."""
    outcome = chains(
        a={
            "m": "x = 1\nglobal g = 1\nexec _b:p\nexec --chain _b\ninvoke _own\nresp = [$x, $seen, $n]",
            "_own": "x = 5; seen = 5",
        },
        _b={"p": 'local was = $x\nx = 9\nglobal n = "${n}${g}${was}."'},
    )
    assert outcome.resp == [1, "", "1.1."]


def test_invoke_hands_over_read_only_arguments() -> None:
    """``$__args`` is the callee's alone and cannot be changed."""
    outcome = blocks(a="x = [1]\nresp = $(invoke _f --arg k $x --arg n 5)", _f="return [$__args.k, $__args.n, $x]")
    assert outcome.resp == [[1], 5, ""]
    outcome = blocks(a="invoke _f --arg k 1", _f="y = $__args\nmap-add y z 1")
    assert outcome.code == "PC-RUN-READ-ONLY"
    assert blocks(a="invoke _f --arg k 1; resp = $__args", _f="true").resp == ""


@pytest.mark.parametrize(
    ("callee", "ok", "value"),
    [
        ("return 5; x = 1", True, 5), ("return --from lib 5", True, 5), ("return", True, ""), ("error 5", False, 5),
        ("error --from block 5", False, 5), ("error", False, ""), ("x = 7", True, 7), ("eq 1 2", False, False),
        ("parse-uri a", False, 'parse-uri: "a" is no absolute URI'), ("", True, ""),
    ],
)  # fmt: skip
def test_a_call_has_the_status_and_value_of_its_end(callee: str, ok: bool, value: Any) -> None:
    """That of return or error, else of the last statement; no level passes the call."""
    outcome = blocks(a="capture --ok o --value v $(exec _f)\nresp = [$o, $v]\naccept", _f=callee)
    assert (outcome.resp, outcome.verb) == ([ok, value], "accept")


def test_targets_that_are_computed() -> None:
    """``exec $x`` finds what the literal would; nothing there is misuse."""
    made = {"_b": "x = 5", "_c": "x = 6"}
    assert blocks(a='t = "_b"; exec $t; resp = $x', **made).resp == 5
    assert blocks(a='t = "_c"; invoke "main:${t}"; resp = $x', **made).resp == ""
    outcome = blocks(a='t = "none"; exec $t')
    assert (outcome.code, outcome.verb) == ("PC-RUN-TARGET", "reject")
    assert 'exec: there is no block or chain "none"' in outcome.error
    assert blocks(a='t = "none"; goto $t').code == "PC-RUN-TARGET"
    long = point(lib(a="goto $REQ")).run({"REQ": "x" * 1_000_000}).error
    assert len(long) < 2 * TARGET_CHARS_MAX + 200


def test_exec_of_a_chain_and_of_a_list() -> None:
    """Blocks and chains in order, those that do not run by themselves left out; the last one's result counts."""
    called = {
        "a": 'global n = "${n}a"',
        "_b": 'global n = "${n}b"',
        "c": 'global n = "${n}c"; return --from chain 1',
        "d": "x = 1",
    }
    assert chains(m="v = $(exec --chain _f)\nresp = [$n, $v]", _f=called).resp == ["ac", 1]
    again = "$called === 1 && return\nglobal called = 1\nv = $(exec --lib main)\nresp = [$n, $v]"
    assert chains(f=called, m=again).resp == ["acac", ""]


# -- goto --------------------------------------------------------------------------------------------------------------


def test_goto_a_block_continues_from_there_in_the_same_environment() -> None:
    """The blocks behind it run, those between do not."""
    outcome = blocks(a="x = 1\ngoto c\nx = 2", b="x = 3", c='x = "${x}c"', d='resp = "${x}d"')
    assert outcome.resp == "1cd"


def test_goto_a_chain_forks_the_environment_and_replaces_the_chain() -> None:
    """It starts with a copy, and the list continues behind its place."""
    outcome = chains(
        a={"m": "x = [1]\nglobal n = a\ngoto c", "never": "resp = 9"},
        b='global n = "${n}b"',
        c='list-push x 2\ny = 1\nglobal n = "${n}c"',
        d="resp = [$n, $x, $y]",
    )
    assert outcome.resp == ["ac", "", ""]


def test_the_fork_is_a_shallow_copy() -> None:
    """Collections are shared, names are not."""
    outcome = chains(a="x = [1]\nglobal g = $x\ny = 5\ngoto b", b="list-push x 2\ny = 6\nresp = [$g, $y]")
    assert outcome.resp == [[1, 2], 6]


def test_goto_leaves_loops_substitutions_and_exec() -> None:
    """Up to the innermost running chain, from wherever it stands; what was iterated may be changed again."""
    outcome = blocks(
        a="x = [1]\nfor y in $x then\nz = $(exec _jump)\nend\nresp = 1",
        _jump="goto c",
        b="resp = 2",
        c="list-push x 2\nresp = $x",
    )
    assert outcome.resp == [1, 2]


def test_goto_inside_a_called_chain_stays_in_the_call() -> None:
    """The innermost running chain is replaced, and the call has the other one's result."""
    outcome = chains(m="x = $(exec --chain _f)\nresp = $x", _f={"a": "goto _g", "b": "return 1"}, _g="return 2")
    assert outcome.resp == 2


def test_goto_a_global_chain_ends_the_list() -> None:
    """There is nothing behind its place."""
    engine = Engine(libs={"g": lib("g", g='resp = "${x}!"')})
    outcome = point(lib(a="x = 1\ngoto g", b="resp = 2"), engine=engine).run({})
    assert outcome.resp == "1!"


def test_a_chain_of_the_list_hides_a_global_one() -> None:
    """The nearest name counts: block, chain of the list, global chain."""
    engine = Engine(libs={"b": lib("b", b="resp = 1")})
    assert point(lib(a="exec b", _b="global r = 2", c="resp = $r"), engine=engine).run({}).resp == ""
    assert point(lib(a="exec b", b="resp = 2"), engine=engine).run({}).resp == 2
