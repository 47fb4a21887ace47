"""The bottom of the compiler: where code goes, registers, constants, and how results and faults are represented.

Code is emitted in A-normal form: nested ``$(...)`` become statements before the one that uses them. How a statement
ended is a ``Result``: an expression, not yet evaluated, and the form that says how to read status and value off it. A
fault in an argument leaves its statement through an ``if`` whose ``else`` takes all that is still to come of it, so
that neither exceptions nor closures are needed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache, cached_property
from typing import Any, NamedTuple

from common.chain import nodes as n
from common.chain import pycode as py
from common.chain.commands.spec import Kind, Registry
from common.chain.errors import NOWHERE, ChainError, Span
from common.chain.run import Access
from common.chain.scopes import Scopes
from common.chain.signals import ERR, FAULTED
from common.chain.verbs import Verbs

CHAIN_PREFIX = "c:"
"""Before the name of a chain variable among what is known."""
_RUNS_OR_WRITES = frozenset(("exec", "invoke", "goto", "delete"))
GUARDS_MAX = 200
"""``$(...)`` of one statement that can fail; each nests the rest of its statement one level deeper."""


class Need(Enum):
    """What of a statement's result is used."""

    NOTHING = 0
    STATUS = 1
    BOTH = 2


class Form(Enum):
    """How to read a result. OK: the value. PRED: a Bool that is status and value. TRI: True, False or an Err.
    MIXED: the value, or an Err. SIGNAL: what a block's function returned. NEVER: control does not come here.
    """

    OK = "ok"
    PRED = "pred"
    TRI = "tri"
    MIXED = "mixed"
    SIGNAL = "signal"
    NEVER = "never"


class Result(NamedTuple):
    """An expression to be placed once (twice if it is an atom), its form, and the class name of an Ok value if known.
    ``faults`` is False for a MIXED one that can only be an answer.
    """

    form: Form
    expr: Any
    type: str = ""
    faults: bool = True


NEVER = Result(Form.NEVER, None)


def ok(expr: Any, type: str = "") -> Result:
    """Always Ok."""
    return Result(Form.OK, expr, type)


def pred(expr: Any) -> Result:
    """A Bool that is status and value."""
    return Result(Form.PRED, expr, "bool")


@dataclass(frozen=True)
class Config:
    """What a block's code depends on besides its text."""

    inputs: Mapping[str, Access]
    registry: Registry
    verbs: Verbs
    strict: bool = False
    traced: bool = False

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """The same for configurations that give the same code."""
        return (tuple(self.inputs.items()), self.registry, self.verbs.key, self.strict, self.traced)


class Link(NamedTuple):
    """A global of a block's function that depends on where the block is mounted; see ``linking.py``."""

    name: str
    what: str  # place, origin, signal, exec, invoke, goto, scope, string_quarter, depth_max
    data: tuple[Any, ...] = ()
    span: Span = NOWHERE


@dataclass(slots=True)
class Frame:
    """A statement on its way: faults in its arguments go to ``register``."""

    need: Need
    register: str = ""
    guards: int = 0
    before: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Loop:
    """A Python loop around the code: ``for`` (``breaks``), or that of ``map``."""

    register: str  # takes the value of break; "" where nobody wants it
    saved: str  # the run's iterated collections outside; "" where the loop does not add to them
    scoped: int  # bindings to restore that are older than the loop


