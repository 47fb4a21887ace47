"""Variables in code: reads from their level outward, steps of a path, writes, and copies of writable inputs (L5)."""

from __future__ import annotations

from typing import Any

from common.chain import nodes as n
from common.chain import pycode as py
from common.chain.emitter import CHAIN_PREFIX, Emitter
from common.chain.errors import Span
from common.chain.run import Access
from common.chain.scopes import BLOCK, CHAIN, GLOBAL, INPUT, RUN

MISSING = "M"
_RUN_SLOTS = {"result": "value", "error": "error", "resp": "resp"}


def local_of(name: str) -> str:
    """The Python local of a block-level name."""
    return "b_" + name


def hoisted_of(name: str) -> str:
    """The Python local that an input is read into once, at the block's beginning."""
    return "i_" + name


def path_text(node: n.Variable) -> str:
    """The path as people write it, for messages."""
    shown = node.name
    for step in node.steps:
        key = step.key
        if isinstance(key, n.Variable):
            shown += f"[${path_text(key)}]"
        elif isinstance(key, n.Literal):
            shown += f"[{key.spelling}]"
        else:
            shown += f".{key.value}" if key.value.replace("_", "").replace("-", "").isalnum() else f'["{key.value}"]'
    return shown


class Variables(Emitter):
    """Reads and writes of variables."""

    # -- reads ---------------------------------------------------------------------------------------------------------

    def read(self, node: n.Variable, *, absent: Any = "", keep: bool = True, strict: bool = True) -> tuple[Any, str]:
        """The value of ``node``, ``absent`` (a constant or MISSING) where it is missing, and its class name if known.

        ``keep``: a reference to the value may be kept or written through, so a collection inside a writable input must
        be one of the run's own copy. ``strict=False``: missing is allowed whatever the policy says.
        """
        lenient = node.default is not None or any(step.optional for step in node.steps)
        strict = strict and self.config.strict and not lenient
        undefined = strict or node.default is not None
        value, type = self._path(node, MISSING if undefined else absent)
        if keep and self.config.inputs.get(node.name) is Access.WRITABLE and self._reaches_inputs(node):
            value = self._own_copy(node, value, MISSING if undefined else absent)
        if node.default is not None:
            first, found = self.named(value)
            default = self.default(node.default)
            return py.choose(py.compare(first, py.IS_NOT, py.name(MISSING)), found, default), ""
        if strict:
            value = py.call("present", [value, py.const(path_text(node))], node.span)
        return value, type

    def default(self, node: n.Expression) -> Any:
        """The default of ``??``: a literal or a variable."""
        if isinstance(node, n.Variable):
            return self.read(node)[0]
        assert isinstance(node, n.Literal | n.Text)  # the parser allows no other
        return py.const(node.value)

    def _path(self, node: n.Variable, absent: Any) -> tuple[Any, str]:
        value, type = self._root(node, MISSING if node.steps else absent)
        for at, step in enumerate(node.steps):
            value = self._step(value, step, absent if at == len(node.steps) - 1 else MISSING)
            type = ""
        return value, type

    def _reaches_inputs(self, node: n.Variable) -> bool:
        level = self.scopes.level(node)
        return level != RUN and not (level == BLOCK and local_of(node.name) in self.known)

    def _root(self, node: n.Variable, absent: Any) -> tuple[Any, str]:
        level, name = self.scopes.level(node), node.name
        if level == RUN:
            return py.attr(py.name("run"), _RUN_SLOTS[name]), ""
        if level == BLOCK:
            local = local_of(name)
            if local in self.known:
                return py.name(local), self.known[local]
            held = self.read_local(local)
            return py.choose(py.compare(held, py.IS_NOT, py.name(MISSING)), held, self._chain(name, absent)), ""
        if level == GLOBAL:
            return self._outer(name, absent), ""
        if CHAIN_PREFIX + name in self.known:
            return py.item(py.name("c"), py.const(name)), self.known[CHAIN_PREFIX + name]
        return self._chain(name, absent), ""

    def _chain(self, name: str, absent: Any) -> Any:
        """From the chain level outward."""
        if name in self.hoisted:
            held = py.name(hoisted_of(name))
            if absent == MISSING:
                return held
            return py.choose(py.compare(held, py.IS_NOT, py.name(MISSING)), held, py.const(absent))
        return self.from_chain(name, absent)

    def from_chain(self, name: str, absent: Any) -> Any:
        """The same, looked up."""
        key, env = py.const(name), py.name("c")
        return py.choose(py.compare(key, py.IN, env), py.item(env, key), self._outer(name, absent))

    def _outer(self, name: str, absent: Any) -> Any:
        """Globals, then inputs."""
        run, key = py.name("run"), py.const(name)
        slow = py.call("outer", [run, key, self._absent(absent)])
        if name not in self.config.inputs:
            return slow
        get = py.attr(py.attr(run, "inputs"), "get")
        no_globals = py.compare(py.attr(run, "globals"), py.IS, py.const(None))
        return py.choose(no_globals, py.call(get, [key, self._absent(absent)]), slow)

    @staticmethod
    def _absent(absent: Any) -> Any:
        return py.name(MISSING) if absent == MISSING else py.const(absent)

    def _step(self, container: Any, step: n.Step, absent: Any) -> Any:
        """One step: the usual class of container inline, everything else by ``at``."""
        key, nothing = step.key, self._absent(absent)
        if isinstance(key, n.Variable):
            index, _ = self.read(key, absent=MISSING, keep=False)
            return py.call("at", [container, index, nothing])
        if isinstance(key, n.Literal) and (type(key.value) is not int or key.value < 0):
            return py.call("at", [container, py.const(key.value), nothing])
        first, held = self.named(container)
        index = py.const(key.value)
        slow = py.call("at", [held, index, nothing])
        if isinstance(key, n.Literal):
            inside = py.compare(py.call("len", [held]), py.GT, index)
            is_list = py.class_is(first, "list")
            return py.choose(py.both(is_list, inside), py.item(held, index), slow)
        get = py.call(py.attr(held, "get"), [index, nothing])
        return py.choose(py.class_is(first, "dict"), get, slow)

    def _own_copy(self, node: n.Variable, value: Any, absent: Any) -> Any:
        """Where the value is a collection inside a writable input, the same of the run's own copy."""
        first, held = self.named(value)
        is_collection = py.compare(py.attr(first, "__class__"), py.IN, py.name("COLLECTIONS"))
        own = py.call(py.attr(py.name("run"), "own"), [py.const(node.name)], node.span)
        again, _ = self._path(node, absent)
        return py.choose(py.both(is_collection, own), again, held)

    # -- writes --------------------------------------------------------------------------------------------------------

    def write(self, target: n.Variable, value: Any, type: str = "") -> Any:
        """Write ``value`` (placed once). Returns None, or for a path an atom: an Err where there is no place."""
        if target.steps:
            return self._write_path(target, value)
        level, name = self.scopes.level(target), target.name
        run, key = py.name("run"), py.const(name)
        if level == BLOCK:
            self.emit(py.assign(local_of(name), value), target.span)
            self.know(local_of(name), type)
        elif level == CHAIN:
            self.emit(py.assign_item(py.name("c"), key, value), target.span)
            self.know(CHAIN_PREFIX + name, type)
        elif level == GLOBAL:
            self.emit(py.expr(py.call("set_global", [run, key, value], target.span)), target.span)
        elif level == INPUT:
            self.emit(py.expr(py.call("set_input", [run, key, value], target.span)), target.span)
        elif name == "result":
            self.emit(py.expr(py.call(py.attr(run, "set_result"), [value], target.span)), target.span)
        else:
            self.emit(py.assign_attr(run, _RUN_SLOTS[name], value), target.span)
        return None

    def container_of(self, target: n.Variable) -> tuple[Any, Any, str]:
        """Container, key and path of what a path names, the container being the run's own where it is an input's."""
        *steps, last = target.steps
        parent = n.Variable(target.name, tuple(steps), None, target.span)
        self.scopes.levels[id(parent)] = self.scopes.level(target)
        self.parents.append(parent)
        container, _ = self.read(parent, absent=MISSING, strict=False)
        held = self.hold(container)
        if isinstance(last.key, n.Variable):
            key, _ = self.read(last.key, absent=MISSING, keep=False)
        else:
            key = py.const(last.key.value)
        return held, key, path_text(parent)

    def _write_path(self, target: n.Variable, value: Any) -> Any:
        held = self.hold(value)
        container, key, path = self.container_of(target)
        done = py.call("put", [py.name("run"), container, key, held, py.const(path)], target.span)
        return self.hold(done)

    @property
    def parents(self) -> list[n.Variable]:
        """Nodes made here; kept so that no identity is used twice."""
        return self._parents

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._parents: list[n.Variable] = []


__all__ = ["MISSING", "Span", "Variables", "local_of", "path_text"]
