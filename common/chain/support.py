"""What the code of blocks calls: the slow sides of reads, writes, checks and conversions. All of it is bound by name.

``NAMES`` is the whole world of a block's function: it has no builtins and reaches nothing else.
"""

from __future__ import annotations

from typing import Any

from common.chain import comparing, signals, values
from common.chain.commands.spec import Err
from common.chain.errors import LimitError, MisuseError
from common.chain.run import Run
from common.chain.signals import ERR, FAILED, FAULTED, FELL, Signal
from common.chain.values import MISSING, Set, index, key_text, list_index, text, type_name
from common.chain.verbs import empty_target

ERR_FALSE = Err(False)
ERR_EMPTY = Err("")


# -- reads -------------------------------------------------------------------------------------------------------------


def outer(run: Run, name: str, absent: Any) -> Any:
    """Read beyond the chain: globals, then inputs."""
    found = run.globals
    if found is not None and name in found:
        return found[name]
    return run.inputs.get(name, absent)


def at(container: Any, key: Any, absent: Any) -> Any:
    """One step of a path; ``absent`` where it finds nothing."""
    value = index(container, key)
    return absent if value is MISSING else value


def present(value: Any, path: str) -> Any:
    """The policy ``strict``: reading what is missing is misuse."""
    if value is MISSING:
        raise MisuseError("PC-RUN-MISSING", f"${path} is missing; write ${{{path} ?? default}} where it may be")
    return value


# -- writes ------------------------------------------------------------------------------------------------------------


def set_global(run: Run, name: str, value: Any) -> None:
    """Write at the global level."""
    if run.globals is None:
        run.globals = {}
    run.globals[name] = value


def set_input(run: Run, name: str, value: Any) -> None:
    """Write a whole writable input."""
    run.inputs = {**run.inputs, name: value}
    run.owned = {**run.owned, name: {}}
    run.changed |= {name}


def put(run: Run, container: Any, key: Any, value: Any, path: str) -> Err | None:
    """Write one entry of a map or item of a list; a fault where there is no such place."""
    kind = type(container)
    if kind is dict:
        written = key_text(key)
        if written is None:
            return Err(f"assignment: {type_name(key)} cannot be a key of ${path}", fault=True)
        run.changing(container, len(container) + (written not in container))
        container[written] = value
        return None
    if kind is list:
        place = list_index(key, len(container))
        if place is None:
            return Err(f"assignment: ${path} has no item {text(key)}", fault=True)
        run.changing(container, len(container))
        container[place] = value
        return None
    found = "is missing" if container is MISSING else f"is a {type_name(container)}"
    return Err(f"assignment: ${path} {found}, not a map or a list", fault=True)


def take_away(run: Run, container: Any, key: Any, path: str) -> Any:
    """``delete`` of a path: the removed value, or an Err where there is nothing."""
    kind = type(container)
    if kind is dict:
        written = key_text(key)
        if written in container:
            run.changing(container, len(container) - 1)
            return container.pop(written)
    elif kind is list:
        place = list_index(key, len(container))
        if place is not None:
            run.changing(container, len(container) - 1)
            return container.pop(place)
    elif kind is Set:
        written = key_text(key)
        if written in container:
            run.changing(container, len(container) - 1)
            container.remove(written)
            return written
    return Err(f"delete: there is no ${path}")


def delete_global(run: Run, name: str) -> Any:
    """``delete`` at the global level."""
    if run.globals is None or name not in run.globals:
        return Err(f"delete: there is no ${name}")
    return run.globals.pop(name)


# -- results -----------------------------------------------------------------------------------------------------------


def inverted(result: Any) -> Any:
    """``!``: the other status, and the other Bool."""
    if type(result) is Err:
        value = result.value
        return not value if type(value) is bool else value
    return Err(not result if type(result) is bool else result)


def of_signal(signal: Signal) -> Any:
    """The result of an exec as a value or an Err."""
    kind = signal[0]
    return signal[1] if kind < ERR else Err(signal[1], fault=kind == FAULTED)


