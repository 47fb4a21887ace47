"""``fieldpost doctor``: each check sees what is wrong, says what to do, and says nothing of what is well (U2)."""

from __future__ import annotations

import asyncio
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

import fieldpost
from common.certificates import earliest_end
from common.control import ControlServer, socket_path
from common.doctor import DAY_S, Finding, Level, Place, examine
from common.errors import ConfigError, ConnectError
from common.messaging.probing import Probed, probe
from common.settings import BrokerSettings
from common.version import VERSION
from tests.api.served import VIEWER, served
from tests.support.brokers import Broker
from tests.support.wait import eventually, free_port

NOW = 1_763_683_200.0
RUNS = {"controller": {"version": VERSION}, "link": {"connected": 1}}


def _seen(directory: Path, **known: Any) -> list[Finding]:
    return examine(Place(**{"data_dir": directory, "now": NOW, "cloud": RUNS, **known}))


def _one(findings: list[Finding], check: str) -> Finding:
    (found,) = (finding for finding in findings if finding.check == check and finding.level is not Level.ok)
    return found


@pytest.mark.parametrize(
    ("known", "check", "level", "what", "do"),
    [
        ({"cloud": None}, "processes", "fail", "neither a controller nor an agent", "start one"),
        ({"cloud": {**RUNS, "link": {"connected": 0}}}, "controller", "fail", "not connected", "broker"),
        ({"edge": {"link": {}}}, "agent", "fail", "not connected", "broker"),
        (
            {"server": "http://x", "errors": {"cloud": "no cloud controller answers"}},
            "controller",
            "fail",
            "answers",
            "--s",
        ),
        ({"errors": {"broker": "cannot reach mqtt://b:1"}}, "broker", "fail", "cannot reach", "start the broker"),
        ({"errors": {"broker": "b refuses doctor: not authorised"}}, "broker", "fail", "refuses", "broker.username"),
        ({"errors": {"broker": "CERTIFICATE_VERIFY_FAILED"}}, "broker", "fail", "VERIFY", "broker.tls.ca_file"),
        ({"broker": Probed("5", None)}, "shared", "warn", "not known", "doctor/#"),
        ({"broker": Probed("5", True, True), "broker_url": "mqtt://b:1"}, "acl", "fail", "any client", "broker init"),
        ({"ready": {"ready": False, "parts": {"store": "read-only"}}}, "readiness", "fail", "store: read-only", "log"),
        ({"date": -7200.0}, "clock", "fail", "the controller by -7200 s", "NTP"),
        ({"nodes": [{"node": "a", "clock_skew_s": 8.0}]}, "clock", "warn", "a by +8 s", "NTP"),
        ({"data_dir": Path("/nowhere")}, "disk", "fail", "No such file", "data_dir"),
        ({"files": {"broker.password_file": "/nowhere"}}, "secrets", "fail", "broker.password_file", "path"),
        ({"files": {"broker.tls.ca_file": "/nowhere"}}, "certificates", "fail", "broker.tls.ca_file", "path"),
        ({"cloud": {"controller": {"version": "0.0.9"}, "link": {"connected": 1}}}, "versions", "warn", "0.0.9", "one"),
        ({"nodes": [{"node": "a", "version": "0.0.8"}]}, "versions", "warn", "a 0.0.8", "controllers first"),
        ({"nodes": [{"node": "a", "state": "conflict"}]}, "nodes", "fail", "in conflict: a", "node replace"),
        (
            {"nodes": [{"node": "a", "epoch": "2-x", "status": {"epoch": "1-x"}}]},
            "nodes",
            "warn",
            "two spools: a",
            "two agents",
        ),
        ({"rules": [{"namespace": "d", "rule": "r", "ready": "False"}]}, "rules", "warn", "wanted: d/r", "describe"),
        ({"rules": [{"namespace": "d", "rule": "r", "degraded": "True"}]}, "rules", "warn", "failing", "describe"),
        ({"nodes": [{"node": f"n{i}", "state": "offline"} for i in range(9)]}, "nodes", "warn", "and 4 more", "logs"),
    ],
)
def test_what_is_wrong_is_seen(
    tmp_path: Path, known: dict[str, Any], check: str, level: str, what: str, do: str
) -> None:
    """Each trouble is one finding of its check, with what was seen and what to do; nothing else is blamed."""
    if "nodes" in known:
        known = {**known, "nodes": [{"version": VERSION, "state": "online", **row} for row in known["nodes"]]}
    findings = _seen(tmp_path, **known)
    found = _one(findings, check)
    assert found.level == level
    assert what in found.what
    assert do in found.do
    assert [finding for finding in findings if finding.level is Level.fail] == ([found] if level == "fail" else [])


