"""Memory that is given back to the system (performance B5)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from common.memory import _malloc_trim, give_back, remembering, resident_bytes
from common.messaging import link, wire
from common.messaging.base import Inbound
from edge.endpoints.eventbus import Bound, Eventbus
from tests.edge.support import FakeLink

BACKLOG = """
from common.memory import give_back, resident_bytes
backlog = [bytes(8000) for _ in range(5000)]
backlog = backlog[::50]  # what lives on lies between what is freed
before = resident_bytes()
give_back()
print(before - resident_bytes())
"""


def test_what_a_backlog_took_is_given_back() -> None:
    """Of 40 MB in the heap, freed but for every fiftieth piece, most is the system's again."""
    if _malloc_trim() is None:
        pytest.skip("this C library gives nothing back")
    found = subprocess.run([sys.executable, "-c", BACKLOG], capture_output=True, text=True, check=True)
    assert int(found.stdout) > 20_000_000


def test_a_cache_that_more_names_pass_than_it_holds_is_forgotten() -> None:
    """What was replaced whole pins memory wherever it came to lie; what serves the same names again and again stays."""
    asked: list[int] = []
    remembered = remembering(10)(lambda name: asked.append(name))
    for _ in range(100):
        for name in range(10):
            remembered(name)
    give_back()
    assert remembered.cache_info().currsize == len(asked) == 10
    for name in range(10):  # replaced whole
        remembered(10 + name)
    give_back()
    assert remembered.cache_info().currsize == 0


@pytest.mark.parametrize("remembered", [wire._topic, wire._topic_field, link._checked_topic])
def test_topics_of_the_outside_are_forgotten(remembered) -> None:
    """The caches on the path of a message are of that kind: nothing else lets go of what thousands of devices name."""
    name = (lambda at: b"t/%d" % at) if remembered is wire._topic else "t/{}".format
    remembered.cache_clear()
    for at in range(2 * remembered.cache_info().maxsize):
        remembered(name(at))
    give_back()
    assert remembered.cache_info().currsize == 0


def test_what_waits_for_a_disk_does_not_keep_its_packet() -> None:
    """Thousands of sources may wait to be acknowledged: that needs no payload, and still acknowledges the packet."""
    fake, settles = FakeLink(), []
    bus = Eventbus(fake, lambda arrival, consumers: settles.append(arrival.settle))
    bus.bind([Bound("in/#", 1, "rule")])
    payload = bytes(1000)
    before = sys.getrefcount(payload)
    bus._arrived(Inbound("in/1", payload, 1, mid=7, generation=3))
    assert sys.getrefcount(payload) == before
    settles[0]()
    (receipt,) = fake.acked
    assert (receipt.mid, receipt.qos, receipt.generation) == (7, 1, 3)


def test_resident_bytes_are_those_of_this_process() -> None:
    """A Python with pytest in it holds more than 10 MB and less than a terabyte; 0 would mean that nobody tells."""
    assert 10_000_000 < resident_bytes() < 1 << 40
