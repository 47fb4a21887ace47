"""``chain lint``: every finding with its exact text and place, and nothing about chains that are right (L12)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.chain.errors import ChainErrors
from common.chain.hookpoint import Engine, HookPoint
from common.chain.lint import Severity, lint
from common.chain.loader import load_yaml, single
from tests.chain.linting_support import POINT, codes, lines, short
from tests.chain.test_fuzz_parser import work_of
from tests.chain.test_parser import MEANING, cases
from tests.support.examples import examples

LINTING = Path(__file__).parent / "linting"
CASES = [case for path in sorted(LINTING.glob("*.txt")) for case in cases(path)]

TWO_CHAINS = """\
main:
  first:
    blocks:
      set:
        block: |
          mine = 1
          global ours = 2
          echo $mine $ours
      helper:
        block: eq $REQ.a 2 || error "no"
      call:
        block: exec helper || echo "none"
  second:
    blocks:
      get:
        block: |
          echo $mine $ours
          ours = 3
          eq $REQ.a 1 && return --from chain
          reject
"""


@pytest.mark.parametrize(("name", "text", "expected"), CASES, ids=[name for name, _, _ in CASES])
def test_findings(name: str, text: str, expected: str) -> None:
    """A block has exactly these findings."""
    assert lines(text, from_cyfs=name.startswith("cyfs")) == expected.split("\n") * bool(expected), name


def test_there_are_cases() -> None:
    """The files of cases are found and read, and every code of lint's own occurs in them, or in the tests below."""
    assert len(CASES) > 30
    said = {word for _, _, expected in CASES for word in expected.split() if word.startswith("PC-LINT-")}
    own = (
        "BARE",
        "FAULT",
        "LOOSE",
        "NO-VERB",
        "OVERWRITTEN",
        "SHADOWED",
        "TWICE",
        "UNKNOWN-NAME",
        "UNREACHABLE",
        "UNUSED",
    )
    cyfs = (
        "BARE",
        "CALL",
        "CAPTURE",
        "COMMAND",
        "CONTROL",
        "ERROR",
        "FORWARD",
        "GOTO",
        "KEY",
        "LEVEL",
        "MULTIMAP",
        "NUMBER",
    )
    assert said == {f"PC-LINT-{word}" for word in own} | {
        f"PC-LINT-CYFS-{word}" for word in (*cyfs, "ORDER", "RETURN", "WORD")
    }


def test_chains_of_a_list() -> None:
    """What is seen only with all blocks in view: variables of other chains, blocks that run twice, open ends."""
    found = lint(load_yaml(TWO_CHAINS, file="rules.yaml").values(), point=POINT)
    assert codes(found) == [
        "helper PC-LINT-TWICE",
        "get PC-LINT-OTHER-CHAIN",
        "get PC-LINT-SHADOWED",
        "get PC-LINT-NO-VERB",
    ]
    assert [(item.file, item.line) for item in found] == [("rules.yaml", line) for line in (10, 17, 18, 19)]


def test_text_of_a_finding() -> None:
    """A finding shows severity, code, file, line, block, and the source line with a caret."""
    found = lint(load_yaml(TWO_CHAINS, file="rules.yaml").values(), point=POINT)
    assert str(found[1]) == (
        "warning PC-LINT-OTHER-CHAIN: $mine is set in the chain main:first only, whose variables are its own: "
        "set it with global there\n"
        "  at rules.yaml:17, main:second:get, line 1, column 6\n"
        "  | echo $mine $ours\n"
        "  |      ^^^^^"
    )
    found = lint([single("eq a b")], from_cyfs=True)
    assert str(found[-1]) == (
        'warning PC-LINT-CYFS-BARE: "a" is a string and never a variable\n'
        "  at main:main:main, line 1, column 1\n"
        "  | eq a b\n"
        "  | ^^^^^^\n"
        "  write eq $a $b"
    )


