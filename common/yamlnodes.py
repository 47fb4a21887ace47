"""YAML (and JSON) text as nodes that know their line, so that an error can say where (experience U3)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.events import CollectionEndEvent, CollectionStartEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from common.errors import ConfigError

TEXT_BYTES_MAX = 4 * 1024 * 1024
NODES_MAX = 200_000  # after aliases are followed, so that nested aliases cannot blow up the memory
DEPTH_MAX = 64

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_constructor = SafeConstructor()
_SCALARS: dict[str, Callable[[Any], Any]] = {
    "tag:yaml.org,2002:null": lambda node: None,
    "tag:yaml.org,2002:bool": _constructor.construct_yaml_bool,
    "tag:yaml.org,2002:int": _constructor.construct_yaml_int,
    "tag:yaml.org,2002:float": _constructor.construct_yaml_float,
}


def read_text(file: str) -> str:
    """Return the text of a file. Raises ConfigError when it cannot be read, is too large or is not UTF-8."""
    try:
        with open(file, "rb") as stream:
            raw = stream.read(TEXT_BYTES_MAX + 1)
        if len(raw) > TEXT_BYTES_MAX:
            raise ConfigError(f"larger than {TEXT_BYTES_MAX} bytes", file=file)
        return raw.decode("utf-8-sig")
    except OSError as exc:
        raise ConfigError(f"cannot read it: {exc.strerror}", file=file) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError("is not UTF-8 text", file=file) from exc


def compose(text: str, file: str) -> list[Node]:
    """Return the root node of each non-empty document. Raises ConfigError with the line of a syntax error.

    The error does not quote the text, which may hold a secret.
    """
    if len(text) > TEXT_BYTES_MAX:
        raise ConfigError(f"larger than {TEXT_BYTES_MAX} bytes", file=file)
    if text.lstrip()[:1] in ("{", "["):
        text = _PAIR.sub(_join_pair, text)
    nodes = []
    loader = None
    try:
        _check_depth(text, file)
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            if node is not None and not is_null(node):
                _check_size(node, file)
                nodes.append(node)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise ConfigError(
            f"not YAML: {exc.problem or exc.context}", file=file, line=mark.line + 1 if mark else 0
        ) from exc
    except (yaml.YAMLError, UnicodeEncodeError) as exc:
        raise ConfigError("not YAML: it holds a character that YAML does not allow", file=file) from exc
    finally:
        if loader is not None:
            loader.dispose()
    return nodes


def _join_pair(found: re.Match[str]) -> str:
    """JSON writes a character beyond 16 bits as two escapes, which YAML does not take."""
    pair = bytes.fromhex(found[2] + found[3])
    return found[1] + pair.decode("utf-16-be")


def _check_depth(text: str, file: str) -> None:
    """Raise ConfigError for deep nesting. libyaml's composer recurses in C, and a million brackets end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, CollectionStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise ConfigError(f"nested deeper than {DEPTH_MAX}", file=file, line=line)
        elif isinstance(event, CollectionEndEvent):
            depth -= 1


def _check_size(root: Node, file: str) -> None:
    stack, seen = [(root, 1)], 0
    while stack:
        node, depth = stack.pop()
        seen += 1
        if depth > DEPTH_MAX:
            raise ConfigError(f"nested deeper than {DEPTH_MAX}", file=file, line=line_of(node))
        if seen > NODES_MAX:
            raise ConfigError(f"more than {NODES_MAX} values, aliases followed", file=file, line=line_of(node))
        if isinstance(node, MappingNode):
            stack += [(part, depth + 1) for pair in node.value for part in pair]
        elif isinstance(node, SequenceNode):
            stack += [(part, depth + 1) for part in node.value]


def line_of(node: Node) -> int:
    """The line that the node begins on, from 1."""
    return int(node.start_mark.line) + 1


def is_null(node: Node) -> bool:
    """True for ``null``, ``~`` and an empty value."""
    return isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def items(node: Node, file: str) -> Iterator[tuple[str, Node, Node]]:
    """Yield (key text, key node, value node) of a map.

    Raises ConfigError when the node is no map, a key is no text, or a key stands twice.
    """
    if not isinstance(node, MappingNode):
        raise ConfigError("a map of keys is expected here", file=file, line=line_of(node))
    seen: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            raise ConfigError("a key must be plain text", file=file, line=line_of(key))
        if key.value in seen:
            raise ConfigError(
                f"{key.value!r} stands twice, first in line {seen[key.value]}", file=file, line=line_of(key)
            )
        seen[key.value] = line_of(key)
        yield key.value, key, value


def plain(node: Node, file: str) -> Any:
    """Return the node's value in JSON's types; map keys are their text. Raises ConfigError as ``items``.

    Dates, sets and other things that JSON does not have are their text.
    """
    if isinstance(node, MappingNode):
        return {name: plain(value, file) for name, _, value in items(node, file)}
    if isinstance(node, SequenceNode):
        return [plain(part, file) for part in node.value]
    construct = _SCALARS.get(node.tag)
    if construct is None:
        return node.value
    try:
        return construct(node)
    except (ValueError, LookupError) as exc:
        raise ConfigError(f"{node.value!r} is no {node.tag.rpartition(':')[2]}", file=file, line=line_of(node)) from exc
