"""The kinds of things that commands are about, in the words that people use for them.

One word is ours: ``rule``, ``endpoint``, ``node``. Plurals, and the kinds of manifests, mean the same.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import typer
from typer.core import TyperGroup


class Kind(StrEnum):
    """What a command can be about."""

    rule = "rule"
    endpoint = "endpoint"
    node = "node"


def kind_of(text: str) -> Kind | None:
    """The kind that a word means, None for any other word."""
    word = text.lower().removeprefix("rule") if text.lower().startswith("ruleendpoint") else text.lower()
    return next((kind for kind in Kind if word in (kind.value, f"{kind}s")), None)


def among(*kinds: Kind) -> Callable[[str], Kind]:
    """A parser for an argument that takes these kinds. It raises BadParameter for any other word."""

    def parse(text: str) -> Kind:
        kind = kind_of(text)
        if kind not in kinds:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(kinds)}")
        return kind

    return parse


class ListedKinds(TyperGroup):
    """A group whose commands are kinds in the plural: their singular is taken, too."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of this name, of its plural, or None."""
        found = super().get_command(ctx, cmd_name)
        return found if found is not None else super().get_command(ctx, f"{kind_of(cmd_name) or cmd_name}s")
