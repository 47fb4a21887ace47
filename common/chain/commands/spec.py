"""What a command is: its spec, the one source of its arity, its documentation, its examples and its code (L8).

How a command is called. ``call`` gets the evaluated arguments in the order of ``params`` (a repeated last one spread
out), and the given options as keyword arguments (dashes become underscores; a flag is True). With ``needs_run`` the
run comes first. It returns the value of Ok, or an ``Err``; a ``predicate`` returns True (Ok true), False (Err false),
or an ``Err`` that is a fault. It raises only MisuseError and LimitError. Values of Missing come as ``""`` unless the
parameter says ``missing``; a ``text`` parameter gets a str, whatever was given; a READ or UPDATE parameter gets the
variable's value as it is, or MISSING.

``specialise`` may prepare a call whose literal arguments are known when the text is loaded: it gets a ``Static`` and
returns a function that takes only the arguments that are not literal (after the run, where ``needs_run``), or None;
it raises BadArgument for a literal that can never work, which is then a load error at that argument.

Out options (``Opt.out``) name variables: the command is then called through ``capturing`` (same arguments, without
those options), which returns an Err, or a tuple: the value, then one value for each out option in the order of
``options``; the compiler stores those that were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from common.chain.values import MISSING, Missing, type_name


class Err:
    """The failure of a command (L4): an answer, or a ``fault`` whose ``value`` is then the message."""

    __slots__ = ("fault", "value")

    def __init__(self, value: Any = "", *, fault: bool = False) -> None:
        self.value, self.fault = value, fault

    def __bool__(self) -> bool:
        """False, so that a condition that looks only at truth never takes a fault for success."""
        return False

    def __repr__(self) -> str:
        return f"Err({self.value!r}, fault={self.fault})"


def fault(message: str) -> Err:
    """Return the Err of data that cannot be worked with (L4); ``message`` begins with the command's name."""
    return Err(message, fault=True)


def needed(name: str, kind: str, given: Any) -> Err:
    """Return the fault of command ``name`` that got a value of a wrong type, or the variable of which is not there."""
    return fault(f"{name}: {'nothing' if given is MISSING else type_name(given)} given, {kind} needed")


NO_MATCH = Err("")
"""The answer of what does not fit: shared, so nobody may change it."""


class BadArgument(Exception):
    """A literal argument can never work. ``index`` is its place among the arguments, -1 the whole call."""

    def __init__(self, message: str, index: int = -1) -> None:
        self.message, self.index = message, index
        super().__init__(message)


