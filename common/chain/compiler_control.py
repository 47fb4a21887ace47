"""Controls and special forms in code: what ends units, calls other blocks, or runs a ``$(...)`` itself (L6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.chain import nodes as n
from common.chain import pycode as py
from common.chain.commands.spec import BoundCall, Err
from common.chain.compiler_commands import Commands
from common.chain.compiler_variables import local_of, path_text
from common.chain.emitter import NEVER, Form, Loop, Need, Result, may_write, ok, pred
from common.chain.errors import Span
from common.chain.scopes import BLOCK, CAPTURE_OPTIONS, CHAIN, GLOBAL, MAP_NAMES, RUN, sort_of
from common.chain.signals import BARE_RETURNS, ERROR_BLOCK, ERRORS, EXIT, GOTO, RETURNS, TERMINAL, VERB
from common.chain.verbs import Shape


class Controls(Commands):
    """The commands that the compiler knows itself."""

    def command(self, node: n.Command, need: Need, *, alone: bool) -> Result:
        """A command; ``alone``: it is a whole statement."""
        self.span = node.span
        bound = self.scopes.bound.get(id(node))
        if bound is None:
            return ok(py.const(""))  # scopes has its error
        verb = self.scopes.verbs.get(id(node))
        if verb is not None:
            return self.terminal(verb, self.text(bound.args[0]) if bound.args else py.const(""), node)
        if bound.spec.call is not None:
            return self.ordinary(node, bound, need)
        if bound.spec.name in ("exec", "invoke"):
            return self.execute(node, bound, alone=alone)
        return _SPECIAL[bound.spec.name](self, node, bound, need)

    # -- what leaves ---------------------------------------------------------------------------------------------------

    def signal(self, kind: int, value: Any, node: n.Command) -> Result:
        """Leave with a signal; one that is settled by the text is made when the block is mounted."""
        if py.is_const(value):
            return self.leave(self.link("signal", kind, value.value, node.span.line), node.span)
        return self.leave(py.tuple_([py.const(kind), value, self.place_of(node.span)]), node.span)

    def terminal(self, verb: str, target: Any, node: n.Command) -> Result:
        """A verb with its target, a text."""
        shape = self.config.verbs.shapes[verb]
        run = py.name("run")
        if shape is Shape.TARGET:
            target = self.hold(target)
            refuse = py.expr(py.call("no_target", [py.const(verb)], node.span))
            if not py.is_const(target):
                self.emit(py.if_(py.negate(target), [refuse]), node.span)
            elif not target.value:
                self.emit(refuse, node.span)
        elif shape is Shape.REASON and not (py.is_const(target) and not target.value):
            target = py.call("reason", [run, target])
        if py.is_const(target):
            return self.leave(self.link("signal", VERB, target.value, node.span.line, verb), node.span)
        signal = py.tuple_([py.const(VERB), target, self.place_of(node.span), py.const(verb)])
        return self.leave(signal, node.span)

    def literal_verb(self, node: n.Expression) -> tuple[str, Any] | None:
        """Verb and target where a text, or the literal head of one, begins with a declared verb (L6)."""
        if isinstance(node, n.Text):
            found = node.value.strip().partition(" ")
            verb = self.config.verbs.canonical(found[0])
            return (verb, py.const(found[2].strip())) if verb in self.config.verbs.shapes else None
        if not isinstance(node, n.Interpolated) or not isinstance(node.parts[0], n.Text):
            return None
        head, blank, rest = node.parts[0].value.lstrip().partition(" ")
        verb = self.config.verbs.canonical(head)
        if not blank or verb not in self.config.verbs.shapes:
            return None
        parts = [part for part, _ in self.sequence([(part, "text") for part in node.parts[1:]])]
        whole = self.limited(py.joined([py.const(rest), *parts]), node)
        return verb, py.call(py.attr(whole, "strip"), [])

    def return_(self, node: n.Command, bound: BoundCall, need: Need) -> Result:
        """``return [--from unit] [v]``."""
        unit = _unit(bound, "block")
        if not bound.args:
            return self.signal(BARE_RETURNS[unit], py.const(""), node)
        verb = self.literal_verb(bound.args[0])
        if verb is not None:
            return self.terminal(*verb, node)
        value, _ = self.value(bound.args[0])
        return self.signal(RETURNS[unit], value, node)

    def error(self, node: n.Command, bound: BoundCall, need: Need) -> Result:
        """``error [--from unit] [v]``: ``$error`` is set wherever it stands."""
        value, _ = self.value(bound.args[0]) if bound.args else (py.const(""), "str")
        value = self.hold(value)
        self.emit(py.assign_attr(py.name("run"), "error", value))
        return self.signal(ERRORS[_unit(bound, "lib")], value, node)

    def exit(self, node: n.Command, bound: BoundCall, need: Need) -> Result:
        """``exit``, ``exit VERB``, ``exit v``."""
        if not bound.args:
            return self.leave(py.tuple_([py.const(EXIT), py.name("M"), self.place_of(node.span)]), node.span)
        verb = self.literal_verb(bound.args[0])
        if verb is not None:
            return self.terminal(*verb, node)
        return self.signal(EXIT, self.value(bound.args[0])[0], node)

    def goto(self, node: n.Command, bound: BoundCall, need: Need) -> Result:
        """``goto id``: the signal carries the target and the chain environment."""
        target = bound.args[0]
        if isinstance(target, n.Text):
            found = self.link("goto", target.value, span=target.span)
        else:
            found = py.call(py.attr(self.link("scope"), "goto"), [self.text(target)], node.span)
        return self.leave(py.tuple_([py.const(GOTO), found, self.link("origin", node.span), py.name("c")]), node.span)

    def break_(self, node: n.Command, bound: BoundCall, need: Need) -> Result:
        """``break [v]``."""
        value = self.value(bound.args[0])[0] if bound.args else py.const("")
        if not self.loops:
            return NEVER  # scopes has its error
        if self.loops[-1].register:
            self.emit(py.assign(self.loops[-1].register, value))
        elif not py.is_atom(value):
            self.emit(py.expr(value))
        return self._out_of_body(py.break_(), node)

    def continue_(self, node: n.Command, bound: BoundCall, need: Need) -> Result:
        """``continue``."""
        return self._out_of_body(py.continue_(), node) if self.loops else NEVER

    def _out_of_body(self, jump: Any, node: n.Command) -> Result:
        """Restore the names that were bound since the loop began, and jump."""
        for local, saved in reversed(self.scoped[self.loops[-1].scoped :]):
            self.emit(py.assign(local, py.name(saved)))
        self.emit(jump, node.span)
        return NEVER

    # -- calls of blocks -----------------------------------------------------------------------------------------------

    def execute(self, node: n.Command, bound: BoundCall, *, alone: bool) -> Result:
        """``exec`` and ``invoke``: the target's function gives a signal; what is terminal passes on."""
        invoked = bound.spec.name == "invoke"
        function, given = self._target(node, bound, invoked=invoked)
        run, depth = py.name("run"), py.name("d")
        too_deep = py.expr(py.call("too_deep", [run], node.span))
        self.emit(py.if_(py.compare(depth, py.GT_E, self.link("depth_max")), [too_deep]), node.span)
        signal = self.temp()
        arguments = [run, *given, py.add(depth, py.const(1))]
        mark = self.temp()
        if self.config.traced:
            self.emit(py.assign(mark, py.call("trace_mark", [run])))
        self.emit(py.assign(signal, py.call(function, arguments, node.span)), node.span)
        if self.config.traced:
            self.emit(py.expr(py.call("trace_called", [run, py.name(mark), py.name(signal)])))
        self.forget_chain()
        held = py.name(signal)
        kind = py.item(held, py.const(0))
        if alone:
            again = py.call("raised", [held, self.place_of(node.span)])
            passed = py.choose(py.compare(kind, py.GT_E, py.const(TERMINAL)), held, again)
            limit = ERROR_BLOCK
        else:
            passed, limit = held, TERMINAL
        with self.into([]) as then:
            self.leave(passed, node.span)
        self.emit(py.if_(py.compare(kind, py.GT_E, py.const(limit)), then), node.span)
        return Result(Form.SIGNAL, held)

    def _target(self, node: n.Command, bound: BoundCall, *, invoked: bool) -> tuple[Any, list[Any]]:
        """The function to call, and what it gets between run and depth."""
        sort = sort_of(bound)
        target = bound.args[0]
        literal = isinstance(target, n.Text)
        pairs = bound.options.get("arg", ()) if invoked else ()
        wanted: list[tuple[n.Expression, str]] = [] if literal else [(target, "text")]
        values = [item for item, _ in self.sequence([*wanted, *((value, "value") for _, value in pairs)])]
        name = None if literal else self.hold(values.pop(0))
        env = py.dict_([py.const(key.value) for key, _ in pairs], values) if invoked else py.name("c")
        what = "invoke" if invoked else "exec"
        if isinstance(target, n.Text):
            return self.link(what, sort, target.value, span=target.span), [env]
        return py.attr(self.link("scope"), what), [py.const(sort), name, env]

    # -- special forms -------------------------------------------------------------------------------------------------

    def first_ok(self, node: n.Command, bound: BoundCall, need: Need) -> Result:
        """``first-ok $(a) $(b)``: the first Ok, else the last Err."""
        return self.alternatives([_body(arg) for arg in bound.args], need)

    def alternatives(self, operands: list[n.Statement], need: Need) -> Result:
        """The first operand that is Ok, else the last Err. Comes from the layer of statements."""
        raise NotImplementedError

    def capture(self, node: n.Command, bound: BoundCall, need: Need) -> Result:
        """``capture``: value, status and two Bools into names of the block; its own result is the command's."""
        result = self.statement(_body(bound.args[0]), Need.BOTH)
        if result.form is Form.NEVER:
            return NEVER
        type_ = result.type
        if result.form is Form.OK:
            held = self.hold(result.expr)
            status: dict[str, Any] = {"value": held, "status": py.const("success")}
            status |= {"ok": py.const(True), "error": py.const(False)}
            result = ok(held, type_)
        elif result.form is Form.PRED:
            held = self.hold(result.expr)
            result = pred(held)
            status = {"value": held, **_status_of(held)}
        else:
            held = self.hold(self.mixed(result))
            is_err = py.class_is(held, "Err")
            value = py.choose(is_err, py.attr(held, "value"), held)
            result, type_ = Result(Form.MIXED, held), ""
            status = {"value": value, **_status_of(py.class_is_not(held, "Err"))}
        for option in CAPTURE_OPTIONS:
            target = bound.options.get(option)
            if isinstance(target, n.Variable):
                self.write(target, status[option], {"value": type_, "status": "str"}.get(option, "bool"))
        return result

    def map(self, node: n.Command, bound: BoundCall, need: Need) -> Result:
        """``map``: the command for each entry; its value is the last one's, or that of the reducing command."""
        step, reducer = _body(bound.args[1]), bound.options.get("reduce")
        entries, first = self._entries(node, bound)
        saved = [self.bind(name) for name in MAP_NAMES]
        key, value, result = (local_of(name) for name in MAP_NAMES)
        register = self.temp()
        self.emit(py.assign(result, first))
        self.emit(py.assign(register, py.name(result)))
        if self.scopes.calls:
            self.forget_chain()
        before = dict.fromkeys(self.known, "")
        self.known = dict(before)
        for local in (key, value, result):
            self.know(local, "")
        self.enter_loop("", may_write((step, reducer), self.scopes))
        with self.into([]) as body:
            self.count_step(node.span)
            self.emit(py.assign(register, self.mixed(self.statement(step, Need.BOTH))))
            if reducer is not None:
                self._reduce(register, value, result, _body(reducer))
            is_err = py.class_is(py.name(register), "Err")
            done = py.choose(is_err, py.attr(py.name(register), "value"), py.name(register))
            self.emit(py.assign(result, done))
        self.emit(py.for_([key, value], entries, body), node.span)
        self.leave_loop()
        self.known = before
        for name, old in zip(reversed(MAP_NAMES), reversed(saved), strict=True):
            self.unbind(name, old)
        return Result(Form.MIXED, py.name(register))

    def bind(self, name: str) -> str:
        """Keep what a block-level name has before a construct binds it."""
        raise NotImplementedError

    def unbind(self, name: str, saved: str) -> None:
        """Give the name back what it had."""
        raise NotImplementedError

    def delete(self, node: n.Command, bound: BoundCall, need: Need) -> Result:
        """``delete name`` or a path: the removed value, or Err where there is nothing."""
        target = bound.args[0]
        assert isinstance(target, n.Variable)  # bind made it one
        run = py.name("run")
        if target.steps:
            container, key, _ = self.container_of(target)
            return Result(
                Form.MIXED,
                self.hold(py.call("take_away", [run, container, key, py.const(path_text(target))], node.span)),
            )
        level, name = self.scopes.level(target), target.name
        level = next((option for option in (BLOCK, CHAIN, GLOBAL) if option in bound.options), level)
        message = f"delete: there is no ${name}"
        missing = self.constant(Err(message), f'Err("{message}")')
        if level == BLOCK:
            held = self.temp()
            self.emit(py.assign(held, self.read_local(local_of(name))))
            self.emit(py.assign(local_of(name), py.name("M")))
            return Result(
                Form.MIXED, py.choose(py.compare(py.name(held), py.IS_NOT, py.name("M")), py.name(held), missing)
            )
        if level == GLOBAL:
            return Result(Form.MIXED, self.hold(py.call("delete_global", [run, py.const(name)], node.span)))
        if level == CHAIN:
            return Result(Form.MIXED, self.hold(py.call(py.attr(py.name("c"), "pop"), [py.const(name), missing])))
        what = "belongs to the run" if level == RUN else "is an input"
        self.fail("DELETE", f"delete: ${name} {what} and cannot be deleted", target.span)
        return ok(py.const(""))

    def _entries(self, node: n.Command, bound: BoundCall) -> tuple[Any, Any]:
        """Key and value of everything that ``map`` goes over (another scalar is a fault), and the first result."""
        given = [value for value in (bound.args[0], bound.options.get("begin")) if value is not None]
        given.sort(key=lambda value: (value.span.line, value.span.column))
        found = dict(zip(map(id, given), self.values(given), strict=True))
        collection = self.hold(found[id(bound.args[0])][0])
        begin = bound.options.get("begin")
        first = py.const("") if begin is None else self.hold(found[id(begin)][0])
        self.emit(py.assign(seen := self.temp(), collection))
        entries = self.hold(py.call("entries", [py.name(seen)], node.span))
        self.guard(py.class_is(entries, "Err"), entries)
        self.over = py.name(seen)
        return entries, first

    def _reduce(self, register: str, value: str, result: str, reducer: n.Statement) -> None:
        """The reducing command sees the mapped value as ``$__value`` and what was reduced before as ``$__result``."""
        held = py.name(register)
        is_err = py.class_is(held, "Err")
        self.emit(py.assign(value, py.choose(is_err, py.attr(held, "value"), held)))
        self.emit(py.assign(register, self.mixed(self.statement(reducer, Need.BOTH))))

    over: Any = None
    """What the loop that is entered next goes over."""

    def enter_loop(self, register: str, writes: bool) -> Loop:
        """Begin a Python loop; where its body may change collections, the run learns what is being iterated."""
        saved = ""
        if writes:
            saved = self.temp()
            iterated = py.attr(py.name("run"), "iterated")
            self.emit(py.assign(saved, iterated))
            self.emit(py.assign_attr(py.name("run"), "iterated", py.tuple_([self.over, py.name(saved)])))
        self.loops.append(Loop(register, saved, len(self.scoped)))
        return self.loops[-1]

    def leave_loop(self) -> None:
        """After the loop's end, wherever it was left to."""
        loop = self.loops.pop()
        if loop.saved:
            self.emit(py.assign_attr(py.name("run"), "iterated", py.name(loop.saved)))

    def count_step(self, span: Span) -> None:
        """One iteration or block entry: a look at the budgets when the stretch is used up."""
        left = py.attr(py.name("run"), "left")
        register = self.temp()
        self.emit(py.assign(register, py.subtract(left, py.const(1))), span)
        self.emit(py.assign_attr(py.name("run"), "left", py.name(register)), span)
        look = py.expr(py.call(py.attr(py.name("run"), "look"), [], span))
        self.emit(py.if_(py.compare(py.name(register), py.LT, py.const(0)), [look]), span)


def _unit(bound: BoundCall, default: str) -> str:
    """The unit of ``--from``."""
    given = bound.options.get("from")
    return given.value if isinstance(given, n.Text) else default


def _body(node: Any) -> n.Statement:
    """The statement in a ``$(...)`` that is not evaluated before."""
    assert isinstance(node, n.Substitution)  # bind refuses anything else
    return node.body


def _status_of(held: Any) -> dict[str, Any]:
    status = py.choose(held, py.const("success"), py.const("error"))
    return {"status": status, "ok": held, "error": py.negate(held)}


_SPECIAL: dict[str, Callable[..., Result]] = {
    "return": Controls.return_,
    "error": Controls.error,
    "exit": Controls.exit,
    "goto": Controls.goto,
    "break": Controls.break_,
    "continue": Controls.continue_,
    "first-ok": Controls.first_ok,
    "capture": Controls.capture,
    "map": Controls.map,
    "delete": Controls.delete,
}
"""Commands without code of their own: what the compiler makes of each."""
