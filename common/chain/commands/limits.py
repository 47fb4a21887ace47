"""What a command checks before it makes something large, with the error that the limit has everywhere."""

from __future__ import annotations

from typing import Any

from common.chain.commands.spec import RunContext
from common.chain.errors import LimitError


def check_text(run: RunContext, chars: int) -> None:
    """Raise LimitError where a string of ``chars`` characters would certainly be longer than the run allows.

    A byte-exact check follows where the command ``grows``; this one comes before the memory is taken.
    """
    if chars > run.string_bytes_max:
        raise LimitError("PC-LIMIT-STRING", f"a string of more than {run.string_bytes_max} bytes")


def check_items(run: RunContext, made: Any, items: int) -> None:
    """Raise LimitError where the collection ``made`` would have more items than the run allows."""
    if items > run.collection_items_max:
        run.changing(made, items)
