"""Settings from a YAML file, then the environment, then flags; later wins (experience U3).

``FIELDPOST__BROKER__KEEPALIVE_S=30`` is ``broker.keepalive_s``. Settings are read once, checked key by key, and every
error says which key, what was given, what is expected and where it came from. The file may serve several processes:
the sections of the other ones are passed over.
"""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec
import yaml
from msgspec import NODEFAULT, inspect, structs
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from common.errors import ConfigError
from common.masking import MASKED, mask_urls
from common.yamlnodes import compose, is_null, items, line_of, plain, read_text

PREFIX = "FIELDPOST__"
FILE_VARIABLE = "FIELDPOST_CONFIG"
DEFAULT_FILE = "fieldpost.yaml"
SECTIONS = ("edge", "cloud", "console")  # top-level sections that belong to one process; the others pass over them

T = TypeVar("T", bound=msgspec.Struct)


class Origin(NamedTuple):
    """Where a value came from: a file and line, or the name of a variable or flag."""

    file: str = ""
    line: int = 0
    name: str = ""

    def error(self, text: str) -> ConfigError:
        """A ConfigError that names this place."""
        return ConfigError(f"{text} (from {self.name})" if self.name else text, file=self.file, line=self.line)

    def __str__(self) -> str:
        return self.name or f"{self.file}:{self.line}"


class Setting(NamedTuple):
    """One setting as documentation shows it; ``default`` is YAML text, ``required`` when there is none."""

    key: str
    type: str
    default: str
    description: str
    secret: bool = False


class _Leaf(NamedTuple):
    """One setting of a class: its dotted key, type, and whether it is secret."""

    key: str
    type: Any
    default: Any
    description: str
    secret: bool


_Values = dict[str, tuple[Any, Origin]]


def load(
    cls: type[T],
    *,
    file: str | None = None,
    environ: Mapping[str, str],
    overrides: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
) -> T:
    """Return the settings ``cls`` from file, environment and overrides.

    Arguments:
        file: path of a YAML file, which must exist. None takes ``$FIELDPOST_CONFIG``, then ``fieldpost.yaml`` in the
            current directory if there is one; an empty text takes no file.
        environ: variables; those that begin with ``FIELDPOST__`` are settings. Values are YAML, except where the
            setting is a text: then they are taken as they stand.
        overrides: dotted key -> value, written as in ``environ``.
        flags: dotted key -> the flag that sets it, for messages.

    Raises ConfigError: an unknown key (with the nearest name), a wrong type or range, a missing required setting, a
    secret among the overrides (reliability R4), or what the class itself refuses.
    """
    return _assemble(cls, _collect(cls, file, environ, overrides, flags or {}), flags or {})


def parse_args(
    prog: str,
    argv: Sequence[str],
    cls: type[T],
    *,
    shortcuts: Mapping[str, str],
    environ: Mapping[str, str] | None = None,
) -> tuple[T, str]:
    """Read the command line of a process and return (settings, text to print).

    The text is empty unless ``--print-config`` was given: then it is the effective settings as YAML, each with its
    origin, secrets masked; the caller prints it and ends. ``shortcuts`` maps flags to dotted keys, such as
    ``{"--node": "edge.node"}``. Wrong use ends the process with exit code 2 and one line on standard error.
    """
    leaves = {leaf.key: leaf for leaf in _leaves(cls)}
    parser = _Parser(prog=prog, allow_abbrev=False, description=(cls.__doc__ or "").partition("\n")[0])
    parser.add_argument("-c", "--config", metavar="FILE", help=f"settings; default ${FILE_VARIABLE} or {DEFAULT_FILE}")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting, by dotted key")
    parser.add_argument("--print-config", action="store_true", help="print the effective settings and end")
    for flag, key in shortcuts.items():
        leaf = leaves[key]
        more: dict[str, Any] = {"nargs": "?", "const": "true"} if _info(leaf.type) == inspect.BoolType() else {}
        if _is_text_list(leaf.type):
            more = {"action": "append"}
        parser.add_argument(flag, dest=flag, metavar="VALUE", help=leaf.description.replace("%", "%%") or key, **more)
    given = parser.parse_args(argv)
    overrides: dict[str, str] = {}
    flags = {key: flag for flag, key in shortcuts.items()}
    for text in given.set:
        key, equals, value = text.partition("=")
        if not equals:
            parser.error(f"--set {text}: write it as key=value")
        overrides[key] = value
    named = {key: f"--set {key}" for key in overrides}
    for flag, key in shortcuts.items():
        if (value := getattr(given, flag)) is not None:
            overrides[key] = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            named[key] = flag
    try:
        values = _collect(cls, given.config, os.environ if environ is None else environ, overrides, named)
        settings = _assemble(cls, values, flags)
    except ConfigError as exc:
        parser.error(str(exc))
    return settings, effective(settings, values) if given.print_config else ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n".replace("\n", " ").rstrip() + "\n")


