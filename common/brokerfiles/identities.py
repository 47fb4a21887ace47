"""Who may connect to the broker, and what each may write and read there (reliability R4).

One identity a connection: ``<node>`` for the uplink, ``<node>-bus`` for its local side, ``cloud-<n>``, ``observer``,
``operator``. The user name is the client id. Rights are lists of topic filters for one name each, never patterns with
``%u``: a name that is taken away has no rights left, whatever certificate it still has.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from common.errors import ConfigError, ResourceError, TopicError
from common.resource import check_node_id, is_label
from common.topics import CLOUD, DOWN, PRESENCE, STATUS, UP, check_filter

OBSERVER, OPERATOR, HEALTH = "observer", "operator", "health"
BUS_SUFFIX = "-bus"
DOCTOR = "doctor"  # the level below the root on which fieldpost doctor tries the broker
CONTROLLERS_MAX = 99

Kind = Literal["node", "bus", "controller", "observer", "operator", "health", "other"]


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One identity: ``owner`` is the directory of its files, ``read`` and ``write`` are filters of kinds ``bus`` and
    ``other``; ``serial`` (hexadecimal) and ``not_after`` (unix seconds) are its certificate's.
    """

    name: str
    kind: Kind
    owner: str
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    serial: str = ""
    not_after: int = 0


class Rights(NamedTuple):
    """The topic filters that an identity may read and those that it may write."""

    read: tuple[str, ...]
    write: tuple[str, ...]


def rights_of(identity: Identity, root: str) -> Rights:
    """Return what the identity may do below ``root`` (R4); what is not in it is denied."""
    name = identity.name
    match identity.kind:
        case "node":
            return Rights(
                (f"{root}/{DOWN}/{name}/#", f"{root}/{PRESENCE}/{CLOUD}/#"),
                (f"{root}/{UP}/{name}/#", f"{root}/{PRESENCE}/{name}"),
            )
        case "controller":
            return Rights(
                (f"{root}/{UP}/#", f"{root}/{PRESENCE}/#"),
                # of nodes, to clear what is retained of those that were deleted
                (
                    f"{root}/{DOWN}/#",
                    f"{root}/{STATUS}/#",
                    f"{root}/{PRESENCE}/{CLOUD}/{name}/#",
                    f"{root}/{PRESENCE}/+",
                ),
            )
        case "observer":
            return Rights((f"{root}/#",), ())
        case "operator":
            return Rights((f"{root}/#",), (f"{root}/{DOWN}/#", f"{root}/{DOCTOR}/#"))
        case "health":
            return Rights((), ())
        case _:
            return Rights(identity.read, identity.write)


def of_node(node: str, read: tuple[str, ...] = (), write: tuple[str, ...] = ()) -> list[Identity]:
    """Return the two identities of a node; ``{node}`` in the filters of its bus is replaced by its id.

    Raises ConfigError: no node id, or no topic filter.
    """
    try:
        check_node_id(node)
    except ResourceError as exc:
        raise ConfigError(exc.detail) from exc
    if node == HEALTH:
        raise ConfigError(f"node id {node!r} is the name with which the broker's health is checked")
    named = [tuple(check_right(text.replace("{node}", node)) for text in filters) for filters in (read, write)]
    return [
        Identity(node, "node", node),
        Identity(node + BUS_SUFFIX, "bus", node, named[0], named[1]),
    ]


def of_controllers(number: int) -> list[Identity]:
    """Return the identities ``cloud-1`` to ``cloud-<number>``. Raises ConfigError outside 1 to CONTROLLERS_MAX."""
    if not 1 <= number <= CONTROLLERS_MAX:
        raise ConfigError(f"{number} controllers: write a number from 1 to {CONTROLLERS_MAX}")
    return [Identity(f"{CLOUD}-{n}", "controller", f"{CLOUD}-{n}") for n in range(1, number + 1)]


def of_people() -> list[Identity]:
    """Return the identities that every broker has: who looks, who acts by hand, and who asks whether it lives."""
    return [Identity(OBSERVER, "observer", OBSERVER), Identity(OPERATOR, "operator", OPERATOR),
            Identity(HEALTH, "health", "")]  # fmt: skip


def of_other(name: str, read: tuple[str, ...], write: tuple[str, ...]) -> Identity:
    """Return an identity of a device or program of yours. Raises ConfigError: a name or filter that cannot be."""
    if not is_label(name):
        raise ConfigError(f"user {name!r} is not a DNS label (a-z, 0-9 and - inside, at most 63 characters)")
    try:
        check_node_id(name)
    except ResourceError as exc:
        raise ConfigError(f"user {name!r} is a name that fieldpost gives itself") from exc
    return Identity(name, "other", name, tuple(map(check_right, read)), tuple(map(check_right, write)))


def check_right(text: str) -> str:
    """Return a topic filter that can stand in an ACL file, else raise ConfigError that says why."""
    try:
        check_filter(text)
    except TopicError as exc:
        raise ConfigError(exc.detail) from exc
    if text.split("/")[0] in ("#", "+") or text.startswith("$"):
        raise ConfigError(f"filter {text!r} covers what belongs to others: begin it with a level of your own")
    if text != text.strip() or any(ord(letter) < 32 or letter in '"\\' for letter in text):
        raise ConfigError(f"filter {text!r} has characters that an ACL file cannot hold")
    return text
