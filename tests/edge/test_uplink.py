"""The uplink: sends until confirmed, and forgets only on the cloud's word (protocol P5.4 to P5.6)."""

from __future__ import annotations

import hashlib
import random

import pytest

from common.clock import ManualClock
from common.message import new_id
from common.messaging.base import NOBODY_LISTENS, NOT_SENT
from common.models import WINDOW, Confirmation, Epoch, Refusal
from edge.batching import Frozen, freeze
from edge.uplink import Uplink
from tests.edge.support import NODE, ROOT, FakeLink, packed, result

EPOCH = Epoch(2, new_id())


def frozen(sequence: int, epoch: Epoch = EPOCH) -> Frozen:
    return freeze(packed(result()), epoch, sequence, 1, root=ROOT, node=NODE, timestamp=0)


class Up:
    """An uplink over a controlled link and clock."""

    def __init__(self) -> None:
        self.link, self.clock, self.forgotten = FakeLink(), ManualClock(), []
        self.void: list[tuple[tuple[int, int], Refusal]] = []
        self.uplink = Uplink(
            self.link,
            self.forgotten.append,
            lambda key, refusal: self.void.append((key, refusal)),
            clock=self.clock,
            rng=random.Random(1),
        )
        self.link.on_connect = self.uplink.connected

    def connect(self) -> None:
        """A connection on which a controller is online."""
        self.link.connect()
        self.uplink.controller("cloud-1", online=True)

    def sent(self) -> list[bytes]:
        return [payload for _, payload, _, _ in self.link.published]

    def pass_time(self, seconds: float) -> int:
        """Let time pass and say how many messages were sent in it."""
        before = len(self.link.published)
        self.clock.advance(seconds)
        self.uplink.resend_due()
        return len(self.link.published) - before


def test_nothing_is_published_while_disconnected():
    """R2: publishing without a connection would queue in the client's memory; we wait for the connect instead."""
    up = Up()
    messages = [frozen(1), frozen(2)]
    up.uplink.add(messages)
    assert up.sent() == []
    up.connect()
    assert list(dict.fromkeys(up.sent())) == [message.payload for message in messages]


def test_same_bytes_again_until_confirmed():
    """P5.6: without a confirmation the very same bytes go out again; a PUBACK alone forgets nothing."""
    up = Up()
    up.connect()
    message = frozen(1)
    up.uplink.add([message])
    for _ in range(4):
        up.pass_time(100)
    assert up.sent() == [message.payload] * 5
    up.uplink.confirmed(Confirmation(str(EPOCH), 1))
    assert up.pass_time(1000) == 0
    assert up.uplink.unconfirmed == 0
    assert len(up.forgotten) == 1


def test_waits_double_from_two_to_sixty_seconds():
    """P5.6: first after 2 s, then doubling to 60 s, with a quarter of jitter either way."""
    up = Up()
    up.connect()
    up.uplink.add([frozen(1)])
    waits, since = [], 0.0
    for _ in range(int(400 / 0.25)):
        since += 0.25
        if up.pass_time(0.25):
            waits.append(since)
            since = 0.0
    for wait, nominal in zip(waits, [2, 4, 8, 16, 32, 60, 60, 60], strict=False):
        assert nominal * 0.75 <= wait <= nominal * 1.25 + 0.25
    assert len(waits) >= 7


def test_reconnect_sends_everything_unconfirmed_in_order():
    """P5.6: at once after a reconnect, oldest first, old epochs before new ones."""
    up = Up()
    old, new = Epoch(1, new_id()), EPOCH
    messages = [frozen(9, old), frozen(1, new), frozen(2, new)]
    up.connect()
    up.uplink.add(messages)
    up.link.disconnect()
    up.link.published.clear()
    up.connect()
    assert list(dict.fromkeys(up.sent())) == [m.payload for m in messages]


def test_confirmation_with_single_later_ones():
    """P5.5: everything up to ``through``, and the single ones in ``also``; nothing else is forgotten."""
    up = Up()
    up.connect()
    up.uplink.add([frozen(n) for n in range(1, 8)])
    up.uplink.confirmed(Confirmation(str(EPOCH), 2, [4, 6]))
    up.link.published.clear()
    up.uplink.controller("cloud-2", online=True)
    assert len(up.sent()) == 3
    assert up.uplink.unconfirmed == 3


@pytest.mark.parametrize("epoch", ["garbage", f"3-{new_id()}", ""], ids=["garbage", "other", "empty"])
def test_foreign_confirmations_do_nothing(epoch):
    """A confirmation of an unknown epoch, or one that is none, forgets nothing and harms nothing."""
    up = Up()
    up.connect()
    up.uplink.add([frozen(1)])
    up.uplink.confirmed(Confirmation(epoch, 100))
    assert (up.uplink.unconfirmed, up.forgotten) == (1, [])


def test_lost_connection_is_no_alarm_but_nobody_listening_is():
    """P5.4: the PUBACK's reason is looked at and counted; the message stays."""
    up = Up()
    up.link.hold = True
    up.connect()
    up.uplink.add([frozen(1), frozen(2)])
    up.link.held[0](NOBODY_LISTENS)
    up.link.held[1](NOT_SENT)
    assert up.uplink.statistics()["nobody_listens"] == 1
    assert up.uplink.unconfirmed == 2


