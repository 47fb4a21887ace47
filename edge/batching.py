"""How results become messages: pure functions that pack encoded results and freeze them (protocol P1.4, P5.1, P5.4).

A ``Packed`` holds one or more encoded results of one codec, already joined as the inside of a list, so that making a
message of them copies bytes and decodes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, groupby
from operator import attrgetter
from typing import NamedTuple

import msgspec

from common import codec as codecs
from common.codec import CodecName
from common.message import INSERT, RESOURCE_GROUP, ROUTER, UPDATE, Message, MessageHeader, MessageRoute, new_id
from common.models import Epoch, ExecResult, LossRecord
from common.resource import DEFAULT_NAMESPACE, LOSSRECORD, RULESTATUS, build_resource
from common.topics import UP, topic_of

FEW_RULES = 4  # so many rules in a group still get a message each: their topics stay readable for people
GOOD_BATCH = 32  # results per rule from which a message per rule is cheap enough


class Packed(NamedTuple):
    """Encoded results of one namespace, joined. ``rule`` is empty when they are of several rules.

    ``kind`` is the resource type that they travel as: ``rulestatus``, or ``lossrecord`` (P5.8), which weighs nothing.
    ``results`` results stand in ``body``, which weigh ``weight`` executions (a summary weighs its Count). ``rows`` are
    the spool rows that they came from.
    """

    namespace: str
    rule: str
    codec: CodecName
    results: int
    weight: int
    body: bytes
    rows: tuple[int, ...] = ()
    kind: str = RULESTATUS


_SENDER = attrgetter("kind", "namespace", "codec", "rule")
_RULE, _RESULTS, _WEIGHT, _BODY, _ROWS = map(attrgetter, ("rule", "results", "weight", "body", "rows"))


class Frozen(NamedTuple):
    """A message that never changes again: what is published until it is confirmed (P5.1)."""

    epoch: Epoch
    sequence: int
    msg_id: str
    topic: str
    payload: bytes
    codec: CodecName
    weight: int

    @property
    def version(self) -> str:
        """The message's ``resourceversion``."""
        return f"{self.epoch}.{self.sequence}"


def pack(items: Sequence[Packed], count_max: int, bytes_max: int) -> list[Packed]:
    """Join ``items`` (oldest first) into as few as sensible, at most ``count_max`` results and ``bytes_max`` bytes
    each.

    A rule's results keep their order. Few rules, or many results of each: one message per rule. Otherwise one message
    of a namespace carries results of several rules (P1.4), so the cost does not grow with the number of rules.
    """
    if len(items) == 1 or count_max == 1:
        return list(items)
    of_one: defaultdict[tuple[str, str, CodecName, str], list[Packed]] = defaultdict(list)
    for key, item in zip(map(_SENDER, items), items, strict=True):  # all that is done for each item runs in C
        of_one[key].append(item)
    if len({codec for _, _, codec, _ in of_one}) > 1:  # the setting was changed; a rule's results keep their order
        runs = (list(run) for _, run in groupby(items, attrgetter("codec")))
        return [packed for run in runs for packed in pack(run, count_max, bytes_max)]
    groups: dict[tuple[str, str, CodecName], dict[str, list[Packed]]] = {}
    for (kind, namespace, codec, rule), of_rule in of_one.items():
        groups.setdefault((kind, namespace, codec), {})[rule] = of_rule
    packed: list[Packed] = []
    for (kind, namespace, codec), by_rule in groups.items():
        together = sum(map(len, by_rule.values()))
        if "" not in by_rule and (len(by_rule) <= FEW_RULES or together >= GOOD_BATCH * len(by_rule)):
            for of_rule in by_rule.values():
                packed.extend(_join(of_rule, count_max, bytes_max))
        else:
            mixed = [i for i in items if i[0] == namespace and i[2] == codec and i.kind == kind]
            packed.extend(_join(mixed, count_max, bytes_max))
    return packed


def _join(items: Sequence[Packed], count_max: int, bytes_max: int) -> Iterator[Packed]:
    if sum(map(_RESULTS, items)) <= count_max and sum(map(len, map(_BODY, items))) + len(items) <= bytes_max:
        yield joined(items)
        return
    part: list[Packed] = []
    count = size = 0
    for item in items:
        if part and (count + item.results > count_max or size + len(item.body) + 1 > bytes_max):
            yield joined(part)
            part, count, size = [], 0, 0
        part.append(item)
        count += item.results
        size += len(item.body) + 1
    if part:
        yield joined(part)


def joined(part: Sequence[Packed]) -> Packed:
    """Return all of ``part``, which are of one namespace, codec and kind, as one, in their order."""
    first = part[0]
    if len(part) == 1:
        return first
    rules = set(map(_RULE, part))
    return Packed(
        first.namespace,
        first.rule if len(rules) == 1 else "",
        first.codec,
        sum(map(_RESULTS, part)),
        sum(map(_WEIGHT, part)),
        (b"," if first.codec == "json" else b"").join(map(_BODY, part)),
        tuple(chain.from_iterable(map(_ROWS, part))),
        first.kind,
    )


def freeze(packed: Packed, epoch: Epoch, sequence: int, low: int, *, root: str, node: str, timestamp: int) -> Frozen:
    """Make the message of ``packed``: topic, bytes, epoch and sequence, all final. ``timestamp`` is unix milliseconds.

    One result alone is the content itself, several are a list (P1.4).
    """
    msg_id = new_id()
    route, topic = _address(root, node, packed.namespace, packed.kind, packed.rule)
    header = MessageHeader(msg_id=msg_id, timestamp=timestamp, resourceversion=f"{epoch}.{sequence}", low=low)
    content = msgspec.Raw(packed.body if packed.results == 1 else _list_of(packed))
    payload = codecs.encode(Message(header, route, content), packed.codec)
    return Frozen(epoch, sequence, msg_id, topic, payload, packed.codec, packed.weight)


@lru_cache(maxsize=4096)
def _address(root: str, node: str, namespace: str, kind: str, rule: str) -> tuple[MessageRoute, str]:
    """Where results of a rule go to: the route, which is shared and not to be changed, and its topic."""
    route = MessageRoute(
        source=ROUTER,
        group=RESOURCE_GROUP,
        operation=UPDATE if kind == RULESTATUS else INSERT,
        resource=build_resource(node, namespace, kind, rule),
    )
    return route, topic_of(root, UP, node, route)


def loss(record: LossRecord, codec: CodecName) -> Packed:
    """Return a loss record as something to send: it weighs nothing, for it is no execution (P5.8)."""
    return Packed(
        DEFAULT_NAMESPACE, record.kind.replace("_", "-"), codec, 1, 0, codecs.encode(record, codec), (), LOSSRECORD
    )


def unpack(packed: Packed) -> list[ExecResult]:
    """Decode the results in ``packed``; they are our own, so no limits apply."""
    if packed.codec == "json":
        return msgspec.json.decode(b"[" + packed.body + b"]", type=list[ExecResult])
    return msgspec.msgpack.decode(_list_of(packed), type=list[ExecResult])


def _list_of(packed: Packed) -> bytes:
    if packed.codec == "json":
        return b"[" + packed.body + b"]"
    if packed.results < 16:
        return bytes((0x90 | packed.results,)) + packed.body
    return b"\xdc" + packed.results.to_bytes(2, "big") + packed.body
