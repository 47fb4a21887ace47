"""Packing results into messages and freezing them (protocol P1.4, P5.1, P5.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import codec as codecs
from common.message import new_id
from common.models import Epoch, ExecResult, parse_version
from common.topics import check_route, parse_topic
from edge.batching import Packed, freeze, pack
from tests.edge.support import NODE, ROOT, packed, result, results_of

EPOCH = Epoch(3, new_id())


def _freeze(item: Packed, sequence: int = 7, low: int = 5):
    return freeze(item, EPOCH, sequence, low, root=ROOT, node=NODE, timestamp=1_763_683_200_123)


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 256])
def test_joined_results_decode_as_they_were(codec, count):
    """Results joined without a decode come out of the message equal and in order, in both codecs and any list size."""
    items = [result(source_id=str(n)) for n in range(count)]
    (batch,) = pack([packed(item, codec) for item in items], 256, 1 << 20)
    message = _freeze(batch)
    assert results_of(message) == items
    assert message.codec == codec == codecs.codec_of(message.payload)


def test_one_result_alone_is_never_wrapped_in_a_list():
    """P1.4: the content of a message with one result is that result."""
    assert isinstance(codecs.decode(_freeze(packed(result())).payload, ExecResult).content, ExecResult)


def test_frozen_message_says_the_same_in_topic_and_body():
    """P3.3, P5.2: the body's route is the topic's; resourceversion is epoch and sequence; low travels in the header."""
    message = _freeze(packed(result("overheat", namespace="plant")))
    body = codecs.decode(message.payload)
    check_route(parse_topic(ROOT, message.topic), body.route)
    assert message.topic == f"{ROOT}/up/{NODE}/router:resource/update/plant/rulestatus/overheat"
    assert parse_version(body.header.resourceversion) == (EPOCH, 7)
    assert (body.header.low, body.header.msg_id) == (5, message.msg_id)


def test_few_rules_get_a_message_each():
    """Up to four rules keep topics of their own, which a person can filter."""
    batches = pack([packed(result(f"r{n % 3}", str(n))) for n in range(9)], 256, 65536)
    assert sorted((batch.rule, batch.results) for batch in batches) == [("r0", 3), ("r1", 3), ("r2", 3)]


def test_many_rules_with_few_results_share_a_message():
    """P1.4: small batches of many rules of a namespace travel together under the nameless resource."""
    items = [packed(result(f"r{n}", str(n), namespace=f"n{n % 2}")) for n in range(100)]
    batches = pack(items, 256, 65536)
    assert [(batch.namespace, batch.rule, batch.results) for batch in batches] == [("n0", "", 50), ("n1", "", 50)]
    assert _freeze(batches[0]).topic == f"{ROOT}/up/{NODE}/router:resource/update/n0/rulestatus/_"


def test_summaries_weigh_their_count():
    """P5.11: the weight of a message is executions, not records."""
    (batch,) = pack([packed(result(count=10)), packed(result(count=5))], 256, 65536)
    assert (batch.results, batch.weight) == (2, 15)


rules = st.sampled_from([f"r{n}" for n in range(8)])


@given(
    st.lists(st.tuples(rules, st.sampled_from(["n0", "n1"]), st.sampled_from(["json", "msgpack"]))),
    st.integers(1, 40),
    st.integers(400, 5000),
)
def test_packing_loses_nothing_and_keeps_each_rules_order(drawn, count_max, bytes_max):
    """Whatever comes in goes out once, within the bounds, a rule's results in order, codecs never mixed."""
    items = [packed(result(rule, str(n), ns), codec) for n, (rule, ns, codec) in enumerate(drawn)]
    batches = pack(items, count_max, bytes_max) if items else []
    seen: dict[tuple[str, str, str], list[int]] = {}
    for batch in batches:
        assert batch.results <= count_max
        assert batch.results == 1 or len(batch.body) <= bytes_max
        for item in results_of(_freeze(batch)):
            assert item.project_id == batch.namespace
            assert batch.rule in ("", item.rule_id)
            seen.setdefault((item.project_id, item.rule_id, batch.codec), []).append(int(item.source_id))
    assert sorted(n for order in seen.values() for n in order) == list(range(len(items)))
    assert all(order == sorted(order) for order in seen.values())


def test_order_holds_when_the_codec_was_changed_and_changed_back():
    """P5.6: a backlog of both codecs goes out in the order of its results, not codec by codec."""
    codecs_in_turn = ["json", "msgpack", "msgpack", "json", "json"]
    items = [packed(result(source_id=str(n)), codec) for n, codec in enumerate(codecs_in_turn)]
    found = [each.source_id for batch in pack(items, 256, 1 << 20) for each in results_of(_freeze(batch))]
    assert found == ["0", "1", "2", "3", "4"]