def mask(settings: msgspec.Struct) -> dict[str, Any]:
    """Return the settings as a map that can be shown: secrets that are set, and passwords in URLs, are ``***``."""
    shown: dict[str, Any] = {}
    for field in structs.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, msgspec.Struct):
            shown[field.encode_name] = mask(value)
        else:
            shown[field.encode_name] = MASKED if value and _is_secret(field.type) else mask_urls(value)
    return shown


def effective(settings: msgspec.Struct, values: Mapping[str, tuple[Any, Origin]] | None = None) -> str:
    """Return the settings as YAML, secrets masked; ``values`` adds where each that is not a default came from."""
    lines: list[str] = []

    def write(shown: dict[str, Any], prefix: str, indent: str) -> None:
        for name, value in shown.items():
            key = prefix + name
            if isinstance(value, dict) and key not in leaf_keys:
                lines.append(f"{indent}{name}:")
                write(value, key + ".", indent + "  ")
            else:
                origin = f"  # {values[key][1]}" if values and key in values else ""
                lines.append(f"{indent}{name}: {_yaml(value)}{origin}")

    leaf_keys = {leaf.key for leaf in _leaves(type(settings))}
    write(mask(settings), "", "")
    return "\n".join(lines) + "\n"


def describe(cls: type[msgspec.Struct]) -> list[Setting]:
    """Return every setting of ``cls``, in the order of the code."""
    return [
        Setting(
            leaf.key,
            _expected(_info(leaf.type)),
            "required" if leaf.default is NODEFAULT else _yaml(leaf.default),
            leaf.description,
            leaf.secret,
        )
        for leaf in _leaves(cls)
    ]


def document(*classes: type[msgspec.Struct]) -> str:
    """Return ``docs/settings.md``: one table per section; settings that several classes share stand once."""
    sections: dict[str, dict[str, Setting]] = {}
    for cls in classes:
        for setting in describe(cls):
            sections.setdefault(setting.key.rpartition(".")[0], {})[setting.key] = setting
    lines = [
        "# Settings",
        "",
        f"Read from a YAML file (`--config`, `{FILE_VARIABLE}`, or `{DEFAULT_FILE}` in the current directory), then",
        f"from environment variables, then from flags; later wins. `broker.url` is `{PREFIX}BROKER__URL` in the",
        "environment and `--set broker.url=...` on the command line. This page is generated from the code.",
    ]
    for section, settings in sorted(sections.items()):
        lines += ["", f"## `{section}`" if section else "## Top level", ""]
        lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
        for setting in settings.values():
            secret = " Not by argument." if setting.secret else ""
            cells = (f"`{setting.key}`", setting.type, f"`{setting.default}`", setting.description + secret)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def variable_of(key: str) -> str:
    """The environment variable of a dotted key."""
    return PREFIX + key.upper().replace(".", "__")


# Collecting: text -> values by dotted key, each with its origin


def _collect(
    cls: type[msgspec.Struct],
    file: str | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, str],
    flags: Mapping[str, str],
) -> _Values:
    values: _Values = {}
    if file is None:
        file = environ.get(FILE_VARIABLE) or (DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else "")
    if file:
        roots = compose(read_text(file), file)
        if len(roots) > 1:
            raise ConfigError("holds several documents; one is expected", file=file, line=line_of(roots[1]))
        for root in roots:
            _walk(cls, root, "", Origin(file), values)
    for name in sorted(environ):
        if name.startswith(PREFIX):
            key = name.removeprefix(PREFIX).lower().replace("__", ".")
            _set(cls, key, environ[name], Origin(name=name), values)
    secrets = {leaf.key for leaf in _leaves(cls) if leaf.secret}
    for key, text in overrides.items():
        origin = Origin(name=flags.get(key, f"--set {key}"))
        if key in secrets:
            raise ConfigError(
                f"{key} is a secret and may not be given by argument, where every process can read it: "
                f"use {key}_file, {variable_of(key)} or the settings file"
            )
        _set(cls, key, text, origin, values)
        if found := next((secret for secret in secrets if secret in values and values[secret][1] == origin), None):
            raise ConfigError(f"{found} is a secret and may not be given by argument: use {variable_of(found)}")
    return values


