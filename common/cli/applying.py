"""``fieldpost apply|delete|enable|disable|node``: what is wanted of the fleet, in kubectl's words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from common.cli.asking import DataDir, Format, Output, ask, show
from common.cli.kinds import Kind, among

STDIN = "-"
STDIN_NAME = "(standard input)"  # in findings
FINDINGS = "refused"  # the kind of error that holds findings, one a line, as ``fieldpost check`` prints them
SUFFIXES = (".yaml", ".yml", ".json")

RuleArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the rule.")]
OfNamespace = Annotated[str, typer.Option("-n", "--namespace", help="Namespace of the object.")]

node = typer.Typer(help="Nodes and their identity.", no_args_is_help=True, rich_markup_mode=None)


OnlyRule = Annotated[Kind, typer.Argument(metavar="KIND", help="rule.", parser=among(Kind.rule))]
AnyKind = Annotated[Kind, typer.Argument(metavar="KIND", help="rule, endpoint or node.", parser=among(*Kind))]


def apply(
    files: Annotated[
        list[str], typer.Option("-f", "--file", help="Manifests: file, directory, or - for standard input; repeatable.")
    ],
    data_dir: DataDir = "",
    output: Format = Output.table,
) -> None:
    """Make rules and endpoints the wanted ones, all or none.

    Example: fieldpost apply -f examples/relay.yaml -f examples/fan-out.yaml
    """
    _show_changes(_asked(data_dir, "apply", files), output)


def check_there(files: list[str]) -> int:
    """Let the controller check manifests beside what is wanted already; return how many objects they are."""
    found: Any = _asked("", "check", files)
    return int(found["objects"])


def _asked(data_dir: str, operation: str, files: list[str]) -> Any:
    """Ask for an operation on manifests. Findings are printed, one a line, and end the command with exit code 1."""
    from common.errors import ControlError

    texts = [{"text": text, "file": file} for file, text in _texts(files)]
    try:
        return ask(data_dir, operation, manifests=texts)
    except ControlError as exc:
        if exc.kind != FINDINGS:
            raise
        print(exc)
        sys.exit(1)


def delete(
    kind: AnyKind,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the rule or endpoint, id of the node.")],
    namespace: OfNamespace = "default",
    data_dir: DataDir = "",
    output: Format = Output.table,
) -> None:
    """Delete a rule, an endpoint that no rule uses, or a node. Example: fieldpost delete rule relay"""
    if kind is Kind.node:
        ask(data_dir, "node.delete", node=name)
        print(f"node {name} deleted; what it still sends is refused, fieldpost node add {name} takes it back")
        return
    _show_changes(ask(data_dir, "delete", kind=kind.value, name=name, namespace=namespace), output)


def enable(
    kind: OnlyRule, name: RuleArgument, namespace: OfNamespace = "default", data_dir: DataDir = "",
    output: Format = Output.table,
) -> None:  # fmt: skip
    """Let a rule run again. Example: fieldpost enable rule alarms -n plant"""
    _show_changes(ask(data_dir, "enable", rule=name, namespace=namespace), output, "enabled")


def disable(
    kind: OnlyRule, name: RuleArgument, namespace: OfNamespace = "default", data_dir: DataDir = "",
    output: Format = Output.table,
) -> None:  # fmt: skip
    """Keep a rule on its nodes, but do not run it. Example: fieldpost disable rule alarms -n plant"""
    _show_changes(ask(data_dir, "disable", rule=name, namespace=namespace), output, "disabled")


@node.command("add")
def node_add(
    name: Annotated[str, typer.Argument(metavar="NODE", help="Node id.")],
    labels: Annotated[
        list[str] | None, typer.Option("--label", help="KEY=VALUE, over what the node says of itself; repeatable.")
    ] = None,
    data_dir: DataDir = "",
) -> None:
    """Make a node part of the fleet, new or deleted before. Example: fieldpost node add gw-9 --label site=a"""
    given = dict(_label(text) for text in labels or [])
    done: Any = ask(data_dir, "node.add", node=name, labels=given if labels else None)
    print(f"node {name} {done['outcome']}")


@node.command("replace")
def node_replace(name: Annotated[str, typer.Argument(metavar="NODE", help="Node id.")], data_dir: DataDir = "") -> None:
    """End a conflict: the agent heard last is the node, others are given up. Example: fieldpost node replace gw-7"""
    found: Any = ask(data_dir, "node.replace", node=name)
    print(f"{found['node']} goes on with epoch {found['epoch']}")


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--label")
    return key, value


def _texts(places: list[str]) -> list[tuple[str, str]]:
    """The texts of all places, each with the name of its file. Raises BadParameter for one that cannot be read."""
    from common.errors import ConfigError
    from common.yamlnodes import read_text

    texts = []
    for place in places:
        if place == STDIN:
            texts.append((STDIN_NAME, sys.stdin.read()))
            continue
        files = _files(Path(place))
        if not files:
            raise typer.BadParameter(f"{place} holds no {', '.join(SUFFIXES)}", param_hint="-f")
        for file in files:
            try:
                texts.append((str(file), read_text(str(file))))
            except ConfigError as exc:
                raise typer.BadParameter(str(exc), param_hint="-f") from exc
    return texts


def _files(place: Path) -> list[Path]:
    return sorted(file for file in place.iterdir() if file.suffix in SUFFIXES) if place.is_dir() else [place]


def _show_changes(rows: list[dict[str, Any]], output: Output, configured: str = "configured") -> None:
    """Print what became of each object; ``configured`` is the word for one that was changed."""
    from common import tables

    if output in (Output.json, Output.yaml):
        show((), rows, output)
        return
    for row in rows:
        what = f"{'rule' if row['kind'] == 'Rule' else 'endpoint'} {row['namespace']}/{row['name']}"
        where = (
            ""
            if row["outcome"] == "deleted"
            else f", version {row['version']}, for {tables.plural(row['nodes'], 'node')}"
        )
        print(f"{what} {configured if row['outcome'] == 'configured' else row['outcome']}{where}")
