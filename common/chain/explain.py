"""What the compiler made of a block, beside its text (L11, L12). The same text always gives the same explanation."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from common.chain.compiler import Compiled, translate
from common.chain.emitter import Config, Link
from common.chain.nodes import LibSource
from common.chain.signals import LEVELS

_INDENT = "    "
_MARGIN = " " * 7


def explain(source: LibSource, config: Config) -> str:
    """Return, for every block of a list, its lines, and under each the Python code that it became.

    Below the code stands what its globals are. Raises ChainErrors for a text that does not compile.
    """
    shown = []
    for chain in source.chains:
        for block in chain.blocks:
            explained = explain_block(block.text, *translate(block.text, config))
            shown.append(f"{source.id}:{chain.id}:{block.id}\n{explained}")
    return "\n\n".join(shown)


def explain_block(text: str, compiled: Compiled, tree: ast.Module) -> str:
    """Return the lines of one block with the code of each."""
    source = text.split("\n")
    function: Any = tree.body[0]
    lines: list[str] = []
    done = 0
    for line, code in _rendered(function.body, 0):
        lines += [f"{at + 1:4} | {source[at]}" for at in range(done, min(line, len(source)))]
        done = max(done, line)
        lines.append(f"{_MARGIN}{_INDENT}{code}")
    lines += [f"{at + 1:4} | {source[at]}" for at in range(done, len(source))]
    notes = [f"{_MARGIN}{name} = {note}" for name, note in compiled.notes.items()]
    notes += [f"{_MARGIN}{link.name} = {_link_text(link)}" for link in compiled.links]
    return "\n".join([*lines, *notes])


def _rendered(statements: Sequence[Any], depth: int) -> Iterator[tuple[int, str]]:
    """The line of the chain, and one line of Python, for every statement; bodies follow their head."""
    indent = _INDENT * depth
    for node in statements:
        if isinstance(node, ast.If):
            yield node.lineno, f"{indent}if {ast.unparse(node.test)}:"
            yield from _rendered(node.body, depth + 1)
            if node.orelse:
                yield 0, f"{indent}else:"
                yield from _rendered(node.orelse, depth + 1)
        elif isinstance(node, ast.For):
            yield node.lineno, f"{indent}for {ast.unparse(node.target)} in {ast.unparse(node.iter)}:"
            yield from _rendered(node.body, depth + 1)
        else:
            line = 0 if isinstance(node, ast.Pass) else node.lineno
            yield line, indent + ast.unparse(node)


def _link_text(link: Link) -> str:
    """What a global is that is settled when the block is mounted."""
    if link.what == "place":
        return f"the place chain:block:{link.data[0]}"
    if link.what == "origin":
        return f"the place of line {link.data[0].line}"
    if link.what == "signal":
        kind, value, line, *_ = link.data
        return f"the signal ({kind}, {value!r}) of line {line}"
    if link.what in ("exec", "invoke"):
        sort, name = link.data
        return f"{link.what} {f'--{sort} ' if sort in LEVELS else ''}{name}"
    if link.what == "goto":
        return f"goto {link.data[0]}"
    return _OTHERS[link.what]


_OTHERS = {
    "scope": "the targets that the text may name",
    "string_quarter": "a quarter of the bytes that a string may have",
    "depth_max": "the budget of nested exec",
    "self": "this block, for the trace",
}
