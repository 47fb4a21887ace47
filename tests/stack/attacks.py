"""What a hostile node, or somebody at the broker's door, can try (reliability R3, R4): one entry for each attempt.

The attacker has the files of node ``gw-1``; ``gw-2`` is honest. ``MARK`` is in whatever it publishes, so that it can be
seen where it must not be.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common.brokerfiles.authority import Authority
from common.clock import SystemClock
from tests.stack.secure import HONEST, HOSTILE, REVOKED, SecureBroker, Visitor, Will

MARK = b"hostile"
NOT_AUTHORIZED, TOO_LARGE_BYTES = 0x87, 300_000
RESULT = "router:resource/update/default/rulestatus/relay"
CLOUD_SAYS = "edgecontroller:resource/response/default/rulestatus/_"
STRANGERS = "strangers"  # a directory with certificates that are not good


class Scene(NamedTuple):
    """Where it happens: the broker, and a directory for what the attacker makes."""

    broker: SecureBroker
    directory: Path


class Attack(NamedTuple):
    """``act`` tries it and asserts that it was refused; ``seen`` is what the broker's log then shows."""

    act: Callable[[Scene], None]
    seen: str


def publishes(topic: str, *, name: str = HOSTILE, retain: bool = False, payload: bytes = MARK) -> Attack:
    """Publishing as ``name``: the PUBACK says no."""

    def act(scene: Scene) -> None:
        with scene.broker.visitor(name) as visitor:
            assert visitor.publish(topic, payload, retain=retain) == NOT_AUTHORIZED

    return Attack(act, f"Denied PUBLISH from {name} .*'{re.escape(topic)}'" if topic[0] != "$" else f"as {name} ")


def listens(text: str, *, name: str = HOSTILE) -> Attack:
    """Subscribing as ``name``: Mosquitto may grant it and gives nothing; what is retained would come at once."""

    def act(scene: Scene) -> None:
        with scene.broker.visitor(name) as visitor:
            visitor.subscribe(text)
            with scene.broker.visitor(HONEST) as honest, scene.broker.visitor("cloud-1") as cloud:
                honest.publish(f"fieldpost/up/{HONEST}/{RESULT}", b"private")
                cloud.publish(f"fieldpost/down/{HONEST}/{CLOUD_SAYS}", b"private")
            visitor.publish(f"fieldpost/up/{name}/{RESULT}", b"own")  # its PUBACK comes behind all that was sent to it
            assert visitor.messages == [], "it heard what is not its own"

    return Attack(act, "SUBSCRIBE from " + name)


def poses_as(client_id: str, *, clean: bool = True) -> Attack:
    """Taking a client id: the session of the other goes on, and its queued messages are not given out."""

    def act(scene: Scene) -> None:
        with scene.broker.visitor(client_id) as owner:
            password = scene.broker.secret(HOSTILE).read_text().strip()
            broker = scene.broker
            thief = Visitor(broker.port, broker.authority, HOSTILE, password, client_id=client_id, clean=clean)
            with thief:
                assert thief.publish(f"fieldpost/up/{HONEST}/{RESULT}", MARK) == NOT_AUTHORIZED
            assert (owner.connects, owner.lost) == (1, 0), "the owner was kicked off"

    return Attack(act, rf"connected from .* as {HOSTILE} \(.*u'{HOSTILE}'\)")


def leaves(topic: str) -> Attack:
    """A last will on a topic of others, and a cut cable."""

    def act(scene: Scene) -> None:
        with scene.broker.visitor(HOSTILE, will=Will(topic), will_payload=MARK) as visitor:
            if not visitor.refused:
                visitor.drop()

    return Attack(act, topic)


def is_refused(make: Callable[[Scene], Visitor], seen: str) -> Attack:
    """Not even connecting."""

    def act(scene: Scene) -> None:
        with make(scene) as visitor:
            assert visitor.refused or visitor.lost, "it could connect"
            assert not visitor.connects, "it could connect"

    return Attack(act, seen)


def _named(name: str | None, password: str | None) -> Callable[[Scene], Visitor]:
    return lambda scene: Visitor(scene.broker.port, scene.broker.authority, name, password)


