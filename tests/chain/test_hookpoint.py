"""The host's side: mounting while runs go on, what an outcome holds, host commands, trace, failing closed (L7)."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from common.chain.commands.builtin import BUILTIN
from common.chain.commands.spec import Err, Opt, Param, Registry, Spec
from common.chain.errors import ChainErrors
from common.chain.hookpoint import Access, Budgets, Engine, HookPoint, Shape, Verbs
from common.chain.nodes import BlockSource, ChainSource, LibSource
from common.clock import ManualClock
from tests.chain.mounting import lib, point, run

# -- outcomes ----------------------------------------------------------------------------------------------------------


def test_a_run_in_which_nothing_decides_has_the_default_verb() -> None:
    """``$result`` begins as the default verb's word; ``decided`` tells the default from a decision."""
    outcome = point(lib(main="resp = $result"), default="drop").run({})
    assert (outcome.verb, outcome.target, outcome.value, outcome.resp) == ("drop", "", "drop", "drop")
    assert (outcome.decided, outcome.ok, outcome.error, outcome.where, outcome.steps) == (False, True, "", "", 1)


def test_a_point_without_lists_has_the_default_verb() -> None:
    """Nothing mounted is nothing decided."""
    assert point().run({}).verb == "reject"


@pytest.mark.parametrize(
    "text", ['error "bad"', "x = ''; forward $x", "exec main", 't = "no"; exec $t', "for a in [1] then goto main; end"]
)
def test_a_run_that_fails_has_the_fail_verb(text: str) -> None:
    """Never the default verb, never a verb that was set before, and no outputs."""
    made = point(lib(main=f'result = "forward u"\nRESP = 1\n{text}'), default="accept", fail="drop")
    outcome = made.run({"RESP": 0})
    assert (outcome.ok, outcome.verb, outcome.target, outcome.decided) == (False, "drop", "", False)
    assert outcome.outputs == {}
    assert outcome.error


