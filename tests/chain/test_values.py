"""The values of the language: text, numbers, truth, equality, paths, copies, JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.chain.comparing import compare, equal, loose_equal
from common.chain.errors import LimitError
from common.chain.values import (
    INT_MAX,
    INT_MIN,
    MISSING,
    NESTING_LEVELS_MAX,
    Set,
    copy,
    from_json,
    index,
    key_text,
    text,
    to_json,
    to_number,
    truth,
    type_name,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(INT_MIN, INT_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("value", "name", "shown"),
    [
        (None, "Null", ""),
        (True, "Bool", "true"),
        (False, "Bool", "false"),
        (7, "Number", "7"),
        (INT_MIN, "Number", "-9223372036854775808"),
        (1.0, "Number", "1"),
        (0.1, "Number", "0.1"),
        (-2.5, "Number", "-2.5"),
        (1e22, "Number", "10000000000000000000000"),
        (1e-7, "Number", "0.0000001"),
        ("é", "String", "é"),
        ([1, "a", None], "List", '[1,"a",null]'),
        ({"a": [True]}, "Map", '{"a":[true]}'),
        (Set(["b", "a", "b"]), "Set", '["b","a"]'),
        (MISSING, "Missing", ""),
    ],
)
def test_names_and_texts(value: Any, name: str, shown: str) -> None:
    """Each type has its name and its text (L5)."""
    assert type_name(value) == name
    assert text(value) == shown


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_text_of_floats_round_trips(value: float) -> None:
    """The text of a Float has no exponent and no trailing .0, and is read back as the same number."""
    shown = text(value)
    assert float(shown) == value
    assert "e" not in shown
    assert not shown.endswith(".0")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("7", 7), ("007", 7), ("-7", -7), ("1.50", 1.5), ("1e3", 1000.0), ("2E-1", 0.2),
        (str(INT_MAX), INT_MAX), (str(INT_MIN), INT_MIN), (str(INT_MAX + 1), float(INT_MAX + 1)),
        ("0" * 40 + "1", 1.0), (3, 3), (2.5, 2.5),
        ("", None), ("+1", None), ("1.", None), (".5", None), (" 1", None), ("1\n", None), ("٣", None), ("0x1", None),
        ("nan", None), ("inf", None), ("1e999", None), (True, None), (None, None), ([1], None), (MISSING, None),
    ],
)  # fmt: skip
def test_loose_numbers(value: Any, number: Any) -> None:
    """A Number and a String of a number's form are numbers; nothing else is, and none is infinite."""
    found = to_number(value)
    assert found == number
    assert type(found) is type(number)


def test_truth_of_a_condition() -> None:
    """Bool true, a Number other than 0 and four words hold; everything else does not (L3)."""
    held: list[Any] = [True, 1, -0.5, "true", "1", "yes", "on"]
    assert all(map(truth, held))
    for value in (False, 0, 0.0, "", "false", "TRUE", "2", None, MISSING, [1], {"a": 1}, Set(["a"])):
        assert not truth(value)


@given(VALUES)
def test_a_copy_is_equal_and_apart(value: Any) -> None:
    """A copy is equal, and shares no collection with its original."""
    made = copy(value)
    assert equal(made, value)
    assert not collections_of(made) & collections_of(value)


def collections_of(value: Any) -> set[int]:
    """The identities of all collections in a value."""
    if not isinstance(value, list | dict):
        return set()
    items = value.values() if isinstance(value, dict) else value
    return {id(value)}.union(*map(collections_of, items))


@given(VALUES, VALUES)
def test_equality_is_that_of_type_and_value(a: Any, b: Any) -> None:
    """Two values are equal exactly when their JSON with types and sorted keys is; loose equality never says less."""
    assert equal(a, b) == (typed(a) == typed(b))
    assert loose_equal(a, b) or not equal(a, b)
    assert loose_equal(a, b) == loose_equal(b, a)