def _set(cls: type[msgspec.Struct], key: str, text: str, origin: Origin, values: _Values) -> None:
    """Put one value that came as text under its dotted key."""
    kind: Any = cls
    parts = key.split(".")
    for at, part in enumerate(parts):
        section = _section(kind)
        if section is None:
            raise origin.error(f"{key}: {'.'.join(parts[:at])} has no settings inside")
        fields = _fields(section)
        if part not in fields:
            if at == 0 and part in SECTIONS:
                return
            raise origin.error(_unknown(key, ".".join(parts[:at]), part, fields))
        kind = fields[part].type
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise origin.error(f"{key}: is not UTF-8 text")
    if _is_text(kind):
        values[key] = (text, origin)
        return
    roots = compose(text, origin.name)
    node = roots[0] if roots else ScalarNode("tag:yaml.org,2002:null", "null")
    if section := _section(kind):
        _walk(section, node, key + ".", origin, values)
    else:
        value = _build(node, kind, origin)
        values[key] = ([text] if isinstance(value, str) and _is_text_list(kind) else value, origin)


def _walk(cls: type[msgspec.Struct], node: Node, prefix: str, origin: Origin, values: _Values) -> None:
    """Put every value of a map node under its dotted key; ``origin`` gives the file or the name."""
    if is_null(node):
        return
    values[prefix] = (None, origin)  # the section was given, though perhaps nothing in it
    fields = _fields(cls)
    if not isinstance(node, MappingNode):
        name = f"{prefix[:-1]}: " if prefix else ""
        raise _at(origin, node).error(f"{name}given {_shown(node)}, expected a map with {', '.join(fields)}")
    for name, key_node, value in items(node, origin.file or origin.name):
        here = _at(origin, key_node)
        if name not in fields:
            if not prefix and name in SECTIONS:
                continue
            raise here.error(_unknown(prefix + name, prefix[:-1], name, fields))
        kind = fields[name].type
        if section := _section(kind):
            _walk(section, value, prefix + name + ".", origin, values)
        else:
            values[prefix + name] = (_build(value, kind, here), here)


def _at(origin: Origin, node: Node) -> Origin:
    return origin if origin.name else Origin(origin.file, line_of(node))


def _build(node: Node, kind: Any, origin: Origin) -> Any:
    """The node's value; a scalar is its text where the setting is a text, so ``protocol: 5`` need no quotes."""
    info = _info(kind)
    if isinstance(node, ScalarNode) and _is_text(kind) and not is_null(node):
        return node.value
    if isinstance(node, SequenceNode) and _is_text_list(kind):
        return [part.value if isinstance(part, ScalarNode) else plain(part, origin.file) for part in node.value]
    if isinstance(node, MappingNode) and isinstance(info, inspect.DictType) and _is_text_info(info.value_type):
        pairs = items(node, origin.file or origin.name)
        return {k: v.value if isinstance(v, ScalarNode) else plain(v, origin.file) for k, _, v in pairs}
    return plain(node, origin.file or origin.name)


def _unknown(key: str, section: str, name: str, fields: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(fields), n=1, cutoff=0.5)
    inside = section + "." if section else ""
    hint = f"did you mean {inside}{near[0]}?" if near else f"known here: {', '.join(fields)}"
    return f"unknown setting {key}; {hint}"


# Assembling: values by dotted key -> the frozen settings


def _assemble(cls: type[T], values: _Values, flags: Mapping[str, str], prefix: str = "", default: T | None = None) -> T:
    """``default`` is what the section around has for this one; it may differ from the class's own defaults."""
    arguments: dict[str, Any] = {}
    for field in structs.fields(cls):
        key = prefix + field.encode_name
        if section := _section(field.type):
            inner = field.default if default is None else getattr(default, field.name)
            if inner is not None or any(given.startswith(key + ".") for given in values):
                inner = inner if isinstance(inner, section) else None
                arguments[field.name] = _assemble(section, values, flags, key + ".", inner)
        elif key in values:
            arguments[field.name] = _convert(key, field.type, *values[key])
        elif default is not None:
            arguments[field.name] = getattr(default, field.name)
        elif field.required:
            flag = f", {flags[key]}" if key in flags else ""
            raise ConfigError(f"{key} is not set: give it in the settings file, {variable_of(key)}{flag}")
    try:
        return cls(**arguments)
    except ValueError as exc:
        raise ConfigError(f"{prefix[:-1]}: {exc}" if prefix else str(exc)) from exc


def _convert(key: str, kind: Any, value: Any, origin: Origin) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False)
    except (msgspec.ValidationError, ValueError) as exc:
        if _named_section(kind):  # a map of sections: what is wrong in one of them
            raise origin.error(f"{key}: {exc}") from exc
        given = MASKED if _is_secret(kind) else _yaml(mask_urls(value))
        raise origin.error(f"{key}: given {given}, expected {_expected(_info(kind))}") from exc


