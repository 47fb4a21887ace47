"""Clauses P1.1 to P1.4: the message as KubeEdge's beehive writes it."""

from __future__ import annotations

import json
import uuid
from typing import Any

import msgspec
import pytest

from common import codec, message, models
from common.errors import CodecError
from common.message import Message, MessageHeader, MessageRoute

ROUTE = MessageRoute("router", "", "resource", "update", "node/nodeid/default/rulestatus/r")
RESULT = models.ExecResult("r", "default", "SUCCESS")
GO_RESULT = {
    "RuleID": "r",
    "ProjectID": "default",
    "Status": "SUCCESS",
    "Error": {"Detail": "", "Timestamp": "0001-01-01T00:00:00Z"},
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Message(MessageHeader("a", 0)), {"header": {"msg_id": "a", "timestamp": 0}, "route": {}, "content": None}),
        (
            Message(MessageHeader("a", 5, "p", "7", True, "channel"), ROUTE, "OK"),
            {
                "header": {
                    "msg_id": "a", "timestamp": 5, "parent_msg_id": "p", "resourceversion": "7", "sync": True,
                    "type": "channel",
                },
                "route": {
                    "source": "router", "group": "resource", "operation": "update",
                    "resource": "node/nodeid/default/rulestatus/r",
                },
                "content": "OK",
            },
        ),
        (RESULT, GO_RESULT),
    ],
)  # fmt: skip
def test_p1_1_json_is_what_go_emits(value: Any, expected: Any) -> None:
    """Empty fields are absent exactly where Go has omitempty."""
    assert json.loads(codec.encode(value)) == expected


@pytest.mark.parametrize("stamp", ["0001-01-01T00:00:00Z", "2026-11-21T03:09:59.123456789+08:00"])
def test_p1_4_decodes_what_go_emits(stamp: str) -> None:
    """Unknown header fields, nanosecond and zero times, and Error on success are taken."""
    content = {**GO_RESULT, "Error": {"Detail": "", "Timestamp": stamp}}
    text = json.dumps({"header": {"msg_id": "", "timestamp": 1, "new": {}}, "route": {}, "content": content})
    assert codec.decode(text.encode(), models.ExecResult).content.error.timestamp == stamp


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"header": {"msg_id": 1, "timestamp": 1}}, "$.header.msg_id"),
        ({"header": {"msg_id": "a", "timestamp": "1"}}, "$.header.timestamp"),
        ({"header": {"msg_id": "a", "timestamp": 1}, "route": {"group": 1}}, "$.route.group"),
        ({"header": {"msg_id": "a", "timestamp": 1}, "content": [GO_RESULT, {**GO_RESULT, "Status": 1}]},
         "$.content[1].Status"),
        ({"header": {"msg_id": "a", "timestamp": 1}, "content": [{**GO_RESULT, "Status": "FAIL\n"}]},
         "$.content[0].Status"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_p1_1_wrong_type_names_the_path(name: codec.CodecName, body: Any, path: str) -> None:
    """The error names the field, alike in both codecs."""
    with pytest.raises(CodecError) as caught:
        codec.decode(codec.encode(body, name), list[models.ExecResult])
    assert path in caught.value.detail


def test_p1_2_reply_error_clone() -> None:
    """Replies name the responder; a clone keeps all but the id."""
    request = Message(MessageHeader("a", 1, "p", "v", True, "t", 3), MessageRoute("s", "d", "g", "query", "r"), [1])
    answer = message.reply(request, "OK", source="me", group="mine")
    assert answer.is_reply_to(request)
    assert answer.route == MessageRoute("me", "", "mine", "response", "r")
    assert answer.header.msg_id != "a"
    assert not answer.header.sync
    assert message.reply_error(request, "no").route == MessageRoute("", "", "", "error", "r")
    copy = message.clone(request)
    assert copy.header.msg_id != "a"
    assert msgspec.structs.replace(copy.header, msg_id="a") == request.header
    assert (copy.route, copy.content) == (request.route, request.content)
    assert copy.route is not request.route
    assert not message.new().is_reply_to(Message(MessageHeader("", 0)))


def test_p1_3_unknown_operations_pass() -> None:
    """Operations are no enum at decode."""
    sent = message.new(operation="unhold-upgrade", resource="node/n/d/lease/x")
    assert codec.decode(codec.encode(sent)) == sent


def test_ids_are_uuid7_in_order_whatever_the_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are version 7 of RFC 9562 with the time of their creation, and rise: within a millisecond, beyond its 4,096
    ids, and when the clock steps back.
    """
    clock = [*[1_900_000_000_000] * 5000, 1_900_000_000_500, *[1_800_000_000_000] * 10]
    times = iter(clock)
    monkeypatch.setattr(message, "_last_id", 0)
    monkeypatch.setattr(message, "now_ms", lambda: next(times))
    ids = [message.new_id() for _ in clock]
    parsed = [uuid.UUID(text) for text in ids]
    assert {(each.version, each.variant) for each in parsed} == {(7, uuid.RFC_4122)}
    assert [str(each) for each in parsed] == ids == sorted(set(ids))
    assert [each.int >> 80 for each in parsed[:4096]] == clock[:4096]
    assert parsed[5000].int >> 80 == clock[5000]
