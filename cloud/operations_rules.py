"""What a running controller can be asked of rules, endpoints and the fleet's nodes (protocol P6, experience U2).

Arguments and answers are plain JSON, so that the control socket and the API serve the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, structs
from sqlalchemy import Connection

from cloud.downstream import DownstreamController
from cloud.selection import ObjectKey
from cloud.stores.assigning import Summary, assignments_of, summaries
from cloud.stores.base import Store
from cloud.stores.desired import Changed, ObjectRow, objects_of, words_of
from common.checks import check_labels
from common.clock import Clock
from common.control import Operation
from common.errors import ControlError, ResourceError
from common.manifestfiles import load_manifests
from common.manifests import Finding, Manifest
from common.resource import DEFAULT_NAMESPACE, check_node_id
from common.rules import ENDPOINT_KIND, RULE_KIND, Rule

_KINDS = {
    "rule": RULE_KIND, "rules": RULE_KIND, "endpoint": ENDPOINT_KIND, "endpoints": ENDPOINT_KIND,
    "ruleendpoint": ENDPOINT_KIND, "ruleendpoints": ENDPOINT_KIND,
}  # fmt: skip

Name = Annotated[str, Meta(min_length=1, max_length=253)]
T = TypeVar("T")


class Text(msgspec.Struct, forbid_unknown_fields=True):
    """Manifests as text, and the file that they are of, for findings."""

    text: str
    file: str = ""


class _TextsArgs(msgspec.Struct, forbid_unknown_fields=True):
    manifests: Annotated[list[Text], Meta(max_length=10_000)]


class _ObjectsArgs(msgspec.Struct, forbid_unknown_fields=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""


class _ObjectArgs(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    name: Name
    namespace: str = DEFAULT_NAMESPACE


class RuleArgs(msgspec.Struct, forbid_unknown_fields=True):
    """Which rule."""

    rule: Name
    namespace: str = DEFAULT_NAMESPACE


class _AssignmentsArgs(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str = ""
    rule: str = ""
    node: str = ""
    after: Annotated[list[str], Meta(max_length=5)] = []
    limit: Annotated[int, Meta(ge=1)] | None = None


class _AddArgs(msgspec.Struct, forbid_unknown_fields=True):
    node: str
    labels: dict[str, str] | None = None


class _NodeNameArgs(msgspec.Struct, forbid_unknown_fields=True):
    node: Name


# What each operation takes, for who describes them.
ARGUMENTS: dict[str, type[msgspec.Struct]] = {
    "apply": _TextsArgs,
    "check": _TextsArgs,
    "get.objects": _ObjectsArgs,
    "get.assignments": _AssignmentsArgs,
    "delete": _ObjectArgs,
    "enable": RuleArgs,
    "disable": RuleArgs,
    "node.add": _AddArgs,
    "node.delete": _NodeNameArgs,
}


class RuleOperations:
    """The operations by name. Wrong arguments are a ControlError that names the argument.

    ``on_retired`` is called with each node that was deleted.
    """

    def __init__(
        self,
        downstream: DownstreamController,
        store: Store,
        clock: Clock,
        stale_s: float,
        on_retired: Callable[[str], None],
    ) -> None:
        self._downstream, self._store, self._clock, self._stale_s = downstream, store, clock, stale_s
        self._on_retired = on_retired

    def table(self) -> dict[str, Operation]:
        """Return name -> operation, for ``ControlServer``."""
        return {
            "apply": self.apply,
            "check": self.check,
            "get.objects": self.get_objects,
            "get.assignments": self.get_assignments,
            "delete": self.delete,
            "enable": self.enable,
            "disable": self.disable,
            "node.add": self.node_add,
            "node.delete": self.node_delete,
        }

    async def apply(self, args: dict[str, Any]) -> Any:
        """Make the rules and endpoints of these texts the desired ones, all or none; say what became of each.

        ControlError with every finding, one a line, when anything is wrong.
        """
        manifests, findings = await asyncio.to_thread(_loaded, read_args(args, _TextsArgs).manifests)
        if not manifests and not findings:
            raise ControlError("there are no rules and endpoints in what is to be applied")
        return await self._told(await self._downstream.apply(manifests, findings))

    async def check(self, args: dict[str, Any]) -> Any:
        """Say what would keep these texts from being applied, beside what is desired already; change nothing."""
        manifests, findings = await asyncio.to_thread(_loaded, read_args(args, _TextsArgs).manifests)
        await self._downstream.check(manifests, findings)
        return {"objects": len(manifests)}

    async def get_objects(self, args: dict[str, Any]) -> Any:
        """The desired rules and endpoints, each with its manifest and on how many nodes it is what."""
        wanted = read_args(args, _ObjectsArgs)
        kind, now = _kind(wanted.kind) if wanted.kind else "", self._clock.time()

        def query(conn: Connection) -> list[dict[str, Any]]:
            told = summaries(conn, now, self._stale_s, kind=kind, namespace=wanted.namespace, name=wanted.name)
            rows = objects_of(conn, kind, wanted.namespace, wanted.name)
            return [shown_object(row, told.get((row.key, row.uid), Summary())) for row in rows]

        return await self._store.read(query)

    async def get_assignments(self, args: dict[str, Any]) -> Any:
        """What each node is to have of a rule, or all that a node is to have, with what it says of it."""
        wanted, now = read_args(args, _AssignmentsArgs), self._clock.time()
        kind = RULE_KIND if wanted.rule else ""
        return await self._store.read(
            lambda conn: assignments_of(
                conn,
                now,
                self._stale_s,
                kind=kind,
                namespace=wanted.namespace,
                name=wanted.rule,
                node=wanted.node,
                after=wanted.after,
                limit=wanted.limit,
            )
        )

    async def delete(self, args: dict[str, Any]) -> Any:
        """Delete a rule or an endpoint; nodes that have it are told. ControlError for an endpoint in use."""
        return await self._told(await self._downstream.delete([_key(read_args(args, _ObjectArgs))]))

    async def enable(self, args: dict[str, Any]) -> Any:
        """Let a rule run again, as a new version."""
        return await self._enabled(read_args(args, RuleArgs), True)

    async def disable(self, args: dict[str, Any]) -> Any:
        """Keep a rule on its nodes without running it, as a new version."""
        return await self._enabled(read_args(args, RuleArgs), False)

    async def _enabled(self, wanted: RuleArgs, enabled: bool) -> Any:
        key = ObjectKey(RULE_KIND, wanted.namespace, wanted.rule)
        rows = await self._store.read(lambda conn: objects_of(conn, *key))
        if not rows:
            raise ControlError(f"{words_of(key)} is not there", kind="not_found")
        rule = msgspec.convert(rows[0].manifest, Rule)
        changed = structs.replace(rule, spec=structs.replace(rule.spec, enabled=enabled))
        return await self._told(await self._downstream.apply([Manifest(changed)]))

    async def node_add(self, args: dict[str, Any]) -> Any:
        """Make a node one of the fleet before it was heard, or again; ``labels`` go over those that it states."""
        wanted = read_args(args, _AddArgs)
        try:
            check_node_id(wanted.node)
        except ResourceError as exc:
            raise ControlError(exc.detail) from exc
        for _, text in check_labels(wanted.labels or {}):
            raise ControlError(text)
        fresh = await self._downstream.add_node(wanted.node, wanted.labels)
        return {"node": wanted.node, "outcome": "added" if fresh else "changed"}

    async def node_delete(self, args: dict[str, Any]) -> Any:
        """Take a node out of the fleet: it gets nothing more, and what it still sends is refused."""
        node = read_args(args, _NodeNameArgs).node
        await self._downstream.retire_node(node)
        self._on_retired(node)
        return {"node": node, "outcome": "deleted"}

    async def _told(self, done: Sequence[Changed]) -> list[dict[str, Any]]:
        now, kinds = self._clock.time(), {each.key.kind for each in done}

        def query(conn: Connection) -> Mapping[tuple[ObjectKey, str], Summary]:
            if len(done) == 1:
                key = done[0].key
                return summaries(conn, now, self._stale_s, kind=key.kind, namespace=key.namespace, name=key.name)
            return summaries(conn, now, self._stale_s, kind=kinds.pop() if len(kinds) == 1 else "")

        told = await self._store.read(query)
        return [
            {
                **each.key._asdict(), "uid": each.uid, "version": each.version, "outcome": each.outcome,
                "nodes": told.get((each.key, each.uid), Summary()).nodes,
            }
            for each in done
        ]  # fmt: skip


def _loaded(texts: Sequence[Text]) -> tuple[list[Manifest], list[Finding]]:
    manifests: list[Manifest] = []
    findings: list[Finding] = []
    for each in texts:
        loaded, found = load_manifests(each.text, each.file)
        manifests += loaded
        findings += found
    return manifests, findings


def shown_object(row: ObjectRow, summary: Summary) -> dict[str, Any]:
    """An object as it is answered; without a manifest nothing is known of its spec."""
    spec = row.manifest.get("spec", {})
    shown = {"enabled": spec.get("enabled", True), "source": spec.get("source", ""), "target": spec.get("target", "")}
    shown["type"] = spec.get("ruleEndpointType", "")
    return {**structs.asdict(row), **shown, "summary": structs.asdict(summary)}


def _kind(text: str) -> str:
    kind = _KINDS.get(text.lower())
    if kind is None:
        raise ControlError(f"wrong argument: kind is {text!r}, expected rule or endpoint")
    return kind


def _key(wanted: _ObjectArgs) -> ObjectKey:
    return ObjectKey(_kind(wanted.kind), wanted.namespace, wanted.name)


def read_args(args: dict[str, Any], kind: type[T]) -> T:
    """Return the arguments as their type. Raises ControlError."""
    try:
        return msgspec.convert(args, kind)
    except msgspec.ValidationError as exc:
        raise ControlError(f"wrong argument: {exc}") from exc
