"""Types and conversions: type, is-null, is-bool, is-number, to-bool, to-number, to-string (L8). ``delete`` has no code
here: the compiler knows where a variable lives.
"""

from __future__ import annotations

from typing import Any

from common.chain import values
from common.chain.commands.collections import LEVELS
from common.chain.commands.spec import Err, Example, Kind, Param, Spec, fault
from common.chain.commands.uri import shown
from common.chain.values import MISSING

_VALUE = Param("value", "The value.")
_NO_TYPE = Err("None")
_WORDS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)


def _type(value: Any) -> Any:
    return _NO_TYPE if value is MISSING else values.type_name(value)


def _is_null(value: Any) -> bool:
    return value is None


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def _to_bool(value: Any) -> Any:
    kind = type(value)
    if kind is bool:
        return value
    if kind is int or kind is float:
        return value != 0
    if value is None:
        return False
    found = _WORDS.get(value) if kind is str else None
    return _no(value, "to-bool", "truth value") if found is None else found


def _to_number(value: Any) -> Any:
    kind = type(value)
    if kind is bool:
        return int(value)
    if value is None:
        return 0
    number = values.to_number(value.strip() if kind is str else value)
    return _no(value, "to-number", "number") if number is None else number


def _no(value: Any, name: str, wanted: str) -> Err:
    what = shown(value) if type(value) is str else values.type_name(value)
    return fault(f"{name}: {what} is no {wanted}")


def _to_string(value: str) -> str:
    return value


TYPE = Spec(
    "type",
    "variables",
    "The type of a variable's value.",
    params=(Param("variable", "The variable, or a path.", Kind.READ, missing=True),),
    ok="Null, Bool, Number, String, List, Set or Map",
    answers="None when there is no such variable",
    examples=(
        Example("x = 1.5; type x", "Number"),
        Example('x = {"a": []}; type $x.a', "List"),
        Example("type nothing", "None", ok=False),
    ),
    call=_type,
)

IS_NULL = Spec(
    "is-null",
    "variables",
    "True when a value is Null.",
    params=(_VALUE,),
    ok="true",
    answers="false when it is something else",
    examples=(Example("x = null; is-null $x", True), Example('is-null ""', False, ok=False)),
    call=_is_null,
    predicate=True,
)

IS_BOOL = Spec(
    "is-bool",
    "variables",
    "True when a value is a Bool.",
    params=(_VALUE,),
    ok="true",
    answers="false when it is something else",
    examples=(Example("is-bool false", True), Example('is-bool "true"', False, ok=False)),
    call=_is_bool,
    predicate=True,
)

IS_NUMBER = Spec(
    "is-number",
    "variables",
    "True when a value is a Number.",
    params=(_VALUE,),
    ok="true",
    answers="false when it is something else",
    examples=(Example("is-number 1.5", True), Example('is-number "1"', False, ok=False)),
    call=_is_number,
    predicate=True,
)

TO_BOOL = Spec(
    "to-bool",
    "variables",
    "A value as a Bool: the words true, 1, yes, on and false, 0, no, off; a Number is true unless it is 0; Null is"
    " false.",
    params=(_VALUE,),
    ok="a Bool",
    faults="another word, a collection",
    examples=(
        Example('to-bool "yes"', True),
        Example("to-bool 0", False),
        Example('to-bool "maybe"', 'to-bool: "maybe" is no truth value', ok=False),
    ),
    call=_to_bool,
)

TO_NUMBER = Spec(
    "to-number",
    "variables",
    "A value as a Number: a String of a number's form, blanks around it left out; true is 1, false and Null are 0.",
    params=(_VALUE,),
    ok="an Int or a Float",
    faults="a String of another form, a collection",
    examples=(
        Example('to-number " -1.5e3 "', -1500.0),
        Example("to-number true", 1),
        Example('to-number "12a"', 'to-number: "12a" is no number', ok=False),
    ),
    call=_to_number,
)

TO_STRING = Spec(
    "to-string",
    "variables",
    "The text of a value: a collection's is its JSON, Null's is empty.",
    params=(Param("value", "The value.", type="text"),),
    ok="a String",
    examples=(Example("x = 1.0; to-string $x", "1"), Example('to-string {"a": [true]}', '{"a":[true]}')),
    call=_to_string,
    grows=True,
)

DELETE = Spec(
    "delete",
    "variables",
    "Remove a variable of the level that its name has here, or of the one that an option says; or an entry of a map, an"
    " item of a list, a member of a set.",
    params=(Param("variable", "The variable, or a path.", Kind.WRITE),),
    options=LEVELS,
    ok="the value that was removed",
    answers="a message when there is nothing to remove",
    effects=("writes",),
    examples=(
        Example("x = [1]; delete x", [1]),
        Example('m = {"a": 1, "b": 2}; delete m.a; y = $m', {"b": 2}),
        Example("delete nothing", "delete: there is no $nothing", ok=False),
    ),
)

SPECS = (TYPE, IS_NULL, IS_BOOL, IS_NUMBER, TO_BOOL, TO_NUMBER, TO_STRING, DELETE)
