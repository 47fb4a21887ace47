"""The book of a connection's subscriptions: what was refused is known, and asked for again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from common.messaging.base import Subscription
from common.messaging.connection import FAILED
from common.messaging.subscriptions import Subscriptions

A, B = Subscription("a/#"), Subscription("b/+")


def _begun() -> tuple[Subscriptions, dict[int, Sequence[Subscription]]]:
    """A book that wants A and B, and what it sent, by packet id."""
    book, sent, mids = Subscriptions(), dict[int, Sequence[Subscription]](), count(1)
    book.replace([A, B])

    def subscribe(items: Sequence[Subscription]) -> int:
        mid = next(mids)
        sent[mid] = items
        return mid

    book.begin(subscribe, lambda names: None)
    return book, sent


def test_what_was_refused_is_asked_for_again() -> None:
    """R1.8: a filter is refused until the broker takes it; while an answer is awaited, it is not asked for twice."""
    book, sent = _begun()
    assert (book.refused(), list(sent.values())) == ([], [[A, B]])
    assert book.answered(1, [0, FAILED]) == [(B.filter, FAILED)]
    assert book.refused() == [B]
    book.send(book.refused(), lambda items: 2)
    assert book.refused() == []
    book.answered(2, [1])
    assert (book.refused(), book.complete) == ([], True)


def test_what_is_wanted_no_longer_is_not_refused() -> None:
    """A refused filter that the owner gives up is forgotten; on a new connection all begins anew."""
    book, _ = _begun()
    book.answered(1, [FAILED, FAILED])
    book.replace([A])
    assert book.refused() == [A]
    book.begin(lambda items: 7, lambda names: None)
    assert book.refused() == []
