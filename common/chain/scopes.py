"""The names of a block: at which level each is read and written, and what stands where it may not (L3, L5, L6).

Levels are lexical. ``analyse`` walks the block in the order of its text, binds every command to its spec, notes the
level of every mention of a name, and collects all that is wrong with names, commands and placement. The compiler and
lint work from what it found; nothing here knows how a block is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache

from common.chain import nodes as n
from common.chain.commands.bind import bind
from common.chain.commands.spec import BoundCall, Kind, Opt, Param, Registry, Spec
from common.chain.errors import ChainError, ChainErrors, Span, node
from common.chain.run import Access
from common.chain.signals import LEVELS
from common.chain.verbs import ALIASES, COMMON, Shape, Verbs

BLOCK, CHAIN, GLOBAL, INPUT, RUN = "block", "chain", "global", "input", "run"
RUN_NAMES = ("result", "error", "resp")
READ_ONLY_NAMES = ("__args",)
MAP_NAMES = ("__key", "__value", "__result")
"""What ``map`` binds while its commands run."""
CONTROLS = frozenset(("return", "error", "exit", "goto", "break", "continue"))
LEVEL_OPTIONS = {"block": BLOCK, "chain": CHAIN, "global": GLOBAL}
CAPTURE_OPTIONS = ("value", "status", "ok", "error")

_VERB_PARAMS = {
    Shape.NOTHING: (),
    Shape.REASON: (Param("reason", "why", type="text", optional=True),),
    Shape.TARGET: (Param("target", "where to", type="text"),),
    Shape.OPTIONAL: (Param("target", "where to", type="text", optional=True),),
}


@lru_cache(256)
def verb_spec(word: str, shape: Shape) -> Spec:
    """The spec of a verb as a command: what it takes is its shape."""
    return Spec(word, "control", "", _VERB_PARAMS[shape])


@dataclass(slots=True)
class Scopes:
    """What is known of a block's names and commands. Nodes are told apart by identity, so ``body`` must live on."""

    body: n.Body
    levels: dict[int, str] = field(default_factory=dict)
    """id of a Variable -> level of a write to it. A read of an ``input`` starts at the chain level."""
    bound: dict[int, BoundCall] = field(default_factory=dict)
    """id of a Command -> the call as its spec has it."""
    verbs: dict[int, str] = field(default_factory=dict)
    """id of a Command that is a verb -> the verb's own word."""
    errors: list[ChainError] = field(default_factory=list)
    declared: list[tuple[str, str, Span]] = field(default_factory=list)
    """Name, level and place of every declaration, in the order of the text."""
    reads: dict[str, int] = field(default_factory=dict)
    """How often a name is mentioned."""
    written: set[str] = field(default_factory=set)
    """Names that are written, whatever their level."""
    deleted: set[str] = field(default_factory=set)
    """Names that ``delete`` may take away."""
    calls: bool = False
    """Whether there is an exec or invoke: another block may then change this chain's variables."""

    def level(self, mention: n.Variable) -> str:
        """The level that a write to ``mention`` goes to."""
        return self.levels[id(mention)]


def sort_of(bound: BoundCall) -> str:
    """``block``, ``chain`` or ``lib`` where a call says which of them its target is, else empty."""
    return next((sort for sort in LEVELS if sort in bound.options), "")


def analyse(body: n.Body, *, inputs: Mapping[str, Access], registry: Registry, verbs: Verbs) -> Scopes:
    """Return what is known of the names of ``body``; ``errors`` has all that is wrong, in the order of the text."""
    found = _Analysis(inputs, registry, verbs, Scopes(body))
    found.body(body)
    return found.scopes


