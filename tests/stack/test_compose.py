"""The stack of compose.yaml as people start it, on a real engine: counts, kills, restarts, identities, secrets.

One stack for all tests here, which run in their order: each leaves it running. Only ``make test-containers`` runs them.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.brokerfiles.directory import BrokerFiles
from common.settings import BrokerSettings, TlsSettings
from tests.docs_support.blocks import commands
from tests.e2e.stack import Device
from tests.stack.secure import HOST
from tests.support.containers import ROOT, Compose, image_of, no_containers
from tests.support.wait import eventually

NODES = ("gw-1", "gw-2")
MACHINES = ("gw-1-machine", "gw-2-machine")
PROCESSES = ("broker", "postgres", "cloud-1", "cloud-2", *NODES, *MACHINES)
LOAD, AT_ONCE, PAUSE_S = 2000, 10, 0.05
SETTLE_S = 120
SECRET_CHARS_MIN = 20
APPLIED = """
apiVersion: rules.kubeedge.io/v1
kind: RuleEndpoint
metadata: {name: fleet-bus}
spec: {ruleEndpointType: eventbus}
---
apiVersion: rules.kubeedge.io/v1
kind: Rule
metadata: {name: everywhere}
spec:
  source: fleet-bus
  sourceResource: {topic: "devices/+/telemetry"}
  target: fleet-bus
  targetResource: {topic: "fleet/{node}/copy"}
"""
ASK = (
    "import asyncio, json; from common.control import call;"
    "print(json.dumps(asyncio.run(call('/var/lib/fieldpost/edge.sock', 'statistics')), default=str))"
)
pytestmark = [pytest.mark.skipif(bool(no_containers()), reason=no_containers()), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def stack() -> Iterator[Compose]:
    """The stack, started once; what it said is shown when a test fails."""
    compose = Compose()
    try:
        compose.up()
        yield compose
        print(compose.logs("--tail", "40", "cloud-1", *NODES))  # noqa: T201
    finally:
        compose.down()


@pytest.fixture(scope="module")
def identities(stack: Compose, tmp_path_factory: pytest.TempPathFactory) -> BrokerFiles:
    """All secrets of the stack, as who runs it can copy them, and with a user ``load`` that was added meanwhile."""
    add = ["fieldpost", "broker", "users", "add", "load", "--dir", "/identities", "--write", "devices/+/telemetry"]
    stack("run", "--rm", "--no-deps", "--entrypoint", add[0], "first-start", *add[1:])
    stack.execute("broker", "sh", "-c", "kill -HUP 1")  # docker kill would end its restart policy, whatever the signal
    place = tmp_path_factory.mktemp("copied")
    stack("cp", "first-start:/identities", str(place))
    return BrokerFiles(place / "identities")


class Door:
    """The broker's door on this machine, for a device that comes with the files of a user."""

    def __init__(self, stack: Compose, files: BrokerFiles, name: str) -> None:
        self._port, self._bundle, self._name = stack.port, files.bundle(name), name

    def settings(self) -> BrokerSettings:
        return BrokerSettings(
            url=f"mqtts://{HOST}:{self._port}", username=self._name, password_file=str(self._bundle / "password"),
            reconnect_max_s=0.5, tls=TlsSettings(ca_file=str(self._bundle / "ca.pem")),
        )  # fmt: skip


def counted(stack: Compose, controller: str = "cloud-1") -> dict[tuple[str, str], int]:
    """What the cloud has counted, by (node, rule)."""
    rows = json.loads(stack.execute(controller, "fieldpost", "get", "rules", "--per-node", "-o", "json"))
    return {(row["node"], row["rule"]): row["success"] + row["fail"] for row in rows}


def agent(stack: Compose, node: str) -> dict[str, Any]:
    """An agent's statistics."""
    return dict(json.loads(stack.execute(node, "python", "-c", ASK)))


async def settled(stack: Compose, *, at_least: int = 1) -> dict[str, int]:
    """Stop the machines' telemetry, wait until all results are confirmed; return what each node has accepted.

    ``at_least`` is what gw-1 must have.
    """
    stack("stop", *MACHINES)

    def accepted() -> dict[str, int]:
        try:
            status = {node: agent(stack, node)["status"] for node in NODES}
        except AssertionError:  # it is just starting again
            return {}
        done = all(each["accepted"] == each["confirmed"] > 0 for each in status.values())
        done = done and status["gw-1"]["accepted"] >= at_least
        return {node: each["accepted"] for node, each in status.items()} if done else {}

    last: dict[str, int] = {}

    def twice() -> dict[str, int]:
        nonlocal last
        before, last = last, accepted()
        return last if last == before else {}

    return dict(await eventually(twice, timeout=SETTLE_S, interval=0.5, what="all is confirmed"))


def per_node(counts: dict[tuple[str, str], int]) -> dict[str, int]:
    """Sums by node."""
    return {node: sum(count for (of, _), count in counts.items() if of == node) for node in NODES}


