"""Bytes that nobody meant, at the entrances of cloud and edge: refused with a reason, and nothing raised (R3, input).

Real packets of every kind, damaged in ways that reach deeper than random bytes: flipped, cut, joined, with hostile
values in the place of honest ones. ``tests/common/test_codec.py`` does the same to the decoders alone.
"""

from __future__ import annotations

import random
import re
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from cloud.handlers import CONTENT_TYPES, status_message
from common.codec import encode
from common.errors import RefusedError
from common.message import ERROR, INSERT, RESPONSE, UPDATE, Message, new
from common.messaging.base import Refused
from common.messaging.inbound import Reader
from common.models import Confirmation, ControllerPresence, LossRecord, NodeBirth, NodeStatus, Refusal
from tests.cloud.samples import bad, birth, epoch, ok

ROUNDS = 3000
ROOT, NODE = "fieldpost", "edge-1"
TOKENS: tuple[bytes, ...] = (
    b"null", b"-1", b"9" * 400, b"1e999", b"NaN", b'""', b'"\\u0000"', b'"\\ud800"', b"[]", b"{}", b"[" * 100, b"true",
    b'"' + b"x" * 10_000 + b'"', b'"../../etc"', b'"+/#"', b'"0-x.0"',
)  # fmt: skip
VALUE = re.compile(rb'(?<=:)("[^"]*"|-?[0-9.]+|\[[^\[\]]*\])')


def _message(operation: str, kind: str, content: object, parent: str = "") -> Message[Any]:
    message = new(
        parent, source="router", group="resource", operation=operation, resource=f"node/{NODE}/default/{kind}/overheat",
        content=content,
    )  # fmt: skip
    message.header.resourceversion, message.header.low = f"{epoch()}.7", 3
    return message


def _packets(up: bool) -> list[tuple[str, bytes]]:
    """(topic, payload) of honest packets of every kind, in both codecs."""
    if up:
        contents: list[tuple[str, str, object]] = [
            (UPDATE, "rulestatus", [ok(), bad(count=3)]), (UPDATE, "rulestatus", ok()),
            (UPDATE, "nodestatus", NodeStatus()),
            (INSERT, "lossrecord", [LossRecord("l-1", "dropped", results=3)]),
        ]  # fmt: skip
        way, presences = (
            "up",
            [(f"{ROOT}/presence/{NODE}", birth(3, previous=[str(epoch(2))], follows=f"{epoch(2)}.5"))],
        )
    else:
        contents = [
            (RESPONSE, "rulestatus", Confirmation(str(epoch()), 3, [5])),
            (ERROR, "rulestatus", Refusal("undecodable", "text", "00" * 32)),
        ]  # fmt: skip
        way, presences = "down", [(f"{ROOT}/presence/cloud/cloud-1", ControllerPresence("cloud-1", True))]
    found = [(topic, encode(content)) for topic, content in presences]
    for operation, kind, content in contents:
        topic = f"{ROOT}/{way}/{NODE}/router:resource/{operation}/default/{kind}/overheat"
        found += [(topic, encode(_message(operation, kind, content, "p"), codec)) for codec in ("json", "msgpack")]  # type: ignore[arg-type]
    return found


def damaged(rng: random.Random, payload: bytes, other: bytes) -> bytes:
    """``payload`` with a few faults in it, some of them pieces of ``other``."""
    data = bytearray(payload)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randint(1, 40)]
            case 2:
                data[at:at] = rng.choice(TOKENS)
            case 3:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 4:
                data[at:] = other[rng.randrange(len(other)) :]
            case _:
                places = list(VALUE.finditer(data))
                if places:
                    place = rng.choice(places)
                    data[place.start() : place.end()] = rng.choice(TOKENS)
    return bytes(data)


def _damaged_topic(rng: random.Random, topic: str) -> str:
    at = rng.randrange(len(topic))
    return (
        topic[:at]
        + rng.choice(("", "/", "+", "#", "%", "%00", ":", "\x00", " ", "ü", "_", "A", ".."))
        + topic[at + 1 :]
    )


@pytest.mark.parametrize("side", ["cloud", "edge"])
def test_damaged_packets_are_messages_or_refused_with_a_reason(side: str, rng: random.Random) -> None:
    """P4.2, P5.9: whatever comes, the reader and the checks behind it return or say RefusedError, nothing else; a
    message that passes is of the topic's node, and can be written again.
    """
    reader = Reader(ROOT, "", CONTENT_TYPES) if side == "cloud" else Reader(ROOT, NODE, {})
    packets = _packets(side == "cloud")
    passed = refused = 0
    for topic, payload in packets:
        assert isinstance(reader.read(topic, payload), Message), (topic, payload)
    for _ in range(ROUNDS):
        topic, payload = rng.choice(packets)
        payload = damaged(rng, payload, rng.choice(packets)[1])
        topic = _damaged_topic(rng, topic) if rng.random() < 0.2 else topic
        found = reader.read(topic, payload)
        if isinstance(found, Refused):
            refused += 1
            assert found.error.reason
        elif found is not None:
            passed += 1
            _check(found, topic)
    assert passed > ROUNDS // 100
    assert refused > ROUNDS // 2


def _check(message: Message[Any], topic: str) -> None:
    resource = message.parsed_resource()
    assert resource.node in (topic.split("/")[2], "cloud-1", NODE)
    encode(message)
    content = message.content
    if resource.type in ("rulestatus", "lossrecord") and message.route.operation in (UPDATE, INSERT):
        with suppress(RefusedError):
            assert status_message(message, 0.0).node == topic.split("/")[2]
    elif isinstance(content, NodeBirth):
        assert content.node == topic.split("/")[2]
    elif isinstance(content, dict) and message.route.operation in (RESPONSE, ERROR):
        with suppress(msgspec.ValidationError):  # what the agent counts and passes over
            msgspec.convert(content, Confirmation if message.route.operation == RESPONSE else Refusal)
