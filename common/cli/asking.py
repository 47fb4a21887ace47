"""What several command groups share: options, asking a running process through its control socket, showing rows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Output(StrEnum):
    """Formats of what a command prints."""

    table = "table"
    json = "json"
    yaml = "yaml"


class Side(StrEnum):
    """Whose dead letters."""

    cloud = "cloud"
    edge = "edge"


SideName = Annotated[Side, typer.Option("--side", help="Of the controller, or of the agent on this host.")]
DataDir = Annotated[
    str, typer.Option("--data-dir", help="Data directory of the controller; default from the settings.")
]
Format = Annotated[Output, typer.Option("-o", "--output", help="table, json or yaml.")]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="Only this namespace.")]
StatusName = Annotated[str, typer.Option("--status", help="Only results with SUCCESS or FAIL.")]
RuleName = Annotated[str, typer.Option("--rule", help="Only this rule.")]
NodeName = Annotated[str, typer.Option("--node", help="Only this node.")]


def run_until_interrupt(work: Coroutine[Any, Any, Any]) -> Any:
    """Run ``work`` to its end; Ctrl-C and a closed pipe end it quietly, with exit code 0."""
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        return asyncio.run(work)
    sys.exit(0)


def socket_of(data_dir: str, side: str = "cloud") -> Path:
    """Return the control socket of ``side`` in ``data_dir``, or in the directory that the settings name."""
    from common.config import load
    from common.control import socket_path
    from common.settings import SharedSettings

    directory = data_dir or load(SharedSettings, environ=os.environ, overrides={}).data_dir
    return socket_path(directory, side)


def ask(data_dir: str, operation: str, side: Side = Side.cloud, /, **args: Any) -> list[dict[str, Any]]:
    """Call ``operation`` of the process on this host. Raises ControlError when nobody answers, or it refuses."""
    from common.control import call

    rows: list[dict[str, Any]] = asyncio.run(call(socket_of(data_dir, str(side)), operation, **args))
    return rows


def show(columns: Any, rows: list[dict[str, Any]], output: Output) -> None:
    """Print ``rows`` in the format ``output``."""
    from common import tables

    print(tables.render(columns, rows, str(output)), end="")


def checked_status(text: str) -> str:
    """Return ``text`` as SUCCESS, FAIL or "". Raises BadParameter for any other word."""
    if text.upper() not in ("", "SUCCESS", "FAIL"):
        raise typer.BadParameter("SUCCESS or FAIL", param_hint="--status")
    return text.upper()
