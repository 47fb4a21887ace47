"""Operands of ``&&`` and ``||`` -> Python conditions where that is enough, else statements that run in turn (L4)."""

from __future__ import annotations

from typing import Any

from common.chain import pycode as py
from common.chain.emitter import NEVER, Emitter, Form, Need, Result, ok, pred


class Junction:
    """Operands of ``&&`` or ``||`` on their way into code; see ``Statements._operands``.

    ``pending`` are conditions that were not placed yet. Where values are wanted, ``register`` takes the result of each
    operand that is more than a condition.
    """

    def __init__(self, e: Emitter, need: Need, stop_on: bool) -> None:
        self.e, self.need, self.stop_on = e, need, stop_on
        self.pending: list[Any] = []
        self.register = ""
        self.register_tested = False
        self.never = self.never_first = False
        self.first = True
        self._begin: tuple[list[Any], int] | None = None

    def test(self) -> Any:
        """The pending conditions as one that holds where the next operand is to run."""
        joined = self.joined()
        return py.negate(joined) if self.stop_on else joined

    def joined(self) -> Any:
        """The pending conditions as one."""
        kept = [test for test in self.pending if not (py.is_const(test) and test.value is not self.stop_on)]
        if not kept:
            return py.const(not self.stop_on)
        if len(kept) == 1:
            return kept[0]
        return py.either(*kept) if self.stop_on else py.both(*kept)

    def add(self, result: Result, code: list[Any]) -> None:
        """The next operand: its result, and the statements that come before it."""
        e = self.e
        values = self.need is Need.BOTH
        self.never = result.form is Form.NEVER
        if not self.never and not (values and result.form is not Form.PRED):
            here, e.out = e.out, code
            test = e.truth(result)
            e.out = here
            if not code and not (values and self.register_tested):
                self.pending.append(test)
                self.first = False
                return
            result = pred(test)
        self.place(code)
        if self.never:
            return
        if result.form is Form.PRED:
            self.pending, self.register_tested = [result.expr], False
            return
        self.register = self.register or e.temp()
        e.emit(py.assign(self.register, e.mixed(result)))
        self.pending, self.register_tested = [py.class_is_not(py.name(self.register), "Err")], True

    def place(self, code: list[Any]) -> None:
        """Put the statements of an operand where it runs only if it is its turn."""
        e = self.e
        if self.first:
            e.out += code
            self.first, self.never_first = False, self.never
            return
        if self.need is Need.STATUS and self._begin is None:
            self._begin = e.out, len(e.out)
        if self.need is Need.BOTH and not self.register_tested:
            self.register = self.register or e.temp()
            e.emit(py.assign(self.register, py.const(True) if self.stop_on else py.name("ERR_FALSE")))
        e.emit(py.if_(self.test(), code))
        e.out, self.pending = code, []

    def result(self) -> Result:
        """The result of the whole."""
        e = self.e
        if self.need is Need.NOTHING:
            if self.pending and not py.is_atom(self.joined()):
                e.emit(py.expr(self.joined()))
            if not e.out:
                e.emit(py.pass_())
            return NEVER if self.never_first else ok(py.const(""))
        if self.never:
            return self._stopped()
        if self.need is Need.STATUS:
            if self._begin is None:
                return pred(self.joined())
            self.register = self.register or e.temp()
            e.emit(py.assign(self.register, self.joined()))
            statements, at = self._begin
            statements.insert(at, py.assign(self.register, py.const(self.stop_on)))
            return pred(py.name(self.register))
        if not self.register:
            return pred(self.joined())
        if not self.register_tested:
            e.emit(py.assign(self.register, e.mixed(pred(self.joined()))))
        return Result(Form.MIXED, py.name(self.register))

    def _stopped(self) -> Result:
        """The last operand never ends: who comes here was stopped by one before it."""
        if self.never_first:
            return NEVER
        return pred(py.const(self.stop_on)) if not self.register else Result(Form.MIXED, py.name(self.register))