class _Analysis:
    """The walk. ``loops`` counts the ``for`` around a statement that ``break`` may mean, ``shut`` those it cannot leave
    because a ``map`` is between.
    """

    def __init__(self, inputs: Mapping[str, Access], registry: Registry, verbs: Verbs, scopes: Scopes) -> None:
        self.inputs, self.registry, self.verbs, self.scopes = inputs, registry, verbs, scopes
        self.declared: dict[str, str] = {}
        self.loops = self.shut = 0

    def fail(self, word: str, message: str, span: Span, expected: Iterable[str] = ()) -> None:
        self.scopes.errors.append(ChainError(f"PC-LINK-{word}", message, span, expected=tuple(expected)))

    def declare(self, name: str, level: str, span: Span) -> None:
        """From here on ``name`` has this level."""
        if name in RUN_NAMES:
            self.fail("SCOPE", f"${name} belongs to the run and cannot be declared: choose another name", span)
            return
        self.declared[name] = level
        self.scopes.declared.append((name, level, span))

    def level_of(self, name: str) -> str:
        """The level that ``name`` has at this place of the text."""
        level = self.declared.get(name)
        if level is None:
            level = RUN if name in RUN_NAMES else INPUT if name in self.inputs else CHAIN
        return level

    # -- statements ----------------------------------------------------------------------------------------------------

    def body(self, body: n.Body | None) -> None:
        """Statements in order."""
        for statement in body.statements if body is not None else ():
            self.statement(statement)

    def statement(self, node: n.Statement) -> None:
        """One statement."""
        if isinstance(node, n.Command):
            self.command(node)
        elif isinstance(node, n.Assignment):
            self.assignment(node)
        elif isinstance(node, n.Comparison):
            self.expression(node.left)
            self.expression(node.right)
        elif isinstance(node, n.Condition):
            self.expression(node.value)
        elif isinstance(node, n.And | n.Or):
            for operand in node.operands:
                self.statement(operand)
        elif isinstance(node, n.Not):
            self.statement(node.operand)
        elif isinstance(node, n.Group):
            self.statement(node.body)
        else:
            self.compound(node)

    def compound(self, node: n.If | n.Case | n.For | n.MatchResult) -> None:
        """A statement with bodies of its own."""
        if isinstance(node, n.For):
            self.expression(node.collection)
            if len(set(node.names)) < len(node.names):
                self.fail("NAME", "the two names of for must differ", node.span)
            for name in node.names:
                self.declare(name, BLOCK, node.span)
            self.loops += 1
            self.body(node.body)
            self.loops -= 1
        elif isinstance(node, n.MatchResult):
            self.statement(node.command)
            for name, body in branches_in_order(node):
                self.declare(name, BLOCK, node.span)
                self.body(body)
        else:
            if isinstance(node, n.Case) and node.subject is not None:
                self.expression(node.subject)
                self.declare(node.name, BLOCK, node.span)
            for branch in node.branches:
                self.condition(branch.condition)
                self.statement(branch.condition)
                self.body(branch.body)
            self.body(node.otherwise)

    def condition(self, node: n.Statement) -> None:
        """A literal control as a term of a condition can never be meant."""
        for term in terms(node):
            if isinstance(term, n.Command) and (term.name in CONTROLS or term.name in self.verbs):
                self.fail("CONDITION", f"{term.name} leaves, it cannot be a condition", term.span)

    def assignment(self, node: n.Assignment) -> None:
        """The right side comes first; a scope word declares from the next statement on."""
        if node.value is not None:
            self.expression(node.value)
        if node.scope:
            self.declare(node.target.name, node.scope, node.span)
        self.write(node.target)

    # -- commands ------------------------------------------------------------------------------------------------------

    def command(self, node: n.Command) -> None:
        """Bind a command to its spec and look into its arguments."""
        spec = self.spec(node)
        bound = None
        if spec is not None:
            try:
                bound = bind(node, spec)
            except ChainErrors as errors:
                self.scopes.errors += errors.errors
        if spec is None or bound is None:
            for argument in node.arguments:
                value = argument.value if isinstance(argument, n.Option) else argument
                if value is not None:
                    self.expression(value)
            return
        self.scopes.bound[id(node)] = bound
        if spec.name in ("exec", "invoke"):
            self.scopes.calls = True
        elif spec.name == "delete" and spec.call is None:
            self.scopes.deleted |= {arg.name for arg in bound.args if isinstance(arg, n.Variable)}
        self.placement(node)
        if spec.name == "map" and spec.call is None:
            self.map(node, bound)
        else:
            self.arguments(bound)
        self.outs(node, bound)

    def spec(self, node: n.Command) -> Spec | None:
        """The spec of a command or verb; an error where there is none."""
        verb = self.verbs.canonical(node.name)
        if verb in self.verbs.shapes:
            self.scopes.verbs[id(node)] = verb
            return verb_spec(node.name, self.verbs.shapes[verb])
        if node.name in COMMON or node.name in ALIASES:
            self.fail("VERB", f"{node.name}: this hook point has no such verb", node.name_span, self.verbs.shapes)
            return None
        spec = self.registry.get(node.name)
        if spec is None:
            known = sorted({*self.registry.names(), *self.verbs.shapes})
            near = get_close_matches(node.name, known, n=3, cutoff=0.6)
            self.fail("UNKNOWN-COMMAND", f"unknown command {node.name}", node.name_span, near)
        return spec

    def placement(self, node: n.Command) -> None:
        """``break`` and ``continue`` stand in a ``for`` of the same block, and not inside ``map``."""
        if node.name in ("break", "continue") and not self.loops:
            why = "it cannot leave the map around it" if self.shut else "there is no for around it"
            self.fail("LOOP", f"{node.name}: {why}", node.span)

    def map(self, node: n.Command, bound: BoundCall) -> None:
        """``map``: its commands see ``$__key``, ``$__value`` and ``$__result``; ``break`` does not reach through it."""
        collection, command = bound.args
        for value in (collection, bound.options.get("begin")):
            if value is not None:
                self.expression(value)
        for name in MAP_NAMES:
            self.declare(name, BLOCK, node.span)
        loops, shut = self.loops, self.shut
        self.loops, self.shut = 0, loops + shut
        for inner in (command, bound.options.get("reduce")):
            if inner is not None:
                self.expression(inner)
        self.loops, self.shut = loops, shut

    def arguments(self, bound: BoundCall) -> None:
        """Everything that a call evaluates, reads or writes, in the order of the text."""
        outs = {opt.name for opt in bound.spec.options if opt.out}
        for given in in_text_order(bound):
            if given.name in outs:
                continue
            if given.param is not None and given.param.kind in (Kind.UPDATE, Kind.WRITE):
                level = next((LEVEL_OPTIONS[name] for name in bound.options if name in LEVEL_OPTIONS), "")
                if level and bound.spec.name != "delete":  # where it looks is not where the name is from then on
                    self.declare(given.node.name, level, given.node.span)  # type: ignore[union-attr] # a ref
                self.write(given.node)  # type: ignore[arg-type]
            elif given.param is None or given.param.kind is not Kind.NAME:
                self.expression(given.node)

    def outs(self, node: n.Command, bound: BoundCall) -> None:
        """Options that name variables to write; those of ``capture`` declare block names."""
        for opt in bound.spec.options:
            given = bound.options.get(opt.name)
            if opt.out and isinstance(given, n.Variable):
                if bound.spec.name == "capture":
                    self.declare(given.name, BLOCK, given.span)
                self.write(given)

    # -- expressions ---------------------------------------------------------------------------------------------------

    def expression(self, node: n.Expression) -> None:
        """Everything that an argument mentions."""
        if isinstance(node, n.Variable):
            self.mention(node)
        elif isinstance(node, n.Substitution):
            self.statement(node.body)
        elif isinstance(node, n.Interpolated):
            for part in node.parts:
                self.expression(part)
        elif isinstance(node, n.ListLiteral):
            for item in node.items:
                self.expression(item)
        elif isinstance(node, n.MapLiteral):
            for _, item in node.entries:
                self.expression(item)

    def mention(self, node: n.Variable) -> None:
        """Note the level of a variable and look into its indices and its default."""
        self.scopes.levels[id(node)] = self.level_of(node.name)
        self.scopes.reads[node.name] = self.scopes.reads.get(node.name, 0) + 1
        for step in node.steps:
            if isinstance(step.key, n.Variable):
                self.mention(step.key)
        if node.default is not None:
            self.expression(node.default)

    def write(self, target: n.Variable) -> None:
        """A target of a write: what is read-only is refused here, where the text alone says so."""
        self.mention(target)
        if not target.steps:
            self.scopes.written.add(target.name)
        level = self.level_of(target.name)
        frozen = target.name in READ_ONLY_NAMES and not target.steps  # below it, the run decides
        if frozen or (level == INPUT and self.inputs[target.name] is Access.READ_ONLY):
            message = f"${target.name} is read-only"
            own = f": declare a name of your own with local {target.name} = ..."
            hint = "" if target.steps or frozen else own
            self.fail("READ-ONLY", message + hint, target.span)


