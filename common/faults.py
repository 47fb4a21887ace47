"""Named fault points: where a crash would hurt most (reliability R3, group crash).

The parts that make things durable call ``fault(point)`` at these points. Outside tests it is ``no_fault``, which does
nothing; a test passes a function that kills the process or raises there. Nothing in the programs chooses another one.

Edge: ``deleting`` (confirmed messages are about to leave the spool), ``spool_committed`` (a group is on disk, nobody
knows yet), ``source_ack`` (before sources are told), ``promoted`` (messages are on disk, before they are published),
``published`` (handed to the connection), ``puback`` (the broker has answered). Cloud: ``effects_written``,
``progress_written`` (inside the transaction), ``committed`` (on disk), ``confirming`` (before the node is told).

Rules from the cloud, on the node: ``rules_written`` (the new file is whole, under its other name), ``rules_kept`` (the
version before has its copy), ``rules_replaced`` (the new file has its name), ``rules_answering`` (before the cloud is
told).
"""

from __future__ import annotations

from collections.abc import Callable

Fault = Callable[[str], None]

EDGE_POINTS = ("deleting", "spool_committed", "source_ack", "promoted", "published", "puback")
RULES_POINTS = ("rules_written", "rules_kept", "rules_replaced", "rules_answering")
CLOUD_POINTS = ("effects_written", "progress_written", "committed", "confirming")


def no_fault(point: str) -> None:
    """Do nothing."""
