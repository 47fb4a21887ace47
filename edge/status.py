"""Status: makes the one ExecResult of an execution and hands it to the spool (protocol P1.4, flow F5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from common import codec as codecs
from common.clock import Clock, SystemClock
from common.codec import CodecName
from common.models import DELIVERED, FAIL, FILTERED, SUCCESS, ErrorMsg, ExecResult, clean_text, rfc3339
from edge.batching import Packed
from edge.messages import DELIVERED_ENDING, Ending
from edge.spool import Spool


class RuleRef(NamedTuple):
    """What a result says of its rule: namespace, name, version that ran, and the uid that tells namesakes apart."""

    namespace: str
    name: str
    version: str = ""
    uid: str = ""


class Status:
    """Turns endings into results.

    Arguments: ``spool`` takes them; ``codec`` is what they are encoded in, once, for spool and wire.
    """

    def __init__(self, spool: Spool, *, codec: CodecName = "json", clock: Clock | None = None) -> None:
        self._spool, self._codec, self._clock = spool, codec, clock or SystemClock()
        self._stamp_ms, self._stamp = 0, ""
        self.outcomes: dict[tuple[str, str], int] = {}

    def record(
        self,
        rule: RuleRef,
        ending: Ending = DELIVERED_ENDING,
        *,
        source_id: str = "",
        duration_us: int = 0,
        attempts: int = 1,
        on_durable: Callable[[], None] | None = None,
        input_id: str = "",
    ) -> None:
        """Make the result of one execution and queue it; ``on_durable`` is called when a power cut cannot take it.

        ``duration_us`` in microseconds. Raises QueueFullError when the spool cannot take it now (nothing is recorded).
        """
        now = self._now()
        success = ending.outcome in (DELIVERED, FILTERED)
        result = ExecResult(
            rule.name,
            rule.namespace,
            SUCCESS if success else FAIL,
            ErrorMsg() if success else ErrorMsg(clean_text(ending.detail or ending.reason), now),
            time=now,
            outcome=ending.outcome,
            reason=ending.reason,
            duration_us=duration_us,
            attempts=attempts,
            rule_version=rule.version,
            source_id=source_id,
            step=ending.step,
            rule_uid=rule.uid,
        )
        self.take(result, on_durable, input_id)

    def take(self, result: ExecResult, on_durable: Callable[[], None] | None = None, input_id: str = "") -> None:
        """Queue a result that is made, be it of one execution or of several. Raises QueueFullError as ``record``."""
        body, count = codecs.encode(result, self._codec), result.count
        packed = Packed(result.project_id, result.rule_id, self._codec, 1, count, body)
        self._spool.accept(packed, on_durable, input_id)
        key = (result.outcome, result.reason)
        self.outcomes[key] = self.outcomes.get(key, 0) + count

    def _now(self) -> str:
        millis = int(self._clock.time() * 1000)
        if millis != self._stamp_ms:  # formatting costs as much as all the rest: once a millisecond
            self._stamp_ms, self._stamp = millis, rfc3339(millis / 1000)
        return self._stamp
