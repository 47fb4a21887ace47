"""Fit a call to its command's spec: which words are options, which arguments fill which parameters (L2, L8).

The parser knows no commands, so it leaves open whether ``-x`` is an option and whether ``--name`` takes the next word.
That is settled here, once, when a text is loaded, and everything about the call that is fixed by the text is checked:
number of arguments, names of options, literals of a wrong type, refs that are no names. All errors come at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from common.chain import values
from common.chain.commands.spec import BoundCall, Kind, Opt, Param, Spec
from common.chain.errors import ChainError, ChainErrors, Span
from common.chain.nodes import (
    Argument,
    Command,
    Expression,
    ListLiteral,
    Literal,
    MapLiteral,
    Option,
    Step,
    Substitution,
    Text,
    Variable,
)

_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[\w-]+)*")
_INT = re.compile(r"-?[0-9]{1,18}")
_REFS = (Kind.READ, Kind.UPDATE, Kind.WRITE)
_PLACES = {Kind.READ: "read", Kind.UPDATE: "changed", Kind.WRITE: "written"}
_MISFITS: dict[str, tuple[type, ...]] = {
    "list": (Literal, Text, MapLiteral),
    "map": (Literal, Text, ListLiteral),
    "set": (Literal, Text, ListLiteral, MapLiteral),
    "collection": (Literal, Text),
}
"""Type of a parameter -> what written in the text can never have that type."""


def bind(command: Command, spec: Spec) -> BoundCall:
    """Return the call with its arguments in the order of ``spec.params`` and its options by name.

    A ref comes as a Variable however it is written; a number given to a ``text`` parameter as its spelling. Raises
    ChainErrors with all that is wrong with the call: PC-LINK-ARITY, PC-LINK-OPTION, PC-LINK-LITERAL, PC-LINK-REF.
    """
    return _Binding(command, spec).done()


@lru_cache(512)
def _tables(spec: Spec) -> tuple[dict[str, Opt], dict[str, Opt], int]:
    """Options by short form, options by name, and how many arguments the command needs."""
    shorts = {opt.short: opt for opt in spec.options if opt.short}
    return shorts, {opt.name: opt for opt in spec.options}, sum(not param.optional for param in spec.params)


class _Binding:
    """One call on its way; ``errors`` collects what does not fit."""

    def __init__(self, command: Command, spec: Spec) -> None:
        self.command, self.spec = command, spec
        self.errors: list[ChainError] = []
        self.options: dict[str, object] = {}
        self.shorts, self.longs, self.needed = _tables(spec)

    def done(self) -> BoundCall:
        args = self._positional(list(self.command.arguments))
        params = self._params(len(args))
        bound = [self._fit(arg, param.kind, param.type, param.name) for arg, param in zip(args, params, strict=False)]
        self._check_arity(args)
        if self.errors:
            raise ChainErrors(self.errors)
        return BoundCall(self.spec, tuple(bound), self.options)

    def fail(self, word: str, message: str, span: Span, expected: Sequence[str] = ()) -> None:
        text = f"{self.command.name}: {message}"
        self.errors.append(ChainError(f"PC-LINK-{word}", text, span, expected=expected))

    # -- options --

    def _positional(self, rest: list[Argument]) -> list[Expression]:
        """Take the options out of the arguments; what remains fills the parameters."""
        found: list[Expression] = []
        ended = False
        while rest:
            arg = rest.pop(0)
            if not isinstance(arg, Option):
                found.append(arg)
            elif arg.spelling == "--" and not ended:
                ended = True
            elif ended or self._is_word(arg):
                found.append(self._word(arg))
            else:
                self._take(arg, rest)
        return found

    def _is_word(self, arg: Option) -> bool:
        """True for ``-x`` where the command has no such short form."""
        return not arg.spelling.startswith("--") and arg.name not in self.shorts

    def _word(self, arg: Option) -> Text:
        """The option as the bare word that it is after all."""
        if arg.value is None:
            return Text(arg.spelling, True, arg.span)
        if not isinstance(arg.value, Text) or not arg.value.bare:
            self.fail("OPTION", f"{arg.spelling}=... is a word here and must be quoted", arg.span)
            return Text(arg.spelling, True, arg.span)
        return Text(f"{arg.spelling}={arg.value.value}", True, arg.span)

    def _take(self, arg: Option, rest: list[Argument]) -> None:
        """Store one option with its value."""
        opt = self.longs.get(arg.name) if arg.spelling.startswith("--") else self.shorts[arg.name]
        if opt is None:
            self._unknown(arg)
            return
        if opt.type == "flag" and not opt.out:
            if arg.value is not None:
                self.fail("OPTION", f"--{opt.name} takes no value", arg.span)
            self._store(opt, True, arg.span)
            return
        given = [] if arg.value is None else [arg.value]
        wanted = 2 if opt.type == "pair" else 1
        while len(given) < wanted and rest and not self._is_option(rest[0]):
            nearest = rest.pop(0)
            given.append(self._word(nearest) if isinstance(nearest, Option) else nearest)
        if len(given) < wanted:
            what = "a key and a value" if wanted == 2 else "the name of a variable" if opt.out else "a value"
            self.fail("OPTION", f"--{opt.name} needs {what}", arg.span)
            return
        fitted = self._pair(opt, given) if wanted == 2 else self._value(opt, given[0])
        self._store(opt, fitted, arg.span)

    def _is_option(self, arg: Argument) -> bool:
        return isinstance(arg, Option) and not self._is_word(arg)

    def _unknown(self, arg: Option) -> None:
        from difflib import get_close_matches  # only for an error: it costs more to load than to bind a call

        near = get_close_matches(arg.name, self.longs, n=1, cutoff=0.5)
        hint = f", did you mean --{near[0]}" if near else ""
        self.fail("OPTION", f"unknown option {arg.spelling}{hint}", arg.span, [f"--{name}" for name in self.longs])

    def _store(self, opt: Opt, value: object, span: Span) -> None:
        if opt.repeated:
            before = self.options.get(opt.name, ())
            assert isinstance(before, tuple)  # only this line stores it
            self.options[opt.name] = (*before, value)
        elif opt.name in self.options:
            self.fail("OPTION", f"--{opt.name} is given twice", span)
        else:
            other = next((name for name in self.options if opt.group and self.longs[name].group == opt.group), "")
            if other:
                self.fail("OPTION", f"--{opt.name} and --{other} exclude each other", span)
            self.options[opt.name] = value

    def _value(self, opt: Opt, value: Expression) -> Expression:
        if opt.out:
            name = self._ref(value, Kind.WRITE, f"--{opt.name}")
            if isinstance(name, Variable) and name.steps:
                self.fail("REF", f"--{opt.name} needs the name of a variable, not a path", value.span)
            return name
        if opt.choices:
            if not isinstance(value, Text) or value.value not in opt.choices:
                self.fail("OPTION", f"wrong value of --{opt.name}", value.span, opt.choices)
            return value
        kind = Kind.COMMAND if opt.type == "command" else Kind.VALUE
        return self._fit(value, kind, opt.type, f"--{opt.name}")

    def _pair(self, opt: Opt, given: list[Expression]) -> tuple[Expression, Expression]:
        key, value = given
        if not isinstance(key, Text):
            self.fail("OPTION", f"the key of --{opt.name} must be a word", key.span)
        elif any(pair[0].value == key.value for pair in self._pairs(opt)):
            self.fail("OPTION", f'the key "{key.value}" of --{opt.name} is given twice', key.span)
        return key, value

    def _pairs(self, opt: Opt) -> tuple[tuple[Text, Expression], ...]:
        return self.options.get(opt.name, ())  # type: ignore[return-value] # a pair is stored by _store only

    # -- parameters --

    def _params(self, count: int) -> Sequence[Param]:
        """The parameter of each of ``count`` arguments."""
        params = self.spec.params
        if count > len(params) and params and params[-1].repeated:
            return [*params, *[params[-1]] * (count - len(params))]
        return params

    def _check_arity(self, args: list[Expression]) -> None:
        params, needed = self.spec.params, self.needed
        endless = bool(params) and params[-1].repeated
        if len(args) >= needed and (endless or len(args) <= len(params)):
            return
        names = usage(self.spec)
        count = (
            f"{needed} or more" if endless else f"{needed} to {len(params)}" if needed < len(params) else str(needed)
        )
        noun = "argument" if count == "1" else "arguments"
        message = f"takes {count} {noun}{f' ({names})' if names else ''}, {len(args)} given"
        if len(args) < needed and params[len(args)].name == "filter":
            message += '; a # that stands alone begins a comment: write "#"'
        too_many = len(args) > len(params)
        self.fail("ARITY", message, args[len(params)].span if too_many else self.command.span)

    def _fit(self, arg: Expression, kind: Kind, type_: str, name: str) -> Expression:
        """One argument as its parameter wants it, as far as the text settles that."""
        if kind in _REFS:
            return self._ref(arg, kind, name)
        if kind is Kind.COMMAND:
            if not isinstance(arg, Substitution):
                self.fail("LITERAL", f"{name} must be a command in $(...)", arg.span)
        elif kind is Kind.NAME:
            if not isinstance(arg, Text):
                self.fail("REF", f"{name} must be a word that stands in the text", arg.span)
        elif type_ == "text":
            return _spelling(arg)
        elif type_ in ("number", "int"):
            if not _may_be_number(arg, type_):
                article = "an integer" if type_ == "int" else "a number"
                self.fail("LITERAL", f"{name} must be {article}", arg.span)
        elif isinstance(arg, _MISFITS.get(type_, ())):
            is_name = isinstance(arg, Text) and arg.bare and _PATH.fullmatch(arg.value)
            hint = f"; write ${arg.value} for the variable" if is_name and isinstance(arg, Text) else ""
            self.fail("LITERAL", f"{name} must be a {type_}{hint}", arg.span)
        return arg

    def _ref(self, arg: Expression, kind: Kind, name: str) -> Expression:
        """The variable that a ref names: ``name``, ``name.seg``, quoted or with ``$``."""
        if isinstance(arg, Variable):
            if arg.default is None:
                return arg
            self.fail("REF", f"{name} is {_PLACES[kind]} and can have no default", arg.span)
        elif isinstance(arg, Text) and _PATH.fullmatch(arg.value):
            head, *rest = arg.value.split(".")
            return Variable(
                head, tuple(Step(Text(seg, False, arg.span), False, arg.span) for seg in rest), None, arg.span
            )
        else:
            self.fail("REF", f"{name} must be the name or the path of a variable", arg.span)
        return arg


def usage(spec: Spec) -> str:
    """Return the parameters as people write them: ``value pattern [more...]``."""
    shown = (f"{param.name}{'...' if param.repeated else ''}" for param in spec.params)
    return " ".join(f"[{name}]" if param.optional else name for name, param in zip(shown, spec.params, strict=True))


def _spelling(arg: Expression) -> Expression:
    """A literal number as the text that stands there; anything else as it is."""
    is_number = isinstance(arg, Literal) and type(arg.value) in (int, float)
    return Text(arg.spelling, True, arg.span) if is_number and isinstance(arg, Literal) else arg


def _may_be_number(arg: Expression, type_: str) -> bool:
    """False for what can never be a number: words, and literals of other types."""
    if isinstance(arg, ListLiteral | MapLiteral):
        return False
    if isinstance(arg, Text):
        return _INT.fullmatch(arg.value) is not None if type_ == "int" else values.to_number(arg.value) is not None
    return not isinstance(arg, Literal) or type(arg.value) is int or (type_ == "number" and type(arg.value) is float)
