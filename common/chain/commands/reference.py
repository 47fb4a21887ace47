"""The command reference as Markdown, from the specs: what docs/language.md says of commands is what they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from common.chain import values
from common.chain.commands.bind import usage
from common.chain.commands.spec import Example, Kind, Opt, Param, Registry, Spec

_GROUPS = {
    "control": "Control",
    "variables": "Variables",
    "match": "Match",
    "text": "Text",
    "uri": "URIs and queries",
    "data": "JSON and time",
    "collections": "Collections",
    "operations": "Operations",
    "host": "Host commands",
}
_KINDS = {
    Kind.READ: "variable",
    Kind.UPDATE: "variable, changed",
    Kind.WRITE: "variable, written",
    Kind.COMMAND: "`$(...)`, not evaluated",
    Kind.NAME: "word of the text",
}


def reference(registry: Registry) -> str:
    """Return the reference of all commands, by group in a fixed order, within a group in the order of the registry."""
    by_group: dict[str, list[Spec]] = {}
    for spec in registry.specs():
        by_group.setdefault(spec.group, []).append(spec)
    known = [group for group in _GROUPS if group in by_group]
    parts: list[str] = []
    for group in (*known, *sorted(by_group.keys() - set(known))):
        parts.append(f"### {_GROUPS.get(group, group.capitalize())}\n\n")
        for spec in by_group[group]:
            parts += _section(spec)
    return "".join(parts)


def _section(spec: Spec) -> Iterator[str]:
    yield f"#### {spec.name}\n\n{spec.doc}\n\n"
    words = [spec.name, *(_shown(opt) for opt in spec.options), usage(spec)]
    yield f"```\n{' '.join(word for word in words if word)}\n```\n\n"
    if spec.aliases:
        yield f"Also spelled {', '.join(f'`{name}`' for name in spec.aliases)}.\n\n"
    if spec.params or spec.options:
        yield "| argument | meaning |\n|---|---|\n"
        yield from (f"| `{param.name}` ({_kind(param)}) | {_cell(param.doc)} |\n" for param in spec.params)
        yield from (f"| `{_names(opt)}` | {_cell(opt.doc)} |\n" for opt in spec.options)
        yield "\n"
    results = (("Ok", spec.ok), ("Err, an answer", spec.answers), ("Err, a fault", spec.faults))
    lines = [f"- {name}: {said}" for name, said in results if said]
    if lines:
        yield "\n".join(lines) + "\n\n"
    yield "```\n" + "".join(_example(example) for example in spec.examples) + "```\n\n"


def _kind(param: Param) -> str:
    kind = _KINDS.get(param.kind) or ("any value" if param.type == "any" else param.type)
    return kind + (", optional" if param.optional else "") + (", repeated" if param.repeated else "")


def _value(opt: Opt) -> str:
    """What follows the option's name."""
    if opt.out:
        return " NAME"
    if opt.choices:
        return " " + "|".join(opt.choices)
    return {"flag": "", "pair": " KEY VALUE", "command": " $(...)"}.get(opt.type, f" {opt.type.upper()}")


def _shown(opt: Opt) -> str:
    return f"[--{opt.name}{_value(opt)}]{'...' if opt.repeated else ''}"


def _names(opt: Opt) -> str:
    long = f"--{opt.name}{_value(opt)}".replace("|", "\\|")
    return f"-{opt.short}, {long}" if opt.short else long


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _example(example: Example) -> str:
    """The program, and what it gives as a comment."""
    if example.verb:
        return f"{example.program}    # verb {example.verb}\n"
    return f"{example.program}    # {'Ok' if example.ok else 'Err'}({_literal(example.value)})\n"


def _literal(value: Any) -> str:
    return values.to_json(value)
