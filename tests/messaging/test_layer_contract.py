"""The contract of MessageLayer, over memory, the embedded broker, and Mosquitto with both protocol versions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common import codec, topics
from common.errors import CodecError, NotConnectedError, RemoteError, RequestTimeoutError, ResourceError, TopicError
from common.message import ERROR, QUERY, RESPONSE, UPDATE, Message, new
from common.models import Confirmation, ControllerPresence, ExecResult, NodeBirth
from common.resource import build_resource
from tests.messaging.conftest import Medium
from tests.support.wait import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

STATUS_OF_EDGE_1 = build_resource("edge-1", "default", "rulestatus", "overheat")
RULE_OF_EDGE_1 = build_resource("edge-1", "default", "rule", "overheat")
TIMEOUT_S = 10.0


def upward(content: Any = None, resource: str = STATUS_OF_EDGE_1, operation: str = UPDATE) -> Message[Any]:
    return new(source="router", group="resource", operation=operation, resource=resource, content=content)


def downward(content: Any = None, resource: str = RULE_OF_EDGE_1, operation: str = QUERY) -> Message[Any]:
    return new(source="edgecontroller", group="resource", operation=operation, resource=resource, content=content)


async def received(layer: Any) -> Message[Any]:
    got: Message[Any] = await asyncio.wait_for(layer.receive(), TIMEOUT_S)
    return got


@pytest.mark.parametrize("codec_name", ["json", "msgpack"])
async def test_both_directions(medium: Medium, codec_name: str) -> None:
    """A message arrives as it was sent, in both directions and both codecs (P1.1, P3.1, P4.1)."""
    edge, cloud = await medium.pair(codec=codec_name)
    up = upward({"text": "grüße", "list": [1, None, 2.5]}, build_resource("edge-1", "plant", "pod", "a b+#é"))
    await edge.send(up)
    assert await received(cloud) == up
    down = downward({"RuleID": "overheat"})
    await cloud.send(down, qos=0)
    assert await received(edge) == down


async def test_content_is_typed_by_resource_type(medium: Medium) -> None:
    """Content of a known resource type comes out as its model, one or a list; others stay plain values."""
    edge, cloud = await medium.pair()
    result = ExecResult("overheat", "default", "SUCCESS")
    await edge.send(upward(result))
    await edge.send(upward([result, result]))
    await edge.send(upward({"any": 1}, build_resource("edge-1", "default", "pod", "p")))
    assert [(await received(cloud)).content for _ in range(3)] == [result, [result, result], {"any": 1}]


async def test_respond_speaks_in_the_responders_name(medium: Medium) -> None:
    """A reply names its request, copies its resource, and carries the responder's source and group (P1.2, P5.5)."""
    edge, cloud = await medium.pair()
    await edge.send(upward(ExecResult("overheat", "default", "SUCCESS")))
    request = await received(cloud)
    await cloud.respond(request, Confirmation("1-x", 7))
    reply = await received(edge)
    assert reply.is_reply_to(request)
    assert (reply.route.source, reply.route.group, reply.route.operation, reply.route.resource) == (
        "edgecontroller", "resource", RESPONSE, STATUS_OF_EDGE_1,
    )  # fmt: skip
    assert reply.content == Confirmation("1-x", 7)


async def test_send_sync_returns_the_reply(medium: Medium) -> None:
    """``send_sync`` marks the request ``sync`` and returns its own reply, among other traffic (P7.3)."""
    edge, cloud = await medium.pair()
    waiting = asyncio.create_task(cloud.send_sync(downward({"q": 1}), TIMEOUT_S))
    request = await received(edge)
    assert request.header.sync
    await edge.send(upward({"other": 1}, RULE_OF_EDGE_1))
    await edge.respond(request, "OK", qos=1)
    assert (await waiting).content == "OK"
    assert (await received(cloud)).content == {"other": 1}
    assert cloud.statistics()["waiting"] == 0


async def test_send_sync_raises_for_an_error_reply(medium: Medium) -> None:
    """A reply with operation ``error`` is raised, with its content whatever the resource type (P1.2)."""
    edge, cloud = await medium.pair()
    waiting = asyncio.create_task(edge.send_sync(upward(ExecResult("overheat", "default", "FAIL")), TIMEOUT_S))
    await cloud.respond(await received(cloud), {"reason": "stale_epoch"}, operation=ERROR)
    with pytest.raises(RemoteError) as caught:
        await waiting
    assert caught.value.content == {"reason": "stale_epoch"}


