"""What a source needs of desired state (protocol P6.1, P8.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from cloud.selection import ObjectKey
from common.manifests import Manifest

INVALID, CONFLICT, IN_USE = "Invalid", "Conflict", "InUse"


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
    """Desired state as one source sees it: its own objects, told by their origin. Raises what the store raises.

    What is refused of several objects keeps none of the others.
    """

    async def put(self, manifests: Mapping[ObjectKey, tuple[Manifest, Held]]) -> dict[ObjectKey, Refusal]:
        """Want these under their uids and versions; return those that cannot be.

        A version below the one that is wanted for the same uid changes nothing: it comes late.
        """
        ...

    async def remove(self, uids: Mapping[ObjectKey, str]) -> dict[ObjectKey, Refusal]:
        """Want these no more; return those that are still needed. One that is not there, or there under another uid or
        of another origin, is left as it is.
        """
        ...

    async def owned(self) -> dict[ObjectKey, Held]:
        """All objects of this source's origin."""
        ...
