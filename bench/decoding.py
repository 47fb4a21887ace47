"""What the limits of a decode cost beside the bare typed decode (P4.2): for each codec, in one thread, interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from bench.measure import Row
from common import codec
from common.codec import CodecName
from common.message import Message, new
from common.models import DELIVERED, FAIL, FAILED, SUCCESS, ErrorMsg, ExecResult

CONTENT = ExecResult | list[ExecResult]
RESULTS = 256  # of a full message
TURNS = 40  # of which the shortest counts: what else runs on the machine only ever makes a turn longer
TURN_S = 0.002


def rows() -> list[Row]:
    """One row a codec: the cost of the checks, in bare typed decodes of the same message."""
    found = []
    for name in ("msgpack", "json"):
        whole, bare = _costs(name, RESULTS)
        one, one_bare = _costs(name, 1)
        note = f"{RESULTS} results in a message, {bare * 1e6:.0f} us bare and {whole * 1e6:.0f} us with all checks; "
        note += f"of one result {one_bare * 1e6:.1f} and {one * 1e6:.1f} us"
        ratio = (whole - bare) / bare
        found.append(Row(f"limits of a {name} decode", ratio, "of bare decode", "<= 1", ratio <= 1, note))
    return found


def _costs(name: CodecName, results: int) -> tuple[float, float]:
    """CPU seconds of one decode with all checks, and of the bare one."""
    payload = codec.encode(_message(results), name)
    bare = (msgspec.json if name == "json" else msgspec.msgpack).Decoder(Message[CONTENT])  # type: ignore[valid-type]
    assert codec.decode(payload, CONTENT) == bare.decode(payload)
    turns = [(_turn(lambda: codec.decode(payload, CONTENT)), _turn(lambda: bare.decode(payload))) for _ in range(TURNS)]
    return min(whole for whole, _ in turns), min(alone for _, alone in turns)


def _turn(call: Callable[[], object]) -> float:
    calls, began = 0, time.process_time()
    while (took := time.process_time() - began) < TURN_S:
        for _ in range(8):
            call()
        calls += 8
    return took / calls


def _message(results: int) -> Message[CONTENT]:  # type: ignore[valid-type]
    content = [_result(number) for number in range(results)]
    resource = "node/edge-1/default/rulestatus/rule-1"
    message = new(source="router", group="resource", operation="update", resource=resource)
    message.header.resourceversion, message.header.low = f"12-{message.header.msg_id}.77", 70
    message.content = content[0] if results == 1 else content
    return message


def _result(number: int) -> ExecResult:
    time_, failed = "2026-11-26T04:00:00.000Z", number % 10 == 0
    error = ErrorMsg("the target answered 500 Internal Server Error", time_) if failed else ErrorMsg()
    return ExecResult(
        "rule-1", "default", FAIL if failed else SUCCESS, error, time=time_, outcome=FAILED if failed else DELIVERED,
        duration_us=number % 1000, rule_version="1", source_id=f"{number:08d}-0000-7000-8000-000000000000",
    )  # fmt: skip
