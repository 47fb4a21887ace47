"""``fieldpost broker``: what it makes stays the same, is private, shows no secret, and gives the right rights (R4)."""

from __future__ import annotations

import hashlib
import re
import stat
from base64 import b64decode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from typer.testing import CliRunner

import fieldpost
from cloud.settings import Settings as CloudSettings
from common.brokerfiles.directory import CLIENT_DAYS, RENEW_DAYS, SERVER_DAYS, BrokerFiles, Layout
from common.brokerfiles.identities import of_controllers, of_node, of_other
from common.brokerfiles.passwords import ITERATIONS, emqx_hash, mosquitto_hash, new_password
from common.clock import ManualClock
from common.config import load
from common.errors import ConfigError
from edge.settings import Settings as EdgeSettings

DAY_S = 86_400


def made(directory: Path, *nodes: str, **layout: object) -> BrokerFiles:
    """Files for some nodes with a bus."""
    files = BrokerFiles(directory)
    identities = [each for node in nodes for each in of_node(node, ("devices/#",), ("fleet/{node}/#",))]
    files.init(Layout(**layout), identities)  # type: ignore[arg-type]
    return files


def contents(files: BrokerFiles) -> dict[str, bytes]:
    """All files but the revocation list, whose date is that of its writing."""
    return {
        str(file.relative_to(files.directory)): file.read_bytes()
        for file in files.directory.rglob("*") if file.is_file() and file.name != "crl.pem"
    }  # fmt: skip


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    """U7: init keeps all that is there, byte for byte, and adds what is new without touching the secrets of others."""
    first = contents(made(tmp_path, "gw-1"))
    assert contents(made(tmp_path, "gw-1")) == first
    more = contents(made(tmp_path, "gw-1", "gw-2"))
    mine = [name for name in first if name.startswith(("clients/", "authority/", "mosquitto/server"))]
    assert mine
    assert {name: more[name] for name in mine} == {name: first[name] for name in mine}
    assert set(more) - set(first) == {name.replace("gw-1", "gw-2") for name in first if "gw-1" in name}


def test_files_are_private(tmp_path: Path) -> None:
    """R4: files have mode 0600, directories 0700."""
    for file in made(tmp_path / "files", "gw-1").directory.rglob("*"):
        assert stat.S_IMODE(file.stat().st_mode) == (0o700 if file.is_dir() else 0o600), file


def test_no_command_takes_or_shows_a_secret(tmp_path: Path) -> None:
    """R4: whatever the commands print has none of the secrets that they made, and no option takes one."""
    commands = [
        ["init", "--node", "gw-1"], ["add-node", "gw-2"], ["users", "add", "press-1", "--write", "devices/press-1/#"],
        ["users", "ls"], ["users", "rotate", "gw-1"], ["acl"], ["acl", "--for", "nats"], ["revoke", "gw-2"],
    ]  # fmt: skip
    said = b""
    secrets: set[bytes] = set()
    for command in commands:
        done = CliRunner().invoke(fieldpost.app, ["broker", *command, "--dir", str(tmp_path)])
        assert done.exit_code == 0, done.output
        said += done.output.encode()
        for file in tmp_path.rglob("*"):
            if file.name.endswith(("password", ".key", "key.pem", "passwd")):
                secrets |= {line for line in file.read_bytes().splitlines() if not line.startswith(b"-----")}
    assert len(secrets) > 20
    assert [secret for secret in secrets if secret in said] == []
    assert not re.search(rb"--[a-z-]*(password|secret)", said)


def test_names_that_cannot_be(tmp_path: Path) -> None:
    """P3.2, R4: a slash or a wildcard in a name, and names that fieldpost gives itself, are refused."""
    for name in (
        "a/b",
        "a+b",
        "#",
        "+",
        "",
        "cloud",
        "cloud-1",
        "observer",
        "operator",
        "gw-1-bus",
        "health",
        "GW",
        "a\n",
    ):
        with pytest.raises(ConfigError):
            of_node(name)
    for name in ("cloud-1", "a/b", "observer", "x-bus"):
        with pytest.raises(ConfigError):
            of_other(name, (), ())
    for text in ("#", "+/x", "$SYS/#", "a/#/b", 'a/"b', "a/b\ntopic read #", " a"):
        with pytest.raises(ConfigError):
            of_other("press-1", (text,), ())
    with pytest.raises(ConfigError):
        of_controllers(0)


