"""``python -m cloud``: one controller until SIGTERM or SIGINT. Exit codes: 0 stopped, 1 failed, 2 wrong settings."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from cloud.controller import Controller
from cloud.settings import Settings
from common import logs
from common.config import parse_args
from common.errors import ConfigError, FieldpostError
from common.stopping import begin_stop, stop_ended

log = logging.getLogger(__name__)

_SHORTCUTS = {
    "--controller": "cloud.controller",
    "--broker": "broker.url",
    "--store": "cloud.store.url",
    "--data-dir": "data_dir",
}


def main(argv: Sequence[str]) -> int:
    """Run a controller with these arguments and return the exit code."""
    try:
        settings, shown = parse_args("fieldpost cloud", argv, Settings, shortcuts=_SHORTCUTS)
    except SystemExit as exc:  # help was shown, or the use was wrong and one line said so
        return exc.code if isinstance(exc.code, int) else 0
    if shown:
        sys.stdout.write(shown if shown.endswith("\n") else shown + "\n")
        return 0
    logs.setup(settings.log)
    try:
        asyncio.run(run(settings))
    except FieldpostError as exc:
        sys.stderr.write(f"fieldpost cloud: {exc}\n")
        return 2 if isinstance(exc, ConfigError) else 1
    finally:
        stop_ended()
    return 0


async def run(settings: Settings) -> None:
    """Run a controller until the process is asked to stop. Raises FieldpostError when it cannot start."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    controller = Controller(settings)
    await controller.start()
    try:
        await stopped.wait()
        log.info("asked to stop")
    finally:
        begin_stop()
        await controller.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
