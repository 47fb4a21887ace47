"""Maps and sets: create, add, remove; len, match-include, and the documentation of ``map`` (L8).

A command that changes a collection asks the run first, which refuses what is read-only or being iterated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.chain import values
from common.chain.commands.spec import (
    DYNAMIC,
    NO_MATCH,
    BadArgument,
    Err,
    Example,
    Kind,
    Opt,
    Param,
    RunContext,
    Spec,
    Static,
    fault,
    needed,
)
from common.chain.comparing import equal
from common.chain.values import MISSING, Set

LEVELS = (
    Opt("global", "Make it a variable of the run's globals.", group="level"),
    Opt("chain", "Make it a variable of the chain (as without an option).", group="level"),
    Opt("block", "Make it a variable of the block.", group="level"),
)
EXISTS = Err("there is a variable of this name already")


# -- maps --------------------------------------------------------------------------------------------------------------


def _map_create(before: Any, **level: bool) -> Any:
    return {} if before is MISSING else EXISTS


def _map_add(run: RunContext, target: Any, *entries: Any) -> Any:
    if type(target) is not dict:
        return needed("map-add", "a Map", target)
    if len(entries) == 2 and type(entries[0]) is str:
        run.changing(target, len(target) + (entries[0] not in target))
        target[entries[0]] = entries[1]
        return True
    added: dict[str, Any] = {}
    for key, value in zip(entries[::2], entries[1::2], strict=False):
        name = key if type(key) is str else values.key_text(key)
        if name is None:
            return fault(f"map-add: {values.type_name(key)} is no key")
        added[name] = value
    run.changing(target, len(target) + sum(name not in target for name in added))
    target.update(added)
    return True


def _specialise_map_add(static: Static) -> Callable[..., Any] | None:
    """A key without a value is seen when the text is loaded; one entry with a literal key is the usual call."""
    if len(static.args) % 2 == 0:
        raise BadArgument("every key needs a value", len(static.args) - 1)
    target, key, value = static.args[:3]
    name = None if key is DYNAMIC else values.key_text(key)
    if target is not DYNAMIC or name is None or len(static.args) != 3:
        return None

    def add(run: RunContext, target: Any, item: Any = value) -> Any:
        if type(target) is not dict:
            return needed("map-add", "a Map", target)
        run.changing(target, len(target) + (name not in target))
        target[name] = item
        return True

    return add


def _map_remove(run: RunContext, target: Any, key: Any) -> Any:
    if type(target) is not dict:
        return needed("map-remove", "a Map", target)
    name = values.key_text(key)
    if name is None or name not in target:
        return NO_MATCH
    run.changing(target)
    return target.pop(name)


# -- sets --------------------------------------------------------------------------------------------------------------


def _set_create(run: RunContext, before: Any, *items: str, **level: bool) -> Any:
    if before is not MISSING:
        return EXISTS
    made = Set(items)
    run.changing(made, len(made))
    return made


def _set_add(run: RunContext, target: Any, *items: str) -> Any:
    if type(target) is not Set:
        return needed("set-add", "a Set", target)
    new = dict.fromkeys(item for item in items if item not in target.items)
    if not new:
        return False
    run.changing(target, len(target) + len(new))
    target.items.update(new)
    return True


def _set_remove(run: RunContext, target: Any, *items: str) -> Any:
    if type(target) is not Set:
        return needed("set-remove", "a Set", target)
    there = [item for item in dict.fromkeys(items) if item in target.items]
    if not there:
        return False
    run.changing(target)
    for item in there:
        del target.items[item]
    return True


# -- looking -----------------------------------------------------------------------------------------------------------


def _len(value: Any) -> Any:
    if type(value) in values.COLLECTIONS:
        return len(value)
    return 0 if value is None or value == "" else needed("len", "a collection", value)


def _match_include(collection: Any, key: Any, *wanted: Any) -> Any:
    kind = type(collection)
    if kind is dict:
        name = values.key_text(key)
        if name is None or name not in collection:
            return False
        return all(_is_or_holds(collection[name], value) for value in wanted)
    if kind is Set:
        return all(values.text(value) in collection.items for value in (key, *wanted))
    if kind is list:
        return all(any(equal(item, value) for item in collection) for value in (key, *wanted))
    if collection is MISSING or collection is None or collection == "":
        return False
    return needed("match-include", "a collection", collection)


def _is_or_holds(found: Any, value: Any) -> bool:
    """True for the value itself, and for a list (a repeated name of a query) that holds it."""
    return equal(found, value) or (type(found) is list and any(equal(item, value) for item in found))


MAP_CREATE = Spec(
    "map-create",
    "collections",
    "Make a variable that holds an empty map.",
    params=(Param("name", "The variable.", Kind.UPDATE, missing=True),),
    options=LEVELS,
    ok="the Map",
    answers="a message when there is such a variable already; it keeps its value",
    effects=("writes",),
    examples=(
        Example("map-create m; map-add m a 1; x = $m", {"a": 1}),
        Example("m = 1; map-create m", "there is a variable of this name already", ok=False),
    ),
    call=_map_create,
)

MAP_ADD = Spec(
    "map-add",
    "collections",
    "Set entries of a map. A Number or Bool key becomes its text; an entry that is there keeps its place.",
    params=(
        Param("map", "The variable that holds the map.", Kind.READ, "map"),
        Param("key", "The key."),
        Param("value", "Its value; then more keys, each with its value.", repeated=True),
    ),
    ok="true",
    faults="no Map, a key that is Null or a collection",
    effects=("writes",),
    examples=(
        Example('m = {}; map-add m a 1 b "x"; x = $m', {"a": 1, "b": "x"}),
        Example("m = 5; map-add $m a 1", "map-add: Number given, a Map needed", ok=False),
    ),
    call=_map_add,
    specialise=_specialise_map_add,
    needs_run=True,
)

MAP_REMOVE = Spec(
    "map-remove",
    "collections",
    "Remove an entry of a map.",
    params=(Param("map", "The variable that holds the map.", Kind.READ, "map"), Param("key", "The key.")),
    ok="the value that it had",
    answers='"" when there is no such entry',
    faults="no Map",
    effects=("writes",),
    examples=(
        Example('m = {"a": 1, "b": 2}; map-remove m a', 1),
        Example("m = {}; map-remove m a", "", ok=False),
    ),
    call=_map_remove,
    needs_run=True,
)

SET_CREATE = Spec(
    "set-create",
    "collections",
    "Make a variable that holds a set of Strings.",
    params=(
        Param("name", "The variable.", Kind.UPDATE, missing=True),
        Param("item", "What the set holds.", type="text", optional=True, repeated=True),
    ),
    options=LEVELS,
    ok="the Set",
    answers="a message when there is such a variable already; it keeps its value",
    effects=("writes",),
    examples=(
        Example("set-create s a b a; len $s", 2),
        Example("s = 1; set-create s", "there is a variable of this name already", ok=False),
    ),
    call=_set_create,
    needs_run=True,
)

SET_ADD = Spec(
    "set-add",
    "collections",
    "Add Strings to a set.",
    params=(
        Param("set", "The variable that holds the set.", Kind.READ, "set"),
        Param("item", "What to add.", type="text", repeated=True),
    ),
    ok="true",
    answers="false when all were there already",
    faults="no Set",
    effects=("writes",),
    examples=(
        Example("set-create s; set-add s a b; match-include $s b", True),
        Example("set-create s a; set-add s a", False, ok=False),
    ),
    call=_set_add,
    predicate=True,
    needs_run=True,
)

SET_REMOVE = Spec(
    "set-remove",
    "collections",
    "Remove Strings from a set.",
    params=(
        Param("set", "The variable that holds the set.", Kind.READ, "set"),
        Param("item", "What to remove.", type="text", repeated=True),
    ),
    ok="true",
    answers="false when none was there",
    faults="no Set",
    effects=("writes",),
    examples=(
        Example("set-create s a b; set-remove s a; len $s", 1),
        Example("set-create s a; set-remove s z", False, ok=False),
    ),
    call=_set_remove,
    predicate=True,
    needs_run=True,
)

LEN = Spec(
    "len",
    "collections",
    "The number of items of a collection; Null and nothing have none. For texts there is strlen.",
    params=(Param("collection", "The collection.", type="collection"),),
    ok="an Int",
    faults="a scalar",
    examples=(Example("len [1, 2]", 2), Example("n = 5; len $n", "len: Number given, a collection needed", ok=False)),
    call=_len,
)

MATCH_INCLUDE = Spec(
    "match-include",
    "match",
    "True when a collection holds something: a list the item, a set the text, a map the key. With more arguments: a"
    " list or set all of them, a map the key with these values (among its values, where it has a list).",
    params=(
        Param("collection", "The collection.", type="collection", missing=True),
        Param("key", "The item or key; compared strictly."),
        Param("value", "More items, or values of the key.", optional=True, repeated=True),
    ),
    ok="true",
    answers="false when it does not, and when the collection is missing",
    faults="a scalar",
    examples=(
        Example("match-include [a, b] a", True),
        Example('match-include {"a": "1"} a "2"', False, ok=False),
        Example("match-include $nothing a", False, ok=False),
        Example("x = 5; match-include $x a", "match-include: Number given, a collection needed", ok=False),
    ),
    call=_match_include,
    predicate=True,
)

MAP = Spec(
    "map",
    "collections",
    "Run a command for each entry of a collection; it sees `$__key` and `$__value` (in a list the index and the item,"
    " in a set the member twice) and `$__result`, what was last, at first the value of --begin. With --reduce a second"
    " command follows each time and makes the result; `$__value` is then what the first one gave.",
    params=(
        Param("collection", "The collection.", type="collection", missing=True),
        Param("command", "The command for each entry.", Kind.COMMAND),
    ),
    options=(
        Opt("begin", "The first `$__result`.", type="any"),
        Opt("reduce", "The command that makes one result of each.", type="command"),
    ),
    ok='what the last command gave; "" for an empty collection',
    answers="the Err of the last command",
    faults="a scalar",
    examples=(
        Example('map {"a": 1, "b": 2} $(append $__key "=" $__value)', "b=2"),
        Example('map --begin "" --reduce $(append $__result $__value) [1, 2] $(append $__value ";")', "1;2;"),
        Example("n = 5; map $n $(append $__key)", "map: Number given, a collection needed", ok=False),
    ),
)

SPECS = (MATCH_INCLUDE, MAP_CREATE, MAP_ADD, MAP_REMOVE, SET_CREATE, SET_ADD, SET_REMOVE, LEN, MAP)