def _with_password_of(owner: str, name: str) -> Callable[[Scene], Visitor]:
    return lambda scene: Visitor(
        scene.broker.port, scene.broker.authority, name, scene.broker.secret(owner).read_text().strip()
    )


def _issued(name: str, days: float, *, own_authority: bool) -> Callable[[Scene], Visitor]:
    """A certificate for ``name``: of an authority of the attacker's own, or of the fleet's."""

    def make(scene: Scene) -> Visitor:
        home = scene.directory / STRANGERS if own_authority else scene.broker.authority.parent
        issued = Authority(home, SystemClock()).client(name, days)
        return scene.broker.with_certificate(*_written(scene, issued.certificate, issued.key), client_id=name)

    return make


def _written(scene: Scene, certificate: bytes, key: bytes) -> tuple[Path, Path]:
    place = scene.directory / STRANGERS
    place.mkdir(exist_ok=True)
    (place / "cert.pem").write_bytes(certificate)
    (place / "key.pem").write_bytes(key)
    return place / "cert.pem", place / "key.pem"


def _signed_by_a_node(scene: Scene) -> Visitor:
    """A certificate for a controller that the node signed with its own, as if it were an authority."""
    place = scene.directory / STRANGERS
    place.mkdir(exist_ok=True)
    key, request, made = place / "chain.key", place / "chain.csr", place / "chain.pem"
    own, own_key = (scene.broker.secret(HOSTILE, file) for file in ("cert.pem", "key.pem"))
    openssl = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    _run([*openssl, "-subj", "/CN=cloud-1", "-keyout", str(key), "-out", str(request)])
    _run(["openssl", "x509", "-req", "-in", str(request), "-CA", str(own), "-CAkey", str(own_key), "-days", "2",
          "-set_serial", "7", "-out", str(made)])  # fmt: skip
    made.write_bytes(made.read_bytes() + own.read_bytes())
    return scene.broker.with_certificate(made, key, client_id="cloud-1")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _files_of(owner: str) -> Callable[[Scene], Visitor]:
    def make(scene: Scene) -> Visitor:
        files = [scene.broker.secret(owner, file) for file in ("cert.pem", "key.pem")]
        return scene.broker.with_certificate(*files, client_id=owner)

    return make


def _as_the_broker(scene: Scene) -> Visitor:
    place = scene.broker.files.directory / "mosquitto"
    return scene.broker.with_certificate(place / "server.pem", place / "server.key", client_id="cloud-1")


def _certificate_says_otherwise(scene: Scene) -> None:
    """Its own certificate with the user name of another: the certificate decides."""
    files = [scene.broker.secret(HOSTILE, file) for file in ("cert.pem", "key.pem")]
    with scene.broker.with_certificate(*files, name=HONEST, password="x", client_id=HONEST) as visitor:
        assert visitor.refused or visitor.publish(f"fieldpost/up/{HONEST}/{RESULT}", MARK) == NOT_AUTHORIZED