def test_rights_can_be_changed_and_secrets_stay(tmp_path: Path) -> None:
    """A node or user that exists gets the new topics and keeps its password; a name of another kind is refused."""
    files = made(tmp_path, "gw-1")
    password = (files.bundle("gw-1") / "bus-password").read_text()
    assert files.add_node("gw-1", ["machines/#"], []) == []
    acl = (files.directory / "mosquitto" / "acl").read_text()
    assert "user gw-1-bus\ntopic read machines/#\n" in acl
    assert (files.bundle("gw-1") / "bus-password").read_text() == password
    with pytest.raises(ConfigError, match="gw-1 exists, of kind node"):
        files.add_user("gw-1", [], ["a/b"])


def test_rotate_and_revoke(tmp_path: Path) -> None:
    """Rotating makes a new password and certificate and revokes the old one; revoking leaves no trace of rights."""
    files = made(tmp_path, "gw-1", "gw-2")
    before, serial = (files.bundle("gw-1") / "password").read_text(), _serial(files, "gw-1")
    files.rotate("gw-1")
    assert (files.bundle("gw-1") / "password").read_text() != before
    assert [each.serial for each in files.record().revoked] == [serial]
    assert _serial(files, "gw-1") != serial
    assert files.revoke("gw-2") == ["gw-2", "gw-2-bus"]
    for file in ("mosquitto/acl", "mosquitto/passwd", "emqx/acl.conf", "emqx/users.csv", "nats/users.conf"):
        assert "gw-2" not in (files.directory / file).read_text(), file
    with pytest.raises(ConfigError, match="there is no identity 'gw-2'; there are cloud-1"):
        files.revoke("gw-2")
    assert len(files.record().revoked) == 3


def _serial(files: BrokerFiles, name: str) -> str:
    return next(each.serial for each in files.record().identities if each.name == name)


def test_a_bundle_that_was_moved_away_is_not_made_again(tmp_path: Path) -> None:
    """A client's directory goes to the client; later changes do not leave a copy of its settings here."""
    files = made(tmp_path / "files", "gw-1")
    files.bundle("gw-1").rename(tmp_path / "gone")
    files.add_node("gw-2")
    assert not files.bundle("gw-1").exists()


def test_the_brokers_certificate_is_renewed(tmp_path: Path) -> None:
    """A broker's certificate is made again when it is about to end, or when the broker has other names; no sooner."""
    clock = ManualClock()
    files = BrokerFiles(tmp_path, clock)
    certificate = tmp_path / "mosquitto" / "server.pem"
    files.init(Layout(), [])
    first = certificate.read_bytes()
    clock.advance((SERVER_DAYS - RENEW_DAYS - 1) * DAY_S)
    files.init(Layout(), [])
    assert certificate.read_bytes() == first
    clock.advance(2 * DAY_S)
    files.init(Layout(), [])
    second = certificate.read_bytes()
    assert second != first
    files.init(Layout(hosts=("broker.example",)), [])
    assert certificate.read_bytes() != second


def test_settings_of_a_client_are_taken(tmp_path: Path) -> None:
    """The fieldpost.yaml of each client is what its process takes, with its own identity, bus and files."""
    files = made(tmp_path, "gw-1", hosts=("broker.example",), clients_at="/etc/fieldpost")
    edge = load(EdgeSettings, file=str(files.bundle("gw-1") / "fieldpost.yaml"), environ={}, overrides={})
    assert (edge.edge.node, edge.broker.username, edge.broker.url) == ("gw-1", "gw-1", "mqtts://broker.example:8883")
    assert edge.broker.password_file == "/etc/fieldpost/password"
    assert edge.edge.eventbus.broker is not None
    assert edge.edge.eventbus.broker.username == "gw-1-bus"
    cloud = load(CloudSettings, file=str(files.bundle("cloud-1") / "fieldpost.yaml"), environ={}, overrides={})
    assert (cloud.cloud.controller, cloud.broker.username) == ("cloud-1", "cloud-1")
    assert cloud.cloud.sharing.group == files.record().sharers != CloudSettings().cloud.sharing.group
    assert files.record().sharers not in (files.bundle("gw-1") / "fieldpost.yaml").read_text()


