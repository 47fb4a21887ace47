"""Ordinary commands in code: arguments by kind and type, prepared calls, folding, what is written back (L8, L11)."""

from __future__ import annotations

from typing import Any

from common.chain import nodes as n
from common.chain import pycode as py
from common.chain.commands.spec import DYNAMIC, BadArgument, BoundCall, Err, Kind, Param, Spec, Static
from common.chain.compiler_expressions import Expressions, literal_text
from common.chain.emitter import Form, Need, Result, ok, pred
from common.chain.errors import ChainError
from common.chain.lowering import LOWERINGS
from common.chain.scopes import Given, in_text_order, param_of

HOST = "host"
"""The group of commands that are not the language's own."""
_SCALARS = (str, int, float, bool, type(None))
_TYPES = {str: "str", int: "int", float: "float", bool: "bool"}


class Commands(Expressions):
    """Calls of commands that have code of their own."""

    def ordinary(self, node: n.Command, bound: BoundCall, need: Need) -> Result:
        """A call of ``spec.call`` or of what ``specialise`` makes of it, or its lowering."""
        spec = bound.spec
        if not any(opt.out and opt.name in bound.options for opt in spec.options):
            lower = LOWERINGS.get(spec.name) if spec.group != HOST else None
            lowered = lower(self, node, bound) if lower is not None else None
            if lowered is not None:
                return lowered
            folded = self._folded(bound)
            if folded is not None:
                return folded
            return self._plain(node, bound, need)
        return self._capturing(node, bound)

    def _plain(self, node: n.Command, bound: BoundCall, need: Need) -> Result:
        spec = bound.spec
        called = self._call(node, bound, spec.call, spec.specialise)
        target = next(
            (
                arg
                for arg, param in zip(bound.args, spec.params, strict=False)
                if param.kind in (Kind.UPDATE, Kind.WRITE)
            ),
            None,
        )
        if target is not None or (spec.grows and need is not Need.NOTHING):
            register = self.temp()
            self.emit(py.assign(register, called))
            held = py.name(register)
            if spec.grows:
                self._limit(register, node)
            if target is not None:
                assert isinstance(target, n.Variable)  # bind made it one
                self._write_back(register, target)
            return Result(Form.MIXED, held)
        if spec.predicate:
            return Result(Form.TRI, self.hold(called)) if spec.faults else pred(called)
        return Result(Form.MIXED, called)

    def _limit(self, register: str, node: n.Command) -> None:
        """A command whose text may be longer than its arguments: look at what came out."""
        held = py.name(register)
        long = py.compare(py.call("len", [held]), py.GT, self.link("string_quarter"))
        again = py.assign(register, py.call("checked", [py.name("run"), held], node.span))
        self.emit(py.if_(py.both(py.class_is(held, "str"), long), [again]))

    def _write_back(self, register: str, target: n.Variable) -> None:
        """The value of Ok goes into the ref; where a path has no place for it, that is the result."""
        before = dict(self.known)
        with self.into([]) as then:
            done = self.write(target, py.name(register))
            if done is not None:
                self.emit(py.if_(py.compare(done, py.IS_NOT, py.const(None)), [py.assign(register, done)]))
        self.emit(py.if_(py.class_is_not(py.name(register), "Err"), then))
        self.known = self.met((before, self.known))

    def _capturing(self, node: n.Command, bound: BoundCall) -> Result:
        """A call with options that name variables: the tuple's first item is the value, the others are written."""
        spec = bound.spec
        register = self.temp()
        self.emit(py.assign(register, self._call(node, bound, spec.capturing, spec.capturing_specialise)))
        held = py.name(register)
        before = dict(self.known)
        with self.into([]) as then:
            for at, opt in enumerate(opt for opt in spec.options if opt.out):
                target = bound.options.get(opt.name)
                if isinstance(target, n.Variable):
                    self.write(target, py.item(held, py.const(at + 1)))
            self.emit(py.assign(register, py.item(held, py.const(0))))
        self.emit(py.if_(py.class_is_not(held, "Err"), then))
        self.known = self.met((before, self.known))
        return Result(Form.TRI if spec.predicate else Form.MIXED, held)

    # -- arguments -----------------------------------------------------------------------------------------------------

    def _call(self, node: n.Command, bound: BoundCall, call: Any, specialise: Any) -> Any:
        """The call as an expression."""
        spec = bound.spec
        prepared = self._prepared(bound, specialise)
        outs = {opt.name for opt in spec.options if opt.out}
        wanted = [given for given in in_text_order(bound) if given.name not in outs or given.param is not None]
        wanted = [given for given in wanted if given.param is None or given.param.kind is not Kind.WRITE]
        if prepared is not None:
            wanted = [given for given in wanted if literal_of(given.node) is DYNAMIC]
        values = self.sequence([(given.node, self._mode(given, spec)) for given in wanted])
        order = {id(given.node): value for given, (value, _) in zip(wanted, values, strict=True)}
        args = [order[id(arg)] for arg in bound.args if id(arg) in order]
        if spec.needs_run:
            args.insert(0, py.name("run"))
        note = f"{spec.name}, prepared for its literals" if prepared is not None else spec.name
        function = self.constant(prepared if prepared is not None else call, note)
        return py.call(function, args, node.span, self._keywords(bound, outs, order, prepared is not None))

    def _keywords(self, bound: BoundCall, outs: set[str], order: dict[int, Any], prepared: bool) -> list[Any]:
        """The given options as keyword arguments."""
        keywords = []
        for key, given in bound.options.items():
            if key in outs:
                continue
            if given is True:
                value = None if prepared else py.const(True)
            elif isinstance(given, tuple):
                value = py.tuple_([order[id(part)] for part in given])
            else:
                value = order.get(id(given))
            if value is not None:
                keywords.append(py.keyword(key.replace("-", "_"), value))
        return keywords

    @staticmethod
    def _mode(given: Given, spec: Spec) -> str:
        """How the argument is evaluated; see ``sequence``."""
        param = given.param
        if param is None:
            return "text" if given.option is not None and given.option.type == "text" else "value"
        if param.kind in (Kind.READ, Kind.UPDATE):
            return "missing" if param.missing else "raw"
        if param.missing:
            return "raw"
        if param.type == "text":
            return "text"
        return "peek" if spec.predicate or param.type in ("number", "int") else "value"

    def _prepared(self, bound: BoundCall, specialise: Any) -> Any:
        """What ``specialise`` makes of the literal arguments, or None. A bad literal is a load error."""
        if specialise is None:
            return None
        try:
            return specialise(static_of(bound))
        except BadArgument as error:
            node = bound.args[error.index] if 0 <= error.index < len(bound.args) else None
            span = node.span if node is not None else self.span
            self.errors.append(ChainError("PC-LINK-LITERAL", f"{bound.spec.name}: {error.message}", span))
            return None

    def _folded(self, bound: BoundCall) -> Result | None:
        """The result of a call that is settled by its text, or None."""
        spec = bound.spec
        static = static_of(bound)
        dynamic = any(value is DYNAMIC for value in (*static.args, *static.options.values()))
        if dynamic or spec.needs_run or spec.effects or spec.grows or spec.call is None or spec.group == HOST:
            return None  # a host's command may give another value next time
        if any(param.kind is not Kind.VALUE for param in spec.params):
            return None
        options = {key.replace("-", "_"): value for key, value in static.options.items()}
        try:
            value = spec.call(*static.args, **options)
        except ChainError:
            return None  # it ends each run that comes here, not the loading
        if isinstance(value, Err) and value.fault:
            self._prepared(bound, spec.specialise)  # what can never work is a load error, here as with a variable
        return self._constant_result(value, spec)

    def _constant_result(self, value: Any, spec: Spec) -> Result | None:
        if isinstance(value, Err):
            return Result(Form.MIXED, self.constant(value, repr(value))) if isinstance(value.value, _SCALARS) else None
        if spec.predicate:
            return pred(py.const(bool(value)))
        return ok(py.const(value), _TYPES.get(type(value), "")) if isinstance(value, _SCALARS) else None


def literal_of(node: Any, type_: str = "any") -> Any:
    """The value of a literal as an argument of this type, or DYNAMIC."""
    if isinstance(node, n.Literal):
        return literal_text(node) if type_ == "text" else node.value
    return node.value if isinstance(node, n.Text) else DYNAMIC


def static_of(bound: BoundCall) -> Static:
    """The literal arguments of a call."""
    options: dict[str, Any] = {}
    outs = {opt.name for opt in bound.spec.options if opt.out}
    for key, given in bound.options.items():
        if key in outs:
            continue
        if isinstance(given, tuple):
            parts = tuple(literal_of(part) for part in given)
            options[key] = DYNAMIC if DYNAMIC in parts else parts
        else:
            options[key] = True if given is True else literal_of(given)
    types = [param_of(bound, at).type for at in range(len(bound.args))]
    return Static(tuple(map(literal_of, bound.args, types)), options)


__all__ = ["Commands", "Param", "literal_of", "static_of"]
