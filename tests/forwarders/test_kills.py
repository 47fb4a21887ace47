"""kill -9 between delivery and settling: told again, as the same event, and never lost (P8.2)."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiohttp import web

from common.clock import ManualClock, SystemClock
from tests.cloud.samples import open_store
from tests.forwarders.crash_child import SETTINGS, hook
from tests.forwarders.parts import Receiver, delivery, forwarding, key
from tests.support.wait import eventually

ROOT = Path(__file__).resolve().parents[2]


async def _killed_by_the_receiver(directory: Path, receiver: Receiver, *rules: str) -> None:
    """Run a controller that dies when its delivery has arrived and before it has the answer."""
    arrived, take = asyncio.Event(), receiver._take

    async def kill(request: web.Request) -> web.Response:
        answer = await take(request)
        arrived.set()
        await child.wait()
        return answer

    receiver.handler = kill
    command = [sys.executable, "-m", "tests.forwarders.crash_child", str(directory), receiver.url, "cloud-1", *rules]
    child = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    try:
        async with asyncio.timeout(30):
            await arrived.wait()
    finally:
        child.kill()
        await child.wait()
        receiver.handler = take


async def test_a_killed_controllers_delivery_is_told_again_with_the_same_key(tmp_path: Path) -> None:
    """The controller that is started again, and another one after the claim's end, tell the same version with the same
    idempotency key; nothing is lost, and it is settled once.
    """
    async with Receiver().running() as receiver:
        await _killed_by_the_receiver(tmp_path, receiver, "a", "b")
        await _killed_by_the_receiver(tmp_path, receiver)
        clock = ManualClock(SystemClock().time())
        async with open_store(tmp_path) as store:
            held = await store.read(lambda conn: delivery(conn, "webhook:t", key("a")))
            assert (held.version, held.claimed_by) == (0, "cloud-1")
            async with forwarding(store, hook(receiver.url), settings=SETTINGS, holder="cloud-2", clock=clock) as it:
                await eventually(lambda: it.rows()[0].pending == 2)
                assert len(receiver.requests) == 2
                clock.advance(SETTINGS.claim_s)
                await eventually(lambda: it.rows()[0].delivered == 2)
            settled = await store.read(lambda conn: delivery(conn, "webhook:t", key("a")))
            assert (settled.version, settled.claimed_by) == (1, "")
        keys = {head["idempotency-key"] for head, _ in receiver.requests}
        assert (len(receiver.requests), len(keys)) == (3, 1)
        assert set(receiver.rules) == {"default/a", "default/b"}