async def test_late_reply_is_counted_and_dropped(medium: Medium) -> None:
    """After the timeout the reply is counted, comes out nowhere, and blocks nothing (P7.3)."""
    edge, cloud = await medium.pair()
    with pytest.raises(RequestTimeoutError):
        await cloud.send_sync(downward(), 0.2)
    await edge.respond(await received(edge), "too late", qos=1)
    await edge.send(upward("next", RULE_OF_EDGE_1))
    assert (await received(cloud)).content == "next"
    assert cloud.statistics()["late_replies"] == 1
    assert cloud.statistics()["waiting"] == 0


async def test_cancelled_send_sync_leaves_nothing(medium: Medium) -> None:
    """A cancelled request waits no more, and its reply is treated as a late one."""
    edge, cloud = await medium.pair()
    waiting = asyncio.create_task(cloud.send_sync(downward(), TIMEOUT_S))
    request = await received(edge)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert cloud.statistics()["waiting"] == 0
    await edge.respond(request, "nobody asked", qos=1)
    await eventually(lambda: cloud.statistics()["late_replies"] == 1)
    assert cloud.statistics()["queued"] == 0


async def test_a_reply_that_nobody_waits_for_is_received(medium: Medium) -> None:
    """Replies of other requests (confirmations of the uplink) come out like every message."""
    edge, cloud = await medium.pair()
    await cloud.send(
        new("an-older-request", source="edgecontroller", group="resource", operation=RESPONSE,
            resource=STATUS_OF_EDGE_1, content=Confirmation("1-x", 9))
    )  # fmt: skip
    assert (await received(edge)).content == Confirmation("1-x", 9)


def _mismatch(message: Message[Any], **changes: str) -> bytes:
    for name, value in changes.items():
        setattr(message.route, name, value)
    return codec.encode(message)


async def test_what_cannot_be_a_message_is_reported(medium: Medium) -> None:
    """Garbage, a body that is not its topic's, oversize, foreign presence: each is refused, and traffic flows on."""
    edge, cloud = await medium.pair()
    message = upward({"a": 1}, RULE_OF_EDGE_1)
    topic = topics.topic_of(medium.root, topics.UP, "edge-1", message.route)
    msg_id = message.header.msg_id
    await medium.publish(topic, b"\x00garbage")
    await medium.publish(topic, codec.encode({"header": {"msg_id": "known"}, "content": 1}))
    await medium.publish(topic, _mismatch(message, source="user"))
    await medium.publish(f"{medium.root}/up/edge-1/too/short", b"{}")
    await medium.publish(topic, b'{"x": "' + b"y" * codec.PAYLOAD_BYTES_MAX + b'"}')
    await medium.publish(topics.presence_topic(medium.root, "edge-1"), codec.encode(NodeBirth("edge-2", "1-x", True)))
    await edge.send(upward("next", RULE_OF_EDGE_1))
    assert (await received(cloud)).content == "next"
    assert [(item.error.reason, item.node, item.msg_id) for item in medium.refused] == [
        ("undecodable", "edge-1", ""), ("undecodable", "edge-1", "known"), ("route_mismatch", "edge-1", msg_id),
        ("invalid_topic", "", ""), ("too_large", "edge-1", ""), ("route_mismatch", "edge-1", ""),
    ]  # fmt: skip
    assert medium.refused[0].payload == b"\x00garbage"
    assert medium.refused[2].route is not None
    assert medium.refused[2].route.source == "router"
    assert cloud.statistics()["refused"] == 6


async def test_on_refused_that_raises_does_not_stop_the_flow(medium: Medium) -> None:
    """An exception of the owner's callback is counted, and the next message comes."""

    def fail(_refused: Any) -> None:
        raise RuntimeError("owner's fault")

    edge, cloud = await medium.pair(on_refused=fail)
    await medium.publish(f"{medium.root}/up/edge-1/short", b"{}")
    await edge.send(upward("next", RULE_OF_EDGE_1))
    assert (await received(cloud)).content == "next"
    assert cloud.statistics()["callback_errors"] == 1


async def test_too_large_is_refused_before_it_is_sent(medium: Medium) -> None:
    """A message above the payload limit raises CodecError, and the connection stays."""
    edge, cloud = await medium.pair()
    with pytest.raises(CodecError, match="too_large"):
        await edge.send(upward("x" * codec.PAYLOAD_BYTES_MAX, RULE_OF_EDGE_1))
    await edge.send(upward("next", RULE_OF_EDGE_1))
    assert (await received(cloud)).content == "next"
    assert edge.link.generation == 1


