"""How units end and what their statements give: levels, terminals, values, the policy strict (L4 to L6)."""

from __future__ import annotations

from typing import Any

import pytest

from common.chain.runtime import evaluate
from tests.chain.mounting import blocks, chains, lib, point, run

# -- statements and values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ok", "value"),
    [
        ("", True, ""),
        ("x = 5", True, 5),
        ('x = $(strip-prefix "ab" "a")', True, "b"),
        ('x = $(strip-prefix "ab" "z")', False, ""),
        ("x = $(eq 1 2)", False, False),
        ("eq 1 1", True, True),
        ("! eq 1 1", False, False),
        ('! strip-prefix "ab" "z"', True, ""),
        ('! strip-prefix "ab" "a"', False, "b"),
        ("eq 1 1 && x = 7", True, 7),
        ("eq 1 2 && x = 7", False, False),
        ("eq 1 2 && x = 7 || x = 8", True, 8),
        ("x = 1 || y = 2", True, 1),
        ("(eq 1 2 || eq 3 3) && eq 4 4", True, True),
        ("if eq 1 2 then x = 1; end", True, ""),
        ("if eq 1 2 then x = 1; else eq 1 2; end", False, False),
        ("for x in [1, 2] then y = $x; end", True, ""),
        ("for x in [1, 2] then break $x; end", True, 1),
        ("for x in 5 then end", False, "for: Number given, a collection needed"),
        ("case 3 as n then when $n == 2 then x = 1; when $n == 3 then x = $n; end", True, 3),
        ("match-result $(eq 1 1) ok(v) x = $v; err(e) x = 9; end", True, True),
        ("match-result $(parse-json '{') ok(v) x = $v; end", True, ""),
        ("first-ok $(eq 1 2) $(append a) $(append b)", True, "a"),
        ("first-ok $(eq 1 2) $(parse-uri a)", False, 'parse-uri: "a" is no absolute URI'),
        ("$nothing", False, False),
        ("true && false", False, False),
        ("local x", True, ""),
    ],
)
def test_values_of_statements(text: str, ok: bool, value: Any) -> None:
    """Status and value of the last statement, for every kind of statement."""
    assert evaluate(text)[:2] == (ok, value)


@pytest.mark.parametrize(
    "text",
    [
        "x = $(parse-uri a)", 'x = "${x} $(parse-uri a)"', "x = [1, $(parse-uri a)]", "x = {k: $(parse-uri a)}",
        "append a $(parse-uri a) $(x = 2)", "eq $(parse-uri a) 1", "$(parse-uri a) == 1",
        "for y in $(parse-uri a) then x = 2; end", "case $(parse-uri a) as y then when true then x = 2; end",
        "return $(parse-uri a)", "forward $(parse-uri a)", "error $(parse-uri a)", "x = $(append $(parse-uri a))",
        "exec $(parse-uri a)", "echo $(parse-uri a)", "y = $(x = $(parse-uri a))", "exit $(parse-uri a)",
    ],
)  # fmt: skip
def test_a_fault_in_an_argument_is_the_statements(text: str) -> None:
    """The command is not run, nothing is written, and the statement is that fault."""
    outcome = blocks(a="x = 1\ncapture --ok ok --value v $(exec _f)\nresp = [$x, $ok, $v]", _f=text)
    assert outcome.resp == [1, False, 'parse-uri: "a" is no absolute URI']


def test_an_answer_in_an_argument_is_its_value() -> None:
    """Only faults are passed on: an answer gives its value, and the command runs."""
    assert evaluate('append "<" $(strip-prefix "ab" "z") ">" $(eq 1 2)')[:2] == (True, "<>false")


def test_arguments_are_evaluated_from_left_to_right() -> None:
    """What a ``$(...)`` writes is not seen by the arguments before it, and is by those after it."""
    assert evaluate("x = 1\nappend $x $(x = 2) $x $(x = 3) $x")[1] == "12233"


def test_the_right_side_comes_before_the_indices() -> None:
    """``$m[$k] = $(...)``: the index has the value that the right side gave it."""
    outcome = run("m = {}\nk = 'a'\n$m[$k] = $(k = 'b')\nresp = $m")
    assert outcome.resp == {"b": "b"}


def test_names_of_for_case_and_match_result_are_restored() -> None:
    """Each gives back what the block's name had, also when it is left by break, continue or another branch."""
    outcome = run("""
        local x = "kept"
        for x in [1, 2, 3] then
            case $x as x then
            when $x == 2 then match-result $(append in) ok(x) continue; end
            when $x == 3 then break
            end
        end
        resp = $x""")
    assert outcome.resp == "kept"


