"""``chain lint --from-cyfs``: what a chain for cyfs-gateway, or after its design document, must change.

Every finding names the line, the reason, and where it can the line as it should be. Texts that do not parse are told by
the parser's own errors; this is about what parses and means something else, or what is not here at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from common.chain import nodes as n
from common.chain.commands.spec import Kind
from common.chain.errors import Span
from common.chain.lint_model import Finding, Program, Severity, Unit, walk
from common.chain.paths import NAME
from common.chain.printer import line_of
from common.chain.scopes import BLOCK

_SUBJECT_GROUPS = ("match", "text", "uri", "data", "collections", "operations")
_NOT_SUBJECTS = ("echo", "append", "chance", "limit", "now")
_MULTI = ("--multi", "-m")
_GOTO_FLAGS = ("--block", "--chain", "--lib", "--arg")
_LEVEL_FLAGS = ("--from", "--ok-from", "--err-from")
_CAPTURE_FLAGS = ("--control", "--control-kind", "--from")
_GATEWAY = {
    "redirect": "the gateway's command",
    "verify-jwt": "the gateway's command",
    "parse-cookie": "the gateway's command",
    "in-time-range": "the gateway's command",
    "set-stat": "the gateway's command",
    "set-limit": 'the gateway\'s command; quotas are "limit KEY RATE [BURST]" here',
    "num-cmp": "the gateway's command; write a comparison: $a > $b",
    "http-probe": "the gateway's command",
    "https-sni-probe": "the gateway's command",
    "resolve": "the gateway's command",
    "qa": "the gateway's command",
}
_FORWARD_WORDS = ("rr", "round_robin", "ip_hash", "hash", "consistent_hash", "least_time")
_ZERO = re.compile(r"-?0[0-9]+")

Check = Callable[[Program, Unit, n.Command], Iterator[Finding]]


def from_cyfs(program: Program) -> Iterator[Finding]:
    """All findings about the units of a program."""
    inner = _called_units(program)
    for unit in program.units:
        local: set[str] = set()
        for node in walk(unit.body):
            if isinstance(node, n.Command):
                for check in _CHECKS:
                    yield from check(program, unit, node)
                if unit in inner and id(node) in unit.scopes.verbs:
                    yield _verb_in_exec(unit, node)
            elif isinstance(node, n.Or):
                yield from _order(unit, node)
            elif isinstance(node, n.Assignment):
                yield from _levels(unit, node, local)
                yield from _written_key(unit, node)
            elif isinstance(node, n.Text) and node.bare and _ZERO.fullmatch(node.value):
                yield _finding(
                    unit, "NUMBER", f"{node.value} is a string here, it was the number {int(node.value)}", node.span
                )


def _finding(unit: Unit, word: str, message: str, span: Span, fix: str = "", warn: bool = True) -> Finding:
    severity = Severity.WARNING if warn else Severity.INFO
    return unit.finding(f"PC-LINT-CYFS-{word}", severity, message, span, fix)


def _called_units(program: Program) -> set[Unit]:
    """The blocks that are called by a literal exec or invoke."""
    found: set[Unit] = set()
    for unit in program.all:
        for node in walk(unit.body):
            if isinstance(node, n.Command) and node.name != "goto":
                found.update(program.called(unit, node) or ())
    return found


# -- commands ----------------------------------------------------------------------------------------------------------


def _bare_subject(program: Program, unit: Unit, node: n.Command) -> Iterator[Finding]:
    """``eq nodeid thisnode``: the document writes operands bare where variables are meant."""
    spec = program.registry.get(node.name)
    values = [argument for argument in node.arguments if not isinstance(argument, n.Option)]
    if spec is None or spec.group not in _SUBJECT_GROUPS or spec.name in _NOT_SUBJECTS or not values:
        return
    first = values[0]
    if not isinstance(first, n.Text) or not first.bare or not NAME.fullmatch(first.value):
        return
    if spec.params[0].kind is not Kind.VALUE:
        return  # a ref, which may be bare
    names = {node.value for node in values[:2] if isinstance(node, n.Text) and node.bare and NAME.fullmatch(node.value)}
    if spec.name not in ("eq", "ne", "gt", "ge", "lt", "le"):
        names = {first.value}
    changed = tuple(_as_variable(argument, names) for argument in node.arguments)
    message = f'"{first.value}" is a string and never a variable'
    yield _finding(unit, "BARE", message, node.span, line_of(n.Command(node.name, changed)))


def _as_variable(argument: n.Argument, names: set[str]) -> n.Argument:
    if isinstance(argument, n.Text) and argument.bare and argument.value in names:
        return n.Variable(argument.value)
    return argument


def _goto(program: Program, unit: Unit, node: n.Command) -> Iterator[Finding]:
    """The engine's goto with flags is a call that returns; goto jumps here and never comes back."""
    if node.name != "goto":
        return
    kept: list[n.Argument] = []
    level: tuple[n.Argument, ...] = ()
    arguments = iter(node.arguments)
    for part in arguments:
        if isinstance(part, n.Option) and part.spelling in _LEVEL_FLAGS:
            value = part.value or next(arguments, None)
            level = (n.Option("from", "--from"), value) if value is not None else ()
        else:
            kept.append(part)
    if level or any(isinstance(part, n.Option) and part.spelling in _GOTO_FLAGS for part in kept):
        call = n.Substitution(n.Command("invoke", tuple(kept)))
        message = "goto jumps and never returns, and takes an id alone; what the engine did is a call and a return"
        yield _finding(unit, "GOTO", message, node.span, line_of(n.Command("return", (*level, call))))


