"""What the node has of the cloud's: each object's last offered version, and the last good one (protocol P6.1, P6.2).

Which message counts. Versions order the messages of one uid: what is not above is known already. Between uids of one
name the message that came last counts, except that a delete concerns its own uid only, and that a message is late that
was sent before the one whose effect it would replace, or is of a uid that was deleted. Times are the cloud's, and the
clocks of controllers differ: ten minutes apart, the message that came is believed, as it may be of a cloud whose store
was restored. The node's list tells what this made of it, so that the cloud repairs what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from common.models import Refusal, clean_text
from common.rules import ENDPOINT_KIND
from common.rulesync import APPLIED, ERROR_BYTES_MAX, REFUSED, ObjectKey, SyncedObject, rules_version
from edge.rules.fitting import Item, Objects, Version
from edge.settings import DownlinkSettings

GONE_MAX = 10_000  # deleted uids that are remembered; older ones are forgotten
LATE_MS_MAX = 600_000  # by which times may differ for a message to be late

# Reasons of refusals.
INVALID, IN_USE, OBJECTS_MAX, BYTES_MAX = "invalid_manifest", "in_use", "objects_max", "bytes_max"


class Offer(NamedTuple):
    """What a message asks for: a version of an object, or its end (``manifest`` None and ``delete``).

    ``manifest`` None without ``delete`` is one that cannot be taken, as ``refusal`` says; ``bytes`` is its size as
    JSON, ``sent_ms`` the time of the message in unix milliseconds.
    """

    key: ObjectKey
    uid: str
    version: int
    manifest: Mapping[str, Any] | None = None
    delete: bool = False
    bytes: int = 0
    sent_ms: int = 0
    refusal: Refusal | None = None


class Gone(NamedTuple):
    """A uid that was deleted: the key that it had, and when (unix milliseconds, of the message that said so)."""

    key: ObjectKey
    sent_ms: int


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """An object of the cloud's. ``version`` is what was offered last, of ``uid``; ``offered`` its manifest, while it is
    not the good one. ``good`` (0: none) is the version that was good, in ``manifest``, with a uid of its own, as a new
    object may have taken the name; ``runs`` says whether it does. ``error`` is why ``version`` does not run.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    version: int
    offered: dict[str, Any] | None = None
    deleting: bool = False
    good: int = 0
    good_uid: str = ""
    manifest: dict[str, Any] | None = None
    runs: bool = False
    reason: str = ""
    error: str = ""
    sent_ms: int = 0
    bytes: int = 0

    @property
    def key(self) -> ObjectKey:
        """Kind, namespace and name."""
        return self.kind, self.namespace, self.name

    @property
    def good_version(self) -> Version | None:
        """The last good version, None when there is none."""
        return Version(self.good, self.good_uid, self.manifest) if self.manifest is not None else None

    @property
    def next(self) -> Item | None:
        """What is still to be tried, None when nothing is."""
        if self.deleting:
            return Item(self.key, None)
        if self.offered is not None:
            return Item(self.key, Version(self.version, self.uid, self.offered))
        return None if self.runs or self.manifest is None else Item(self.key, self.good_version)

    @property
    def shown(self) -> SyncedObject:
        """What the cloud is told of it."""
        running = self.good if self.runs and self.good_uid == self.uid else 0
        state = REFUSED if self.error else APPLIED
        return SyncedObject(self.kind, self.namespace, self.name, self.uid, self.version, state, running, self.error)


