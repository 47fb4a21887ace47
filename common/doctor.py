"""What is wrong with an installation, and what to do: a list of checks over what is known of it (experience U2).

A check is a function from a ``Place`` to findings; ``CHECKS`` is the list. What must be asked of others (a broker, a
running controller or agent) is asked before, by ``fieldpost doctor``, and is in the place.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from common.certificates import earliest_end
from common.errors import ConfigError
from common.messaging.child import is_loopback
from common.messaging.endpoint import parse_endpoints
from common.messaging.probing import Probed
from common.version import VERSION

DAY_S = 86_400.0
ENDS_SOON_S = 30 * DAY_S
SKEW_WARN_S, SKEW_FAIL_S = 5.0, 120.0
DISK_WARN_BYTES, DISK_FAIL_BYTES = 1 << 30, 100 << 20
SHOWN = 5  # names in one line


class Level(StrEnum):
    """How a check ended."""

    ok = "ok"
    warn = "warn"
    fail = "fail"


class Finding(msgspec.Struct, frozen=True):
    """One line: how it is, of what, what was seen, and what to do about it."""

    level: Level
    check: str
    what: str
    do: str = ""


class Place(msgspec.Struct, frozen=True):
    """What is known of an installation. What could not be asked is None, and what was said instead is in ``errors``.

    ``files`` are the settings that name files, by key; ``cloud`` and ``edge`` are the processes' statistics;
    ``server`` is the URL of a controller elsewhere; ``date`` is its clock less ours.
    """

    data_dir: Path
    now: float
    files: Mapping[str, str] = {}
    broker_url: str = ""
    broker: Probed | None = None
    cloud: Mapping[str, Any] | None = None
    edge: Mapping[str, Any] | None = None
    ready: Mapping[str, Any] | None = None
    nodes: list[dict[str, Any]] | None = None
    rules: list[dict[str, Any]] | None = None
    server: str = ""
    date: float | None = None
    errors: Mapping[str, str] = {}


Check = Callable[[Place], Iterator[Finding]]


def examine(place: Place) -> list[Finding]:
    """Run every check."""
    return [finding for check in CHECKS for finding in check(place)]


def processes(place: Place) -> Iterator[Finding]:
    """Is there a process to ask, and is it connected."""
    if place.server:
        if "cloud" in place.errors:
            yield Finding(Level.fail, "controller", place.errors["cloud"], "start it, or correct --server")
        return
    if place.cloud is None and place.edge is None:
        told = f"neither a controller nor an agent answers in {place.data_dir}"
        yield Finding(Level.fail, "processes", told, "start one (fieldpost up), or name its --data-dir")
    for name, said in (("controller", place.cloud), ("agent", place.edge)):
        if said is not None:
            connected = (said.get("link") or {}).get("connected")
            level = Level.ok if connected else Level.fail
            do = "" if connected else "see the line of the broker, and its log"
            yield Finding(level, name, "runs, connected" if connected else "runs, not connected to its broker", do)


def readiness(place: Place) -> Iterator[Finding]:
    """What the controller says of its parts."""
    for part, word in ((place.ready or {}).get("parts") or {}).items():
        if word != "ok":
            yield Finding(Level.fail, "readiness", f"{part}: {word}", "see the controller's log")
    if place.ready and place.ready.get("ready"):
        yield Finding(Level.ok, "readiness", "the controller is ready")


def broker(place: Place) -> Iterator[Finding]:
    """What the broker says, and what it can."""
    if place.broker is None:
        if said := place.errors.get("broker"):
            yield Finding(Level.fail, "broker", said, _broker_advice(said))
        return
    yield Finding(Level.ok, "broker", f"{place.broker_url} lets us in, MQTT {place.broker.version}")
    if place.broker.shared:
        yield Finding(Level.ok, "shared", "shared subscriptions work: several controllers may share the load")
    elif place.broker.shared is None:
        told = "it is not known whether shared subscriptions work: the broker let no message through"
        yield Finding(Level.warn, "shared", told, "look as the operator, who may write and read <root>/doctor/#")
    else:
        yield Finding(Level.ok, "shared", "no shared subscriptions: of several controllers one works, others stand by")


def acl(place: Place) -> Iterator[Finding]:
    """Does the broker deny what belongs to nobody, as the shipped ACL does (reliability R4)."""
    if place.broker is None:
        return
    if not place.broker.open:
        yield Finding(Level.ok, "acl", "the broker denies this user a topic that is nobody's")
    elif all(is_loopback(each.host) for each in parse_endpoints(place.broker_url)):
        yield Finding(Level.ok, "acl", "none, which is for a broker on loopback only")
    else:
        told = "the broker lets this user write and read what is nobody's: any client may speak as any node"
        yield Finding(Level.fail, "acl", told, "give it the ACL of fieldpost broker init (docs/identities.md)")


def _broker_advice(said: str) -> str:
    words = said.lower()
    if "refuses" in words:
        return "check broker.username, broker.password_file and the broker's users"
    if "certificate" in words or "ssl" in words or "tls" in words:
        return "check broker.tls.ca_file and the name in the broker's certificate"
    return "start the broker, or correct broker.url"


def clocks(place: Place) -> Iterator[Finding]:
    """How far clocks are apart: of the controller elsewhere, and of nodes by what they said last."""
    skews = {} if place.date is None else {"the controller": place.date}
    skews |= {row["node"]: row["clock_skew_s"] for row in place.nodes or () if row.get("clock_skew_s") is not None}
    for level, bound in ((Level.fail, SKEW_FAIL_S), (Level.warn, SKEW_WARN_S)):
        off = [f"{who} by {skew:+.0f} s" for who, skew in skews.items() if _level_of(skew) is level]
        if off:
            yield Finding(level, "clock", f"more than {bound:g} s off: {_some(off)}", "set the clock by NTP there")
    if skews and all(_level_of(skew) is Level.ok for skew in skews.values()):
        yield Finding(Level.ok, "clock", f"within {SKEW_WARN_S:g} s of this one: {_some(list(skews))}")


def _level_of(skew: float) -> Level:
    off = abs(skew)
    return Level.fail if off > SKEW_FAIL_S else Level.warn if off > SKEW_WARN_S else Level.ok


def disk(place: Place) -> Iterator[Finding]:
    """Is there room in the data directory."""
    if place.server:
        return
    try:
        free = shutil.disk_usage(place.data_dir).free
    except OSError as exc:
        yield Finding(Level.fail, "disk", f"{place.data_dir}: {exc.strerror}", "make it, or name another data_dir")
        return
    level = Level.fail if free < DISK_FAIL_BYTES else Level.warn if free < DISK_WARN_BYTES else Level.ok
    do = "" if level is Level.ok else "free some space: what cannot be written is not acknowledged"
    yield Finding(level, "disk", f"{free / (1 << 30):.1f} GiB are free in {place.data_dir}", do)


def secrets(place: Place) -> Iterator[Finding]:
    """Files that hold secrets: are they there, and can only their owner read them."""
    for key, name in place.files.items():
        if not key.endswith(("password_file", "token_file", "key_file")):
            continue
        try:
            mode = os.stat(name).st_mode
            with open(name, "rb"):
                pass
        except OSError as exc:
            yield Finding(Level.fail, "secrets", f"{key}: {name}: {exc.strerror}", "correct the path or the owner")
            continue
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Finding(Level.warn, "secrets", f"{key}: others can read {name}", f"chmod 600 {name}")
        else:
            yield Finding(Level.ok, "secrets", f"{key}: only its owner can read {name}")


def certificates(place: Place) -> Iterator[Finding]:
    """Certificates: can they be read, and when do they end."""
    for key, name in place.files.items():
        if not key.endswith(("ca_file", "cert_file", "certificate_file")):
            continue
        try:
            left = earliest_end(name) - place.now
        except ConfigError as exc:
            yield Finding(Level.fail, "certificates", f"{key}: {exc}", "correct the path or the file")
            continue
        level = Level.fail if left <= 0 else Level.warn if left < ENDS_SOON_S else Level.ok
        words = f"ended {-left / DAY_S:.0f} days ago" if left <= 0 else f"ends in {left / DAY_S:.0f} days"
        yield Finding(level, "certificates", f"{key}: {name} {words}", "" if level is Level.ok else "replace it")


def versions(place: Place) -> Iterator[Finding]:
    """Do nodes, controller and this program have one version."""
    controller = str(((place.cloud or {}).get("controller") or {}).get("version", ""))
    if controller and controller != VERSION:
        told = f"the controller has {controller}, this program {VERSION}"
        yield Finding(Level.warn, "versions", told, "use one version")
    others = [
        f"{row['node']} {row['version']}" for row in place.nodes or () if row.get("version") not in ("", controller)
    ]
    if others and controller:
        told = f"{len(others)} nodes have another version than {controller}: {_some(others)}"
        yield Finding(Level.warn, "versions", told, "upgrade controllers first, then nodes")
    elif controller == VERSION:
        yield Finding(Level.ok, "versions", f"all have {VERSION}")


def fleet(place: Place) -> Iterator[Finding]:
    """Nodes that need a person, and nodes that are not there."""
    by_state: dict[str, list[str]] = {}
    for row in place.nodes or ():
        by_state.setdefault(str(row.get("state")), []).append(str(row["node"]))
    if conflict := by_state.get("conflict"):
        do = "fieldpost get nodes says what; then fieldpost node replace NODE"
        yield Finding(Level.fail, "nodes", f"in conflict: {_some(conflict)}", do)
    twins = [str(row["node"]) for row in place.nodes or () if _of_two_spools(row)]
    if twins:
        told = f"statistics and birth are of two spools: {_some(twins)}"
        do = "if it stays so for a minute two agents run with this id: stop one, or give it an id of its own"
        yield Finding(Level.warn, "nodes", told, do)
    away = by_state.get("offline", []) + by_state.get("unknown", [])
    if away:
        yield Finding(Level.warn, "nodes", f"not there: {_some(away)}", "see their agents' logs; results wait on disk")
    if place.nodes and not away and not conflict and not twins:
        yield Finding(Level.ok, "nodes", f"online: {_some([str(row['node']) for row in place.nodes])}")


def _of_two_spools(row: Mapping[str, Any]) -> bool:
    said = (row.get("status") or {}).get("epoch", "")
    return row.get("state") == "online" and said not in ("", row.get("epoch"))


def rules(place: Place) -> Iterator[Finding]:
    """Rules that do not run where they should, or fail."""
    look = "fieldpost describe rule NAME -n NAMESPACE says where and why"
    rows = [(f"{row['namespace']}/{row['rule']}", row) for row in place.rules or ()]
    unready = [name for name, row in rows if row.get("ready") in ("False", "Unknown")]
    failing = [name for name, row in rows if row.get("degraded") == "True"]
    if unready:
        yield Finding(Level.warn, "rules", f"not running everywhere as wanted: {_some(unready)}", look)
    if failing:
        yield Finding(Level.warn, "rules", f"failing more often than they should: {_some(failing)}", look)
    if rows and not unready and not failing:
        yield Finding(Level.ok, "rules", f"{len(rows)} run as wanted")


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


CHECKS: tuple[Check, ...] = (
    processes, broker, acl, readiness, clocks, disk, secrets, certificates, versions, fleet, rules,
)  # fmt: skip
