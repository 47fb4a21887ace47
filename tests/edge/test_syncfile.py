"""The cloud's objects on disk: whole after a crash at any point, set aside when damaged, never half (protocol P6)."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from common.errors import StorageError
from common.faults import RULES_POINTS
from common.resource import RULE
from edge.rules.synced import Synced
from edge.rules.syncfile import DAMAGED_MAX, FOREIGN, NAME, SyncFile
from tests.edge.cloudside import BUS, NODE, CloudFed, cloud_fed, order, spec


class Crash(BaseException):
    """The process is gone; only what is on the disk stays."""


class CrashAt:
    """Raises Crash at the first passage of a point, once it is set."""

    def __init__(self) -> None:
        self.point = ""

    def __call__(self, point: str) -> None:
        if point == self.point:
            raise Crash(point)


async def versions(path: Path) -> tuple[dict[str, tuple[str, str, str]], str]:
    """What a node that starts on this disk runs, and its hash."""
    async with cloud_fed(path) as node:
        return node.runs(), node.host.synced.version


async def filled(path: Path) -> Path:
    """A node's disk with an endpoint and version 2 of a rule; returns the file."""
    async with cloud_fed(path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 1, spec("x"))
        await node.rule("a", 2, spec("y"))
    return path / NAME


async def test_a_restart_goes_on_with_all_that_was_said(tmp_path: Path) -> None:
    """What runs, what was refused and why, what is still to be deleted, and which uids are gone."""
    async with cloud_fed(tmp_path) as node:
        await node.endpoint("bus", 1, BUS)
        await node.rule("a", 1, spec("x"))
        await node.rule("a", 2, spec("y", chain="acept"))
        await node.rule("b", 1, spec("z"))
        await node.delete(RULE, "b", 1)
        await node.delete("ruleendpoint", "bus", 2)
        before, listed = node.host.synced.version, await node.listed()
    async with cloud_fed(tmp_path) as node:
        assert (node.runs(), node.host.synced.version) == ({"a": ("u-a", "1", "x")}, before)
        assert await node.listed() == listed
        late = order(RULE, "b", "u-b", 1, spec("z"))
        late.header.timestamp -= 60_000
        assert await node.offer(late) == ["OK"]
        assert await node.delete(RULE, "a", 3) == "OK"
        assert (node.runs(), node.host.synced.version) == ({}, "")
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("point", RULES_POINTS)
async def test_a_crash_at_a_named_point_leaves_one_whole_version(tmp_path: Path, point: str) -> None:
    """The old one before the file has its name, the new one after; what was answered is there in any case."""
    crash = CrashAt()
    node = CloudFed(tmp_path, fault=crash)
    node.host.begin()
    for message in (order("ruleendpoint", "bus", "e-bus", 1, BUS), order(RULE, "a", "u-a", 1, spec("x"))):
        node.downlink.take(message)
    await node.downlink._take_some()
    assert [answer.content for answer in node.answers] == ["OK", "OK"]
    crash.point = point
    node.downlink.take(order(RULE, "a", "u-a", 2, spec("y")))
    with pytest.raises(Crash):
        await node.downlink._take_some()
    assert len(node.answers) == 2
    await node.collected.spool.stop()
    runs, _ = await versions(tmp_path)
    expected = {"a": ("u-a", "1", "x")} if point in RULES_POINTS[:2] else {"a": ("u-a", "2", "y")}
    assert runs == expected
    async with cloud_fed(tmp_path) as again:  # the cloud sends what was not answered once more
        assert await again.rule("a", 2, spec("y")) == "OK"
        assert again.runs() == {"a": ("u-a", "2", "y")}


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "noise"])
async def test_a_damaged_file_is_set_aside_and_the_one_before_runs(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever it is damaged: the node says so, starts with what it had before, and its hash asks for the rest."""
    file = await filled(tmp_path)
    whole = file.read_bytes()
    (_, before), damaged = await versions(tmp_path), 0
    for place in range(0, len(whole), max(1, len(whole) // 6)):
        flipped = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        file.write_bytes({"cut": whole[:place], "flipped": flipped, "empty": b"", "noise": b"\xff\n\x00"}[damage])
        found = SyncFile(tmp_path, NODE)
        synced = found.load()
        damaged += found.damaged
        assert {held.name: held.version for held in synced} == {"bus": 1, "a": 1}
        assert synced.version != before
    assert "is damaged" in caplog.text
    assert len(list(tmp_path.glob(NAME + ".damaged-*"))) == min(damaged, DAMAGED_MAX)
    async with cloud_fed(tmp_path) as node:
        assert node.runs() == {"a": ("u-a", "1", "x")}
        assert await node.rule("a", 2, spec("y")) == "OK"
        assert node.host.synced.version == before


async def test_without_any_whole_file_the_node_starts_empty(tmp_path: Path) -> None:
    """Both are damaged: it reports nothing, and takes all again, whatever it had seen."""
    file = await filled(tmp_path)
    for path in (file, file.with_name(NAME + ".before")):
        path.write_bytes(path.read_bytes()[:-3])
    async with cloud_fed(tmp_path) as node:
        assert (node.runs(), node.host.synced.version) == ({}, "")
        assert await node.offer(
            order(RULE, "a", "u-a", 2, spec("y")), order("ruleendpoint", "bus", "e-bus", 1, BUS)
        ) == ["OK", "OK"]
        assert node.runs() == {"a": ("u-a", "2", "y")}


async def test_a_renamed_node_does_not_run_what_the_node_before_it_was_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rules of the old id are set aside, whichever file is left; one that names no node, of old, is its own."""
    file = await filled(tmp_path)
    kept = file.with_name(NAME + ".before").read_bytes()
    for whole in (file.read_bytes(), kept):
        file.write_bytes(whole)
        renamed = SyncFile(tmp_path, "line-9")
        assert (len(renamed.load()), renamed.damaged) == (0, 0)
        assert (file.exists(), file.with_name(FOREIGN).read_bytes()) == (False, whole)
    assert f"holds the rules of node {NODE}, and this is line-9: it is set aside" in caplog.text
    file.write_bytes(b"cut")
    assert len(SyncFile(tmp_path, "line-9").load()) == 0
    body = kept.partition(b"\n")[2].replace(b',"node":"%b"' % NODE.encode(), b"")
    file.write_bytes(b'{"format":1,"sha256":"%b"}\n' % hashlib.sha256(body).hexdigest().encode() + body)
    assert {held.name for held in SyncFile(tmp_path, "line-9").load()} == {"bus", "a"}


def test_a_file_of_a_later_version_is_not_touched(tmp_path: Path) -> None:
    """A downgrade says what to do instead of taking it for damaged."""
    SyncFile(tmp_path, NODE).save(Synced())
    file = tmp_path / NAME
    later = file.read_bytes().replace(b'"format":1', b'"format":7')
    file.write_bytes(later)
    with pytest.raises(StorageError, match="format 7, this version knows 1: use a newer one"):
        SyncFile(tmp_path, NODE).load()
    assert file.read_bytes() == later


async def test_files_that_break_while_the_agent_is_off_do_not_take_the_clouds_rules(tmp_path: Path) -> None:
    """The last good version of the files runs, with all that the cloud sent over it."""
    layers = tmp_path / "layers"
    layers.mkdir()
    boot = layers / "boot_gateway.yaml"
    boot.write_text("endpoints: {default/bus: {ruleEndpointType: eventbus}}\n")
    async with cloud_fed(tmp_path, layers) as node:
        await node.rule("a", 1, spec("x"))
    boot.write_text("endpoints: [")
    async with cloud_fed(tmp_path, layers) as node:
        assert node.runs() == {"a": ("u-a", "1", "x")}
        assert "boot_gateway.yaml" in node.host.trouble
