"""What both sides of the rule sync agree on (P6.2)."""

from __future__ import annotations

import pytest

from common.errors import RefusedError
from common.rulesync import NO_RULES, REFUSED, SyncedObject, parse_sync_version, rules_version, sync_version

A = SyncedObject("Rule", "default", "a", "u-1", 3)
B = SyncedObject("RuleEndpoint", "default", "a", "u-2", 1)


def test_the_hash_is_of_the_set_whatever_its_order_and_nothing_has_none() -> None:
    """Order does not matter, and a node without objects of the cloud's says nothing."""
    assert rules_version([A, B]) == rules_version([B, A]) != rules_version([A])
    assert rules_version([]) == NO_RULES


@pytest.mark.parametrize("other", [
    SyncedObject("Rule", "default", "a", "u-1", 4), SyncedObject("Rule", "default", "a", "u-9", 3),
    SyncedObject("Rule", "default", "a", "u-1", 3, REFUSED), SyncedObject("Rule", "shop", "a", "u-1", 3),
])  # fmt: skip
def test_version_uid_state_and_place_each_change_the_hash(other: SyncedObject) -> None:
    """What the two must agree on is in the hash."""
    assert rules_version([other]) != rules_version([A])


def test_what_the_two_may_differ_in_is_not_in_the_hash() -> None:
    """The text of an error, and what runs instead, are not part of it."""
    refused = SyncedObject("Rule", "default", "a", "u-1", 3, REFUSED)
    told = SyncedObject("Rule", "default", "a", "u-1", 3, REFUSED, 2, "line 3")
    assert rules_version([refused]) == rules_version([told])


def test_the_version_of_a_message_goes_there_and_back() -> None:
    """uid and number come back as they went in; uids may hold dots."""
    assert parse_sync_version(sync_version("a.b-c", 12)) == ("a.b-c", 12)


@pytest.mark.parametrize("text", ["", "12", ".12", "uid.", "uid.x", "uid.-1", "uid." + "9" * 30])
def test_a_version_that_is_none_is_refused(text: str) -> None:
    """Anything else is undecodable, not a crash."""
    with pytest.raises(RefusedError, match="resourceversion"):
        parse_sync_version(text)
