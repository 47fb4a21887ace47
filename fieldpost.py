"""fieldpost's command line and composition root: the one module that may import both ``edge`` and ``cloud``.

Each subcommand imports what it needs when it runs, so that ``fieldpost version`` starts fast and an edge node needs
nothing of the cloud.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import typer

from common.cli import applying
from common.cli.asking import DataDir, here, reach_elsewhere, reaching, run_until_interrupt, socket_of
from common.cli.brokering import broker as broker_commands
from common.cli.chains import chain
from common.cli.describing import describe
from common.cli.doctor import doctor, sides
from common.cli.edging import edge_commands
from common.cli.kube import kube
from common.cli.letters import dlq
from common.cli.live import tap
from common.cli.looking import get, ledger, metrics
from common.cli.rates import top
from common.cli.sections import Sections
from common.cli.sending import send
from common.errors import FieldpostError

app = typer.Typer(
    help="Routing rules on edge nodes, and in the cloud an exact, durable account of what became of every execution.",
    cls=Sections,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(edge_commands, name="edge")
app.add_typer(broker_commands, name="broker")
app.add_typer(chain, name="chain")
app.add_typer(get, name="get")
app.add_typer(dlq, name="dlq")
app.add_typer(kube, name="kube")
app.command()(ledger)
app.command()(metrics)
app.command()(tap)
app.command()(top)
app.command()(send)
app.command()(doctor)
app.add_typer(applying.node, name="node")
for verb in (applying.apply, applying.delete, describe, applying.disable, applying.enable):
    app.command()(verb)

FIRST_RESULTS = 10  # that `up` prints one by one
SUMMARY_S = 10.0  # between its later lines
_ENDPOINT_HINT = (
    "fieldpost: an endpoint that stands in another file: name that file with -f as well; one that the controller has "
    "already: check there, with --server\n"
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def main() -> None:
    """Entry point: errors of ours are one line and exit code 1 (2 for wrong use and settings), never a traceback."""
    from common.errors import WRONG_USE, ConfigError

    try:
        app()
    except FieldpostError as exc:
        sys.stderr.write(f"fieldpost: {exc}\n")
        sys.exit(2 if isinstance(exc, ConfigError) or getattr(exc, "kind", "") == WRONG_USE else 1)


# -- processes ---------------------------------------------------------------------------------------------------------


@edge_commands.command("run", context_settings=PASS_ON, add_help_option=False)
def edge_run(ctx: typer.Context) -> None:
    """Run one edge agent; run may be left out. The same as python -m edge. Example: fieldpost edge --node gw-7"""
    from edge.__main__ import main as run_edge

    sys.exit(run_edge(ctx.args))


@app.command(context_settings=PASS_ON, add_help_option=False)
def cloud(ctx: typer.Context) -> None:
    """Run one cloud controller (the same as python -m cloud). Example: fieldpost cloud --broker mqtt://broker:1883"""
    from cloud.__main__ import main as run_cloud

    sys.exit(run_cloud(ctx.args))


@app.command()
def telemetry(
    device: Annotated[str, typer.Option("--device", help="Name of the device, and client id without a user name.")],
    broker: Annotated[str, typer.Option("--broker", help="URL of the broker; default from the settings.")] = "",
    every: Annotated[float, typer.Option("--every", min=0.01, help="Seconds between two measurements.")] = 1.0,
) -> None:
    """Publish this machine's load, memory, disk, temperature as a device. Example: fieldpost telemetry --device gw-7"""
    from common import logs
    from common.config import load
    from common.settings import SharedSettings

    overrides = {"broker.url": broker} if broker else {}
    settings = load(SharedSettings, environ=os.environ, overrides=overrides, flags={"broker.url": "--broker"})
    logs.setup(settings.log)
    run_until_interrupt(_publish_until_stopped(settings, device, every))


async def _publish_until_stopped(settings: Any, device: str, every: float) -> None:
    from common.config import make_data_dir
    from common.control import ControlServer, socket_path

    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with contextlib.AsyncExitStack() as stack:
        make_data_dir(settings.data_dir)
        link = await _telemetry(stack, settings.broker, settings.broker.username or device, device, every)
        control = ControlServer(
            socket_path(settings.data_dir, "telemetry"),
            {"statistics": lambda args: _value({"link": link.statistics()})},
        )
        await control.start()
        stack.push_async_callback(control.stop)
        await stopping.wait()


async def _value(value: Any) -> Any:
    return value