def test_a_loop_name_that_was_not_set_is_unset_again() -> None:
    """After the loop the name reads what is outside the block."""
    assert run("x = 'chain'\nfor x in [1] then end\nresp = $x").resp == "chain"


# -- return and error --------------------------------------------------------------------------------------------------


def test_return_ends_its_unit_and_what_follows_runs() -> None:
    """A block, the chain, the list; each sets ``$result``, a bare one leaves it."""
    assert chains(a={"x": 'return "1"; result = "no"', "y": "resp = $result; return"}).resp == "1"
    outcome = chains(a={"x": 'return --from chain "1"', "y": 'resp = "no"'}, b='error = "ran"')
    assert (outcome.value, outcome.resp, outcome.error) == ("1", "", "ran")
    outcome = chains(a='return --from lib "1"', b='resp = "no"')
    assert (outcome.value, outcome.resp, outcome.ok, outcome.where) == ("1", "", True, "a:main:1")


@pytest.mark.parametrize(("level", "ran"), [("block", "yc"), ("chain", "c"), ("lib", "")])
def test_error_ends_its_unit_as_failed(level: str, ran: str) -> None:
    """What follows the unit runs; a run that ends by an error has the fail verb and no outputs."""
    outcome = point(
        lib(
            a={"x": f'resp = ""; RESP = 5; error --from {level} "bad"', "y": 'resp = "${resp}y"'}, b='resp = "${resp}c"'
        ),
        default="accept",
    ).run({"RESP": 1})
    assert outcome.resp == ran
    assert outcome.ok is (level != "lib")
    assert (outcome.verb, outcome.outputs) == (("reject", {}) if level == "lib" else ("accept", {"RESP": 5}))
    assert outcome.error == "bad"


def test_the_last_unit_decides_whether_the_run_is_ok() -> None:
    """An error that ends the last block is the run's; a return after one is not."""
    assert blocks(a='error --from block "x"').ok is False
    assert blocks(a='error --from block "x"', b="return").ok is True


def test_error_sets_the_error_wherever_it_stands() -> None:
    """Under exec, too: ``exec guard || reject`` rejects with the guard's reason."""
    outcome = blocks(a="exec _guard || reject", _guard='error "no app in path"')
    assert (outcome.verb, outcome.error, outcome.ok) == ("reject", "no app in path", True)


def test_an_untested_error_of_an_exec_is_raised_again() -> None:
    """A lone exec or invoke: moving a guard into a helper never turns stop into go on."""
    outcome = blocks(a="exec _guard; accept", _guard='error "stop"')
    assert (outcome.verb, outcome.ok, outcome.error, outcome.where) == ("reject", False, "stop", "main:a:1")
    assert blocks(a="(invoke _guard); accept", _guard="error 1").verb == "reject"
    assert blocks(a="exec _outer; accept", _outer="exec _guard", _guard="error 1").verb == "reject"
    assert blocks(a='exec _guard; resp = "no"', b="accept", _guard="error --from block 1").resp == ""
    assert blocks(a="exec _guard; resp = 1", b="accept", _guard="error --from block 1").verb == "accept"


@pytest.mark.parametrize(
    "text",
    [
        "exec _guard || true; accept",
        "x = $(exec _guard); accept",
        "! exec _guard; accept",
        "true && exec _guard; accept",
        "if exec _guard then end; accept",
        "first-ok $(exec _guard); accept",
        "capture --ok x $(exec _guard); accept",
        "match-result $(exec _guard) err(e) accept; end",
    ],
)
def test_an_error_that_something_looks_at_is_not_raised(text: str) -> None:
    """Everything but a lone exec tests the call."""
    assert blocks(a=text, _guard='error "stop"').verb == "accept"


def test_an_err_that_nobody_tests_does_not_stop_the_block() -> None:
    """A failing last statement of a called block is no ``error``."""
    assert blocks(a="exec _fails; accept", _fails="eq 1 2").verb == "accept"


