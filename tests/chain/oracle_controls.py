"""The oracle's controls and special forms: what needs jumps, or evaluates a ``$(...)`` itself (L6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.chain import nodes as n
from common.chain import values
from common.chain.commands.spec import BoundCall
from common.chain.errors import LimitError
from common.chain.values import MISSING, Set
from tests.chain.oracle_eval import Evaluator, given, pairs, restored
from tests.chain.oracle_levels import LEVEL_OPTIONS, MAP_NAMES
from tests.chain.oracle_state import (
    Exit,
    Frame,
    Jump,
    Leave,
    Loop,
    Passed,
    Result,
    Target,
    Terminal,
    first_word,
    misuse,
)

Special = Callable[[Evaluator, Frame, BoundCall], Result]


def terminal(run: Evaluator, frame: Frame, verb: str, bound: BoundCall) -> Result:
    """``accept``, ``reject why``, ``forward T``: ends the run from any depth."""
    target = text_of(run, frame, bound.args[0]) if bound.args else ""
    raise checked_terminal(run, verb, target)


def checked_terminal(run: Evaluator, verb: str, target: str) -> Terminal:
    """The terminal, or misuse where its verb needs a target and gets an empty one."""
    if verb in run.host.targeted and not target:
        raise misuse("PC-RUN-EMPTY-TARGET")
    return Terminal(verb, target)


def leave(ok: bool, default: str) -> Special:
    """``return`` and ``error``."""

    def special(run: Evaluator, frame: Frame, bound: BoundCall) -> Result:
        level = bound.options.get("from", default)
        level = level if isinstance(level, str) else level.value
        value = run.value(frame, bound.args[0]) if bound.args else MISSING
        verb = literal_verb(run, bound.args[0]) if bound.args and ok else ""
        if verb:
            raise checked_terminal(run, verb, first_word(values.text(value))[1])
        if not ok:
            run.state.run["error"] = given(value)  # under exec, too: a plain reject behind it keeps the reason
        raise Leave(ok, level, value)

    return special


def literal_verb(run: Evaluator, node: Any) -> str:
    """The declared verb that a literal, or the literal head of an interpolated string, begins with; else empty."""
    if isinstance(node, n.Interpolated):
        head = node.parts[0]
        if not isinstance(head, n.Text):
            return ""
        word, _ = first_word(head.value)
        whole = " " in head.value.lstrip()
        return declared(run, word) if whole else ""
    if not isinstance(node, n.Text):
        return ""
    return declared(run, first_word(node.value)[0])


def declared(run: Evaluator, word: str) -> str:
    """The verb that a word means, empty where it is none."""
    verb = run.host.canonical(word)
    return verb if verb in run.host.verbs else ""


def exit_(run: Evaluator, frame: Frame, bound: BoundCall) -> Result:
    """``exit``, ``exit VERB``, ``exit value``."""
    if not bound.args:
        raise Exit(MISSING)
    value = run.value(frame, bound.args[0])
    verb = literal_verb(run, bound.args[0])
    if verb:
        raise checked_terminal(run, verb, first_word(values.text(value))[1])
    raise Exit(value)


def goto(run: Evaluator, frame: Frame, bound: BoundCall) -> Result:
    """``goto id``: never returns."""
    target = run.host.find(frame, "", text_of(run, frame, bound.args[0]))
    run.state.gotos += 1
    if run.state.gotos > run.state.limits.gotos:
        raise LimitError("PC-LIMIT-GOTO", "")
    raise Jump(target, frame.env)


def execute(run: Evaluator, frame: Frame, bound: BoundCall) -> Result:
    """``exec`` and ``invoke``: run the target here."""
    kind = next((kind for kind in ("block", "chain", "lib") if kind in bound.options), "")
    name = text_of(run, frame, bound.args[0])
    arguments = {key.value: run.value(frame, item) for key, item in bound.options.get("arg", ())}
    target = run.host.find(frame, kind, name)
    invoked = bound.spec.name == "invoke"
    shared = target.block is not None and target.chain is frame.chain and not invoked
    env = frame.env if shared else {}
    if invoked:
        env["__args"] = arguments
        run.state.freeze(arguments, deep=False)
    run.state.depth += 1
    if run.state.depth > run.state.limits.depth:
        raise LimitError("PC-LIMIT-DEPTH", "")
    try:
        return call(run, target, env, shared)
    finally:
        run.state.depth -= 1


def call(run: Evaluator, target: Target, env: dict[str, Any], shared: bool) -> Result:
    """Run the target of an exec and turn a return or error that reaches it into the call's result."""
    try:
        if target.block is not None and target.chain is not None:
            if shared:
                return run.host.block(run, target.chain, target.block, env)
            return run.host.chain(run, target.chain, env, start=target.block, listed=False)
        if target.chain is not None:
            return run.host.chain(run, target.chain, env, listed=False)
        return run.host.chains(run, target.lib.chains, env, listed=False)
    except Leave as control:
        return Result(control.ok, given(control.value), raised="" if control.ok else control.level)


