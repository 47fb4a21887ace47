"""Binding of calls: options, parameters, and what is settled by the text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from common.chain.commands.bind import bind, usage
from common.chain.commands.spec import BoundCall, Kind, Opt, Param, Spec
from common.chain.errors import ChainErrors
from common.chain.nodes import (
    Argument,
    Command,
    Condition,
    ListLiteral,
    Literal,
    MapLiteral,
    Option,
    Step,
    Substitution,
    Text,
    Variable,
)

MATCH = Spec(
    "match",
    "match",
    "Match.",
    params=(Param("value", "", type="text"), Param("pattern", "", type="text")),
    options=(
        Opt("ignore-case", "", short="i"),
        Opt("capture", "", out=True),
        Opt("port", "", type="int"),
        Opt("from", "", type="text", choices=("block", "chain")),
        Opt("arg", "", type="pair", repeated=True),
    ),
)
MANY = Spec("many", "text", "Many.", params=(Param("first", ""), Param("rest", "", repeated=True, optional=True)))


def word(text: str) -> Text:
    return Text(text, bare=True)


def long(name: str, value: Text | Variable | None = None) -> Option:
    return Option(name, f"--{name}", value)


def call(spec: Spec, *arguments: Argument) -> BoundCall:
    return bind(Command(spec.name, arguments), spec)


def messages(spec: Spec, *arguments: Argument) -> list[tuple[str, str]]:
    with pytest.raises(ChainErrors) as caught:
        call(spec, *arguments)
    return [(error.code, error.message) for error in caught.value.errors]


def one_param(kind: Kind = Kind.VALUE, type_: str = "any") -> Spec:
    return Spec("one", "text", "One.", params=(Param("it", "", kind=kind, type=type_),))


A, B = word("a"), word("b")


def test_options_stand_anywhere() -> None:
    """Options are taken out wherever they stand, the rest fills the parameters in order."""
    for arguments in ((long("ignore-case"), A, B), (A, long("ignore-case"), B), (A, B, long("ignore-case"))):
        assert call(MATCH, *arguments) == BoundCall(MATCH, (A, B), {"ignore-case": True})


def test_short_option_or_word() -> None:
    """``-x`` is an option where the spec knows it, else the word itself."""
    assert call(MATCH, Option("i", "-i"), A, B).options == {"ignore-case": True}
    assert call(MATCH, Option("q", "-q"), B).args == (word("-q"), B)


def test_value_of_an_option() -> None:
    """A value follows the option or is joined with =; both mean the same."""
    assert call(MATCH, A, B, long("port"), Literal(8, "8")).options == {"port": Literal(8, "8")}
    assert call(MATCH, A, B, long("port", Variable("p"))).options == {"port": Variable("p")}
    assert messages(MATCH, A, B, long("port"), A) == [("PC-LINK-LITERAL", "match: --port must be an integer")]


def test_dashes_end_options() -> None:
    """After ``--`` every option is a word as it is written."""
    end = Option("", "--")
    assert call(MATCH, end, long("x"), long("y", word("z"))).args == (word("--x"), word("--y=z"))
    assert call(MANY, end, end).args == (word("--"),)
    assert messages(MATCH, end, long("x", Variable("y")), A) == [
        ("PC-LINK-OPTION", "match: --x=... is a word here and must be quoted")
    ]


def test_out_option_names_a_variable() -> None:
    """An out option's name comes as a Variable, bare, quoted or with $; paths and other things are refused."""
    for name in (word("parts"), Text("parts"), Variable("parts")):
        assert call(MATCH, A, B, long("capture", name)).options == {"capture": Variable("parts")}
    assert messages(MATCH, A, B, long("capture", word("m.x"))) == [
        ("PC-LINK-REF", "match: --capture needs the name of a variable, not a path")
    ]
    assert messages(MATCH, A, B, long("capture")) == [
        ("PC-LINK-OPTION", "match: --capture needs the name of a variable")
    ]


