"""Settings from a YAML file, then the environment, then flags; later wins (experience U3).

``FIELDPOST__BROKER__KEEPALIVE_S=30`` is ``broker.keepalive_s``. Settings are read once, checked key by key, and every
error says which key, what was given, what is expected and where it came from. The file may serve several processes:
the sections of the other ones are passed over.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec
from msgspec import NODEFAULT, inspect, structs

from common.configtypes import (
    SECTIONS,
    Origin,
    Values,
    expected,
    fields_of,
    info_of,
    is_secret,
    is_text,
    is_text_list,
    leaves_of,
    named_section,
    section_of,
    unknown,
)
from common.errors import ConfigError
from common.masking import MASKED, mask_urls

PREFIX = "FIELDPOST__"
FILE_VARIABLE = "FIELDPOST_CONFIG"
DEFAULT_FILE = "fieldpost.yaml"

T = TypeVar("T", bound=msgspec.Struct)


class Setting(NamedTuple):
    """One setting as documentation shows it; ``default`` is YAML text, ``required`` when there is none."""

    key: str
    type: str
    default: str
    description: str
    secret: bool = False


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
    leaves = {leaf.key: leaf for leaf in leaves_of(cls)}
    parser = _Parser(prog=prog, allow_abbrev=False, description=(cls.__doc__ or "").partition("\n")[0])
    parser.add_argument("-c", "--config", metavar="FILE", help=f"settings; default ${FILE_VARIABLE} or {DEFAULT_FILE}")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting, by dotted key")
    parser.add_argument("--print-config", action="store_true", help="print the effective settings and end")
    for flag, key in shortcuts.items():
        leaf = leaves[key]
        more: dict[str, Any] = {"nargs": "?", "const": "true"} if info_of(leaf.type) == inspect.BoolType() else {}
        if is_text_list(leaf.type):
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
            shown[field.encode_name] = MASKED if value and is_secret(field.type) else mask_urls(value)
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

    leaf_keys = {leaf.key for leaf in leaves_of(type(settings))}
    write(mask(settings), "", "")
    return "\n".join(lines) + "\n"


def describe(cls: type[msgspec.Struct]) -> list[Setting]:
    """Return every setting of ``cls``, in the order of the code."""
    return [
        Setting(
            leaf.key,
            expected(info_of(leaf.type)),
            "required" if leaf.default is NODEFAULT else _yaml(leaf.default),
            leaf.description,
            leaf.secret,
        )
        for leaf in leaves_of(cls)
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
) -> Values:
    values: Values = {}
    if file is None:
        file = environ.get(FILE_VARIABLE) or (DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else "")
    if file:
        from common.confignodes import read_file  # YAML: only where there is a file

        read_file(cls, file, values)
    for name in sorted(environ):
        if name.startswith(PREFIX):
            key = name.removeprefix(PREFIX).lower().replace("__", ".")
            _set(cls, key, environ[name], Origin(name=name), values)
    secrets = {leaf.key for leaf in leaves_of(cls) if leaf.secret}
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


def _set(cls: type[msgspec.Struct], key: str, text: str, origin: Origin, values: Values) -> None:
    """Put one value that came as text under its dotted key."""
    kind: Any = cls
    parts = key.split(".")
    for at, part in enumerate(parts):
        section = section_of(kind)
        if section is None:
            raise origin.error(f"{key}: {'.'.join(parts[:at])} has no settings inside")
        fields = fields_of(section)
        if part not in fields:
            if at == 0 and part in SECTIONS:
                return
            raise origin.error(unknown(key, ".".join(parts[:at]), part, fields))
        kind = fields[part].type
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise origin.error(f"{key}: is not UTF-8 text")
    if is_text(kind):
        values[key] = (text, origin)
        return
    from common.confignodes import read_value  # YAML: only for what is no plain text

    read_value(kind, key, text, origin, values)


# Assembling: values by dotted key -> the frozen settings


def _assemble(cls: type[T], values: Values, flags: Mapping[str, str], prefix: str = "", default: T | None = None) -> T:
    """``default`` is what the section around has for this one; it may differ from the class's own defaults."""
    arguments: dict[str, Any] = {}
    for field in structs.fields(cls):
        key = prefix + field.encode_name
        if section := section_of(field.type):
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
        if named_section(kind):  # a map of sections: what is wrong in one of them
            raise origin.error(f"{key}: {exc}") from exc
        given = MASKED if is_secret(kind) else _yaml(mask_urls(value))
        raise origin.error(f"{key}: given {given}, expected {expected(info_of(kind))}") from exc


def _yaml(value: Any) -> str:
    from common.confignodes import yaml_of  # YAML: only to show a setting

    return yaml_of(value)


def make_data_dir(path: str) -> Path:
    """Make the data directory with mode 0700 if it is missing, and return it. Raises ConfigError."""
    try:
        directory = Path(path)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory
    except OSError as exc:
        raise ConfigError(f"data_dir: {path} cannot be made: {exc.strerror}") from exc
