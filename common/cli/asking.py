"""What several command groups share: options, asking a running process, showing rows.

A process on this host is asked through its control socket; a controller elsewhere, with ``--server``, through its API.
The answers are the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import shutil
import sys
from collections.abc import Callable, Collection, Coroutine
from contextvars import ContextVar
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from common.cli.remote import Server


class Output(StrEnum):
    """Formats of what a command prints."""

    table = "table"
    json = "json"
    yaml = "yaml"
    wide = "wide"


class Side(StrEnum):
    """Whose dead letters."""

    cloud = "cloud"
    edge = "edge"


SideName = Annotated[Side, typer.Option("--side", help="Of the controller, or of the agent on this host.")]
DataDir = Annotated[
    str, typer.Option("--data-dir", help="Data directory of the controller; default from the settings.")
]
Format = Annotated[Output, typer.Option("-o", "--output", help="table, wide, json or yaml.")]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="Only this namespace.")]
StatusName = Annotated[str, typer.Option("--status", help="Only results with SUCCESS or FAIL.")]
RuleName = Annotated[str, typer.Option("--rule", help="Only this rule.")]
NodeName = Annotated[str, typer.Option("--node", help="Only this node.")]
SERVER_VARIABLE = "FIELDPOST_SERVER"
ServerUrl = Annotated[
    str,
    typer.Option("--server", envvar=SERVER_VARIABLE, help="Ask the API of a controller elsewhere: its URL."),
]
TokenFile = Annotated[
    str,
    typer.Option("--token-file", envvar="FIELDPOST_TOKEN_FILE", help="With --server: file that holds the token."),
]
_OF_THIS_HOST = {"data_dir": "--data-dir", "layers": "--layers"}
_server: ContextVar[Server | None] = ContextVar("server", default=None)  # that this command asks


def reach_elsewhere(app: typer.Typer, besides: Collection[str]) -> None:
    """Give every command below ``app`` that has --data-dir also --server and --token-file.

    Left out are the groups and commands named in ``besides``, which are about this host. Call it when all commands are
    registered.
    """
    for group in app.registered_groups:
        if group.typer_instance is not None and group.name not in besides:
            reach_elsewhere(group.typer_instance, besides)
    for command in app.registered_commands:
        callback = command.callback
        if callback is None or (command.name or callback.__name__) in besides:
            continue
        if "data_dir" in inspect.signature(callback).parameters:
            command.callback = reaching(callback)


def reaching(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give one command --server and --token-file."""

    @functools.wraps(command)
    def asks(*args: Any, server: str, token_file: str, **kwargs: Any) -> Any:
        from common.cli.remote import server_of

        near = [flag for name, flag in _OF_THIS_HOST.items() if kwargs.get(name)]
        if server and near:
            if server != os.environ.get(SERVER_VARIABLE):
                raise typer.BadParameter(
                    f"{near[0]} is about this host: leave one of the two out", param_hint="--server"
                )
            server = ""  # the flag is nearer than the variable
        _server.set(server_of(server, token_file) if server else None)
        return command(*args, **kwargs)

    hints = get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)
    found = [each.replace(annotation=hints[name]) for name, each in signature.parameters.items()]
    for name, hint in (("server", ServerUrl), ("token_file", TokenFile)):
        found.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default="", annotation=hint))
        hints[name] = hint
    asks.__signature__ = signature.replace(parameters=found)  # type: ignore[attr-defined]
    asks.__annotations__ = hints
    return asks


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
    """Call ``operation`` of the process on this host, or of the controller that --server names.

    Raises ControlError when nobody answers, or it refuses.
    """
    from common.control import call

    rows: list[dict[str, Any]]
    if (server := _server.get()) is not None:
        rows = _elsewhere(server, side).call(operation, args)
    else:
        rows = asyncio.run(call(socket_of(data_dir, str(side)), operation, **args))
    return rows


def here() -> Server | None:
    """The controller that --server names; None: this host is asked."""
    return _server.get()


def follow(data_dir: str, operation: str, take: Callable[[dict[str, Any]], None], /, **args: Any) -> None:
    """Give each row of a stream to ``take`` until Ctrl-C, from where ``ask`` asks. Raises ControlError as it does."""
    if (server := _server.get()) is not None:
        with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
            for row in server.stream(operation, args):
                take(row)
    else:
        run_until_interrupt(_follow(socket_of(data_dir), operation, take, args))


async def _follow(path: Path, operation: str, take: Callable[[dict[str, Any]], None], args: dict[str, Any]) -> None:
    from common.control import stream

    async for row in stream(path, operation, **args):
        take(row)


def _elsewhere(server: Server, side: Side) -> Server:
    if side is Side.edge:
        raise typer.BadParameter("an agent is asked on its own host, without --server", param_hint="--side")
    return server


def show(columns: Any, rows: list[dict[str, Any]], output: Output) -> None:
    """Print ``rows`` in the format ``output``."""
    from common import tables

    print(tables.render(columns, rows, str(output), table_width()), end="")


def table_width() -> int:
    """How many characters a table may take: as many as the terminal has, or those that tables have in a pipe."""
    from common import tables

    return shutil.get_terminal_size((tables.WIDTH, 0)).columns if sys.stdout.isatty() else tables.WIDTH


def checked_status(text: str) -> str:
    """Return ``text`` as SUCCESS, FAIL or "". Raises BadParameter for any other word."""
    if text.upper() not in ("", "SUCCESS", "FAIL"):
        raise typer.BadParameter("SUCCESS or FAIL", param_hint="--status")
    return text.upper()
