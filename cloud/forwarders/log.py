"""The log sink: a line in the controller's log for each rule that changed (P8.5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cloud.forwarders.base import Answer, Delivered
from cloud.settings.forward import LogSinkSettings
from cloud.stores.status import RuleStatus
from common.logs import bind

log = logging.getLogger(__name__)


class LogSink:
    """Writes ``rule status: version=.. success=.. fail=..`` with namespace and rule bound, so ``log.format: json`` has
    them as fields.
    """

    name = "log"

    def __init__(self, settings: LogSinkSettings) -> None:
        self.batch_max, self.interval_s, self.rate_max = settings.batch_max, settings.interval_s, settings.rate_max

    async def start(self) -> None:
        """See Sink."""

    async def stop(self) -> None:
        """See Sink."""

    async def deliver(self, statuses: Sequence[RuleStatus]) -> Sequence[Answer]:
        """See Sink."""
        for status in statuses:
            bind(log, namespace=status.namespace, rule=status.rule).info("rule status: %s", _words(status))
        return [Delivered()] * len(statuses)


def _words(status: RuleStatus) -> str:
    facts: dict[str, object] = {
        "version": status.version,
        "success": status.success,
        "fail": status.fail,
        "p50_us": status.p50_us,
        "p95_us": status.p95_us,
        "nodes": len(status.nodes),
        **{condition.type.lower(): condition.status for condition in status.conditions},
    }
    if status.uid:
        facts["uid"] = status.uid
    return " ".join(f"{name}={value}" for name, value in facts.items())
