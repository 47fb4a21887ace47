"""TLS, passwords, and the settings that can never work (reliability R4)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from common.messaging.base import Inbound, Subscription
from common.messaging.endpoint import Endpoint, parse_endpoints
from common.messaging.transport import MqttLink
from common.settings import BrokerSettings, TlsSettings
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually, free_port


def _openssl(*arguments: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_authority(directory: Path, name: str) -> Path:
    """Make an authority; return its certificate file."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate))  # fmt: skip
    return certificate


def make_certificate(authority: Path, name: str, alternative: str = "DNS:localhost") -> tuple[Path, Path]:
    """Make a certificate of the authority; return certificate and key file."""
    base = authority.parent / name
    certificate, key, request = base.with_suffix(".pem"), base.with_suffix(".key"), base.with_suffix(".csr")
    extensions = base.with_suffix(".ext")
    extensions.write_text(f"subjectAltName={alternative}\n")
    _openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request))  # fmt: skip
    _openssl("x509", "-req", "-in", str(request), "-CA", str(authority), "-CAkey", str(authority.with_suffix(".key")),
             "-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out", str(certificate))  # fmt: skip
    return certificate, key


@pytest.fixture
async def tls_broker(tmp_path: Path) -> AsyncIterator[tuple[int, Path]]:
    """Mosquitto with a TLS listener that asks for client certificates: its port and its authority."""
    authority = make_authority(tmp_path, "authority")
    certificate, key = make_certificate(authority, "server", "DNS:localhost,IP:127.0.0.1")
    port = free_port()
    broker = Mosquitto(tmp_path / "mosquitto", config_lines=[
        f"listener {port} 127.0.0.1", f"cafile {authority}", f"certfile {certificate}", f"keyfile {key}",
        "require_certificate true",
    ])  # fmt: skip
    async with broker:
        yield port, authority


def _settings(client: Any, port: int, host: str = "127.0.0.1", **tls: Any) -> BrokerSettings:
    return BrokerSettings(client=client, url=f"mqtts://{host}:{port}", reconnect_max_s=0.5, tls=TlsSettings(**tls))


async def _outcome(settings: BrokerSettings, caplog: pytest.LogCaptureFixture) -> str:
    """Return ``connected``, or what the log says of the failure."""
    caplog.clear()
    link = MqttLink(settings, "link-1")
    messages: list[Inbound] = []
    link.on_message = messages.append
    link.subscribe([Subscription("t/#")])
    await link.start()
    try:
        await eventually(lambda: link.connected or link.statistics()["connect_failures"])
        if link.connected:
            for _ in range(5):  # many records of TLS
                link.publish("t/1", b"x" * 100_000)
            await eventually(lambda: len(messages) == 5)
            assert {item.payload for item in messages} == {b"x" * 100_000}
            return "connected"
        return caplog.text
    finally:
        await link.stop()