def _floods_one_packet(scene: Scene) -> None:
    """A packet above the limit: the connection ends, nobody gets it."""
    with scene.broker.visitor(HOSTILE) as visitor:
        assert visitor.publish(f"fieldpost/up/{HOSTILE}/{RESULT}", MARK * (TOO_LARGE_BYTES // len(MARK))) != 0


def _without_tls(scene: Scene) -> Visitor:
    return Visitor(scene.broker.port, None, HOSTILE, scene.broker.secret(HOSTILE).read_text().strip())


DENIED = r"disconnected, not authorised"
NO_TLS = r"OpenSSL Error|SSL|protocol error|socket error|Bad socket|disconnected"

ATTACKS: dict[str, Attack] = {
    "publish as another node": publishes(f"fieldpost/up/{HONEST}/{RESULT}"),
    "publish as another, other case": publishes(f"fieldpost/up/{HOSTILE.upper()}/{RESULT}"),
    "publish with an empty level": publishes(f"fieldpost//up/{HOSTILE}/{RESULT}"),
    "publish a status of a rule": publishes("fieldpost/status/default/relay", retain=True),
    "publish downward to another": publishes(f"fieldpost/down/{HONEST}/{CLOUD_SAYS}"),
    "publish downward to itself": publishes(f"fieldpost/down/{HOSTILE}/{CLOUD_SAYS}"),
    "presence of another": publishes(f"fieldpost/presence/{HONEST}", retain=True),
    "presence of a controller": publishes("fieldpost/presence/cloud/cloud-1", retain=True),
    "presence below its own": publishes(f"fieldpost/presence/{HOSTILE}/more", retain=True),
    "clear the presence of another": publishes(f"fieldpost/presence/{HONEST}", retain=True, payload=b""),
    "publish for another's bus": publishes(f"fleet/{HONEST}/telemetry"),
    "uplink through the bus": publishes(f"fieldpost/up/{HOSTILE}/{RESULT}", name=f"{HOSTILE}-bus"),
    "the observer speaks": publishes(f"fieldpost/up/{HONEST}/{RESULT}", name="observer"),
    "the operator speaks as a node": publishes(f"fieldpost/up/{HONEST}/{RESULT}", name="operator"),
    "a controller speaks as a node": publishes(f"fieldpost/up/{HONEST}/{RESULT}", name="cloud-1"),
    "publish to $SYS": publishes("$SYS/broker/uptime"),
    "subscribe to everything": listens("#"),
    "subscribe to the fleet": listens("fieldpost/#"),
    "subscribe to another's downward topics": listens(f"fieldpost/down/{HONEST}/#"),
    "subscribe to all downward topics": listens("fieldpost/down/+/#"),
    "subscribe to all upward topics": listens("fieldpost/up/#"),
    "subscribe to presence": listens("fieldpost/presence/+"),
    "share the uplink": listens("$share/thieves/fieldpost/up/#"),
    "subscribe to $SYS": listens("$SYS/#"),
    "the bus listens to the fleet": listens("fieldpost/#", name=f"{HOSTILE}-bus"),
    "client id of another": poses_as(HONEST),
    "session of another": poses_as(HONEST, clean=False),
    "client id of a controller": poses_as("cloud-1"),
    "will on another's presence": leaves(f"fieldpost/presence/{HONEST}"),
    "will on a status": leaves("fieldpost/status/default/relay"),
    "user name with a slash": is_refused(_with_password_of(HOSTILE, f"{HOSTILE}/../{HONEST}"), DENIED),
    "user name with #": is_refused(_with_password_of(HOSTILE, "#"), DENIED),
    "user name with +": is_refused(_with_password_of(HOSTILE, "+"), DENIED),
    "nobody": is_refused(_named(None, None), DENIED),
    "an empty name": is_refused(_named("", ""), DENIED),
    "a wrong password": is_refused(_named(HOSTILE, "wrong"), DENIED),
    "no password": is_refused(_named(HONEST, None), DENIED),
    "own password, other name": is_refused(_with_password_of(HOSTILE, HONEST), DENIED),
    "a revoked node's password": is_refused(_with_password_of(REVOKED, REVOKED), DENIED),
    "a revoked node's certificate": is_refused(_files_of(REVOKED), "revoked|certificate verify failed"),
    "a certificate of another authority": is_refused(_issued(HONEST, 2, own_authority=True), "certificate|OpenSSL"),
    "a certificate that has expired": is_refused(_issued(HONEST, -1, own_authority=False), "certificate|OpenSSL"),
    "a certificate signed by a node": is_refused(_signed_by_a_node, "certificate|OpenSSL"),
    "the broker's own certificate": is_refused(_as_the_broker, "certificate|OpenSSL"),
    "no certificate": is_refused(
        lambda scene: Visitor(scene.broker.certificate_port, scene.broker.authority, HOSTILE, "x"),
        "certificate|OpenSSL",
    ),
    "own certificate, other name": Attack(_certificate_says_otherwise, f"Denied PUBLISH from {HOSTILE} |{DENIED}"),
    "a packet that is too large": Attack(_floods_one_packet, f"Client {HOSTILE} disconnected|oversize|too large"),
    "without TLS": is_refused(_without_tls, NO_TLS),
}
