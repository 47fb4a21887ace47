"""The uplink: publishes frozen messages until the cloud confirms them (protocol P5.4 to P5.6).

A broker's PUBACK proves nothing about the cloud and only frees the link's window; its reason code is looked at.
Without a confirmation the same bytes are sent again 2 s after it, doubling to 60 s with jitter, and at once after a
reconnect or when a controller comes online. The spool bounds what is here: at most a window of messages.

A cloud that has a thousand nodes to answer is late, and every copy sent again makes it later. So, as in TCP, one
message asks for all that are late, and all wait twice as long from then on; the others follow when the answer tells
that they are missing. Twice the time that confirmations take now is waited at least. Which copy of a message was
confirmed nobody knows, so that tells no time; but it was answered, and halves the wait. A broker may drop what its
queue has no room for: above half of what flew when messages were late, the pace grows by one for each round.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from functools import partial
from hashlib import sha256

import msgspec

from common.clock import Clock, SystemClock
from common.codec import CONTENT_TYPES
from common.errors import NotConnectedError, QueueFullError, RefusedError
from common.faults import Fault, no_fault
from common.messaging.base import NOBODY_LISTENS, NOT_AUTHORISED, NOT_SENT, PUBLISHED, Link, Properties
from common.models import Confirmation, Epoch, Refusal
from edge.batching import Frozen
from edge.letters import FINAL
from edge.settings import UplinkSettings

log = logging.getLogger(__name__)

CHECK_S = 0.25  # how exactly resends are timed
PROBE = 1  # messages that fly while no controller is known to be online
SLOW_START = 4  # messages that fly when one came online; each confirmed one allows one more, up to the window


class _Sending(msgspec.Struct):
    """A message on its way: when it was sent last and is due again (monotonic seconds). One that was put off
    waits ``wait`` seconds at least.
    """

    message: Frozen
    sent: float = 0.0
    due: float = 0.0
    wait: float = 0.0
    sends: int = 0
    flying: bool = False  # sent on this connection


class Uplink:
    """Sends frozen messages over ``link`` and takes confirmations.

    Arguments: ``forget`` gets every valid confirmation (the spool's ``confirm``), ``void`` what the cloud refuses for
    good; ``attended`` is called when a controller came online and none was (the spool's ``split``); ``rng`` draws the
    jitter; ``fault`` is called at the points ``published`` and ``puback``.
    """

    def __init__(
        self,
        link: Link,
        forget: Callable[[Confirmation], None],
        void: Callable[[tuple[int, int], Refusal], None] = lambda key, refusal: None,
        attended: Callable[[], None] = lambda: None,
        *,
        settings: UplinkSettings | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        fault: Fault = no_fault,
    ) -> None:
        self._link, self._forget, self._void, self._fault = link, forget, void, fault
        self._attended = attended
        self._settings = settings or UplinkSettings()
        self._clock, self._rng = clock or SystemClock(), rng or random.Random()
        self._sending: dict[tuple[int, int], _Sending] = {}
        self._controllers: set[str] = set()  # that are online, as far as this connection has told
        self._pace = PROBE
        self._steep = self._settings.window_messages  # pace up to which it grows with each confirmed message
        self._round = 0  # confirmed messages since it grew above that
        self._patience = self._measured = self._settings.resend_first_s  # how long messages wait, and as measured
        self._sent = self._resent = self._confirmed = self._refused = 0
        self._alarms = {NOBODY_LISTENS: 0, NOT_AUTHORISED: 0}

    @property
    def unconfirmed(self) -> int:
        """How many messages wait for the cloud's word."""
        return len(self._sending)

    def add(self, messages: list[Frozen]) -> None:
        """Take frozen messages, in order, and publish as many as the pace allows. A ``void`` record replaces its
        message.
        """
        for message in messages:
            self._sending[message.epoch.n, message.sequence] = _Sending(message)
        self._send_more()

    def connected(self) -> None:
        """A connection began: everything unconfirmed is due again, oldest first, slowly at the beginning."""
        self._controllers.clear()
        self._pace, self._steep = PROBE, self._settings.window_messages
        self._send_again()

    def controller(self, name: str, online: bool) -> bool:
        """A controller that takes the uplink came or went; False if that was known. With none, one message probes, not
        the window (P5.4). When one of several goes, what the broker had given to it is sent again.
        """
        known = name in self._controllers
        fresh = online and not known
        (self._controllers.add if online else self._controllers.discard)(name)
        if not self._controllers:
            self._pace = PROBE
        elif fresh:
            if len(self._controllers) == 1:
                self._attended()
            self._pace = max(self._pace, SLOW_START)
            self._send_again()
        elif known and not online:
            self._send_again()
        return known is not online

    def _send_again(self) -> None:
        self._patience = self._measured = self._settings.resend_first_s
        for sending in self._sending.values():
            sending.flying, sending.wait, sending.due = False, 0.0, 0.0
        self._send_more()

    def _send_more(self) -> None:
        """Send the oldest messages that do not fly, until as many fly as the pace allows."""
        if not self._link.connected:
            return
        flying, now = sum(sending.flying for sending in self._sending.values()), self._clock.monotonic()
        for sending in list(self._sending.values()) if flying < self._pace else ():  # they came in order
            if not sending.flying and sending.due <= now:
                self._send(sending)
                flying += sending.flying
                if flying >= self._pace:
                    return

    def confirmed(self, confirmation: Confirmation) -> None:
        """Forget what the cloud has committed. Unknown or repeated confirmations do nothing."""
        try:
            epoch = Epoch.parse(confirmation.epoch)
        except RefusedError as exc:
            log.warning("confirmation ignored: %s", exc)
            return
        also = set(confirmation.also)
        done = [
            key
            for key, sending in self._sending.items()
            if sending.message.epoch == epoch and (key[1] <= confirmation.through or key[1] in also)
        ]
        now, fastest = self._clock.monotonic(), math.inf
        for key in done:
            sending = self._sending.pop(key)
            if sending.sends == 1:  # else nobody knows which copy is confirmed
                fastest = min(fastest, now - sending.sent)
        if fastest < math.inf:  # of the others an earlier confirmation may have been lost
            self._measured = self._bounded(2 * fastest)
            self._be_patient(self._measured, now)
        elif done:
            self._be_patient(max(self._measured, self._patience / 2), now)
        self._confirmed += len(done)
        if done:
            self._forget(confirmation)
            self._quicken(len(done))
            self._send_more()

    def _quicken(self, confirmed: int) -> None:
        """Let more messages fly, as so many came through."""
        pace, window = max(self._pace, SLOW_START), self._settings.window_messages
        quick = min(confirmed, max(0, self._steep - pace))
        pace, self._round = pace + quick, self._round + confirmed - quick
        if self._round >= pace:
            pace, self._round = pace + 1, 0
        self._pace = min(pace, window)

    def _be_patient(self, wait: float, now: float) -> None:
        """Set how long a message waits; when that became shorter, those on their way wait no longer either."""
        shorter, self._patience = wait < self._patience, wait
        if shorter:
            for sending in self._sending.values():
                if sending.flying and sending.due < math.inf:
                    sending.due = min(sending.due, now + wait)

    def refused(self, msg_id: str, refusal: Refusal) -> None:
        """Deal with a message that the cloud does not take: for good it becomes void, else it waits (P5.9).

        It is named by its id, or, when the cloud could not read that, by the digest of its payload.
        """
        for key, sending in self._sending.items():
            message = sending.message
            if message.msg_id == msg_id or (refusal.sha256 and sha256(message.payload).hexdigest() == refusal.sha256):
                self._put_off(sending, f"the cloud refuses it: {refusal.reason} {refusal.detail}")
                if refusal.reason in FINAL and message.weight:
                    self._void(key, refusal)
                return

    def _put_off(self, sending: _Sending, why: str) -> None:
        self._refused += 1
        sending.flying = False  # it takes nobody's place while it waits
        sending.wait = self._settings.resend_max_s
        sending.due = self._clock.monotonic() + sending.wait
        log.error("message %s waits %.0f s: %s", sending.message.version, sending.wait, why)

    async def run(self) -> None:
        """Send again what is due; runs until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            self.resend_due()

    def resend_due(self) -> None:
        """Send the oldest message again whose wait is over; the others follow as confirmations come."""
        if self._sending and self._link.connected:
            now = self._clock.monotonic()
            late = [key for key, sending in self._sending.items() if sending.flying and sending.due <= now]
            if late:
                self._ask(late, now)
            self._send_more()

    def _ask(self, late: list[tuple[int, int]], now: float) -> None:
        self._patience = self._bounded(2 * self._patience)
        for key in late:
            self._sending[key].flying = False
        flying = [sending for sending in self._sending.values() if sending.flying]
        for sending in flying:
            sending.due = max(sending.due, now + self._patience)
        self._steep = max(SLOW_START, (len(flying) + len(late)) // 2)
        self._pace, self._round = len(flying) + 1, 0
        self._send(self._sending[min(late)])

    def _bounded(self, wait: float) -> float:
        return min(max(self._settings.resend_first_s, wait), self._settings.resend_max_s)

    def _send(self, sending: _Sending) -> None:
        message = sending.message
        sending.flying = True
        sending.due = math.inf  # while it is on its way to the broker: a slow link must not carry it twice
        done = partial(self._published, sending)
        try:
            self._link.publish(message.topic, message.payload, properties=_properties(message), on_done=done)
        except (NotConnectedError, QueueFullError):
            return self._wait(sending)  # it is due again, at the latest after the reconnect
        except RefusedError as exc:  # larger than this broker takes: those behind it go on (R1.7)
            return self._put_off(sending, f"this broker cannot take it: {exc}")
        self._fault("published")
        self._sent += 1
        sending.sent = self._clock.monotonic()
        self._resent += sending.sends > 0
        sending.sends += 1

    def _wait(self, sending: _Sending) -> None:
        wait = max(self._patience, sending.wait)
        sending.due = self._clock.monotonic() + wait * (0.75 + 0.5 * self._rng.random())

    def _published(self, sending: _Sending, reason: int) -> None:
        self._wait(sending)
        if reason != NOT_SENT:
            self._fault("puback")
        if reason in (PUBLISHED, NOT_SENT):
            return
        seen = self._alarms[reason] = self._alarms.get(reason, 0) + 1
        if seen & (seen - 1) == 0:  # the first, then ever more rarely
            words = {
                NOBODY_LISTENS: "no controller subscribes",
                NOT_AUTHORISED: "not authorised: check the broker's ACL",
            }
            log.warning("broker took a message with reason 0x%02x (%s), %d times", reason, words.get(reason, "?"), seen)

    def statistics(self) -> dict[str, int]:
        """Counters and gauges by name."""
        return {
            "sent": self._sent,
            "resent": self._resent,
            "confirmed": self._confirmed,
            "refused": self._refused,
            "unconfirmed": len(self._sending),
            "pace": self._pace,
            "controllers": len(self._controllers),
            "nobody_listens": self._alarms[NOBODY_LISTENS],
            "not_authorised": self._alarms[NOT_AUTHORISED],
        }


def _properties(message: Frozen) -> Properties:
    user = (("msg_id", message.msg_id), ("resourceversion", message.version))
    return Properties(CONTENT_TYPES[message.codec], message.codec == "json", user)