# -- terminals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "exec _stop",
        "x = $(exec _stop)",
        "! exec _stop",
        "(exec _stop)",
        "if exec _stop then end",
        "append $(exec _stop)",
        'x = "$(exec _stop)"',
        "for x in [1, 2] then exec _stop; end",
        "first-ok $(exec _stop) $(accept)",
        "capture --value v $(exec _stop)",
        "map [1] $(exec _stop)",
        "match-result $(exec _stop) ok(a) accept; err(b) accept; end",
        "case $(exec _stop) as x then when true then accept; end",
        "invoke _stop",
        "eq 1 2 || drop gone",
        "x = [$(exec _stop)]",
        "for x in [1] then case 1 as y then when true then drop gone; end; end",
        "return $(exec _stop)",
        "exec _deep",
        "resp = $(exec _stop)",
    ],
)
def test_a_terminal_ends_the_run_from_any_depth(text: str) -> None:
    """Nothing after it runs, and nothing is stored on the way."""
    outcome = blocks(a=f"{text}\naccept", b="accept", _stop="drop gone; accept", _deep="exec _stop; accept")
    assert (outcome.verb, outcome.target, outcome.error, outcome.ok) == ("drop", "gone", "gone", True)
    assert (outcome.decided, outcome.resp) == (True, "")


@pytest.mark.parametrize(
    ("text", "verb", "target", "error"),
    [
        ("accept", "accept", "", ""),
        ("reject", "reject", "", ""),
        ('reject "why not"', "reject", "why not", "why not"),
        ('error = "before"; reject', "reject", "", "before"),
        ('error = "before"; drop "after"', "drop", "after", "after"),
        ("forward tcp://x:1", "forward", "tcp://x:1", ""),
        ('x = 5; server "s${x}"', "server", "s5", ""),
        ("call-server s", "server", "s", ""),
        ('return "forward tcp://x"', "forward", "tcp://x", ""),
        ('x = "a b"; return "forward  ${x} "', "forward", "a b", ""),
        ('return "call-server s"', "server", "s", ""),
        ('return "reject no way"', "reject", "no way", "no way"),
        ("return accept", "accept", "", ""),
        ("exit accept", "accept", "", ""),
        ('exit "forward u"', "forward", "u", ""),
        ('result = "forward u"', "forward", "u", ""),
        ('x = "drop"; result = $x', "drop", "", ""),
    ],
)
def test_verbs_and_targets(text: str, verb: str, target: str, error: str) -> None:
    """Every way to decide: the verb, ``return`` and ``exit`` of a literal, an assignment to ``$result``."""
    outcome = run(text)
    assert (outcome.verb, outcome.target, outcome.error, outcome.decided, outcome.ok) == (
        verb,
        target,
        error,
        True,
        True,
    )


@pytest.mark.parametrize(
    "text",
    [
        'x = "forward u"; return $x',
        'return $(append "forward u")',
        'v = "forward"; return "${v} u"',
        'return "forwards u"',
        'x = "accept"; exit $x',
        'u = "u"; return "forward${u}"',
        'return --from lib "an accept"',
        'error "accept"',
    ],
)
def test_data_does_not_decide(text: str) -> None:
    """Only the text of the chain names a verb."""
    outcome = point(lib(main=text), default="drop").run({})
    assert outcome.decided is False


@pytest.mark.parametrize(
    "text",
    ['forward ""', "x = ''; forward $x", 'return "forward"', 'x = ""; return "forward ${x}"', 'result = "server "'],
)
def test_an_empty_target_is_misuse(text: str) -> None:
    """It ends the run with the fail verb; the message says which verb."""
    outcome = run(text)
    assert (outcome.ok, outcome.verb, outcome.code) == (False, "reject", "PC-RUN-EMPTY-TARGET")


def test_exit() -> None:
    """It ends the list from any depth; a value becomes ``$result``, without one all stays as it was set."""
    outcome = blocks(a='result = "forward u"\nx = $(exec _out)\naccept', _out="exit; accept", b="accept")
    assert (outcome.verb, outcome.target, outcome.value) == ("forward", "u", "forward u")
    outcome = blocks(a="exec _out; accept", _out="exit 5")
    assert (outcome.verb, outcome.value, outcome.ok, outcome.where) == ("reject", 5, True, "main:_out:1")


# -- collections, inputs, iteration ------------------------------------------------------------------------------------


def test_collections_are_references_and_literals_are_fresh() -> None:
    """An alias sees the change; every evaluation of a literal makes another collection."""
    assert run("a = [1]\nb = $a\nlist-push b 2\nresp = $a").resp == [1, 2]
    assert run("for i in [1, 2] then\na = []\nlist-push a $i\nend\nresp = $a").resp == [2]


@pytest.mark.parametrize(
    "change",
    ["map-add m b 1", "$m.a = 2", "map-remove m a", "n = $m; map-add n b 1", "$l[0].b = 1", "delete m.a",
     "exec _change"],
)  # fmt: skip
def test_a_collection_under_iteration_cannot_be_changed(change: str) -> None:
    """Through any alias and from any depth."""
    outcome = blocks(a=f"m = {{a: 1}}\nl = [$m]\nfor k in $m then\n{change}\nend", _change="$m.a = 2")
    assert (outcome.code, outcome.verb) == ("PC-RUN-ITERATED", "reject")


