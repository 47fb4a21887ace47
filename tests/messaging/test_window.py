"""The outgoing window as a pure object."""

from __future__ import annotations

import pytest

from common.errors import QueueFullError
from common.messaging.window import Outgoing, Window


def packet(number: int, qos: int = 1) -> Outgoing:
    return Outgoing(f"t/{number}", b"", qos, False)


def fill(window: Window, count: int) -> list[Outgoing]:
    packets = [packet(number) for number in range(count)]
    for number, item in enumerate(packets):
        if window.admit(item):
            window.sent(number, item)
    return packets


def test_what_has_no_place_waits_in_order() -> None:
    """Above the limit packets wait, and come out one for each confirmation, oldest first."""
    window = Window(2, 10)
    packets = fill(window, 4)
    assert list(window.in_flight.values()) == packets[:2]
    assert window.next() is None
    assert window.confirmed(1) is packets[1]
    assert window.next() is packets[2]
    window.sent(7, packets[2])
    assert window.next() is None
    assert window.confirmed_total == 1


def test_nobody_overtakes_those_who_wait() -> None:
    """A place that is free belongs to the first that waits, not to a new packet."""
    window = Window(1, 10)
    fill(window, 2)
    window.confirmed(0)
    assert window.admit(packet(9)) is False


def test_the_bound_takes_nothing() -> None:
    """Above the bound a packet is refused and the window unchanged, at either QoS."""
    window = Window(1, 2)
    fill(window, 3)
    with pytest.raises(QueueFullError, match=r"publish queue is full \(2\)"):
        window.admit(packet(9))
    for number in range(2):
        assert window.admit(packet(number, 0))
        window.sent(number, packet(number, 0))
    with pytest.raises(QueueFullError):
        window.admit(packet(9, 0))
    assert len(window) == 5


def test_qos_0_does_not_wait_for_pubacks() -> None:
    """QoS 0 goes out beside a full window, and is done in the order in which it is written."""
    window = Window(1, 10)
    fill(window, 2)
    first, second = packet(8, 0), packet(9, 0)
    for item in (first, second):
        assert window.admit(item)
        window.sent(0, item)  # a packet id that a QoS 1 packet has too
    assert [window.written(), window.written(), window.written()] == [first, second, None]
    assert window.confirmed(0) is not None


def test_an_unknown_confirmation_is_nothing() -> None:
    """A PUBACK for an id that is not in flight changes nothing."""
    window = Window(1, 10)
    assert window.confirmed(5) is None
    assert window.confirmed_total == 0


def test_drain_gives_everything_once() -> None:
    """At the end of a connection all packets come out, in order, and the window is empty."""
    window = Window(2, 10)
    packets = fill(window, 5)
    assert window.drain() == packets
    assert len(window) == 0
    assert window.drain() == []
