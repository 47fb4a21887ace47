"""Names of a block: their levels, and everything about names and placement that is wrong when a text is loaded."""

from __future__ import annotations

import pytest

from common.chain import nodes as n
from common.chain.commands.builtin import BUILTIN
from common.chain.emitter import walk
from common.chain.errors import ChainErrors
from common.chain.parser import parse
from common.chain.run import Access
from common.chain.scopes import Scopes, analyse
from common.chain.verbs import Verbs
from tests.chain.mounting import lib, point

OF_THE_RUN = "${} belongs to the run and cannot be declared: choose another name"
READ_ONLY = "$REQ is read-only: declare a name of your own with local REQ = ..."
INPUTS = {"REQ": Access.READ_ONLY, "RESP": Access.WRITABLE}


def scopes_of(text: str) -> Scopes:
    """The analysis of a block."""
    return analyse(parse(text), inputs=INPUTS, registry=BUILTIN, verbs=Verbs())


def levels(text: str, name: str) -> list[str]:
    """The level of every mention of ``name`` in the order of the text."""
    scopes = scopes_of(text)
    assert scopes.errors == []
    found = [node for node in walk(scopes.body) if isinstance(node, n.Variable) and node.name == name]
    found.sort(key=lambda node: (node.span.line, node.span.column))
    return [scopes.level(node) for node in found]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("x = 1; y = $x", ["chain", "chain"]),
        ("local x = 1; y = $x", ["block", "block"]),
        ("y = $x; block x; x = 2", ["chain", "block", "block"]),
        ("global x = 1; x = 2; local x; x = 3", ["global", "global", "block", "block"]),
        ("export x; x = 1", ["global", "global"]),
        ("local x = $x", ["block", "chain"]),
        ("for x in [1] then y = $x; end; x = 2", ["block", "block"]),
        ("case 1 as x then when true then y = $x; end; y = $x", ["block", "block"]),
        ("match-result $(append a) ok(x) y = $x; end", ["block"]),
        ("capture --value $x $(append a); y = $x", ["block", "block"]),
        ("match-reg --capture $x a b; y = $x", ["chain", "chain"]),
        ("local x; match-reg --capture $x a b", ["block", "block"]),
        ("map-create --global $x; x = 1", ["global", "global"]),
        ("if true then local x = 1; end; x = 2", ["block", "block"]),
    ],
)
def test_a_name_has_the_level_of_the_nearest_declaration_before_it(text: str, wanted: list[str]) -> None:
    """Levels follow the order of the text, not of running; what nothing declares is the chain's."""
    assert levels(text, "x") == wanted


@pytest.mark.parametrize(
    ("text", "name", "wanted"),
    [
        ("result = 1; error = 2; resp.a = 3; y = $resp", "resp", ["run", "run"]),
        ("RESP.a = 1", "RESP", ["input"]),
        ("local REQ = 1; REQ.a = 2", "REQ", ["block", "block"]),
    ],
)
def test_run_variables_and_inputs(text: str, name: str, wanted: list[str]) -> None:
    """``result``, ``error`` and ``resp`` are the run's, inputs the host's, unless the block declares the name."""
    assert levels(text, name) == wanted


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("local result = 1", "PC-LINK-SCOPE", OF_THE_RUN.format("result")),
        ("for error in [1] then end", "PC-LINK-SCOPE", OF_THE_RUN.format("error")),
        ("REQ = 1", "PC-LINK-READ-ONLY", READ_ONLY),
        ("REQ.path = 1", "PC-LINK-READ-ONLY", "$REQ is read-only"),
        ("split --capture REQ a b", "PC-LINK-READ-ONLY", READ_ONLY),
        ("__args = 1", "PC-LINK-READ-ONLY", "$__args is read-only"),
        ("break", "PC-LINK-LOOP", "break: there is no for around it"),
        ("for x in [1] then map [1] $(break); end", "PC-LINK-LOOP", "break: it cannot leave the map around it"),
        (
            "for x in [1] then map [1] $(map [2] $(continue)); end",
            "PC-LINK-LOOP",
            "continue: it cannot leave the map around it",
        ),
        ("map [1] $(break)", "PC-LINK-LOOP", "break: there is no for around it"),
        ("continue", "PC-LINK-LOOP", "continue: there is no for around it"),
        ("if return then end", "PC-LINK-CONDITION", "return leaves, it cannot be a condition"),
        ("if true && (eq 1 1 || ! accept) then end", "PC-LINK-CONDITION", "accept leaves, it cannot be a condition"),
        ("case then when goto a then end", "PC-LINK-CONDITION", "goto leaves, it cannot be a condition"),
        ("for a, a in {} then end", "PC-LINK-NAME", "the two names of for must differ"),
        ("apend a b", "PC-LINK-UNKNOWN-COMMAND", "unknown command apend"),
        ("delete RESP", "PC-LINK-DELETE", "delete: $RESP is an input and cannot be deleted"),
        ("exec nowhere", "PC-LINK-TARGET", 'exec: there is no block or chain "nowhere"'),
        ("match-reg a '('", "PC-LINK-LITERAL", None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_load_error(text: str, code: str, message: str | None) -> None:
    """Each is found when the text is loaded, with its code and words."""
    with pytest.raises(ChainErrors) as caught:
        point(lib(main=text))
    (error,) = caught.value.errors
    assert error.code == code
    assert message is None or error.message == message


def test_an_undeclared_verb_is_a_load_error() -> None:
    """A hook point decides which verbs there are, and the error lists them."""
    with pytest.raises(ChainErrors) as caught:
        point(lib(main='forward "x"'), verbs=("accept", "reject"))
    assert str(caught.value) == (
        "PC-LINK-VERB: forward: this hook point has no such verb\n  at main:main:main, line 1, column 1\n"
        '  | forward "x"\n  | ^^^^^^^\n  expected accept or reject'
    )


def test_all_errors_come_at_once_in_the_order_of_the_text() -> None:
    """Errors of names, of placement and of literals, of several blocks, are found together, each with its place."""
    with pytest.raises(ChainErrors) as caught:
        point(lib(main={"a": "break\nREQ = 1\nmatch-reg a '('", "b": "nothing here"}))
    found = [(error.code, error.where, error.span.line) for error in caught.value.errors]
    assert found == [
        ("PC-LINK-LOOP", "main:main:a", 1), ("PC-LINK-READ-ONLY", "main:main:a", 2),
        ("PC-LINK-LITERAL", "main:main:a", 3), ("PC-LINK-UNKNOWN-COMMAND", "main:main:b", 1),
    ]  # fmt: skip


def test_a_break_in_a_loop_inside_a_substitution_is_in_its_loop() -> None:
    """Placement goes through groups, conditions and ``$(...)`` up to the ``for`` of the same block."""
    assert scopes_of("for x in [1] then y = $(eq 1 2 || (break)); end").errors == []
