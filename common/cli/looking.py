"""``fieldpost get`` and ``fieldpost ledger``: what a controller knows."""

from __future__ import annotations

import sys
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
    show,
)  # fmt: skip

get = typer.Typer(help="Show what the cloud controller knows.", no_args_is_help=True, rich_markup_mode=None)


@get.command("nodes")
def get_nodes(data_dir: DataDir = "", output: Format = Output.table) -> None:
    """Nodes with presence, epoch, what they accepted and what the cloud confirmed. Example: fieldpost get nodes"""
    from common import tables

    show(tables.NODES, ask(data_dir, "get.nodes"), output)


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

    rows = ask(data_dir, "get.rules", namespace=namespace, rule=rule, per_node=per_node)
    show(tables.RULES_PER_NODE if per_node else tables.RULES, rows, output)


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

    show(tables.ERRORS, ask(data_dir, "get.errors", namespace=namespace, rule=rule), output)


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

    show(tables.LOSSES, ask(data_dir, "get.losses", node=node, kind=kind, limit=limit), output)


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
