"""The spool at its bounds: a confirmation always fits, and a quota never locks it for good (P5.6, P5.10)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from common import codec as codecs
from common.message import new_id
from common.models import Confirmation, NodeBirth
from edge.presence import Presence
from edge.settings import SpoolSettings
from edge.spool import Spool
from edge.spooltables import Input
from edge.uplink import Uplink
from tests.edge.support import NODE, ROOT, Collected, FakeLink, packed, result
from tests.support.wait import eventually

MIB = 1 << 20


async def test_confirmation_is_taken_when_the_queue_is_full(tmp_path: Path):
    """P5.6: the uplink has forgotten a confirmed message, so the spool must not miss it."""
    frozen = []
    settings = SpoolSettings(queue_results_max=10)
    spool = Spool(
        tmp_path / "spool.db", NODE, ROOT, on_frozen=frozen.extend, on_fatal=lambda exc: None, settings=settings
    )
    spool.open()
    spool.accept(packed(result()))
    spool.start()
    await eventually(lambda: len(frozen) == 1)
    await spool.stop()
    again = Spool(
        tmp_path / "spool.db", NODE, ROOT, on_frozen=frozen.extend, on_fatal=lambda exc: None, settings=settings
    )
    (left,), _ = again.open()
    for _ in range(10):  # the writer does not run yet, as when the disk hangs
        again.accept(packed(result()))
    again.confirm(Confirmation(str(left.epoch), left.sequence))
    again.start()
    await eventually(lambda: (again.stats.accepted, again.stats.confirmed) == (11, 1))
    await again.stop()


async def test_inputs_above_the_quota_do_not_lock_the_spool(tmp_path: Path):
    """P5.10: a result that ends a journalled input makes room, so it is never held for want of room."""
    it = Collected(tmp_path, SpoolSettings(bytes_max=2 * MIB))
    inputs = [Input(new_id(), "default", "overheat", f"m{n}", "devices/a", bytes(8192)) for n in range(400)]
    done = []
    for item in inputs:
        it.spool.journal(item, lambda: done.append(1))
    await eventually(lambda: len(done) > 100)
    for item in inputs:
        it.accept(result(source_id=item.msg_id), input_id=item.id)

    def drained() -> bool:
        it.confirm(it.frozen)
        return it.spool.stats.accepted == 400 and it.spool.stats.inputs == 0

    await eventually(drained)
    assert len(done) == 400
    await it.spool.stop()


async def test_smallest_quota_takes_results(tmp_path: Path):
    """U3: every value that the setting allows works."""
    smallest = msgspec.json.schema(SpoolSettings)["$defs"]["SpoolSettings"]["properties"]["bytes_max"]["minimum"]
    it = Collected(tmp_path, SpoolSettings(bytes_max=smallest))
    it.accept(result(source_id="a"))
    await eventually(lambda: it.durable == ["a"])
    await it.spool.stop()


async def test_confirmation_of_a_twin_forgets_nothing(tmp_path: Path):
    """P5.8: of two nodes with one id each hears the other's confirmations; an epoch is its counter and its uuid."""
    it = Collected(tmp_path)
    it.accept(result(source_id="a"))
    await eventually(lambda: len(it.frozen) == 1)
    it.spool.confirm(Confirmation(f"{it.frozen[0].epoch.n}-{new_id()}", 1))
    it.accept(result(source_id="b"))
    await eventually(lambda: it.durable == ["a", "b"])
    assert it.spool.stats.confirmed == 0
    await it.spool.stop()


async def test_a_birth_names_what_a_crash_would_bring_back(tmp_path: Path):
    """P5.7: an epoch stays named until the confirmations of its messages are on disk, not only heard."""
    first = Collected(tmp_path)
    first.accept(result(source_id="a"))
    await eventually(lambda: len(first.frozen) == 1)
    await first.spool.stop()
    again = Spool(tmp_path / "spool.db", NODE, ROOT, on_frozen=lambda frozen: None, on_fatal=lambda exc: None)
    (left,), _ = again.open()
    uplink = Uplink(FakeLink(), again.confirm)
    uplink.add([left])
    uplink.confirmed(Confirmation(str(left.epoch), left.sequence))  # heard; the writer does not run yet
    link = FakeLink()
    link.connected = True
    presence = Presence(ROOT, NODE, again, dict)
    presence.birth(link)
    again.start()
    await eventually(lambda: again.stats.confirmed == 1)
    presence.birth(link)
    births = [codecs.decode_as(payload, NodeBirth) for _, payload, _, _ in link.published]
    assert [birth.previous for birth in births] == [[str(left.epoch)], []]
    await again.stop()
