"""JSON and msgpack for messages, with the limits of protocol P4.2, alike in both.

Theory of operation. The usual message is decoded once, straight into its types, written again, and compared: when that
gives the same bytes, it holds nothing but what its types allow, and little is left to look for. That needs types which
say all: no field of any type, no float, no number without bounds.

What is written otherwise, or holds any value, is looked at. A few passes over the bytes, each one call into C, look for
what could be odd: more brackets than levels are allowed, an escape that may be a NUL, 19 digits, an exponent, ten
thousand commas. They look into strings too, and so may be wrong, but to one side only. Many brackets are then counted
without strings; whatever else looks odd goes the slow way: decoded untyped and walked. Lone surrogates and raw control
characters are refused by msgspec, in skipped fields too; 1e999 is not.
Such a msgpack is unpacked untyped by the msgpack library, which refuses lengths before it takes memory for them and
keys that are no text, and converted to the types. Between them the value is written as JSON, which is ten times faster
than a walk in Python, and looked at like JSON; what JSON does not show is looked for in the bytes, one-sided again.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from functools import cache
from itertools import chain
from typing import Any, Literal, NamedTuple

import msgpack
import msgspec
from msgspec import inspect

from common.errors import CodecError
from common.message import Message

PAYLOAD_BYTES_MAX = 128 * 1024
NESTING_MAX = 32
LIST_ITEMS_MAX = 10_000
INT_MIN, INT_MAX = -(2**63), 2**63 - 1

CodecName = Literal["json", "msgpack"]
CONTENT_TYPES: dict[str, str] = {"json": "application/json", "msgpack": "application/msgpack"}

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_SHAPE = bytes.maketrans(b"123456789{}", b"000000000[]")  # digits are 0, braces are brackets
_NOT_MARKS = bytes(set(range(256)) - set(b'"[]{}'))
_DELIMITERS = bytes.maketrans(b"E[]{}:", b"e,,,,,")
_OF_NUMBERS = b"0123456789+-. \t\n\r"  # without them a number with an exponent is an e between delimiters
_LONG_NUMBER = b"0" * 19
# What JSON text does not show of msgpack, by its first byte: binaries and extensions of no length, NaN and infinities.
_NOTHING = (b"\0", b"\0\0", b"\0\0\0\0")
_NOT_FINITE = (b"\x7f", b"\xff")
_ODD_BYTES = [
    *((bytes((kind,)), (size,)) for kind, size in zip(range(0xC4, 0xCA), 2 * _NOTHING, strict=True)),
    (b"\xca", _NOT_FINITE),
    (b"\xcb", _NOT_FINITE),
]
_JSON_KINDS = {str, int, float, bool, type(None), dict, list}
_json_encoder = msgspec.json.Encoder()
_msgpack_encoder = msgspec.msgpack.Encoder()


def codec_of(payload: bytes) -> CodecName | None:
    """Tell a message's codec by its first byte: ``{`` or a msgpack map; None when it is neither (P4.1)."""
    first = payload[0] if payload else 0
    if first == 0x7B:
        return "json"
    return "msgpack" if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF) else None


def encode(value: Any, codec: CodecName = "json") -> bytes:
    """Encode a message, a model or a plain value. Field names are the same in both codecs.

    ``msgspec.Raw`` inside it must already be in ``codec``. Raises CodecError for what cannot be expressed.
    """
    try:
        return _json_encoder.encode(value) if codec == "json" else _msgpack_encoder.encode(value)
    except (TypeError, ValueError, UnicodeEncodeError, RecursionError, OverflowError, msgspec.MsgspecError) as exc:
        raise CodecError("undecodable", f"cannot encode: {exc}") from exc


class _Kind(NamedTuple):
    """What decodes a type. ``says_all``: its values can break no limit but those that ``_is_plain`` looks for."""

    type: Any
    json: msgspec.json.Decoder[Any]
    msgpack: msgspec.msgpack.Decoder[Any]
    says_all: bool


def decode(payload: bytes, content: Any = Any, *, bytes_max: int = PAYLOAD_BYTES_MAX) -> Message[Any]:
    """Decode a message whose content is of type ``content``. Raises CodecError and nothing else.

    The error's text names the field (``$.content[3].Status``) where a type is wrong. Unknown fields are accepted.
    """
    return _decode(payload, _message_kind(content), bytes_max)  # type: ignore[no-any-return]


def decode_as(payload: bytes, kind: Any, *, bytes_max: int = PAYLOAD_BYTES_MAX) -> Any:
    """Decode a map of either codec into ``kind`` under the same limits. Raises CodecError and nothing else."""
    return _decode(payload, _kind(kind), bytes_max)


def _decode(payload: bytes, kind: _Kind, bytes_max: int) -> Any:
    if len(payload) > bytes_max:
        raise CodecError("too_large", f"{len(payload)} bytes, at most {bytes_max}")
    codec = codec_of(payload)
    try:
        if codec == "json":
            return _decode_json(payload, kind)
        if codec == "msgpack":
            return _decode_msgpack(payload, kind)
    except CodecError:
        raise
    except (msgspec.ValidationError, msgspec.DecodeError) as exc:
        raise CodecError("undecodable", str(exc)) from exc
    except RecursionError:
        raise CodecError("undecodable", f"nested deeper than {NESTING_MAX}") from None
    except Exception as exc:  # the decode boundary: whatever a hostile payload provokes is a refusal, never a crash
        raise CodecError("undecodable", f"{type(exc).__name__}: {exc}") from exc
    raise CodecError("undecodable", "neither a JSON object nor a msgpack map")


def _decode_json(payload: bytes, kind: _Kind) -> Any:
    value = kind.json.decode(payload)
    if not (kind.says_all and _json_encoder.encode(value) == payload and _is_plain(payload)):
        _check_json(payload)
    return value


