"""The text of the files: Mosquitto's configuration and ACL, EMQX's ACL and users, a client's settings."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import yaml

from common.brokerfiles.identities import BUS_SUFFIX, Identity, rights_of

MAX_QUEUED_MESSAGES = 100_000  # Mosquitto's default of 1,000 drops above it and acknowledges; its 0 is broken (R2)
MAX_PACKET_BYTES = 256 * 1024  # a message of 128 KiB, its topic and properties, with room
_MADE = "Made by fieldpost broker; the next change by it replaces this file."


def mosquitto_conf(*, at: PurePath, data: PurePath, bind: str, port: int, certificate_port: int) -> str:
    """Return mosquitto.conf: two TLS listeners, one for passwords, one for client certificates.

    Arguments: ``at`` where the broker finds the other files, ``data`` where it may write; ``bind`` an address, or empty
    for all.
    """
    listen = f" {bind}" if bind else ""
    return f"""# {_MADE}
# Not per listener: with that, Mosquitto 2.0 drops what comes for a client that is away, and acknowledges it.
per_listener_settings false
allow_anonymous false
allow_zero_length_clientid false
password_file {at}/passwd
acl_file {at}/acl
persistence true
persistence_location {data}/
autosave_interval 30
max_queued_messages {MAX_QUEUED_MESSAGES}
max_packet_size {MAX_PACKET_BYTES}
set_tcp_nodelay true
persistent_client_expiration 14d
log_dest stderr
log_timestamp_format %Y-%m-%dT%H:%M:%S
log_type error
log_type warning
log_type notice
log_type information
log_type subscribe
log_type debug

# Users with a password. The user name is the client id, so nobody can take the session of another.
listener {port}{listen}
certfile {at}/server.pem
keyfile {at}/server.key
tls_version tlsv1.2
use_username_as_clientid true

# Users with a certificate; its common name is the user name.
listener {certificate_port}{listen}
certfile {at}/server.pem
keyfile {at}/server.key
tls_version tlsv1.2
cafile {at}/ca.pem
crlfile {at}/crl.pem
require_certificate true
use_identity_as_username true
use_username_as_clientid true
"""


def mosquitto_acl(identities: Iterable[Identity], root: str) -> str:
    """Return the ACL: for each user its filters; what is not there is denied."""
    lines = [f"# {_MADE}"]
    for identity in identities:
        rights = rights_of(identity, root)
        lines += ["", f"user {identity.name}"]
        lines += [f"topic write {text}" for text in rights.write]
        lines += [f"topic read {text}" for text in rights.read]
    return "\n".join(lines) + "\n"


def emqx_acl(identities: Iterable[Identity], root: str) -> str:
    """Return EMQX's acl.conf: the same rights, and everything else denied, subscriptions with wildcards too."""
    lines = [f"%% {_MADE}"]
    for identity in identities:
        rights = rights_of(identity, root)
        for action, filters in (("publish", rights.write), ("subscribe", rights.read)):
            if filters:
                topics = ", ".join(f'"{text}"' for text in filters)
                lines.append(f'{{allow, {{user, "{identity.name}"}}, {action}, [{topics}]}}.')
    lines.append("{deny, all}.")
    return "\n".join(lines) + "\n"


def emqx_users(rows: Mapping[str, tuple[str, str]]) -> str:
    """Return the bootstrap file of EMQX's built-in users: (hash, salt) by name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user_id", "password_hash", "salt", "is_superuser"])
    for name, (made, salt) in rows.items():
        writer.writerow([name, made, salt, "false"])
    return text.getvalue()


def nats_users(identities: Iterable[Identity], root: str) -> str:
    """Return the users of a NATS server, who are known by their certificates, with the same rights.

    MQTT filters become NATS subjects; ``a/#`` is two of them, ``a`` and everything below. What MQTT itself needs there
    is under ``$MQTT``.
    """
    lines = [f"# {_MADE}", "authorization {", "  users: ["]
    for identity in identities:
        rights = rights_of(identity, root)
        speak = _listed(_subjects(rights.write)) if rights.write else '{deny: ">"}'
        listen = _listed([*_subjects(rights.read), "$MQTT.sub.>", "$MQTT.deliver.pubrel.>"])
        lines += [
            f'    {{user: "CN={identity.name}", permissions: {{',
            f"      publish: {speak}",
            f"      subscribe: {listen}}}}}",
        ]
    return "\n".join([*lines, "  ]", "}", ""])


def _subjects(filters: Iterable[str]) -> list[str]:
    found: list[str] = []
    for text in filters:
        levels = [level.replace(".", "//") for level in text.split("/")]
        subject = ".".join({"+": "*", "#": ">"}.get(level, level) for level in levels)
        found += [subject.removesuffix(".>"), subject] if text.endswith("/#") else [subject]
    return found


def _listed(subjects: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{subject}"' for subject in subjects) + "]"


def client_settings(identity: Identity, *, url: str, root: str, at: PurePath, sharers: str) -> str:
    """Return the settings file with which a node, a controller or a person connects; secrets are named, not held.

    Arguments: ``at`` where the client finds its files; ``sharers`` the group of the controllers' shared subscriptions.
    """

    def broker(name: str, prefix: str) -> dict[str, Any]:
        return {"url": url, "username": name, "password_file": f"{at}/{prefix}password",
                "tls": {"ca_file": f"{at}/ca.pem"}}  # fmt: skip

    settings: dict[str, Any] = {"root": root, "broker": broker(identity.name, "")}
    if identity.kind == "node":
        bus = broker(identity.name + BUS_SUFFIX, "bus-")
        settings["edge"] = {"node": identity.name, "eventbus": {"broker": bus}}
    elif identity.kind == "controller":
        settings["cloud"] = {"controller": identity.name, "sharing": {"group": sharers}}
    return f"# {_MADE}\n" + yaml.safe_dump(settings, sort_keys=False, width=120)
