"""One look at a broker: does it let this client in, which protocol does it speak, and do shared subscriptions work.

A broker may grant a shared subscription and give it nothing (the embedded one does), so a message is sent through it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from common.message import new_id
from common.messaging.base import Inbound, Subscription
from common.messaging.connection import FAILED, Connection, Session
from common.messaging.dialer import V5, Dialer
from common.messaging.native import NativeConnection
from common.messaging.stream import Stream
from common.messaging.window import Outgoing
from common.settings import BrokerSettings

NOBODYS = "nobody"  # the level below the root to which no ACL of ours gives anybody rights
ANSWER_S_MAX = 2.0  # for a SUBACK, and for a message to come back


class Probed(NamedTuple):
    """``version`` of the protocol as people write it; ``shared`` is None when the broker let no message through;
    ``open`` is True when it let one through on a topic that is nobody's.
    """

    version: str
    shared: bool | None
    open: bool = False


class _Ear:
    """What a connection reports to."""

    def __init__(self) -> None:
        self.granted = asyncio.Event()
        self.came = asyncio.Event()
        self.codes: dict[int, Sequence[int]] = {}
        self.topics: set[str] = set()
        self._wanted, self._topics = 0, frozenset[str]()

    def expect(self, mids: Sequence[int], topics: frozenset[str]) -> None:
        """Wait for the answers to these SUBSCRIBE packets, and messages on these topics; a connection before, with
        version 5, may have ended.
        """
        self._wanted, self._topics = len(mids), topics
        self.granted.clear()
        self.came.clear()

    def message_came(self, inbound: Inbound) -> None:
        """See Receiver."""
        self.topics.add(inbound.topic)
        if self.topics >= self._topics:
            self.came.set()

    def suback_came(self, mid: int, codes: Sequence[int]) -> None:
        """See Receiver."""
        self.codes[mid] = codes
        if len(self.codes) == self._wanted:
            self.granted.set()

    def undecodable_came(self, error: Exception) -> None:
        """See Receiver."""

    def puback_came(self, mid: int, code: int) -> None:
        """See Receiver."""

    def written(self, count: int) -> None:
        """See Receiver."""

    def connection_ended(self, connection: Connection, reason: str) -> None:
        """See Receiver."""
        self.granted.set()
        self.came.set()


async def probe(settings: BrokerSettings, root: str, client_id: str) -> Probed:
    """Connect once, look, and go. Raises ConnectError with what the broker said, or ConfigError."""
    ear = _Ear()

    def session(version: int, password: str) -> Session:
        return Session(client_id, version, settings.keepalive_s, settings.username, password, None, 0, manual_ack=False)

    def begin(stream: Stream, said: Session) -> Connection:
        return NativeConnection(stream, said, ear)

    dialer = Dialer(settings, client_id, session, begin)
    await dialer.check()
    connection, _ = await dialer.dial()
    try:
        shared = await _shares(connection, ear, root)
        return Probed("5" if connection.version == V5 else "3.1.1", shared, any(NOBODYS in each for each in ear.topics))
    finally:
        await connection.finish(1.0)


async def _shares(connection: Connection, ear: _Ear, root: str) -> bool | None:
    topic = f"{root}/doctor/{new_id()}"
    plainly, by_share = f"{topic}/plain", f"{topic}/shared"  # not one: of overlapping filters a broker may serve one
    nobodys = f"{root}/{NOBODYS}/{new_id()}"
    filters = (plainly, f"$share/doctor/{by_share}", nobodys)
    ear.expect([connection.subscribe([Subscription(each)]) for each in filters], frozenset((plainly, by_share)))
    if not await _within(ear.granted) or connection.ended.done():
        return None
    plain, shared, _ = (ear.codes[mid][0] for mid in sorted(ear.codes))
    if plain >= FAILED:
        return None
    if shared >= FAILED:
        return False
    for each in (nobodys, plainly, by_share):  # nobody's first: it comes before the others, if at all
        connection.publish(Outgoing(each, b"?", 1, False, b"", None))
    await _within(ear.came)
    return by_share in ear.topics if plainly in ear.topics else None


async def _within(event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            await event.wait()
    except TimeoutError:
        return False
    return True
