"""``fieldpost send``: one message by hand, to try a rule."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

ANSWER_S_MAX = 10.0
STDIN = "-"


def send(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Topic to publish on.")],
    payload: Annotated[str, typer.Argument(metavar="PAYLOAD", help="Text; @FILE reads a file, - standard input.")],
    broker: Annotated[str, typer.Option("--broker", help="URL of the broker; default from the settings.")] = "",
    retain: Annotated[bool, typer.Option("--retain", help="Let the broker keep it for who comes later.")] = False,
) -> None:
    """Publish one message at QoS 1. Example: fieldpost send devices/d1/telemetry '{"temperature": 71}'"""
    from common.messaging.base import NOBODY_LISTENS

    code = asyncio.run(_send(topic, _bytes(payload), broker, retain))
    print(f"{topic}: the broker has it" + (", and nobody subscribes to it" if code == NOBODY_LISTENS else ""))


def _bytes(payload: str) -> bytes:
    if payload == STDIN:
        return sys.stdin.buffer.read()
    if not payload.startswith("@"):
        return payload.encode()
    try:
        return Path(payload[1:]).read_bytes()
    except OSError as exc:
        raise typer.BadParameter(f"cannot read {payload[1:]}: {exc.strerror}", param_hint="PAYLOAD") from exc


async def _send(topic: str, payload: bytes, broker: str, retain: bool) -> int:
    """Publish, and return the broker's reason code. Raises ConnectError when it does not take the message."""
    from common.config import load
    from common.errors import ConnectError
    from common.messaging.base import NOT_SENT
    from common.messaging.connection import FAILED
    from common.messaging.transport import MqttLink
    from common.settings import SharedSettings

    overrides = {"broker.url": broker} if broker else {}
    settings = load(SharedSettings, environ=os.environ, overrides=overrides, flags={"broker.url": "--broker"})
    link = MqttLink(settings.broker, f"send-{os.getpid()}")
    ready, done = asyncio.Event(), asyncio.get_running_loop().create_future()
    link.on_connect = ready.set
    await link.start()
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            await ready.wait()
            link.publish(topic, payload, retain=retain, on_done=done.set_result)
            code: int = await done
    except TimeoutError:
        raise ConnectError(f"{settings.broker.url} did not take the message within {ANSWER_S_MAX:g} s") from None
    finally:
        await link.stop()
    if code == NOT_SENT:
        raise ConnectError(f"{settings.broker.url} closed the connection before it confirmed the message")
    if code >= FAILED:
        raise ConnectError(f"{settings.broker.url} refuses the message on {topic} (0x{code:02x})")
    return code
