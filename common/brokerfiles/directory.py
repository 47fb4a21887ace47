"""The directory of ``fieldpost broker``: what stands in it, and the changes that can be made to it.

::

    identities.json        who there is, without secrets; the record that everything else follows
    authority/             ca.key, ca.pem: stays with whoever runs the fleet
    mosquitto/             mosquitto.conf, acl, passwd, ca.pem, crl.pem, server.pem, server.key, health.pem, .key
    nats/                  users.conf, ca.pem, server.pem, server.key, peer.pem, peer.key
    emqx/                  acl.conf, users.csv
    clients/<owner>/       fieldpost.yaml, ca.pem, password, cert.pem, key.pem; of a node bus-password, ..., too

All files have mode 0600. A client's directory may be moved to the client: it is not made again, only ``rotate`` does.
The record is written last, so that what was begun and not ended is done again by the next run.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import ipaddress
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from common.brokerfiles.files import make_private, read_text, write_private
from common.brokerfiles.identities import (
    Identity,
    of_controllers,
    of_node,
    of_other,
    of_people,
)
from common.brokerfiles.passwords import emqx_hash, mosquitto_hash, new_password
from common.brokerfiles.rendering import (
    client_settings,
    emqx_acl,
    emqx_users,
    mosquitto_acl,
    mosquitto_conf,
    nats_users,
)
from common.clock import Clock, SystemClock
from common.errors import ConfigError, TopicError
from common.topics import check_root

CLIENT_DAYS, SERVER_DAYS = 730, 730
SHARERS_BYTES = 16
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([-A-Za-z0-9_.]*[A-Za-z0-9_])?")
RENEW_DAYS = 30  # before its end, init makes the broker a new certificate


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was said at the first ``init``: where the broker is, and where the files will be used.

    ``hosts`` are names and addresses of the broker, the first one goes into the clients' settings. ``broker_at``,
    ``data_at`` and ``clients_at`` are directories on the broker and on the clients; empty: where they were made.
    """

    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    root: str = "fieldpost"
    bind: str = ""
    port: int = 8883
    certificate_port: int = 8884
    broker_at: str = ""
    data_at: str = ""
    clients_at: str = ""