def fell(result: Any) -> Signal:
    """The signal of a block whose last statement ended with ``result``."""
    if type(result) is Err:
        return (FAULTED if result.fault else FAILED, result.value, "")
    return (FELL, result, "")


def raised(signal: Signal, place: str) -> Signal:
    """An untested ``error`` that is raised again where the exec stands."""
    return (signal[0], signal[1], place)


def numbers(operator: str, left: Any, right: Any) -> bool:
    """``gt`` and the like without ``--loose``: only two Numbers have an order."""
    if type(left) not in (int, float) or type(right) not in (int, float):
        return False
    return comparing.compare(operator, left, right)


# -- checks ------------------------------------------------------------------------------------------------------------


def checked(run: Run, value: str) -> str:
    """A text that a block made, within the budget of one string. Raises LimitError PC-LIMIT-STRING."""
    bytes_max = run.program.budgets.string_bytes_max
    if len(value.encode("utf-8", "surrogatepass")) > bytes_max:
        raise LimitError("PC-LIMIT-STRING", f"a string of more than {bytes_max} bytes")
    return value


def too_deep(run: Run) -> None:
    """One exec too many inside another. Raises LimitError PC-LIMIT-DEPTH."""
    raise LimitError("PC-LIMIT-DEPTH", f"exec nested deeper than {run.program.budgets.exec_depth_max}")


def no_target(verb: str) -> None:
    """An empty target. Raises MisuseError PC-RUN-EMPTY-TARGET."""
    raise empty_target(verb)


def reason(run: Run, given: str) -> str:
    """``reject`` and ``drop``: the reason becomes ``$error``, an empty one keeps what is there."""
    if given:
        run.error = given
    return given


def iterable(value: Any, names: int) -> Any:
    """What a ``for`` with that many names goes over: a collection, an empty tuple, or a fault."""
    kind = type(value)
    if kind is list:
        return value if names == 1 else enumerate(value)
    if kind is dict:
        return value if names == 1 else value.items()
    if kind is Set and names == 1:
        return value.items
    if value is MISSING or value is None or value == "":
        return ()
    if kind is Set:
        return Err("for: a Set has one name", fault=True)
    return Err(f"for: {type_name(value)} given, a collection needed", fault=True)


def entries(value: Any) -> Any:
    """Key and value of what ``map`` goes over: index and item of a list, the member itself of a set; or a fault."""
    kind = type(value)
    if kind is dict:
        return value.items()
    if kind is list:
        return enumerate(value)
    if kind is Set:
        return zip(value.items, value.items, strict=True)
    if value is MISSING or value is None or value == "":
        return ()
    return Err(f"map: {type_name(value)} given, a collection needed", fault=True)


NAMES: dict[str, Any] = {
    "__builtins__": {},
    "M": MISSING, "Err": Err, "Set": Set, "str": str, "dict": dict, "list": list, "int": int, "bool": bool,
    "float": float,
    "len": len, "COLLECTIONS": values.COLLECTIONS, "ERR_FALSE": ERR_FALSE, "ERR_EMPTY": ERR_EMPTY,
    "FELL_EMPTY": signals.FELL_EMPTY, "FELL_TRUE": signals.FELL_TRUE, "FAILED_FALSE": signals.FAILED_FALSE,
    "FAILED_EMPTY": signals.FAILED_EMPTY,
    "text": text, "truth": values.truth, "equal": comparing.equal, "loose_equal": comparing.loose_equal,
    "compare": comparing.compare, "numbers": numbers, "outer": outer, "at": at, "present": present,
    "set_global": set_global,
    "set_input": set_input, "put": put, "take_away": take_away, "delete_global": delete_global, "inverted": inverted,
    "of_signal": of_signal, "fell": fell, "raised": raised, "checked": checked, "too_deep": too_deep,
    "no_target": no_target, "reason": reason, "iterable": iterable, "entries": entries,
}  # fmt: skip
