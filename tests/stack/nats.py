"""Three NATS servers with the configuration of deploy/nats, as child processes on loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from pathlib import Path

from common.brokerfiles.directory import BrokerFiles, Layout
from common.brokerfiles.identities import of_node
from common.messaging.broker import find_server
from common.messaging.child import dies_with_parent
from common.settings import BrokerSettings, TlsSettings
from tests.stack.secure import HOST
from tests.support.wait import eventually, free_port

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "nats" / "nats.conf"
SERVERS = 3
START_S = 60


class Cluster:
    """The cluster, with identities for ``node`` and one controller. Its data is kept over ``kill`` and ``start``."""

    def __init__(self, directory: Path, node: str) -> None:
        self.files, self._directory = BrokerFiles(directory / "identities"), directory
        self.files.init(Layout(hosts=(HOST,)), of_node(node))
        shutil.copy(CONFIG, self.files.directory / "nats" / "nats.conf")
        self.ports = [free_port() for _ in range(SERVERS)]
        self._routes, self._clients = ([free_port() for _ in range(SERVERS)] for _ in range(2))
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    async def __aenter__(self) -> Cluster:
        for number in range(SERVERS):
            self.start(number)
        await eventually(
            lambda: all(self.is_current(number) for number in range(SERVERS)), timeout=START_S, what="it stands"
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        for process in self._processes.values():
            process.kill()
        await asyncio.gather(*(asyncio.to_thread(process.wait) for process in self._processes.values()))

    def start(self, number: int) -> None:
        """Start one server."""
        with open(self._log(number), "wb") as log:
            self._processes[number] = subprocess.Popen(
                dies_with_parent([str(find_server()), "-c", str(self.files.directory / "nats" / "nats.conf")]),
                env=os.environ | self._environment(number), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self, number: int) -> None:
        """kill -9 of one server."""
        self._processes[number].send_signal(signal.SIGKILL)
        self._processes[number].wait()

    def is_current(self, number: int) -> bool:
        """True when the server knows the cluster's leader, or is it."""
        said = self.log(number)
        assert self._processes[number].poll() is None, said
        return (
            "JetStream cluster new metadata leader" in said or "Self is new JetStream cluster metadata leader" in said
        )

    def log(self, number: int) -> str:
        """What a server has said since its last start."""
        return self._log(number).read_text(errors="replace")

    def settings(self, name: str) -> BrokerSettings:
        """Settings for one of our processes: all servers, its certificate."""
        bundle = self.files.bundle(name)
        return BrokerSettings(
            url=",".join(f"mqtts://{HOST}:{port}" for port in self.ports), protocol="3.1.1", reconnect_max_s=0.5,
            tls=TlsSettings(
                ca_file=str(bundle / "ca.pem"), cert_file=str(bundle / "cert.pem"), key_file=str(bundle / "key.pem")
            ),
        )  # fmt: skip

    def _log(self, number: int) -> Path:
        return self._directory / f"nats-{number + 1}.log"

    def _environment(self, number: int) -> dict[str, str]:
        at = self.files.directory / "nats"
        named = {
            "NAME": f"nats-{number + 1}", "ADDRESS": HOST, "DATA": self._directory / f"data-{number + 1}",
            "CLIENT_PORT": self._clients[number], "MQTT_PORT": self.ports[number],
            "CLUSTER_PORT": self._routes[number], "CA": at / "ca.pem", "CERTIFICATE": at / "server.pem",
            "KEY": at / "server.key", "PEER_CERTIFICATE": at / "peer.pem", "PEER_KEY": at / "peer.key",
            **{f"ROUTE_{n + 1}": f"nats-route://{HOST}:{port}" for n, port in enumerate(self._routes)},
        }  # fmt: skip
        return {f"FIELDPOST_NATS_{name}": str(value) for name, value in named.items()}
