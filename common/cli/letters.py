"""``fieldpost dlq``: dead letters, of a controller or of an agent on this host."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from common.cli.asking import DataDir, Format, Output, Side, SideName, ask, show

LETTERS_MAX = 1000  # that one order of --all is about

dlq = typer.Typer(
    help="Dead letters: messages that could never be accepted.", no_args_is_help=True, rich_markup_mode=None
)


@dlq.command("ls")
def dlq_ls(data_dir: DataDir = "", side: SideName = Side.cloud, output: Format = Output.table) -> None:
    """List dead letters, of the controller or of an agent. Example: fieldpost dlq ls --side edge"""
    from common import tables

    columns = tables.LETTERS_OF_EDGE if side is Side.edge else tables.LETTERS
    show((*columns, tables.TOPIC) if output is Output.wide else columns, ask(data_dir, "dlq.ls", side), output)


@dlq.command("show")
def dlq_show(
    letter: Annotated[str, typer.Argument(help="Id of the letter.")],
    data_dir: DataDir = "",
    side: SideName = Side.cloud,
) -> None:
    """Show one dead letter with its payload. Example: fieldpost dlq show 1"""
    import msgspec

    shown = ask(data_dir, "dlq.show", side, id=_letter_id(letter, side))
    print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())


@dlq.command("redrive")
def dlq_redrive(
    letters: Annotated[list[str] | None, typer.Argument(help="Ids of letters.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All letters, of a controller the newest 1,000.")] = False,
    data_dir: DataDir = "",
    side: SideName = Side.cloud,
) -> None:
    """Try dead letters again. Example: fieldpost dlq redrive --all --side edge"""
    done: Any = ask(data_dir, "dlq.redrive", side, ids=_letter_ids(letters, every, data_dir, side))
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
    every: Annotated[bool, typer.Option("--all", help="All letters, of a controller the newest 1,000.")] = False,
    data_dir: DataDir = "",
    side: SideName = Side.cloud,
) -> None:
    """Give dead letters up; on an edge that is a loss and recorded as one. Example: fieldpost dlq drop 3 4"""
    from common import tables

    done: Any = ask(data_dir, "dlq.drop", side, ids=_letter_ids(letters, every, data_dir, side))
    count = done["done"] if side is Side.edge else done["dropped"]
    print(f"{tables.plural(count, 'letter')} dropped")
    if letters and count < len(letters):
        sys.stderr.write("fieldpost: the others are not there; fieldpost dlq ls shows those that are\n")
        sys.exit(1)


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
    found = [
        row["id"] for row in ask(data_dir, "dlq.ls", side, **({} if side is Side.edge else {"limit": LETTERS_MAX}))
    ]
    if not found:
        print("no dead letters")
        sys.exit(0)
    return found