def test_after_the_loop_it_can() -> None:
    """However the loop was left: at its end, by break, by return under exec."""
    assert run("m = {a: 1}\nfor k in $m then break; end\nmap-add m b 2\nresp = $m").resp == {"a": 1, "b": 2}
    outcome = blocks(a="m = {a: 1}\nexec _f\nmap-add m b 2\nresp = $m", _f="for k in $m then map-create x; return; end")
    assert outcome.resp == {"a": 1, "b": 2}


def test_read_only_inputs_are_frozen_through_every_alias() -> None:
    """Reading and holding references is free; a write through any of them is misuse."""
    inputs = {"REQ": {"h": {"a": [1]}}}
    for change in ("x = $REQ.h; map-add x b 1", "x = $REQ.h.a; list-push x 2",
                   "m = {k: $REQ}; $m.k.h.a[0] = 5", "for a in $REQ then x = $REQ[$a]; $x.a = 1; end"):  # fmt: skip
        outcome = run(change, inputs)
        assert outcome.code == "PC-RUN-READ-ONLY", change
    assert inputs == {"REQ": {"h": {"a": [1]}}}


def test_writable_inputs_are_copied_at_the_first_write() -> None:
    """The host's object is not touched, every alias is one into the run's copy, and outputs have what was changed."""
    inputs = {"RESP": {"h": {"a": 1}, "l": [1]}}
    outcome = run(
        "x = $RESP.h\nRESP.h.b = 2\nmap-add x c 3\nlist-push $RESP.l 2\n$RESP.h.c == 3 && resp = true", inputs
    )
    assert outcome.resp is True
    assert outcome.outputs == {"RESP": {"h": {"a": 1, "b": 2, "c": 3}, "l": [1, 2]}}
    assert inputs == {"RESP": {"h": {"a": 1}, "l": [1]}}


def test_outputs_hold_only_what_was_changed() -> None:
    """Reading, holding and copying are no change; assigning the whole input is one."""
    inputs = {"RESP": {"h": {"a": 1}}}
    assert run("x = $RESP.h\nm = {}\nmap-add m a $x", inputs).outputs == {}
    assert run("RESP = 5", inputs).outputs == {"RESP": 5}
    assert run('RESP.h.a = 2\nerror "no"', inputs).outputs == {}


def test_a_frozen_collection_that_is_copied_into_is_still_frozen() -> None:
    """The first write of a run to a collection of its own leaves the inputs frozen."""
    assert run("m = {}\nmap-add m a 1\nx = $REQ\nmap-add x b 1", {"REQ": {}}).code == "PC-RUN-READ-ONLY"


# -- policy strict -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["x = $REQ.none", "append $nothing", "$nothing", 'x = "${REQ.a.b}"', "x = $REQ[$nothing]"]
)
def test_strict_refuses_to_read_what_is_missing(text: str) -> None:
    """The error names the variable and the place."""
    outcome = point(lib(main=text), missing="strict").run({"REQ": {"a": 1}})
    assert (outcome.code, outcome.verb) == ("PC-RUN-MISSING", "reject")
    assert "at main:main:main, line 1" in outcome.error
    assert point(lib(main=text)).run({"REQ": {"a": 1}}).ok


@pytest.mark.parametrize("text", ["x = $REQ?.none", 'x = ${nothing ?? "d"}', "type nothing", "x = $REQ.a"])
def test_strict_allows_what_says_that_it_may_be_missing(text: str) -> None:
    """``?.`` and ``??``, and commands that ask about variables."""
    assert point(lib(main=text), missing="strict").run({"REQ": {"a": 1}}).ok


def test_delete_at_another_level_declares_nothing() -> None:
    """``--chain`` says where to look; the name keeps the level that it has in the text."""
    assert run("x = 1\nlocal x = 2\ndelete --chain x\nresp = [$x, $(delete --chain x)]").resp == [
        2,
        "delete: there is no $x",
    ]


def test_a_loop_name_that_is_deleted_in_the_loop_reads_outward() -> None:
    """What ``delete`` takes away is gone at once, also where the loop gave the value."""
    assert run("a = 1\nfor a in [2] then\ndelete a\nresp = $a\nend").resp == 1
    assert run("__key = 1\nmap [2] $(delete __key && resp = $__key)").resp == 1
