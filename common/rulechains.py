"""The chains of rules: what they may read, write and decide, and what is wrong with them (flow F4).

One declaration for the node that runs a rule and the cloud that accepts it, so that both find the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
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


def findings(spec: RuleSpec) -> Iterator[ChainFinding]:
    """Everything that keeps a rule's chains from running, all at once."""
    if spec.chain.strip() and spec.chains is not None:
        yield ChainFinding("spec.chains", 0, "spec.chain and spec.chains exclude each other")
        return
    key = "spec.chains" if spec.chains is not None else "spec.chain"
    try:
        source = source_of(spec)
        if source is not None:
            rule_point(Engine(commands=commands())).mount(source)
    except ChainErrors as exc:
        for error in exc.errors:
            yield ChainFinding(key, error.span.line, str(error))