def _error(program: Program, unit: Unit, node: n.Command) -> Iterator[Finding]:
    """error ends the whole list by default, it ended the block."""
    leveled = any(isinstance(part, n.Option) and part.spelling == "--from" for part in node.arguments)
    if node.name == "error" and not leveled:
        message = "error ends block, chain and list and the run fails; in the engine it ended the block only"
        fix = line_of(n.Command("error", (n.Option("from", "--from"), n.Text("block", True), *node.arguments)))
        yield _finding(unit, "ERROR", message, node.span, fix, warn=False)


def _return_verb(program: Program, unit: Unit, node: n.Command) -> Iterator[Finding]:
    """``return "accept"`` decides, it was only a value."""
    first = next((part for part in node.arguments if not isinstance(part, n.Option)), None)
    if node.name != "return" or not isinstance(first, n.Text | n.Interpolated):
        return
    text = first.parts[0] if isinstance(first, n.Interpolated) else first
    words = text.value.split() if isinstance(text, n.Text) else []
    if words and words[0] in program.verbs:
        message = f"this is the verb {words[0]} and ends the run; in the engine it ended the block only"
        yield _finding(unit, "RETURN", message, node.span, warn=False)


def _multi(program: Program, unit: Unit, node: n.Command) -> Iterator[Finding]:
    """There is no MultiMap."""
    flags = [part for part in node.arguments if isinstance(part, n.Option) and part.spelling in _MULTI]
    if node.name == "map-create" and flags:
        rest = tuple(part for part in node.arguments if part not in flags)
        message = "there is no MultiMap: a key with several values holds a list"
        yield _finding(unit, "MULTIMAP", message, node.span, line_of(n.Command(node.name, rest)))
    elif node.name == "map-add" and len([part for part in node.arguments if not isinstance(part, n.Option)]) > 3:
        parts = [part for part in node.arguments if not isinstance(part, n.Option)]
        listed = n.ListLiteral(tuple(parts[2:]))
        message = "there is no MultiMap: behind the value come further keys and values; several values are a list"
        yield _finding(unit, "MULTIMAP", message, node.span, line_of(n.Command("map-add", (*parts[:2], listed))))
    elif node.name == "parse-query":
        message = (
            "this gives a Map: a key that stands once has a string, one that stands again a list; it was a MultiMap"
        )
        yield _finding(unit, "MULTIMAP", message, node.span, warn=False)


def _call(program: Program, unit: Unit, node: n.Command) -> Iterator[Finding]:
    """``call name``: what the host registers is a command like any other."""
    if node.name == "call" and node.arguments and isinstance(node.arguments[0], n.Text):
        name = node.arguments[0].value.rpartition("::")[2]
        message = f"there is no call: what the host registers is the command {name}"
        yield _finding(unit, "CALL", message, node.span, line_of(n.Command(name, node.arguments[1:])))


