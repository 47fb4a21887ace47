"""Commands on JSON, types, collections, chance and quotas."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given

from common.chain.commands.builtin import BUILTIN
from common.chain.commands.spec import DYNAMIC, BadArgument, Static
from common.chain.comparing import equal
from common.chain.errors import LimitError, MisuseError
from common.chain.values import MISSING, Set
from tests.chain.fake_run import FakeRun, answer, called, fault
from tests.chain.test_values import VALUES

EXISTS = "there is a variable of this name already"


def refused(name: str, *args: Any, **options: Any) -> tuple[str, int]:
    """What a command says of literal arguments when a text is loaded: message and place."""
    spec = BUILTIN.get(name)
    assert spec is not None
    assert spec.specialise is not None
    with pytest.raises(BadArgument) as caught:
        spec.specialise(Static(args, options))
    return caught.value.message, caught.value.index


# -- JSON and time -----------------------------------------------------------------------------------------------------


@given(VALUES)
def test_json_round_trips(value: Any) -> None:
    """What build-json writes, parse-json reads as the same value."""
    assert equal(called("parse-json", called("build-json", value)), value)


def test_json_has_limits() -> None:
    """The size of a string bounds what is written, that of a collection what is read, at every depth."""
    with pytest.raises(LimitError, match="PC-LIMIT-STRING"):
        called("build-json", ["a" * 60], run=FakeRun(string_bytes_max=60))
    run = FakeRun(collection_items_max=3)
    assert called("parse-json", '[[1,2],{"a":[1,2,3]}]', run=run) == [[1, 2], {"a": [1, 2, 3]}]
    for text in ("[1,2,3,4]", '{"a":{"b":[1,2,3,4]}}'):
        with pytest.raises(LimitError, match="PC-LIMIT-COLLECTION"):
            called("parse-json", text, run=run)
        with pytest.raises(LimitError, match="PC-LIMIT-COLLECTION"):
            called("json-get", text, "", run=run)


def test_bad_json_is_a_fault() -> None:
    """The fault says what is wrong and where."""
    assert fault(called("parse-json", "[1,]")) == "parse-json: no JSON at byte 3"
    assert fault(called("parse-json", "\ud800")) == "parse-json: not UTF-8"
    assert fault(called("json-get", "NaN", "a")) == "json-get: no JSON at byte 0"
    assert fault(called("json-get", 5, "a")) == "json-get: Number given, JSON needed"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.b[1]", 2), ("a.b.1", 2), ("a[\"b\"][0]", 1), ("[\"x y\"]", 5), ("[\"a\"].b[0]", 1), ("n", None), ("", ...),
    ],
)  # fmt: skip
def test_json_paths(path: str, found: Any) -> None:
    """A path goes through names, indexes and quoted names, of a text as of a collection."""
    value = {"a": {"b": [1, 2]}, "x y": 5, "n": None}
    wanted = value if found is ... else found
    assert called("json-get", value, path) == wanted
    assert called("json-get", called("build-json", value), path) == wanted


def test_json_paths_that_lead_nowhere() -> None:
    """An absent key, an index out of range and a step through a scalar are an answer; no path is a fault."""
    for path in ("b", "a.c", "a[5]", "a.x.y"):
        assert answer(called("json-get", {"a": {"x": 1}}, path)) == ""
    for path in (".a", "a.", "a..b", "a[", "a[x]", "[1]a", 'a"b', "[-1]"):
        assert fault(called("json-get", {}, path)) == f'json-get: "{path}" is no path'
        assert refused("json-get", DYNAMIC, path) == (f'"{path}" is no path', 1)


def test_now_is_the_hosts_clock() -> None:
    """The time comes from the run."""
    assert called("now") == 1_800_000_000_000


# -- types -------------------------------------------------------------------------------------------------------------


def test_types() -> None:
    """type names what a variable holds; a missing one is an answer."""
    held: list[Any] = [None, True, 1, 1.5, "", [], Set(), {}]
    assert [called("type", value) for value in held] == [
        "Null", "Bool", "Number", "Number", "String", "List", "Set", "Map",
    ]  # fmt: skip
    assert answer(called("type", MISSING)) == "None"
    assert [called("is-null", value) for value in held] == [True, *[False] * 7]
    assert [called("is-bool", value) for value in held] == [False, True, *[False] * 6]
    assert [called("is-number", value) for value in held] == [False, False, True, True, *[False] * 4]


def test_conversions() -> None:
    """Bools are words and numbers, Numbers are texts of their form; what is neither is a fault."""
    assert [called("to-bool", value) for value in ("true", "1", "yes", "on", 2, -0.5, True)] == [True] * 7
    assert [called("to-bool", value) for value in ("false", "0", "no", "off", 0, 0.0, False, None)] == [False] * 8
    for value, shown in (("TRUE", '"TRUE"'), ("", '""'), ([1], "List"), (Set(), "Set")):
        assert fault(called("to-bool", value)) == f"to-bool: {shown} is no truth value"
    found = [called("to-number", value) for value in (" 7 ", "-1.5e3", 5, 1.5, True, None)]
    assert found == [7, -1500.0, 5, 1.5, 1, 0]
    assert [type(number) for number in found] == [int, float, int, float, int, int]
    for value, shown in (("x", '"x"'), ("", '""'), ({}, "Map"), ("inf", '"inf"')):
        assert fault(called("to-number", value)) == f"to-number: {shown} is no number"
    assert called("to-string", "1") == "1"


# -- collections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "made"), [("map-create", {}), ("set-create", Set()), ("list-create", [])])
def test_creating(name: str, made: Any) -> None:
    """A new variable holds an empty collection; one that is there keeps its value."""
    assert equal(called(name, MISSING, block=True), made)
    for value in (None, "", 1, [], {}):
        assert answer(called(name, value)) == EXISTS


def test_creating_with_items() -> None:
    """Lists and sets can be made with items, within the limit of collections."""
    assert called("list-create", MISSING, 1, "a") == [1, "a"]
    assert list(called("set-create", MISSING, "b", "a", "b")) == ["b", "a"]
    for name in ("list-create", "set-create"):
        with pytest.raises(LimitError, match="PC-LIMIT-COLLECTION"):
            called(name, MISSING, "a", "b", run=FakeRun(collection_items_max=1))


def test_maps() -> None:
    """Entries are set in pairs, keep their places, and are removed by key."""
    target: dict[str, Any] = {"a": 1}
    assert called("map-add", target, "b", 2, 3, [4], "a", 5) is True
    assert list(target.items()) == [("a", 5), ("b", 2), ("3", [4])]
    assert called("map-remove", target, 3) == [4]
    assert answer(called("map-remove", target, "z")) == ""
    assert answer(called("map-remove", target, None)) == ""
    assert fault(called("map-add", target, None, 1)) == "map-add: Null is no key"
    assert refused("map-add", DYNAMIC, "a", 1, "b") == ("every key needs a value", 3)
    assert target == {"a": 5, "b": 2}


def test_sets() -> None:
    """Adding what is there and removing what is not are answers."""
    target = Set(["a"])
    assert called("set-add", target, "a", "b") is True
    assert called("set-add", target, "a") is False
    assert called("set-remove", target, "z", "a") is True
    assert called("set-remove", target, "a") is False
    assert list(target) == ["b"]


def test_lists() -> None:
    """Every command does what its name says and gives what the reference says."""
    target: list[Any] = [1]
    assert called("list-push", target, 2, "x") == 3
    assert called("list-insert", target, 0, "first") == 4
    assert called("list-insert", target, "4", "last") == 5
    assert called("list-set", target, 1, None) == 1
    assert called("list-remove", target, 2) == 2
    assert called("list-pop", target) == "last"
    assert target == ["first", None, "x"]
    assert called("list-clear", target) == 3
    assert answer(called("list-pop", target)) == ""
    assert answer(called("list-remove", target, 0)) == ""
    assert target == []


def test_indexes_out_of_range() -> None:
    """A place that is none is a fault where something would be written."""
    for index, shown in ((2, "2"), (-1, "-1"), ("x", "x"), (0.0, "0"), (True, "true"), (None, "")):
        assert fault(called("list-set", [1, 2], index, 0)) == f"list-set: index {shown} is not in a list of 2"
    assert fault(called("list-insert", [1], 2, 0)) == "list-insert: index 2 is not in a list of 1"


CHANGES = {
    "map-add": ({"a": 1}, ("b", 1)),
    "map-remove": ({"a": 1}, ("a",)),
    "set-add": (Set(["a"]), ("b",)),
    "set-remove": (Set(["a"]), ("a",)),
    "list-push": ([1], (2,)),
    "list-insert": ([1], (0, 2)),
    "list-set": ([1], (0, 2)),
    "list-remove": ([1], (0,)),
    "list-pop": ([1], ()),
    "list-clear": ([1], ()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_ask_the_run(name: str) -> None:
    """A collection that is read-only or being iterated is not changed; another type is a fault."""
    target, arguments = CHANGES[name]
    before = repr(target)
    run = FakeRun()
    run.locked.append(target)
    with pytest.raises(MisuseError):
        called(name, target, *arguments, run=run)
    assert repr(target) == before
    for wrong in (MISSING, None, "", 5):
        assert fault(called(name, wrong, *arguments)).endswith(" needed")


@pytest.mark.parametrize("name", ["map-add", "set-add", "list-push", "list-insert"])
def test_collections_have_a_size(name: str) -> None:
    """What would grow beyond the limit ends the run and is unchanged."""
    target, arguments = CHANGES[name]
    before = repr(target)
    with pytest.raises(LimitError, match="PC-LIMIT-COLLECTION"):
        called(name, target, *arguments, run=FakeRun(collection_items_max=1))
    assert repr(target) == before


def test_replacing_is_no_growth() -> None:
    """A full map takes new values for the keys that it has."""
    target = {"a": 1}
    assert called("map-add", target, "a", 2, run=FakeRun(collection_items_max=1)) is True
    assert target == {"a": 2}


def test_len() -> None:
    """Collections have a length, nothing has none, a scalar is a fault."""
    assert [called("len", value) for value in ([1, 2], {"a": 1}, Set("abc"), None, "")] == [2, 1, 3, 0, 0]
    assert fault(called("len", "abc")) == "len: String given, a collection needed"


# -- operations --------------------------------------------------------------------------------------------------------


def test_choices_follow_weights_and_seed() -> None:
    """Each item comes as often as its weight says, and the same seed chooses the same."""
    run, same = FakeRun(seed=7), FakeRun(seed=7)
    chosen = [called("choice", {"a": 1, "b": 3, "c": 0, "d": "0"}, run=run) for _ in range(4_000)]
    assert chosen == [called("choice", {"a": 1, "b": 3, "c": 0, "d": "0"}, run=same) for _ in range(4_000)]
    assert set(chosen) == {"a", "b"}
    assert 0.2 < Counter(chosen)["a"] / len(chosen) < 0.3
    even = Counter(called("choice", ["x", "y"], run=run) for _ in range(4_000))
    assert 0.45 < even["x"] / 4_000 < 0.55
    assert called("choice", Set(["only"])) == "only"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "nothing to choose from"),
        (Set(), "nothing to choose from"),
        ({}, "nothing to choose from"),
        ({"a": 0}, "nothing to choose from"),
        ({"a": -1, "b": 1}, "the weight of a is no number from 0 on"),
        ({"a": "x"}, "the weight of a is no number from 0 on"),
        ({"a": 1e308, "b": 1e308}, "the weights are too large"),
        ("abc", "String given, a List, Set or Map needed"),
    ],
)
def test_choices_that_cannot_be(given: Any, message: str) -> None:
    """Nothing to choose from, and weights that are none, are faults."""
    assert fault(called("choice", given)) == f"choice: {message}"


def test_chance() -> None:
    """It comes true as often as its probability says; what is none is a fault, a literal one a load error."""
    run = FakeRun(seed=3)
    assert 0.05 < sum(called("chance", 0.1, run=run) for _ in range(2_000)) / 2_000 < 0.15
    assert all(called("chance", "1", run=run) for _ in range(100))
    assert not any(called("chance", 0, run=run) for _ in range(100))
    for value, shown in ((2, "2"), (-0.1, "-0.1"), ("x", "x"), (None, "")):
        assert fault(called("chance", value)) == f"chance: {shown} is no number from 0 to 1"
        assert refused("chance", value) == ("must be a number from 0 to 1", 0)


def test_limit_takes_from_the_hosts_bucket() -> None:
    """Key, rate and burst go to the host, whose word is the result; without burst the rate, at least 1."""
    run = FakeRun()
    assert called("limit", "a", 5, run=run) is True
    assert called("limit", "a", "0.5", run=run) is False
    assert called("limit", "a", 1, 10, run=run) is False
    assert run.taken == [("a", 5.0, 5.0), ("a", 0.5, 1.0), ("a", 1.0, 10.0)]


def test_limits_that_cannot_be() -> None:
    """A rate of nothing and a burst below one are faults, literal ones load errors."""
    for rate in (0, -1, "x", None, float("inf")):
        assert fault(called("limit", "a", rate)).endswith("is no rate, it must be a number above 0")
    for burst in (0, 0.5, "x", float("inf")):
        assert fault(called("limit", "a", 1, burst)).endswith("is no burst, it must be a number from 1 on")
    assert refused("limit", "a", 0) == ("rate must be a number above 0", 1)
    assert refused("limit", "a", 1, "x") == ("burst must be a number from 1 on", 2)


def test_echo_writes_a_line() -> None:
    """The texts are joined by blanks, written to the run, and are the value."""
    run = FakeRun()
    assert called("echo", "a", "b c", run=run) == "a b c"
    assert called("echo", run=run) == ""
    assert run.lines == ["a b c", ""]
