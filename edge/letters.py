"""Dead letters of the edge: messages that the cloud can never accept, kept, shown, tried again or dropped (P5.9)."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from common import codec as codecs
from common.codec import CodecName
from common.errors import RefusedError
from common.message import new_id
from common.models import LOST_DROPPED, LOST_VOID, ExecResult, LossRecord, Refusal
from edge.batching import Frozen, Packed, freeze, joined, loss
from edge.spooldb import SpoolDb
from edge.spooltables import Changes, DeadMessage

DEAD_BYTES_MAX = 64 << 20  # of all dead letters; the oldest go
DEAD_PART = 4  # they take at most such a part of the spool's quota

# Refusals that no later sending can change. Others (beyond_window, conflict, ...) keep the message where it is.
FINAL = frozenset({
    "undecodable", "too_large", "route_mismatch", "unknown_type", "invalid_topic", "invalid_resource", "stale_epoch",
    "not_assigned",
})  # fmt: skip


class Void(msgspec.Struct):
    """A frozen message that the cloud refuses for good, named by epoch counter and sequence."""

    key: tuple[int, int]
    refusal: Refusal


class Look(msgspec.Struct):
    """A question for the dead letters."""

    answer: asyncio.Future[list[DeadMessage]]


class Letters(msgspec.Struct):
    """An order of the operator: ``redrive`` or ``drop`` the dead letters with these ids (empty: all).

    ``done`` gets how many letters it was done for.
    """

    order: str
    ids: list[str]
    done: asyncio.Future[int]


def void(
    message: Frozen, refusal: Refusal, changes: Changes, *, root: str, node: str, low: int, at: float
) -> tuple[Frozen, list[Packed]]:
    """Move ``message`` to the dead letters. Returns the record that takes its place, with the same epoch and sequence,
    and the results that are not refused, to be frozen anew, when the refusal is of some rules only.
    """
    dead, rest = _split(message, refusal, root=root, node=node, at=at)
    record = LossRecord(
        new_id(),
        LOST_VOID,
        results=dead.weight,
        messages=1,
        epoch=str(message.epoch),
        first_sequence=message.sequence,
        last_sequence=message.sequence,
        reason=refusal.reason,
        detail=refusal.detail,
    )
    changes.new_dead.append(
        DeadMessage(
            message.msg_id, at, refusal.reason, refusal.detail, message.version, message.topic, message.codec,
            dead.weight, dead.payload,
        )
    )  # fmt: skip
    changes.state.dead += dead.weight
    packed = loss(record, message.codec)
    frozen = freeze(packed, message.epoch, message.sequence, low, root=root, node=node, timestamp=int(at * 1000))
    return frozen, rest


def _split(message: Frozen, refusal: Refusal, *, root: str, node: str, at: float) -> tuple[Frozen, list[Packed]]:
    """Return what of a message is refused, as a message, and the other results."""
    uids, results = set(refusal.uids), _results(message.payload) if refusal.uids else []
    refused = [result for result in results if result.rule_uid in uids]
    if not refused or len(refused) == len(results):
        return message, []
    dead = joined([_packed(result, message.codec) for result in refused])
    whole = freeze(dead, message.epoch, message.sequence, 0, root=root, node=node, timestamp=int(at * 1000))
    return whole, [_packed(result, message.codec) for result in results if result.rule_uid not in uids]


def _results(payload: bytes) -> list[ExecResult]:
    """The results in a message; none when it cannot be read."""
    try:
        content = codecs.decode(payload, ExecResult | list[ExecResult]).content
    except RefusedError:
        return []
    return content if isinstance(content, list) else [content]


def _packed(result: ExecResult, codec: CodecName) -> Packed:
    return Packed(result.project_id, result.rule_id, codec, 1, result.count, codecs.encode(result, codec))


def redrive(letters: list[DeadMessage], changes: Changes) -> list[Packed]:
    """Return the results of dead letters as new ones, to be frozen anew; a letter that cannot be read stays."""
    again: list[Packed] = []
    for letter in letters:
        results = _results(letter.payload)
        if results:
            again += [_packed(result, letter.codec) for result in results]
            changes.state.dead -= letter.weight
            changes.gone_dead.append(letter.id)
    return again


def drop(letters: list[DeadMessage], changes: Changes, codec: CodecName) -> list[Packed]:
    """Give dead letters up for good, which is a loss; returns its record."""
    detail = f"{len(letters)} dead letters were dropped by command"
    return _given_up([(letter.id, letter.weight) for letter in letters], changes, codec, "dlq_drop", detail)


def outgrown(db: SpoolDb, changes: Changes, quota: int, codec: CodecName) -> list[Packed]:
    """Give up the oldest dead letters when all of them, with the new ones, are larger than they may be: results that
    can still be counted need the room. ``quota`` is the spool's, in bytes. Returns the record of the loss.
    """
    new = [(letter.id, letter.weight, len(letter.payload)) for letter in changes.new_dead]
    kept = [row for row in db.dead_sizes() if row[0] not in changes.gone_dead] + new
    over = sum(size for *_, size in kept) - min(DEAD_BYTES_MAX, quota // DEAD_PART)
    gone: list[tuple[str, int]] = []
    for row, weight, size in kept:
        if over <= 0:
            break
        gone.append((row, weight))
        over -= size
    detail = f"the {len(gone)} oldest dead letters made room for new ones"
    return _given_up(gone, changes, codec, "dead_letters_full", detail)


def _given_up(
    letters: list[tuple[str, int]], changes: Changes, codec: CodecName, reason: str, detail: str
) -> list[Packed]:
    """Count letters, by id and weight, as dropped; returns the record, none for no letters."""
    weight = sum(weight for _, weight in letters)
    changes.state.dead -= weight
    changes.state.dropped += weight
    changes.gone_dead += [row for row, _ in letters]
    if not letters:
        return []
    record = LossRecord(new_id(), LOST_DROPPED, results=weight, messages=len(letters), reason=reason, detail=detail)
    return [loss(record, codec)]


def shown(letter: DeadMessage, *, payload: bool = False) -> dict[str, Any]:
    """A dead letter as the command line shows it; with ``payload`` also what it says."""
    row = {
        "id": letter.id, "at": letter.at, "reason": letter.reason, "detail": letter.detail, "version": letter.version,
        "topic": letter.topic, "results": letter.weight, "size": len(letter.payload),
    }  # fmt: skip
    return row | ({"payload": letter.payload.decode("utf-8", "backslashreplace")} if payload else {})