def typed(value: Any) -> Any:
    """A value in which Python's == tells types apart, but not -0.0 from 0.0."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(typed, value))
    return (type(value).__name__, value)


def test_equality_of_collections() -> None:
    """Lists are ordered, maps and sets are not; a list is no set."""
    assert equal({"a": 1, "b": [2]}, {"b": [2], "a": 1})
    assert equal(Set(["a", "b"]), Set(["b", "a"]))
    assert not equal([1, 2], [2, 1])
    assert not equal([1], [1.0])
    assert not equal({"a": 1}, {"a": 1, "b": 1})
    assert not equal(["a"], Set(["a"]))
    assert equal([Set(["a"])], [Set(["a"])])


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1, 1.0, True), (1, "1", True), ("1.0", 1, True), (1.5, "15e-1", True), ([1], ["1"], True),
        ("1", "1.0", False), (True, 1, False), (True, "true", False), (None, "", False), (None, 0, False),
        ("a", 1, False), ({"a": 1}, {"a": "1"}, True), ([1], 1, False),
    ],
)  # fmt: skip
def test_loose_equality(a: Any, b: Any, same: bool) -> None:
    """Int meets Float, and a Number a String of its form; nothing else crosses types (L5)."""
    assert loose_equal(a, b) is same
    assert loose_equal(b, a) is same


def test_ordering_takes_only_numbers() -> None:
    """Two Numbers after the loose rule are ordered; everything else does not compare."""
    assert compare("<", 1, 2)
    assert compare("<=", "2", 2.0)
    assert compare(">", "1e3", 999)
    assert compare(">=", 2, 2)
    assert not compare(">", 1, 2)
    for a, b in (("a", "b"), (True, False), (None, 1), ([1], 0), (MISSING, 1)):
        assert not any(compare(op, a, b) for op in ("<", "<=", ">", ">="))


@pytest.mark.parametrize(
    ("container", "key", "found"),
    [
        ({"a": 1}, "a", 1), ({"a": 1}, "b", MISSING), ({"1": "x"}, 1, "x"), ({"true": "x"}, True, "x"),
        ({"1": "x"}, 1.0, "x"), ({"": 1}, None, MISSING), ({"a": 1}, [1], MISSING),
        ([5, 6], 1, 6), ([5, 6], "1", 6), ([5, 6], 2, MISSING), ([5, 6], -1, MISSING), ([5, 6], "-1", MISSING),
        ([5, 6], True, MISSING), ([5, 6], 0.0, MISSING), ([5], "٠", MISSING), ([5], "9" * 30, MISSING),
        (Set(["a"]), "a", "a"), (Set(["a"]), "b", MISSING), (Set(["1"]), 1, "1"),
        ("abc", 0, MISSING), (None, "a", MISSING), (MISSING, "a", MISSING), (5, "a", MISSING),
    ],
)  # fmt: skip
def test_one_step_of_a_path(container: Any, key: Any, found: Any) -> None:
    """A step finds an entry, an item or a member, or nothing; it never fails (L5)."""
    got = index(container, key)
    assert got is found if found is MISSING else equal(got, found)


def test_keys() -> None:
    """Strings are keys, Numbers and Bools by their text; nothing else is one."""
    assert [key_text(key) for key in ("a", 1, 1.5, True)] == ["a", "1", "1.5", "true"]
    no_keys: list[Any] = [None, MISSING, [], {}, Set()]
    assert [key_text(key) for key in no_keys] == [None] * 5


def test_set_keeps_its_order() -> None:
    """A set holds each String once, in the order of adding, and says what changed."""
    made = Set(["b", "a"])
    assert (made.add("c"), made.add("a"), made.remove("b"), made.remove("z")) == (True, False, True, False)
    assert list(made) == ["a", "c"]
    assert len(made) == 2
    assert "a" in made
    assert 1 not in made
    assert made == Set(["c", "a"])
    assert made != ["a", "c"]


@given(VALUES)
def test_json_round_trips(value: Any) -> None:
    """What is written as JSON is read back as the same value, and Python's json reads it, too."""
    written = to_json(value)
    assert equal(from_json(written), value)
    assert equal(json.loads(written), value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("NaN", "no JSON at byte 0"),
        ("[Infinity]", "no JSON at byte 1"),
        ("1e999", "a number is out of range"),
        ("1" + "0" * 400, "a number is out of range"),
        ("[1,]", "no JSON at byte 3"),
        ("", "the text ends too early"),
        (b'"\xff"', "not UTF-8"),
        ('"\ud800"', "not UTF-8"),
        ("[" * 101 + "]" * 101, "nested deeper than 100 levels"),
        ("[" * 100_000, "nested deeper than 100 levels"),
    ],
)
def test_json_that_is_refused(data: str | bytes, message: str) -> None:
    """What is no JSON, or too deep, is a ValueError that says why."""
    with pytest.raises(ValueError) as caught:
        from_json(data)
    assert str(caught.value) == message


def test_large_integers_of_json_become_floats() -> None:
    """An integer beyond 64 bits is read as a Float, wherever it stands; one within is exact."""
    assert from_json(f'{{"a": [{INT_MAX + 1}, {INT_MAX}, {INT_MIN}]}}') == {"a": [float(2**63), INT_MAX, INT_MIN]}
    assert type(from_json(str(10**30))) is float


def test_collections_in_themselves() -> None:
    """What holds itself can be compared and copied, and its text is an error, not a hang."""
    a: list[Any] = []
    a.append(a)
    b: list[Any] = []
    b.append(b)
    assert equal(a, b)
    made = copy(a)
    assert made[0] is made
    assert made is not a
    with pytest.raises(LimitError, match="PC-LIMIT-NESTING"):
        text(a)


def test_shared_collections_cost_what_they_hold() -> None:
    """A list that holds one list twice, sixty times over, is copied and compared at once, and its text is refused."""
    shared: Any = [1]
    for _ in range(60):
        shared = [shared, shared]
    made = copy(shared)
    assert equal(made, shared)
    assert made[0] is made[1]
    with pytest.raises(LimitError, match="PC-LIMIT-STRING"):
        text(shared)


def test_depth_has_a_limit() -> None:
    """Nesting is walked to a fixed depth; one more is a LimitError for every walk."""
    deep: Any = 1
    for _ in range(NESTING_LEVELS_MAX):
        deep = [deep]
    assert equal(copy(deep), deep)
    assert to_json(deep).count("[") == NESTING_LEVELS_MAX
    deeper, other = [deep], [copy(deep)]
    for walk in (copy, to_json, lambda value: equal(value, other)):
        with pytest.raises(LimitError, match="PC-LIMIT-NESTING"):
            walk(deeper)


def test_json_has_a_size() -> None:
    """The limit counts UTF-8 bytes of the JSON."""
    assert to_json("é" * 10, 22) == '"' + "é" * 10 + '"'
    with pytest.raises(LimitError, match="longer than 21 bytes"):
        to_json("é" * 10, 21)
