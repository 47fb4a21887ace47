"""``fieldpost doctor``: asks what can be asked, runs the checks, and says what is wrong and what to do."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from common.cli.asking import DataDir, Format, Output, here, show


def doctor(
    data_dir: DataDir = "",
    broker: Annotated[str, typer.Option("--broker", help="URL of the broker; default from the settings.")] = "",
    output: Format = Output.table,
) -> None:
    """Say what is wrong here, and what to do; exit code 1 when something fails. Example: fieldpost doctor"""
    from common import tables
    from common.doctor import Level, examine

    found = examine(_place(data_dir, broker))
    show(tables.FINDINGS, [msgspec.to_builtins(finding) for finding in found], output)
    if any(finding.level is Level.fail for finding in found):
        sys.exit(1)


# Gives the settings of each side, which only the composition root may know.
sides: list[Callable[[], Iterable[Any]]] = []


def _place(data_dir: str, broker: str) -> Any:
    from common.clock import SystemClock
    from common.config import load
    from common.doctor import Place
    from common.settings import BrokerSettings, SharedSettings

    overrides = {key: value for key, value in {"broker.url": broker, "data_dir": data_dir}.items() if value}
    flags = {"broker.url": "--broker", "data_dir": "--data-dir"}
    settings = load(SharedSettings, environ=os.environ, overrides=overrides, flags=flags)
    known: dict[str, Any] = {"data_dir": Path(settings.data_dir), "now": SystemClock().time(), "errors": {}}
    known["broker_url"] = settings.broker.url
    server = here()
    if server is not None:
        known["server"] = server.url
        known["date"] = _said(known, "cloud", server.clock_skew)
        known["ready"] = _said(known, "ready", server.ready)
        ask: Callable[[str], Any] = lambda operation: server.call(operation, {})  # noqa: E731
    else:
        known["files"] = _files(side for settings_of in sides for side in settings_of())
        ask = _asker(known["data_dir"], "cloud")
        known["edge"] = _said(known, "edge", lambda: _asker(known["data_dir"], "edge")("statistics"))
        known["ready"] = _said(known, "ready", lambda: ask("ready"))
    known["cloud"] = _said(known, "cloud", lambda: ask("statistics"))
    known["nodes"] = _said(known, "nodes", lambda: ask("get.nodes"))
    known["rules"] = _said(known, "rules", lambda: ask("get.rules"))
    used = ((known["cloud"] or {}).get("controller") or {}).get("broker")
    if used and settings.broker.url == BrokerSettings().url:  # nobody named one here: look at the one that is used
        settings = msgspec.structs.replace(settings, broker=msgspec.structs.replace(settings.broker, url=used))
        known["broker_url"] = used
    if server is None and _may_connect(settings, known):
        known["broker"] = _said(known, "broker", lambda: _probe(settings))
    return Place(**known)


def _asker(data_dir: Path, side: str) -> Callable[[str], Any]:
    from common.control import call, socket_path

    return lambda operation: asyncio.run(call(socket_path(data_dir, side), operation))


def _said(known: dict[str, Any], name: str, ask: Callable[[], Any]) -> Any:
    from common.errors import FieldpostError

    try:
        return ask()
    except FieldpostError as exc:
        known["errors"][name] = str(exc)
        return None


def _may_connect(settings: Any, known: dict[str, Any]) -> bool:
    """A broker may take the user name for the client id, and would end the connection of the process that runs as that
    user: with a user name we connect only when that process has no connection.
    """
    connected = any((said or {}).get("link", {}).get("connected") for said in (known["cloud"], known["edge"]))
    return not (settings.broker.username and connected)


def _probe(settings: Any) -> Any:
    from common.messaging.probing import probe

    return asyncio.run(probe(settings.broker, settings.root, f"doctor-{os.getpid()}"))


def _files(sides_settings: Iterable[Any]) -> dict[str, str]:
    """The settings that name files and are set, by dotted key."""
    found: dict[str, str] = {}

    def walk(value: Any, prefix: str) -> None:
        for name in value.__struct_fields__:
            inner, key = getattr(value, name), f"{prefix}{name}"
            if isinstance(inner, msgspec.Struct):
                walk(inner, key + ".")
            elif name.endswith("_file") and inner:
                found[key] = str(inner)

    for settings in sides_settings:
        walk(settings, "")
    return found
