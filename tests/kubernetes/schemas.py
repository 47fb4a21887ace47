"""What an API server does with a structural schema: prune what it does not name, refuse what does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
}  # fmt: skip
KEEP = "x-kubernetes-preserve-unknown-fields"


def prune(value: Any, schema: dict[str, Any], *, top: bool = False) -> Any:
    """Return ``value`` without the fields that the schema does not name; metadata, kind and apiVersion always stay."""
    if schema.get(KEEP):
        return value
    if isinstance(value, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties")
        kept = {}
        for name, part in value.items():
            if top and name in ("metadata", "kind", "apiVersion"):
                kept[name] = part
            elif name in properties:
                kept[name] = prune(part, properties[name])
            elif isinstance(more, dict):
                kept[name] = prune(part, more)
        return kept
    if isinstance(value, list):
        return [prune(part, schema.get("items", {})) for part in value]
    return value


def drop_nulls(value: Any, schema: dict[str, Any]) -> Any:
    """Fields that are null are dropped where the schema does not allow null (as the server prunes defaults)."""
    if isinstance(value, dict) and not schema.get(KEEP):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties") or {}
        inner = {name: properties.get(name, more) for name in value}
        return {
            name: drop_nulls(part, inner[name])
            for name, part in value.items()
            if part is not None or inner[name].get("nullable")
        }
    return value


def faults(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield what does not fit, each with its path, in the words of the API server."""
    if schema.get(KEEP) and "type" not in schema:
        return
    if value is None and schema.get("nullable"):
        return
    kind = schema.get("type", "")
    expected = _TYPES.get(kind, object)
    if not isinstance(value, expected) or (kind != "boolean" and isinstance(value, bool)):
        yield f'{path}: Invalid value: "{type(value).__name__}": {path} in body must be of type {kind}'
        return
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{path}.{name}: Required value"
        properties, more = schema.get("properties", {}), schema.get("additionalProperties")
        for name, part in value.items():
            inner = properties.get(name) or (more if isinstance(more, dict) else None)
            if inner is not None:
                yield from faults(part, inner, f"{path}.{name}")
    elif isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys", ())
        seen = [tuple(part.get(key) for key in keys) for part in value if keys and isinstance(part, dict)]
        if len(seen) != len(set(seen)):
            yield f"{path}: Duplicate value"
        for index, part in enumerate(value):
            yield from faults(part, schema.get("items", {}), f"{path}[{index}]")
    else:
        yield from _scalar_faults(value, schema, path)


def _scalar_faults(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f'{path}: Unsupported value: "{value}": supported values: {schema["enum"]}'
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{path}: Invalid value: {value}: should be greater than or equal to {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        yield f"{path}: Invalid value: {value}: should be less than or equal to {schema['maximum']}"
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0) or len(value) > schema.get("maxLength", 1 << 30):
            yield f"{path}: Invalid value: its length is {len(value)}"
        if schema.get("format") == "date-time" and not _is_time(value):
            yield f"{path}: Invalid value: {value!r} is no date-time"


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return False
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*", text))