class Emitter:
    """Code under construction. ``known`` maps Python locals that certainly have a value to its class name or ""."""

    def __init__(self, scopes: Scopes, config: Config) -> None:
        self.scopes, self.config = scopes, config
        self.out: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._registers: dict[int, str] = {}  # id of a constant -> its name
        self.notes: dict[str, str] = {}
        self.links: dict[tuple[Any, ...], Link] = {}
        self.errors: list[ChainError] = []
        self.frames: list[Frame] = []
        self.loops: list[Loop] = []
        self.scoped: list[tuple[str, str]] = []
        self.known: dict[str, str] = {}
        self.initial: dict[str, None] = {}
        self.deleted: set[str] = set()
        self.hoisted: set[str] = set()
        self.span = scopes.body.span
        self._temps = 0

    def fail(self, word: str, message: str, span: Span) -> None:
        """Note a load error."""
        self.errors.append(ChainError(f"PC-LINK-{word}", message, span))

    # -- code ----------------------------------------------------------------------------------------------------------

    def emit(self, statement: Any, span: Span = NOWHERE) -> None:
        """Append one Python statement, placed where the chain's statement is unless ``span`` says better."""
        self.out.append(py.place(statement, self.span if span is NOWHERE else span))

    @contextmanager
    def into(self, statements: list[Any]) -> Iterator[list[Any]]:
        """Emit into another list meanwhile."""
        outer, self.out = self.out, statements
        try:
            yield statements
        finally:
            if not statements:
                statements.append(py.pass_())
            self.out = outer

    def temp(self) -> str:
        """A new local."""
        self._temps += 1
        return f"t{self._temps}"

    def hold(self, expr: Any) -> Any:
        """Evaluate now; what comes back may stand more than once."""
        if py.is_atom(expr):
            return expr
        register = self.temp()
        self.emit(py.assign(register, expr))
        return py.name(register)

    def named(self, expr: Any) -> tuple[Any, Any]:
        """The expression where it stands first, and the name by which the same Python expression has it again."""
        if py.is_name(expr):
            return expr, expr
        register = self.temp()
        return py.bind(register, expr), py.name(register)

    def constant(self, value: Any, note: str) -> Any:
        """An object of the compiler's own as a global of the function; ``note`` says what it is, for ``explain``."""
        register = self._registers.get(id(value))
        if register is None:
            register = self._registers[id(value)] = f"k{len(self.constants)}"
            self.constants[register], self.notes[register] = value, note
        return py.name(register)

    def link(self, what: str, *data: Any, span: Span = NOWHERE) -> Any:
        """A global that is settled when the block is mounted."""
        key = (what, *((type(item), item) for item in data))
        if key not in self.links:
            self.links[key] = Link(f"{what}{len(self.links)}", what, data, span)
        return py.name(self.links[key].name)

    def place_of(self, span: Span) -> Any:
        """``chain:block:line`` of a span."""
        return self.link("place", span.line)

    # -- results -------------------------------------------------------------------------------------------------------

    def discard(self, result: Result) -> None:
        """Nobody looks: evaluate for the effect."""
        if result.form is not Form.NEVER and not py.is_atom(result.expr):
            self.emit(py.expr(result.expr))

    def truth(self, result: Result) -> Any:
        """The status as a Python condition."""
        if result.form is Form.PRED:
            return result.expr
        if result.form is Form.TRI:
            return py.compare(result.expr, py.IS, py.const(True))
        if result.form is Form.MIXED:
            return py.class_is_not(result.expr, "Err")
        if result.form is Form.SIGNAL:
            return py.compare(py.item(result.expr, py.const(0)), py.LT, py.const(ERR))
        self.discard(result)
        return py.const(result.form is Form.OK)

    def mixed(self, result: Result) -> Any:
        """Status and value in one: the value, or an Err."""
        if result.form is Form.PRED:
            if py.is_const(result.expr):
                return py.const(True) if result.expr.value else py.name("ERR_FALSE")
            return py.choose(result.expr, py.const(True), py.name("ERR_FALSE"))
        if result.form is Form.TRI:
            held = self.hold(result.expr)
            return py.choose(py.compare(held, py.IS_NOT, py.const(False)), held, py.name("ERR_FALSE"))
        if result.form is Form.SIGNAL:
            return py.call("of_signal", [result.expr])
        return py.const("") if result.form is Form.NEVER else result.expr

    def value_of(self, result: Result) -> tuple[Any, str]:
        """The value of ``$(...)``: that of Ok and of an answer; a fault leaves the statement. Also its class name."""
        if result.form is Form.NEVER:
            return py.const(""), "str"
        if result.form in (Form.OK, Form.PRED):
            return result.expr, result.type
        if result.form is Form.SIGNAL:
            signal = self.hold(result.expr)
            fault = py.compare(py.item(signal, py.const(0)), py.EQ, py.const(FAULTED))
            self.guard(fault, py.call("of_signal", [signal]))
            return py.item(signal, py.const(1)), ""
        held = self.hold(result.expr)
        is_err = py.class_is(held, "Err")
        if result.faults:
            self.guard(py.both(is_err, py.attr(held, "fault")), held)
        return py.choose(is_err, py.attr(held, "value"), held), ""

    def guard(self, fault: Any, err: Any) -> None:
        """Where ``fault`` holds, the statement is the fault ``err``; what is emitted from here on happens else."""
        frame = self.frames[-1]
        if not frame.guards:
            frame.before = dict(self.known)
        frame.guards += 1
        if frame.guards == GUARDS_MAX:
            self.fail("COMPLEX", f"more than {GUARDS_MAX} $(...) in one statement", self.scopes.body.span)
        rest: list[Any] = []
        if frame.need is Need.NOTHING:
            self.emit(py.if_(py.negate(fault), rest))
        else:
            frame.register = frame.register or self.temp()
            failed = py.const(False) if frame.need is Need.STATUS else err
            self.emit(py.if_(fault, [py.assign(frame.register, failed)], rest))
        self.out = rest

    def leave(self, signal: Any, span: Span) -> Result:
        """Return a signal from the block's function."""
        outside = next((loop.saved for loop in self.loops if loop.saved), "")
        if outside:
            self.emit(py.assign_attr(py.name("run"), "iterated", py.name(outside)))
        self.emit(py.return_(signal), span)
        return NEVER

    # -- what is known -------------------------------------------------------------------------------------------------

    def know(self, local: str, type: str) -> None:
        """``local`` has a value from here on."""
        if local not in self.deleted:
            self.known[local] = type

    def forget_chain(self) -> None:
        """Another block may have changed the chain's variables: nothing is known of them any more."""
        self.known = {local: type for local, type in self.known.items() if not local.startswith(CHAIN_PREFIX)}

    def read_local(self, local: str) -> Any:
        """A local that may never have been assigned."""
        self.initial[local] = None
        return py.name(local)

    @staticmethod
    def met(paths: Iterable[dict[str, str]]) -> dict[str, str]:
        """What is known where several paths meet."""
        first, *others = paths
        return {
            local: type if all(other[local] == type for other in others) else ""
            for local, type in first.items()
            if all(local in other for other in others)
        }