def test_what_is_well_is_said(tmp_path: Path) -> None:
    """An installation without trouble has no warning, and each check says so."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    findings = _seen(
        tmp_path,
        broker=Probed("5", True),
        edge=RUNS,
        ready={"ready": True, "parts": {"store": "ok"}},
        nodes=[{"node": "a", "state": "online", "version": VERSION, "clock_skew_s": 0.1}],
        rules=[{"namespace": "default", "rule": "relay", "ready": "True", "degraded": "False"}],
        files={"broker.password_file": str(secret)},
    )
    assert {finding.level for finding in findings} == {Level.ok}
    assert {finding.check for finding in findings} == {
        "controller", "agent", "broker", "acl", "shared", "readiness", "clock", "disk", "secrets", "versions", "nodes",
        "rules",
    }  # fmt: skip
    assert not any(finding.do for finding in findings)
    secret.chmod(0o644)
    files = {"broker.password_file": str(secret)}
    assert _one(_seen(tmp_path, files=files), "secrets").do == f"chmod 600 {secret}"


def test_the_end_of_certificates_is_read(tmp_path: Path) -> None:
    """Of a file with several the first end counts; before it, near it and after it are ok, warn and fail."""
    file = tmp_path / "chain.pem"
    for days in (900, 10):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                   "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "one.pem"), "-days", str(days),
                   "-subj", "/CN=broker.example"]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        file.write_text((file.read_text() if file.exists() else "") + (tmp_path / "one.pem").read_text())
    end = earliest_end(file)
    words = subprocess.run(["openssl", "x509", "-in", str(tmp_path / "one.pem"), "-noout", "-enddate"],
                           capture_output=True, text=True, check=True).stdout  # fmt: skip
    said = datetime.strptime(words.strip().removeprefix("notAfter="), "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    assert end == said.timestamp()
    files = {"broker.tls.ca_file": str(file)}
    levels = [
        [found.level for found in _seen(tmp_path, now=end - left * DAY_S, files=files) if found.check == "certificates"]
        for left in (40, 9, -1)
    ]
    assert levels == [[Level.ok], [Level.warn], [Level.fail]]
    file.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        earliest_end(file)


async def test_brokers_are_told_apart(any_broker: Broker) -> None:
    """The protocol, and whether shared subscriptions deliver: the embedded broker grants them and gives nothing."""
    found = await probe(any_broker.settings(), "fieldpost", "doctor-1")
    mosquitto = "mosquitto" in type(any_broker).__name__.lower()
    assert found.version == (any_broker.settings().protocol if mosquitto else "3.1.1")
    assert found.shared is mosquitto
    assert found.open, "neither has an ACL"


async def test_a_broker_that_is_not_there_says_so() -> None:
    """Nobody listens: the error names the address."""
    port = free_port()
    with pytest.raises(ConnectError, match=f"cannot reach mqtt://127.0.0.1:{port}"):
        await probe(BrokerSettings(url=f"mqtt://127.0.0.1:{port}"), "fieldpost", "doctor-1")


async def test_the_broker_that_is_used_is_looked_at(tmp_path: Path) -> None:
    """Without --broker the one that the running controller says it uses is looked at, not the default of this host."""
    used = f"mqtt://127.0.0.1:{free_port()}"
    statistics = {"controller": {"broker": used}, "link": {"connected": 0}}
    server = ControlServer(socket_path(tmp_path, "cloud"), {"statistics": lambda args: _value(statistics)})
    await server.start()
    invoke = CliRunner(env={"FIELDPOST_CONFIG": ""}).invoke
    done = await asyncio.to_thread(invoke, fieldpost.app, ["doctor", "-o", "json", "--data-dir", str(tmp_path)])
    found = {row["check"]: row for row in msgspec.json.decode(done.stdout)}
    await server.stop()
    assert found["broker"]["level"] == "fail"
    assert used in found["broker"]["what"]


async def _value(value: Any) -> Any:
    return value


async def test_the_command_examines_near_and_far(tmp_path: Path) -> None:
    """On the host it asks socket and broker, elsewhere the API and its clock; exit code 1 when something fails."""

    async def run(*words: str) -> tuple[int, dict[str, Any]]:
        invoke = CliRunner(env={"FIELDPOST_CONFIG": ""}).invoke
        done = await asyncio.to_thread(invoke, fieldpost.app, ["doctor", "-o", "json", *words])
        return done.exit_code, {row["check"]: row for row in msgspec.json.decode(done.stdout)}

    async with served(tmp_path) as api:
        (tmp_path / "viewer").write_text(VIEWER)
        far = ("--server", api.url, "--token-file", str(tmp_path / "viewer"))
        code, found = await run(*far)
        assert code == 0
        assert {"readiness", "clock", "versions", "nodes"} <= set(found)
        assert {row["level"] for row in found.values()} == {"ok"}
        away = f"mqtt://127.0.0.1:{free_port()}"
        code, found = await run("--data-dir", str(tmp_path / "data"), "--broker", away)
        assert (code, found["broker"]["level"], found["controller"]["level"]) == (1, "fail", "ok")
        api.hub.set_available(False)
        await eventually(lambda: not api.controller.layer.link.connected)
        code, found = await run(*far)
        assert (code, found["readiness"]["level"]) == (1, "fail")
    assert (await run(*far))[1]["controller"]["level"] == "fail"
