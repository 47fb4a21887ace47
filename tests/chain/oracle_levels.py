"""The lexical levels of names, for the oracle: which level each mention of a name in a block has (L5).

Written from the design's text alone; it knows nothing of the product's ``scopes.py``. A mention is a node (a variable,
the target of an assignment, a word that names a variable), known by its identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common.chain import nodes as n
from common.chain.commands.bind import bind
from common.chain.commands.spec import BoundCall, Kind, Param, Registry, Spec

RUN_NAMES = ("result", "error", "resp")
BLOCK, CHAIN, GLOBAL, INPUT, RUN = "block", "chain", "global", "input", "run"
MAP_NAMES = ("__key", "__value", "__result")
LEVEL_OPTIONS = {"block": BLOCK, "local": BLOCK, "chain": CHAIN, "global": GLOBAL, "export": GLOBAL}


class Levels:
    """The level of every mention of a name in one block's ``body``. ``inputs`` are the hook point's input names."""

    def __init__(self, body: n.Body, inputs: Iterable[str], registry: Registry) -> None:
        self._inputs, self._registry = frozenset(inputs), registry
        self._declared: dict[str, str] = {}
        self._writes: dict[int, str] = {}
        self._bound: dict[int, BoundCall] = {}
        self._kept: list[object] = []  # so that no identity is used twice
        self._body(body)

    def write(self, mention: object) -> str:
        """The level at which a write to this mention goes."""
        return self._writes[id(mention)]

    def read(self, mention: object) -> str:
        """The level at which a read of this mention starts: that of a write, but inputs hide nothing of the chain."""
        level = self._writes.get(id(mention), CHAIN)
        return CHAIN if level == INPUT else level

    def _mention(self, mention: object, name: str) -> None:
        """Note the level that ``name`` has at this place of the text."""
        level = self._declared.get(name)
        if level is None:
            level = RUN if name in RUN_NAMES else INPUT if name in self._inputs else CHAIN
        self._writes[id(mention)] = level
        self._kept.append(mention)

    def _body(self, body: n.Body | None) -> None:
        for statement in body.statements if body else ():
            self._statement(statement)

    def _statement(self, node: n.Statement) -> None:
        if isinstance(node, n.Command):
            self._command(node)
        elif isinstance(node, n.Assignment):
            self._assignment(node)
        elif isinstance(node, n.Comparison):
            self._expressions((node.left, node.right))
        elif isinstance(node, n.Condition):
            self._expressions((node.value,))
        elif isinstance(node, n.And | n.Or):
            for operand in node.operands:
                self._statement(operand)
        elif isinstance(node, n.Not):
            self._statement(node.operand)
        elif isinstance(node, n.Group):
            self._statement(node.body)
        else:
            self._compound(node)

    def _compound(self, node: n.If | n.Case | n.For | n.MatchResult) -> None:
        if isinstance(node, n.For):
            self._expressions((node.collection,))
            self._declared |= dict.fromkeys(node.names, BLOCK)
            self._body(node.body)
            return
        if isinstance(node, n.MatchResult):
            self._statement(node.command)
            for name, body in _in_text_order(node):
                self._declared[name] = BLOCK
                self._body(body)
            return
        if isinstance(node, n.Case) and node.subject is not None:
            self._expressions((node.subject,))
            self._declared[node.name] = BLOCK
        for branch in node.branches:
            self._statement(branch.condition)
            self._body(branch.body)
        self._body(node.otherwise)

    def _assignment(self, node: n.Assignment) -> None:
        if node.value is not None:
            self._expressions((node.value,))
        if node.scope:
            self._declared[node.target.name] = node.scope
        self._expressions((node.target,))

    def bound(self, node: n.Command) -> BoundCall:
        """The call as its spec reads it; the variables of its refs are known to ``read`` and ``write``."""
        return self._bound[id(node)]

    def _command(self, node: n.Command) -> None:
        spec = self._registry.get(node.name) or verb_spec(node.name)
        bound = self._bound[id(node)] = bind(node, spec)
        options = {option.name: option for option in spec.options}
        outs = [value for name, value in bound.options.items() if options[name].out]
        before = dict(self._declared)
        if spec.name == "map":
            self._declared |= dict.fromkeys(MAP_NAMES, BLOCK)
        self._expressions(bound.args)
        for name, value in bound.options.items():
            if value is not True and not options[name].out:
                self._expressions(_flat(value))
        for name in MAP_NAMES:
            self._declared.pop(name, None)
            if name in before:
                self._declared[name] = before[name]
        if spec.name == "capture":
            self._declared |= {out.name: BLOCK for out in outs}
        self._expressions(outs)
        self._declare_named(bound, [param.kind for param in spec.params])

    def _declare_named(self, bound: BoundCall, kinds: list[Kind]) -> None:
        """``map-create --block m`` and the like declare the name that they write."""
        levels = [LEVEL_OPTIONS[name] for name in bound.options if name in LEVEL_OPTIONS]
        if levels and bound.args and kinds[0] is Kind.UPDATE:
            self._declared[bound.args[0].name] = levels[0]
            self._mention(bound.args[0], bound.args[0].name)

    def _expressions(self, expressions: Iterable[object]) -> None:
        for node in expressions:
            if isinstance(node, n.Variable):
                self._variable(node)
            elif isinstance(node, n.Interpolated):
                self._expressions(node.parts)
            elif isinstance(node, n.Substitution):
                self._statement(node.body)
            elif isinstance(node, n.ListLiteral):
                self._expressions(node.items)
            elif isinstance(node, n.MapLiteral):
                self._expressions(value for _, value in node.entries)
            elif isinstance(node, n.Option) and node.value is not None:
                self._expressions((node.value,))

    def _variable(self, node: n.Variable) -> None:
        self._expressions(step.key for step in node.steps)
        if node.default is not None:
            self._expressions((node.default,))
        self._mention(node, node.name)


def verb_spec(name: str) -> Spec:
    """What a verb of the host's own takes: at most a target."""
    return Spec(name, "control", "", (Param("target", "", type="text", optional=True),))


def _flat(value: object) -> Iterator[object]:
    """An option's value, or the values of one that is repeated."""
    if isinstance(value, tuple):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def _in_text_order(node: n.MatchResult) -> Iterator[tuple[str, n.Body]]:
    branches = [(node.ok_name, node.ok), (node.err_name, node.err)]
    given = [(name, body) for name, body in branches if body is not None]
    yield from sorted(given, key=lambda branch: (branch[1].span.line, branch[1].span.column))
