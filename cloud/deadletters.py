"""Dead letters for people: look at them, feed them through again, drop them (protocol P5.9; ``fieldpost dlq``)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from cloud.handlers import CONTENT_TYPES
from cloud.refusals import Refusals
from cloud.stores.base import DeadLetter, Letters, Store
from common.clock import Clock
from common.errors import ControlError, FieldpostError
from common.message import Message
from common.messaging.base import Refused
from common.messaging.inbound import Reader

REDRIVEN, REFUSED, CUT = "redriven", "refused", "cut"


class LetterRow(msgspec.Struct, frozen=True):
    """A dead letter in a list. ``whole``: all of its payload is kept, so that it can be redriven."""

    id: int
    at: float
    node: str
    topic: str
    reason: str
    detail: str
    size: int
    kept: int
    whole: bool
    times: int


class ShownLetter(msgspec.Struct, frozen=True):
    """A dead letter with its payload as ``text``, or as ``hex`` when it is no readable UTF-8."""

    letter: LetterRow
    sha256: str
    encoding: str
    payload: str


class Redriven(msgspec.Struct, frozen=True):
    """What became of one letter: ``redriven`` (accepted now, or known before; the letter is gone), ``refused`` again
    (it stays), or ``cut`` (it cannot be redriven; it stays).
    """

    id: int
    outcome: str
    reason: str = ""
    detail: str = ""


def row_of(letter: DeadLetter) -> LetterRow:
    """Return the letter without its payload."""
    kept = len(letter.payload)
    return LetterRow(
        letter.id, letter.at, letter.node, letter.topic, letter.reason, letter.detail, letter.size, kept,
        kept == letter.size, letter.times,
    )  # fmt: skip


class DeadLetters:
    """The controller's dead letters. ``redrive_to`` names what takes a message that is fed through again."""

    def __init__(self, root: str, store: Store, refusals: Refusals, clock: Clock) -> None:
        self._store, self._refusals, self._clock = store, refusals, clock
        self._reader = Reader(root, "", CONTENT_TYPES)
        self._dispatch: Callable[[Message[Any]], Awaitable[None]] | None = None
        self._counts = dict.fromkeys((REDRIVEN, REFUSED, CUT, "dropped"), 0)

    def redrive_to(self, dispatch: Callable[[Message[Any]], Awaitable[None]]) -> None:
        """Give redriven messages to ``dispatch``, which returns when the message is handled."""
        self._dispatch = dispatch

    def now(self) -> float:
        """The wall clock, as the letters' ``at`` is."""
        return self._clock.time()

    async def ls(self, node: str, reason: str, limit: int, before: int | None = None) -> list[LetterRow]:
        """The newest letters, the last one first; with ``before`` those whose id is below it."""
        which = Letters(node=node, reason=reason, below=before)
        return [row_of(letter) for letter in await self._store.dead_letters(limit=limit, which=which)]

    async def show(self, number: int) -> ShownLetter:
        """One letter with its payload. Raises ControlError when it is not there."""
        (letter,) = await self._chosen([number])
        try:
            text, encoding = letter.payload.decode(), "text"
            if not all(char.isprintable() or char in "\n\t" for char in text):
                text, encoding = letter.payload.hex(), "hex"
        except UnicodeDecodeError:
            text, encoding = letter.payload.hex(), "hex"
        return ShownLetter(row_of(letter), letter.sha256, encoding, text)

    async def redrive(self, ids: Sequence[int], node: str, reason: str, limit: int) -> list[Redriven]:
        """Feed letters through reader and dispatch again, the oldest first; duplicates are harmless by progress (P5.7).

        Raises ControlError when an id is not there.
        """
        if ids:
            letters = await self._chosen(ids)
        else:
            which = Letters(node=node, reason=reason, oldest=True)  # the window takes nothing far above what it knows
            letters = await self._store.dead_letters(limit=limit, which=which)
        return [await self._redrive(letter) for letter in sorted(letters, key=lambda letter: letter.id)]

    async def drop(self, which: Letters) -> int:
        """Forget letters; return how many they were."""
        dropped = await self._store.drop_letters(which)
        self._counts["dropped"] += dropped
        return dropped

    async def _chosen(self, ids: Sequence[int]) -> list[DeadLetter]:
        found = await self._store.dead_letters(limit=len(ids), which=Letters(ids=ids))
        missing = sorted(set(ids) - {letter.id for letter in found})
        if missing:
            raise ControlError(f"no dead letter has the id {', '.join(map(str, missing))}", kind="not_found")
        return found

    async def _redrive(self, letter: DeadLetter) -> Redriven:
        outcome, reason, detail = await self._outcome(letter)
        self._counts[outcome] += 1
        if outcome == REDRIVEN:
            await self._store.drop_letters(Letters(ids=[letter.id]))
        return Redriven(letter.id, outcome, reason, detail)

    async def _outcome(self, letter: DeadLetter) -> tuple[str, str, str]:
        if len(letter.payload) < letter.size:
            kept = (
                f"only {len(letter.payload)} of its {letter.size} bytes were kept (cloud.store.dead_letter_bytes_max)"
            )
            return CUT, "cut", f"{kept}: its node must send it again"
        message = self._reader.read(letter.topic, letter.payload)
        if message is None:
            return REDRIVEN, "", ""
        if isinstance(message, Refused):
            return REFUSED, message.error.reason, message.error.detail
        assert self._dispatch is not None
        with self._refusals.watch(message) as refusals:
            try:
                await self._dispatch(message)
                await asyncio.sleep(0)
            except FieldpostError as exc:
                return REFUSED, getattr(exc, "reason", "not_stored"), getattr(exc, "detail", str(exc))
        if refusals:
            return REFUSED, refusals[0].reason, refusals[0].detail
        return REDRIVEN, "", ""

    def statistics(self) -> dict[str, int]:
        """Counters by name."""
        return dict(self._counts)