class Kind(StrEnum):
    """How an argument is passed."""

    VALUE = "value"  # evaluated
    READ = "read"  # a ref: the variable's value, or MISSING
    UPDATE = "update"  # a ref: the value is passed, the value of Ok is written back
    WRITE = "write"  # a ref: nothing is passed, the value of Ok is written
    COMMAND = "command"  # an unevaluated $(...); special forms only
    NAME = "name"  # a word that is fixed by the text: a block's id, a variable's name; special forms only


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter. ``type`` is ``any``, ``text`` (converted), ``number``, ``int``, ``list``, ``map``, ``set``,
    ``collection`` (for documentation and for literals; the command checks it). ``missing``: MISSING is passed as it is.
    """

    name: str
    doc: str
    kind: Kind = Kind.VALUE
    type: str = "any"
    optional: bool = False
    repeated: bool = False  # the last one only: once or more, or with ``optional`` any number
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Opt:
    """One option. A flag takes no value; ``out`` takes the name of a variable to write, which comes as a Variable; a
    ``pair`` takes a key (a word) and a value and comes as a tuple of both; a ``command`` is an unevaluated $(...), for
    special forms; else ``type`` as in Param. Of the options of one ``group`` at most one is given.
    """

    name: str
    doc: str
    short: str = ""
    type: str = "flag"
    out: bool = False
    choices: tuple[str, ...] = ()
    repeated: bool = False
    group: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """An example that is a test: ``program`` is a block; then its last statement's status and value, and what of
    ``$result`` or the verb is expected, as ``verb``.
    """

    program: str
    value: Any = None
    ok: bool = True
    verb: str = ""


@dataclass(frozen=True, slots=True)
class Static:
    """The literal arguments of one call: ``args`` in order, DYNAMIC where not literal; ``options`` likewise by name."""

    args: tuple[Any, ...]
    options: dict[str, Any]


class _Dynamic:
    def __repr__(self) -> str:
        return "DYNAMIC"


DYNAMIC = _Dynamic()


@dataclass(frozen=True, slots=True, eq=False)  # one of a kind; its examples may hold what has no hash
class Spec:
    """Everything about one command. ``ok``, ``answers`` and ``faults`` say in words what its results are."""

    name: str
    group: str  # control, variables, match, text, uri, collections, operations, host
    doc: str
    params: tuple[Param, ...] = ()
    options: tuple[Opt, ...] = ()
    ok: str = ""
    answers: str = ""
    faults: str = ""
    effects: tuple[str, ...] = ()  # writes, random, clock, output, ends
    examples: tuple[Example, ...] = ()
    aliases: tuple[str, ...] = ()
    call: Callable[..., Any] | None = None  # None: the compiler's own (special forms)
    specialise: Callable[[Static], Callable[..., Any] | None] | None = None
    capturing: Callable[..., Any] | None = None
    capturing_specialise: Callable[[Static], Callable[..., Any] | None] | None = None
    predicate: bool = False
    needs_run: bool = False
    grows: bool = False  # its text may be longer than its arguments: the compiler adds the check of the size limit


class RunContext(Protocol):
    """What a command with ``needs_run`` may use of its run."""

    string_bytes_max: int
    collection_items_max: int

    def random(self) -> float:
        """The next number in [0, 1) of the hook point's seedable generator."""

    def now_ms(self) -> int:
        """Unix milliseconds of the host's clock."""

    def echo(self, text: str) -> None:
        """Add a line to the run's output, within its limit, and to the debug log."""

    def take(self, key: str, rate: float, burst: float) -> bool:
        """Take one token of the host's bucket ``key``, which refills at ``rate`` a second up to ``burst``."""

    def changing(self, collection: Any, size: int = 0) -> None:
        """Call before a collection is changed to have ``size`` items. Raises MisuseError where it is read-only or
        being iterated, LimitError where it would grow beyond ``collection_items_max``.
        """


class Registry:
    """The commands that a hook point knows: those of the language and the host's own."""

    def __init__(self, specs: Sequence[Spec] = ()) -> None:
        self._specs: dict[str, Spec] = {}
        for spec in specs:
            self.add(spec)

    def add(self, spec: Spec) -> None:
        """Add a command under its name and aliases. Raises ValueError for a name that is taken, or a coroutine
        function: a command returns at once.
        """
        import inspect

        if spec.call is not None and inspect.iscoroutinefunction(spec.call):
            raise ValueError(f"{spec.name}: a command must return at once, a coroutine function cannot be one")
        for name in (spec.name, *spec.aliases):
            if name in self._specs:
                raise ValueError(f"{name}: there is such a command already")
        for name in (spec.name, *spec.aliases):
            self._specs[name] = spec

    def get(self, name: str) -> Spec | None:
        """Return the command ``name``, or None."""
        return self._specs.get(name)

    def names(self) -> list[str]:
        """All names and aliases, sorted."""
        return sorted(self._specs)

    def specs(self) -> list[Spec]:
        """Every spec once, in the order of adding."""
        return list(dict.fromkeys(self._specs.values()))

    def extended(self, specs: Sequence[Spec]) -> Registry:
        """Return a new registry with ``specs`` added."""
        other = Registry()
        other._specs = dict(self._specs)
        for spec in specs:
            other.add(spec)
        return other


class BoundCall(NamedTuple):
    """A call that fits its spec: ``args`` in the order of params (the repeated one spread out, optional ones that were
    not given left out), ``options`` by name (True for a flag; a tuple where repeated). Made by ``bind.bind``.
    """

    spec: Spec
    args: tuple[Any, ...]  # nodes.Expression
    options: dict[str, Any]  # nodes.Expression | True | tuple


__all__ = [
    "DYNAMIC", "NO_MATCH", "BadArgument", "BoundCall", "Err", "Example", "Kind", "Missing", "Opt", "Param", "Registry",
    "RunContext", "Spec", "Static", "fault", "needed",
]  # fmt: skip
