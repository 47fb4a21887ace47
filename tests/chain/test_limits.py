"""Budgets of a run: each is exact, has its own error, and ends the run with the fail verb (L9)."""

from __future__ import annotations

from typing import Any

import pytest

from common.chain.hookpoint import Budgets, Engine
from common.chain.run import STEPS_BETWEEN_LOOKS, Outcome
from common.chain.values import Set
from common.clock import ManualClock
from tests.chain.mounting import lib, point


def limited(text: Any, inputs: dict[str, Any] | None = None, *, clock: Any = None, **budgets: int) -> Outcome:
    """Run one block, or one chain, within these budgets."""
    engine = Engine(budgets=Budgets(**budgets), clock=clock)
    return point(lib(main=text), engine=engine).run(inputs or {})


def failed(outcome: Outcome) -> tuple[str, str, bool]:
    """Code and message, and whether the run failed closed."""
    message = outcome.error.split("\n")[0]
    closed = (outcome.ok, outcome.verb, outcome.outputs, outcome.decided) == (False, "reject", {}, False)
    return outcome.code, message.removeprefix(outcome.code + ": "), closed


@pytest.mark.parametrize("steps_max", [1, 2, 5, 15, 16, 17, 33, 100])
def test_steps_are_counted_exactly(steps_max: int) -> None:
    """A block entry and every iteration is one; one more than the budget ends the run, whatever the budget."""
    items = list(range(steps_max - 1))
    text = "for i in $REQ then n = $i; end\naccept"
    assert limited(text, {"REQ": items}, steps_max=steps_max).verb == "accept"
    outcome = limited(text, {"REQ": [*items, 0]}, steps_max=steps_max)
    assert failed(outcome) == ("PC-LIMIT-STEPS", f"more than {steps_max} steps", True)
    assert outcome.steps == steps_max


def test_steps_of_all_blocks_and_loops_add_up() -> None:
    """exec, chains, map and nested loops count alike."""
    outcome = limited({"a": "exec _b\nmap [1, 2, 3] $(append $__key)", "_b": "for i in [1, 2] then x = $i; end"})
    assert outcome.steps == 1 + 3 + 1 + 2


@pytest.mark.parametrize("text", ["exec main", "x = $(exec main)", "invoke main", 't = "main"; exec $t'])
def test_exec_depth(text: str) -> None:
    """As many calls inside one another as the budget says, through every kind of call."""
    outcome = limited(text, exec_depth_max=10)
    assert failed(outcome) == ("PC-LIMIT-DEPTH", "exec nested deeper than 10", True)
    assert outcome.steps == 11


def test_exec_depth_through_chains() -> None:
    """Calls of chains are calls."""
    outcome = point(lib(a="exec --chain b", b="exec --chain a")).run({})
    assert (outcome.code, outcome.steps) == ("PC-LIMIT-DEPTH", 65)


def test_gotos_list_the_last_targets() -> None:
    """128 are allowed; the error of one more names the last ones and the place."""
    outcome = limited({"a": "goto b", "b": "goto a"}, gotos_max=3)
    assert outcome.code == "PC-LIMIT-GOTO"
    assert outcome.error == (
        "PC-LIMIT-GOTO: more than 3 gotos, the last ones to main:b, main:a, main:b, main:a\n"
        "  at main:main:b, line 1, column 1\n  | goto a\n  | ^^^^^^"
    )
    counting = 'n = "${n}x"\nif strlen $n == 1 then end\nlen_ = $(strlen $n)\n$len_ < 129 && goto main\naccept'
    assert limited(counting.replace("if strlen $n == 1 then end\n", "")).verb == "accept"
    assert limited(counting.replace("if strlen $n == 1 then end\n", "").replace("129", "130")).code == "PC-LIMIT-GOTO"


def test_gotos_between_chains_and_under_exec_count_alike() -> None:
    """Every way around is counted."""
    engine = Engine(budgets=Budgets(gotos_max=5))
    assert point(lib(a="goto b", b="goto a"), engine=engine).run({}).code == "PC-LIMIT-GOTO"
    assert point(lib(m="exec --chain a", a="goto b", b="goto a"), engine=engine).run({}).code == "PC-LIMIT-GOTO"
    assert point(lib(m="exec --lib main", a="goto b", b="goto a"), engine=engine).run({}).code in (
        "PC-LIMIT-GOTO", "PC-LIMIT-DEPTH",
    )  # fmt: skip


class Slow(ManualClock):
    """A clock that moves by 10 ms whenever someone looks."""

    looks = 0

    def monotonic(self) -> float:
        self.looks += 1
        self.advance(0.01)
        return super().monotonic()


def test_wall_time_is_a_backstop() -> None:
    """It counts from a run's 17th step and is looked at every 16 steps; 0 turns it off."""
    items = {"REQ": list(range(STEPS_BETWEEN_LOOKS * 8))}
    text = "for i in $REQ then n = $i; end\naccept"
    outcome = limited(text, items, clock=Slow(), wall_time_ms_max=55)
    assert failed(outcome) == ("PC-LIMIT-TIME", "longer than 55 ms", True)
    assert outcome.steps == STEPS_BETWEEN_LOOKS * 7 + 1
    assert limited(text, items, clock=Slow(), wall_time_ms_max=500).verb == "accept"
    clock = Slow()
    assert limited(text, items, clock=clock, wall_time_ms_max=0).verb == "accept"
    assert clock.looks == 0