def test_pairs() -> None:
    """A pair takes two values and may be repeated, with each key once."""
    bound = call(MATCH, A, B, long("arg"), word("k"), Variable("v"), long("arg", word("l")), A)
    assert bound.options == {"arg": ((word("k"), Variable("v")), (word("l"), A))}
    assert messages(MATCH, A, B, long("arg"), word("k"), A, long("arg"), word("k"), B) == [
        ("PC-LINK-OPTION", 'match: the key "k" of --arg is given twice')
    ]
    assert messages(MATCH, A, B, long("arg"), Variable("k"), A) == [
        ("PC-LINK-OPTION", "match: the key of --arg must be a word")
    ]
    assert messages(MATCH, A, B, long("arg"), word("k")) == [("PC-LINK-OPTION", "match: --arg needs a key and a value")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((A, B, long("ignore-cas")), "unknown option --ignore-cas, did you mean --ignore-case"),
        ((A, B, long("zzz")), "unknown option --zzz"),
        ((A, B, long("ignore-case", A)), "--ignore-case takes no value"),
        ((A, B, long("port"), long("ignore-case")), "--port needs a value"),
        ((A, B, long("ignore-case"), Option("i", "-i")), "--ignore-case is given twice"),
        ((A, B, long("from", word("lib"))), "wrong value of --from"),
        ((A, B, long("from", Variable("level"))), "wrong value of --from"),
    ],
)
def test_wrong_options(arguments: tuple[Argument, ...], message: str) -> None:
    """Every wrong use of an option is one load error that says what is wrong."""
    assert messages(MATCH, *arguments) == [("PC-LINK-OPTION", f"match: {message}")]


def test_options_of_a_group_exclude_each_other() -> None:
    """Of options that settle the same thing only one may be given."""
    spec = Spec("one", "text", "", options=(Opt("a", "", group="g"), Opt("b", "", group="g"), Opt("c", "")))
    assert call(spec, long("a"), long("c")).options == {"a": True, "c": True}
    assert messages(spec, long("a"), long("b")) == [("PC-LINK-OPTION", "one: --b and --a exclude each other")]


def test_unknown_option_lists_what_there_is() -> None:
    """The error for an unknown option and for a wrong choice carries the right ones."""
    with pytest.raises(ChainErrors) as caught:
        call(MATCH, A, B, long("zzz"), long("from", word("lib")))
    unknown, choice = caught.value.errors
    assert unknown.expected == ("--ignore-case", "--capture", "--port", "--from", "--arg")
    assert choice.expected == ("block", "chain")


@pytest.mark.parametrize(
    ("spec", "count", "message"),
    [
        (MATCH, 1, "match: takes 2 arguments (value pattern), 1 given"),
        (MATCH, 3, "match: takes 2 arguments (value pattern), 3 given"),
        (MANY, 0, "many: takes 1 or more arguments (first [rest...]), 0 given"),
        (one_param(), 2, "one: takes 1 argument (it), 2 given"),
        (Spec("none", "control", ""), 1, "none: takes 0 arguments, 1 given"),
        (
            Spec("o", "control", "", params=(Param("v", "", optional=True),)),
            2,
            "o: takes 0 to 1 arguments ([v]), 2 given",
        ),
        (
            Spec("t", "match", "", params=(Param("topic", ""), Param("filter", ""))),
            1,
            't: takes 2 arguments (topic filter), 1 given; a # that stands alone begins a comment: write "#"',
        ),
    ],
)
def test_arity(spec: Spec, count: int, message: str) -> None:
    """A wrong number of arguments is an error that shows the parameters."""
    assert messages(spec, *[A] * count) == [("PC-LINK-ARITY", message)]


def test_repeated_parameters() -> None:
    """A repeated last parameter takes any number of arguments, none where it is optional."""
    assert call(MANY, A).args == (A,)
    assert call(MANY, A, B, A, B).args == (A, B, A, B)
    assert usage(MANY) == "first [rest...]"


