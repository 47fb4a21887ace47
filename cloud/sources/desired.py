"""What a source needs of desired state, and of the lease that lets only one controller be the source."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from common.manifests import Manifest

INVALID, CONFLICT, IN_USE = "Invalid", "Conflict", "InUse"


class ObjectKey(NamedTuple):
    """Which object: Rule or RuleEndpoint, namespace, name."""

    kind: str
    namespace: str
    name: str


class Held(NamedTuple):
    """What desired state has of an object: the uid and version that the source gave."""

    uid: str
    version: int


class Refusal(NamedTuple):
    """Why desired state stays as it is: ``reason`` is Invalid, Conflict (somebody else's object has the name) or InUse
    (a rule still names the endpoint); ``text`` says where and what to do.
    """

    reason: str
    text: str


class Desired(Protocol):
    """Desired state as one source sees it: its own objects, told by their origin. Raises what the store raises."""

    async def put(self, manifest: Manifest, held: Held) -> Refusal | None:
        """Want ``manifest`` under this uid and version. None when it is wanted now.

        A version below the one that is wanted for the same uid changes nothing: it comes late.
        """
        ...

    async def remove(self, key: ObjectKey, uid: str) -> Refusal | None:
        """Want it no more; nothing when it is not there, or under another uid, or of another origin."""
        ...

    async def owned(self) -> dict[ObjectKey, Held]:
        """All objects of this source's origin."""
        ...
