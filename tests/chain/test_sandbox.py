"""Nothing in a chain reaches Python: no attribute, import, format string, class or injected code (L9)."""

from __future__ import annotations

import dis
import re
import types
from collections.abc import Iterator

import pytest

from common.chain import nodes as n
from common.chain.errors import ChainErrors
from common.chain.hookpoint import Access, Engine, HookPoint
from tests.chain.program import Program
from tests.chain.running import block, mounted, run_engine

DUNDERS = (
    "__class__", "__dict__", "__init__", "__globals__", "__builtins__", "__import__", "__subclasses__", "__mro__",
    "__getattribute__", "__code__", "__doc__", "__reduce__",
)  # fmt: skip
VALUES = ('"text"', "5", "1.5", "true", "null", "[1]", "{k: 1}")
INJECTIONS = (
    '"); import os; os._exit(3)  #', "'); import os; os._exit(3)  #", "\\'''\\n", '""" + str(run) + """', "{run}",
    "{0.__class__}", "{x!r}", "%s%n%(x)s", "${jndi:x}", "\\N{BULLET}", "__import__('os')._exit(3)", "\x00", "\u2028x=1",
    "lambda: 0", "c['a']", "run.state", "f\"{1+1}\"",
)  # fmt: skip
PYTHON_WORDS = (
    "print", "open", "eval", "exec", "compile", "globals", "self", "run", "None", "True", "lambda", "import", "class",
    "def", "yield", "await", "async", "del", "type", "len", "str", "object", "c", "f", "e", "t0", "_1",
)  # fmt: skip


def result_of(text: str, inputs: dict[str, object] | None = None) -> object:
    """What the block leaves in ``$result``."""
    seen, error = run_engine(Program(block(text), inputs=inputs or {}))
    assert seen.ok, error
    return seen.result


@pytest.mark.parametrize("name", DUNDERS)
@pytest.mark.parametrize("value", VALUES)
def test_no_attribute_is_reached(name: str, value: str) -> None:
    """A step named like a Python attribute is a key, and missing where there is no such key."""
    assert result_of(f'v={value}\nreturn "<${{v.{name}}}>"') == "<>"
    assert result_of(f'v={value}\nk={name}\nreturn "<${{v[$k]}}>"') == "<>"
    assert result_of(f'v={value}\nreturn "<${{v["{name}"]}}>"') == "<>"


@pytest.mark.parametrize("name", DUNDERS)
def test_a_dunder_is_a_key_and_a_name_like_others(name: str) -> None:
    """It may be written and read back, and changes nothing else."""
    assert result_of(f'v={{}}\nv.{name}=1\nreturn "${{v.{name}}}"') == "1"
    assert result_of(f'{name}="x"\nreturn "${{{name}}}"') == "x"
    assert result_of(f'global {name}="x"\nreturn "${{{name}}}"') == "x"
    assert result_of(f'local {name}="x"\nreturn "${{{name}}}"') == "x"


@pytest.mark.parametrize("name", PYTHON_WORDS)
@pytest.mark.parametrize("scope", ["", "local ", "global ", "chain "])
def test_a_name_is_only_a_name(name: str, scope: str) -> None:
    """A variable named like a Python word or like a name of the generated code is a variable."""
    assert (
        result_of(f'{scope}{name}="mine"\nother=$(append ${name} "!")\nreturn "${{other}} ${{{name}}}"') == "mine! mine"
    )
    assert result_of(f'for {name} in [1, 2] then\n  last=${name}\nend\nreturn "${{last}}<${{{name}}}>"') == "2<>"


@pytest.mark.parametrize("name", PYTHON_WORDS)
def test_an_unset_name_reads_nothing_of_python(name: str) -> None:
    """A name that nobody wrote is missing, whatever it means in Python."""
    assert result_of(f'return "<${{{name}}}>"') == "<>"


@pytest.mark.parametrize("text", INJECTIONS)
def test_text_stays_text(text: str) -> None:
    """A string in the program, a key, or the input comes out as it went in: no code is made of it."""
    quoted = text.replace("'", "")
    assert result_of(f"return --from lib '{quoted}'") == quoted
    assert result_of(f"m={{}}\nk='{quoted}'\n$m[$k]=1\nfor key in $m then\n  out=$key\nend\nreturn $out") == quoted
    assert result_of(f"m={{'{quoted}': 'v'}}\nreturn \"${{m['{quoted}']}}\"") == "v"
    assert result_of("x=$REQ.text\nreturn $(append $x '')", {"REQ": {"text": text}}) == text
    assert result_of('return "a${REQ.text}b"', {"REQ": {"text": text}}) == f"a{text}b"


