"""``fieldpost tap``: the live messages of any broker, decoded."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated, Any

import typer

from common.cli.asking import RuleName, StatusName, checked_status, run_until_interrupt


def tap(
    broker: Annotated[str, typer.Option("--broker", help="URL of the broker; default from the settings.")] = "",
    node: Annotated[str, typer.Option("--node", help="Only this node.")] = "",
    rule: RuleName = "",
    status: StatusName = "",
    output: Annotated[str, typer.Option("-o", "--output", help="text, or json for one JSON object a line.")] = "text",
    count: Annotated[int, typer.Option("--count", min=0, help="Stop after so many lines; 0 goes on.")] = 0,
) -> None:
    """Show live messages of any broker, decoded. Example: fieldpost tap --node gw-7 --status FAIL"""
    from common import tap as taps

    if output not in ("text", "json"):
        raise typer.BadParameter("text or json", param_hint="-o")
    run_until_interrupt(_tap(broker, taps.Filter(node, rule, checked_status(status)), output == "json", count))


async def _tap(broker: str, wanted: Any, as_json: bool, count: int) -> None:
    import msgspec

    from common import tap as taps
    from common.clock import SystemClock
    from common.config import load
    from common.messaging.base import Subscription
    from common.messaging.transport import MqttLink
    from common.settings import SharedSettings

    overrides = {"broker.url": broker} if broker else {}
    settings = load(SharedSettings, environ=os.environ, overrides=overrides, flags={"broker.url": "--broker"})
    packets: asyncio.Queue[Any] = asyncio.Queue(10_000)
    link = MqttLink(settings.broker, f"tap-{os.getpid()}")
    link.on_message = lambda inbound: None if packets.full() else packets.put_nowait(inbound)
    link.on_connect = lambda: print(f"connected to {settings.broker.url}; Ctrl-C ends", file=sys.stderr)
    link.subscribe([Subscription(f"{settings.root}/#", qos=0)])
    await link.start()
    shown, clock = 0, SystemClock()
    try:
        while not count or shown < count:
            packet = await packets.get()
            for seen in taps.tapped(settings.root, packet.topic, packet.payload, wanted, clock.time()):
                print(msgspec.json.encode(seen).decode() if as_json else taps.as_line(seen), flush=True)
                shown += 1
                if count and shown >= count:
                    break
    finally:
        await link.stop()
