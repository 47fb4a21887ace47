"""Statements in code: and/or/not, assignments, conditions, if, case, for, match-result, bodies (L3, L4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.chain import lowering
from common.chain import nodes as n
from common.chain import pycode as py
from common.chain.compiler_control import Controls
from common.chain.compiler_variables import local_of
from common.chain.emitter import NEVER, Form, Frame, Need, Result, may_write, ok, pred
from common.chain.junctions import Junction
from common.chain.scopes import branches_in_order
from common.chain.signals import FAULTED


class Statements(Controls):
    """The compiler's top layer."""

    def body(self, body: n.Body | None, need: Need) -> Result:
        """Statements in order; the result is the last one's. What comes after a control is left out."""
        statements = body.statements if body is not None else ()
        result = ok(py.const(""), "str")
        for at, node in enumerate(statements):
            last = at == len(statements) - 1
            self.span = node.span
            result = (
                self._traced(node, need, last)
                if self.config.traced
                else self.whole(node, need if last else Need.NOTHING)
            )
            if result.form is Form.NEVER:
                self._unreachable(statements[at + 1 :])
                return NEVER
            if not last or need is Need.NOTHING:
                self.discard(result)
                result = ok(py.const(""), "str")
        return result

    def _unreachable(self, statements: Sequence[n.Statement]) -> None:
        """What comes after a control is compiled for its errors, and left out."""
        known = dict(self.known)
        with self.into([]):
            for node in statements:
                self.whole(node, Need.NOTHING)
        self.known = known

    def _traced(self, node: n.Statement, need: Need, last: bool) -> Result:
        """A statement with its entry in the trace."""
        entry = self.temp()
        begin = py.call("trace_begin", [py.name("run"), self.link("self"), py.const(node.span.line)])
        self.emit(py.assign(entry, begin), node.span)
        result = self.whole(node, Need.BOTH)
        if result.form is Form.NEVER:
            return NEVER
        held = self.hold(self.mixed(result))
        self.emit(py.expr(py.call("trace_end", [py.name("run"), py.name(entry), held])))
        return Result(Form.MIXED, held) if last and need is not Need.NOTHING else ok(py.const(""), "str")

    def whole(self, node: n.Statement, need: Need) -> Result:
        """A statement that stands alone in a body."""
        while isinstance(node, n.Group):
            node = node.body
        return self.statement(node, need, alone=True)

    def statement(self, node: n.Statement, need: Need, *, alone: bool = False) -> Result:
        """One statement; a fault in its arguments is its result."""
        outer, frame, span = self.out, Frame(need), self.span
        self.frames.append(frame)
        self.span = node.span
        result = self._dispatch(node, need, alone)
        self.frames.pop()
        if not frame.guards:
            self.span = span
            return result
        if need is Need.NOTHING:
            self.discard(result)
        elif result.form is not Form.NEVER:
            done = self.truth(result) if need is Need.STATUS else self.mixed(result)
            self.emit(py.assign(frame.register, done))
        if not self.out:
            self.emit(py.pass_())
        self.out, self.span = outer, span
        self.known = self.met((frame.before, self.known)) if result.form is not Form.NEVER else frame.before
        if need is Need.NOTHING:
            return ok(py.const(""))
        return pred(py.name(frame.register)) if need is Need.STATUS else Result(Form.MIXED, py.name(frame.register))

    def _dispatch(self, node: n.Statement, need: Need, alone: bool) -> Result:
        if isinstance(node, n.Command):
            return self.command(node, need, alone=alone)
        if isinstance(node, n.Assignment):
            return self._assignment(node, need)
        if isinstance(node, n.Comparison):
            return lowering.comparison(self, node)
        if isinstance(node, n.Condition):
            return self._condition(node)
        if isinstance(node, n.Group):
            return self.statement(node.body, need)
        if isinstance(node, n.And):
            return self._operands(node.operands, need, stop_on=False)
        if isinstance(node, n.Or):
            return self._operands(node.operands, need, stop_on=True)
        if isinstance(node, n.Not):
            return self._not(node, need)
        if isinstance(node, n.If):
            return self._branches(node.branches, node.otherwise, need)
        if isinstance(node, n.Case):
            return self._case(node, need)
        if isinstance(node, n.For):
            return self._for(node, need)
        return self._match_result(node, need)

    # -- and, or, not --------------------------------------------------------------------------------------------------

    def alternatives(self, operands: list[n.Statement], need: Need) -> Result:
        return self._operands(operands, need, stop_on=True)

    def _operands(self, operands: Sequence[n.Statement], need: Need, *, stop_on: bool) -> Result:
        """``&&`` (stops on Err) and ``||`` (stops on Ok): the last operand run is the result.

        Operands that are plain conditions are joined to one; where an operand needs statements before it, these and
        all that follows go into an ``if``.
        """
        outer = self.out
        junction = Junction(self, need, stop_on)
        paths = []
        for at, node in enumerate(operands):
            here, self.out = self.out, []
            wanted = need if need is Need.BOTH or at == len(operands) - 1 else Need.STATUS
            result = self.statement(node, wanted)
            code, self.out = self.out, here
            junction.add(result, code)
            if result.form is Form.NEVER:
                self._unreachable(operands[at + 1 :])
                break
            paths.append(dict(self.known))
        if paths:
            self.known = self.met(paths)
        done = junction.result()
        self.out = outer
        return done

    def _not(self, node: n.Not, need: Need) -> Result:
        """The other status, and the other Bool."""
        result = self.statement(node.operand, Need.STATUS if need is Need.STATUS else Need.BOTH)
        if result.form is Form.NEVER:
            return NEVER
        if result.form is Form.PRED or need is Need.STATUS:
            return pred(py.negate(self.truth(result)))
        return Result(Form.MIXED, py.call("inverted", [self.mixed(result)]))

    def _condition(self, node: n.Condition) -> Result:
        """A variable, or the word true or false."""
        if isinstance(node.value, n.Literal):
            return pred(py.const(node.value.value is True))
        value, type_ = self.read(node.value, absent=False, keep=False)
        if type_ == "bool":
            return pred(value)
        first, held = self.named(value)
        return pred(py.choose(py.class_is(first, "bool"), held, py.call("truth", [held])))

    # -- assignment ----------------------------------------------------------------------------------------------------

    def _assignment(self, node: n.Assignment, need: Need) -> Result:
        """``target = value``: with ``$(...)`` as the whole right side its status, too; a fault in it writes nothing."""
        if node.value is None:
            return ok(py.const(""), "str")
        if not isinstance(node.value, n.Substitution):
            value, type_ = self.value(node.value)
            return self._written(node.target, ok(value, type_), need)
        result = self.statement(node.value.body, Need.BOTH)
        if result.form is Form.NEVER:
            return NEVER
        if result.form in (Form.OK, Form.PRED):
            return self._written(node.target, result, need)
        if result.form is Form.SIGNAL:
            written = py.compare(py.item(result.expr, py.const(0)), py.NOT_EQ, py.const(FAULTED))
            return self._written_unless(node.target, result, written, py.item(result.expr, py.const(1)))
        held = self.hold(self.mixed(result))
        is_err = py.class_is(held, "Err")
        written = py.either(py.class_is_not(held, "Err"), py.negate(py.attr(held, "fault")))
        value = py.choose(is_err, py.attr(held, "value"), held)
        return self._written_unless(node.target, Result(Form.MIXED, held), written, value)

    def _written(self, target: n.Variable, result: Result, need: Need) -> Result:
        """Write; where a path has no place for it, that is the result."""
        value, type_ = result.expr, result.type
        if need is Need.NOTHING:
            result = ok(py.const(""), "str")
        else:
            value = self.hold(value)
            result = result._replace(expr=value)
        done = self.write(target, value, type_)
        if done is None:
            return result
        return Result(Form.MIXED, py.choose(py.compare(done, py.IS, py.const(None)), self.mixed(result), done))

    def _written_unless(self, target: n.Variable, result: Result, written: Any, value: Any) -> Result:
        """Write where ``written`` holds."""
        before = dict(self.known)
        register = self.temp()
        with self.into([]) as then:
            done = self.write(target, value)
            if done is not None:
                self.emit(py.assign(register, done))
        if target.steps:
            self.emit(py.assign(register, py.const(None)))
        self.emit(py.if_(written, then))
        self.known = self.met((before, self.known))
        if not target.steps:
            return result
        put = py.compare(py.name(register), py.IS, py.const(None))
        return Result(Form.MIXED, py.choose(put, self.mixed(result), py.name(register)))

    # -- if, case, match-result ----------------------------------------------------------------------------------------

    def _branches(self, branches: Sequence[n.Branch], otherwise: n.Body | None, need: Need) -> Result:
        """The body of the first condition that holds."""
        outer, register = self.out, self.temp() if need is not Need.NOTHING else ""
        paths: list[dict[str, str]] = []
        for branch in branches:
            condition = self.statement(branch.condition, Need.STATUS)
            test = self.truth(condition)
            known = dict(self.known)
            with self.into([]) as then:
                self._end(self.body(branch.body, need), register, need, paths)
            rest: list[Any] = []
            self.emit(py.if_(test, then, rest), branch.condition.span)
            self.out, self.known = rest, known
        self._end(self.body(otherwise, need), register, need, paths)
        self.out = outer
        return self._met(paths, register, need)

    def _end(self, result: Result, register: str, need: Need, paths: list[dict[str, str]]) -> None:
        """The end of one way through a statement: its result goes into the register."""
        if result.form is Form.NEVER:
            return
        if need is Need.NOTHING:
            self.discard(result)
        else:
            self.emit(py.assign(register, self.truth(result) if need is Need.STATUS else self.mixed(result)))
        paths.append(dict(self.known))

    def _met(self, paths: list[dict[str, str]], register: str, need: Need) -> Result:
        """Where all ways meet again."""
        if not paths:
            return NEVER
        self.known = self.met(paths)
        if need is Need.NOTHING:
            return ok(py.const(""))
        return pred(py.name(register)) if need is Need.STATUS else Result(Form.MIXED, py.name(register))

    def bind(self, name: str) -> str:
        local = local_of(name)
        saved = self.temp()
        self.emit(py.assign(saved, self.read_local(local)))
        self.scoped.append((local, saved))
        return saved

    def unbind(self, name: str, saved: str) -> None:
        local = local_of(name)
        self.scoped.pop()
        self.emit(py.assign(local, py.name(saved)))

    def _bound(self, name: str, value: Any, type_: str) -> str:
        """Bind a name of the block and return where its old value is."""
        saved = self.bind(name)
        self.emit(py.assign(local_of(name), value))
        self.know(local_of(name), type_)
        return saved

    def _unbound(self, name: str, saved: str, known: dict[str, str]) -> None:
        """Restore the name, and what is known of it."""
        self.unbind(name, saved)
        self._forget(name, known)

    def _forget(self, name: str, known: dict[str, str]) -> None:
        local = local_of(name)
        if local in known:
            self.known[local] = known[local]
        else:
            self.known.pop(local, None)

    def _case(self, node: n.Case, need: Need) -> Result:
        """``case``: if with a bound subject."""
        if node.subject is None:
            return self._branches(node.branches, node.otherwise, need)
        value, type_ = self.value(node.subject)
        known = dict(self.known)
        saved = self._bound(node.name, self.hold(value), type_)
        result = self._branches(node.branches, node.otherwise, need)
        if result.form is Form.NEVER:
            self.scoped.pop()
            self._forget(node.name, known)
        else:
            self._unbound(node.name, saved, known)
        return result

    def _match_result(self, node: n.MatchResult, need: Need) -> Result:
        """``match-result``: the branch of the command's status, with its value bound."""
        result = self.statement(node.command, Need.BOTH)
        if result.form is Form.NEVER:
            return NEVER
        if result.form is Form.OK:
            held, test = self.hold(result.expr), py.const(True)
            value: Any = held
        elif result.form is Form.PRED:
            held = value = test = self.hold(result.expr)
        else:
            held = self.hold(self.mixed(result))
            value, test = py.attr(held, "value"), py.class_is_not(held, "Err")
        register = self.temp() if need is not Need.NOTHING else ""
        paths: list[dict[str, str]] = []
        known = dict(self.known)
        bodies: dict[str, list[Any]] = {node.ok_name + "/ok": [], node.err_name + "/err": []}
        given = {id(body) for _, body in branches_in_order(node)}
        ways = [(node.ok_name, node.ok, held, result.type, "/ok"), (node.err_name, node.err, value, "", "/err")]
        ways.sort(key=lambda way: (way[1].span.line, way[1].span.column) if way[1] is not None else (0, 0))
        for name, body, bound, type_, suffix in ways:
            self.known = dict(known)
            with self.into(bodies[name + suffix]):
                if body is None or id(body) not in given:
                    self._end(ok(py.const("")), register, need, paths)
                else:
                    self._arm(name, body, bound, type_, register, need, paths)
        self.emit(py.if_(test, bodies[node.ok_name + "/ok"], bodies[node.err_name + "/err"]), node.span)
        return self._met(paths, register, need)

    def _arm(
        self, name: str, body: n.Body, value: Any, type_: str, register: str, need: Need, paths: list[dict[str, str]]
    ) -> None:
        """One branch of match-result."""
        known = dict(self.known)
        saved = self._bound(name, value, type_)
        result = self.body(body, need)
        if result.form is Form.NEVER:
            self.scoped.pop()
            return
        if need is Need.NOTHING:
            self.discard(result)
        else:
            self.emit(py.assign(register, self.truth(result) if need is Need.STATUS else self.mixed(result)))
        self._unbound(name, saved, known)
        paths.append(dict(self.known))

    # -- for -----------------------------------------------------------------------------------------------------------

    def _for(self, node: n.For, need: Need) -> Result:
        """``for``: the collection once, its names restored on every exit."""
        value, type_ = self.value(node.collection, absent="")
        self.over = collection = self.hold(value)
        several = py.call("iterable", [collection, py.const(len(node.names))], node.collection.span)
        is_list = py.class_is(collection, "list")
        items = py.choose(is_list, collection, several) if len(node.names) == 1 else several
        if type_ != "list" or len(node.names) != 1:
            items = self.hold(items)
            self.guard(py.class_is(items, "Err"), items)
        else:
            items = collection
        register = self.temp() if need is Need.BOTH else ""
        if register:
            self.emit(py.assign(register, py.const("")))
        if self.scopes.calls:
            self.forget_chain()
        known = dict(self.known)
        saved = [self.bind(name) for name in node.names]
        self.known = dict.fromkeys(self.known, "")
        for name in node.names:
            self.know(local_of(name), "")
        self.enter_loop(register, may_write(node.body, self.scopes))
        with self.into([]) as body:
            self.count_step(node.span)
            self.discard(self.body(node.body, Need.NOTHING))
        self.emit(py.for_([local_of(name) for name in node.names], items, body), node.span)
        self.leave_loop()
        self.known = dict.fromkeys(known, "")
        for name, old in zip(reversed(node.names), reversed(saved), strict=True):
            self._unbound(name, old, self.known)
        return ok(py.name(register)) if register else ok(py.const(""), "str")
