"""Downstream: desired rules and endpoints to the nodes, and what the nodes say of them (protocol P6, P7.2).

Theory of operation. The truth is in the store: what is wanted on which node, which version the node runs, which it
refused, when something was sent last. Nothing here has to be remembered for a reply: whoever hears it takes it by a
compare-and-set. Three things make work: a change of the desired state, a birth, and a nodestatus; the last two carry
the node's hash over what it has. When the hash is as expected, all is well, whatever was lost on the way. When it is
not, the node is asked for its list (at most once in a while that doubles, so that a node which cannot be brought right
is no storm), the store takes its word, and what differs is sent: one worker a node, in the order in which a rule always
finds its endpoints. What was lost on its way down is so found by the next nodestatus.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from cloud.checking import check_wanted
from cloud.comparing import Chosen, Comparison
from cloud.delivering import TYPE_OF, Delivery
from cloud.selection import ObjectKey, Selection
from cloud.stores import desired, lifecycle, syncing
from cloud.stores.assigning import assign_nodes, assign_objects
from cloud.stores.base import Store
from cloud.stores.desired import API, Changed, SupersededError
from cloud.stores.syncing import Reply
from common.clock import Clock
from common.errors import ControlError, RefusedError
from common.manifests import Finding, Manifest
from common.message import ERROR, Message
from common.messaging.base import MessageLayer
from common.models import Refusal
from common.rules import ENDPOINT_KIND, RULE_KIND
from common.rulesync import SyncedObject, parse_sync_version
from common.tasks import Tasks

CHECKS_MAX = 10  # times that a change is checked anew because another one came between

KIND_OF = {name: kind for kind, name in TYPE_OF.items()}
_Change = Callable[[Connection, Selection, float], tuple[list[Changed], Selection]]


class FindingsError(ControlError):
    """Manifests that would not work: nothing of them was applied. ``findings`` are all there are."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = list(findings)
        super().__init__("\n".join(map(str, findings)), kind="refused")


