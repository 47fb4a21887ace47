"""``python -m edge``: run one edge agent until SIGTERM or SIGINT; SIGHUP reloads its rules."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Sequence

from common import logs
from common.config import parse_args
from common.errors import ConfigError, FieldpostError, ResourceError
from common.stopping import STOP_MAX_S, begin_stop, stop_ended
from edge.agent import Agent
from edge.settings import Settings

log = logging.getLogger(__name__)

FLAGS = {
    "--node": "edge.node",
    "--broker": "broker.url",
    "--data-dir": "data_dir",
    "--rules": "edge.rules",
    "--codec": "codec",
    "--log-level": "log.level",
}


def main(argv: Sequence[str]) -> int:
    """Run an agent with these arguments and return the exit code: 0 stopped, 1 failed, 2 wrong use or settings."""
    settings, text = parse_args("fieldpost edge", argv, Settings, shortcuts=FLAGS)
    if text:
        sys.stdout.write(text)
        return 0
    logs.setup(settings.log)
    try:
        return asyncio.run(_run(settings))
    except FieldpostError as exc:
        sys.stderr.write(f"fieldpost edge: {exc}\n")
        return 2 if isinstance(exc, (ConfigError, ResourceError)) else 1
    finally:
        stop_ended()


async def _run(settings: Settings) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    agent = Agent(settings)
    loop.add_signal_handler(signal.SIGHUP, agent.reload_soon)  # before the start: without a handler it would kill
    await agent.start()
    gc.collect()
    gc.freeze()  # what was made by now stays: the collector need not look at it again and again
    asked = asyncio.create_task(stopping.wait())
    await asyncio.wait((asked, agent.failed), return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    begin_stop(settings.edge.flow.stop_s + STOP_MAX_S)
    with contextlib.suppress(asyncio.CancelledError):
        await agent.stop()
    if agent.failed.done():
        log.critical("the agent ends, so that it is started again from what is on disk: %s", agent.failed.result())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