def test_json_of_a_finding() -> None:
    """The same as data that JSON takes."""
    (finding,) = lint([single("echo $x\naccept")], point=POINT)
    assert json.loads(json.dumps(finding.as_json())) == {
        "code": "PC-LINT-UNKNOWN-NAME",
        "severity": "error",
        "message": "$x is set nowhere and is no input",
        "where": "main:main:main",
        "span": {"line": 1, "column": 6, "end_line": 1, "end_column": 8},
        "source": "echo $x",
        "file": "",
        "line": 0,
        "fix": "",
    }


def test_without_a_hook_point_names_may_be_inputs() -> None:
    """Without a declaration nobody can say that a name is unknown."""
    assert lint([single("forward $upstream")]) == []
    assert codes(lint([single("forward $upstream")], point=POINT)) == ["main PC-LINT-UNKNOWN-NAME"]


def test_global_chains_and_jumps() -> None:
    """Global chains may be called, and what they set counts; a goto takes the variables along."""
    shared = load_yaml("shared: {c: {blocks: {b: {block: 'global g = 1; echo'}}}}")
    point = HookPoint("main", engine=Engine(libs=shared))
    assert lint([single("exec shared:c:b; forward $g")], point=point) == []
    text = "a: {blocks: {x: {block: 'v = 1; goto b'}}}\nb: {run: false, blocks: {y: {block: 'forward $v'}}}"
    assert lint(load_yaml(text).values(), point=POINT) == []


@pytest.mark.parametrize("call", ["exec other", "exec other:enter", "invoke other", "invoke --block jump"])
def test_a_goto_stays_in_the_chain_that_is_called(call: str) -> None:
    """What a called chain jumps to replaces that chain, and then the caller goes on: its next line is no dead code."""
    own = (
        "a: {blocks: {x: {block: '%s; accept'}, jump: {run: false, block: goto last}, last: {run: false, block: echo}}}"
    )
    other = "other: {run: false, blocks: {enter: {block: goto on}, on: {run: false, block: echo}}}"
    assert lint(load_yaml(f"{own % call}\n{other}").values(), point=POINT) == []
    inlined = codes(lint(load_yaml(f"{own % 'exec jump'}\n{other}").values(), point=POINT))
    assert "x PC-LINT-UNREACHABLE" in inlined


def test_a_loop_fails_over_what_is_no_collection() -> None:
    """A block that ends with a loop over a variable may fail, one that ends with a loop over a list does not."""
    text = (
        "a: {blocks: {x: {block: 'exec y || reject; accept'}, y: {run: false, block: 'for x in %s then echo $x; end'}}}"
    )
    assert lint(load_yaml(text % "$NODES").values(), point=POINT) == []
    assert codes(lint(load_yaml(text % "[1, 2]").values(), point=POINT)) == ["x PC-LINT-UNREACHABLE"]


def test_what_a_target_means() -> None:
    """A target is looked for in the own list and in the global chains, not in lists that are mounted beside."""
    text = "a: {c: {blocks: {x: {block: 'exec d && accept || reject'}}}}\nb: {d: {blocks: {y: {block: accept}}}}"
    lists = load_yaml(text)
    assert codes(lint(lists.values(), point=POINT)) == ["x PC-LINK-TARGET"]
    point = HookPoint("main", engine=Engine(libs={"b": lists["b"]}))
    assert codes(lint([lists["a"]], point=point)) == ["x PC-LINT-UNREACHABLE"] * 2


def test_a_called_chain_runs_its_blocks() -> None:
    """A chain that does not run by itself, called by its id, runs the blocks that do not say otherwise."""
    text = """\
a: {blocks: {x: {block: 'exec b || reject; accept'}}}
b: {run: false, blocks: {y: {block: 'eq $REQ.a 1 || error "no"'}, z: {run: false, block: accept}}}
"""
    assert lint(load_yaml(text).values(), point=POINT) == []
    assert codes(lint(load_yaml(text.replace("|| error", "&& echo")).values(), point=POINT)) == []


def test_a_block_that_is_called() -> None:
    """The last statement of a called block gives its status to the caller: its fault is not untested there."""
    text = """\
c:
  blocks:
    a: {block: 'x = $(exec b) || reject; forward $x'}
    b: {run: false, block: 'parse-json $REQ.a'}
"""
    assert lint(load_yaml(text).values(), point=POINT) == []


