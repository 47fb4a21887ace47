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
from collections.abc import AsyncIterator, Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from common.errors import FieldpostError

app = typer.Typer(
    help="Routing rules on edge nodes, and in the cloud an exact, durable account of what became of every execution.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
get = typer.Typer(
    help="Show what the cloud controller on this host knows.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(get, name="get")
dlq = typer.Typer(
    help="Dead letters: messages that could never be accepted.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(dlq, name="dlq")
node_commands = typer.Typer(help="Nodes and their identity.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(node_commands, name="node")

FIRST_RESULTS = 10  # that `up` prints one by one
SUMMARY_S = 10.0  # between its later lines
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


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


def main() -> None:
    """Entry point: errors of ours are one line and exit code 1 (2 for wrong settings), never a traceback."""
    from common.errors import ConfigError

    try:
        app()
    except FieldpostError as exc:
        sys.stderr.write(f"fieldpost: {exc}\n")
        sys.exit(2 if isinstance(exc, ConfigError) else 1)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        return asyncio.run(work)
    sys.exit(0)


# -- processes ---------------------------------------------------------------------------------------------------------


@app.command(context_settings=PASS_ON, add_help_option=False)
def edge(ctx: typer.Context) -> None:
    """Run one edge agent (the same as python -m edge). Example: fieldpost edge --node gw-7 --rules rules/"""
    from edge.__main__ import main as run_edge

    sys.exit(run_edge(ctx.args))


@app.command(context_settings=PASS_ON, add_help_option=False)
def cloud(ctx: typer.Context) -> None:
    """Run one cloud controller (the same as python -m cloud). Example: fieldpost cloud --broker mqtt://broker:1883"""
    from cloud.__main__ import main as run_cloud

    sys.exit(run_cloud(ctx.args))


@app.command()
def version() -> None:
    """Print the version. Example: fieldpost version"""
    from common.version import VERSION

    print(f"fieldpost {VERSION}")


# -- looking -----------------------------------------------------------------------------------------------------------


@get.command("nodes")
def get_nodes(data_dir: DataDir = "", output: Format = Output.table) -> None:
    """Nodes with presence, epoch, what they accepted and what the cloud confirmed. Example: fieldpost get nodes"""
    from common import tables

    _show(tables.NODES, _ask(data_dir, "get.nodes"), output)


@get.command("rules")
def get_rules(
    data_dir: DataDir = "",
    output: Format = Output.table,
    namespace: Namespace = "",
    rule: RuleName = "",
    per_node: Annotated[bool, typer.Option("--per-node", help="One row for each node.")] = False,
) -> None:
    """Exact counts of each rule. Example: fieldpost get rules --per-node"""
    from common import tables

    rows = _ask(data_dir, "get.rules", namespace=namespace, rule=rule, per_node=per_node)
    _show(tables.RULES_PER_NODE if per_node else tables.RULES, rows, output)


@get.command("results")
def get_results(
    data_dir: DataDir = "",
    output: Format = Output.table,
    namespace: Namespace = "",
    rule: RuleName = "",
    status: StatusName = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, the newest.")] = 20,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on with new ones as they are committed.")] = False,
) -> None:
    """Single results, as far as they are kept. Example: fieldpost get results --rule overheat --status FAIL -w"""
    from common import tables

    wanted: dict[str, Any] = {"namespace": namespace, "rule": rule, "status": _status(status)}
    if watch:
        _run(_watch(_socket(data_dir), wanted, output))
    else:
        _show(tables.RESULTS, _ask(data_dir, "get.results", limit=limit, **wanted), output)


@get.command("errors")
def get_errors(
    data_dir: DataDir = "", output: Format = Output.table, namespace: Namespace = "", rule: RuleName = ""
) -> None:
    """The last distinct errors of each rule. Example: fieldpost get errors --rule overheat"""
    from common import tables

    _show(tables.ERRORS, _ask(data_dir, "get.errors", namespace=namespace, rule=rule), output)


@get.command("losses")
def get_losses(
    data_dir: DataDir = "",
    output: Format = Output.table,
    node: NodeName = "",
    kind: Annotated[str, typer.Option("--kind", help="dropped, set_aside, void, restored_copy or cloud_lost.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, the newest.")] = 100,
) -> None:
    """What was lost, where and why. Example: fieldpost get losses --node gw-7"""
    from common import tables

    _show(tables.LOSSES, _ask(data_dir, "get.losses", node=node, kind=kind, limit=limit), output)


@app.command()
def ledger(data_dir: DataDir = "", output: Format = Output.table, node: NodeName = "") -> None:
    """Does the account balance, on nodes and in the cloud? Exit code 1 when not. Example: fieldpost ledger"""
    from common import tables

    found: Any = _ask(data_dir, "ledger", node=node)
    _show(tables.LEDGER, found["nodes"], output)
    if output is Output.table:
        for row in found["nodes"]:
            for words in row["words"]:
                print(f"{row['node']}: {words}")
    if found["fleet"]["off"]:
        sys.exit(1)


@node_commands.command("replace")
def node_replace(node: Annotated[str, typer.Argument(help="Node id.")], data_dir: DataDir = "") -> None:
    """End a conflict: the agent heard last is the node, others are given up. Example: fieldpost node replace gw-7"""
    found: Any = _ask(data_dir, "node.replace", node=node)
    print(f"{found['node']} goes on with epoch {found['epoch']}")


@dlq.command("ls")
def dlq_ls(data_dir: DataDir = "", side: SideName = Side.cloud, output: Format = Output.table) -> None:
    """List dead letters, of the controller or of an agent. Example: fieldpost dlq ls --side edge"""
    from common import tables

    _show(tables.LETTERS, _ask(data_dir, "dlq.ls", side), output)


@dlq.command("show")
def dlq_show(
    letter: Annotated[str, typer.Argument(help="Id of the letter.")],
    data_dir: DataDir = "",
    side: SideName = Side.cloud,
) -> None:
    """Show one dead letter with its payload. Example: fieldpost dlq show 1"""
    import msgspec

    shown = _ask(data_dir, "dlq.show", side, id=_letter_id(letter, side))
    print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())


@dlq.command("redrive")
def dlq_redrive(
    letters: Annotated[list[str] | None, typer.Argument(help="Ids of letters.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All letters.")] = False,
    data_dir: DataDir = "",
    side: SideName = Side.cloud,
) -> None:
    """Try dead letters again. Example: fieldpost dlq redrive --all --side edge"""
    done: Any = _ask(data_dir, "dlq.redrive", side, ids=_letter_ids(letters, every, data_dir, side))
    if side is Side.edge:
        print(f"{done['done']} letters sent again")
        return
    for row in done:
        print(" ".join(str(row.get(name, "")) for name in ("id", "outcome", "reason", "detail")).rstrip())
    if any(row["outcome"] != "redriven" for row in done):
        sys.exit(1)


@dlq.command("drop")
def dlq_drop(
    letters: Annotated[list[str] | None, typer.Argument(help="Ids of letters.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All letters.")] = False,
    data_dir: DataDir = "",
    side: SideName = Side.cloud,
) -> None:
    """Give dead letters up; on an edge that is a loss and recorded as one. Example: fieldpost dlq drop 3 4"""
    done: Any = _ask(data_dir, "dlq.drop", side, ids=_letter_ids(letters, every, data_dir, side))
    print(f"{done['done'] if side is Side.edge else done['dropped']} letters dropped")


def _letter_id(text: str, side: Side) -> str | int:
    if side is Side.edge:
        return text
    if not text.isdecimal():
        raise typer.BadParameter(
            f"{text!r} is not the number of a letter; fieldpost dlq ls shows them", param_hint="LETTER"
        )
    return int(text)


def _letter_ids(letters: list[str] | None, every: bool, data_dir: str, side: Side) -> list[Any]:
    if bool(letters) == every:
        raise typer.BadParameter("name letters, or say --all", param_hint="LETTERS")
    if letters:
        return [_letter_id(text, side) for text in letters]
    found = [row["id"] for row in _ask(data_dir, "dlq.ls", side)]
    if not found:
        print("no dead letters")
        sys.exit(0)
    return found


def _status(text: str) -> str:
    if text.upper() not in ("", "SUCCESS", "FAIL"):
        raise typer.BadParameter("SUCCESS or FAIL", param_hint="--status")
    return text.upper()


def _socket(data_dir: str, side: str = "cloud") -> Path:
    from common.config import load
    from common.control import socket_path
    from common.settings import SharedSettings

    directory = data_dir or load(SharedSettings, environ=os.environ, overrides={}).data_dir
    return socket_path(directory, side)


def _ask(data_dir: str, operation: str, side: Side = Side.cloud, /, **args: Any) -> list[dict[str, Any]]:
    from common.control import call

    rows: list[dict[str, Any]] = asyncio.run(call(_socket(data_dir, str(side)), operation, **args))
    return rows


def _show(columns: Any, rows: list[dict[str, Any]], output: Output) -> None:
    from common import tables

    print(tables.render(columns, rows, str(output)), end="")


async def _watch(path: Path, wanted: dict[str, Any], output: Output) -> None:
    from common import tables
    from common.control import stream

    async for row in stream(path, "watch.results", **wanted):
        print(tables.line(tables.RESULTS, row, str(output)), flush=True)


@app.command()
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
    _run(_tap(broker, taps.Filter(node, rule, _status(status)), output == "json", count))


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


# -- up ----------------------------------------------------------------------------------------------------------------


@app.command()
def down(data_dir: DataDir = "") -> None:
    """Stop what fieldpost up runs, from another terminal. Example: fieldpost down"""
    from common.control import call

    asyncio.run(call(_socket(data_dir, "up"), "stop"))
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
    _run(_up(settings, own_broker, port, node, rules or settings.edge.rules, every, results))


async def _up(
    settings: Any, own_broker: bool, port: int, node: str, rules: list[str], every: float, results: int
) -> None:
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
        cloud_failed = await _child(stack, "cloud", [*common], data)
        edge_failed = await _child(stack, "edge", [*common, "--node", node, *places], data)
        print(f"cloud    cloud-1, store {data / 'cloud.db'}, log {data / 'cloud.log'}")
        print(f"edge     {node}, rules {', '.join(rules) or 'the examples'}, log {data / 'edge.log'}")
        await _telemetry(stack, settings, url, node, every)
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


async def _telemetry(stack: contextlib.AsyncExitStack, settings: Any, url: str, node: str, every: float) -> None:
    import msgspec

    from common.messaging.transport import MqttLink
    from common.tasks import Tasks
    from edge import telemetry

    link = MqttLink(msgspec.structs.replace(settings.broker, url=url), f"{node}-telemetry")
    tasks = Tasks("up")
    await link.start()
    tasks.start("telemetry", lambda: telemetry.publish(link, node, every))
    stack.push_async_callback(link.stop)
    stack.push_async_callback(tasks.stop)


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


if __name__ == "__main__":
    main()