class Synced:
    """All objects of the cloud's on a node. Changed as a copy, which takes the place of the old one when it is on disk.

    Arguments: ``gone`` are deleted uids, oldest first.
    """

    def __init__(self, held: Iterable[Held] = (), gone: Mapping[str, Gone] | None = None) -> None:
        self._held = {item.key: item for item in held}
        self.gone = dict(gone or {})
        self.bytes = sum(item.bytes for item in self._held.values())
        self._version: str | None = None

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def copy(self) -> Synced:
        """Another one with the same objects."""
        return Synced(self._held.values(), self.gone)

    def same_as(self, other: Synced) -> bool:
        """True when there is nothing new to put on the disk."""
        return self._held == other._held and self.gone == other.gone

    def get(self, key: ObjectKey) -> Held | None:
        """The object of this name."""
        return self._held.get(key)

    def shown(self) -> list[SyncedObject]:
        """What the cloud is told."""
        return [item.shown for item in self]

    @property
    def version(self) -> str:
        """The hash of the list (P6.2)."""
        if self._version is None:
            self._version = rules_version(self.shown())
        return self._version

    def running(self) -> Objects:
        """The versions that run, by key."""
        return {item.key: good for item in self if item.runs and (good := item.good_version) is not None}

    def ran(self) -> list[Item]:
        """The versions that run, as items: endpoints first."""
        return [Item(held.key, held.good_version) for held in self._sorted() if held.runs and held.manifest is not None]

    def untried(self) -> list[Item]:
        """What does not run as it was offered, to be tried: endpoints first, of what is deleted rules first."""
        items = [item for held in self._sorted() if (item := held.next) is not None]
        deleted = [item for item in items if item.version is None]
        return [item for item in items if item.version is not None] + deleted[::-1]

    def _sorted(self) -> list[Held]:
        return sorted(self, key=lambda held: held.kind != ENDPOINT_KIND)

    def removed_uid(self, kind: str, namespace: str, name: str) -> str:
        """The uid of the object that had this name last and was deleted, "" when none is known."""
        return next((uid for uid, gone in reversed(self.gone.items()) if gone.key == (kind, namespace, name)), "")

    # -- what comes ----------------------------------------------------------------------------------------------------

    def take(self, offer: Offer, limits: DownlinkSettings) -> Refusal | None:
        """Note an offer, to be tried if it is news. Returns a Refusal for what is over a bound: it is not noted."""
        held = self._held.get(offer.key)
        if not self._is_news(offer, held):
            return None
        if offer.delete:
            self._take_delete(offer, held)
            return None
        if held is None and len(self) >= limits.objects_max:
            text = f"the node has {len(self)} rules and endpoints of the cloud, at most {limits.objects_max}"
            return Refusal(OBJECTS_MAX, text)
        if self.bytes + offer.bytes > limits.bytes_max:
            text = f"{offer.bytes} bytes more than the {self.bytes} that the node has, at most {limits.bytes_max}"
            return Refusal(BYTES_MAX, text)
        self.gone.pop(offer.uid, None)
        refusal, good = offer.refusal or Refusal(""), held.good_version if held else None
        good_bytes = len(msgspec.json.encode(good.manifest)) if good else 0
        offered = None if offer.manifest is None else dict(offer.manifest)
        self._put(
            Held(
                *offer.key, offer.uid, offer.version, offered,
                good=good.number if good else 0, good_uid=good.uid if good else "",
                manifest=held.manifest if held else None, runs=bool(held and held.runs),
                reason=refusal.reason, error=refusal.detail, sent_ms=offer.sent_ms,
                bytes=offer.bytes + good_bytes,
            )
        )  # fmt: skip
        return None

    def _is_news(self, offer: Offer, held: Held | None) -> bool:
        gone = self.gone.get(offer.uid)
        if gone is not None and (offer.delete or 0 < gone.sent_ms - offer.sent_ms <= LATE_MS_MAX):
            return False
        if held is None:
            return True
        if held.uid == offer.uid:
            again = held.error or offer.delete  # what was refused may fit now; a delete may repeat the version
            return offer.version > held.version or bool(again and offer.version == held.version)
        return bool(offer.delete or not 0 < held.sent_ms - offer.sent_ms <= LATE_MS_MAX)

    def _take_delete(self, offer: Offer, held: Held | None) -> None:
        if held is None or held.uid != offer.uid:
            self._forget(offer.uid, offer.key, offer.sent_ms)
        elif held.runs:
            self._put(structs.replace(held, version=offer.version, offered=None, deleting=True, sent_ms=offer.sent_ms))
        else:
            self._drop(held, offer.sent_ms)

    def settle(self, fitted: Objects, errors: Mapping[ObjectKey, str]) -> None:
        """Note what runs now, and why the rest does not."""
        for held in list(self):
            runs, tried = fitted.get(held.key), held.next
            error = clean_text(errors.get(held.key, ""), ERROR_BYTES_MAX)
            if tried is not None and not error and runs == tried.version:
                self._settled(held, runs)
            elif error or held.runs is not (runs is not None):
                reason = (IN_USE if held.deleting else INVALID) if error else held.reason
                error = error or held.error
                self._put(structs.replace(held, runs=runs is not None, reason=reason, error=error))

    def _settled(self, held: Held, runs: Version | None) -> None:
        if runs is None:
            return self._drop(held, held.sent_ms)
        wanted = (runs.uid, runs.number) == (held.uid, held.version)
        self._put(
            structs.replace(
                held, offered=None, good=runs.number, good_uid=runs.uid, manifest=dict(runs.manifest), runs=True,
                reason="" if wanted else held.reason, error="" if wanted else held.error,
                bytes=len(msgspec.json.encode(runs.manifest)),
            )
        )  # fmt: skip

    def _drop(self, held: Held, sent_ms: int) -> None:
        del self._held[held.key]
        self.bytes -= held.bytes
        self._version = None
        self._forget(held.uid, held.key, sent_ms)

    def _put(self, held: Held) -> None:
        before = self._held.get(held.key)
        self.bytes += held.bytes - (before.bytes if before else 0)
        self._held[held.key] = held
        self._version = None

    def _forget(self, uid: str, key: ObjectKey, sent_ms: int) -> None:
        self.gone[uid] = Gone(key, sent_ms)
        if len(self.gone) > GONE_MAX:
            del self.gone[next(iter(self.gone))]

    def answer(self, offer: Offer) -> Refusal | None:
        """What the cloud is told of an offer that was taken: None for OK."""
        held = self._held.get(offer.key)
        if held is None or not held.error or (held.uid, held.version) != (offer.uid, offer.version):
            return None
        return Refusal(held.reason, held.error)
