"""Clauses P4.1 and P4.2: one verdict for a payload, whichever codec carries it."""

from __future__ import annotations

import struct
from itertools import product
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import codec, message, models
from common.errors import CodecError

SPOTS = ["content", "unknown", "header"]
RESULTS = models.ExecResult | list[models.ExecResult]


def array(n: int) -> tuple[bytes, bytes]:
    """A list of n items in both codecs."""
    return b"[" + b",".join([b"1"] * n) + b"]", msgpack.packb([1] * n)


def mapping(n: int) -> tuple[bytes, bytes]:
    """A map of n items in both codecs."""
    items = {str(i): 1 for i in range(n)}
    return codec.encode(items), msgpack.packb(items)


def nested(n: int, alternate: bool = False) -> tuple[bytes, bytes]:
    """n containers in each other: lists, or maps and lists by turns."""
    value: Any = 1
    for i in range(n):
        value = {"a": value} if alternate and i % 2 else [value]
    return codec.encode(value), msgpack.packb(value)


def f64(text: bytes, value: float) -> tuple[bytes, bytes]:
    """A float in both codecs."""
    return text, b"\xcb" + struct.pack(">d", value)


def text(inner: bytes, raw: bytes) -> tuple[bytes, bytes]:
    """A text: JSON's bytes between the quotes, and msgpack's."""
    return b'"' + inner + b'"', bytes([0xA0 + len(raw)]) + raw


GOOD = {
    "escaped backslash": text(rb"\\u0000", rb"\u0000"), "surrogate pair": text(rb"\ud83d\ude00", "😀".encode()),
    "brackets in text": text(b"[[[[\\\"{{{{", b'[[[["{{{{'), "19 digits in text": text(b"1" * 19, b"1" * 19),
    "1e999 in text": text(b"1e999,", b"1e999,"), "int64 max": (b"9223372036854775807", b"\xcf\x7f" + b"\xff" * 7),
    "int64 min": (b"-9223372036854775808", b"\xd3\x80" + b"\0" * 7), "1e308": f64(b"1e308", 1e308),
    "depth 32": nested(31), "depth 32 by turns": nested(31, True), "9,999 items": array(9_999),
    "10,000 items": array(10_000), "10,000 keys": mapping(10_000),
    "duplicate keys": (b'{"a":1,"a":2}', b"\x82\xa1a\x01\xa1a\x02"), "DEL": text(b"\x7f", b"\x7f"),
    "long fraction": f64(b"0.12345678901234567890123", 0.12345678901234568),
}  # fmt: skip
BAD = {
    "NUL escaped": text(rb"\u0000", b"\0"), "NUL behind a backslash": text(rb"\\\u0000", b"\\\0"),
    "NUL raw": text(b"\0", b"\0"), "NUL in a key": (b'{"\\u0000":1}', b"\x81\xa1\0\x01"),
    "high surrogate": text(rb"\ud800", b"\xed\xa0\x80"), "low surrogate": text(rb"\udc00", b"\xed\xb0\x80"),
    "two high": text(rb"\ud800\ud800", b"\xed\xa0\x80\xed\xa0\x80"), "surrogate bytes": text(*[b"\xed\xa0\x80"] * 2),
    "bad UTF-8": text(b"\xff", b"\xff"), "overlong": text(b"\xc0\x80", b"\xc0\x80"),
    "NaN": f64(b"NaN", float("nan")), "Infinity": f64(b"Infinity", float("inf")),
    "-Infinity": f64(b"-Infinity", float("-inf")), "1e999": f64(b"1e999", float("inf")),
    "-1E+0999": f64(b"-1E+0999", float("-inf")), "float32 inf": (b"1.5e400 ", b"\xca\x7f\x80\0\0"),
    "2**63": (b"9223372036854775808", b"\xcf\x80" + b"\0" * 7),
    "uint64 max": (b"18446744073709551615", b"\xcf" + b"\xff" * 8),
    "below int64": (b"-9223372036854775809", b"\xc7\x09\x05" + b"\xff" * 9), "30 digits": (b"1" * 30, b"\xc1"),
    "5,000 digits": (b"1" * 5000, b"\xc1"), "depth 33": nested(32), "depth 33 by turns": nested(32, True),
    "depth 60 by turns": nested(60, True), "10,001 items": array(10_001), "10,001 keys": mapping(10_001),
    "number as key": (b"{1:2}", b"\x81\x01\x02"), "bytes as key": (b"{a:2}", b"\x81\xc4\x01a\x02"),
    "null as key": (b"{null:2}", b"\x81\xc0\x02"), "list as key": (b"{[]:2}", b"\x81\x90\x02"),
    "bin": (b"b'a'", b"\xc4\x01a"), "ext": (b"ext", b"\xd4\x05a"), "empty ext": (b"x", b"\xc7\x00\x05"),
    "timestamp ext": (b"2026-01-01", b"\xd6\xff\0\0\0\0"), "deep brackets": (b"[" * 100_000, b"\x91" * 100_000),
    "list bomb": (b"[", b"\xdd\xff\xff\xff\xff"), "map bomb": (b"{", b"\xdf\xff\xff\xff\xff"),
    "text bomb": (b'"', b"\xdb\xff\xff\xff\xff"), "bombs in bombs": (b"[{" * 999, b"\xdc\x27\x10" * 999),
}  # fmt: skip


