"""What the classes of settings say: sections, types, secrets, in words; and where a value came from (experience U3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import NODEFAULT, inspect, structs

from common.errors import ConfigError

SECTIONS = ("edge", "cloud", "console")  # top-level sections that belong to one process; the others pass over them


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


class Leaf(NamedTuple):
    """One setting of a class: its dotted key, type, and whether it is secret."""

    key: str
    type: Any
    default: Any
    description: str
    secret: bool


Values = dict[str, tuple[Any, Origin]]  # by dotted key


def fields_of(cls: type[msgspec.Struct]) -> dict[str, structs.FieldInfo]:
    """The fields of a section by their names in YAML."""
    return {field.encode_name: field for field in structs.fields(cls)}


def leaves_of(cls: type[msgspec.Struct], prefix: str = "", around: msgspec.Struct | None = None) -> Iterator[Leaf]:
    """The settings of a section; ``around`` is what the section around it has for this one, if it has."""
    for field in structs.fields(cls):
        key = prefix + field.encode_name
        default = field.default if field.default_factory is NODEFAULT else field.default_factory()
        if around is not None:
            default = getattr(around, field.name)
        if section := section_of(field.type):
            yield from leaves_of(section, key + ".", default if isinstance(default, section) else None)
            continue
        yield Leaf(key, field.type, default, _description(field.type), is_secret(field.type))
        if named := named_section(field.type):
            yield from leaves_of(named, key + ".NAME.")


def section_of(kind: Any) -> type[msgspec.Struct] | None:
    """The Struct class of a section, also of one that may be None; None for a single setting."""
    if hasattr(kind, "__metadata__"):
        kind = kind.__origin__
    parts = [part for part in getattr(kind, "__args__", (kind,)) if part is not type(None)]
    if len(parts) == 1 and isinstance(parts[0], type) and issubclass(parts[0], msgspec.Struct):
        return parts[0]
    return None


def named_section(kind: Any) -> type[msgspec.Struct] | None:
    """The Struct class of a map of names to sections; None for anything else."""
    info = info_of(kind)
    if not isinstance(info, inspect.DictType):
        return None
    inner = info.value_type.type if isinstance(info.value_type, inspect.Metadata) else info.value_type
    return inner.cls if isinstance(inner, inspect.StructType) else None


def info_of(kind: Any) -> inspect.Type:
    """What msgspec says of a type, without its metadata."""
    info = inspect.type_info(kind)
    return info.type if isinstance(info, inspect.Metadata) else info


def _metas(kind: Any) -> list[msgspec.Meta]:
    return [meta for meta in getattr(kind, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]


def is_secret(kind: Any) -> bool:
    """Whether a setting of this type is never shown."""
    return any((meta.extra or {}).get("secret") for meta in _metas(kind))


def _description(kind: Any) -> str:
    return next((meta.description for meta in _metas(kind) if meta.description), "")


def is_text(kind: Any) -> bool:
    """Whether a setting of this type is a text, taken as it stands."""
    return is_text_info(info_of(kind))


def is_text_list(kind: Any) -> bool:
    """Whether it is a list of texts."""
    info = info_of(kind)
    return isinstance(info, inspect.ListType) and is_text_info(info.item_type)


def is_text_info(info: inspect.Type) -> bool:
    """As ``is_text``, of what msgspec says."""
    if isinstance(info, inspect.Metadata):
        info = info.type
    if isinstance(info, inspect.LiteralType):
        return all(isinstance(value, str) for value in info.values)
    return isinstance(info, inspect.StrType)


def expected(info: inspect.Type) -> str:
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
            return f"a list, each {expected(info.item_type)}"
        case inspect.DictType():
            return f"a map of names, each {expected(info.value_type)}"
        case inspect.StructType():
            return "a section"
        case inspect.UnionType():
            return " or ".join(expected(part) for part in info.types)
    return type(info).__name__.removesuffix("Type").lower()


def _bounds(info: inspect.IntType | inspect.FloatType) -> str:
    words = [("from", info.ge), ("above", info.gt), ("to", info.le), ("below", info.lt)]
    return "".join(
        f" {word} {bound if isinstance(bound, int) else f'{bound:g}'}" for word, bound in words if bound is not None
    )


def unknown(key: str, section: str, name: str, fields: Mapping[str, Any]) -> str:
    """Words for a key that is none, with the nearest one."""
    import difflib  # for an error only: a start does not pay for it

    near = difflib.get_close_matches(name, list(fields), n=1, cutoff=0.5)
    inside = section + "." if section else ""
    hint = f"did you mean {inside}{near[0]}?" if near else f"known here: {', '.join(fields)}"
    return f"unknown setting {key}; {hint}"
