"""Settings as YAML: nodes -> values by dotted key, each with its origin, and a value as text (experience U3).

A module of its own, because YAML takes longer to load than an agent that is set up by flags and texts should wait.
"""

from __future__ import annotations

from typing import Any

import msgspec
import yaml
from msgspec import inspect
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from common.configtypes import (
    SECTIONS,
    Origin,
    Values,
    fields_of,
    info_of,
    is_text,
    is_text_info,
    is_text_list,
    section_of,
    unknown,
)
from common.errors import ConfigError
from common.yamlnodes import compose, is_null, items, line_of, plain, read_text


def read_file(cls: type[msgspec.Struct], file: str, values: Values) -> None:
    """Put every value of a settings file under its dotted key. Raises ConfigError."""
    roots = compose(read_text(file), file)
    if len(roots) > 1:
        raise ConfigError("holds several documents; one is expected", file=file, line=line_of(roots[1]))
    for root in roots:
        _walk(cls, root, "", Origin(file), values)


def read_value(kind: Any, key: str, text: str, origin: Origin, values: Values) -> None:
    """Put what a text says for a setting or section of this type under its dotted key. Raises ConfigError."""
    roots = compose(text, origin.name)
    node = roots[0] if roots else ScalarNode("tag:yaml.org,2002:null", "null")
    if section := section_of(kind):
        _walk(section, node, key + ".", origin, values)
    else:
        value = _build(node, kind, origin)
        values[key] = ([text] if isinstance(value, str) and is_text_list(kind) else value, origin)


def yaml_of(value: Any) -> str:
    """The value as YAML text in one line."""
    text = yaml.safe_dump(msgspec.to_builtins(value), default_flow_style=True, width=10**6, allow_unicode=True)
    return text.strip().removesuffix("...").strip()


def _walk(cls: type[msgspec.Struct], node: Node, prefix: str, origin: Origin, values: Values) -> None:
    """Put every value of a map node under its dotted key; ``origin`` gives the file or the name."""
    if is_null(node):
        return
    values[prefix] = (None, origin)  # the section was given, though perhaps nothing in it
    fields = fields_of(cls)
    if not isinstance(node, MappingNode):
        name = f"{prefix[:-1]}: " if prefix else ""
        raise _at(origin, node).error(f"{name}given {_shown(node)}, expected a map with {', '.join(fields)}")
    for name, key_node, value in items(node, origin.file or origin.name):
        here = _at(origin, key_node)
        if name not in fields:
            if not prefix and name in SECTIONS:
                continue
            raise here.error(unknown(prefix + name, prefix[:-1], name, fields))
        kind = fields[name].type
        if section := section_of(kind):
            _walk(section, value, prefix + name + ".", origin, values)
        else:
            values[prefix + name] = (_build(value, kind, here), here)


def _at(origin: Origin, node: Node) -> Origin:
    return origin if origin.name else Origin(origin.file, line_of(node))


def _build(node: Node, kind: Any, origin: Origin) -> Any:
    """The node's value; a scalar is its text where the setting is a text, so ``protocol: 5`` need no quotes."""
    info = info_of(kind)
    if isinstance(node, ScalarNode) and is_text(kind) and not is_null(node):
        return node.value
    if isinstance(node, SequenceNode) and is_text_list(kind):
        return [part.value if isinstance(part, ScalarNode) else plain(part, origin.file) for part in node.value]
    if isinstance(node, MappingNode) and isinstance(info, inspect.DictType) and is_text_info(info.value_type):
        pairs = items(node, origin.file or origin.name)
        return {k: v.value if isinstance(v, ScalarNode) else plain(v, origin.file) for k, _, v in pairs}
    return plain(node, origin.file or origin.name)


def _shown(node: Node) -> str:
    return "a list" if isinstance(node, SequenceNode) else "a single value"
