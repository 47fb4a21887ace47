"""Mosquitto with the files that ``fieldpost broker`` makes, and visitors that connect to it as somebody."""

from __future__ import annotations

import os
import pwd
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from common.brokerfiles.directory import BrokerFiles, Layout
from common.brokerfiles.identities import of_node
from common.messaging.child import dies_with_parent
from common.settings import BrokerSettings, TlsSettings
from tests.support import containers
from tests.support.brokers import find_mosquitto
from tests.support.wait import free_port

HOST = "127.0.0.1"
HONEST, HOSTILE, REVOKED, WATCHER = "gw-2", "gw-1", "gw-9", "watcher"
BUS_READ, BUS_WRITE = "devices/{node}/#", "fleet/{node}/#"
WAIT_S = 10.0


def wait_until(predicate: Callable[[], Any], what: str, timeout: float = WAIT_S) -> Any:
    """Poll until ``predicate`` is true; for tests whose clients have threads of their own."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.005)
    return value


class SecureBroker:
    """The broker as shipped, in ``directory``; only ports and, where root runs it, the user are the test's."""

    def __init__(self, directory: Path) -> None:
        self.port, self.certificate_port = free_port(), free_port()
        self.files = BrokerFiles(directory / "identities")
        self._init(Layout(hosts=(HOST, "localhost"), bind=HOST, port=self.port, certificate_port=self.certificate_port))
        self._log = directory / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    def _init(self, layout: Layout) -> None:
        nodes = [each for node in (HOSTILE, HONEST, REVOKED) for each in of_node(node, (BUS_READ,), (BUS_WRITE,))]
        self.files.init(layout, nodes)
        self.files.add_user(WATCHER, read=("fieldpost/#", "fleet/#", "devices/#"))

    def start(self) -> None:
        """Start it, and return when both listeners are there."""
        binary = find_mosquitto()
        assert binary is not None
        config = self.files.directory / "mosquitto" / "mosquitto.conf"
        if os.geteuid() == 0:  # else it becomes the user mosquitto, who may not enter a test's directory
            shipped, config = config.read_text(), config.with_name("as-root.conf")
            config.write_text(f"user {pwd.getpwuid(0).pw_name}\n{shipped}")
        already = self.log().count(" running")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                dies_with_parent([binary, "-c", str(config)]), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(lambda: self.log().count(" running") > already or self._process.poll() is not None, "it starts")  # type: ignore[union-attr]
        assert self._process.poll() is None, self.log()

    def stop(self) -> None:
        """Stop it; nothing happens when it does not run."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(WAIT_S)
            self._process = None

    def log(self) -> str:
        """What it said since its first start."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def secret(self, name: str, file: str = "password") -> Path:
        """A file of a client."""
        return self.files.bundle(name.removesuffix("-bus")) / (f"bus-{file}" if name.endswith("-bus") else file)

    def settings(self, name: str) -> BrokerSettings:
        """Settings with which one of our own processes connects as ``name``."""
        return BrokerSettings(
            url=f"mqtts://{HOST}:{self.port}", username=name, password_file=str(self.secret(name)), reconnect_max_s=0.5,
            tls=TlsSettings(ca_file=str(self.secret(name.removesuffix("-bus"), "ca.pem"))),
        )  # fmt: skip

    def visitor(self, name: str, **more: Any) -> Visitor:
        """Somebody who connects with the password of ``name``."""
        return Visitor(self.port, self.authority, name, self.secret(name).read_text().strip(), **more)

    def with_certificate(self, certificate: Path, key: Path, **more: Any) -> Visitor:
        """Somebody who connects with a certificate; ``name`` and ``client_id`` are what it says of itself."""
        return Visitor(self.certificate_port, self.authority, certificate=(certificate, key), **more)

    @property
    def authority(self) -> Path:
        """The certificate of the fleet's authority."""
        return self.files.directory / "authority" / "ca.pem"