def _gateway(program: Program, unit: Unit, node: n.Command) -> Iterator[Finding]:
    """Commands that only the gateway has."""
    if node.name in _GATEWAY and program.registry.get(node.name) is None:
        message = f"{node.name} is {_GATEWAY[node.name]}: the host must register it"
        yield _finding(unit, "COMMAND", message, node.name_span)


def _forward(program: Program, unit: Unit, node: n.Command) -> Iterator[Finding]:
    """forward takes one target; the gateway's load balancer is choice."""
    first = node.arguments[0] if node.arguments else None
    balanced = len(node.arguments) > 1 or (isinstance(first, n.Text) and first.value in _FORWARD_WORDS)
    if node.name == "forward" and balanced:
        message = (
            "forward takes one target: choose one with choice, which takes a list, or a map of targets and weights"
        )
        yield _finding(unit, "FORWARD", message, node.span, 'target = $(choice [...]) && forward "${target}"')


def _capture(program: Program, unit: Unit, node: n.Command) -> Iterator[Finding]:
    """capture cannot see a control: it passes through."""
    if node.name != "capture":
        return
    for part in node.arguments:
        if isinstance(part, n.Option) and part.spelling in _CAPTURE_FLAGS:
            message = f"capture has no {part.spelling}: a return or a verb passes through, and nothing is stored"
            yield _finding(unit, "CAPTURE", message, part.span)


def _verb_in_exec(unit: Unit, node: n.Command) -> Finding:
    message = (
        f"{node.name} ends the whole run from here; in the engine it was an error or a value in a block that is called"
    )
    return _finding(unit, "VERB", message, node.span, warn=False)


_CHECKS: tuple[Check, ...] = (
    _bare_subject, _goto, _error, _return_verb, _multi, _call, _gateway, _forward, _capture,
)  # fmt: skip

# -- other statements --------------------------------------------------------------------------------------------------


def _order(unit: Unit, node: n.Or) -> Iterator[Finding]:
    """``a && b || c``: c runs when a fails; the engine ended the line there."""
    for at, operand in enumerate(node.operands[:-1]):
        if isinstance(operand, n.And):
            first, rest = line_of(operand.operands[0]), [line_of(part) for part in operand.operands[1:]]
            later = [line_of(part) for part in node.operands[at + 1 :]]
            message = f"{later[0]} runs also when {first} fails, as in the document; the engine ended the line there"
            fix = f"if {first} then {' && '.join(rest)} || {' || '.join(later)}; end"
            yield _finding(unit, "ORDER", message, node.span, fix, warn=False)
            return


def _levels(unit: Unit, node: n.Assignment, local: set[str]) -> Iterator[Finding]:
    """``local x = 1; x = 2`` writes the local here; the engine made a chain variable."""
    name = node.target.name
    if node.scope == BLOCK:
        local.add(name)
    elif not node.scope and not node.target.steps and name in local:
        local.discard(name)
        message = f"this writes the local ${name}; the engine set a variable of the chain"
        fix = line_of(n.Assignment("chain", node.target, node.value))
        yield _finding(unit, "LEVEL", message, node.span, fix, warn=False)


def _written_key(unit: Unit, node: n.Assignment) -> Iterator[Finding]:
    """``$m[$k] = v``: the key is the variable's value here."""
    if any(isinstance(step.key, n.Variable) for step in node.target.steps):
        message = "the key is the value of the variable; the engine wrote the key as it stands in the text"
        yield _finding(unit, "KEY", message, node.target.span, warn=False)


def in_wrong_text(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, word of the code, message) of what a text that does not parse may have from the engine."""
    for number, line in enumerate(text.split("\n"), 1):
        if re.match(r"\s*control\(", line):
            yield (
                number,
                "CONTROL",
                "match-result has no control(...): a return or a verb in the command passes through",
            )
        if re.search(r"[\w/]\.\(", line):
            yield number, "WORD", 'a word like a.($b) is put together in double quotes: "a${b}"'