def test_a_short_run_never_looks_at_the_clock() -> None:
    """What ends within 16 steps pays nothing for the backstop."""
    clock = Slow()
    limited("for i in [1, 2, 3] then n = $i; end", clock=clock)
    assert clock.looks == 0


@pytest.mark.parametrize(
    "text", ['x = "${REQ}${REQ}"', "x = $(append $REQ $REQ)", "return $(append $REQ a $REQ)", 'forward "${REQ}+${REQ}"',
             'x = $(replace s "a" $REQ)', "echo $(append $REQ $REQ)", "x = $(first-ok $(append $REQ $REQ))"]
)  # fmt: skip
def test_strings_are_bounded_in_bytes(text: str) -> None:
    """Interpolation, joining and commands that grow; UTF-8 bytes count, not characters."""
    for given in ("x" * 60, "é" * 30, "𝄞" * 15):
        outcome = limited(f's = "aa"\n{text}', {"REQ": given}, string_bytes_max=100)
        assert failed(outcome) == ("PC-LIMIT-STRING", "a string of more than 100 bytes", True), given
    assert limited(f's = "aa"\n{text}', {"REQ": "é" * 20}, string_bytes_max=100).code == ""


def test_a_string_that_doubles_ends_the_run() -> None:
    """Twenty doublings of one byte reach the default of 1 MiB, one more is too long."""
    text = 'x = "a"\nfor i in $REQ then x = "${x}${x}"; end\nresp = $(strlen $x)'
    assert limited(text, {"REQ": [0] * 20}).resp == 2**20
    assert limited(text, {"REQ": [0] * 21}).code == "PC-LIMIT-STRING"


@pytest.mark.parametrize(
    "grow", ["list-push l $i", "map-add m $i 1", "$m[$i] = 1", "set-add s $i", "list-insert l 0 $i"]
)
def test_collections_are_bounded_in_items(grow: str) -> None:
    """Whatever makes one grow."""
    text = f"l = []\nm = {{}}\nset-create s\nfor i in $REQ then {grow}; end\naccept"
    assert limited(text, {"REQ": list(range(5))}, collection_items_max=5).verb == "accept"
    outcome = limited(text, {"REQ": list(range(6))}, collection_items_max=5)
    assert failed(outcome) == ("PC-LIMIT-COLLECTION", "a collection of more than 5 items", True)


def test_output_is_bounded_in_bytes() -> None:
    """Every line counts with its end."""
    assert limited("echo abc\necho é", output_bytes_max=7).code == ""
    outcome = limited("echo abc\necho ée", output_bytes_max=7)
    assert failed(outcome) == ("PC-LIMIT-OUTPUT", "the run's output is longer than 7 bytes", True)
    assert list(outcome.output) == ["abc"]


def test_inputs_that_are_nested_too_deep_are_an_error() -> None:
    """Freezing and copying walk the inputs, so they have a limit on depth."""
    deep: Any = Set(["a"])
    for _ in range(200):
        deep = [deep]
    assert limited("m = {}\nmap-add m a 1", {"REQ": deep}).code == "PC-LIMIT-NESTING"
    assert limited("x = $RESP\nlist-push x 1", {"RESP": deep}).code == "PC-LIMIT-NESTING"


@pytest.mark.parametrize(
    "name",
    ["steps_max", "exec_depth_max", "gotos_max", "output_bytes_max", "string_bytes_max", "collection_items_max"],
)
def test_a_budget_has_a_least_value(name: str) -> None:
    """Only the wall time can be turned off."""
    with pytest.raises(ValueError, match=name):
        Budgets(**{name: 0})
    with pytest.raises(ValueError, match="wall_time_ms_max"):
        Budgets(wall_time_ms_max=-1)


DOUBLED = "for i in $REQ then a = [$a, $a]; end\n"  # 41 lists, or 2 ** 41 of them for who walks through all


@pytest.mark.parametrize(
    "end", ["resp = $a", "error $a", "return $a", "result = {k: $a}", "RESP.headers = $a", "exit $a"]
)
def test_what_the_host_gets_is_limited(end: str) -> None:
    """Collections that are small for the chain and endless for whoever writes them out fail the run."""
    outcome = limited(f"a = [1]\n{DOUBLED}{end}", {"REQ": list(range(40)), "RESP": {}}, outcome_chars_max=1000)
    assert failed(outcome) == ("PC-LIMIT-OUTCOME", "what the run gives has more than 1000 characters", True)
    assert (outcome.value, outcome.resp) == ("", "")
    circle = limited(f"a = {{}}\n$a.a = $a\n{end}", {"RESP": {}})
    assert failed(circle) == ("PC-LIMIT-NESTING", "collections nested deeper than 100 levels", True)


def test_what_the_host_gets_is_counted_as_written() -> None:
    """Characters of texts and keys and one a value, of all that the host gets; what is shared counts each time."""
    text = 'a = {"key": "text"}\nresp = [$a, $a]\nRESP.x = 5'  # reject, [, {key text, {key text, {x 5
    for room, code in ((6 + 1 + 8 + 8 + 3, ""), (6 + 1 + 8 + 8 + 3 - 1, "PC-LIMIT-OUTCOME")):
        assert limited(text, {"RESP": {}}, outcome_chars_max=room).code == code
    inner = "a = []\n" + "a = [$a]\n" * 98
    assert limited(inner + "resp = [$a]").code == ""
    assert limited(inner + "resp = [1, $a, [$a]]").code == "PC-LIMIT-NESTING"
