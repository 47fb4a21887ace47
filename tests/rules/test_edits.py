"""Edits for diagnosis: each operation on chain, block and line, and what does not fit (flow F6)."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import ConfigError
from edge.rules.edits import Address, Edit, apply

BASE: dict[str, Any] = {
    "rules": {
        "default/inline": {"chain": "one\ntwo"},
        "default/plain": {},
        "default/full": {
            "chains": {
                "c": {"priority": 5, "blocks": {"x": {"block": "one\ntwo\nthree"}, "y": {"priority": 3, "block": "z"}}}
            }
        },
    }
}


def chains(operation: str, address: str, text: str = "", position: int = 0) -> dict[str, Any]:
    """The chains at the address's hook after one edit."""
    edited = apply(BASE, [Edit(operation, Address.parse(address), text, position)])
    hook = address.split(":")[0]
    found: dict[str, Any] = edited["rules"][hook]["chains"] if "/" in hook else edited["hook_points"][hook]
    return found


def block(found: dict[str, Any], chain: str = "c", name: str = "x") -> str:
    """A block's text."""
    return str(found[chain]["blocks"][name]["block"])


@pytest.mark.parametrize(
    ("operation", "address", "text"),
    [
        ("add", "default/full:c:x", "new\none\ntwo\nthree"), ("append", "default/full:c:x", "one\ntwo\nthree\nnew"),
        ("add", "default/full:c:x:2", "one\nnew\ntwo\nthree"), ("append", "default/full:c:x:2", "one\ntwo\nnew\nthree"),
        ("add", "default/full:c:x:9", "one\ntwo\nthree\nnew"), ("set", "default/full:c:x", "new"),
        ("set", "default/full:c:x:2", "one\nnew\nthree"), ("rm", "default/full:c:x:1", "two\nthree"),
    ],
)  # fmt: skip
def test_in_a_block(operation: str, address: str, text: str) -> None:
    """Texts before, behind, at a line, instead of a line."""
    assert block(chains(operation, address, "new")) == text


def test_new_chains_and_blocks_come_first_or_last() -> None:
    """add has the highest precedence, append the lowest; without a name they get one that says what it is."""
    assert chains("add", "default/full", "new")["diagnosis-1"] == {
        "priority": 4, "blocks": {"diagnosis-1": {"priority": 1, "block": "new"}},
    }  # fmt: skip
    assert chains("append", "default/full:d:e", "new")["d"] == {
        "priority": 6, "blocks": {"e": {"priority": 1, "block": "new"}},
    }  # fmt: skip
    assert chains("add", "default/full:c", "new")["c"]["blocks"]["diagnosis-1"]["priority"] == 0
    assert chains("append", "default/full:c:n", "new")["c"]["blocks"]["n"]["priority"] == 4


def test_moving() -> None:
    """A chain or block gets another priority, a line another place."""
    assert chains("move", "default/full:c", position=9)["c"]["priority"] == 9
    assert chains("move", "default/full:c:y", position=9)["c"]["blocks"]["y"]["priority"] == 9
    assert block(chains("move", "default/full:c:x:1", position=3)) == "two\nthree\none"
    assert block(chains("move", "default/full:c:x:3", position=-5)) == "three\none\ntwo"


def test_replacing_and_removing_whole_parts() -> None:
    """All blocks of a chain by one; a block; a chain; what is left empty goes, too."""
    assert chains("set", "default/full:c", "new")["c"]["blocks"] == {"x": {"block": "new"}}
    assert list(chains("rm", "default/full:c:x")["c"]["blocks"]) == ["y"]
    assert chains("rm", "default/full:c") == {}
    assert list(chains("rm", "default/full:c:y:1")["c"]["blocks"]) == ["x"]


def test_inline_chains_and_hook_points() -> None:
    """A rule's inline chain is main:main, a rule without one accepts there; a hook point gets its first chain."""
    assert block(chains("append", "default/inline:main:main", "new"), "main", "main") == "one\ntwo\nnew"
    assert block(chains("add", "default/plain:a:b", "new"), "a", "b") == "new"
    assert block(chains("add", "default/plain:a:b", "new"), "main", "main") == "accept"
    assert block(chains("add", "preRoute:a:b", "new"), "a", "b") == "new"


def test_the_base_is_not_changed() -> None:
    """So that dropping the edits brings it back."""
    before = repr(BASE)
    chains("rm", "default/full:c")
    assert repr(BASE) == before


@pytest.mark.parametrize(
    ("operation", "address", "text", "words"),
    [
        ("turn", "default/full", "x", "'turn' is none of add, append, set, move, rm"),
        ("add", "default/none", "x", "there is no rule 'default/none' on this node"),
        ("add", "default/full", " ", "add needs the text of a rule"),
        ("set", "default/full:c:x", "", "set needs the text of a rule"),
        ("set", "default/full", "x", "the address must name a chain of default/full: c"),
        ("rm", "default/full:d", "", "there is no chain 'd' at default/full; there are c"),
        ("rm", "default/full:c:q", "", "there is no block 'q' at default/full; there are x, y"),
        ("rm", "default/full:c:x:4", "", "block 'x' has 3 lines, there is no line 4"),
        ("rm", "a:b:c:0", "", "is no line, counted from 1"), ("rm", "a:b:c:d:e", "", "is no address"),
        ("rm", "a::c", "", "is no address"),
    ],
)  # fmt: skip
def test_what_does_not_fit(operation: str, address: str, text: str, words: str) -> None:
    """Said in words that name what is there."""
    with pytest.raises(ConfigError) as found:
        chains(operation, address, text)
    assert words in str(found.value)
