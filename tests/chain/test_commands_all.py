"""What holds for every command: complete specs, true examples, prepared calls like plain ones, no stray exception."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import topics
from common.chain import nodes, parser
from common.chain.commands import match
from common.chain.commands.bind import bind
from common.chain.commands.builtin import BUILTIN
from common.chain.commands.reference import reference
from common.chain.commands.spec import DYNAMIC, BadArgument, Err, Kind, Opt, Param, Registry, Spec, Static
from common.chain.comparing import equal
from common.chain.errors import LimitError, MisuseError
from common.chain.runtime import evaluate
from common.chain.values import MISSING, Set, text
from common.clock import SystemClock
from common.errors import TopicError
from tests.chain.fake_run import FakeRun
from tests.chain.test_values import VALUES
from tests.support.examples import examples

REGISTRY = BUILTIN.extended([match.topic_match(topics.matches, topics.check_filter, TopicError)])
SPECS = REGISTRY.specs()
CALLED = [spec for spec in SPECS if spec.call is not None]
EXAMPLES = [(spec, example) for spec in SPECS for example in spec.examples]

INTERESTING = (
    "", "a", "A", "abc", "a/b/c", "/apps/x/y", "/apps/{app}/**", "{a}-{b}.**", "/{a}/{a}", "/{a", "**", "a.b", "*.b",
    "a*", "*b*", "[a-c]", "[", "{a,b}", "}", "\\", "^a", "c$", "^abc$", "(", "(a)(?P<n>b)?", "\\.", "$0$1", "/x/{app}",
    "1:3", ":", "9:1", ",", "home/+/#", "#", "+", "a/#/b", "http://U@Ex.com:80/a/../b?q=1#f", "http:", "x:y",
    "[::1]:80", "ex.com:99999", "?a=1&b=%2F&a=+", "a&&=", "%", "%ff", "a.b[0]", '["x"]', "..", '{"a": {"b": [1]}}',
    "[1,]", "1", "-1.5e3", " 7 ", "true", "off", "é", "\u212a", "ſ", "İ", "\ud800", "a\x01b\x02",
)  # fmt: skip
TEXTS = st.sampled_from(INTERESTING) | st.text("aAbB/.*?{}[]()^$\\:=&%+#,- é\u212a", max_size=12)
SETS = st.lists(st.sampled_from("abc"), max_size=3).map(Set)
ANY = VALUES | TEXTS | SETS | st.just(MISSING)
DESIGN = """
return error accept reject drop forward server call-server exit goto exec invoke break continue first-ok
capture delete type is-null is-bool is-number to-bool to-number to-string eq ne gt ge lt le oneof range match
match-reg match-path match-host topic-match starts-with ends-with match-include append replace rewrite
rewrite-reg rewrite-path slice split strip-prefix strip-suffix strlen lower upper trim url_encode url_decode
parse-uri build-uri parse-authority parse-query build-query query-get parse-json build-json json-get now
map-create map-add map-remove set-create set-add set-remove list-create list-push list-insert list-set
list-remove list-pop list-clear map len choice choices chance limit echo
"""
FUZZ = settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])


def by_name(spec: Spec) -> str:
    return spec.name


def spec_of(name: str) -> Spec:
    """The command of this name."""
    spec = REGISTRY.get(name)
    assert spec is not None
    return spec


# -- specs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=by_name)
def test_specs_are_complete(spec: Spec) -> None:
    """Every command says what it does, what it gives, and shows success and, where it can fail, failure."""
    assert spec.doc.endswith(".")
    assert all(param.doc.endswith(".") for param in spec.params)
    assert all(opt.doc.endswith(".") for opt in spec.options)
    assert spec.ok or "ends" in spec.effects
    assert len(spec.examples) >= 2
    if spec.answers or spec.faults:
        assert any(not example.ok or example.verb for example in spec.examples)
    assert set(spec.effects) <= {"writes", "random", "clock", "output", "ends"}
    assert not any(param.repeated for param in spec.params[:-1])
    assert bool(spec.capturing) == any(opt.out for opt in spec.options) or spec.call is None
    assert spec.call is None or not any(param.kind is Kind.COMMAND for param in spec.params)


def test_all_commands_of_the_design_are_there() -> None:
    """L6 and L8 list the commands of the language; each is registered."""
    assert set(DESIGN.split()) <= set(REGISTRY.names())


def test_importing_the_commands_is_light() -> None:
    """RE2 is loaded when a pattern first needs it, not with the commands."""
    program = "import sys, common.chain.commands.builtin; print('re2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr


def test_registry_refuses_doubles_and_coroutines() -> None:
    """A name is taken once, an alias included, and a command must return at once."""

    async def later() -> None:
        """A coroutine function."""

    with pytest.raises(ValueError, match="there is such a command"):
        BUILTIN.extended([Spec("choices", "host", "")])
    with pytest.raises(ValueError, match="must return at once"):
        Registry([Spec("later", "host", "", call=later)])


# -- examples ----------------------------------------------------------------------------------------------------------


def commands_in(node: object) -> Iterator[nodes.Command]:
    """Every command of a tree."""
    if isinstance(node, nodes.Command):
        yield node
    if dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            yield from commands_in(getattr(node, field.name))
    elif isinstance(node, tuple):
        for item in node:
            yield from commands_in(item)


@pytest.mark.parametrize(("spec", "example"), EXAMPLES, ids=lambda item: getattr(item, "program", ""))
def test_examples_use_their_command(spec: Spec, example: Any) -> None:
    """Every example can be parsed, every call in it fits its spec, and one is of the command it belongs to."""
    found = list(commands_in(parser.parse(example.program)))
    specs = [bind(command, REGISTRY.get(command.name)).spec for command in found]  # type: ignore[arg-type]
    assert spec in specs


@pytest.mark.parametrize(("spec", "example"), EXAMPLES, ids=lambda item: getattr(item, "program", ""))
def test_examples_are_true(spec: Spec, example: Any) -> None:
    """Every example, run as a block by itself, has the status and value, or the verb, that the reference shows."""
    ok, value, outcome = evaluate(example.program, registry=REGISTRY, clock=SystemClock())
    if example.verb:
        assert outcome.verb == example.verb, outcome.error
    else:
        assert (ok, value) == (example.ok, example.value), outcome.error
        assert equal(value, example.value)


def test_reference_names_every_command() -> None:
    """The reference is the same each time and has a section, the usage and the examples of every command."""
    written = reference(REGISTRY)
    assert written == reference(REGISTRY)
    for spec in SPECS:
        section = written.partition(f"#### {spec.name}\n")[2].partition("\n#### ")[0]
        assert section.startswith(f"\n{spec.doc}\n")
        assert all(example.program in section for example in spec.examples)
        assert all(f"--{opt.name}" in section for opt in spec.options)


# -- arbitrary calls ---------------------------------------------------------------------------------------------------


@st.composite
def calls(draw: st.DrawFn, spec: Spec) -> tuple[list[Any], dict[str, Any]]:
    """Arguments and options, by keyword names, that the compiler could pass."""
    params = list(spec.params)
    if params and params[-1].repeated:
        params += [params[-1]] * draw(st.integers(-1 if params[-1].optional else 0, 3))
    elif params and params[-1].optional and draw(st.booleans()):
        params.pop()
    args = [draw(argument(param)) for param in params]
    options = {
        keyword(opt): True if opt.type == "flag" else draw(ANY.map(given_as))
        for opt in spec.options
        if not opt.out and draw(st.booleans())
    }
    return args, options


def keyword(opt: Opt) -> str:
    """The name under which a command gets an option."""
    return opt.name.replace("-", "_")


def argument(param: Param) -> st.SearchStrategy[Any]:
    """A value that a parameter may get."""
    if param.kind in (Kind.READ, Kind.UPDATE) or param.missing:
        return ANY
    return TEXTS if param.type == "text" else ANY.map(given_as)


def given_as(value: Any) -> Any:
    """MISSING comes as the empty String."""
    return "" if value is MISSING else value


def result_of(call: Any, run: FakeRun, spec: Spec, args: list[Any], options: dict[str, Any]) -> Any:
    """What a call gives, in a form that compares: its value, its Err, or the error that ends the run."""
    try:
        got = call(*([run] if spec.needs_run else []), *args, **options)
    except (LimitError, MisuseError) as error:
        return error.code
    return ("err", text(got.value), got.fault) if isinstance(got, Err) else ("ok", got)


def check_kind(spec: Spec, got: Any) -> None:
    """A predicate gives a Bool or a fault, an answer or fault only who documents one."""
    if isinstance(got, str):
        return
    kind, value, *fault = got
    if kind == "err":
        assert spec.faults if fault[0] else spec.answers, f"{spec.name} does not document {value!r}"
        assert not fault[0] or value.startswith(f"{spec.name}: "), value
    elif spec.predicate:
        assert type(value) is bool


@pytest.mark.parametrize("name", [spec.name for spec in CALLED])
@given(data=st.data())
@FUZZ
def test_no_call_raises_anything_else(name: str, data: st.DataObject) -> None:
    """On any values a command gives Ok, or an Err that its spec documents, or ends the run by limit or misuse."""
    spec = spec_of(name)
    args, options = data.draw(calls(spec))
    check_kind(spec, result_of(spec.call, FakeRun(200, 20), spec, args, options))
    if spec.capturing is not None:
        outs = [opt for opt in spec.options if opt.out]
        got = result_of(spec.capturing, FakeRun(200, 20), spec, args, options)
        if got[0] == "ok":
            assert type(got[1]) is tuple
            assert len(got[1]) == 1 + len(outs)


@pytest.mark.parametrize("name", [spec.name for spec in CALLED if spec.specialise is not None])
@given(data=st.data())
@FUZZ
def test_prepared_calls_are_plain_calls(name: str, data: st.DataObject) -> None:
    """Whatever of a call is literal, the prepared one gives what the plain one gives; what cannot be prepared is a
    fault of the plain one.
    """
    spec = spec_of(name)
    args, options = data.draw(calls(spec))
    literal = [
        param.kind is Kind.VALUE and not isinstance(arg, list | dict | Set | type(MISSING)) and data.draw(st.booleans())
        for arg, param in zip(args, spread(spec, args), strict=True)
    ]
    computed = {name: value for name, value in options.items() if isinstance(value, list | dict | Set)}
    known = {name: DYNAMIC if name in computed else value for name, value in options.items()}
    static = Static(
        tuple(arg if is_literal else DYNAMIC for arg, is_literal in zip(args, literal, strict=True)),
        {opt.name: known[keyword(opt)] for opt in spec.options if keyword(opt) in known},
    )
    rest = [arg for arg, is_literal in zip(args, literal, strict=True) if not is_literal]
    for call, specialise in ((spec.call, spec.specialise), (spec.capturing, spec.capturing_specialise)):
        if call is None or specialise is None:
            continue
        plain = result_of(call, FakeRun(200, 20), spec, args, options)
        try:
            prepared = specialise(static)
        except BadArgument:
            if spec.name == "map-add":  # it looks at the number of arguments only
                assert len(args) % 2 == 0
            else:
                assert plain[0] == "err"
                assert plain[2], plain
            continue
        if prepared is not None:
            got = result_of(prepared, FakeRun(200, 20), spec, rest, computed)
            assert got == plain or equal(list(got), list(plain))


def spread(spec: Spec, args: list[Any]) -> list[Param]:
    """The parameter of each argument."""
    last = spec.params[-1:] if spec.params and spec.params[-1].repeated else ()
    return [*spec.params, *last * len(args)][: len(args)]


def test_a_condition_never_takes_a_fault_for_success() -> None:
    """An Err is false, so that who looks only at truth is on the safe side."""
    assert not Err(True)
    assert not Err("x", fault=True)
    assert repr(Err("x", fault=True)) == "Err('x', fault=True)"
    assert Opt("x", "").type == "flag"