@node
class Given:
    """One argument or option value of a call: ``param`` for an argument, ``option`` for an option's."""

    name: str
    node: n.Expression
    param: Param | None = None
    option: Opt | None = None


def param_of(bound: BoundCall, at: int) -> Param:
    """The parameter of the argument at this place: a repeated last one takes all that follow."""
    params = bound.spec.params
    return params[min(at, len(params) - 1)]


def in_text_order(bound: BoundCall) -> Iterator[Given]:
    """Arguments and option values of a call in the order of the text, which is the order of evaluation."""
    given = []
    for at, arg in enumerate(bound.args):
        param = param_of(bound, at)
        given.append(Given(param.name, arg, param))
    if not bound.options:
        return iter(given)
    options = {opt.name: opt for opt in bound.spec.options}
    for name, value in bound.options.items():
        for part in value if isinstance(value, tuple) else (value,):
            nodes = part if isinstance(part, tuple) else (part,)
            given += [Given(name, node, None, options[name]) for node in nodes if node is not True]
    given.sort(key=lambda item: (item.node.span.line, item.node.span.column))
    return iter(given)


def terms(node: n.Statement) -> Iterator[n.Statement]:
    """The terms of a condition: what ``&&``, ``||``, ``!`` and brackets are made of."""
    if isinstance(node, n.And | n.Or):
        for operand in node.operands:
            yield from terms(operand)
    elif isinstance(node, n.Not):
        yield from terms(node.operand)
    elif isinstance(node, n.Group):
        yield from terms(node.body)
    else:
        yield node


def branches_in_order(node: n.MatchResult) -> list[tuple[str, n.Body]]:
    """Name and body of the given branches of a match-result, in the order of the text."""
    given = [(name, body) for name, body in ((node.ok_name, node.ok), (node.err_name, node.err)) if body is not None]
    return sorted(given, key=lambda branch: (branch[1].span.line, branch[1].span.column))
