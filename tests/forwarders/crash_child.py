"""A controller's forwarders in a process of their own, for the test that kills it.

Usage: ``python -m tests.forwarders.crash_child DIRECTORY URL HOLDER RULE...``. Marks the rules that are named, once,
and forwards to the webhook at URL until it is killed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from cloud.forwarders.webhook import WebhookSink
from cloud.settings.forward import ForwardSettings, WebhookSettings
from common.clock import SystemClock
from tests.cloud.samples import open_store
from tests.forwarders.parts import forwarding, key, mark

SETTINGS = ForwardSettings(poll_s=0.1, claim_s=14, retry_first_s=0.05, retry_max_s=0.1)


def hook(url: str) -> WebhookSink:
    """The webhook."""
    settings = WebhookSettings(url=url, allow_http=True, allow_networks=["127.0.0.0/8"])
    return WebhookSink("webhook:t", settings, SystemClock(), "fieldpost")


async def main(directory: str, url: str, holder: str, *rules: str) -> None:
    """Forward until killed."""
    async with open_store(Path(directory)) as store:
        await mark(store, *map(key, rules))
        async with forwarding(store, hook(url), settings=SETTINGS, holder=holder):
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