def test_it_comes_up_healthy_and_counts(stack: Compose) -> None:
    """U7: every service is healthy, both nodes are online, and real telemetry is counted for each rule."""
    states = {each["Name"]: each["State"] for each in stack.inspected()}
    ended = {name for name, state in states.items() if state["Status"] != "running"}
    assert {re.sub(r".*test-\d+-|-1$", "", name) for name in ended} == {"volumes", "first-start"}
    assert all(state["ExitCode"] == 0 for state in states.values())
    assert {state["Health"]["Status"] for name, state in states.items() if name not in ended} == {"healthy"}
    for controller in ("cloud-1", "cloud-2"):
        rows = json.loads(stack.execute(controller, "fieldpost", "get", "nodes", "-o", "json"))
        assert {row["node"]: row["state"] for row in rows} == dict.fromkeys(NODES, "online")
    asyncio.run(eventually(
        lambda: set(counted(stack)) == {("gw-1", "telemetry"), ("gw-2", "last-known"), ("gw-2", "memory-short")},
        timeout=60, interval=0.5, what="each rule has results",
    ))  # fmt: skip


async def test_rules_applied_by_the_command_line_reach_both_nodes(stack: Compose) -> None:
    """P6: a rule that is applied at one controller runs on both nodes and is counted; it goes on under what follows."""
    stack.execute("cloud-2", "fieldpost", "apply", "-f", "-", text=APPLIED)
    nodes = {(node, "everywhere") for node in NODES}
    await eventually(lambda: nodes <= set(counted(stack)), timeout=60, interval=0.5, what="it is counted on both nodes")
    rows = json.loads(stack.execute("cloud-1", "fieldpost", "describe", "rule", "everywhere", "-o", "json"))
    assert "everywhere" in json.dumps(rows)


async def test_counts_are_exact_when_each_container_is_killed(stack: Compose, identities: BrokerFiles) -> None:
    """R1: kill -9 of each container but the broker in turn, under load: no message is lost, and counts are exact."""
    before = agent(stack, "gw-1")["status"]["accepted"]
    await _load(stack, identities, ["gw-1", "cloud-1", "postgres", "cloud-2", "gw-2"])
    accepted = await settled(stack, at_least=before + LOAD)
    assert per_node(counted(stack)) == accepted
    assert counted(stack) == counted(stack, "cloud-2"), "both show one truth"


async def test_counts_are_exact_when_the_broker_loses_all(stack: Compose, identities: BrokerFiles) -> None:
    """R1: kill -9 of the broker under load, and then of the broker with its volume: what was accepted is counted
    exactly; only what a device had given to the broker and no agent had taken yet is gone with it.
    """
    await _load(stack, identities, ["broker", "wipe"])
    accepted = await settled(stack)
    assert per_node(counted(stack)) == accepted
    ledger = json.loads(stack.execute("cloud-1", "fieldpost", "ledger", "-o", "json"))
    assert {row["node"]: row["counted"] for row in ledger if row["node"] in NODES} == accepted


async def _load(stack: Compose, identities: BrokerFiles, victims: list[str]) -> None:
    """Publish LOAD messages to gw-1's rule, and kill the victims on the way."""
    restarts = _restarts(stack)
    payloads = [b'{"n": %d}' % n for n in range(LOAD)]
    async with Device(Door(stack, identities, "load")) as device:  # type: ignore[arg-type]
        load = asyncio.create_task(device.publish("devices/gw-1/telemetry", payloads, at_once=AT_ONCE, pause_s=PAUSE_S))
        for turn, victim in enumerate(victims, 1):
            mark = LOAD * turn / (len(victims) + 1)
            await eventually(lambda: device.confirmed >= mark, timeout=SETTLE_S, what=f"before {victim}")  # noqa: B023
            if victim == "wipe":
                await asyncio.to_thread(_wipe_broker, stack)
            else:
                await asyncio.to_thread(stack.kill, victim)
                back = restarts + turn
                await eventually(lambda: _restarts(stack) >= back, timeout=SETTLE_S, what=f"{victim} is back")  # noqa: B023
        await load


def _wipe_broker(stack: Compose) -> None:
    stack("kill", "broker")
    stack("run", "--rm", "--no-deps", "--entrypoint", "sh", "broker", "-c", "rm -f /mosquitto/data/*")
    stack("start", "broker")


def _restarts(stack: Compose) -> int:
    return sum(each["RestartCount"] for each in stack.inspected())


async def test_counts_are_intact_after_a_restart_of_everything(stack: Compose) -> None:
    """R1: docker compose restart of everything loses and doubles nothing, and makes no new secrets."""
    await settled(stack)
    before, digest = counted(stack), _digest(stack)
    stack("restart", "-t", "10", *(each for each in PROCESSES if each not in MACHINES))
    await eventually(lambda: _online(stack), timeout=SETTLE_S, interval=0.5, what="both nodes are online again")
    await settled(stack)
    assert counted(stack) == before
    stack("up", "-d", "--wait", "--no-build")
    assert _digest(stack) == digest
    await eventually(lambda: min(_grown(before, counted(stack))) > 0, timeout=60, interval=0.5, what="it goes on")


