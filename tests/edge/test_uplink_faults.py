"""The uplink and what is not its own: a twin's confirmations, a message that the broker cannot take (P5.8, R1.7)."""

from __future__ import annotations

from common.errors import CodecError
from common.message import new_id
from common.models import Confirmation
from edge.uplink import Uplink
from tests.edge.support import FakeLink
from tests.edge.test_uplink import EPOCH, Up, frozen


class SmallLink(FakeLink):
    """A link whose broker takes no packet as large as the first message."""

    refused = b""

    def publish(self, topic, payload, **more):
        if payload == self.refused:
            raise CodecError("too_large", "the broker takes 100")
        super().publish(topic, payload, **more)


def test_message_above_the_brokers_limit_does_not_stop_the_others():
    """R1.7, R2: one message that this broker cannot take is an alarm; those behind it are sent all the same."""
    link = SmallLink()
    uplink = Uplink(link, lambda confirmation: None)
    link.on_connect = uplink.connected
    messages = [frozen(1), frozen(2)]
    link.refused = messages[0].payload
    link.connect()
    uplink.add(messages)
    uplink.controller("cloud-1", online=True)
    uplink.resend_due()
    assert uplink.unconfirmed == 2
    assert {payload for _, payload, _, _ in link.published} == {messages[1].payload}


def test_confirmation_of_a_twin_is_ignored():
    """P5.8: two nodes with one id hear each other's confirmations; only those of the own epoch's uuid count."""
    up = Up()
    up.connect()
    up.uplink.add([frozen(1)])
    up.uplink.confirmed(Confirmation(f"{EPOCH.n}-{new_id()}", 1))
    assert (up.uplink.unconfirmed, up.forgotten) == (1, [])