@pytest.mark.parametrize("text", INJECTIONS)
def test_ids_stay_ids(text: str) -> None:
    """The ids of chains and blocks and the name of a file are never code, nor is the text that says where."""
    lib = n.LibSource(text, (n.ChainSource(text, (n.BlockSource(text, "accept"),)),), text)
    point = HookPoint("main", engine=Engine())
    try:
        point.mount(lib)
    except ChainErrors:
        return  # refusing such an id is as good
    assert point.run({}).verb == "accept"


@pytest.mark.parametrize("text", INJECTIONS)
def test_names_of_inputs_and_computed_targets_stay_names(text: str) -> None:
    """A target that is computed from data is looked up and never run."""
    seen, error = run_engine(Program(block("exec $REQ.text"), inputs={"REQ": {"text": text}}))
    assert not seen.ok
    assert error.startswith("PC-RUN-TARGET")


@pytest.mark.parametrize(
    "command", ["import os", "print x", "eval x", "open x", "__import__ os", "getattr a b", "os.system x"]
)
def test_only_registered_commands_exist(command: str) -> None:
    """A Python function is no command."""
    with pytest.raises(ChainErrors, match="PC-LINK-UNKNOWN-COMMAND"):
        mounted(Program(block(command)))


def test_format_strings_do_nothing() -> None:
    """Braces and percent signs in text, templates and patterns are characters."""
    assert result_of("return $(append '{0.__class__}' '%s' '{}')") == "{0.__class__}%s{}"
    assert result_of("s='a'\nreplace $s 'a' '{0.__class__}%(x)s'\nreturn $s") == "{0.__class__}%(x)s"


def test_text_is_not_evaluated() -> None:
    """Data that looks like the language stays data."""
    inputs = {"REQ": {"text": "$(accept)", "more": "${REQ.secret}", "secret": "s3cret"}}
    assert result_of('return "${REQ.text} ${REQ.more}"', inputs) == "$(accept) ${REQ.secret}"


def test_values_of_the_host_are_copied() -> None:
    """A chain cannot change what the host gave it, even where it may write."""
    given = {"RESP": {"headers": {"a": "1"}, "tags": ["t"]}}
    point = HookPoint("main", engine=Engine(), inputs={"RESP": Access.WRITABLE})
    point.mount(block("h=$RESP.headers\nh.b=2\nlist-push $RESP.tags u\nRESP.x=1\naccept"))
    outcome = point.run(given)
    assert outcome.outputs == {"RESP": {"headers": {"a": "1", "b": 2}, "tags": ["t", "u"], "x": 1}}
    assert given == {"RESP": {"headers": {"a": "1"}, "tags": ["t"]}}


EVERYTHING = """
x=$REQ.zebra[0].giraffe
local elephant={rhino: "$5"}
for key, value in $elephant then
  y=$(append $key "${value} ${REQ.hippo ?? 'd'}") || break
end
case $x as lion then
  when match $lion "*tiger*" then elephant.panther=$(first-ok $(exec main) $(eq 1 1))
end
match-result $(capture --value puma --ok leopard $(split --capture lynx $y "/"))
ok(bear)
  map $elephant $(echo $__key $bear) && goto main
end
global cheetah=$puma
exec main || return $cheetah
"""


def test_generated_code_has_no_world() -> None:
    """A block's function has no builtins and no import; of Python's attributes it looks at the class alone, and no word
    of the chain's text is a global name or an attribute in it.
    """
    point = mounted(Program(block(EVERYTHING.replace("'d'", "7")), inputs={"REQ": {}}))
    (mount,) = point.mounted
    function = mount.linked.chains[0].blocks[0].function
    assert function.__globals__["__builtins__"] == {}
    words = set(re.findall(r"[a-z]{3,}", EVERYTHING)) & {
        "zebra", "giraffe", "elephant", "rhino", "key", "hippo", "lion", "tiger", "panther", "puma", "leopard", "lynx",
        "bear", "cheetah",
    }  # fmt: skip
    assert len(words) == 14
    for code in codes(function.__code__):
        assert not {"IMPORT_NAME", "IMPORT_FROM", "LOAD_BUILD_CLASS"} & {
            step.opname for step in dis.get_instructions(code)
        }
        assert {name for name in code.co_names if name.startswith("_")} <= {"__class__"}
        assert not words & set(code.co_names)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code, and all code inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)
