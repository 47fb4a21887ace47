"""Clearing what the broker keeps of a node that was deleted: its retained birth or goodbye (protocol P3.4, P6.5).

It is cleared when the node is deleted, and whenever a presence of a deleted node comes: what could not be cleared then,
or was said later, comes at the latest with the next connect. So nothing of it has to be remembered.
"""

from __future__ import annotations

import logging
from functools import partial

from common.errors import TransportError
from common.messaging.base import NOBODY_LISTENS, NOT_AUTHORISED, PUBLISHED, Link
from common.topics import presence_topic

log = logging.getLogger(__name__)


class Clearing:
    """Clears over ``link``, the controller's own connection."""

    def __init__(self, link: Link, root: str) -> None:
        self._link, self._root = link, root
        self._counts = dict.fromkeys(("cleared", "not_cleared"), 0)

    def clear(self, node: str) -> None:
        """Clear the retained presence of ``node``. Never waits; what fails is counted."""
        try:
            topic = presence_topic(self._root, node)
            self._link.publish(topic, b"", qos=1, retain=True, on_done=partial(self._done, node))
        except TransportError as exc:
            self._counts["not_cleared"] += 1
            log.info("the presence of the deleted node %s is not cleared yet: %s", node, exc)

    def _done(self, node: str, code: int) -> None:
        done = code in (PUBLISHED, NOBODY_LISTENS)
        self._counts["cleared" if done else "not_cleared"] += 1
        if code == NOT_AUTHORISED:
            log.warning(
                "the broker does not let this controller clear the presence of the deleted node %s: allow it to write "
                "%s (fieldpost broker init writes such an ACL)", node, presence_topic(self._root, "+"),
            )  # fmt: skip

    def statistics(self) -> dict[str, int]:
        """Counters by name."""
        return dict(self._counts)