async def test_tls_with_an_authority_and_a_client_certificate(
    client: str, tls_broker: tuple[int, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """With the right authority and a client certificate the link works, by address and by name."""
    port, authority = tls_broker
    certificate, key = make_certificate(authority, "edge-1")
    files = {"ca_file": str(authority), "cert_file": str(certificate), "key_file": str(key)}
    assert await _outcome(_settings(client, port, **files), caplog) == "connected"
    assert await _outcome(_settings(client, port, "localhost", **files), caplog) == "connected"
    assert await _outcome(_settings(client, port, insecure=True, **(files | {"ca_file": ""})), caplog) == "connected"


async def test_tls_refusals_name_the_cause(
    client: str, tls_broker: tuple[int, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A foreign authority and a missing client certificate do not connect, and the error says why."""
    port, authority = tls_broker
    foreign = make_authority(tmp_path, "foreign")
    assert "certificate verify failed" in await _outcome(_settings(client, port, ca_file=str(foreign)), caplog)
    assert "ertificate" in await _outcome(_settings(client, port, ca_file=str(authority)), caplog)


async def test_a_certificate_for_another_host_is_refused(
    client: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The certificate's names must hold the host of the URL."""
    authority = make_authority(tmp_path, "authority")
    certificate, key = make_certificate(authority, "server", "DNS:broker.example")
    port = free_port()
    broker = Mosquitto(tmp_path / "mosquitto", config_lines=[
        f"listener {port} 127.0.0.1", f"certfile {certificate}", f"keyfile {key}",
    ])  # fmt: skip
    async with broker:
        assert "mismatch" in await _outcome(_settings(client, port, ca_file=str(authority)), caplog)


async def test_insecure_is_for_loopback_only(tmp_path: Path) -> None:
    """Not verifying the broker is refused at the start for every host that is not loopback."""
    for host in ("broker.example", "192.0.2.1", "[2001:db8::1]"):
        link = MqttLink(BrokerSettings(url=f"mqtts://{host}", tls=TlsSettings(insecure=True)), "link-1")
        with pytest.raises(ConfigError, match="loopback only"):
            await link.start()


async def test_missing_files_are_config_errors(tmp_path: Path) -> None:
    """A file that is not there or is not a certificate is said at the start, by name."""
    nothing = str(tmp_path / "nothing.pem")
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    for settings in (
        BrokerSettings(password_file=nothing),
        BrokerSettings(url="mqtts://127.0.0.1", tls=TlsSettings(ca_file=nothing)),
        BrokerSettings(url="mqtts://127.0.0.1", tls=TlsSettings(ca_file=str(broken))),
        BrokerSettings(url="mqtts://127.0.0.1", tls=TlsSettings(cert_file=nothing)),
    ):
        with pytest.raises(ConfigError, match=r"nothing\.pem|broken\.pem"):
            await MqttLink(settings, "link-1").start()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:1883",
        "http://h",
        "mqtt://",
        "mqtt://h:0x",
        "mqtt://h:99999",
        "mqtt://h/path",
        "mqtt://h?q",
        "mqtt://[",
        "mqtt://h:0",
    ],
)
def test_urls_that_make_no_sense(url: str) -> None:
    """A URL that is no broker's address is a ConfigError."""
    with pytest.raises(ConfigError):
        parse_endpoints(url)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    """Secrets do not belong in URLs, which are logged."""
    with pytest.raises(ConfigError) as caught:
        parse_endpoints("mqtt://user:canary@host")
    assert "canary" not in str(caught.value)


def test_urls() -> None:
    """Schemes, default ports, IPv6, and lists."""
    assert parse_endpoints("mqtt://h, mqtts://h:9000/,mqtts://[::1]") == (
        Endpoint("h", 1883, False), Endpoint("h", 9000, True), Endpoint("::1", 8883, True),
    )  # fmt: skip
    assert str(Endpoint("::1", 8883, True)) == "mqtts://[::1]:8883"


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_replaced_password_file_heals(
    client: Any, tmp_path: Path, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong password is logged once and tried again; when the file is replaced the link comes up by itself."""
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed: apt-get install mosquitto")
    users, secret = tmp_path / "users", tmp_path / "password"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(users), "edge-1", "right-canary"], check=True)
    secret.write_text("wrong-canary\n")
    broker = Mosquitto(tmp_path / "mosquitto", config_lines=[f"password_file {users}"])
    settings = broker.settings(
        client=client, protocol=protocol, username="edge-1", password_file=str(secret), reconnect_max_s=0.2
    )
    link = MqttLink(settings, "edge-1")
    async with broker:
        try:
            await link.start()
            await eventually(lambda: link.statistics()["connect_failures"] >= 3)
            assert caplog.text.count("refuses edge-1: ") == 1
            secret.unlink()
            await eventually(lambda: "password_file cannot be read" in caplog.text)
            secret.write_text("right-canary\n")
            await eventually(lambda: link.connected)
            assert "canary" not in caplog.text
            assert link.statistics()["restarts"] == 0
        finally:
            await link.stop()
