"""The oracle's statements and expressions: a tree walk, one method for each kind of node (L3 to L6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from common.chain import comparing, values
from common.chain import nodes as n
from common.chain.commands.spec import BoundCall, Err, Kind, Param, Spec
from common.chain.errors import LimitError
from common.chain.values import MISSING, Set
from tests.chain.oracle_state import Frame, Leave, Loop, Passed, Result, State, first_word, misuse

if TYPE_CHECKING:
    from tests.chain.oracle import Oracle

OK = Result(True, "")
TRUE, FALSE = Result(True, True), Result(False, False)


class Evaluator:
    """Runs the statements of one run."""

    def __init__(self, host: Oracle, state: State) -> None:
        self.host, self.state = host, state

    # -- statements ----------------------------------------------------------------------------------------------------

    def body(self, frame: Frame, body: n.Body | None) -> Result:
        """Run statements in order; the result is the last one's."""
        result = OK
        for statement in body.statements if body else ():
            result = self.statement(frame, statement)
            if result.raised and _stands_alone(statement):
                raise Leave(False, result.raised, result.value)
        return result._replace(raised="")

    def statement(self, frame: Frame, node: n.Statement) -> Result:
        """Run one statement; a fault in its arguments is its own."""
        method = getattr(self, "_" + type(node).__name__.lower())
        try:
            result: Result = method(frame, node)
        except Passed as fault:
            return Result(False, fault.value, fault=True)
        return result

    def _group(self, frame: Frame, node: n.Group) -> Result:
        return self.statement(frame, node.body)

    def _not(self, frame: Frame, node: n.Not) -> Result:
        result = self.statement(frame, node.operand)
        value = not result.value if isinstance(result.value, bool) else result.value
        return Result(not result.ok, value)

    def _and(self, frame: Frame, node: n.And) -> Result:
        for operand in node.operands:
            result = self.statement(frame, operand)
            if not result.ok:
                break
        return result._replace(raised="")

    def _or(self, frame: Frame, node: n.Or) -> Result:
        for operand in node.operands:
            result = self.statement(frame, operand)
            if result.ok:
                break
        return result._replace(raised="")

    def _condition(self, frame: Frame, node: n.Condition) -> Result:
        value = self.variable(frame, node.value) if isinstance(node.value, n.Variable) else node.value.value
        return TRUE if values.truth(value) else FALSE

    def _comparison(self, frame: Frame, node: n.Comparison) -> Result:
        left, right = self.value(frame, node.left), self.value(frame, node.right)
        if node.operator in ("===", "!=="):
            held = comparing.equal(left, right) is (node.operator == "===")
        elif node.operator in ("==", "!="):
            held = comparing.loose_equal(left, right) is (node.operator == "==")
        else:
            held = comparing.compare(node.operator, left, right)
        return TRUE if held else FALSE

    def _assignment(self, frame: Frame, node: n.Assignment) -> Result:
        if node.value is None:
            return OK
        result = self.operand(frame, node.value)
        return self.write(frame, node.target, result.value) or result._replace(raised="")

    def operand(self, frame: Frame, node: n.Expression) -> Result:
        """A right side: ``$(...)`` gives its status, too; a fault in it is passed on."""
        if isinstance(node, n.Substitution):
            result = self.statement(frame, node.body)
            if result.fault and not result.ok:
                raise Passed(result.value)
            return result._replace(value=given(result.value))
        return Result(True, self.value(frame, node))

    def _if(self, frame: Frame, node: n.If) -> Result:
        for branch in node.branches:
            if self.statement(frame, branch.condition).ok:
                return self.body(frame, branch.body)
        return self.body(frame, node.otherwise)

    def _case(self, frame: Frame, node: n.Case) -> Result:
        branches = n.If(node.branches, node.otherwise)
        if node.subject is None:
            return self._if(frame, branches)
        subject = self.value(frame, node.subject)
        with restored(frame, node.name):
            frame.local[node.name] = subject
            return self._if(frame, branches)

    def _matchresult(self, frame: Frame, node: n.MatchResult) -> Result:
        result = self.statement(frame, node.command)
        name, body = (node.ok_name, node.ok) if result.ok else (node.err_name, node.err)
        if body is None:
            return OK
        with restored(frame, name):
            frame.local[name] = given(result.value)
            return self.body(frame, body)

    def _for(self, frame: Frame, node: n.For) -> Result:
        collection = self.value(frame, node.collection)
        if collection is None or (isinstance(collection, str) and collection == ""):
            return OK
        if not isinstance(collection, list | dict | Set):
            raise Passed(f"for: {values.type_name(collection)} given, a collection needed")
        if isinstance(collection, Set) and len(node.names) == 2:
            raise Passed("for: a Set has one name")
        with restored(frame, *node.names), self.state.iterating(collection):
            return self._iterate(frame, node, collection)

    def _iterate(self, frame: Frame, node: n.For, collection: Any) -> Result:
        for key, item in pairs(collection):
            self.state.step()
            single = key if isinstance(collection, dict) else item
            bound = (single,) if len(node.names) == 1 else (key, item)
            frame.local |= dict(zip(node.names, bound, strict=True))
            try:
                self.body(frame, node.body)
            except Loop as control:
                if control.word == "break":
                    return Result(True, control.value)
        return OK

    # -- expressions ---------------------------------------------------------------------------------------------------

    def value(self, frame: Frame, node: n.Expression) -> Any:
        """The value of an argument; what is missing is the empty string. Raises Passed for a fault in it."""
        return given(self.value_or_missing(frame, node))

    def value_or_missing(self, frame: Frame, node: n.Expression) -> Any:
        """As ``value``, but MISSING stays."""
        if isinstance(node, n.Literal | n.Text):
            return node.value
        if isinstance(node, n.Variable):
            return self.variable(frame, node)
        if isinstance(node, n.Substitution):
            return self.operand(frame, node).value
        if isinstance(node, n.Interpolated):
            return self._joined([values.text(self.value(frame, part)) for part in node.parts])
        if isinstance(node, n.ListLiteral):
            return [self.value(frame, item) for item in node.items]
        return {key.value: self.value(frame, item) for key, item in node.entries}

    def _joined(self, parts: Iterable[str]) -> str:
        text = "".join(parts)
        if len(text.encode()) > self.state.string_bytes_max:
            raise LimitError("PC-LIMIT-STRING", "")
        return text

    def variable(self, frame: Frame, node: n.Variable, *, lenient: bool = False) -> Any:
        """Read a path; a default stands in for what is missing, a strict hook point raises unless ``lenient``."""
        value = self.state.lookup(frame, frame.block.levels.read(node), node.name)
        for step in node.steps:
            value = values.index(value, self._key(frame, step))
        if value is MISSING and node.default is not None:
            return self.value(frame, node.default)
        lenient = lenient or node.default is not None or any(step.optional for step in node.steps)
        if value is MISSING and self.host.missing == "strict" and not lenient:
            raise misuse("PC-RUN-MISSING")
        return value

    def _key(self, frame: Frame, step: n.Step) -> Any:
        return self.variable(frame, step.key) if isinstance(step.key, n.Variable) else step.key.value

    # -- writing -------------------------------------------------------------------------------------------------------

    def write(self, frame: Frame, target: n.Variable, value: Any) -> Result | None:
        """Write to a name or a path. Returns the fault where there is nothing to write into."""
        level = frame.block.levels.write(target)
        name, steps = target.name, target.steps
        if not steps:
            self._write_name(frame, level, name, value)
            return None
        container, key = self.place(frame, level, target)
        path = self.spelled(n.Variable(name, steps[:-1]))
        if isinstance(container, dict):
            written = values.key_text(key)
            if written is None:
                return self._misfit(f"{values.type_name(key)} cannot be a key of ${path}")
            self.state.changing(container, len(container) + (written not in container))
            container[written] = value
        elif isinstance(container, list):
            at = values.list_index(key, len(container))
            if at is None:
                return self._misfit(f"${path} has no item {values.text(key)}")
            self.state.changing(container, len(container))
            container[at] = value
        else:
            found = "is missing" if container is MISSING else f"is a {values.type_name(container)}"
            return self._misfit(f"${path} {found}, not a map or a list")
        return None

    @staticmethod
    def _misfit(message: str) -> Result:
        return Result(False, f"assignment: {message}", fault=True)

    def place(self, frame: Frame, level: str, target: n.Variable) -> tuple[Any, Any]:
        """The collection that a path ends in, and the key there."""
        container = self.state.lookup(frame, "chain" if level == "input" else level, target.name)
        for step in target.steps[:-1]:
            container = values.index(container, self._key(frame, step))
        return container, self._key(frame, target.steps[-1])

    @staticmethod
    def spelled(target: n.Variable) -> str:
        """A path as messages write it."""
        return target.name + "".join(spelled_step(step) for step in target.steps)

    def _write_name(self, frame: Frame, level: str, name: str, value: Any) -> None:
        state = self.state
        places = {
            "block": frame.local, "chain": frame.env, "global": state.globals, "input": state.inputs, "run": state.run,
        }  # fmt: skip
        places[level][name] = value
        if level == "run" and name == "result" and isinstance(value, str):
            verb, target = first_word(value)
            verb = self.host.canonical(verb)
            if verb in self.host.targeted and not target:
                raise misuse("PC-RUN-EMPTY-TARGET")
            if verb in self.host.verbs:
                state.verb, state.target = verb, target

    # -- commands ------------------------------------------------------------------------------------------------------

    def _command(self, frame: Frame, node: n.Command) -> Result:
        bound = frame.block.levels.bound(node)
        word = bound.spec.name
        verb = self.host.canonical(word)
        if verb in self.host.verbs:
            return self.host.terminal(self, frame, verb, bound)
        special = self.host.controls.get(word)
        if special is not None:
            return special(self, frame, bound)
        return self._ordinary(frame, bound.spec, bound)

    def _ordinary(self, frame: Frame, spec: Spec, bound: BoundCall) -> Result:
        outs = {opt.name: bound.options[opt.name] for opt in spec.options if opt.out and opt.name in bound.options}
        types = {opt.name: opt.type for opt in spec.options}
        given = [(arg, param.type, param) for arg, param in zip(bound.args, spread(spec.params, bound), strict=True)]
        wanted: list[tuple[Any, Any]] = [(("arg", at), item) for at, item in enumerate(given)]
        for name, value in bound.options.items():
            if name not in outs and value is not True:
                parts = value if isinstance(value, tuple) else (value,)
                wanted += [((name, at), (part, types[name], None)) for at, part in enumerate(parts)]
        wanted.sort(key=lambda item: (item[1][0].span.line, item[1][0].span.column))
        got = {key: self._argument(frame, *item) for key, item in wanted}
        args = [got["arg", at] for at, (_, _, param) in enumerate(given) if param.kind is not Kind.WRITE]
        options = {
            name.replace("-", "_"): True if value is True
            else tuple(got[name, at] for at in range(len(value))) if isinstance(value, tuple) else got[name, 0]
            for name, value in bound.options.items() if name not in outs
        }  # fmt: skip
        if spec.needs_run:
            args.insert(0, self.state)
        if outs:
            return self._capturing(frame, spec, outs, args, options)
        assert spec.call is not None
        return self._finish(frame, spec, bound, spec.call(*args, **options))

    def _argument(self, frame: Frame, node: Any, kind: str, param: Param | None) -> Any:
        """One evaluated argument as a command gets it."""
        if param is not None and param.kind is Kind.WRITE:
            return None
        if param is not None and param.kind in (Kind.READ, Kind.UPDATE):
            return self.variable(frame, node, lenient=param.missing)
        value = self.value_or_missing(frame, node)
        if value is MISSING and param is not None and param.missing:
            return value
        return values.text(given(value)) if kind == "text" else given(value)

    def _finish(self, frame: Frame, spec: Spec, bound: BoundCall, answer: Any) -> Result:
        """Turn what a command returned into a result, and write back what it updates."""
        if isinstance(answer, Err):
            return Result(False, answer.value, answer.fault)
        if spec.predicate:
            return TRUE if answer else FALSE
        for arg, param in zip(bound.args, spread(spec.params, bound), strict=True):
            if param.kind in (Kind.UPDATE, Kind.WRITE):
                fault = self.write(frame, arg, answer)
                if fault is not None:
                    return fault
        return Result(True, self._checked(answer))

    def _capturing(
        self, frame: Frame, spec: Spec, outs: dict[str, Any], args: list[Any], options: dict[str, Any]
    ) -> Result:
        assert spec.capturing is not None
        answer = spec.capturing(*args, **options)
        if isinstance(answer, Err):
            return Result(False, answer.value, answer.fault)
        value, *captured = answer
        names = [opt.name for opt in spec.options if opt.out]
        for name, item in zip(names, captured, strict=True):
            if name in outs:
                fault = self.write(frame, outs[name], item)
                if fault is not None:
                    return fault
        return FALSE if spec.predicate and not value else Result(True, value)

    def _checked(self, value: Any) -> Any:
        if isinstance(value, str) and len(value.encode("utf-8", "surrogatepass")) > self.state.string_bytes_max:
            raise LimitError("PC-LIMIT-STRING", "")
        return value