def _decode_msgpack(payload: bytes, kind: _Kind) -> Any:
    if kind.says_all:
        with suppress(msgspec.MsgspecError):  # what is wrong is told by the other way
            value = kind.msgpack.decode(payload)
            if _msgpack_encoder.encode(value) == payload and _is_plain(_json_encoder.encode(value)):
                return value
    value = _unpack(payload)
    if _looks_odd(payload, value):
        _check_value(value)
    return msgspec.convert(value, kind.type)


def _is_plain(text: bytes) -> bool:
    """Whether JSON of types that say all holds neither NUL nor a list that may be too long."""
    if b"\\" in text and b"\\u0000" in text:
        return False
    return len(text) <= LIST_ITEMS_MAX or text.count(b",") < LIST_ITEMS_MAX


def _check_json(payload: bytes) -> None:
    escaped, shape = b"\\" in payload, payload.translate(_SHAPE)
    if shape.count(b"[") > NESTING_MAX:
        _check_depth(_ESCAPE.sub(b"", payload) if escaped else payload)
    if not payload.isascii():
        payload.decode()  # an unknown field is skipped without a look at its bytes
    if (
        _LONG_NUMBER in shape
        or b",e," in payload.translate(_DELIMITERS, _OF_NUMBERS)
        or (escaped and b"\\u0000" in payload)
        or (len(payload) > LIST_ITEMS_MAX and payload.count(b",") >= LIST_ITEMS_MAX)
    ):
        _check_value(msgspec.json.decode(payload))


def _check_depth(payload: bytes) -> None:
    """Raise CodecError when brackets outside of strings are nested too deep. ``payload`` without escapes.

    Two quotes with nothing but other characters between them leave: what stands in or out of strings stays so.
    """
    marks = payload.translate(_SHAPE, _NOT_MARKS).replace(b'""', b"")
    brackets = b"".join(marks.split(b'"')[::2])
    for _ in range(NESTING_MAX):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")  # one level a round
    if brackets:
        raise CodecError("undecodable", f"nested deeper than {NESTING_MAX}, or brackets do not match")


def _unpack(payload: bytes) -> Any:
    bound = LIST_ITEMS_MAX
    return msgpack.unpackb(payload, max_array_len=bound, max_map_len=bound, max_ext_len=0, max_bin_len=0)


def _looks_odd(payload: bytes, value: Any) -> bool:
    """Whether what was unpacked from ``payload`` may hold something that is refused; raises CodecError for depth."""
    written = _json_encoder.encode(value)
    escaped, shape = b"\\" in written, written.translate(_SHAPE)
    if shape.count(b"[") > NESTING_MAX:
        _check_depth(_ESCAPE.sub(b"", written) if escaped else written)
    return (
        _LONG_NUMBER in shape
        or (escaped and b"\\u0000" in written)
        or any(
            part.startswith(odd) for first, odd in _ODD_BYTES if first in payload for part in payload.split(first)[1:]
        )
    )


def _check_value(value: Any) -> None:
    """Raise CodecError when a decoded value holds what some codec or store would not take (P4.2).

    Level by level, and each level at once: a loop over single values costs three times as much.
    """
    level = [value]
    for _ in range(NESTING_MAX + 1):
        _check_scalars(level)
        maps = [item for item in level if type(item) is dict]
        lists = [item for item in level if type(item) is list]
        if not maps and not lists:
            return
        largest = max(map(len, chain(maps, lists)))
        if largest > LIST_ITEMS_MAX:
            raise CodecError("undecodable", f"{largest} items, at most {LIST_ITEMS_MAX}")
        keys = list(set(chain.from_iterable(maps)))
        for key in keys:
            if type(key) is not str:
                raise CodecError("undecodable", f"key {key!r} is not text")
        _check_texts(keys)
        level = [*chain.from_iterable(map(dict.values, maps)), *chain.from_iterable(lists)]
    raise CodecError("undecodable", f"nested deeper than {NESTING_MAX}")


def _check_scalars(items: list[Any]) -> None:
    kinds = set(map(type, items))
    for kind in kinds - _JSON_KINDS:
        raise CodecError("undecodable", f"{kind.__name__} is not a JSON value")
    if str in kinds:
        _check_texts([item for item in items if type(item) is str])
    if int in kinds:
        numbers = [item for item in items if type(item) is int]
        if min(numbers) < INT_MIN or max(numbers) > INT_MAX:
            raise CodecError("undecodable", "integer beyond 64 bits")
    if float in kinds and not all(math.isfinite(item) for item in items if type(item) is float):
        raise CodecError("undecodable", "number is not finite")


def _check_texts(texts: list[str]) -> None:
    if "\x00" in "".join(texts):
        raise CodecError("undecodable", "text holds NUL")


@cache
def _message_kind(content: Any) -> _Kind:
    return _kind(Message[content])


@cache
def _kind(of: Any) -> _Kind:
    says_all = _is_closed(inspect.type_info(of), ())
    return _Kind(of, msgspec.json.Decoder(of), msgspec.msgpack.Decoder(of), says_all)


def _is_closed(kind: inspect.Type, within: tuple[type, ...]) -> bool:
    match kind:
        case inspect.StructType(cls=cls, fields=fields):  # one that holds itself may be nested without end
            return cls not in within and all(_is_closed(field.type, (*within, cls)) for field in fields)
        case inspect.UnionType(types=types):
            return all(_is_closed(each, within) for each in types)
        case inspect.ListType(item_type=item):
            return _is_closed(item, within)
        case inspect.IntType(ge=lowest, le=highest):
            return lowest is not None and highest is not None
    return isinstance(kind, inspect.StrType | inspect.BoolType | inspect.NoneType)
