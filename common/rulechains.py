"""The chains of rules: what they may read, write and decide, and what is wrong with them (flow F4).

One declaration for the node that runs a rule and the cloud that accepts it, so that both find the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import msgspec

from common.chain.commands.builtin import BUILTIN
from common.chain.commands.match import topic_match
from common.chain.commands.spec import Registry
from common.chain.errors import ChainErrors
from common.chain.hookpoint import Engine, HookPoint
from common.chain.loader import load_json, single
from common.chain.nodes import LibSource
from common.chain.run import Access
from common.errors import TopicError
from common.rules import RuleSpec
from common.topics import check_filter, matches

REMEMBERED_MAX = 16_384  # chains whose findings are remembered, with their texts
REMEMBERED_BYTES_MAX = 4096  # of such a text; longer ones are checked anew each time
VERBS = ("accept", "reject", "drop", "forward", "server")
RULE_INPUTS = {
    "MSG": Access.WRITABLE,  # payload, topic or path, headers, params, method, query, _msgid
    "RULE": Access.READ_ONLY,  # name, namespace
    "NODE": Access.READ_ONLY,  # id, labels
    "SOURCE": Access.READ_ONLY,  # id
}


class ChainFinding(NamedTuple):
    """Something wrong with a rule's chain: the manifest's key, the line in its text (from 1), and what it is."""

    key: str
    line: int
    text: str


@cache
def commands() -> Registry:
    """The commands of every chain here: those of the language, and MQTT's topic matching."""
    return BUILTIN.extended([topic_match(matches, _check_filter)])


def _check_filter(text: str) -> None:
    try:
        check_filter(text)
    except TopicError as exc:
        raise ValueError(exc.detail) from None


def rule_point(engine: Engine, name: str = "rule") -> HookPoint:
    """The hook point on which one rule's chains are mounted; nothing decided is a reject (``chain_no_verb``)."""
    return HookPoint(name, engine=engine, inputs=RULE_INPUTS, verbs=VERBS, default="reject", fail="reject")


def source_of(spec: RuleSpec) -> LibSource | None:
    """The chains of a rule, None where it has none. Raises ChainErrors for what is no chain at all."""
    if spec.chains is not None:
        return load_json(msgspec.json.encode(spec.chains).decode(), hook_point="main")["main"]
    return single(spec.chain) if spec.chain.strip() else None


def findings(spec: RuleSpec) -> Sequence[ChainFinding]:
    """Everything that keeps a rule's chains from running, all at once.

    What was found is remembered: whoever changes one rule checks it beside all others.
    """
    chains = b"" if spec.chains is None else msgspec.json.encode(spec.chains)
    short = len(spec.chain) + len(chains) <= REMEMBERED_BYTES_MAX
    return _remembered(spec.chain, chains) if short else _findings(spec.chain, chains)


def _findings(chain: str, chains: bytes) -> tuple[ChainFinding, ...]:
    if chain.strip() and chains:
        return (ChainFinding("spec.chains", 0, "spec.chain and spec.chains exclude each other"),)
    key = "spec.chains" if chains else "spec.chain"
    try:
        source = load_json(chains.decode(), hook_point="main")["main"] if chains else single(chain)
        rule_point(Engine(commands=commands())).mount(source)
    except ChainErrors as exc:
        return tuple(ChainFinding(key, error.span.line, str(error)) for error in exc.errors)
    return ()


_remembered = lru_cache(maxsize=REMEMBERED_MAX)(_findings)