@app.command()
@reaching
def check(
    files: Annotated[
        list[str] | None, typer.Option("-f", "--file", help="Manifests: file or directory; repeatable.")
    ] = None,
    layers: Annotated[
        Path | None,
        typer.Option("--layers", exists=True, file_okay=False, help="Directory with the layers of a configuration."),
    ] = None,
) -> None:
    """Say all that a node would refuse, without running it; with --server, also beside what is wanted there already.

    Example: fieldpost check -f examples/relay.yaml
    """
    from common.checks import NO_ENDPOINT
    from common.config import load
    from edge.rules.checking import check_configuration
    from edge.settings import Settings

    if not files and not layers:
        raise typer.BadParameter("name files of manifests, or a directory with --layers", param_hint="-f")
    if here() is not None and files and not layers:
        print(f"{applying.check_there(files)} rules and endpoints, nothing to say")
        return
    settings = load(Settings, environ=os.environ, overrides={})
    loops = settings.edge.flow.loops or settings.broker.protocol != "3.1.1"
    for place in files or []:
        if not Path(place).exists():
            raise typer.BadParameter(f"{place} is not there", param_hint="-f")
    objects, findings = check_configuration(files or [], str(layers or ""), loops=loops)
    for finding in findings:
        print(finding)
    if any(NO_ENDPOINT in finding for finding in findings):
        sys.stderr.write(_ENDPOINT_HINT)
    if findings:
        sys.exit(1)
    print(f"{objects} rules and endpoints, nothing to say")


@app.command()
def version() -> None:
    """Print the version. Example: fieldpost version"""
    from common.version import VERSION

    print(f"fieldpost {VERSION}")


# -- up ----------------------------------------------------------------------------------------------------------------


@app.command()
def down(data_dir: DataDir = "") -> None:
    """Stop what fieldpost up runs, from another terminal. Example: fieldpost down"""
    from common.control import call

    asyncio.run(call(socket_of(data_dir, "up"), "stop"))
    print("stopping")


@app.command()
def up(
    data_dir: Annotated[str, typer.Option("--data-dir", help="Where all data is kept between runs.")] = "",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Embedded broker's port; 0: 1883, or a free one.")
    ] = 0,
    broker: Annotated[str, typer.Option("--broker", help="Use this broker instead of the embedded one.")] = "",
    node: Annotated[str, typer.Option("--node", help="Node id; default from the host name.")] = "",
    rules: Annotated[
        list[str] | None, typer.Option("--rules", help="Your rules: file or directory; repeatable.")
    ] = None,
    every: Annotated[float, typer.Option("--every", min=0.01, help="Seconds between two measurements.")] = 1.0,
    results: Annotated[int, typer.Option("--results", min=0, help="Stop after so many results; 0 goes on.")] = 0,
) -> None:
    """Run everything on this machine: broker, cloud, edge, and its own telemetry as input. Example: fieldpost up"""
    from common import logs
    from common.config import load, make_data_dir
    from common.errors import ResourceError
    from common.settings import BrokerSettings, LogSettings
    from edge.settings import Settings

    logs.setup(LogSettings(level="warning"))
    overrides = {k: v for k, v in {"data_dir": data_dir, "broker.url": broker, "edge.node": node}.items() if v}
    flags = {"data_dir": "--data-dir", "broker.url": "--broker", "edge.node": "--node"}
    settings = load(Settings, environ=os.environ, overrides=overrides, flags=flags)
    try:
        node = settings.node_id()
    except ResourceError as exc:
        raise typer.BadParameter(exc.detail, param_hint="--node") from exc
    make_data_dir(settings.data_dir)
    own_broker = settings.broker.url != BrokerSettings().url
    run_until_interrupt(_up(settings, own_broker, port, node, rules or settings.edge.rules, every, results))


async def _up(
    settings: Any, own_broker: bool, port: int, node: str, rules: list[str], every: float, results: int
) -> None:
    import msgspec

    from common.control import ControlServer, socket_path
    from common.messaging.endpoint import parse_endpoints

    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    data = Path(settings.data_dir)
    async with contextlib.AsyncExitStack() as stack:
        control = ControlServer(socket_path(data, "up"), {"stop": lambda args: _set(stopping)})
        await control.start()
        stack.push_async_callback(control.stop)
        url = settings.broker.url if own_broker else await _embedded(stack, data / "broker", port)
        at = parse_endpoints(url)[0]
        print(f"broker   {url}{'' if own_broker else '  (embedded, MQTT 3.1.1, loopback only)'}")
        common = ["--broker", url, "--data-dir", str(data)]
        places = [part for place in rules or [str(_example_rules())] for part in ("--rules", place)]
        api, serving = _api(data)
        cloud_failed = await _child(stack, "cloud", [*common, *serving], data)
        edge_failed = await _child(stack, "edge", [*common, "--node", node, *places], data)
        print(f"cloud    cloud-1, store {data / 'cloud.db'}, log {data / 'cloud.log'}")
        print(f"api      {api}")
        print(f"edge     {node}, rules {', '.join(rules) or 'the examples'}, log {data / 'edge.log'}")
        await _telemetry(stack, msgspec.structs.replace(settings.broker, url=url), f"{node}-telemetry", node, every)
        print(f"input    this machine's telemetry on devices/{node}/telemetry, every {every:g} s")
        client = f"mosquitto_sub -h {at.host} -p {at.port}{' --tls-use-os-certs' if at.tls else ''}"
        print(f"\nwatch    {client} -t '{settings.root}/#' -v\n"
              f"         fieldpost tap --broker {url}\n         fieldpost get rules --data-dir {data}\n")  # fmt: skip
        shown = asyncio.create_task(_first_results(socket_path(data, "cloud"), results))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait((shown, stop, cloud_failed, edge_failed), return_when=asyncio.FIRST_COMPLETED)
        for task in (shown, stop):
            task.cancel()
        for failed in (cloud_failed, edge_failed):
            if failed.done():
                raise failed.result()
        if shown.done() and not shown.cancelled() and shown.exception():
            raise shown.exception()  # type: ignore[misc]
        print("\nstopping", flush=True)
    print(f"stopped; everything is kept in {data}, the next start goes on from there")


