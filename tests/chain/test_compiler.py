"""What blocks become: code that does what the commands do, can be explained, is cached, and knows its lines."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.chain import comparing, values
from common.chain.commands.builtin import BUILTIN
from common.chain.commands.spec import Err, Param, Registry, Spec
from common.chain.compiler import FILE_NAME, Cache, Compiled, compile_block, translate
from common.chain.emitter import GUARDS_MAX, Config
from common.chain.errors import ChainErrors
from common.chain.explain import explain
from common.chain.lowering import LOWERINGS
from common.chain.run import Access
from common.chain.runtime import evaluate
from common.chain.support import NAMES
from common.chain.verbs import Verbs
from tests.chain.mounting import lib, point, run

CONFIG = Config({"REQ": Access.READ_ONLY}, BUILTIN, Verbs())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.0, 1.0, -2.5, 3.0]),
    st.sampled_from(["", "1", "2.0", "-3", "true", "a", "ab", "b", "1e0"]),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2))
PAIRS = (
    "eq",
    "ne",
    "gt",
    "ge",
    "lt",
    "le",
    "starts-with",
    "ends-with",
    "strip-prefix",
    "strip-suffix",
    "append",
    "oneof",
)
TEXTS = ("starts-with", "ends-with", "strip-prefix", "strip-suffix", "append")


def compiled(text: str) -> Compiled:
    """A block for a hook point with the input REQ."""
    return compile_block(text, CONFIG)


def source(text: str) -> str:
    """The Python code of a block."""
    return ast.unparse(translate(text, CONFIG)[1])


def called(name: str, *args: Any, loose: bool = False) -> tuple[bool, Any]:
    """Status and value as the command's own code gives them."""
    spec = BUILTIN.get(name)
    assert spec is not None
    assert spec.call is not None
    given = [values.text(arg) for arg in args] if name in TEXTS else list(args)
    result = spec.call(*given, **({"loose": True} if loose else {}))
    if isinstance(result, Err):
        return False, result.value
    return (bool(result), result) if spec.predicate else (True, result)


def literal(value: Any) -> str:
    """A scalar as it stands in a chain's text."""
    return f"'{value}'" if isinstance(value, str) else values.to_json(value)


def spelled(name: str, value: Any) -> Any:
    """A literal as the command gets it: a number keeps its spelling where text is wanted."""
    return literal(value) if name in TEXTS and type(value) in (int, float) else value


def same(left: tuple[bool, Any], right: tuple[bool, Any]) -> bool:
    """Equal in status, type and value."""
    return left[0] is right[0] and comparing.equal(left[1], right[1])


# -- lowering ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(PAIRS), VALUES, VALUES)
def test_a_lowering_does_what_the_command_does(name: str, left: Any, right: Any) -> None:
    """Two variables: the lowered code gives the command's own status and value, for every type of value."""
    ok, value, _ = evaluate(f"{name} $LEFT $RIGHT", {"LEFT": left, "RIGHT": right})
    assert same((ok, value), called(name, left, right))


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(PAIRS), VALUES, SCALARS, st.booleans())
def test_a_lowering_with_a_literal_does_what_the_command_does(name: str, left: Any, right: Any, swap: bool) -> None:
    """A literal on either side is specialised to the same result."""
    if swap and name != "oneof":
        ok, value, _ = evaluate(f"{name} {literal(right)} $LEFT", {"LEFT": left})
        assert same((ok, value), called(name, spelled(name, right), left))
    else:
        ok, value, _ = evaluate(f"{name} $LEFT {literal(right)}", {"LEFT": left})
        assert same((ok, value), called(name, left, spelled(name, right)))


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(("eq", "ne", "gt", "ge", "lt", "le")), VALUES, VALUES)
def test_loose_lowerings_do_what_the_command_does(name: str, left: Any, right: Any) -> None:
    """``--loose`` likewise, and the operators are its other spelling."""
    wanted = called(name, left, right, loose=True)
    ok, value, _ = evaluate(f"{name} --loose $LEFT $RIGHT", {"LEFT": left, "RIGHT": right})
    assert same((ok, value), wanted)
    operator = {"eq": "==", "ne": "!=", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}[name]
    ok, value, _ = evaluate(f"$LEFT {operator} $RIGHT", {"LEFT": left, "RIGHT": right})
    assert same((ok, value), wanted)


@settings(deadline=None, max_examples=60)
@given(SCALARS, SCALARS, st.sampled_from(PAIRS))
def test_literals_alone_are_folded_to_what_the_command_gives(left: Any, right: Any, name: str) -> None:
    """A call that its text settles is settled when it is loaded, with the same result."""
    ok, value, _ = evaluate(f"{name} {literal(left)} {literal(right)}")
    assert same((ok, value), called(name, spelled(name, left), spelled(name, right)))