class ContainedBroker(SecureBroker):
    """The same in a container, with the files where the image wants them."""

    def __init__(self, directory: Path) -> None:
        self.files = BrokerFiles(directory / "identities")
        self._init(Layout(hosts=(HOST, "localhost"), broker_at=containers.BROKER_AT, data_at=containers.DATA_AT))
        self._stack = ExitStack()
        self._container: Any = None

    def start(self) -> None:
        started = self._stack.enter_context(containers.mosquitto(self.files.directory / "mosquitto"))
        self.port, self.certificate_port, self._container = started
        wait_until(lambda: " running" in self.log(), "it starts")

    def stop(self) -> None:
        self._stack.close()

    def log(self) -> str:
        return "".join(part.decode(errors="replace") for part in self._container.get_logs())


@dataclass
class Will:
    """A last will."""

    topic: str
    retain: bool = True


class Visitor:
    """One MQTT 5 client. ``refused`` says why it could not connect; ``messages`` are (topic, payload, retained)."""

    def __init__(
        self, port: int, authority: Path | None, name: str | None = None, password: str | None = None, *,
        client_id: str | None = None, certificate: tuple[Path, Path] | None = None, will: Will | None = None,
        will_payload: bytes = b"", clean: bool = True,
    ) -> None:  # fmt: skip
        self.messages: list[tuple[str, bytes, bool]] = []
        self.refused, self.connects, self.lost = "", 0, 0
        self._reasons: dict[int, int] = {}
        self._port, self._clean = port, clean
        self._answered = threading.Event()
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2, client_id or name or "nobody", protocol=paho.MQTTv5, reconnect_on_failure=False
        )
        if name is not None:
            self.paho.username_pw_set(name, password)
        if authority is not None:
            context = ssl.create_default_context(cafile=str(authority))
            if certificate is not None:
                context.load_cert_chain(*certificate)
            self.paho.tls_set_context(context)
        if will is not None:
            self.paho.will_set(will.topic, will_payload, 1, will.retain)
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_message = self._on_message
        self.paho.on_publish = self._done
        self.paho.on_subscribe = self._done_subscribe

    def __enter__(self) -> Self:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0 if self._clean else 60
        try:
            self.paho.connect(HOST, self._port, clean_start=self._clean, properties=properties)
            self.paho.loop_start()
            assert self._answered.wait(WAIT_S), "no answer to CONNECT"
        except OSError as exc:  # TLS
            self.refused = str(exc) or type(exc).__name__
        return self

    def __exit__(self, *exc: object) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> int:
        """Publish and return the reason code of the PUBACK; -1 when the connection ended instead."""
        info = self.paho.publish(topic, payload, qos, retain)
        if qos == 0:
            info.wait_for_publish(WAIT_S)
            return 0
        wait_until(lambda: info.mid in self._reasons or self.lost, f"PUBACK for {topic}")
        return self._reasons.get(info.mid, -1)

    def subscribe(self, text: str) -> int:
        """Subscribe and return the reason code of the SUBACK; -1 when the connection ended instead."""
        _, mid = self.paho.subscribe(text, 1)
        wait_until(lambda: mid in self._reasons or self.lost, f"SUBACK for {text}")
        return self._reasons.get(mid or 0, -1)

    def drop(self) -> None:
        """End the connection as a cut cable does, so that the broker sends the will."""
        self.paho.loop_stop()
        self.paho.socket().close()

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self.refused = str(reason)
            self.paho.disconnect()
        else:
            self.connects += 1
        self._answered.set()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.lost += 1
        if not self._answered.is_set():
            self.refused = str(reason)
            self.paho.disconnect()
            self._answered.set()

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.messages.append((message.topic, bytes(message.payload), message.retain))

    def _done(self, _client: Any, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        self._reasons[mid] = reason.value

    def _done_subscribe(self, _client: Any, _data: Any, mid: int, reasons: Any, _properties: Any) -> None:
        self._reasons[mid] = reasons[0].value


def said(log: str, pattern: str) -> bool:
    """True when a line of the log matches."""
    return re.search(pattern, log) is not None