def test_refused_message_is_kept_and_sent_rarely():
    """P5.9: what the cloud refuses stays, is counted, and does not flood the cloud."""
    up = Up()
    up.connect()
    message = frozen(1)
    up.uplink.add([message])
    up.uplink.refused(message.msg_id, Refusal("beyond_window", "by the test"))
    assert (up.uplink.statistics()["refused"], up.void) == (1, [])
    assert up.pass_time(30) == 0
    assert up.pass_time(60) == 1


def test_refused_for_good_becomes_void_by_id_or_by_digest():
    """P5.9: a final refusal is handed to the spool; when the cloud could not read the id, the digest names the
    message.
    """
    up = Up()
    up.connect()
    messages = [frozen(1), frozen(2)]
    up.uplink.add(messages)
    up.uplink.refused(messages[0].msg_id, Refusal("route_mismatch", "by the test"))
    unread = Refusal("undecodable", "by the test", hashlib.sha256(messages[1].payload).hexdigest())
    up.uplink.refused("", unread)
    assert [key for key, _ in up.void] == [(EPOCH.n, 1), (EPOCH.n, 2)]
    up.uplink.refused("nobody", Refusal("undecodable"))
    assert len(up.void) == 2


def test_one_message_probes_while_no_controller_is_online():
    """P5.4: without a controller only the oldest message is tried, again and again, not the window."""
    up = Up()
    messages = [frozen(n) for n in range(1, 11)]
    up.uplink.add(messages)
    up.link.connect()
    for _ in range(5):
        up.pass_time(100)
    assert set(up.sent()) == {messages[0].payload}
    up.link.published.clear()
    up.uplink.controller("cloud-1", online=True)
    assert up.sent() == [message.payload for message in messages[:4]]
    up.uplink.controller("cloud-1", online=False)
    up.uplink.confirmed(Confirmation(str(EPOCH), 4))  # its last word: somebody counts, so it goes on
    assert up.uplink.unconfirmed == 6


def test_pace_starts_slow_and_grows_with_each_confirmed_message():
    """P5.4, P5.6: four messages after a connect, then one more for each that is confirmed, up to the window."""
    up = Up()
    up.connect()
    up.uplink.add([frozen(n) for n in range(1, 65)])
    flying = [len(up.sent())]
    through = 0
    while up.uplink.unconfirmed:
        through = len(up.sent())
        up.uplink.confirmed(Confirmation(str(EPOCH), through))
        flying.append(len(up.sent()) - through)
    assert flying == [4, 8, 16, 32, 4, 0]
    assert len(set(up.sent())) == len(up.sent()) == 64
    up.link.disconnect()
    up.connect()
    assert up.uplink.statistics()["pace"] == 4


def test_first_controller_of_a_connection_begins_the_live_lane():
    """P5.6: what waits when somebody begins to listen is backlog; a second controller and old news change nothing."""
    up = Up()
    attended: list[int] = []
    up.uplink = Uplink(up.link, up.forgotten.append, attended=lambda: attended.append(1), clock=up.clock)
    up.link.on_connect = up.uplink.connected
    up.link.connect()
    assert attended == []
    up.uplink.controller("cloud-1", online=True)
    up.uplink.controller("cloud-1", online=True)
    up.uplink.controller("cloud-2", online=True)
    assert len(attended) == 1
    up.link.disconnect()
    up.connect()
    assert len(attended) == 2


def test_a_cloud_that_is_late_is_not_flooded_with_copies():
    """P5.6, R3: while confirmations take ten seconds, because a thousand nodes came back at once, a full window costs
    at most a few copies, and what is sent after the first confirmation is not sent again at all.
    """
    up = Up()
    up.connect()
    up.uplink.add([frozen(n) for n in range(1, 65)])
    for through in range(1, 65):  # the pace grows to the window
        up.uplink.confirmed(Confirmation(str(EPOCH), through))
    messages = [frozen(n) for n in range(65, 129)]
    up.uplink.add(messages)
    before = len(up.link.published)
    for _ in range(40):
        up.pass_time(0.25)
    assert 1 <= len(up.link.published) - before <= 4
    up.uplink.confirmed(Confirmation(str(EPOCH), 128))
    assert up.uplink.unconfirmed == 0
    up.uplink.add([frozen(129)])
    up.pass_time(4)
    up.uplink.confirmed(Confirmation(str(EPOCH), 129))
    up.uplink.add([frozen(130)])
    assert [up.pass_time(0.25) for _ in range(22)] == [0] * 22  # twice the four seconds, less a quarter of jitter