def _grown(before: dict[tuple[str, str], int], after: dict[tuple[str, str], int]) -> list[int]:
    return [after.get(key, 0) - count for key, count in before.items()]


def _online(stack: Compose) -> bool:
    try:
        rows = json.loads(stack.execute("cloud-1", "fieldpost", "get", "nodes", "-o", "json"))
    except AssertionError:
        return False
    return {row["node"]: row["state"] for row in rows} == dict.fromkeys(NODES, "online")


def _digest(stack: Compose) -> str:
    return stack.execute("broker", "sha256sum", "/mosquitto/config/passwd", "/mosquitto/config/server.pem")


def test_containers_may_do_little(stack: Compose) -> None:
    """R4: not root, a read-only root, no capability, no new privileges; only what prepares the volumes is root."""
    for each in stack.inspected():
        host, name = each["HostConfig"], each["Config"]["Labels"]["com.docker.compose.service"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert not host["Privileged"], name
        assert each["Config"]["User"] == ("0:0" if name == "volumes" else "10001:10001"), name
        assert (host["CapAdd"] or []) == (["CHOWN"] if name == "volumes" else []), name
        ports = [port for bound in (host["PortBindings"] or {}).values() for port in bound]
        assert all(port["HostIp"] == HOST for port in ports), name
    for service in ("cloud-1", "gw-1", "broker"):
        with pytest.raises(AssertionError, match="Read-only file system"):
            stack.execute(service, "touch", "/etc/x")
    assert _run("docker", "image", "inspect", "-f", "{{.Config.User}}", image_of("gw-1")).strip() == "10001:10001"


def test_the_image_runs_read_only_and_without_root(tmp_path: Path) -> None:
    """U7: the image alone needs neither root nor a writable root file system."""
    alone = ["docker", "run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none", image_of("gw-1")]
    assert _run(*alone, "version").startswith("fieldpost ")
    assert "edge:" in _run(*alone, "edge", "--node", "gw-7", "--print-config")


def test_commands_of_the_documentation_run(stack: Compose) -> None:
    """Every docker command of docs/containers.md works on the running stack, but those that start and end it."""
    ran = 0
    for line in commands(ROOT / "docs" / "containers.md"):
        words = shlex.split(line)
        if words[:2] == ["docker", "compose"] and words[2] not in ("build", "up", "down"):
            assert stack(*words[2:]) or "kill" in line, line
            ran += 1
        elif words[:2] == ["docker", "run"]:
            assert _run(*(image_of("gw-1") if word == "fieldpost:local" else word for word in words)), line
            ran += 1
    assert ran >= 6


def test_no_secret_is_anywhere_but_in_its_file(stack: Compose, identities: BrokerFiles, tmp_path: Path) -> None:
    """R4: passwords and keys stand in no log, no inspection, no layer of the image, no file of the repository."""
    secrets = _secrets(identities.directory)
    assert len(secrets) >= 20
    image = image_of("gw-1")
    _run("docker", "save", "-o", str(tmp_path / "image.tar"), image)
    _run("tar", "-C", str(tmp_path), "-xf", str(tmp_path / "image.tar"))
    layers = b"".join(
        _output("tar", "-xOf", str(file)) for file in tmp_path.rglob("*") if file.is_file() and _is_tar(file)
    )
    places = {
        "inspect": json.dumps(stack.inspected()).encode(),
        "logs": stack.logs().encode(),
        "history": _output("docker", "history", "--no-trunc", image),
        "layers": layers,
        "repository": b"".join((ROOT / name).read_bytes() for name in _tracked()),
    }
    assert b"class Controller" in places["layers"], "the layers were read"
    assert {place for place, text in places.items() for secret in secrets if secret in text} == set()


def _secrets(directory: Path) -> set[bytes]:
    """Every password and the body of every private key."""
    found: set[bytes] = set()
    for file in directory.rglob("*"):
        if file.name.endswith(("password", "key", "key.pem")) and file.is_file():
            lines = [line for line in file.read_bytes().splitlines() if not line.startswith(b"-----")]
            found.add(max(lines, key=len))
    assert all(len(secret) >= SECRET_CHARS_MIN for secret in found)
    return found


def _is_tar(file: Path) -> bool:
    return file.name != "image.tar" and subprocess.run(["tar", "-tf", str(file)], capture_output=True).returncode == 0


def _tracked() -> list[str]:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    return [name for name in _run("git", "-C", str(ROOT), "ls-files").splitlines() if (ROOT / name).is_file()]


def _run(*command: str) -> str:
    return _output(*command).decode()


def _output(*command: str) -> bytes:
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode()[-2000:]}"
    return done.stdout
