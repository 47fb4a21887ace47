"""The audit log: who changed what, from where, and what became of it, through the API or the control socket (R4).

Each change is one line in the log and one row in the store. The row is written after the change: the change is not held
back when the row cannot be written, but that is counted and said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from cloud.stores.auditing import AuditRow, write_audit
from cloud.stores.base import Store
from common.api import CHANGES, Role
from common.clock import Clock
from common.control import Operation
from common.errors import FieldpostError
from common.models import clean_text

log = logging.getLogger(__name__)

ARGUMENTS_CHARS_MAX = 1024
DETAIL_CHARS_MAX = 512
LOG_CHARS_MAX = 200  # of the arguments in the log: a manifest would fill the screen
DONE, REFUSED, FAILED = "done", "refused", "failed"
_BROKEN_OFF = "it was broken off while it ran, and may have been done"


class Caller(NamedTuple):
    """Who asks: the name and role of a token, and the address it came from."""

    name: str
    role: Role
    remote: str


LOCAL = Caller("local", Role.operator, "control socket")


class Audit:
    """Runs changes and notes them. ``rows_max`` is how many the store keeps."""

    def __init__(self, store: Store, clock: Clock, controller: str, rows_max: int) -> None:
        self._store, self._clock, self._controller, self._rows_max = store, clock, controller, rows_max
        self._counts = dict.fromkeys((DONE, REFUSED, FAILED, "denied", "not_written"), 0)

    def wrapped(self, operations: Mapping[str, Operation]) -> dict[str, Operation]:
        """The operations for the control socket: those that change something are noted."""
        return {name: self._noting(name, work) if name in CHANGES else work for name, work in operations.items()}

    def _noting(self, name: str, work: Operation) -> Operation:
        async def noted(args: dict[str, Any]) -> Any:
            outcome: Any = work(args)
            return await self.change(LOCAL, name, args, lambda: outcome)

        return noted

    async def change(
        self, caller: Caller, operation: str, args: Mapping[str, Any], work: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Run ``work()`` and note it; what it returns or raises goes on."""
        try:
            answer = await work()
        except FieldpostError as exc:
            await self._note(caller, operation, args, REFUSED, str(exc))
            raise
        except BaseException as exc:
            broken_off = isinstance(exc, asyncio.CancelledError)  # by a deadline, or at a stop
            await self._note(caller, operation, args, FAILED, _BROKEN_OFF if broken_off else type(exc).__name__)
            raise
        await self._note(caller, operation, args, DONE, "")
        return answer

    async def denied(self, caller: Caller, operation: str) -> None:
        """Note that a caller asked for a change that its role may not make."""
        self._counts["denied"] += 1
        await self._note(caller, operation, {}, REFUSED, f"role {caller.role} may not change anything")

    async def _note(self, caller: Caller, operation: str, args: Mapping[str, Any], outcome: str, detail: str) -> None:
        self._counts[outcome] += 1
        arguments = msgspec.json.encode(args, enc_hook=str).decode()[:ARGUMENTS_CHARS_MAX]
        detail = clean_text(detail, DETAIL_CHARS_MAX)
        row = AuditRow(
            0, self._clock.time(), self._controller, caller.name, caller.role, caller.remote, operation, arguments,
            outcome, detail,
        )  # fmt: skip
        log.info(
            "audit: %s (%s, %s) %s %s: %s%s", caller.name, caller.role, caller.remote, operation,
            arguments if len(arguments) <= LOG_CHARS_MAX else arguments[:LOG_CHARS_MAX] + "...", outcome,
            f": {detail}" if detail else "",
        )  # fmt: skip
        try:
            await self._store.write(lambda conn: write_audit(conn, row, self._rows_max))
        except FieldpostError as exc:
            self._counts["not_written"] += 1
            log.error("audit: the row of %s by %s could not be written: %s", operation, caller.name, exc)

    def statistics(self) -> dict[str, int]:
        """Counters by name."""
        return dict(self._counts)