def _api(data: Path) -> tuple[str, list[str]]:
    """Words about the API, and the flags that make the controller serve it if what it needs is installed."""
    import importlib.util

    from cloud.settings import Settings
    from common.config import load
    from common.errors import BrokerError
    from common.messaging.child import is_loopback, take_port

    if not all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn")):
        return "not installed: pip install 'fieldpost[api]'", []
    settings = load(Settings, environ=os.environ, overrides={}).cloud.api
    port = settings.port
    if is_loopback(settings.host):
        try:
            port = take_port(settings.host, settings.port)
        except BrokerError:
            port = take_port(settings.host, 0)
    scheme = "https" if settings.certificate_file else "http"
    words = f"{scheme}://{settings.host}:{port}/api/v1, token in {settings.token_file or data / 'api.token'}"
    return words, ["--set", "cloud.api.enabled=true", "--set", f"cloud.api.port={port}"]


async def _set(event: asyncio.Event) -> None:
    event.set()


async def _embedded(stack: contextlib.AsyncExitStack, directory: Path, port: int) -> str:
    from common.errors import BrokerError
    from common.messaging.broker import EmbeddedBroker

    started = EmbeddedBroker(directory, port=port or 1883)
    try:
        await started.start()
    except BrokerError:
        if port:
            raise
        started = EmbeddedBroker(directory)  # 1883 is taken by a broker of somebody else's
        await started.start()
    stack.push_async_callback(started.stop)
    return started.url


async def _child(stack: contextlib.AsyncExitStack, side: str, args: list[str], data: Path) -> asyncio.Future[Any]:
    from common.processes import Supervised

    # Not -m: it would look in the current directory first, which may have an edge or cloud of the user's.
    child = Supervised(side, [sys.executable, __file__, side, *args], data / f"{side}.log")
    await child.start()
    stack.push_async_callback(child.stop)
    return child.failed


async def _telemetry(stack: contextlib.AsyncExitStack, broker: Any, client_id: str, device: str, every: float) -> Any:
    from common.messaging.transport import MqttLink
    from common.tasks import Tasks
    from edge import telemetry

    link = MqttLink(broker, client_id)
    tasks = Tasks("telemetry")
    await link.start()
    tasks.start("telemetry", lambda: telemetry.publish(link, device, every))
    stack.push_async_callback(link.stop)
    stack.push_async_callback(tasks.stop)
    return link


def _example_rules() -> Path:
    import edge.rules

    return Path(edge.rules.__file__).with_name("example.yaml")


async def _first_results(path: Path, results: int) -> None:
    """Print the first results one by one, then a line with the sums every SUMMARY_S; end after ``results``."""
    from common import tables
    from common.control import call

    loop, seen, due = asyncio.get_running_loop(), 0, 0.0
    async for row in _patient_watch(path):
        seen += 1
        if seen <= FIRST_RESULTS:
            print("result   " + tables.line(tables.RESULTS, row, "table"), flush=True)
            due = loop.time() + SUMMARY_S
        elif loop.time() >= due:
            due = loop.time() + SUMMARY_S
            rules = await call(path, "get.rules")
            print(f"counted  {sum(r['success'] + r['fail'] for r in rules)} results of {len(rules)} rules", flush=True)
        if results and seen >= results:
            return


async def _patient_watch(path: Path) -> AsyncIterator[dict[str, Any]]:
    """Results as they are committed, also over restarts of the controller."""
    from common.control import stream
    from common.errors import ControlError

    while True:
        try:
            async for row in stream(path, "watch.results"):
                yield row
        except ControlError:
            await asyncio.sleep(0.1)


def _settings_of_both_sides() -> list[Any]:
    from cloud.settings import Settings as CloudSettings
    from common.config import load
    from edge.settings import Settings as EdgeSettings

    return [load(settings, environ=os.environ, overrides={}) for settings in (CloudSettings, EdgeSettings)]


sides.append(_settings_of_both_sides)
reach_elsewhere(app, besides={"edge", "up", "down", "metrics"})

if __name__ == "__main__":
    main()