def test_a_broker_that_drops_is_sent_no_more_than_it_takes():
    """P5.6, R1.4: behind a broker that keeps ten messages and drops the rest, the pace settles near ten, and few
    messages are sent in vain.
    """
    up = Up()
    up.connect()
    sequences: dict[bytes, int] = {}
    got: set[int] = set()
    rounds = answered = 0
    while len(got) < 2560:
        last = len(sequences)
        fresh = [frozen(n) for n in range(last + 1, min(2560, last + WINDOW - up.uplink.unconfirmed) + 1)]
        sequences |= {message.payload: message.sequence for message in fresh}
        up.uplink.add(fresh)
        arrived = [sequences[payload] for payload in up.sent()[answered:]][:10]
        answered = len(up.link.published)
        got.update(arrived)
        if arrived:
            up.uplink.confirmed(Confirmation(str(EPOCH), 0, arrived))
        up.pass_time(0.05)
        rounds += 1
    assert rounds < 600  # of 50 ms; 256 would be enough if nothing were sent in vain
    assert answered < 3200


def test_a_lost_window_is_sent_again_within_seconds():
    """P5.6: when a whole window was lost on its way and the cloud answers at once, one message asks, and the others
    follow with its confirmation, in order and faster with each answer.
    """
    up = Up()
    up.connect()
    up.uplink.add([frozen(n) for n in range(1, 65)])
    for through in range(1, 65):
        up.uplink.confirmed(Confirmation(str(EPOCH), through))
    messages = [frozen(n) for n in range(65, 129)]
    sequences = {message.payload: message.sequence for message in messages}
    up.uplink.add(messages)
    answered = lost = len(up.link.published)
    took = 0.0
    while up.uplink.unconfirmed:
        up.pass_time(0.25)
        took += 0.25
        while answered < len(up.link.published):
            up.uplink.confirmed(Confirmation(str(EPOCH), 64, [sequences[up.sent()[answered]]]))
            answered += 1
    assert took <= 8
    assert sorted(up.sent()[lost:]) == sorted(sequences)


def test_what_is_lost_again_and_again_is_asked_for_within_seconds():
    """P5.6, R1.4: when all that is missing was sent before, no confirmation tells how long the cloud takes; that it
    answers is enough to ask soon, however often a full broker drops what follows a question.
    """
    up = Up()
    up.connect()
    messages = [frozen(n) for n in range(1, 2 * WINDOW + 1)]
    sequences = {message.payload: message.sequence for message in messages}
    up.uplink.add(messages[:WINDOW])
    for through in range(1, WINDOW + 1):  # the pace grows to the window
        up.uplink.confirmed(Confirmation(str(EPOCH), through))
    up.uplink.add(messages[WINDOW:])
    answered = len(up.link.published)
    took = 0.0
    while up.uplink.unconfirmed:
        assert took < 30
        kept = up.sent()[answered : answered + 10]  # the broker drops what it has no room for
        answered = len(up.link.published)
        for payload in kept:
            up.uplink.confirmed(Confirmation(str(EPOCH), WINDOW, [sequences[payload]]))
        up.pass_time(0.25)
        took += 0.25


def test_a_slow_cloud_is_not_asked_sooner_because_it_answered_a_question():
    """P5.6: an answer halves the wait, but not below twice the time that the cloud was seen to take."""
    up = Up()
    up.link.hold = True  # no PUBACK, so the first is not late by its own clock
    up.connect()
    up.uplink.add([frozen(1)])
    up.pass_time(10)
    up.uplink.confirmed(Confirmation(str(EPOCH), 1))
    up.link.hold = False
    up.uplink.add([frozen(2), frozen(3)])
    assert [up.pass_time(0.25) for _ in range(60)] == [0] * 60  # twice the ten seconds, less a quarter of jitter
    assert up.pass_time(11) == 1  # one asks for both
    for through in (2, 3):  # when the first is confirmed, the other is sent again
        up.uplink.confirmed(Confirmation(str(EPOCH), through))
    up.uplink.add([frozen(4)])
    assert [up.pass_time(0.25) for _ in range(60)] == [0] * 60


def test_one_late_word_slows_nothing_that_follows():
    """P5.6: how long the cloud takes is told by what it confirms fastest; an old message in the same confirmation may
    have waited for a lost one. Else everything behind would wait for a minute when it is lost.
    """
    up = Up()
    up.connect()
    up.link.hold = True  # no PUBACK, so the first is not late by its own clock
    up.uplink.add([frozen(1)])
    up.pass_time(40)
    up.link.hold = False
    up.uplink.add([frozen(2)])
    up.pass_time(0.1)
    up.uplink.confirmed(Confirmation(str(EPOCH), 2))
    up.uplink.add([frozen(3)])
    assert up.pass_time(2.6) == 1


def test_what_is_on_its_way_waits_no_longer_than_what_is_sent_now():
    """P5.6: when the cloud is quick again, messages that were sent while it was slow are not left for a minute."""
    up = Up()
    up.connect()
    up.uplink.add([frozen(1)])
    for _ in range(6):
        up.pass_time(75)  # the wait has doubled to a minute
    up.uplink.confirmed(Confirmation(str(EPOCH), 1))
    up.uplink.add([frozen(2), frozen(3)])
    up.pass_time(0.1)
    up.uplink.confirmed(Confirmation(str(EPOCH), 1, [3]))
    assert up.pass_time(2.6) == 1