def test_a_command_that_raises_fails_the_run() -> None:
    """Whatever breaks, the run fails closed, with the place in the message, and the host gets no exception."""
    spec = Spec("boom", "host", "", call=lambda: 1 // 0)
    outcome = point(lib(main="accept_not = 1\nboom"), engine=Engine(BUILTIN.extended([spec]))).run({})
    assert (outcome.verb, outcome.ok, outcome.code, outcome.where) == ("reject", False, "PC-RUN-COMMAND", "main:main:2")
    assert outcome.error == (
        "PC-RUN-COMMAND: a command failed with ZeroDivisionError: integer division or modulo by zero\n"
        "  at main:main:main, line 2, column 1\n  | boom\n  | ^^^^"
    )


def test_an_input_that_the_host_leaves_out_is_missing() -> None:
    """Declared, and not given: reads find nothing."""
    assert run('$REQ.path == "" && accept').verb == "accept"


def test_the_outcome_shows_what_the_host_looks_at() -> None:
    """Its text is for people who look for what went wrong."""
    assert repr(run("accept")) == (
        "Outcome(verb='accept', target='', value='reject', ok=True, error='', resp='', outputs={}, steps=1,"
        " where='main:main:1')"
    )


# -- declaring ---------------------------------------------------------------------------------------------------------


def test_a_default_or_fail_verb_must_be_declared() -> None:
    """A typing error of the host is found when it declares the point."""
    with pytest.raises(ValueError, match="accept is no verb of this hook point"):
        HookPoint("x", verbs=("reject",), default="accept")
    with pytest.raises(ValueError, match="missing is one of lenient, strict, not lax"):
        HookPoint("x", missing="lax")


def test_verbs_of_the_hosts_own() -> None:
    """A verb may take nothing, a reason, a target, or one that may be left out; its name is a command then."""
    verbs = Verbs({"reject": Shape.REASON, "queue": Shape.TARGET, "hold": Shape.OPTIONAL, "pass": Shape.NOTHING})
    for text, wanted in {
        "queue slow": ("queue", "slow"),
        "hold": ("hold", ""),
        'hold "5s"': ("hold", "5s"),
        "pass": ("pass", ""),
        'return "queue ${result}"': ("queue", "reject"),
        "exit pass": ("pass", ""),
    }.items():
        outcome = run(text, verbs=verbs)
        assert (outcome.verb, outcome.target) == wanted
    assert run('queue ""', verbs=verbs).code == "PC-RUN-EMPTY-TARGET"
    with pytest.raises(ChainErrors, match="PC-LINK-ARITY"):
        run("pass now", verbs=verbs)


def test_inputs_and_run_variables_do_not_leak_into_the_next_run() -> None:
    """Globals, chain variables, results and copies live for one run."""
    made = point(lib(main="resp = [$g, $x, $RESP.n, $error]\nglobal g = 1\nx = 1\nRESP.n = 5\nerror = 'e'"))
    for _ in range(2):
        assert made.run({"RESP": {"n": 0}}).resp == ["", "", 0, ""]


# -- mounting ----------------------------------------------------------------------------------------------------------


def test_several_lists_run_in_the_order_of_mounting_and_share_globals() -> None:
    """``return --from lib`` ends its list and the next one runs; a terminal or an error ends the run."""
    first, second = lib("a", m='global g = 1\nreturn --from lib "a"'), lib("b", m="x = 1\nresp = [$result, $g]")
    assert point(first, second).run({}).resp == ["a", 1]
    assert point(second, first).run({}).resp == ["reject", ""]
    assert point(lib("a", m="accept"), lib("b", m="drop")).run({}).verb == "accept"
    assert point(lib("a", m="error 1"), lib("b", m="accept")).run({}).verb == "reject"
    assert point(lib("a", m="exit 1"), lib("b", m="accept")).run({}).verb == "reject"


def test_chains_and_blocks_run_by_priority_then_position() -> None:
    """The lowest first; equal ones as they stand."""
    blocks = [BlockSource(id, f'global n = "${{n}}{id}"', priority) for id, priority in (("c", 2), ("a", 1), ("b", 1))]
    chains = [ChainSource("late", (BlockSource("z", "resp = $n"),), 9), ChainSource("early", tuple(blocks), -1)]
    assert point(LibSource("main", tuple(chains))).run({}).resp == "abc"


def test_unmounting_takes_a_list_away_and_the_rest_stays() -> None:
    """What is not mounted cannot be taken away."""
    made = point(lib("a", m="global g = 1"))
    mounted = made.mount(lib("b", m="accept"))
    assert made.run({}).verb == "accept"
    made.unmount(mounted)
    assert made.run({}).verb == "reject"
    with pytest.raises(ValueError, match="b is not mounted on main"):
        made.unmount(mounted)


def test_mounting_is_all_or_nothing() -> None:
    """One wrong list among several, or an id that is there: the error has all of it, and nothing has changed."""
    made = point(lib("a", m="accept"))
    with pytest.raises(ChainErrors) as caught:
        made.mount_all([lib("ok", m="drop"), lib("bad", m="nothing"), lib("a", m="drop")])
    found = [(error.code, error.where, error.span.line) for error in caught.value.errors]
    assert found == [("PC-LINK-UNKNOWN-COMMAND", "bad:m:main", 1), ("PC-LINK-DUPLICATE", "a:m:main", 1)]
    assert [mounted.id for mounted in made.mounted] == ["a"]
    assert made.run({}).verb == "accept"


def test_ids_are_unique() -> None:
    """Blocks of a chain and chains of a list."""
    double = ChainSource("c", (BlockSource("b", "accept"), BlockSource("b", "drop")))
    with pytest.raises(ChainErrors) as caught:
        point(LibSource("l", (double, double)))
    blocks, chains = (
        f"""PC-LINK-DUPLICATE: there are two {what}
  at l:c:b, line 1, column 1
  | {line}"""
        for what, line in (("blocks with the id b", "drop\n  | ^^^^"), ("chains with the id c", "accept\n  | ^^^^^^"))
    )
    assert [str(error) for error in caught.value.errors] == [blocks, blocks, chains]


def test_a_run_sees_the_lists_that_were_mounted_when_it_began() -> None:
    """A command that unmounts everything in the middle of a run changes the next run, not this one."""
    made: list[HookPoint] = []

    def clear() -> bool:
        for mounted in made[0].mounted:
            made[0].unmount(mounted)
        return True

    engine = Engine(BUILTIN.extended([Spec("clear", "host", "", call=clear, effects=("writes",))]))
    made.append(point(lib("a", m="clear"), lib("b", m="accept"), engine=engine))
    assert made[0].run({}).verb == "accept"
    assert made[0].run({}).verb == "reject"


def test_mounting_from_a_thread_while_runs_go_on() -> None:
    """Every run has one of the two answers, and none fails."""
    made = point(lib("a", m="global g = 1"))
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            made.unmount(made.mount(lib("b", m="accept")))

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        seen = {(outcome.verb, outcome.ok) for outcome in (made.run({}) for _ in range(3000))}
    finally:
        stop.set()
        thread.join()
    assert seen <= {("accept", True), ("reject", True)}


def test_global_chains() -> None:
    """Any hook point's chains may call them, and they one another; they run only when called."""
    engine = Engine(
        libs={
            "util": lib("util", util={"a": "exec more:more:m", "b": 'return "b"'}),
            "more": lib("more", more={"m": "global g = 5"}),
        }
    )
    made = point(lib(m="v = $(exec util)\nresp = [$v, $g, $(exec util:util:b)]"), engine=engine)
    assert made.run({}).resp == ["b", 5, "b"]
    assert point(engine=engine).run({}).resp == ""


def test_a_wrong_global_chain_is_an_error_of_the_mount() -> None:
    """It is compiled for the hook point's inputs and verbs, when that first mounts something."""
    engine = Engine(libs={"util": lib("util", util="nothing")})
    with pytest.raises(ChainErrors, match=r"at util:util:main, line 1"):
        point(lib(m="accept"), engine=engine)


def test_wrong_global_chains_hide_nothing() -> None:
    """What is wrong with them comes once, and with it what is wrong with each of the lists."""
    made = HookPoint("main", engine=Engine(libs={"util": lib("util", util="nothing")}))
    with pytest.raises(ChainErrors) as caught:
        made.mount_all([lib("a", m="one"), lib("b", m="exec two")])
    assert [error.message for error in caught.value.errors] == [
        "unknown command nothing", "unknown command one", 'exec: there is no block or chain "two"',
    ]  # fmt: skip
    assert not made.mounted


# -- commands of the host ----------------------------------------------------------------------------------------------


def test_a_host_command_is_a_plain_function() -> None:
    """Arguments, options, predicates, Err and captures work as for the language's own."""
    specs = [
        Spec("twice", "host", "", (Param("n", ""),), call=lambda n: n * 2 if type(n) is int else Err("no")),
        Spec("near", "host", "", (Param("a", ""),), (Opt("by", "", type="any"),), predicate=True,
             call=lambda a, by=0: a <= by),
        Spec("cut", "host", "", (Param("t", "", type="text"),), (Opt("rest", "", out=True),),
             call=lambda t: t[:1], capturing=lambda t: (t[:1], t[1:])),
    ]  # fmt: skip
    engine = Engine(BUILTIN.extended(specs))
    text = "a = $(twice 4)\nb = $(twice $nothing)\nnear 3 --by 5 && c = 1\ncut --rest r 123\nresp = [$a, $b, $c, $r]"
    assert point(lib(m=text), engine=engine).run({}).resp == [8, "no", 1, "23"]


def test_a_registry_without_a_command_does_not_know_it() -> None:
    """Only what is registered exists."""
    with pytest.raises(ChainErrors, match="PC-LINK-UNKNOWN-COMMAND: unknown command append"):
        point(lib(m="append a"), engine=Engine(Registry([BUILTIN.get("return")])))  # type: ignore[list-item]


def test_chance_and_choice_follow_the_seed() -> None:
    """Two engines with one seed decide alike, run after run."""
    text = "choice [1, 2, 3, 4, 5, 6, 7, 8]\nresp = $(choice [1, 2, 3, 4, 5, 6, 7, 8])"

    def drawn(seed: int) -> list[Any]:
        made = point(lib(m=text), engine=Engine(seed=seed))
        return [made.run({}).resp for _ in range(20)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_token_buckets_are_the_engines() -> None:
    """Two points of one engine share them; they refill by the engine's clock."""
    clock = ManualClock()
    engine = Engine(clock=clock)
    first, second = (point(lib(m="limit k 1 2 && accept"), engine=engine) for _ in range(2))
    assert [made.run({}).verb for made in (first, second, first)] == ["accept", "accept", "reject"]
    clock.advance(1.0)
    assert [made.run({}).verb for made in (first, second)] == ["accept", "reject"]


def test_without_a_clock_time_stands_still() -> None:
    """An engine that is given no clock takes none: ``now`` is 0, buckets do not refill, and steps end a long run."""
    made = point(lib(m="resp = $(now); limit k 1 1 && accept"))
    outcomes = [made.run({}) for _ in range(2)]
    assert [(outcome.resp, outcome.verb) for outcome in outcomes] == [(0, "accept"), (0, "reject")]
    assert point(lib(m="goto m")).run({}).code == "PC-LIMIT-GOTO"


# -- echo, log, trace --------------------------------------------------------------------------------------------------


def test_echo_goes_to_the_outcome_and_to_the_log() -> None:
    """So does the error that ends a run."""
    log: list[str] = []
    outcome = point(lib(m="echo a b\necho c\nt = 'x'; exec $t"), engine=Engine(log=log.append)).run({})
    assert list(outcome.output) == ["a b", "c"]
    assert log == ["a b", "c", outcome.error]


def test_trace_has_every_statement_that_ran() -> None:
    """In the order of beginning: chain, block, line, status, value, seconds."""
    text = """x = 1
if eq $x 1 then
  eq $x 2
else
  echo no
end
exec _b || y = 3
for a in [1, 2] then
  $a == 2 && break
end
accept
drop"""
    made = point(lib(main={"a": text, "_b": 'error "e"'}))
    trace: list[Any] = []
    outcome = made.run({}, trace)
    assert (outcome.verb, outcome.where) == ("accept", "main:a:11")
    assert [tuple(entry[1:5]) for entry in trace] == [
        ("a", 1, True, 1), ("a", 2, False, False), ("a", 3, False, False), ("a", 7, True, 3), ("_b", 1, False, "e"),
        ("a", 8, True, ""), ("a", 9, False, False), ("a", 9, True, ""), ("a", 11, True, ""),
    ]  # fmt: skip
    assert all(entry[0] == "main" and entry[5] >= 0 for entry in trace)


def test_trace_has_values_as_they_were() -> None:
    """What a later statement changes in a collection is not in the entries before; what holds itself has an entry."""
    trace: list[Any] = []
    point(lib(m="a = []\nlist-push a 1\nb = $a\nlist-push a $a\nb = $a")).run({}, trace)
    assert [entry[4] for entry in trace][:4] == [[], 1, [1], 2]
    assert trace[4][4][1] is trace[4][4]


def test_a_traced_run_decides_as_an_untraced_one() -> None:
    """The same program, compiled with trace."""
    made = point(lib(main={"a": 'x = $(exec _b)\nforward "${x}"', "_b": "return $REQ.u"}))
    for inputs in ({"REQ": {"u": "a"}}, {"REQ": {}}):
        plain, traced = made.run(inputs), made.run(inputs, [])
        assert (plain.verb, plain.target, plain.code, plain.steps) == (
            traced.verb,
            traced.target,
            traced.code,
            traced.steps,
        )


def test_budgets_refuse_what_makes_no_sense() -> None:
    """A budget below its least value is a mistake of the host's."""
    with pytest.raises(ValueError, match="steps_max"):
        Budgets(steps_max=0)


def test_access_of_inputs() -> None:
    """What the point declares is what the chains may do."""
    made = point(lib(m="A.x = 1\nx = $B.x"), inputs={"A": Access.WRITABLE, "B": Access.READ_ONLY})
    assert made.run({"A": {}, "B": {"x": 1}}).outputs == {"A": {"x": 1}}