def first_ok(run: Evaluator, frame: Frame, bound: BoundCall) -> Result:
    """The first Ok, else the last Err."""
    for candidate in bound.args:
        result = run.statement(frame, candidate.body)
        if result.ok:
            break
    return result._replace(raised="")


def capture(run: Evaluator, frame: Frame, bound: BoundCall) -> Result:
    """Run the command and store value, status and two Bools."""
    result = run.statement(frame, bound.args[0].body)._replace(raised="")
    value = given(result.value)
    stored = {
        "value": value, "status": "success" if result.ok else "error", "ok": result.ok, "error": not result.ok,
    }  # fmt: skip
    for name, out in bound.options.items():
        run.write(frame, out, stored[name])
    return result


def break_(run: Evaluator, frame: Frame, bound: BoundCall) -> Result:
    """``break [value]``."""
    raise Loop("break", run.value(frame, bound.args[0]) if bound.args else "")


def continue_(run: Evaluator, frame: Frame, bound: BoundCall) -> Result:
    """``continue``."""
    raise Loop("continue")


def map_(run: Evaluator, frame: Frame, bound: BoundCall) -> Result:
    """``map collection $(command)``: the command for each entry, then --reduce; the result is the last one's."""
    given_values = {"collection": bound.args[0]}
    if "begin" in bound.options:
        given_values["begin"] = bound.options["begin"]
    in_order = sorted(given_values.items(), key=lambda item: (item[1].span.line, item[1].span.column))
    got = {name: run.value(frame, node) for name, node in in_order}
    collection, begin = got["collection"], got.get("begin", "")
    if collection is None or (isinstance(collection, str) and collection == ""):
        collection = []
    if not isinstance(collection, list | dict | Set):
        raise Passed(f"map: {values.type_name(collection)} given, a collection needed")
    result = Result(True, begin)
    with restored(frame, *MAP_NAMES), run.state.iterating(collection):
        for key, item in pairs(collection):
            run.state.step()
            first = item if isinstance(collection, Set) else key
            frame.local |= {"__key": first, "__value": item, "__result": given(result.value)}
            result = run.statement(frame, bound.args[1].body)
            if "reduce" in bound.options:
                frame.local["__value"] = given(result.value)
                result = run.statement(frame, bound.options["reduce"].body)
    return result._replace(raised="")


def delete(run: Evaluator, frame: Frame, bound: BoundCall) -> Result:
    """``delete name`` or a path: the removed value, or an Err."""
    (target,) = bound.args
    state = run.state
    level = next((LEVEL_OPTIONS[name] for name in bound.options), frame.block.levels.write(target))
    path = run.spelled(target)
    nothing = Result(False, f"delete: there is no ${path}")
    if not target.steps:
        places = {"block": frame.local, "chain": frame.env, "global": state.globals}
        if level not in places or target.name not in places[level]:
            return nothing
        return Result(True, places[level].pop(target.name))
    container, key = run.place(frame, level, target)
    if values.index(container, key) is MISSING:
        return nothing
    state.changing(container)
    if isinstance(container, list):
        return Result(True, container.pop(values.list_index(key, len(container)) or 0))
    name = values.key_text(key)
    assert name is not None
    if isinstance(container, Set):
        container.remove(name)
        return Result(True, name)
    return Result(True, container.pop(name))


def text_of(run: Evaluator, frame: Frame, node: Any) -> str:
    """An argument where text is wanted."""
    return values.text(run.value(frame, node))  # a literal number is its spelling since it was bound


CONTROLS: dict[str, Special] = {
    "return": leave(True, "block"),
    "error": leave(False, "lib"),
    "exit": exit_,
    "goto": goto,
    "exec": execute,
    "invoke": execute,
    "first-ok": first_ok,
    "capture": capture,
    "break": break_,
    "continue": continue_,
    "map": map_,
    "delete": delete,
}
