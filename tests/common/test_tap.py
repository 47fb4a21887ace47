"""What tap shows of a packet, and that hostile text stays text (experience U2)."""

from __future__ import annotations

from typing import Any

import pytest

from common import codec as codecs
from common.message import new
from common.models import ErrorMsg, ExecResult, NodeBirth
from common.tables import RESULTS, line, render
from common.tap import Filter, as_line, tapped

ROOT = "fieldpost"
TOPIC = f"{ROOT}/up/gw-7/router:resource/update/default/rulestatus/_"
RESOURCE = "node/gw-7/default/rulestatus"
GOOD = ExecResult("relay", "default", "SUCCESS", outcome="delivered", duration_us=1500)
BAD = ExecResult("hot", "default", "FAIL", ErrorMsg("gone\x1b[2J\nand back", "2026-01-01T00:00:00Z"), outcome="failed")


def _payload(content: Any, codec: codecs.CodecName = "json") -> bytes:
    route = {"source": "router", "group": "resource", "operation": "update", "resource": RESOURCE}
    return codecs.encode(new(content=content, **route), codec)


def _seen(topic: str, payload: bytes, wanted: Filter | None = None) -> list[dict[str, Any]]:
    return list(tapped(ROOT, topic, payload, wanted or Filter(), 0.0))


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_each_result_of_a_batch_is_shown(codec: codecs.CodecName):
    """One map for each result, in either codec, with node, rule and what became of it."""
    seen = _seen(TOPIC, _payload([GOOD, BAD], codec))
    assert [(row["kind"], row["node"], row["content"]["RuleID"]) for row in seen] == [
        ("result", "gw-7", "relay"),
        ("result", "gw-7", "hot"),
    ]
    assert as_line(seen[0]) == "00:00:00.000 gw-7         default/relay            SUCCESS delivered 1.5 ms"


@pytest.mark.parametrize(
    ("wanted", "rules"),
    [
        (Filter(rule="hot"), ["hot"]),
        (Filter(status="SUCCESS"), ["relay"]),
        (Filter(node="gw-7"), ["relay", "hot"]),
        (Filter(node="gw-8"), []),
        (Filter(rule="hot", status="SUCCESS"), []),
    ],
)
def test_filters_choose_results(wanted: Filter, rules: list[str]):
    """Node, rule and status together; whatever is no result is hidden when a rule or a status is asked for."""
    assert [row["content"]["RuleID"] for row in _seen(TOPIC, _payload([GOOD, BAD]), wanted)] == rules
    if wanted.rule or wanted.status:
        assert not _seen(f"{ROOT}/presence/gw-7", codecs.encode(NodeBirth("gw-7", "1-x", True)), wanted)


def test_presence_foreign_topics_and_rubbish_are_shown_as_what_they_are():
    """Presence is decoded; what is no message of ours is shown as text, what cannot be decoded with the reason."""
    (presence,) = _seen(f"{ROOT}/presence/gw-7", codecs.encode(NodeBirth("gw-7", "1-x", True)), Filter(node="gw-7"))
    assert (presence["kind"], presence["content"]["online"]) == ("presence", True)
    (other,) = _seen(f"{ROOT}/something", b"\xff\x00")
    assert (other["kind"], other["content"]) == ("other", "\\xff\x00")
    (refused,) = _seen(TOPIC, b"{")
    assert (refused["kind"], "undecodable" in refused["refused"]) == ("message", True)


def test_hostile_text_never_reaches_the_terminal():
    """Control characters in a detail, a topic or a payload are escaped in lines and tables: one line stays one line."""
    rows = [*_seen(TOPIC, _payload(BAD)), *_seen(f"{ROOT}/a\x1b[2J\n", b"\x1b]0;x\x07\x9b"), *_seen(TOPIC, b"\x1b[H")]
    assert all(as_line(row).isprintable() for row in rows)
    assert "gone\\x1b[2J\\x0aand back" in as_line(rows[0])
    row = {"namespace": "default", "rule": "hot\x1b[2J", "node": "gw-7", "status": "FAIL", "detail": "a\nb", "time": ""}
    assert line(RESULTS, row, "table").isprintable()
    assert len(render(RESULTS, [row], "table").splitlines()) == 2