@settings(deadline=None, max_examples=60)
@given(VALUES, st.lists(SCALARS, min_size=1, max_size=4))
def test_oneof_with_several_literals(value: Any, candidates: list[Any]) -> None:
    """Candidates of one class, of several, and Null: the same as comparing with each."""
    ok, found, _ = evaluate(f"oneof $V {' '.join(map(literal, candidates))}", {"V": value})
    assert same((ok, found), called("oneof", value, *candidates))


def test_every_lowering_is_of_a_command_of_the_language() -> None:
    """A lowering without its command would be code that nothing proves."""
    for name in LOWERINGS:
        spec = BUILTIN.get(name)
        assert spec is not None
        assert spec.call is not None


def test_a_host_command_of_a_lowered_name_is_called() -> None:
    """Lowerings are for the language's own commands: a host's ``eq`` in a registry of its own is the host's."""
    spec = Spec("eq", "host", "", (Param("a", ""), Param("b", "")), call=lambda a, b: f"{a}!{b}")
    assert evaluate("eq 1 2", registry=Registry([spec]))[:2] == (True, "1!2")


# -- shape of the code -------------------------------------------------------------------------------------------------


def test_predicates_stand_in_the_conditions() -> None:
    """A guard of plain comparisons is one Python ``if`` without a call or a register."""
    code = source('local a = "x"\nif eq $a "y" && $a != "z" then echo $a; end')
    assert "if b_a == 'y' and b_a != 'z':" in code


def test_block_names_are_locals_and_chain_names_are_not() -> None:
    """What is the block's alone never touches the chain's dict."""
    code = source("local a = 1\nb = $a")
    assert "b_a = 1" in code
    assert "c['b'] = b_a" in code


def test_there_are_no_closures_and_no_handlers() -> None:
    """first-ok, capture, map and match-result are inline: a block is one function without ``try``, ``def``, lambda."""
    _, tree = translate(
        "first-ok $(eq 1 $REQ) $(capture --value v $(append a $REQ))\n"
        "map $REQ $(append $__key)\nmatch-result $(parse-uri $REQ) ok(a) echo $a; err(b) echo $b; end",
        CONFIG,
    )
    kinds = [type(node).__name__ for node in ast.walk(tree)]
    assert kinds.count("FunctionDef") == 1
    assert not {"Lambda", "Try", "ListComp", "DictComp", "GeneratorExp", "Import", "With"} & set(kinds)


def test_a_blocks_world_has_no_builtins() -> None:
    """The function's globals reach the helpers and nothing else of Python."""
    made = point(lib(main='echo "a"'))
    world = made.program.libs[0].chains[0].blocks[0].function.__globals__
    assert world["__builtins__"] == {}
    assert set(world) - set(NAMES) == {"__block__", "k0", "string_quarter0"}


def test_user_text_is_never_code() -> None:
    """Texts become constants and names become names, whatever they look like."""
    text = "local __import__ = 1\nresult = \"'); import os; ('\"\nlocal None = $__import__\nresp = $None"
    outcome = run(text)
    assert (outcome.value, outcome.resp) == ("'); import os; ('", 1)


# -- explain, cache, limits --------------------------------------------------------------------------------------------


def test_explain_shows_every_line_with_its_code() -> None:
    """The code of a line stands under it, heads before bodies; globals are named below."""
    text = 'if eq $REQ.a "x" then\n  return "yes"\nend\nforward "u"'
    assert explain(lib(main=text), CONFIG) == (
        "main:main:main\n"
        '   1 | if eq $REQ.a "x" then\n'
        "           t1 = run.left - 1\n"
        "           run.left = t1\n"
        "           if t1 < 0:\n"
        "               run.look()\n"
        "           if (t2.get('a', '') if (t2 := (c['REQ'] if 'REQ' in c else run.inputs.get('REQ', M)"
        " if run.globals is None else outer(run, 'REQ', M))).__class__ is dict else at(t2, 'a', '')) == 'x':\n"
        '   2 |   return "yes"\n'
        "               return signal0\n"
        "   3 | end\n"
        '   4 | forward "u"\n'
        "           return signal1\n"
        "       signal0 = the signal (1, 'yes') of line 2\n"
        "       signal1 = the signal (14, 'u') of line 4"
    )


def test_explain_is_deterministic() -> None:
    """The same text gives the same explanation, byte for byte."""
    text = 'x = $(match-reg $REQ.h "a+")\nexec other || goto $x\nfor a in $REQ then choice $a; end'
    assert explain(lib(main=text), CONFIG) == explain(lib(main=text), CONFIG)