def test_passwords_are_hashed_as_the_brokers_do() -> None:
    """Mosquitto's $7$ is PBKDF2 with SHA-512 (that it is taken, the hostile-node table shows), EMQX's sha256 + salt."""
    password = new_password()
    kind, iterations, salt, digest = mosquitto_hash(password).split("$")[1:]
    assert (kind, int(iterations)) == ("7", ITERATIONS)
    assert b64decode(digest) == hashlib.pbkdf2_hmac("sha512", password.encode(), b64decode(salt), ITERATIONS, 64)
    digest, salt = emqx_hash(password)
    assert digest == hashlib.sha256(f"{password}{salt}".encode()).hexdigest()
    assert len({new_password() for _ in range(100)}) == 100


def test_the_same_rights_for_each_product(tmp_path: Path) -> None:
    """The ACLs of Mosquitto, EMQX and NATS say the same; EMQX denies the rest, NATS has subjects for filters."""
    files = made(tmp_path, "gw-1")
    acl = (files.directory / "mosquitto" / "acl").read_text()
    emqx = (files.directory / "emqx" / "acl.conf").read_text()
    nats = (files.directory / "nats" / "users.conf").read_text()
    for text in re.findall(r"^topic (?:read|write) (.+)$", acl, re.MULTILINE):
        assert f'"{text}"' in emqx
        assert f'"{text.replace("/", ".").replace("#", ">").replace("+", "*")}"' in nats
    assert emqx.endswith("{deny, all}.\n")
    users = set(re.findall(r'user, "([^"]+)"', emqx))
    assert users <= set(re.findall(r"^user (.+)$", acl, re.MULTILINE)) == set(re.findall(r'"CN=([^"]+)"', nats))


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    """No files, damaged files, and a place that cannot be written are one line each, with the file's name."""
    with pytest.raises(ConfigError, match="fieldpost broker init makes them"):
        BrokerFiles(tmp_path / "nothing").record()
    files = made(tmp_path / "files", "gw-1")
    (files.directory / "identities.json").write_text("{")
    with pytest.raises(ConfigError, match=r"identities\.json: is damaged"):
        files.add_node("gw-2")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        BrokerFiles(tmp_path / "file" / "below").init(Layout(), [])
    assert CLIENT_DAYS > RENEW_DAYS


@pytest.mark.parametrize(
    "layout",
    [
        {"hosts": ("bücher.example",)}, {"hosts": ("a b",)}, {"hosts": ("",)}, {"hosts": ("a" * 254,)},
        {"hosts": ("localhost\nallow_anonymous true",)}, {"bind": "::1 x"}, {"data_at": "/a\nb"}, {"root": "a/b"},
    ],
)  # fmt: skip
def test_what_no_file_can_hold_is_refused(tmp_path: Path, layout: dict[str, object]) -> None:
    """A name that no certificate can have, and text that would add lines to the broker's configuration: one line that
    says so, and nothing is made.
    """
    with pytest.raises(ConfigError):
        made(tmp_path / "files", **layout)
    assert not (tmp_path / "files").exists()


def test_addresses_and_names_are_hosts(tmp_path: Path) -> None:
    """Names with capitals, - and _, and addresses of both kinds."""
    made(tmp_path / "files", hosts=("Broker_1.example-net.org", "10.0.0.1", "fd00::1"), bind="::")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ca.key", "x", "is no private key"), ("ca.pem", "x", "is no certificate"),
        ("ca.key", "rsa", "another kind"),
    ],
)  # fmt: skip
def test_an_authority_that_cannot_sign_is_one_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    """A damaged key or certificate, or a key of another kind, is named with its file."""
    files = made(tmp_path / "files")
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key = rsa.generate_private_key(65537, 2048)
    raw = key.private_bytes(*pem) if content == "rsa" else content.encode()
    (files.directory / "authority" / name).write_bytes(raw)
    with pytest.raises(ConfigError, match=said) as caught:
        files.add_node("gw-2")
    assert name in str(caught.value)
