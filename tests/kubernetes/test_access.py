"""How an API server is found and signed in to: kubeconfig, service account, certificates, tokens (R2, R4)."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.clock import ManualClock, SystemClock
from common.errors import ConfigError, KubeError
from common.kube.access import TOKEN_S, Access, find_access, in_cluster, read_kubeconfig
from common.kube.client import KubeClient
from common.kube.resources import RULES
from tests.kubernetes.fakeapi import FakeApi
from tests.messaging.test_transport_security import make_authority, make_certificate


def kubeconfig(path: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None) -> str:
    """A kubeconfig file with one context."""
    whole = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "plant"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api.example:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user}],
    }  # fmt: skip
    file = path / "config"
    file.write_bytes(msgspec.yaml.encode(whole))
    return str(file)


def test_a_kubeconfig_with_texts_and_with_files(tmp_path: Path) -> None:
    """Certificates and tokens may stand in the file or be named by it, relative to it; texts win."""
    (tmp_path / "ca.pem").write_text("CA")
    inline = {"client-certificate-data": base64.b64encode(b"CERT").decode(), "client-key-data": "S0VZ"}
    found = read_kubeconfig(kubeconfig(tmp_path, inline, {"certificate-authority": "ca.pem"}))
    assert found == Access("https://api.example:6443", "plant", ca="CA", certificate="CERT", key="KEY")
    found = find_access(kubeconfig(tmp_path, {"tokenFile": "t", "token": "old"}), "here", {})
    assert (found.token_file, found.token) == (str(tmp_path / "t"), "")


@pytest.mark.parametrize(
    ("user", "context", "says"),
    [
        ({"exec": {"command": "login"}}, "", "signs in by exec, which is not done here: use a token"),
        ({"auth-provider": {"name": "x"}}, "", "signs in by auth-provider"),
        ({"client-key-data": "%"}, "", "client-key-data is not base64 of PEM text"),
        ({"client-certificate": "none.pem"}, "", "none.pem: cannot read it"),
        ({}, "there", "has no context 'there' in contexts; there are: here"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(tmp_path: Path, user: Any, context: str, says: str) -> None:
    """One line with the file and what to do."""
    with pytest.raises(ConfigError) as raised:
        read_kubeconfig(kubeconfig(tmp_path, user), context)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_plain_http_is_for_this_machine_only(tmp_path: Path) -> None:
    """kubectl proxy listens on loopback; a token that goes anywhere else in clear text is a mistake."""
    assert read_kubeconfig(kubeconfig(tmp_path, {}, {"server": "http://127.0.0.1:8001"})).server
    with pytest.raises(ConfigError, match="is plain HTTP"):
        read_kubeconfig(kubeconfig(tmp_path, {}, {"server": "http://api.example:8001"}))


def test_a_url_that_cannot_be_taken_apart_is_refused(tmp_path: Path) -> None:
    """One line, as for any other text that is no URL."""
    with pytest.raises(ConfigError, match="is no URL"):
        read_kubeconfig(kubeconfig(tmp_path, {}, {"server": "https://[::1"}))


def test_a_url_with_a_password_is_refused_and_not_shown(tmp_path: Path) -> None:
    """The server's URL stands in errors and logs (reliability R4)."""
    with pytest.raises(ConfigError, match="server of context 'here' holds a user or password") as raised:
        read_kubeconfig(kubeconfig(tmp_path, {}, {"server": "https://ada:lovelace@api.example:6443"}))
    assert "lovelace" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "{}", "current-context: x", "current-context: x\ncontexts: 3"])
def test_what_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    """Any other YAML, or none."""
    (tmp_path / "config").write_text(text)
    with pytest.raises(ConfigError):
        read_kubeconfig(str(tmp_path / "config"))


def test_a_pod_finds_its_server(tmp_path: Path) -> None:
    """Address from the environment (IPv6 in brackets), authority, namespace and token file from the account."""
    for name in ("token", "ca.crt", "namespace"):
        (tmp_path / name).write_text(name)
    found = in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, tmp_path)
    assert found == Access("https://[fd00::1]:6443", "namespace", ca="ca.crt", token_file=str(tmp_path / "token"))
    with pytest.raises(ConfigError, match="name a kubeconfig file"):
        in_cluster({}, tmp_path)
    with pytest.raises(ConfigError, match="no service account token"):
        in_cluster({"KUBERNETES_SERVICE_HOST": "h"}, tmp_path / "none")


def test_secrets_are_not_shown() -> None:
    """Neither repr nor str of an access tells a token or key."""
    access = Access("https://x", token="canary", key="canary", certificate="canary")
    assert "canary" not in f"{access!r} {access}"


async def test_tls_with_an_authority_and_a_client_certificate(tmp_path: Path) -> None:
    """The server is verified by the named authority alone, and gets the client's certificate."""
    authority = make_authority(tmp_path, "authority")
    server, key = make_certificate(authority, "server", "DNS:localhost,IP:127.0.0.1")
    client_certificate, client_key = make_certificate(authority, "client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority))
    context.load_cert_chain(server, key)
    context.verify_mode = ssl.CERT_REQUIRED
    async with FakeApi().running(context) as api:
        url = f"https://127.0.0.1:{api.port}"
        good = Access(
            url, ca=authority.read_text(), certificate=client_certificate.read_text(), key=client_key.read_text()
        )
        for access, works in (
            (good, True),
            (good._replace(ca="", verify=False), True),
            (good._replace(ca=""), False),
            (good._replace(certificate="", key=""), False),
        ):
            client = KubeClient(access, SystemClock(), timeout_s=2)
            if works:
                assert (await client.get(RULES.collection()))["items"] == []
            else:
                with pytest.raises(KubeError):
                    await client.get(RULES.collection())
            await client.close()


async def test_certificates_that_are_none_are_said() -> None:
    """The text of the error names the server, not the key."""
    client = KubeClient(Access("https://127.0.0.1:1", ca="rubbish"), SystemClock())
    with pytest.raises(KubeError, match=r"certificates for https://127.0.0.1:1 cannot be used"):
        await client.get("/")
    await client.close()


async def test_a_token_file_is_read_again(api: FakeApi, tmp_path: Path) -> None:
    """Every minute, and at once when the server refuses the one that was read: Kubernetes replaces it on the disk."""
    token, clock = tmp_path / "token", ManualClock()
    token.write_text("one\n")
    api.token = "one"
    client = KubeClient(Access(api.url, token_file=str(token)), clock, timeout_s=2)
    await client.get(RULES.collection())
    token.write_text("two")
    api.token = "two"
    await client.get(RULES.collection())
    assert len(api.calls) == 3
    token.write_text("three")
    clock.advance(TOKEN_S + 1)
    api.token = "three"
    await client.get(RULES.collection())
    assert len(api.calls) == 4
    token.unlink()
    clock.advance(TOKEN_S + 1)
    await client.get(RULES.collection())
    api.token = "four"
    with pytest.raises(KubeError) as raised:
        await client.get(RULES.collection())
    assert raised.value.code == 401
    assert not raised.value.permanent
    await client.close()