def test_a_second_load_of_the_same_text_compiles_nothing() -> None:
    """The cache goes by text, whatever block it stands in."""
    cache = Cache()
    first = cache.compiled("accept", CONFIG)
    assert cache.compiled("accept", CONFIG) is first
    assert (cache.hits, cache.misses) == (1, 1)


@pytest.mark.parametrize(
    "other",
    [
        Config({}, BUILTIN, Verbs()),
        Config({"REQ": Access.WRITABLE}, BUILTIN, Verbs()),
        Config({"REQ": Access.READ_ONLY}, BUILTIN, Verbs(("accept",))),
        Config({"REQ": Access.READ_ONLY}, BUILTIN, Verbs(), strict=True),
        Config({"REQ": Access.READ_ONLY}, BUILTIN, Verbs(), traced=True),
        Config({"REQ": Access.READ_ONLY}, BUILTIN.extended([]), Verbs()),
    ],
)
def test_the_cache_tells_configurations_apart(other: Config) -> None:
    """Inputs, verbs, policy, trace and commands change the code, so each has its own."""
    cache = Cache()
    cache.compiled("accept", CONFIG)
    cache.compiled("accept", other)
    assert cache.misses == 2


def test_the_cache_forgets_the_least_recently_used() -> None:
    """It is bounded."""
    cache = Cache(blocks_max=2)
    for text in ("accept", "drop", "accept", "reject", "drop"):
        cache.compiled(text, CONFIG)
    assert (cache.hits, cache.misses) == (1, 4)


def test_too_many_substitutions_in_one_statement_are_a_load_error() -> None:
    """Each that can fail nests the rest of the statement; the limit has its own error."""
    calls = "$(parse-uri $REQ) " * GUARDS_MAX
    with pytest.raises(ChainErrors) as caught:
        compiled(f"append {calls}")
    assert caught.value.errors[0].code == "PC-LINK-COMPLEX"
    compiled(f"append {'$(parse-uri $REQ) ' * (GUARDS_MAX - 1)}")


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * 5000,
        " && ".join(["x = $(append a $REQ)"] * 300),
        " || ".join(["eq $REQ $x"] * 2000),
        "if true then\n" * 15 + "for a in $REQ then\nx = $a\nend\n" + "end\n" * 15,
        "case then\n" + "when x = $(parse-uri $REQ) then echo a\n" * 99 + "end",
    ],
    ids=["long", "and", "or", "nested", "branches"],
)
def test_large_blocks_compile(text: str) -> None:
    """What the load limits allow is within what Python's compiler takes."""
    assert compiled(text).code.co_filename == FILE_NAME


def test_a_statement_that_nests_too_deep_for_python_is_a_load_error() -> None:
    """Two thousand assignments joined by ``&&`` nest as many ``if``: an error of the text, no RecursionError."""
    with pytest.raises(ChainErrors) as caught:
        compiled(" && ".join(["x = $(append a $REQ)"] * 2000))
    assert [error.code for error in caught.value.errors] == ["PC-LINK-COMPLEX"]


@pytest.mark.parametrize("loops", [1, 16])
def test_loops_nest_as_deep_as_statements_may(loops: int) -> None:
    """Python allows 20 nested loops, the language 16 nested statements."""
    text = "".join(f"for v{at} in [1, 2] then\n" for at in range(loops)) + "n = 1\n" + "end\n" * loops
    outcome = run(text)
    assert (outcome.steps, outcome.code) == ((3, "") if loops == 1 else (10_000, "PC-LIMIT-STEPS"))


# -- places ------------------------------------------------------------------------------------------------------------


def test_an_error_of_a_run_shows_line_column_and_caret() -> None:
    """Positions of the generated code are those of the block's text."""
    outcome = run('x = [1]\n  for a in $x then\n    list-push x "é" ; end', {})
    assert outcome.error == (
        "PC-RUN-ITERATED: this collection is being iterated and cannot be changed\n"
        "  at main:main:main, line 3, column 5\n"
        '  |     list-push x "é" ; end\n'
        "  |     ^^^^^^^^^^^^^^^"
    )
    assert outcome.where == "main:main:3"


def test_the_place_of_a_nested_call_is_the_innermost_block() -> None:
    """An error under exec names the block whose code it was."""
    made = point(lib(main={"a": "exec _b", "_b": "\nx = 1; REQ2 = $(forward $nothing)"}))
    outcome = made.run({})
    assert (outcome.code, outcome.where) == ("PC-RUN-EMPTY-TARGET", "main:_b:2")