class DownstreamController:
    """Brings the desired rules to the nodes; KubeEdge's name for it.

    Arguments: ``layer`` to send with, ``store`` for everything that is to last. Runs from ``start`` to ``stop``;
    what is changed before or after is sent when it runs.
    """

    def __init__(self, layer: MessageLayer, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._chosen = Chosen()
        self._delivery = Delivery(layer, store, clock)
        self._comparison = Comparison(layer, store, clock, self._delivery, self._chosen)
        self._tasks = Tasks("downstream")
        self._counts = dict.fromkeys(("applied", "deleted", "replies", "replies_ignored"), 0)

    def start(self) -> None:
        """Begin to compare and to send."""
        self._comparison.start(self._tasks)
        self._delivery.start(self._tasks)

    async def stop(self) -> None:
        """Stop. What was not sent is sent when its node is heard again."""
        await self._tasks.stop()

    # -- changes of the desired state ----------------------------------------------------------------------------------

    async def check(self, manifests: Sequence[Manifest], findings: Sequence[Finding] = (), origin: str = API) -> int:
        """Check manifests together with what is desired already; return the revision that this holds for.

        Argument ``findings``: what was wrong with the texts that they are of. Raises FindingsError with all there are.
        """
        values, known = [manifest.value for manifest in manifests], self._chosen.selection
        selection, there = await self._store.read(lambda conn: desired.read_around(conn, values, known))
        self._chosen.selection = selection
        found = await asyncio.to_thread(check_wanted, manifests, findings, there, origin)
        if found:
            raise FindingsError(found)
        return selection.revision

    async def apply(
        self, manifests: Sequence[Manifest], findings: Sequence[Finding] = (), *, origin: str = API
    ) -> list[Changed]:
        """Make these rules and endpoints the desired ones, all or none; send them to the nodes that they are for.

        Raises FindingsError as ``check``, ControlError when others change the same all the time.
        """
        values = [manifest.value for manifest in manifests]

        def change(conn: Connection, known: Selection, at: float) -> tuple[list[Changed], Selection]:
            return desired.apply_objects(conn, values, known, origin=origin, at=at)

        for _ in range(CHECKS_MAX):
            revision = await self.check(manifests, findings, origin)
            try:
                done = await self._change(change, revision)
            except SupersededError:
                continue
            self._counts["applied"] += len(done)
            return done
        raise ControlError("others change the desired rules all the time; try again")

    async def delete(self, keys: Sequence[ObjectKey], *, origin: str = API) -> list[Changed]:
        """Delete objects, all or none: nodes that have them are told. Raises ControlError: not there, or in use."""
        done = await self._change(lambda conn, known, at: desired.delete_objects(conn, keys, known, origin=origin))
        self._counts["deleted"] += len(done)
        return done

    async def _change(self, change: _Change, revision: int | None = None) -> list[Changed]:
        """Do a change under the lock, assign what it concerns anew, and send it. It was checked at ``revision``."""
        at, known = self._clock.time(), self._chosen.selection

        def work(conn: Connection) -> tuple[list[Changed], Selection, set[str]]:
            found = desired.lock(conn)
            if revision is not None and found != revision:
                raise SupersededError("the desired rules changed meanwhile")
            before = desired.read_selection(conn, known)
            done, after = change(conn, before, at)
            keys = [each.key for each in done if each.outcome != desired.UNCHANGED]
            return done, after, assign_objects(conn, keys, before, after, at) if keys else set()

        done, self._chosen.selection, concerned = await self._store.write(work)
        self._delivery.wake(concerned)
        return done

    async def add_node(self, node: str, labels: Mapping[str, str] | None = None) -> bool:
        """Make a node one of the fleet, and assign what is for it; False when it was one before."""
        at = self._clock.time()

        def work(conn: Connection) -> bool:
            desired.lock(conn)
            fresh, effective = lifecycle.add_node(conn, node, labels, at)
            assign_nodes(conn, {node: effective}, desired.read_selection(conn, self._chosen.selection), at)
            return fresh

        fresh = await self._store.write(work)
        self._delivery.wake([node])
        return fresh

    async def retire_node(self, node: str) -> None:
        """Take a node out of the fleet (P6.5). Raises ControlError for one that is not in it."""
        at = self._clock.time()

        def work(conn: Connection) -> None:
            desired.lock(conn)
            lifecycle.retire_node(conn, node, at)

        await self._store.write(work)

    # -- what nodes say ------------------------------------------------------------------------------------------------

    def heard(self, node: str, rules_version: str, *, born: bool) -> None:
        """Compare the hash of a node, which its birth or nodestatus carries, soon. Never waits."""
        self._comparison.heard(node, rules_version, born=born)

    async def take_replies(self, messages: Sequence[Message[Any]]) -> None:
        """Take what nodes answer to rules, endpoints and queries. Raises StorageError or QueueFullError."""
        replies = []
        for message in messages:
            resource = message.parsed_resource()
            if not resource.name:
                await self._comparison.take_list(resource.node, message)
            elif (reply := _reply_of(message)) is not None:
                replies.append(reply)
            else:
                self._counts["replies_ignored"] += 1
        if not replies:
            return
        at, known = self._clock.time(), self._chosen.selection
        taken = await self._store.write(
            lambda conn: syncing.take_replies(conn, replies, desired.read_selection(conn, known), at)
        )
        self._counts["replies"] += taken.acted
        self._counts["replies_ignored"] += len(replies) - taken.acted
        self._delivery.wake(taken.due)

    async def wanted_of(self, node: str) -> list[SyncedObject]:
        """The list that ``node`` is to have: the answer to its query (P6.6)."""
        return await self._store.read(lambda conn: syncing.wanted_of(conn, node))

    async def sync_rule(self, namespace: str, name: str) -> None:
        """Look now where a rule differs, and send it there (KubeEdge's name)."""
        await self._sync(ObjectKey(RULE_KIND, namespace, name))

    async def sync_rule_endpoint(self, namespace: str, name: str) -> None:
        """Look now where an endpoint differs, and send it there (KubeEdge's name)."""
        await self._sync(ObjectKey(ENDPOINT_KIND, namespace, name))

    async def _sync(self, key: ObjectKey) -> None:
        self._delivery.wake(await self._store.read(lambda conn: syncing.waiting_for(conn, key)))

    def statistics(self) -> dict[str, int]:
        """Counters and gauges by name."""
        return {
            **self._counts,
            **self._comparison.counts,
            "sent": self._delivery.sent,
            "send_failed": self._delivery.failed,
            "nodes_queued": self._delivery.waiting,
            "restarts": self._tasks.restarts,
        }


def _reply_of(message: Message[Any]) -> Reply | None:
    """A node's answer to an object; None for what answers nothing of ours."""
    resource, refused = message.parsed_resource(), message.route.operation == ERROR
    kind = KIND_OF.get(resource.type)
    try:
        uid, version = parse_sync_version(message.header.resourceversion)
        refusal = msgspec.convert(message.content, Refusal) if refused else None
    except (RefusedError, msgspec.ValidationError):
        return None
    if kind is None:
        return None
    error = (refusal.detail or refusal.reason) if refusal is not None else ""
    return Reply(resource.node, ObjectKey(kind, resource.namespace, resource.name), uid, version, refused, error)
