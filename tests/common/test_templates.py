"""Templates of targets: what is filled in, and what it cannot do (flow F3)."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import RefusedError, TemplateError
from common.templates import TopicTemplate, UrlTemplate, filter_levels
from edge.messages import FlowMessage

KNOWN = {"node": "edge-1", "rule": "overheat", "namespace": "plant"}


def nothing(path: tuple[str, ...]) -> str | None:
    """A message without fields."""
    return None


def test_levels_and_names_are_filled_in() -> None:
    """Levels of the message's key and the names of node, rule and namespace; what looks like a placeholder is text."""
    assert TopicTemplate("alerts").render("a/b", KNOWN, nothing) == "alerts"
    template = TopicTemplate("{namespace}/{rule}/{node}/{topic[1]}-{topic[0]}/x")
    assert template.levels == 2
    assert template.render("a/b/c", KNOWN, nothing) == "plant/overheat/edge-1/b-a/x"
    assert template.render("{node}/{rule}", KNOWN, nothing) == "plant/overheat/edge-1/{rule}-{node}/x"
    with pytest.raises(TemplateError, match="needs 2 levels, 'a' has 1"):
        template.render("a", KNOWN, nothing)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b'{"line": "l-1"}', "l-1"), ({"line": 7}, "7"), (b'{"line": 1.5}', "1.5"), (b'{"line": true}', "true"),
        (b'{"line": {"name": 1}}', None), (b"{}", None), (b"no json", None), ("text", None), (b'{"line": null}', None),
    ],
)  # fmt: skip
def test_fields_of_the_message(payload: object, text: str | None) -> None:
    """Of the payload as it came or as a chain made it; what has no text of its own is missing, and said to be."""
    message, template = FlowMessage(payload, "a"), TopicTemplate("out/{$MSG.payload.line}")
    if text is not None:
        assert template.render("a", KNOWN, message.field) == f"out/{text}"
    else:
        with pytest.raises(TemplateError, match=r"the message has no payload\.line"):
            template.render("a", KNOWN, message.field)


def test_fields_go_deep() -> None:
    """Lists by index, headers and parameters by name."""
    message = FlowMessage(b'{"a": [{"b": "c"}]}', "a", headers={"x-id": "1"}, params={"line": "2"})
    template = TopicTemplate("{$MSG.payload.a.0.b}/{$MSG.headers.x-id}/{$MSG.params.line}")
    assert template.render("a", KNOWN, message.field) == "c/1/2"


@pytest.mark.parametrize("value", ["a/#", "+", "a\0b", ""])
def test_a_field_cannot_make_another_topic(value: str) -> None:
    """Wildcards and NUL from a payload are refused, not published."""
    message = FlowMessage({"line": value}, "a")
    with pytest.raises(TemplateError):
        TopicTemplate("{$MSG.payload.line}").render("a", KNOWN, message.field)


def test_a_field_cannot_change_a_url() -> None:
    """What is filled in is one piece of a segment or a query value."""
    message = FlowMessage({"line": "../x?y=1#z&a b/@host"}, "devices/a%2f b")
    template = UrlTemplate("http://app:80/{topic[1]}/{$MSG.payload.line}")
    url = template.render(message.key, KNOWN, message.field)
    assert url == "http://app:80/a%252f%20b/..%2Fx%3Fy%3D1%23z%26a%20b%2F%40host"


@pytest.mark.parametrize("value", [".", ".."])
def test_a_field_cannot_climb_in_a_url(value: str) -> None:
    """A segment that would mean another path is refused: no encoding hides it from whoever normalises paths."""
    message = FlowMessage({"a": value, "dot": "."}, "k")
    for text in ("/api/{$MSG.payload.a}/x", "http://app/{$MSG.payload.a}", "/api/.{$MSG.payload.dot}"):
        with pytest.raises(TemplateError, match="makes the segment"):
            UrlTemplate(text).render(message.key, KNOWN, message.field)
    assert UrlTemplate("/v{$MSG.payload.a}/x?y={$MSG.payload.a}").render("k", KNOWN, message.field)


def test_levels_of_a_topic_that_begins_with_a_slash() -> None:
    """MQTT counts the empty level before it, as the check of templates does; a path does not."""
    template = TopicTemplate("{topic[1]}/x")
    assert template.render("/a/b", KNOWN, nothing) == "a/x"
    assert template.render("/a/caf%C3%A9", KNOWN, nothing, path=True) == "café/x"


@pytest.mark.parametrize("payload", [b"[" * 100_000, b'{"a": ' * 100_000, b"\xff"])
def test_a_payload_that_cannot_be_read_has_no_fields(payload: bytes) -> None:
    """However deep it is: the template fails, nothing else does."""
    assert FlowMessage(payload, "a").field(("payload", "a")) is None


@pytest.mark.parametrize(
    "text",
    ["", "a/{}", "{topic}", "{topic[-1]}", "{topic[01]}", "{topic[9999]}", "a}b", "{{node}}", "a/+", "{$MSG}",
     "{$MSG.x}", "{$MSG.payload}", "{MSG.payload.a}", "{$MSG.payload" + ".a" * 16 + "}"],
)  # fmt: skip
def test_what_is_no_template(text: str) -> None:
    """A template that could never be a topic is refused when it is read, not when a message comes."""
    with pytest.raises(RefusedError):
        TopicTemplate(text)


@pytest.mark.parametrize(
    ("filter_", "levels"), [("a", 1), ("a/+/b", 3), ("a/#", 1), ("#", 1), ("+/+/#", 2), ("$share/g/a/b", 2), ("/a", 2)]
)
def test_filter_levels(filter_: str, levels: int) -> None:
    """How many levels a matching topic surely has: ``a/#`` matches ``a`` too."""
    assert filter_levels(filter_) == levels


@pytest.mark.parametrize(
    ("text", "key", "fields"),
    [
        ("out/{$MSG.params.line}", "/a", {"params": {"line": "x/write"}}),
        ("out/{path[1]}/read", "/a/x%2Fwrite", {}),
        ("{$MSG.payload.topic}", "a", {"payload": {"topic": "$CONTROL/dynamic-security/v1"}}),
        ("{path[0]}/x", "/%24SYS", {}),
    ],
)
def test_a_value_gets_no_further_than_its_place(text: str, key: str, fields: dict[str, Any]) -> None:
    """A segment of a path is one level of a topic, and no value makes one of the broker's own topics."""
    message, template = FlowMessage(fields.get("payload"), key, params=fields.get("params", {})), TopicTemplate(text)
    with pytest.raises(TemplateError, match=r"two levels|begins with"):
        template.render(key, KNOWN, message.field, path=key.startswith("/"))


def test_a_payload_may_name_a_topic_of_several_levels() -> None:
    """What answers go to, say; and a rule that means the broker's own topics writes the $ itself."""
    message = FlowMessage({"reply": "to/me"}, "a")
    assert TopicTemplate("{$MSG.payload.reply}").render("a", KNOWN, message.field) == "to/me"
    assert TopicTemplate("$x/{$MSG.payload.reply}").render("a", KNOWN, message.field) == "$x/to/me"
