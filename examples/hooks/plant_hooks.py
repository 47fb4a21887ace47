"""Two Python hooks for a fieldpost node: a plain one that changes messages, an asynchronous one that decides.

A hook takes the event of its hook point: ``event.msg`` is the message (``payload``, ``key``, ``headers``, ``msgid``),
``event.source.id`` and ``event.destination.id`` say where it comes from and goes to. None goes on, False halts it
quietly (filtered, ``hook_halt``), an exception halts it as failed, ``hook_error``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

SITE = "plant-1"
DEVICES_VARIABLE = "PLANT_DEVICES"  # a file with the devices that may send, one a line; not set: all


def stamp(event: Any) -> None:
    """preDeliver: tell whoever gets a JSON object which site it is from. Runs in line: no waiting here.

    A message passes preDeliver on its way to a rule, and again to the target: what a hook does should be fit for that.
    """
    payload = event.msg.payload
    if isinstance(payload, bytes):
        with contextlib.suppress(ValueError):
            payload = json.loads(payload)
    if isinstance(payload, dict):
        event.msg.payload = payload | {"site": SITE}


async def known_devices(event: Any) -> bool | None:
    """preRoute: halt what comes from a device that is not in the file.

    What waits (a file, a database, another service) belongs into an asynchronous hook; meanwhile other rules go on, and
    messages of the same source to the same rule keep their order.
    """
    file = os.environ.get(DEVICES_VARIABLE)
    if not file:
        return None
    devices = (await asyncio.to_thread(Path(file).read_text)).split()
    return None if any(device in event.msg.key.split("/") for device in devices) else False