def payload(name: codec.CodecName, value: bytes, spot: str) -> bytes:
    """A message that holds ``value`` as its content, in an unknown field, or in an unknown field of the header."""
    extra = spot == "header"
    if name == "json":
        header = b'{"msg_id":"a","timestamp":1' + (b',"x":1,"y":' + value if extra else b"") + b"}"
        other = b"" if extra else b',"%s":%s' % (spot.encode(), value)
        return b'{"header":' + header + other + b"}"
    key = msgpack.packb
    header = bytes([0x84 if extra else 0x82]) + key("msg_id") + key("a") + key("timestamp") + key(1)
    header += key("x") + key(1) + key("y") + value if extra else b""
    other = b"" if extra else key(spot) + value
    return bytes([0x81 if extra else 0x82]) + key("header") + header + other


def in_spot(pair: tuple[bytes, bytes], spot: str) -> list[bytes]:
    """The two payloads of a case."""
    return [payload("json", pair[0], spot), payload("msgpack", pair[1], spot)]


@pytest.mark.parametrize("spot", ["content", "unknown"])
@pytest.mark.parametrize("case", GOOD)
def test_p4_2_taken_by_both(case: str, spot: str) -> None:
    """At the bound both codecs take the value, and read the same."""
    one, two = (codec.decode(raw) for raw in in_spot(GOOD[case], spot))
    assert one == two


@pytest.mark.parametrize("spot", SPOTS)
@pytest.mark.parametrize("case", BAD)
def test_p4_2_refused_by_both(case: str, spot: str) -> None:
    """Beyond the bound both refuse it, also in a field that nobody reads."""
    for raw, kind in product(in_spot(BAD[case], spot), (Any, RESULTS)):
        with pytest.raises(CodecError) as caught:
            codec.decode(raw, kind)
        assert caught.value.reason == "undecodable"


