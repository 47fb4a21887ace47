"""Presence: the retained birth on connect, the will, and the clean goodbye of a node (protocol P3.4)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from common import codec as codecs
from common.clock import Clock, SystemClock
from common.errors import TransportError
from common.messaging.base import Link, Properties, Will
from common.models import NodeBirth, rfc3339
from common.topics import presence_topic
from edge.spool import Spool

log = logging.getLogger(__name__)

_JSON = Properties("application/json", utf8=True)


class Presence:
    """Says over ``link`` that ``node`` is there, with what it has and what it runs.

    Arguments: ``describe`` gives the node's version, rules_version and labels as fields of NodeBirth.
    """

    def __init__(
        self,
        root: str,
        node: str,
        spool: Spool,
        describe: Callable[[], dict[str, object]],
        *,
        clock: Clock | None = None,
    ) -> None:
        self._topic, self._node, self._spool, self._describe = presence_topic(root, node), node, spool, describe
        self._clock = clock or SystemClock()
        self._session = 0

    def will(self) -> Will:
        """What the broker says when this connection is lost. Called for each connect: it begins a session."""
        self._session += 1
        gone = NodeBirth(self._node, str(self._spool.stats.epoch), online=False, session=self._session)
        return Will(self._topic, codecs.encode(gone))

    def birth(self, link: Link) -> None:
        """Say that the node is there; after each connect, and when what it describes has changed.

        Names every epoch that has messages *on disk*: one whose confirmation is not committed yet must not be retired,
        as a crash now brings its messages back.
        """
        stats = self._spool.stats
        epoch = str(stats.epoch)
        self._publish(
            link,
            NodeBirth(
                self._node,
                epoch,
                online=True,
                session=self._session,
                previous=[str(older) for older in stats.previous],
                next_sequence=stats.next_sequence,
                low=stats.low,
                follows=stats.follows,
                time=rfc3339(self._clock.time()),
                **self._describe(),  # type: ignore[arg-type]
            ),
        )

    def goodbye(self, link: Link) -> None:
        """Say that the node stops on purpose."""
        epoch = str(self._spool.stats.epoch)
        now = rfc3339(self._clock.time())
        self._publish(link, NodeBirth(self._node, epoch, online=False, session=self._session, time=now))

    def _publish(self, link: Link, birth: NodeBirth) -> None:
        try:
            link.publish(self._topic, codecs.encode(birth), retain=True, properties=_JSON)
        except TransportError as exc:
            log.info("presence not sent: %s", exc)
