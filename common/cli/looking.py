"""``fieldpost get`` and ``fieldpost ledger``: what a controller knows."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from common.cli.asking import (
    DataDir,
    Format,
    Namespace,
    NodeName,
    Output,
    RuleName,
    Side,
    SideName,
    StatusName,
    ask,
    checked_status,
    follow,
    run_until_interrupt,
    show,
    table_width,
)  # fmt: skip
from common.cli.kinds import ListedKinds

WATCH_S = 1.0  # between two looks
Watch = Annotated[bool, typer.Option("-w", "--watch", help="Go on with the rows that change, until Ctrl-C.")]

get = typer.Typer(
    help="Show what the cloud controller knows.", no_args_is_help=True, rich_markup_mode=None, cls=ListedKinds
)


@get.command("nodes")
def get_nodes(data_dir: DataDir = "", output: Format = Output.table) -> None:
    """Nodes with presence, what they accepted and what the cloud confirmed. Example: fieldpost get nodes"""
    from common import tables

    rows = ask(data_dir, "get.nodes")
    show(tables.NODES_WIDE if output is Output.wide else tables.NODES, rows, output)
    if output is Output.table:
        for row in rows:
            if row["conflict"]:
                print(f"{row['node']}: {tables.printable(row['conflict'])}")


@get.command("rules")
def get_rules(
    data_dir: DataDir = "",
    output: Format = Output.table,
    namespace: Namespace = "",
    rule: RuleName = "",
    per_node: Annotated[bool, typer.Option("--per-node", help="One row for each node.")] = False,
    watch: Watch = False,
) -> None:
    """Rules: wanted version, on how many nodes it runs, exact counts. Example: fieldpost get rules -o wide"""
    from common import tables

    columns: Any = tables.RULES_PER_NODE
    if not per_node:
        columns = tables.RULES_WIDE if output is Output.wide else tables.RULES

    def read() -> list[dict[str, Any]]:
        if per_node:
            return ask(data_dir, "get.rules", namespace=namespace, rule=rule, per_node=True)
        return _rules(data_dir, namespace, rule)

    _show_or_watch(columns, read, output, watch)


@get.command("endpoints")
def get_endpoints(
    data_dir: DataDir = "", output: Format = Output.table, namespace: Namespace = "", watch: Watch = False
) -> None:
    """Endpoints that are wanted, and on how many nodes they are. Example: fieldpost get endpoints"""
    from common import tables

    columns = tables.ENDPOINTS_WIDE if output is Output.wide else tables.ENDPOINTS
    _show_or_watch(
        columns, lambda: ask(data_dir, "get.objects", kind="endpoint", namespace=namespace), output, watch
    )  # fmt: skip


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

    wanted: dict[str, Any] = {"namespace": namespace, "rule": rule, "status": checked_status(status)}
    if watch:
        follow(data_dir, "watch.results", lambda row: _print_result(row, output), **wanted)
        return
    rows = ask(data_dir, "get.results", limit=limit, **wanted)
    show(tables.RESULTS, sorted(rows, key=lambda row: int(row["id"])), output)


@get.command("errors")
def get_errors(
    data_dir: DataDir = "", output: Format = Output.table, namespace: Namespace = "", rule: RuleName = ""
) -> None:
    """The last distinct errors of each rule. Example: fieldpost get errors --rule overheat"""
    from common import tables

    columns = tables.ERRORS_WIDE if output is Output.wide else tables.ERRORS
    show(columns, ask(data_dir, "get.errors", namespace=namespace, rule=rule), output)


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

    columns = tables.LOSSES_WIDE if output is Output.wide else tables.LOSSES
    show(columns, ask(data_dir, "get.losses", node=node, kind=kind, limit=limit), output)


@get.command("sinks")
def get_sinks(data_dir: DataDir = "", output: Format = Output.table) -> None:
    """Where the status of rules is told onward, what waits there and how late. Example: fieldpost get sinks"""
    from common import tables

    rows = ask(data_dir, "get.sinks")
    if not rows and output in (Output.table, Output.wide):
        print("no sinks: set one in cloud.forward")
        return
    show(tables.SINKS_WIDE if output is Output.wide else tables.SINKS, rows, output)


def ledger(data_dir: DataDir = "", output: Format = Output.table, node: NodeName = "") -> None:
    """Does the account balance, on nodes and in the cloud? Exit code 1 when not. Example: fieldpost ledger"""
    from common import tables

    found: Any = ask(data_dir, "ledger", node=node)
    show(tables.LEDGER, found["nodes"], output)
    if output is Output.table:
        for row in found["nodes"]:
            for words in row["words"]:
                print(f"{row['node']}: {words}")
    if found["fleet"]["off"]:
        sys.exit(1)


def _rules(data_dir: str, namespace: str, rule: str) -> list[dict[str, Any]]:
    """What is wanted and what was counted, a row for each rule: also of those that are only one of the two."""
    counts = {
        (row["namespace"], row["rule"], row["uid"]): row
        for row in ask(data_dir, "get.rules", namespace=namespace, rule=rule)
    }
    rows = []
    for wanted in ask(data_dir, "get.objects", kind="rule", namespace=namespace, name=rule):
        key = (wanted["namespace"], wanted.pop("name"), wanted["uid"])
        none = {"namespace": key[0], "rule": key[1], "success": 0, "fail": 0}
        rows.append(counts.pop(key, none) | wanted)
    return sorted([*rows, *counts.values()], key=lambda row: (row["namespace"], row["rule"], row["uid"]))


def _show_or_watch(columns: Any, read: Callable[[], list[dict[str, Any]]], output: Output, watch: bool) -> None:
    """Print the rows; with ``watch`` go on with those that change, until Ctrl-C."""
    before = read()
    if not watch or output not in (Output.json, Output.yaml):
        show(columns, before, output)
    if watch:
        run_until_interrupt(_changes(columns, read, before, output))


async def _changes(columns: Any, read: Any, before: list[dict[str, Any]], output: Output) -> None:
    from common import tables

    while True:
        await asyncio.sleep(WATCH_S)
        rows = await asyncio.to_thread(read)
        lines = tables.blocks(columns, rows, str(output), table_width())[1:]
        for row, line in zip(rows, lines, strict=True):
            if row not in before:
                as_data = output in (Output.json, Output.yaml)
                print(tables.line(columns, row, output) + "\n" if as_data else line, end="", flush=True)
        before = rows


@get.command("audit")
def get_audit(
    data_dir: DataDir = "",
    output: Format = Output.table,
    operation: Annotated[str, typer.Option("--operation", help="Only this operation, as dlq.drop.")] = "",
    who: Annotated[str, typer.Option("--who", help="Only changes with this token.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, the newest.")] = 100,
) -> None:
    """Who changed what, from where, and what became of it. Example: fieldpost get audit --operation dlq.drop"""
    from common import tables

    show(tables.AUDIT, ask(data_dir, "get.audit", operation=operation, who=who, limit=limit), output)


def metrics(data_dir: DataDir = "", side: SideName = Side.cloud) -> None:
    """Metrics in Prometheus' text format, for its textfile collector. Example: fieldpost metrics --side edge"""
    print(ask(data_dir, "metrics", side), end="")


def _print_result(row: dict[str, Any], output: Output) -> None:
    from common import tables

    print(tables.line(tables.RESULTS, row, str(output)), flush=True)