def of_results(*details: str, **header: int) -> message.Message[Any]:
    """A rulestatus message as an agent writes it, with an error detail for each result."""
    found = message.new(operation="update", resource="node/a/b/rulestatus", content=[])
    found.content = [models.ExecResult("a", "b", "FAIL", models.ErrorMsg(detail)) for detail in details]
    found.header = msgspec.structs.replace(found.header, **header)
    return found


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_p4_2_the_usual_message_is_decoded_once(name: codec.CodecName, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an agent of ours wrote is compared, not searched: checks cost less than the decode."""
    monkeypatch.setattr(codec, "_check_json", pytest.fail)
    monkeypatch.setattr(codec, "_unpack", pytest.fail)
    sent = of_results("a", 'b "quoted" \\ [[[[', "ü😀", low=5)
    assert codec.decode(codec.encode(sent, name), RESULTS) == sent


@pytest.mark.parametrize("name", ["json", "msgpack"])
@pytest.mark.parametrize(
    "sent",
    [of_results("a\0"), of_results("a", timestamp=2**63), of_results("a", low=2**64 - 1), of_results(*"a" * 10_001)],
    ids=["NUL", "above int64", "uint64 max", "10,001 results"],
)
def test_p4_2_a_message_in_its_one_form_is_held_to_the_limits(name: codec.CodecName, sent: Any) -> None:
    """Also what is written exactly as we would write it is refused when its values are beyond a limit."""
    with pytest.raises(CodecError) as caught:
        codec.decode(codec.encode(sent, name), RESULTS, bytes_max=1 << 21)
    assert caught.value.reason == "undecodable"


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_p4_2_ten_thousand_results_are_taken(name: codec.CodecName) -> None:
    """At the bound a typed list is taken, and so is one of which the look at the commas tells nothing."""
    for count in (3_000, 10_000):
        sent = of_results(*"a" * count)
        assert codec.decode(codec.encode(sent, name), RESULTS, bytes_max=1 << 21) == sent


class Holder(msgspec.Struct):
    """A type that holds itself: nothing bounds how deep."""

    inner: Holder | None = None


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_p4_2_depth_of_a_type_that_holds_itself(name: codec.CodecName) -> None:
    """33 levels are refused in a type of which values can be nested without end."""
    value: Any = None
    for _ in range(32):
        value = Holder(value)
    assert codec.decode_as(codec.encode(value, name), Holder) == value
    with pytest.raises(CodecError):
        codec.decode_as(codec.encode(Holder(value), name), Holder)


@pytest.mark.parametrize("name", ["json", "msgpack"])
@pytest.mark.parametrize("size", [131_071, 131_072, 131_073])
def test_p4_2_payload_bytes(name: codec.CodecName, size: int) -> None:
    """131,072 bytes are taken, one more is too large."""
    sent = message.new(content="a" * 100_000)
    sent.content += "a" * (size - len(codec.encode(sent, name)))
    raw = codec.encode(sent, name)
    assert len(raw) == size
    if size <= 131_072:
        assert codec.decode(raw) == sent
        return
    with pytest.raises(CodecError) as caught:
        codec.decode(raw)
    assert caught.value.reason == "too_large"


JSON, PACK = in_spot((b"1", b"\x01"), "content")


@pytest.mark.parametrize(
    "raw",
    [b"", b" ", b"[]", b"1", b"\x90", b"\xef\xbb\xbf" + JSON, b" " + JSON, JSON + b"x", JSON + b"\0", JSON * 2,
     PACK * 2, PACK + b"\xc0", JSON[:-1], PACK[:-1], b"{}", b"\x80", b"{[}]"],
)  # fmt: skip
def test_p4_1_not_one_map(raw: bytes) -> None:
    """Anything but exactly one map that is a message is refused."""
    with pytest.raises(CodecError):
        codec.decode(raw)


@settings(deadline=None)  # other work may hold the machine
@given(st.binary(max_size=200))
def test_p4_2_arbitrary_bytes(raw: bytes) -> None:
    """Whatever the bytes, there is a message or a CodecError."""
    for lead in (b"", b"{", b"\x83", b"\xdf"):
        try:
            codec.decode(lead + raw)
        except CodecError:
            continue


@settings(deadline=None)  # other work may hold the machine
@given(st.sampled_from(["json", "msgpack"]), st.data())
def test_p4_2_mutated_messages(name: codec.CodecName, data: st.DataObject) -> None:
    """A changed byte gives a message or a CodecError."""
    raw = bytearray(codec.encode(message.new(content=[models.ExecResult("r", "d", "FAIL")] * 2), name))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        codec.decode(bytes(raw), list[models.ExecResult])
    except CodecError:
        return


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=10)
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | TEXT
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUE = st.recursive(SCALAR, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT, v, max_size=4), max_leaves=20)


@settings(deadline=None)  # other work may hold the machine
@given(VALUE, TEXT, st.booleans())
def test_p4_1_round_trips_are_equal(content: Any, source: str, sync: bool) -> None:
    """A message reads back as it was, the same from JSON as from msgpack."""
    sent = message.new(source=source, content=content)
    sent.header.sync = sync
    assert codec.decode(codec.encode(sent, "json")) == sent
    assert codec.decode(codec.encode(sent, "msgpack")) == sent