def test_numbers_keep_their_spelling() -> None:
    """A literal number given where text is wanted is the text that stands there."""
    assert call(MATCH, Literal(1.5, "1.50"), Literal(True, "true")).args == (word("1.50"), Literal(True, "true"))
    assert call(one_param(), Literal(1.5, "1.50")).args == (Literal(1.5, "1.50"),)


@pytest.mark.parametrize(
    ("type_", "good", "bad"),
    [
        ("number", [Literal(1, "1"), Literal(0.5, "0.5"), word("1e3")], [A, Literal(None, "null"), ListLiteral(())]),
        ("int", [Literal(1, "1"), word("-7"), Variable("x")], [A, Literal(0.5, "0.5"), Literal(True, "true")]),
        ("list", [ListLiteral(()), Variable("x")], [A, Literal(1, "1"), MapLiteral(())]),
        ("map", [MapLiteral(()), Variable("x")], [A, Literal(1, "1"), ListLiteral(())]),
        ("collection", [MapLiteral(()), ListLiteral(())], [A, Literal(1, "1")]),
        ("set", [Variable("x")], [A, ListLiteral(())]),
    ],
)  # fmt: skip
def test_literals_of_a_wrong_type(type_: str, good: Sequence[Argument], bad: Sequence[Argument]) -> None:
    """What can never be of the parameter's type is a load error; everything else is left to the run."""
    spec = one_param(type_=type_)
    for argument in good:
        assert call(spec, argument).args == (argument,)
    for argument in bad:
        assert [code for code, _ in messages(spec, argument)] == ["PC-LINK-LITERAL"]


def test_a_bare_name_for_a_collection_shows_the_fix() -> None:
    """Who writes a variable's name without $ is shown how to write it."""
    assert messages(one_param(type_="list"), word("nodes")) == [
        ("PC-LINK-LITERAL", "one: it must be a list; write $nodes for the variable")
    ]
    assert messages(one_param(type_="list"), Text("nodes")) == [("PC-LINK-LITERAL", "one: it must be a list")]


@pytest.mark.parametrize("kind", [Kind.READ, Kind.UPDATE, Kind.WRITE])
def test_refs(kind: Kind) -> None:
    """A ref is a name or a path, bare, quoted or with $, and comes as a Variable; all else is a load error."""
    spec = one_param(kind)
    for written in (word("m"), Text("m"), Variable("m")):
        assert call(spec, written).args == (Variable("m"),)
    path = Variable("m", (Step(Text("x-1")), Step(Text("2"))))
    assert call(spec, word("m.x-1.2")).args == (path,)
    assert call(spec, path).args == (path,)
    for wrong in (word("9m"), Text("a b"), Literal(1, "1"), ListLiteral(()), Variable("m", default=A)):
        assert [code for code, _ in messages(spec, wrong)] == ["PC-LINK-REF"]


def test_commands_and_names() -> None:
    """A command parameter takes only $(...), a name parameter only a word of the text."""
    given = Substitution(Condition(Literal(True, "true")))
    assert call(one_param(Kind.COMMAND), given).args == (given,)
    assert messages(one_param(Kind.COMMAND), A) == [("PC-LINK-LITERAL", "one: it must be a command in $(...)")]
    assert call(one_param(Kind.NAME), A).args == (A,)
    assert messages(one_param(Kind.NAME), Variable("x")) == [
        ("PC-LINK-REF", "one: it must be a word that stands in the text")
    ]


def test_all_errors_at_once() -> None:
    """One call can be wrong in several ways; all are told."""
    found = messages(MATCH, long("nope"), A, B, A, long("port", word("x")))
    assert [code for code, _ in found] == ["PC-LINK-OPTION", "PC-LINK-LITERAL", "PC-LINK-ARITY"]