class Revoked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate that is no longer good: its serial (hexadecimal), whose it was, since when (unix seconds)."""

    serial: str
    name: str
    time: int


class Record(msgspec.Struct, forbid_unknown_fields=True):
    """identities.json."""

    layout: Layout
    identities: list[Identity] = msgspec.field(default_factory=list)
    revoked: list[Revoked] = msgspec.field(default_factory=list)
    server_hosts: tuple[str, ...] = ()
    server_not_after: int = 0
    sharers: str = ""  # who knows this name can join the controllers' group, so no node is told


class BrokerFiles:
    """The files in ``directory``. Every method raises ConfigError for what cannot be; nothing prints a secret."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self.directory, self._clock = directory.absolute(), clock or SystemClock()

    def record(self) -> Record:
        """Return what is recorded. Raises ConfigError when ``init`` never was here, or the record is damaged."""
        file = self.directory / "identities.json"
        text = read_text(file)
        if not text:
            raise ConfigError(f"{self.directory} holds no broker files; fieldpost broker init makes them")
        try:
            return msgspec.json.decode(text, type=Record)
        except msgspec.MsgspecError as exc:
            raise ConfigError(f"is damaged: {exc}", file=str(file)) from exc

    def init(self, layout: Layout, identities: Sequence[Identity], *, controllers: int = 1) -> list[str]:
        """Make what is missing, keep what is there, and return the names of new identities.

        A later run keeps every secret and takes the new layout; identities are only ever added, and those that are
        given with topics get these.
        """
        _check(layout)
        with self._locked():
            known = bool(read_text(self.directory / "identities.json"))
            record = self.record() if known else Record(layout)
            record.layout = layout
            wanted = [*of_controllers(controllers), *of_people(), *identities]
            for each in wanted:
                if each.read or each.write:
                    self._permit(record, each)
            return self._add(record, [each for each in wanted if not _find(record, each.name)])

    def add_node(self, node: str, read: Sequence[str] = (), write: Sequence[str] = ()) -> list[str]:
        """Add a node with its two identities; ``read`` and ``write`` are the topics of its bus. Returns new names.

        One that exists keeps its secrets and gets these topics.
        """
        with self._locked():
            return self._add_new(self.record(), of_node(node, tuple(read), tuple(write)))

    def add_user(self, name: str, read: Sequence[str] = (), write: Sequence[str] = ()) -> list[str]:
        """Add an identity of yours with these topics, or give one that exists these. Returns new names."""
        with self._locked():
            return self._add_new(self.record(), [of_other(name, tuple(read), tuple(write))])

    def rotate(self, name: str) -> None:
        """Give an identity a new password and certificate; the old certificate is revoked."""
        with self._locked():
            record = self.record()
            identity = self._of(record, name)
            self._revoke(record, identity)
            record.identities[record.identities.index(identity)] = self._issue(record, identity)
            self._write(record)

    def revoke(self, name: str) -> list[str]:
        """Take away an identity, of a node both: password, rights, certificate. Returns the names that are gone."""
        with self._locked():
            record = self.record()
            identity = self._of(record, name)
            gone = [each for each in record.identities if each.owner == identity.owner and each.owner] or [identity]
            for each in gone:
                self._revoke(record, each)
                record.identities.remove(each)
            self._write(record)
            return [each.name for each in gone]

    def bundle(self, owner: str) -> Path:
        """The directory with what belongs to a client."""
        return self.directory / "clients" / owner

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            make_private(self.directory)
            lock = os.open(self.directory / ".lock", os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as exc:
            raise ConfigError(f"cannot be written: {exc.strerror}", file=str(self.directory)) from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _of(self, record: Record, name: str) -> Identity:
        identity = _find(record, name)
        if identity is None:
            known = ", ".join(each.name for each in record.identities)
            raise ConfigError(f"there is no identity {name!r}; there are {known}")
        return identity

    def _add_new(self, record: Record, identities: Sequence[Identity]) -> list[str]:
        for each in identities:
            self._permit(record, each)
        return self._add(record, [each for each in identities if not _find(record, each.name)])

    def _permit(self, record: Record, identity: Identity) -> None:
        """Give an identity that exists the topics of ``identity``."""
        known = _find(record, identity.name)
        if known is None:
            return
        if known.kind != identity.kind:
            raise ConfigError(f"{known.name} exists, of kind {known.kind}; choose another name, or revoke it")
        changed = msgspec.structs.replace(known, read=identity.read, write=identity.write)
        record.identities[record.identities.index(known)] = changed

    def _add(self, record: Record, identities: Sequence[Identity]) -> list[str]:
        record.identities += [self._issue(record, each) for each in identities]
        self._write(record)
        return [each.name for each in identities]

    # -- secrets -------------------------------------------------------------------------------------------------------

    def _issue(self, record: Record, identity: Identity) -> Identity:
        """Make password and certificate; return the identity as it is recorded."""
        from common.brokerfiles.authority import Authority

        authority = Authority(self.directory / "authority", self._clock)
        issued = authority.client(identity.name, CLIENT_DAYS)
        made = msgspec.structs.replace(identity, serial=issued.serial, not_after=issued.not_after)
        if identity.kind == "health":  # it has a certificate only, which lies beside the broker's
            self._put("mosquitto/health.pem", issued.certificate)
            self._put("mosquitto/health.key", issued.key)
            return made
        place, prefix = f"clients/{identity.owner}", "bus-" if identity.kind == "bus" else ""
        password = new_password()
        self._put(f"{place}/{prefix}password", password + "\n")
        self._put(f"{place}/{prefix}cert.pem", issued.certificate)
        self._put(f"{place}/{prefix}key.pem", issued.key)
        self._put(f"{place}/ca.pem", authority.certificate)
        passwords, hashes = self._passwords(), self._emqx()
        passwords[identity.name], hashes[identity.name] = mosquitto_hash(password), emqx_hash(password)
        self._put("mosquitto/passwd", "".join(f"{user}:{text}\n" for user, text in passwords.items()))
        self._put("emqx/users.csv", emqx_users(hashes))
        return made

    def _settings(self, record: Record, identity: Identity) -> str:
        layout = record.layout
        host = f"[{layout.hosts[0]}]" if ":" in layout.hosts[0] else layout.hosts[0]
        return client_settings(
            identity, url=f"mqtts://{host}:{layout.port}", root=layout.root,
            at=Path(layout.clients_at or self.bundle(identity.owner)), sharers=record.sharers,
        )  # fmt: skip

    def _revoke(self, record: Record, identity: Identity) -> None:
        record.revoked.append(Revoked(identity.serial, identity.name, int(self._clock.time())))

    # -- files ---------------------------------------------------------------------------------------------------------

    def _write(self, record: Record) -> None:
        """Write all that follows from the record, and then the record."""
        from common.brokerfiles.authority import Authority

        authority = Authority(self.directory / "authority", self._clock)
        layout, names = record.layout, {each.name for each in record.identities}
        at = Path(layout.broker_at or self.directory / "mosquitto")
        data = Path(layout.data_at or self.directory / "data")
        record.sharers = record.sharers or secrets.token_hex(SHARERS_BYTES)
        renew = record.server_not_after - int(self._clock.time()) < RENEW_DAYS * 86_400
        if renew or record.server_hosts != layout.hosts:
            issued = authority.server(layout.hosts, SERVER_DAYS)
            self._put("mosquitto/server.pem", issued.certificate)
            self._put("mosquitto/server.key", issued.key)
            peer = authority.server(layout.hosts, SERVER_DAYS, peer=True)
            self._put("nats/server.pem", issued.certificate)
            self._put("nats/server.key", issued.key)
            self._put("nats/peer.pem", peer.certificate)
            self._put("nats/peer.key", peer.key)
            record.server_hosts, record.server_not_after = layout.hosts, issued.not_after
        if not layout.data_at:
            make_private(data)
        self._put("mosquitto/mosquitto.conf", mosquitto_conf(
            at=at, data=data, bind=layout.bind, port=layout.port, certificate_port=layout.certificate_port,
        ))  # fmt: skip
        self._put("mosquitto/acl", mosquitto_acl(record.identities, layout.root))
        self._put("mosquitto/ca.pem", authority.certificate)
        self._put("mosquitto/crl.pem", authority.revocations([(each.serial, each.time) for each in record.revoked]))
        for each in record.identities:
            if each.kind not in ("bus", "health") and self.bundle(each.owner).is_dir():  # else it is at the client
                self._put(f"clients/{each.owner}/fieldpost.yaml", self._settings(record, each))
        passwords = {name: text for name, text in self._passwords().items() if name in names}
        self._put("mosquitto/passwd", "".join(f"{name}:{text}\n" for name, text in passwords.items()))
        self._put("nats/ca.pem", authority.certificate)
        self._put("nats/users.conf", nats_users(record.identities, layout.root))
        self._put("emqx/acl.conf", emqx_acl(record.identities, layout.root))
        self._put("emqx/users.csv", emqx_users({k: v for k, v in self._emqx().items() if k in names}))
        self._put("identities.json", msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")

    def _put(self, name: str, content: str | bytes) -> None:
        write_private(self.directory / name, content)

    def _passwords(self) -> dict[str, str]:
        lines = read_text(self.directory / "mosquitto" / "passwd").splitlines()
        return {name: text for name, _, text in (line.partition(":") for line in lines) if text}

    def _emqx(self) -> dict[str, tuple[str, str]]:
        rows = csv.DictReader(io.StringIO(read_text(self.directory / "emqx" / "users.csv")))
        return {row["user_id"]: (row["password_hash"], row["salt"]) for row in rows}


def _check(layout: Layout) -> None:
    """Raise ConfigError for what cannot stand in a certificate or in a line of the broker's configuration."""
    if not layout.hosts:
        raise ConfigError("a broker without a name cannot have a certificate: give at least one host")
    for host in (*layout.hosts, *([layout.bind] if layout.bind else ())):
        if not _HOST.fullmatch(host) and not _is_address(host):
            raise ConfigError(f"host {host!r} is no name or address; write a name with other letters as xn--...")
    for place in (layout.broker_at, layout.data_at, layout.clients_at):
        if not place.isprintable():
            raise ConfigError(f"directory {place!r} has characters that a line of a file cannot hold")
    try:
        check_root(layout.root)
    except TopicError as exc:
        raise ConfigError(exc.detail) from exc


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _find(record: Record, name: str) -> Identity | None:
    return next((each for each in record.identities if each.name == name), None)
