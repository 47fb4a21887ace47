"""Which nodes get which objects (protocol P6.2): rules by their source's ``node_name`` and by labels, endpoints with
the rules that use them.

A Selection is a value: it is made of all desired objects once, changed by copying, and holds no more of a manifest than
it needs. Rules for one node by its name, and rules of equal patterns, are looked up together: ten thousand rules cost a
node's birth as many steps as there are different patterns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import translate
from functools import cached_property
from typing import NamedTuple

from common.rules import ENDPOINT_KIND, RULE_KIND, Rule, RuleEndpoint

Labels = Mapping[str, str]
Name = tuple[str, str]  # namespace, name


class ObjectKey(NamedTuple):
    """Which object: its kind, namespace and name."""

    kind: str
    namespace: str
    name: str


class Wanted(NamedTuple):
    """What a node is to have of an object."""

    uid: str
    version: int


class Pattern(NamedTuple):
    """Which nodes: patterns of their ids (none: all), and labels that they must have."""

    ids: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, rule: Rule) -> Pattern:
        """The pattern of a rule."""
        text = rule.spec.source_resource.get("node_name", "")
        ids = tuple(sorted({part.strip() for part in text.split(",")})) if text else ()
        return cls(ids, tuple(sorted(rule.spec.node_selector.items())))

    @property
    def literal(self) -> bool:
        """True when it names its nodes one by one."""
        return bool(self.ids) and not any(char in part for part in self.ids for char in "*?[")

    def has(self, labels: Labels) -> bool:
        """True when these labels fit."""
        return all(labels.get(key) == value for key, value in self.labels)


class RuleChoice(NamedTuple):
    """What selection knows of a rule."""

    wanted: Wanted
    source: str
    target: str
    pattern: Pattern


class Selection:
    """All desired objects, as far as it takes to say who gets them.

    Arguments: ``rules`` and ``endpoints`` by namespace and name; ``revision`` of the table that they were read from.
    """

    def __init__(self, rules: dict[Name, RuleChoice], endpoints: dict[Name, Wanted], revision: int) -> None:
        self.rules, self.endpoints, self.revision = rules, endpoints, revision

    @classmethod
    def of(cls, values: Iterable[tuple[Rule | RuleEndpoint, Wanted]], revision: int) -> Selection:
        """Make one of all objects with their uids and versions."""
        return cls({}, {}, 0).changed(values, (), revision)

    def changed(
        self, values: Iterable[tuple[Rule | RuleEndpoint, Wanted]], gone: Iterable[ObjectKey], revision: int
    ) -> Selection:
        """A copy in which these objects are new or changed, and others gone."""
        rules, endpoints = dict(self.rules), dict(self.endpoints)
        for key in gone:
            (rules if key.kind == RULE_KIND else endpoints).pop((key.namespace, key.name), None)
        for value, wanted in values:
            if isinstance(value, Rule):
                rules[value.key] = RuleChoice(wanted, value.spec.source, value.spec.target, Pattern.of(value))
            else:
                endpoints[value.key] = wanted
        return Selection(rules, endpoints, revision)

    @cached_property
    def users(self) -> dict[Name, list[Name]]:
        """The rules that use each endpoint."""
        found: dict[Name, list[Name]] = {}
        for (namespace, name), choice in self.rules.items():
            for endpoint in {choice.source, choice.target}:
                found.setdefault((namespace, endpoint), []).append((namespace, name))
        return found

    @cached_property
    def _by_node(self) -> dict[str, list[Name]]:
        """Rules that name their nodes, by node."""
        found: dict[str, list[Name]] = {}
        for key, choice in self.rules.items():
            if choice.pattern.literal:
                for node in choice.pattern.ids:
                    found.setdefault(node, []).append(key)
        return found

    @cached_property
    def _by_pattern(self) -> dict[Pattern, list[Name]]:
        """The other rules, by pattern."""
        found: dict[Pattern, list[Name]] = {}
        for key, choice in self.rules.items():
            if not choice.pattern.literal:
                found.setdefault(choice.pattern, []).append(key)
        return found

    @cached_property
    def _matchers(self) -> dict[Pattern, re.Pattern[str]]:
        return {pattern: _compiled(pattern) for pattern in self._by_pattern}

    def of_node(self, node: str, labels: Labels) -> dict[ObjectKey, Wanted]:
        """What ``node`` is to have."""
        chosen = [key for key in self._by_node.get(node, ()) if self.rules[key].pattern.has(labels)]
        for pattern, keys in self._by_pattern.items():
            if pattern.has(labels) and self._matchers[pattern].fullmatch(node):
                chosen += keys
        found: dict[ObjectKey, Wanted] = {}
        for namespace, name in chosen:
            choice = self.rules[namespace, name]
            found[ObjectKey(RULE_KIND, namespace, name)] = choice.wanted
            for endpoint in (choice.source, choice.target):
                if (namespace, endpoint) in self.endpoints:
                    found[ObjectKey(ENDPOINT_KIND, namespace, endpoint)] = self.endpoints[namespace, endpoint]
        return found

    def of_objects(
        self, keys: Iterable[ObjectKey], fleet: Mapping[str, Labels]
    ) -> Iterator[tuple[str, ObjectKey, Wanted]]:
        """Who of ``fleet`` (labels by node) is to have these objects, which may be gone: node, object, version."""
        known: dict[Pattern, list[str]] = {}
        for key in keys:
            name = (key.namespace, key.name)
            if key.kind == RULE_KIND:
                if name in self.rules:
                    for node in _nodes(self.rules[name].pattern, fleet, known):
                        yield node, key, self.rules[name].wanted
            elif name in self.endpoints:
                patterns = {self.rules[rule].pattern for rule in self.users.get(name, ())}
                for node in {node for pattern in patterns for node in _nodes(pattern, fleet, known)}:
                    yield node, key, self.endpoints[name]

    def endpoints_of(self, key: ObjectKey) -> list[ObjectKey]:
        """The endpoints that a rule uses."""
        choice = self.rules.get((key.namespace, key.name)) if key.kind == RULE_KIND else None
        names = {choice.source, choice.target} if choice else set()
        return [ObjectKey(ENDPOINT_KIND, key.namespace, name) for name in sorted(names)]


def _nodes(pattern: Pattern, fleet: Mapping[str, Labels], known: dict[Pattern, list[str]]) -> list[str]:
    if pattern not in known:
        if pattern.literal:
            named = [node for node in pattern.ids if node in fleet]
        else:
            matcher = _compiled(pattern)
            named = [node for node in fleet if matcher.fullmatch(node)]
        known[pattern] = [node for node in named if pattern.has(fleet[node])]
    return known[pattern]


def _compiled(pattern: Pattern) -> re.Pattern[str]:
    return re.compile("|".join(translate(part) for part in pattern.ids) or ".*", re.DOTALL)