def walk(node: Any) -> Iterator[Any]:
    """Every node in and below ``node``, in the order of the text as far as the fields have it."""
    if type(node) is tuple:
        for part in node:
            yield from walk(part)
        return
    cls: Hashable = type(node)  # type: ignore[assignment] # mypy finds no __hash__ in a type
    parts = _parts(cls)
    if parts is not None:
        yield node
        for name in parts:
            part = getattr(node, name)
            if type(part) is not str:
                yield from walk(part)


@cache
def _parts(cls: Hashable) -> tuple[str, ...] | None:
    """The fields of a node's class that may hold nodes; None for what is no node."""
    if not isinstance(cls, type) or not is_dataclass(cls) or cls is Span:
        return None
    return tuple(part.name for part in fields(cls) if part.name not in ("span", "name_span", "names", "value_text"))


def has_substitution(node: object) -> bool:
    """True where evaluating ``node`` runs a command."""
    if isinstance(node, n.Interpolated):
        return any(isinstance(part, n.Substitution) for part in node.parts)
    if isinstance(node, n.ListLiteral):
        return any(map(has_substitution, node.items))
    if isinstance(node, n.MapLiteral):
        return any(has_substitution(item) for _, item in node.entries)
    return isinstance(node, n.Substitution)


def may_write(node: object, scopes: Scopes) -> bool:
    """True where running ``node`` may change a collection, or runs what is not seen here."""
    return any(_changes(part, scopes) or _needs_run(part, scopes) for part in walk(node))


def may_build(node: object, scopes: Scopes) -> bool:
    """True where running ``node`` may put one collection into another, or runs what is not seen here."""
    return any(isinstance(part, n.ListLiteral | n.MapLiteral) or _changes(part, scopes) for part in walk(node))


def _needs_run(part: object, scopes: Scopes) -> bool:
    """A command that gets the run, and so may do what it likes."""
    bound = scopes.bound.get(id(part))
    return bound is not None and bound.spec.needs_run


def _changes(part: object, scopes: Scopes) -> bool:
    """A statement that changes a collection by its kind, or a command that is not known or runs other blocks."""
    if isinstance(part, n.Assignment):
        return bool(part.target.steps)
    if not isinstance(part, n.Command):
        return False
    bound = scopes.bound.get(id(part))
    if bound is None or "writes" in bound.spec.effects or part.name in _RUNS_OR_WRITES:
        return True
    return any(
        isinstance(arg, n.Variable) and arg.steps and param.kind in (Kind.UPDATE, Kind.WRITE)
        for arg, param in zip(bound.args, bound.spec.params, strict=False)
    )
