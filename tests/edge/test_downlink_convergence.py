"""Whatever happens to the messages and to the node, comparing hashes and lists makes it what the cloud wants (P6.2)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.message import Message
from common.resource import RULE, RULEENDPOINT
from common.rules import RULE_KIND
from common.rulesync import APPLIED, REFUSED, SyncedObject
from tests.edge.cloudside import BUS, CloudFed, cloud_fed, order, spec

STEPS, ROUNDS_MAX = 25, 4
GOOD, BAD = spec("x"), spec("x", chain="acept")
NAMES = (("bus", RULEENDPOINT), ("a", RULE), ("b", RULE), ("c", RULE))


class Desired:
    """What a cloud wants of one node, and the messages of its changes, with a clock of its own."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._uids, self.now = rng, 0, 1_700_000_000_000
        self.objects: dict[str, tuple[str, str, int, Any]] = {}  # name -> resource type, uid, version, spec

    def message(self, kind: str, name: str, uid: str, version: int, content: Any, operation: str) -> Message[Any]:
        """A message that is sent now."""
        self.now += 1000
        made = order(kind, name, uid, version, content, operation)
        made.header.timestamp = self.now
        return made

    def step(self) -> Iterator[Message[Any]]:
        """Make, change, delete, or delete and make again one object."""
        name, kind = self._rng.choice(NAMES)
        there = self.objects.get(name)
        if there is not None and self._rng.random() < 0.4 and name != "bus":
            del self.objects[name]
            yield self.message(kind, name, there[1], there[2] + 1, None, "delete")
            if self._rng.random() < 0.5:
                return
            there = None
        if there is None:
            self._uids += 1
            there = (kind, f"u{self._uids}", 0, None)
        content = BUS if name == "bus" else self._rng.choice([GOOD, GOOD, BAD])
        self.objects[name] = (kind, there[1], there[2] + 1, content)
        yield self.message(kind, name, there[1], there[2] + 1, content, self._rng.choice(["insert", "update"]))

    def repairs(self, listed: list[SyncedObject]) -> Iterator[Message[Any]]:
        """What a cloud sends that has read the node's list: what differs, but nothing that was refused."""
        has = {item.name: item for item in listed}
        for name, (kind, uid, version, content) in self.objects.items():
            item = has.get(name)
            if item is None or (item.uid, item.version) != (uid, version):
                yield self.message(kind, name, uid, version, content, "update")
        for item in listed:
            if item.name not in self.objects:
                kind = RULE if item.kind == RULE_KIND else RULEENDPOINT
                yield self.message(kind, item.name, item.uid, item.version, None, "delete")

    def list(self) -> set[tuple[str, str, int, str]]:
        """Name, uid, version and state as they must become: a rule is refused when it is bad, or has no endpoint."""
        bus = "bus" in self.objects
        return {
            (name, uid, version, APPLIED if content is not BAD and (bus or name == "bus") else REFUSED)
            for name, (_, uid, version, content) in self.objects.items()
        }


async def _repaired(node: CloudFed, desired: Desired) -> list[SyncedObject]:
    for _ in range(ROUNDS_MAX):
        listed = await node.listed()
        repairs = list(desired.repairs(listed))
        if not repairs:
            return listed
        await node.offer(*repairs)
    raise AssertionError(f"not in {ROUNDS_MAX} rounds: {listed} instead of {desired.objects}")


@pytest.mark.parametrize("seed", range(12))
async def test_a_node_becomes_what_the_cloud_wants(tmp_path: Path, seed: int) -> None:
    """Messages are lost, doubled and late, the node is restarted; at the end its list is right in a few rounds, good
    rules run in their version, and of a bad one nothing of another uid is shown as running.
    """
    rng = random.Random(seed)
    desired, on_the_way = Desired(rng), list[Message[Any]]()
    for _ in range(3):
        async with cloud_fed(tmp_path) as node:
            for _ in range(STEPS // 3):
                for message in desired.step():
                    on_the_way += [message] * rng.choice([0, 1, 1, 1, 2])
                rng.shuffle(on_the_way)
                arriving, on_the_way = on_the_way[:2], on_the_way[2:]
                if arriving:
                    await node.offer(*{id(message): message for message in arriving}.values())
    async with cloud_fed(tmp_path) as node:
        listed = await _repaired(node, desired)
        assert {(item.name, item.uid, item.version, item.state) for item in listed} == desired.list()
        good = {(name, uid, str(version)) for name, uid, version, state in desired.list()
                if state == APPLIED and name != "bus"}  # fmt: skip
        runs = {(name, uid, version) for name, (uid, version, _) in node.runs().items()}
        assert good <= runs
        assert {name for name, _, _ in runs} <= desired.objects.keys()
