"""Edits of rules from the command line, for diagnosis: a volatile overlay over the layers (flow F6).

An address is ``hook:chain:block[:line]``. ``hook`` is one of the seven hook points, one of an HTTP server's
(``pre_req``, ``main``, ``post_resp``), or a rule as ``namespace/name``. Lines count from 1 in the block's text.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

from common.errors import ConfigError

OPERATIONS = ("add", "append", "set", "move", "rm")
PRIORITY = 1  # of a chain or block that states none


class Address(NamedTuple):
    """What an edit is about; empty or 0 from the first part that was left out."""

    hook: str
    chain: str = ""
    block: str = ""
    line: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``hook:chain:block[:line]``. Raises ConfigError."""
        parts = text.split(":")
        if not 1 <= len(parts) <= 4 or not all(parts):
            raise ConfigError(f"{text!r} is no address: hook, hook:chain, hook:chain:block or hook:chain:block:line")
        line = 0
        if len(parts) == 4:
            if not parts[3].isdecimal() or not int(parts[3]):
                raise ConfigError(f"{parts[3]!r} in {text!r} is no line, counted from 1")
            line = int(parts.pop())
        hook, chain, block = (*parts, "", "")[:3]
        return cls(hook, chain, block, line)


class Edit(NamedTuple):
    """One edit. ``text`` is the rule's text, ``position`` the new priority, or the new line."""

    operation: str
    address: Address
    text: str = ""
    position: int = 0


def words(edit: Edit) -> str:
    """An edit as its command line says it."""
    place = ":".join(str(part) for part in edit.address if part)
    return f"{edit.operation} {place} {edit.text or edit.position}"


def apply(value: dict[str, Any], edits: list[Edit]) -> dict[str, Any]:
    """Return the merged configuration with all edits, in order. Raises ConfigError for one that does not fit."""
    edited = deepcopy(value)
    for edit in edits:
        if edit.operation not in OPERATIONS:
            raise ConfigError(f"{edit.operation!r} is none of {', '.join(OPERATIONS)}")
        _EDITS[edit.operation](_chains(edited, edit.address.hook), edit)
    return edited


def _chains(value: dict[str, Any], hook: str) -> dict[str, Any]:
    """The chains of a hook point or a rule; a rule's inline chain becomes ``main:main``, and accepts where it has none,
    so that a line which only looks on changes nothing.
    """
    if "/" not in hook:
        chains = value.setdefault("hook_points", {}).setdefault(hook, {})
    else:
        rule = value.get("rules", {}).get(hook)
        if rule is None:
            raise ConfigError(f"there is no rule {hook!r} on this node")
        if rule.get("chains") is None:
            rule["chains"] = {"main": {"blocks": {"main": {"block": rule.pop("chain", "") or "accept"}}}}
        chains = rule["chains"]
    if not isinstance(chains, dict):
        raise ConfigError(f"the chains of {hook!r} are no map")
    return chains


def _add(chains: dict[str, Any], edit: Edit, *, last: bool = False) -> None:
    """Put a text first (``add``) or last (``append``): in a new chain, a new block, or an existing block's text."""
    at = edit.address
    if not edit.text.strip():
        raise ConfigError(f"{edit.operation} needs the text of a rule")
    name = at.chain or _free(chains)
    if name not in chains:
        chains[name] = {"priority": _edge_priority(chains, last), "blocks": {}}
    blocks = chains[name].setdefault("blocks", {})
    block = at.block or _free(blocks)
    if block not in blocks:
        blocks[block] = {"priority": _edge_priority(blocks, last), "block": edit.text}
        return
    lines = _lines(blocks[block])
    place = len(lines) if last else 0
    if at.line:
        place = min(at.line - (not last), len(lines))
    blocks[block]["block"] = "\n".join([*lines[:place], edit.text, *lines[place:]])


def _append(chains: dict[str, Any], edit: Edit) -> None:
    _add(chains, edit, last=True)


def _set(chains: dict[str, Any], edit: Edit) -> None:
    """Replace a line, a block's text, or all blocks of a chain by one."""
    at = edit.address
    if not edit.text.strip():
        raise ConfigError("set needs the text of a rule")
    chain = _found(chains, at.chain, "chain", at)
    blocks = chain.setdefault("blocks", {})
    if not at.block:
        first = next(iter(blocks), "main")
        chain["blocks"] = {first: {"block": edit.text}}
        return
    block = _found(blocks, at.block, "block", at)
    if not at.line:
        block["block"] = edit.text
        return
    lines = _lines(block)
    lines[_line(lines, at)] = edit.text
    block["block"] = "\n".join(lines)


def _move(chains: dict[str, Any], edit: Edit) -> None:
    """Give a chain or block another priority, or a line another place."""
    at = edit.address
    chain = _found(chains, at.chain, "chain", at)
    if not at.block:
        chain["priority"] = edit.position
        return
    block = _found(chain.get("blocks", {}), at.block, "block", at)
    if not at.line:
        block["priority"] = edit.position
        return
    lines = _lines(block)
    moved = lines.pop(_line(lines, at))
    lines.insert(max(0, min(edit.position - 1, len(lines))), moved)
    block["block"] = "\n".join(lines)


def _rm(chains: dict[str, Any], edit: Edit) -> None:
    """Remove a line, a block, or a chain; a block without text and a chain without blocks go, too."""
    at = edit.address
    chain = _found(chains, at.chain, "chain", at)
    if not at.block:
        del chains[at.chain]
        return
    blocks = chain.get("blocks", {})
    block = _found(blocks, at.block, "block", at)
    lines = _lines(block)
    if at.line:
        del lines[_line(lines, at)]
        block["block"] = "\n".join(lines)
    if not at.line or not block["block"].strip():
        del blocks[at.block]
    if not blocks:
        del chains[at.chain]


_EDITS: dict[str, Callable[[dict[str, Any], Edit], None]] = {
    "add": _add,
    "append": _append,
    "set": _set,
    "move": _move,
    "rm": _rm,
}


def _found(inside: dict[str, Any], name: str, kind: str, at: Address) -> dict[str, Any]:
    if not name:
        raise ConfigError(f"the address must name a {kind} of {at.hook}: {', '.join(inside) or 'there is none'}")
    found = inside.get(name)
    if not isinstance(found, dict):
        raise ConfigError(f"there is no {kind} {name!r} at {at.hook}; there are {', '.join(inside) or 'none'}")
    return found


def _lines(block: dict[str, Any]) -> list[str]:
    return str(block.get("block", "")).rstrip("\n").split("\n")


def _line(lines: list[str], at: Address) -> int:
    if at.line > len(lines):
        raise ConfigError(f"block {at.block!r} has {len(lines)} lines, there is no line {at.line}")
    return at.line - 1


def _free(inside: dict[str, Any]) -> str:
    """A name for something that was given none."""
    number = 1
    while f"diagnosis-{number}" in inside:
        number += 1
    return f"diagnosis-{number}"


def _edge_priority(inside: dict[str, Any], last: bool) -> int:
    """A priority before all others, or behind them."""
    there = [int(one.get("priority", PRIORITY)) for one in inside.values() if isinstance(one, dict)]
    if not there:
        return PRIORITY
    return max(there) + 1 if last else min(there) - 1