# Types


def _fields(cls: type[msgspec.Struct]) -> dict[str, structs.FieldInfo]:
    return {field.encode_name: field for field in structs.fields(cls)}


def _leaves(cls: type[msgspec.Struct], prefix: str = "", around: msgspec.Struct | None = None) -> Iterator[_Leaf]:
    """The settings of a section; ``around`` is what the section around it has for this one, if it has."""
    for field in structs.fields(cls):
        key = prefix + field.encode_name
        default = field.default if field.default_factory is NODEFAULT else field.default_factory()
        if around is not None:
            default = getattr(around, field.name)
        if section := _section(field.type):
            yield from _leaves(section, key + ".", default if isinstance(default, section) else None)
            continue
        yield _Leaf(key, field.type, default, _description(field.type), _is_secret(field.type))
        if named := _named_section(field.type):
            yield from _leaves(named, key + ".NAME.")


def _section(kind: Any) -> type[msgspec.Struct] | None:
    """The Struct class of a section, also of one that may be None; None for a single setting."""
    if hasattr(kind, "__metadata__"):
        kind = kind.__origin__
    parts = [part for part in getattr(kind, "__args__", (kind,)) if part is not type(None)]
    if len(parts) == 1 and isinstance(parts[0], type) and issubclass(parts[0], msgspec.Struct):
        return parts[0]
    return None


def _named_section(kind: Any) -> type[msgspec.Struct] | None:
    """The Struct class of a map of names to sections; None for anything else."""
    info = _info(kind)
    if not isinstance(info, inspect.DictType):
        return None
    inner = info.value_type.type if isinstance(info.value_type, inspect.Metadata) else info.value_type
    return inner.cls if isinstance(inner, inspect.StructType) else None


def _info(kind: Any) -> inspect.Type:
    info = inspect.type_info(kind)
    return info.type if isinstance(info, inspect.Metadata) else info


def _metas(kind: Any) -> list[msgspec.Meta]:
    return [meta for meta in getattr(kind, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]


def _is_secret(kind: Any) -> bool:
    return any((meta.extra or {}).get("secret") for meta in _metas(kind))


def _description(kind: Any) -> str:
    return next((meta.description for meta in _metas(kind) if meta.description), "")


def _is_text(kind: Any) -> bool:
    return _is_text_info(_info(kind))


def _is_text_list(kind: Any) -> bool:
    info = _info(kind)
    return isinstance(info, inspect.ListType) and _is_text_info(info.item_type)


def _is_text_info(info: inspect.Type) -> bool:
    if isinstance(info, inspect.Metadata):
        info = info.type
    if isinstance(info, inspect.LiteralType):
        return all(isinstance(value, str) for value in info.values)
    return isinstance(info, inspect.StrType)


def _expected(info: inspect.Type) -> str:
    """What a type takes, in words."""
    if isinstance(info, inspect.Metadata):
        info = info.type
    match info:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number" + _bounds(info)
        case inspect.FloatType():
            return "a number" + _bounds(info)
        case inspect.LiteralType():
            return "one of " + ", ".join(str(value) for value in info.values)
        case inspect.StrType():
            return "a text" + (f" that matches {info.pattern}" if info.pattern else "")
        case inspect.NoneType():
            return "null"
        case inspect.ListType() | inspect.VarTupleType():
            return f"a list, each {_expected(info.item_type)}"
        case inspect.DictType():
            return f"a map of names, each {_expected(info.value_type)}"
        case inspect.StructType():
            return "a section"
        case inspect.UnionType():
            return " or ".join(_expected(part) for part in info.types)
    return type(info).__name__.removesuffix("Type").lower()


def _bounds(info: inspect.IntType | inspect.FloatType) -> str:
    words = [("from", info.ge), ("above", info.gt), ("to", info.le), ("below", info.lt)]
    return "".join(
        f" {word} {bound if isinstance(bound, int) else f'{bound:g}'}" for word, bound in words if bound is not None
    )


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(msgspec.to_builtins(value), default_flow_style=True, width=10**6, allow_unicode=True)
    return text.strip().removesuffix("...").strip()


def _shown(node: Node) -> str:
    return "a list" if isinstance(node, SequenceNode) else "a single value"


def make_data_dir(path: str) -> Path:
    """Make the data directory with mode 0700 if it is missing, and return it. Raises ConfigError."""
    try:
        directory = Path(path)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory
    except OSError as exc:
        raise ConfigError(f"data_dir: {path} cannot be made: {exc.strerror}") from exc
