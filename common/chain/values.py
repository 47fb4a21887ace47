"""The values of the language and their rules: text, numbers, truth, paths, copies, JSON (L3, L5).

Null is ``None``, Bool ``bool``, Int ``int`` (64 bit), Float ``float``, String ``str``, List ``list``, Map ``dict`` with
str keys, Set the class below. What a path does not find is ``MISSING``. Collections are references and may be nested in
themselves, so whatever walks them has a limit on depth and on size, and raises LimitError there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from json.encoder import encode_basestring as _quoted
from math import isfinite
from typing import Any

import msgspec

from common.chain.errors import LimitError

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
NESTING_LEVELS_MAX = 100
"""Collections within collections, for whatever has to walk them all."""
JSON_BYTES_MAX = 1_048_576
"""The JSON of one value, where the caller has no limit of its own."""

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LONG_INTEGER = re.compile(r"[0-9]{19}")
_BYTE = re.compile(r"\(byte ([0-9]+)\)")
_INT_DIGITS_SAFE = 18  # so many digits always fit into 64 bits
_INDEX_DIGITS_MAX = 18


class Missing:
    """The type of MISSING: what a path read did not find. It is no value of a chain."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING = Missing()


class Set:
    """A set of Strings in the order of adding."""

    __slots__ = ("items",)

    def __init__(self, items: Iterable[str] = ()) -> None:
        self.items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return isinstance(item, str) and item in self.items

    def __iter__(self) -> Iterator[str]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Set) and self.items.keys() == other.items.keys()

    __hash__ = None  # type: ignore[assignment] # it changes

    def __repr__(self) -> str:
        return f"Set({list(self.items)!r})"

    def add(self, item: str) -> bool:
        """Add ``item``; True when it was not there."""
        if item in self.items:
            return False
        self.items[item] = None
        return True

    def remove(self, item: str) -> bool:
        """Remove ``item``; True when it was there."""
        if item not in self.items:
            return False
        del self.items[item]
        return True


COLLECTIONS = (list, dict, Set)

_TYPE_NAMES: dict[type, str] = {
    type(None): "Null", bool: "Bool", int: "Number", float: "Number", str: "String",
    list: "List", dict: "Map", Set: "Set", Missing: "Missing",
}  # fmt: skip


def type_name(value: Any) -> str:
    """Return ``Null``, ``Bool``, ``Number``, ``String``, ``List``, ``Set``, ``Map``, or ``Missing``."""
    return _TYPE_NAMES.get(type(value), "Any")


# -- text, numbers, truth ----------------------------------------------------------------------------------------------


def text(value: Any) -> str:
    """Return the text of a value (L5); of MISSING it is empty. Raises LimitError where the JSON would be too large."""
    if type(value) is str:
        return value
    if value is None or value is MISSING:
        return ""
    if value is True:
        return "true"
    if value is False:
        return "false"
    if type(value) is int:
        return str(value)
    if type(value) is float:
        return _float_text(value)
    return to_json(value)


def _float_text(value: float) -> str:
    """The shortest digits that give the same Float, without exponent and without a trailing ``.0``."""
    digits = repr(value)
    if "e" in digits:
        from decimal import Decimal  # for the very large and the very small only

        digits = format(Decimal(digits), "f")
    return digits.removesuffix(".0")


def to_number(value: Any) -> int | float | None:
    """Return the Number that the loose rule sees in ``value``: a Number itself, or a String of its form; else None.

    An integer beyond 64 bits becomes a Float, one beyond the range of Floats is no number.
    """
    kind = type(value)
    if kind is int or kind is float:
        return value  # type: ignore[no-any-return]
    if kind is not str:
        return None
    found = _NUMBER.fullmatch(value)
    if found is None:
        return None
    if found[1] is None and found[2] is None:
        if len(value) <= _INT_DIGITS_SAFE:
            return int(value)
        if len(value) <= _INT_DIGITS_SAFE + 2:
            whole = int(value)
            if INT_MIN <= whole <= INT_MAX:
                return whole
    number = float(value)
    return number if isfinite(number) else None


_TRUE_WORDS = frozenset(("true", "1", "yes", "on"))


def truth(value: Any) -> bool:
    """True when a variable with this value holds as a condition (L3)."""
    kind = type(value)
    if kind is bool:
        return value  # type: ignore[no-any-return]
    if kind is str:
        return value in _TRUE_WORDS
    return (kind is int or kind is float) and value != 0


# -- paths and copies --------------------------------------------------------------------------------------------------


def key_text(key: Any) -> str | None:
    """Return the key of a map that ``key`` is: a String itself, a Number or Bool its text; None for all else."""
    kind = type(key)
    if kind is str:
        return key  # type: ignore[no-any-return]
    return text(key) if kind is int or kind is bool or kind is float else None


def list_index(key: Any, size: int) -> int | None:
    """Return the place in a list of ``size`` items that ``key`` is (Int, or a String of digits), or None."""
    if type(key) is str:
        if len(key) > _INDEX_DIGITS_MAX or not (key.isascii() and key.isdigit()):
            return None
        key = int(key)
    elif type(key) is not int:
        return None
    return key if 0 <= key < size else None


def index(container: Any, key: Any) -> Any:
    """Return one step of a path (L5): an entry of a map, an item of a list, a set's member itself, else MISSING."""
    kind = type(container)
    if kind is dict:
        return container.get(key if type(key) is str else key_text(key), MISSING)
    if kind is list:
        at = list_index(key, len(container))
        return MISSING if at is None else container[at]
    if kind is Set:
        name = key_text(key)
        return name if name in container.items else MISSING
    return MISSING