def test_a_called_block_that_decides() -> None:
    """An exec whose block always decides ends the way; coming from cyfs, the verb in it is told."""
    text = """\
c:
  blocks:
    a: {block: "exec b\\naccept"}
    b: {run: false, block: "eq $REQ.a 1 && accept\\nreject"}
"""
    assert codes(lint(load_yaml(text).values(), point=POINT)) == ["a PC-LINT-UNREACHABLE"]
    found = lint(load_yaml(text).values(), point=POINT, from_cyfs=True)
    assert codes(found) == ["a PC-LINT-UNREACHABLE", "b PC-LINT-CYFS-VERB", "b PC-LINT-CYFS-VERB"]


def test_an_error_that_is_raised_again() -> None:
    """An exec alone passes an error on; a tested one does not."""
    text = """\
c:
  blocks:
    a: {block: "exec b"}
    b: {run: false, block: "error 1"}
    d: {block: "accept"}
"""
    assert lint(load_yaml(text).values(), point=POINT) == []
    found = lint(load_yaml(text.replace("exec b", "exec b || echo")).values(), point=POINT)
    assert codes(found) == []
    found = lint(load_yaml(text.replace("accept", "echo").replace("exec b", "exec b || echo")).values(), point=POINT)
    assert codes(found) == ["d PC-LINT-NO-VERB"]


def test_lint_and_mounting_agree() -> None:
    """A list mounts exactly when lint has no error of loading."""
    for text in ("accept", "ecko", "exec x", "a == 1", "if accept then end", "error --from here"):
        errors = [item for item in lint([single(text)]) if item.code.startswith(("PC-PARSE", "PC-LINK"))]
        if errors:
            with pytest.raises(ChainErrors) as caught:
                HookPoint("main").mount(single(text))
            assert [error.code for error in caught.value.errors] == [item.code for item in errors]
        else:
            HookPoint("main").mount(single(text))


def test_what_is_mounted_does_not_count() -> None:
    """Lint mounts nothing on the hook point that it is given."""
    point = HookPoint("main")
    lint([single("accept")], point=point)
    assert point.mounted == ()


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.sampled_from([text for text, _ in MEANING]), min_size=1, max_size=4))
def test_lint_never_fails(texts: list[str]) -> None:
    """Whatever parses is linted, and what lint says lies in the text."""
    text = "\n".join(texts)
    for finding in lint([single(text)], point=POINT, from_cyfs=True):
        assert finding.span.line <= len(text.split("\n"))
        assert finding.severity in Severity
        assert str(finding)
        assert short(finding)


GROWING = {
    "assignments": lambda size: "\n".join(f"x{number} = {number}" for number in range(size)),
    "reads": lambda size: "\n".join(f"echo $x{number}" for number in range(size)),
    "bodies": lambda size: "if $REQ.a then\n" * 15 + "x = 1\n" * size + "end\n" * 15,
    "conditions": lambda size: (
        "case then\n" + "when $REQ.a then\nx = 1\n" * (size % 100) + "end\n" + "eq $REQ.a a && x = 1 || y = 2\n" * size
    ),
}


@pytest.mark.parametrize("kind", GROWING)
def test_work_is_linear(kind: str) -> None:
    """Four times the text is about four times the work."""
    small, large = (
        work_of(lambda size=size: lint([single(GROWING[kind](size))], point=POINT, from_cyfs=True))
        for size in (100, 400)
    )
    assert large <= 5 * small


def nested(depth: int) -> str:
    """A command in a command in a command."""
    return "append " + "$(append " * depth + ")" * depth


def test_deep_and_long_programs() -> None:
    """Nested commands and long rows of calls neither take for ever nor end in a RecursionError."""
    half, whole = (work_of(lambda depth=depth: lint([single(nested(depth))], point=POINT)) for depth in (30, 60))
    assert whole <= 5 * half
    blocks = ", ".join(f"b{number}: {{run: false, block: exec b{number + 1}}}" for number in range(600))
    text = f"c: {{blocks: {{a: {{block: exec b0}}, {blocks}, b600: {{run: false, block: accept}}}}}}"
    assert lint(load_yaml(text).values(), point=POINT) == []
