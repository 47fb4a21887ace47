"""Lists: list-create, list-push, list-insert, list-set, list-remove, list-pop, list-clear (L8)."""

from __future__ import annotations

from typing import Any

from common.chain import values
from common.chain.commands.collections import EXISTS, LEVELS
from common.chain.commands.spec import NO_MATCH, Err, Example, Kind, Param, RunContext, Spec, fault, needed
from common.chain.values import MISSING

_LIST = Param("list", "The variable that holds the list.", Kind.READ, "list")
_INDEX = Param("index", "The place, from 0.", type="int")


def _list_create(run: RunContext, before: Any, *items: Any, **level: bool) -> Any:
    if before is not MISSING:
        return EXISTS
    made = list(items)
    run.changing(made, len(made))
    return made


def _list_push(run: RunContext, target: Any, *items: Any) -> Any:
    if type(target) is not list:
        return needed("list-push", "a List", target)
    run.changing(target, len(target) + len(items))
    target += items
    return len(target)


def _out_of_range(name: str, index: Any, target: list[Any]) -> Err:
    return fault(f"{name}: index {values.text(index)} is not in a list of {len(target)}")


def _list_insert(run: RunContext, target: Any, index: Any, item: Any) -> Any:
    if type(target) is not list:
        return needed("list-insert", "a List", target)
    at = values.list_index(index, len(target) + 1)
    if at is None:
        return _out_of_range("list-insert", index, target)
    run.changing(target, len(target) + 1)
    target.insert(at, item)
    return len(target)


def _list_set(run: RunContext, target: Any, index: Any, item: Any) -> Any:
    if type(target) is not list:
        return needed("list-set", "a List", target)
    at = values.list_index(index, len(target))
    if at is None:
        return _out_of_range("list-set", index, target)
    run.changing(target, len(target))
    before, target[at] = target[at], item
    return before


def _list_remove(run: RunContext, target: Any, index: Any) -> Any:
    if type(target) is not list:
        return needed("list-remove", "a List", target)
    at = values.list_index(index, len(target))
    if at is None:
        return NO_MATCH
    run.changing(target)
    return target.pop(at)


def _list_pop(run: RunContext, target: Any) -> Any:
    if type(target) is not list:
        return needed("list-pop", "a List", target)
    if not target:
        return NO_MATCH
    run.changing(target)
    return target.pop()


def _list_clear(run: RunContext, target: Any) -> Any:
    if type(target) is not list:
        return needed("list-clear", "a List", target)
    run.changing(target)
    count = len(target)
    target.clear()
    return count


LIST_CREATE = Spec(
    "list-create",
    "collections",
    "Make a variable that holds a list.",
    params=(
        Param("name", "The variable.", Kind.UPDATE, missing=True),
        Param("item", "What the list holds.", optional=True, repeated=True),
    ),
    options=LEVELS,
    ok="the List",
    answers="a message when there is such a variable already; it keeps its value",
    effects=("writes",),
    examples=(
        Example("list-create l a 1; x = $l", ["a", 1]),
        Example("l = 1; list-create l", "there is a variable of this name already", ok=False),
    ),
    call=_list_create,
    needs_run=True,
)

LIST_PUSH = Spec(
    "list-push",
    "collections",
    "Add items at the end of a list.",
    params=(_LIST, Param("item", "What to add.", repeated=True)),
    ok="the new number of items",
    faults="no List",
    effects=("writes",),
    examples=(
        Example("l = [1]; list-push l 2 x; y = $l", [1, 2, "x"]),
        Example('l = "x"; list-push $l 1', "list-push: String given, a List needed", ok=False),
    ),
    call=_list_push,
    needs_run=True,
)

LIST_INSERT = Spec(
    "list-insert",
    "collections",
    "Put an item before the place `index` of a list; at its length it comes last.",
    params=(_LIST, _INDEX, Param("item", "What to put there.")),
    ok="the new number of items",
    faults="no List, an index that is no place",
    effects=("writes",),
    examples=(
        Example("l = [1, 3]; list-insert l 1 2; x = $l", [1, 2, 3]),
        Example("l = [1]; list-insert l 5 2", "list-insert: index 5 is not in a list of 1", ok=False),
    ),
    call=_list_insert,
    needs_run=True,
)

LIST_SET = Spec(
    "list-set",
    "collections",
    "Replace an item of a list.",
    params=(_LIST, _INDEX, Param("item", "The new item.")),
    ok="the item that was there",
    faults="no List, an index that is no place",
    effects=("writes",),
    examples=(
        Example("l = [1, 2]; list-set l 0 9; x = $l", [9, 2]),
        Example("l = [1]; list-set l 1 9", "list-set: index 1 is not in a list of 1", ok=False),
    ),
    call=_list_set,
    needs_run=True,
)

LIST_REMOVE = Spec(
    "list-remove",
    "collections",
    "Remove the item at a place of a list.",
    params=(_LIST, _INDEX),
    ok="the item that was there",
    answers='"" when there is no such place',
    faults="no List",
    effects=("writes",),
    examples=(
        Example("l = [a, b]; list-remove l 0", "a"),
        Example("l = []; list-remove l 0", "", ok=False),
    ),
    call=_list_remove,
    needs_run=True,
)

LIST_POP = Spec(
    "list-pop",
    "collections",
    "Remove the last item of a list.",
    params=(_LIST,),
    ok="the item that was there",
    answers='"" when the list is empty',
    faults="no List",
    effects=("writes",),
    examples=(Example("l = [1, 2]; list-pop l", 2), Example("l = []; list-pop l", "", ok=False)),
    call=_list_pop,
    needs_run=True,
)

LIST_CLEAR = Spec(
    "list-clear",
    "collections",
    "Remove all items of a list.",
    params=(_LIST,),
    ok="how many there were",
    faults="no List",
    effects=("writes",),
    examples=(
        Example("l = [1, 2]; list-clear l; len $l", 0),
        Example("l = {}; list-clear l", "list-clear: Map given, a List needed", ok=False),
    ),
    call=_list_clear,
    needs_run=True,
)

SPECS = (LIST_CREATE, LIST_PUSH, LIST_INSERT, LIST_SET, LIST_REMOVE, LIST_POP, LIST_CLEAR)