def copy(value: Any, copies: dict[int, Any] | None = None) -> Any:
    """Return a deep copy; what is shared inside stays shared. Raises LimitError for what is nested too deep.

    ``copies`` gets every collection of the copy, by the identity of what it was made of.
    """
    kind = type(value)
    return _copy(value, {} if copies is None else copies, 0) if kind is list or kind is dict or kind is Set else value


def _copy(value: Any, done: dict[int, Any], depth: int) -> Any:
    kind = type(value)
    if kind is not list and kind is not dict and kind is not Set:
        return value
    made = done.get(id(value))
    if made is not None:
        return made
    check_depth(depth)
    if kind is list:
        done[id(value)] = made = []
        made += [_copy(item, done, depth + 1) for item in value]
    elif kind is dict:
        done[id(value)] = made = {}
        for key, item in value.items():
            made[key] = _copy(item, done, depth + 1)
    else:
        done[id(value)] = made = Set(value.items)
    return made


def check_depth(depth: int) -> None:
    """Raise LimitError at a depth at which no collection may stand any more."""
    if depth >= NESTING_LEVELS_MAX:
        raise LimitError("PC-LIMIT-NESTING", f"collections nested deeper than {NESTING_LEVELS_MAX} levels")


# -- JSON --------------------------------------------------------------------------------------------------------------


def from_json(data: str | bytes) -> Any:
    """Return the value of a JSON text; an integer beyond 64 bits becomes a Float.

    Raises ValueError that says what is wrong: no JSON, a NaN or infinity, nested deeper than NESTING_LEVELS_MAX.
    """
    try:
        value = msgspec.json.decode(data)
    except RecursionError:
        raise ValueError(f"nested deeper than {NESTING_LEVELS_MAX} levels") from None
    except UnicodeError:
        raise ValueError("not UTF-8") from None
    except (msgspec.MsgspecError, ValueError, OverflowError) as exc:
        raise ValueError(_why_no_json(str(exc))) from None
    as_text = data if isinstance(data, str) else data.decode()
    if as_text.count("[") + as_text.count("{") > NESTING_LEVELS_MAX or _LONG_INTEGER.search(as_text):
        return _settled(value, 0)
    return value


def _why_no_json(message: str) -> str:
    """What the decoder found, in words that stay when the decoder's change: faults are values that chains may see."""
    found = _BYTE.search(message)
    if found is not None:
        return f"no JSON at byte {found[1]}"
    if "truncated" in message:
        return "the text ends too early"
    return "a number is out of range" if "range" in message else "no JSON"


def _settled(value: Any, depth: int) -> Any:
    """The decoded value with large integers as Floats, or ValueError for one that is nested too deep."""
    kind = type(value)
    if kind is int:
        if INT_MIN <= value <= INT_MAX:
            return value
        try:
            return float(value)
        except OverflowError:
            raise ValueError("a number is out of range") from None
    if kind is not list and kind is not dict:
        return value
    if depth >= NESTING_LEVELS_MAX:
        raise ValueError(f"nested deeper than {NESTING_LEVELS_MAX} levels")
    if kind is list:
        return [_settled(item, depth + 1) for item in value]
    return {key: _settled(item, depth + 1) for key, item in value.items()}


def to_json(value: Any, bytes_max: int = JSON_BYTES_MAX) -> str:
    """Return the JSON of a value without blanks: maps in their order, sets as lists, MISSING as null.

    Raises LimitError when it is longer than ``bytes_max`` bytes or nested deeper than NESTING_LEVELS_MAX.
    """
    writer = _Writer(bytes_max)
    writer.write(value, 0)
    done = "".join(writer.parts)
    if len(done) > bytes_max // 4 and len(done.encode("utf-8", "surrogatepass")) > bytes_max:
        raise writer.too_long()
    return done


def shown(value: Any) -> str:
    """Return the JSON of a value, for people; of one that is too large for JSON, why."""
    try:
        return to_json(value)
    except LimitError as exc:
        return f"({exc.message})"


class _Writer:
    """JSON in parts, with a limit that is looked at while they grow: what is shared inside is written each time."""

    __slots__ = ("bytes_max", "parts", "room")

    def __init__(self, bytes_max: int) -> None:
        self.parts: list[str] = []
        self.bytes_max = self.room = bytes_max

    def too_long(self) -> LimitError:
        return LimitError("PC-LIMIT-STRING", f"the JSON of a value is longer than {self.bytes_max} bytes")

    def add(self, part: str) -> None:
        self.parts.append(part)
        self.room -= len(part)
        if self.room < 0:
            raise self.too_long()

    def write(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind is dict:
            check_depth(depth)
            before = "{"
            for key, item in value.items():
                self.add(f"{before}{_quoted(key)}:")
                self.write(item, depth + 1)
                before = ","
            self.add("}" if value else "{}")
        elif kind is list or kind is Set:
            check_depth(depth)
            before = "["
            for item in value:
                self.add(before)
                self.write(item, depth + 1)
                before = ","
            self.add("]" if value else "[]")
        else:
            self.add(_scalar(value))


def _scalar(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if kind is int:
        return str(value)
    if kind is float:
        return repr(value) if isfinite(value) else "null"
    return "null" if kind is not bool else "true" if value else "false"
