"""Clauses P3.1 to P3.4: topics from routes and back, filters."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common import topics
from common.errors import RefusedError, ResourceError, TopicError
from common.message import MessageRoute

HOSTILE = st.text(st.sampled_from("aZ09-_.~+#/:%\x00 \n$é世😀") | st.characters(), max_size=20)
PART = HOSTILE.filter(lambda text: "/" not in text and text != "")
ROOT, NODE = "fieldpost", "edge-1"
GOOD = MessageRoute("router", "", "resource", "update", "node/edge-1/default/rulestatus/r")
TOPIC = "fieldpost/up/edge-1/router:resource/update/default/rulestatus/r"


def resource_text(kind: str, name: str, form: int) -> str:
    """A resource in its five-, four- or two-segment form."""
    return [f"node/{NODE}/default/{kind}/{name}", f"node/{NODE}/default/{kind}", f"{kind}/{name}"][form]


@settings(deadline=None)  # other work may hold the machine
@given(HOSTILE, HOSTILE, HOSTILE, PART, PART, st.integers(0, 2), st.sampled_from(["up", "down"]))
@example("_", "%5F", "", "_", "_", 0, "up")
def test_p3_1_round_trip(s: str, g: str, op: str, kind: str, name: str, form: int, way: str) -> None:
    """From the topic alone the route is rebuilt, whatever the text; the structure stays."""
    if form == 2 and kind == "node":
        return
    route = MessageRoute(s, "", g, op, resource_text(kind, name, form))
    try:
        topic = topics.topic_of(ROOT, way, NODE, route)
    except TopicError as exc:
        refused = exc.detail
    else:
        refused = ""
    if refused:
        assert "bytes, at most" in refused or "surrogate" in refused
        return
    assert topic.count("/") == 7
    assert topics.check_topic(topic) == topic
    parsed = topics.parse_topic(ROOT, topic)
    assert (parsed.direction, parsed.node, parsed.route) == (way, NODE, route)
    topics.check_route(parsed, route)


@settings(deadline=None)  # other work may hold the machine
@given(st.lists(st.sampled_from(["_", "%5F", "%2F", "%2f", "a", "node", "a%2Fb", "%00", "%", "%C3", "ä", ""]),
                min_size=6, max_size=6))  # fmt: skip
def test_p3_1_accepted_topics_are_canonical(parts: list[str]) -> None:
    """Every accepted topic re-encodes to itself."""
    s, g, op, ns, kind, name = parts
    topic = f"{ROOT}/up/{NODE}/{s}:{g}/{op}/{ns}/{kind}/{name}"
    try:
        parsed = topics.parse_topic(ROOT, topic)
    except TopicError:
        return
    assert topics.topic_of(ROOT, "up", NODE, parsed.route) == topic


@pytest.mark.parametrize(
    "topic",
    ["", TOPIC + "/x", "x" + TOPIC, TOPIC.replace("/up/", "/sideways/"), TOPIC.replace("edge-1", "Edge"),
     TOPIC.replace(":", ""), TOPIC.replace("default", "De"), TOPIC.replace("rulestatus", "_"),
     TOPIC.replace("/r", "/%72", 1), f"{ROOT}/up/{NODE}/a:b/update/_/rule/_", f"{ROOT}/up/{NODE}/a:b/update/_/node/x",
     f"{ROOT}/up/{NODE}/a:b/update/default/rule/a%2Fb", "x" * 1025, TOPIC + "\n", TOPIC + "\ud800"],
)  # fmt: skip
def test_p3_1_bad_topics(topic: str) -> None:
    """A topic that no route makes is refused with a TopicError."""
    with pytest.raises(TopicError):
        topics.parse_topic(ROOT, topic)


def test_p3_2_limits() -> None:
    """255 bytes a segment and 1024 a topic are taken, one more is not; <source>:<group> is one segment."""
    assert topics.encode_segment("a" * 255)
    for text in ("a" * 256, "é" * 43):  # 43 * 6 encoded bytes
        with pytest.raises(TopicError, match="at most 255"):
            topics.encode_segment(text)
    assert topics.topic_of(ROOT, "up", NODE, MessageRoute("a" * 127, "", "b" * 127, "update", GOOD.resource))
    with pytest.raises(TopicError, match="256 bytes, at most 255"):
        topics.topic_of(ROOT, "up", NODE, MessageRoute("a" * 127, "", "b" * 128, "update", GOOD.resource))
    with pytest.raises(TopicError, match="at most 255"):
        topics.parse_topic(ROOT, TOPIC.replace("router", "a" * 250))
    route = MessageRoute("a" * 126, "", "b" * 126, "c" * 253, f"node/{NODE}/default/{'d' * 253}/{'e' * 240}")
    size = len(topics.topic_of("r", "up", NODE, route))
    root = "r" * (1024 - size + 1)
    topic = topics.topic_of(root, "up", NODE, route)
    assert len(topic) == 1024
    assert topics.parse_topic(root, topic).route == route
    with pytest.raises(TopicError, match="1025 bytes, at most 1024"):
        topics.topic_of(root + "r", "up", NODE, route)


@pytest.mark.parametrize(
    ("node", "resource"),
    [("Edge", GOOD.resource), ("a\n", GOOD.resource), (NODE, "node/other/default/rule/x"), (NODE, "node/edge-1/D/t/x"),
     (NODE, "node/edge-1/default/rule/a/b"), (NODE, "x/edge-1/default/rule"), (NODE, "")],
)  # fmt: skip
def test_p3_2_refused_before_sending(node: str, resource: str) -> None:
    """What a topic cannot say is an error before anything is sent."""
    with pytest.raises((TopicError, ResourceError)):
        topics.topic_of(ROOT, "up", node, MessageRoute("a", "", "b", "update", resource))


@pytest.mark.parametrize(
    "route",
    [MessageRoute("x", "", "resource", "update", GOOD.resource),
     MessageRoute("router", "", "x", "update", GOOD.resource),
     MessageRoute("router", "", "resource", "x", GOOD.resource),
     *(MessageRoute("router", "", "resource", "update", text) for text in (
         "", "node/other/default/rulestatus/r", "node/edge-1/x/rulestatus/r", "node/edge-1/default/rule/r",
         "node/edge-1/default/rulestatus/x", "node/edge-1/default/rulestatus", "rulestatus/r",
         "node/edge-1/default/rulestatus/r/x", "edge/edge-1/default/rulestatus/r", "x" * 100_000))],
)  # fmt: skip
def test_p3_3_route_mismatch(route: MessageRoute) -> None:
    """A body that differs in any field is refused, with a detail of bounded size."""
    with pytest.raises(RefusedError) as caught:
        topics.check_route(topics.parse_topic(ROOT, TOPIC), route)
    assert caught.value.reason == "route_mismatch"
    assert len(caught.value.detail) <= 1024


@pytest.mark.parametrize("tail", ["/r", ""])
def test_p3_3_agreeing_routes(tail: str) -> None:
    """The destination is free, and the literal nodeid means the topic's node."""
    route = MessageRoute("router", "any", "resource", "update", f"node/nodeid/default/rulestatus{tail}")
    parsed = topics.parse_topic(ROOT, topics.topic_of(ROOT, "up", NODE, route))
    assert parsed.route.resource == f"node/edge-1/default/rulestatus{tail}"
    topics.check_route(parsed, route)