async def test_foreign_resources_are_refused_at_the_sender(medium: Medium) -> None:
    """An edge cannot speak for another node, a controller not to no node (P3.3, P2.2)."""
    edge, cloud = await medium.pair()
    with pytest.raises(TopicError, match="route_mismatch"):
        await edge.send(upward(None, build_resource("edge-2", "default", "rule", "r")))
    with pytest.raises(ResourceError, match="node id not found"):
        await cloud.send(downward(None, "rule/overheat"))


async def test_the_text_nodeid_means_the_topics_node(medium: Medium) -> None:
    """KubeEdge's literal ``nodeid`` in a body is read as the node of the topic, so the reply finds it (P2.1)."""
    edge, cloud = await medium.pair()
    message = upward("x", "node/nodeid/default/rule/overheat")
    await medium.publish(topics.topic_of(medium.root, topics.UP, "edge-1", message.route), codec.encode(message))
    request = await received(cloud)
    assert request.route.resource == RULE_OF_EDGE_1
    await cloud.respond(request, "OK")
    assert (await received(edge)).content == "OK"


async def test_overflow_discards_the_new_and_counts(medium: Medium) -> None:
    """A full receive queue keeps what it has; further messages are discarded and counted (P5.5)."""
    edge, cloud = await medium.pair(receive_queue_max=3)
    for number in range(5):
        await edge.send(upward(number, RULE_OF_EDGE_1))
    await eventually(lambda: cloud.statistics()["overflowed"] == 2)
    assert [(await received(cloud)).content for _ in range(3)] == [0, 1, 2]
    await edge.send(upward("after", RULE_OF_EDGE_1))
    assert (await received(cloud)).content == "after"


async def test_presence_comes_as_messages(medium: Medium) -> None:
    """Presence of nodes and controllers, retained or not, arrives as typed updates; a cleared one is nothing (P3.4)."""
    birth = NodeBirth("edge-1", "3-x", True, labels={"zone": "a"})
    topic = topics.presence_topic(medium.root, "edge-1")
    await medium.publish(topic, codec.encode(birth), retain=True)
    edge, cloud = await medium.pair()
    got = await received(cloud)
    assert (got.route.source, got.route.group, got.route.operation) == ("presence", "resource", UPDATE)
    assert got.route.resource == "node/edge-1/default/node/edge-1"
    assert got.content == birth
    presence = ControllerPresence("cloud-1", True)
    await medium.publish(topics.controller_presence_topic(medium.root, "cloud-1"), codec.encode(presence))
    at_edge, at_cloud = await received(edge), await received(cloud)
    assert at_edge.content == at_cloud.content == presence
    assert at_edge.route.resource == "node/edge-1/default/controller/cloud-1"
    assert at_cloud.route.resource == "node/cloud-1/default/controller/cloud-1"
    await medium.publish(topic, b"", retain=True)
    await edge.send(upward("next", RULE_OF_EDGE_1))
    assert (await received(cloud)).content == "next"
    assert not medium.refused


async def test_a_node_receives_only_its_own(medium: Medium) -> None:
    """What goes to one node does not come to another (P3.1)."""
    edge, cloud = await medium.pair()
    other = medium.layer("edge", "edge-2")
    await medium.start(other)
    await cloud.send(downward("for 2", build_resource("edge-2", "default", "rule", "r")))
    await cloud.send(downward("for 1"))
    assert (await received(edge)).content == "for 1"
    assert (await received(other)).content == "for 2"


async def test_not_connected(medium: Medium) -> None:
    """Without a connection ``send`` and ``send_sync`` raise at once, and nothing is sent later."""
    edge, cloud = medium.layer("edge", "edge-1"), medium.layer("cloud")
    with pytest.raises(NotConnectedError):
        await edge.send(upward("early", RULE_OF_EDGE_1))
    with pytest.raises(NotConnectedError):
        await edge.send_sync(upward("early", RULE_OF_EDGE_1))
    assert edge.statistics()["waiting"] == 0
    await medium.start(cloud, edge)
    await edge.send(upward("now", RULE_OF_EDGE_1))
    assert (await received(cloud)).content == "now"


async def test_stop_ends_those_who_wait(medium: Medium) -> None:
    """``stop`` ends a waiting ``send_sync`` with NotConnectedError; stopping twice is stopping."""
    edge, cloud = await medium.pair()
    waiting = asyncio.create_task(cloud.send_sync(downward(), TIMEOUT_S))
    await received(edge)
    await cloud.stop()
    with pytest.raises(NotConnectedError):
        await waiting
    await cloud.stop()