def spelled_step(step: n.Step) -> str:
    """A step as messages write it."""
    dot = "?." if step.optional else "."
    if isinstance(step.key, n.Text):
        return f"{dot}{step.key.value}"
    key = f"${Evaluator.spelled(step.key)}" if isinstance(step.key, n.Variable) else step.key.spelling
    return f"{dot[:-1]}[{key}]"


def spread(params: Sequence[Param], bound: BoundCall) -> list[Param]:
    """The parameter of each given argument: the repeated last one spread out."""
    count = len(bound.args)
    return [params[min(at, len(params) - 1)] for at in range(count)]


def pairs(collection: Any) -> list[tuple[Any, Any]]:
    """Index and item of a list or set, key and value of a map."""
    return list(collection.items() if isinstance(collection, dict) else enumerate(collection))


@contextmanager
def restored(frame: Frame, *names: str) -> Iterator[None]:
    """Give block names back what they had, on every exit (``for`` in L5; case and match-result as in the peer)."""
    saved = {name: frame.local.get(name, MISSING) for name in names}
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is MISSING:
                frame.local.pop(name, None)
            else:
                frame.local[name] = value


def given(value: Any) -> Any:
    """What is missing as it is written and passed on: the empty string."""
    return "" if value is MISSING else value


def _stands_alone(statement: n.Statement) -> bool:
    while isinstance(statement, n.Group):
        statement = statement.body
    return isinstance(statement, n.Command) and statement.name in ("exec", "invoke")
