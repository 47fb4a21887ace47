"""Containers for tests: PostgreSQL and Mosquitto by testcontainers, and the stack of compose.yaml.

Only ``make test-containers`` runs them: it sets ``FIELDPOST_CONTAINERS``; everything else is tested on local processes.
Images are those of compose.yaml and can be replaced by the same variables. ``python -m tests.support.containers ARGS``
runs pytest with ARGS on a PostgreSQL in a container.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.wait import free_port

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "FIELDPOST_CONTAINERS"
POSTGRES_VARIABLE = "FIELDPOST_TEST_POSTGRES"  # tests/support/postgres.py uses the server of this URL
MQTT_PORT, MQTT_CERTIFICATE_PORT = 8883, 8884  # inside the broker's container
BROKER_AT, DATA_AT = "/mosquitto/config", "/mosquitto/data"
POSTGRES_PORT = 5432
UP_S, START_S = 300, 60


def no_containers() -> str:
    """Why container tests do not run here; empty when they do."""
    if not os.environ.get(VARIABLE):
        return "containers are for make test-containers"
    if shutil.which("docker") is None:
        return "no container engine: apt-get install docker.io"
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        return "the container engine does not answer: docker info"
    return ""


def image_of(service: str) -> str:
    """The image of a service of compose.yaml, or what its variable names instead."""
    text = str(yaml.safe_load((ROOT / "compose.yaml").read_text())["services"][service]["image"])
    variable, _, default = text.removeprefix("${").removesuffix("}").partition(":-")
    return os.environ.get(variable) or default


@contextmanager
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL in a container."""
    from testcontainers.core.container import DockerContainer  # takes a second, and most runs need none

    password, user = secrets.token_urlsafe(16), "fieldpost"
    container = DockerContainer(image_of("postgres")).with_exposed_ports(POSTGRES_PORT)
    container.with_envs(POSTGRES_USER=user, POSTGRES_DB=user, POSTGRES_PASSWORD=password)
    with container as started:
        deadline = time.monotonic() + START_S
        while started.exec(["pg_isready", "-q", "-h", "127.0.0.1", "-U", user]).exit_code:
            assert time.monotonic() < deadline, started.get_logs()
            time.sleep(0.1)
        yield f"postgresql://{user}:{password}@127.0.0.1:{started.get_exposed_port(POSTGRES_PORT)}/{user}"


@contextmanager
def mosquitto(files: Path) -> Iterator[tuple[int, int, Any]]:
    """Mosquitto in a container with the directory ``files`` of ``fieldpost broker``: both ports, and the container."""
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(image_of("broker")).with_exposed_ports(MQTT_PORT, MQTT_CERTIFICATE_PORT)
    container.with_volume_mapping(files, BROKER_AT, "rw")
    if os.geteuid():  # as root, the image gives the files to its own user
        container.with_kwargs(user=f"{os.geteuid()}:{os.getegid()}")
    with container as started:
        yield (
            int(started.get_exposed_port(MQTT_PORT)), int(started.get_exposed_port(MQTT_CERTIFICATE_PORT)), started,
        )  # fmt: skip


class Compose:
    """The stack of compose.yaml under a name of its own, on free ports of loopback."""

    def __init__(self) -> None:
        self.name = f"fieldpost-test-{os.getpid()}"
        self.port, self.certificate_port = free_port(), free_port()
        self._environment = {
            **os.environ, "FIELDPOST_MQTT_PORT": str(self.port),
            "FIELDPOST_MQTT_CERTIFICATE_PORT": str(self.certificate_port),
        }  # fmt: skip

    def __call__(self, *arguments: str, text: str = "", timeout: float = UP_S) -> str:
        """Run ``docker compose`` with ``text`` as its input and return what it prints.

        Raises AssertionError with what it said when it fails.
        """
        done = subprocess.run(
            ["docker", "compose", "-p", self.name, *arguments], cwd=ROOT, env=self._environment, capture_output=True,
            text=True, timeout=timeout, input=text,
        )  # fmt: skip
        assert done.returncode == 0, (
            f"docker compose {' '.join(arguments)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
        return done.stdout

    def up(self) -> None:
        """Start everything and wait until it is healthy."""
        self("up", "-d", "--wait", "--no-build")

    def down(self) -> None:
        """Remove everything, volumes too."""
        self("down", "-v", "--remove-orphans", "-t", "5")

    def execute(self, service: str, *command: str, text: str = "") -> str:
        """Run a command in a running container, with ``text`` as its input."""
        return self("exec", "-T", service, *command, text=text)

    def inspected(self) -> list[dict[str, Any]]:
        """``docker inspect`` of all containers, those that have ended too."""
        ids = self("ps", "-a", "-q").split()
        return list(json.loads(_run("docker", "inspect", *ids)))

    def kill(self, service: str) -> None:
        """kill -9 of the container's first process, as the machine would do it; its restart policy starts it again."""
        (identity,) = self("ps", "-q", service).split()
        os.kill(int(_run("docker", "inspect", "-f", "{{.State.Pid}}", identity)), 9)

    def logs(self, *services: str) -> str:
        """What the containers have said."""
        return self("logs", "--no-color", *services)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(arguments: list[str]) -> int:
    """Run pytest with these arguments on a PostgreSQL in a container; return its exit code."""
    with postgres() as url:
        environment = {**os.environ, POSTGRES_VARIABLE: url}
        return subprocess.run([sys.executable, "-m", "pytest", *arguments], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