def test_p3_4_presence() -> None:
    """Presence topics of a node and of a controller."""
    assert topics.presence_topic(ROOT, NODE) == "fieldpost/presence/edge-1"
    assert topics.controller_presence_topic(ROOT, "c1") == "fieldpost/presence/cloud/c1"


MATCHES = [
    ("a/b", "a/b", True), ("a/b", "a/c", False), ("#", "a/b", True), ("a/#", "a", True), ("a/#", "a/b/c", True),
    ("a/#", "ab", False), ("+", "a", True), ("+", "a/b", False), ("+/+", "/a", True), ("/+", "/a", True),
    ("+", "/a", False), ("a/+", "a", False), ("a/+", "a/", True), ("a/+/c", "a/b/c", True), ("#", "$SYS/x", False),
    ("+/x", "$SYS/x", False), ("$SYS/#", "$SYS/x", True), ("$SYS/+", "$SYS/x", True), ("a/#", "a/$x", True),
    ("a", "A", False), ("fieldpost/up/+/router:resource/update/+/rulestatus/#", TOPIC, True),
]  # fmt: skip


@pytest.mark.parametrize(("filter_", "topic", "expected"), MATCHES)
def test_mqtt_4_7_matches(filter_: str, topic: str, expected: bool) -> None:
    """Filters match as MQTT 4.7 says."""
    assert topics.matches(filter_, topic) is expected


def naive(wanted: list[str], levels: list[str]) -> bool:
    """MQTT 4.7 as a recursion."""
    if wanted == ["#"]:
        return True
    if not wanted or not levels:
        return not wanted and not levels
    return wanted[0] in ("+", levels[0]) and naive(wanted[1:], levels[1:])


@settings(deadline=None)  # other work may hold the machine
@given(st.lists(st.sampled_from(["a", "b", "", "+", "$x"]), min_size=1, max_size=4), st.booleans(),
       st.lists(st.sampled_from(["a", "b", "", "$x"]), min_size=1, max_size=5))  # fmt: skip
def test_mqtt_4_7_matches_like_the_naive_matcher(wanted: list[str], all_below: bool, levels: list[str]) -> None:
    """The matcher agrees with a naive recursion."""
    wanted = [*wanted, "#"] if all_below else wanted
    expected = naive(wanted, levels) and not (levels[0].startswith("$") and wanted[0] in ("+", "#"))
    assert topics.matches("/".join(wanted), "/".join(levels)) is expected


@pytest.mark.parametrize("text", ["", "a\x00", "a\n", "\x7f", "\x85", "\ud800", "\uffff", "a" * 1025, "é" * 513])
def test_p3_2_bad_text(text: str) -> None:
    """Neither a filter nor a topic holds these."""
    for check in (topics.check_filter, topics.check_topic):
        with pytest.raises(TopicError):
            check(text)


@pytest.mark.parametrize("text", ["a/#/b", "a#", "#a", "a+/b", "+a"])
def test_p3_2_bad_filters(text: str) -> None:
    """Wildcards are whole levels, # the last."""
    with pytest.raises(TopicError, match="must be"):
        topics.check_filter(text)


def test_p3_2_good_filters_and_topics() -> None:
    """Legal filters and topics come back unchanged; wildcards and blanks are none in a topic."""
    for text in ("#", "+", "a/+/#", "/", "a" * 1024, "a b"):
        assert topics.check_filter(text) == text
    for text in ("a", "/", "é/世", "a" * 1024):
        assert topics.check_topic(text) == text
    for text in ("a/+", "#", "a b", "a\u00a0b", "a\u2028"):
        with pytest.raises(TopicError):
            topics.check_topic(text)


@pytest.mark.parametrize("root", ["", "_", "a/b", "a b", "$SYS", "+", "é", "\ud800", "a\n"])
def test_p3_1_bad_roots(root: str) -> None:
    """The root is one level that needs no encoding."""
    with pytest.raises(TopicError):
        topics.check_root(root)
