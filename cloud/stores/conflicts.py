"""Is a birth of the spool that the store knows? Pure values (protocol P5.8).

Theory of operation. A spool begins an epoch with a higher counter and a new uuid at each agent start, and has it on
disk before it names it. So two uuids under one counter prove two spools, whatever the order in which they are heard.
A birth also says how its spool came to be: ``previous`` are epochs that it holds messages of, ``follows`` the last one
that froze a message, and how far. A cloud that has seen more of that epoch than its own successor knows of, has seen
another spool. These proofs hold for births that a broker kept or delayed, too, and in any order of births and messages.
A birth with a counter below the known one proves nothing: it may be late. So may one whose next sequence had come long
before: it is believed when its agent says it again. What proves is a message of an epoch that the
known spool has never had, or that ended before it (``writes``); until then such an agent has sent nothing to count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from cloud.progress import Progress
from cloud.stores.tables import NORMAL, REPLACED
from common.models import Epoch, NodeBirth, parse_version


class Held(NamedTuple):
    """What the store knows of one epoch of a node: a row of ``progress``."""

    progress: Progress
    state: int = NORMAL
    session: int = 0
    ended: int = 0


class Claim(NamedTuple):
    """A birth as it came.

    ``retained``: a broker kept it, it may be old. ``received``: the highest sequence of its epoch that had come well
    before it, 0 when not known.
    """

    birth: NodeBirth
    epoch: Epoch
    retained: bool = False
    received: int = 0

    @property
    def follows(self) -> tuple[Epoch, int] | None:
        """The last epoch before this one that froze a message, and its next sequence; None when it is not said."""
        return parse_version(self.birth.follows) if self.birth.follows else None

    def older(self) -> list[Epoch]:
        """The other epochs that the birth names."""
        found = [Epoch.parse(text) for text in self.birth.previous]
        follows = self.follows
        return found if follows is None or follows[0] in found else [*found, follows[0]]


class Sight(Enum):
    """What a birth is."""

    GOOD = "good"
    OLD = "old"  # what was known already, or is past: nothing follows from it
    ASTRAY = "astray"  # late, or of a spool that is not the known one: its messages will tell
    CONFLICT = "conflict"


class Verdict(NamedTuple):
    """What a birth is; with a conflict ``text`` says why, ``first`` to ``last`` of ``epoch`` is in doubt (0: open)."""

    sight: Sight
    text: str = ""
    epoch: str = ""
    first: int = 0
    last: int = 0


_OLD, _GOOD = Verdict(Sight.OLD), Verdict(Sight.GOOD)


def judge(row: Mapping[str, Any], held: Mapping[Epoch, Held], past: Collection[Epoch], claim: Claim) -> Verdict:
    """Say what an online birth is, given the node's row, all that is held of its epochs, and those that are past: of
    the retired ones at least all that share a counter with an epoch of the birth.
    """
    own, epoch = held.get(claim.epoch), claim.epoch
    if own is not None and own.state != NORMAL:
        if claim.retained or (own.state == REPLACED and claim.birth.session <= own.session):
            return _OLD
        if own.state == REPLACED:
            return _doubt(epoch, f"epoch {epoch} was given up by node replace, and an agent goes on with it")
        return _doubt(epoch, row["conflict"] or f"epoch {epoch} is in doubt")
    proofs = _two_names(row, held, past, claim)
    if own is None or not own.session:  # where it came from is judged once, when it is born
        proofs = chain(proofs, _bad_origin(held, claim))
    for verdict in proofs:
        return verdict
    if epoch.n < row["epoch_n"]:
        late = claim.retained or (own is not None and claim.birth.session <= own.session)
        return _OLD if late else Verdict(Sight.ASTRAY)
    # Also one that another controller has taken already: each has heard other messages of the epoch before it.
    if own is not None and not claim.retained and own.session <= claim.birth.session:
        following = claim.birth.next_sequence
        highest = min(claim.received, own.progress.highest)  # after a node replace less is known than was received
        if 0 < following <= highest:
            before = said_before(row["claim"], claim.birth)
            if before is None or before.time == claim.birth.time:
                return Verdict(Sight.ASTRAY)
            text = f"epoch {epoch} is known up to message {highest}, but its agent goes on from {following}"
            return _doubt(epoch, text, following, highest)
    known = (row["epoch_n"], row["session"], not row["online"])
    if row["epoch_n"] and (epoch.n, claim.birth.session, False) < known:
        return _OLD
    return _GOOD


def said_before(claim: str, birth: NodeBirth) -> NodeBirth | None:
    """Return the birth that was heard last and not taken (JSON), if it is of the same session as ``birth``.

    An agent says its birth again seconds after a connect. One that is set back still says a next sequence below what is
    known; of an agent whose birth was only late, what it says again tells of the messages that had overtaken it.
    """
    last = msgspec.json.decode(claim, type=NodeBirth) if claim else None
    return last if last and (last.epoch, last.session) == (birth.epoch, birth.session) else None


def other_name(
    row: Mapping[str, Any], held: Mapping[Epoch, Held], past: Collection[Epoch], epoch: Epoch
) -> Epoch | None:
    """Return the epoch that is known, counted or retired, under the same counter with another uuid; None if none is."""
    for each, what in held.items():
        if each.n == epoch.n and each.uuid != epoch.uuid and what.state == NORMAL:
            return each
    present = Epoch(row["epoch_n"], row["epoch_uuid"])
    if present.n == epoch.n and present.uuid != epoch.uuid and present not in held:
        return present
    if epoch in past:
        return None
    return next((each for each in past if each.n == epoch.n), None)


def named_twice(epoch: Epoch, known: Epoch) -> str:
    """The words for two uuids under one counter."""
    return f"epoch {epoch.n} is known as {known}, and comes as {epoch} too"


def _two_names(
    row: Mapping[str, Any], held: Mapping[Epoch, Held], past: Collection[Epoch], claim: Claim
) -> Iterator[Verdict]:
    for epoch in (claim.epoch, *claim.older()):
        known = other_name(row, held, past, epoch)
        if known is not None:
            yield _doubt(claim.epoch, named_twice(epoch, known))


def _bad_origin(held: Mapping[Epoch, Held], claim: Claim) -> Iterator[Verdict]:
    for epoch in claim.older():
        if epoch in held and held[epoch].state != NORMAL:
            what = "was given up by node replace" if held[epoch].state == REPLACED else "is in doubt"
            yield _doubt(claim.epoch, f"epoch {claim.epoch} goes on from epoch {epoch}, which {what}")
    follows = claim.follows
    if follows and follows[0] in held:
        (epoch, following), highest = follows, held[follows[0]].progress.highest
        if highest >= following:
            text = f"epoch {epoch} is known up to message {highest}, but epoch {claim.epoch.n} goes on from {following}"
            yield _doubt(claim.epoch, text, following, highest, of=epoch)


def _doubt(epoch: Epoch, text: str, first: int = 0, last: int = 0, of: Epoch | None = None) -> Verdict:
    return Verdict(Sight.CONFLICT, text, str(of or epoch), first, last)


def advice(node: str, text: str) -> str:
    """Complete the words of a conflict with what a person can do about it."""
    if "fieldpost node replace" in text:
        return text
    return (
        f"{text}: either two agents run with the node id {node}, or its data_dir was restored from a copy. Stop one of "
        f"them, or give it its own node id; when the right one is running, run: fieldpost node replace {node}"
    )
