"""``fieldpost --help``: the commands by what they are for, in the order in which a newcomer meets them."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

SECTIONS = {
    "Run": ("up", "down", "edge", "cloud", "telemetry"),
    "Rules": ("check", "apply", "get", "describe", "enable", "disable", "delete", "chain"),
    "Watch": ("tap", "top", "send", "metrics"),
    "Operate": ("doctor", "ledger", "dlq", "node", "broker", "kube", "version"),
}


class Sections(TyperGroup):
    """A group whose help lists its commands in SECTIONS."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the sections; a command that none of them names is an error of ours, which a test finds."""
        room = formatter.width - 4 - max(map(len, self.commands))
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(room)) for name in names])
