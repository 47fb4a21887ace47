"""Make the pages that come from the code: ``python docs/generate.py`` writes settings, commands and language-commands.

A test fails when they are out of date (tests/test_docs.py).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))  # so that it runs from a clone that is not installed

import typer  # noqa: E402

import cloud.__main__  # noqa: E402
import cloud.settings  # noqa: E402
import edge.__main__  # noqa: E402
import edge.settings  # noqa: E402
import fieldpost  # noqa: E402
from common.chain.commands.reference import reference  # noqa: E402
from common.config import describe, document  # noqa: E402
from common.rulechains import commands as chain_commands  # noqa: E402

COMMANDS_HEAD = """# Commands

This page is generated from the code (`make docs`); `--help` says the same. Results and findings go to standard output,
an error is one line on standard error.

| exit code | meaning |
|---|---|
| 0 | done; also when Ctrl-C ends what goes on until then |
| 1 | failed: nobody answers, refused, findings of `check`, `chain` or `doctor`, a `ledger` that is off |
| 2 | wrong use or wrong settings: trying again does not help |
| 130 | Ctrl-C before it was done |

A kind is `rule`, `endpoint` or `node`, in the singular or plural. `-o json` and `-o yaml` print the answers of the
[API](api.md) with the same fields; `table` and `wide` are for people and may change.
"""
LANGUAGE_HEAD = """# Commands of the process-chain language

This page is generated from the code (`make docs`); every example is a test. What Ok, Err, answers and faults are says
[language.md](language.md). Lines of examples show what they give behind `#`.

"""
PROCESS_OPTIONS = (
    ("`-c`, `--config`", "Settings file; default `$FIELDPOST_CONFIG`, then `fieldpost.yaml` in this directory."),
    ("`--set`", "One setting as KEY=VALUE by its dotted key ([settings](settings.md)); repeatable."),
    ("`--print-config`", "Print the effective settings, each with where it came from, secrets masked, and end."),
)


def pages() -> dict[str, str]:
    """The generated pages: file name -> text."""
    made = {
        "settings.md": document(edge.settings.Settings, cloud.settings.Settings),
        "commands.md": commands(),
        "language-commands.md": LANGUAGE_HEAD + reference(chain_commands()).rstrip() + "\n",
    }
    return {name: re.sub(r"<(?=[a-z])", "&lt;", text) for name, text in made.items()}


def commands() -> str:
    """``docs/commands.md``: every command with its options, from the command line itself."""
    root: Any = typer.main.get_command(fieldpost.app)
    return COMMANDS_HEAD + "".join(part for command in _walk(root, "fieldpost") for part in _section(*command))


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    inside = getattr(command, "commands", None)
    if inside is None:
        yield name, command
        return
    for part in sorted(inside):
        yield from _walk(inside[part], f"{name} {part}")


def _section(name: str, command: Any) -> Iterator[str]:
    text, _, example = " ".join(command.help.split()).partition(" Example: ")
    yield f"\n## {name}\n\n{text}\n\n```sh\n{example}\n```\n"
    rows = _process_options(name) or [(_names(option), _meaning(option)) for option in command.params]
    if rows:
        yield "\n| option | meaning |\n|---|---|\n"
        yield from (f"| {names} | {meaning} |\n" for names, meaning in rows)


def _process_options(name: str) -> list[tuple[str, str]]:
    """The options of edge and cloud, which read their own command line (common.config.parse_args)."""
    flags: Mapping[str, str]
    if name == "fieldpost edge run":
        flags, settings = edge.__main__.FLAGS, describe(edge.settings.Settings)
    elif name == "fieldpost cloud":
        flags, settings = cloud.__main__._SHORTCUTS, describe(cloud.settings.Settings)
    else:
        return []
    meaning = {setting.key: setting.description for setting in settings}
    return [*PROCESS_OPTIONS, *((f"`{flag}`", f"{meaning[key]} (`{key}`)") for flag, key in flags.items())]


def _names(option: Any) -> str:
    return ", ".join(f"`{name}`" for name in option.opts)


def _meaning(option: Any) -> str:
    default = getattr(option.default, "value", option.default)
    return option.help + (f" Default: {default}." if default or (default == 0 and not option.is_flag) else "")


if __name__ == "__main__":
    for file, page in pages().items():
        (DOCS / file).write_text(page)
