"""Folding: many results become one summary per rule, outcome and reason; counts stay exact (protocol P5.10).

Pure functions over packed results. What is lost are single details; how many executions lost theirs is returned, and
counted by the spool as ``folded``. Summaries fold again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from common import codec as codecs
from common.codec import CodecName
from common.models import ExecResult
from edge.batching import Packed, unpack

_Key = tuple[str, str, str, str, str, str]  # namespace, rule, uid, status, outcome, reason


class Folded(NamedTuple):
    """What is left of some rows: fewer packed results, and how many executions have no detail of their own any more."""

    packed: list[Packed]
    executions: int


def fold(items: Sequence[Packed], codec: CodecName) -> Folded:
    """Fold all results in ``items`` (oldest first) into one packed row per rule, with one summary per outcome and
    reason.

    The sum of weights is the same before and after. A result that is the only one of its kind stays as it is.
    """
    kinds: dict[_Key, list[ExecResult]] = {}
    for result in (result for item in items for result in unpack(item)):
        key = (result.project_id, result.rule_id, result.rule_uid, result.status, result.outcome, result.reason)
        kinds.setdefault(key, []).append(result)
    by_rule: dict[tuple[str, str], list[ExecResult]] = {}
    executions = 0
    for key, results in kinds.items():
        if len(results) > 1:
            executions += sum(1 for result in results if result.count == 1)
        by_rule.setdefault(key[:2], []).append(summary(results))
    return Folded([_packed(namespace, rule, codec, kept) for (namespace, rule), kept in by_rule.items()], executions)


def summary(results: Sequence[ExecResult]) -> ExecResult:
    """Return one result that stands for all of ``results`` (oldest first, of one rule, outcome and reason; P1.4).

    ``Count`` and ``DurationSum`` are sums, ``First`` and ``Time`` the span, detail, step and version those of the last.
    """
    if len(results) == 1:
        return results[0]
    last = results[-1]
    return msgspec.structs.replace(
        last,
        count=sum(result.count for result in results),
        first=next((stamp for stamp in _stamps(results) if stamp), ""),
        duration_sum=sum(duration_sum(result) for result in results),
        duration_max=max(max(result.duration_max, result.duration_us) for result in results),
        attempts=max(result.attempts for result in results),
    )


def duration_sum(result: ExecResult) -> int:
    """Microseconds of all executions that ``result`` stands for."""
    return result.duration_sum if result.count > 1 else result.duration_us


def _stamps(results: Iterable[ExecResult]) -> Iterable[str]:
    return (result.first or result.time for result in results)


def _packed(namespace: str, rule: str, codec: CodecName, results: list[ExecResult]) -> Packed:
    separator = b"," if codec == "json" else b""
    body = separator.join(codecs.encode(result, codec) for result in results)
    return Packed(namespace, rule, codec, len(results), sum(result.count for result in results), body)
