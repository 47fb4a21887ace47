"""``fieldpost edge config|rule|reload``: what the agent on this host runs, and edits of it for diagnosis (flow F6)."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from common.cli.asking import DataDir, Format, Output, Side, ask, show


class _RunByDefault(TyperGroup):
    """Without one of its commands, ``fieldpost edge`` runs an agent with all that is given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


edge_commands = typer.Typer(
    help="Run an edge agent (its options: fieldpost edge run --help), or look at what one runs.",
    cls=_RunByDefault,
    no_args_is_help=False,
    rich_markup_mode=None,
)
config = typer.Typer(help="The configuration of the agent on this host.", no_args_is_help=True, rich_markup_mode=None)
rule = typer.Typer(
    help="Edit rules of the agent on this host until its next reload.", no_args_is_help=True, rich_markup_mode=None
)
edge_commands.add_typer(config, name="config")
edge_commands.add_typer(rule, name="rule")

AddressName = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="hook:chain:block[:line]; hook is a hook point, or a rule as NS/NAME.")
]
TextName = Annotated[str, typer.Argument(metavar="TEXT", help="Text of the rule; @FILE reads a file.")]


class _Operation(StrEnum):
    add = "add"
    append = "append"
    set = "set"
    move = "move"
    rm = "rm"


@config.command("show")
def config_show(
    origin: Annotated[bool, typer.Option("--origin", help="Tell layer, file and line of each value.")] = False,
    data_dir: DataDir = "",
    output: Format = Output.table,
) -> None:
    """Show the merged configuration, value by value. Example: fieldpost edge config show --origin"""
    from common import tables

    rows = ask(data_dir, "config.show", Side.edge)
    if output is Output.table:
        show(tables.ORIGINS if origin else tables.VALUES, rows, output)
    else:
        show(tables.ORIGINS, rows if origin else [{k: row[k] for k in ("key", "value")} for row in rows], output)


@edge_commands.command("reload")
def reload(data_dir: DataDir = "") -> None:
    """Read all files again and drop the edits; a file that is wrong changes nothing. Example: fieldpost edge reload"""
    done: Any = ask(data_dir, "reload", Side.edge)
    print(f"{done['rules']} rules; {done['dropped']} edits dropped")


@rule.command("add")
def rule_add(address: AddressName, text: TextName, data_dir: DataDir = "") -> None:
    """Put a text first. Example: fieldpost edge rule add default/telemetry 'echo ${MSG.topic}'"""
    _edit(_Operation.add, address, data_dir, text=_text(text))


@rule.command("append")
def rule_append(address: AddressName, text: TextName, data_dir: DataDir = "") -> None:
    """Put a text last. Example: fieldpost edge rule append preRoute 'echo ${MSG.topic}'"""
    _edit(_Operation.append, address, data_dir, text=_text(text))


@rule.command("set")
def rule_set(address: AddressName, text: TextName, data_dir: DataDir = "") -> None:
    """Replace a chain, block or line. Example: fieldpost edge rule set default/telemetry:diagnosis-1 accept"""
    _edit(_Operation.set, address, data_dir, text=_text(text))


@rule.command("move")
def rule_move(
    address: AddressName,
    position: Annotated[int, typer.Argument(help="New priority of a chain or block, or new line.")],
    data_dir: DataDir = "",
) -> None:
    """Change the order. Example: fieldpost edge rule move default/telemetry:diagnosis-1 5"""
    _edit(_Operation.move, address, data_dir, position=position)


@rule.command("rm")
def rule_rm(address: AddressName, data_dir: DataDir = "") -> None:
    """Remove a chain, block or line. Example: fieldpost edge rule rm preRoute:diagnosis-1"""
    _edit(_Operation.rm, address, data_dir)


def _text(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise typer.BadParameter(f"cannot read {text[1:]}: {exc}", param_hint="TEXT") from exc


def _edit(operation: _Operation, address: str, data_dir: str, **args: Any) -> None:
    done: Any = ask(data_dir, "rule.edit", Side.edge, edit=operation.value, address=address, **args)
    print(f"{done['rules']} rules run; {done['edits']} edits until the next reload")
