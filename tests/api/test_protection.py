"""Who may ask, how much, and how slowly: tokens, bounds and what a hostile client can do (reliability R3, R4)."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cloud.api.bounds import KEYS_MAX, Rate
from cloud.api.server import protect
from cloud.api.tokens import Tokens, own_token_file, parse_tokens
from cloud.audit import LOCAL, Audit
from cloud.settings import ApiSettings
from cloud.stores.auditing import audit_rows
from common.clock import ManualClock
from common.control import call
from common.errors import ConfigError
from common.messaging.memory import MemoryHub
from tests.api.served import OPERATOR, VIEWER, raw, served
from tests.cloud.node import running
from tests.cloud.samples import open_store
from tests.support.wait import eventually

HEAD = f"Host: x\r\nAuthorization: Bearer {OPERATOR}\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no token"),
        ("# only a comment\n", "holds no token"),
        ("ada operator\n", ":1: expected NAME ROLE TOKEN"),
        ("\nada root aaaaaaaaaaaaaaaaaaaa\n", ":2: the role is viewer or operator"),
        ("ada viewer short\n", ":1: a token has at least 16 characters"),
        ("ada viewer sha256:12\n", ":1: sha256: is followed by 64"),
        ("ada viewer aaaaaaaaaaaaaaaaaaaa\nada viewer bbbbbbbbbbbbbbbbbbbb\n", ":2: the name 'ada' stands twice"),
    ],
)
def test_a_wrong_token_file_says_where(text: str, said: str) -> None:
    """Each fault is one line with file and line, and never shows a token."""
    with pytest.raises(ConfigError) as caught:
        parse_tokens(text, "tokens")
    assert said in str(caught.value)
    assert "aaaa" not in str(caught.value)


def test_tokens_are_read_anew_and_hashed_ones_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A token that is taken out of the file ends within a second, a new one begins; a file that becomes wrong changes
    nothing, and the log says so.
    """
    clock, file = ManualClock(), tmp_path / "tokens"
    file.write_text(f"ada operator sha256:{sha256(OPERATOR.encode()).hexdigest()}\n")
    tokens = Tokens(file, clock)
    tokens.load()
    found = tokens.caller(f"bearer {OPERATOR}")
    assert found is not None
    assert (found.name, found.role) == ("ada", "operator")
    for header in ("", OPERATOR, f"Basic {OPERATOR}", "Bearer ", "Bearer \udcff"):
        assert tokens.caller(header) is None
    file.write_text(f"grace viewer {VIEWER}\n")
    clock.advance(2)
    assert tokens.caller(f"Bearer {OPERATOR}") is None
    assert tokens.caller(f"Bearer {VIEWER}") is not None
    file.write_text("grace\n")
    clock.advance(2)
    assert tokens.caller(f"Bearer {VIEWER}") is not None
    assert tokens.reload_failures == 1
    assert "stay valid" in caplog.text
    assert VIEWER not in caplog.text


def test_a_token_may_hold_any_character() -> None:
    """A comment begins at the beginning of a line or after a blank: a # inside does not cut a token short."""
    token = "0123456789abcdef#the-rest"
    (found,) = parse_tokens(f"# of the plant\nada viewer {token}  # hers\n", "tokens")
    assert found.digest == sha256(token.encode()).digest()


def test_a_token_file_that_was_begun_is_made_anew(tmp_path: Path) -> None:
    """A controller that was killed while it made its token starts again."""
    (tmp_path / "api.token").touch()
    (token,) = parse_tokens(own_token_file(tmp_path).read_text(), "tokens")
    assert token.name == "local"


async def test_without_a_token_file_only_the_owner_gets_in(tmp_path: Path) -> None:
    """The controller makes one token in its data directory, mode 0600, keeps it, and asks everybody for it."""
    seen = set()
    for _ in range(2):
        async with served(tmp_path, token_file="") as api:
            file = tmp_path / "data" / "api.token"
            token = file.read_text().strip()
            seen.add(token)
            assert file.stat().st_mode & 0o777 == 0o600
            assert (await api.ask("GET", "/rules", token="")).status == 401
            assert (await api.ask("GET", "/audit", token=token)).status == 200
    assert len(seen) == 1
    assert len(token) >= 32
    with pytest.raises(ConfigError, match="cannot write"):
        own_token_file(tmp_path / "missing")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": "0.0.0.0"}, "cloud.api.certificate_file"),
        ({"host": "0.0.0.0", "certificate_file": "cert.pem"}, "cloud.api.token_file"),
        ({"host": "::", "token_file": "tokens"}, "cloud.api.certificate_file"),
        ({"host": "console.example", "token_file": "tokens"}, "is not loopback"),
        ({"certificate_file": "/nowhere/cert.pem"}, "/nowhere/cert.pem"),
    ],
)
def test_nothing_listens_beyond_loopback_unprotected(settings: dict[str, Any], said: str) -> None:
    """An address that others can reach needs a certificate and tokens; the error names what is missing (R4)."""
    with pytest.raises(ConfigError, match=said):
        protect(ApiSettings(**settings))


async def test_an_address_that_is_taken_is_one_clear_error(tmp_path: Path) -> None:
    """The controller does not start, says which port, and leaves nothing running."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with running(tmp_path, MemoryHub(), api=ApiSettings(enabled=True, port=port)):
                pass
    assert not (tmp_path / "data" / "cloud.sock").exists()


async def test_tls_is_served(tmp_path: Path) -> None:
    """With a certificate the API speaks TLS 1.2 or newer only, and says that browsers should stay with it."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost",
               "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    async with served(tmp_path, certificate_file=str(certificate), key_file=str(key), connections_max=3) as api:
        context = ssl.create_default_context(cafile=str(certificate))
        api.url = api.url.replace("http:", "https:")
        answer = await api.ask("GET", "/rules", ssl=context)
        assert answer.status == 200
        assert "max-age" in answer.headers["strict-transport-security"]
        assert b"HTTP/1.1 200" not in await raw(api.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await api.session.close()
        silent = [await asyncio.open_connection("127.0.0.1", api.port) for _ in range(4)]
        await eventually(
            lambda: api.counts()["connections_refused"] == 1
        )  # the others, of whom TLS heard nothing, stay
        for _, writer in silent:
            writer.close()


async def test_a_body_is_bounded(tmp_path: Path) -> None:
    """One byte too much is 413, with its length given or in chunks; nothing was changed."""
    async with served(tmp_path, body_bytes_max=1024) as api:
        head = f"POST /api/v1/dlq/drop HTTP/1.1\r\n{HEAD}Connection: close\r\n"
        fits = b'{"node":"' + b"a" * (1024 - 11) + b'"}'
        over = b'{"node":"' + b"a" * (1025 - 11) + b'"}'
        for body, status in ((fits, b"200"), (over, b"413")):
            whole = await raw(api.port, head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:500], body[500:]))
            parts = await raw(api.port, head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
            assert whole.split()[1] == parts.split()[1] == status, whole
        assert api.counts()["body_too_large"] == 2


async def test_slow_clients_lose_their_connection(tmp_path: Path) -> None:
    """A head that does not come ends the connection, a body that does not come is 408; meanwhile others are served."""
    async with served(tmp_path, head_s_max=0.2, request_s_max=0.4) as api:
        head = f"POST /api/v1/dlq/drop HTTP/1.1\r\n{HEAD}Content-Length: 10\r\nConnection: close\r\n\r\n"
        half_head = asyncio.create_task(raw(api.port, b"GET /healthz HTTP/1.1\r\nHo"))
        nothing = asyncio.create_task(raw(api.port, b""))
        half_body = asyncio.create_task(raw(api.port, head.encode() + b'{"a'))
        assert (await api.ask("GET", "//healthz", token="")).status == 200
        assert await half_head == await nothing == b""
        assert (await half_body).split()[1] == b"408"
        assert api.counts()["connections_slow"] == 2
        assert api.counts()["running"] == 0


async def test_an_operation_that_hangs_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After request_s_max the answer is 504; requests above requests_max meanwhile are 503 with Retry-After."""
    async with served(tmp_path, request_s_max=0.3, requests_max=2) as api:
        release = asyncio.Event()

        async def hang() -> None:
            await release.wait()

        monkeypatch.setattr(api.controller.sessions, "nodes", hang)
        asked = [asyncio.create_task(api.ask("GET", "/nodes")) for _ in range(2)]
        await eventually(lambda: api.counts()["running"] == 2)
        refused = await api.ask("GET", "/rules")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert [(await task).status for task in asked] == [504, 504]
        assert (await api.ask("GET", "/rules")).status == 200
        assert (api.counts()["deadlines"], api.counts()["overloaded"]) == (2, 1)


async def test_a_fault_of_ours_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An operation with a fault is 500 without its text; the log has it."""

    async def faulty() -> None:
        raise RuntimeError("secret of the inside")

    async with served(tmp_path) as api:
        monkeypatch.setattr(api.controller.sessions, "nodes", faulty)
        answer = await api.ask("GET", "/nodes")
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert b"Traceback" not in answer.body
    assert "secret of the inside" in caplog.text


async def test_callers_and_connections_are_bounded(tmp_path: Path) -> None:
    """Wrong tokens from one address, requests of one token in a second, and connections at a time have a bound; what is
    above it is refused and counted, and who has a right token goes on.
    """
    async with served(tmp_path, failures_per_s_max=2, requests_per_s_max=3, connections_max=3) as api:
        wrong = [(await api.ask("GET", "/rules", token="wrong-token-of-somebody")).status for _ in range(9)]
        assert set(wrong) == {401, 429}
        assert (await api.ask("GET", "/rules")).status == 200
        many = [(await api.ask("GET", "/rules", token=VIEWER)).status for _ in range(9)]
        assert set(many) == {200, 429}
        open_ones = [await asyncio.open_connection("127.0.0.1", api.port) for _ in range(4)]
        await eventually(lambda: api.counts()["connections_refused"] >= 1)
        for _, writer in open_ones:
            writer.close()
        await eventually(lambda: api.counts()["connections"] <= 1)
        assert (await api.ask("GET", "//healthz", token="")).status == 200


def test_a_crowd_of_addresses_holds_no_memory() -> None:
    """A rate remembers a bounded number of keys; above it, all others share one count, and the next second is new."""
    clock = ManualClock()
    rate = Rate(2, clock)
    for number in range(KEYS_MAX + 5):
        rate.add(str(number))
    assert rate.full("another one")
    assert not rate.full("1")
    clock.advance(1)
    assert not rate.full("another one")


async def test_a_reader_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    """An answer larger than what the network holds, and not read, ends at the deadline: its place is free again."""
    async with served(tmp_path, request_s_max=0.5) as api:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", api.port))
            request = f"GET /api/v1/openapi.json HTTP/1.1\r\n{HEAD}\r\n".encode()
            await loop.sock_sendall(slow, request * 200)
            await eventually(lambda: api.counts()["slow_readers"] or api.counts()["connections_slow"])
            await eventually(lambda: api.counts()["running"] == 0)


async def test_a_change_that_is_broken_off_is_noted_as_such(tmp_path: Path) -> None:
    """Whoever reads the audit log is not told that nothing was done: a deadline does not undo what the store began."""
    begun = asyncio.Event()

    async def change() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with open_store(tmp_path) as store:
        audit = Audit(store, ManualClock(), "cloud-1", 10)
        task = asyncio.create_task(audit.change(LOCAL, "apply", {}, change))
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (row,) = await store.read(lambda conn: audit_rows(conn, 10, None, "", ""))
        assert (row.outcome, row.detail) == ("failed", "it was broken off while it ran, and may have been done")


async def test_changes_are_in_the_audit_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who, in which role, from where, what and what became of it: in the log and in a bounded table, for changes over
    the API and over the control socket; reading leaves no trace.
    """
    caplog.set_level(logging.INFO)
    async with served(tmp_path, audit_max=3) as api:
        await api.get("/rules")
        await api.ask("POST", "/dlq/drop", json={"ids": [7]})
        await api.ask("POST", "/nodes/nobody/replace", token=VIEWER)
        await call(tmp_path / "data" / "cloud.sock", "dlq.drop", ids=[8])
        rows = (await api.get("/audit"))["items"]
        assert [(row["who"], row["remote"], row["operation"], row["outcome"]) for row in rows] == [
            ("local", "control socket", "dlq.drop", "done"),
            ("grace", "127.0.0.1", "node.replace", "refused"),
            ("ada", "127.0.0.1", "dlq.drop", "done"),
        ]
        assert rows[2]["arguments"] == '{"ids":[7]}'
        assert 'audit: ada (operator, 127.0.0.1) dlq.drop {"ids":[7]}: done' in caplog.text
        for number in range(9, 14):
            await api.ask("POST", "/dlq/drop", json={"ids": [number]})
        assert len((await api.get("/audit"))["items"]) == 3
        assert [row["who"] for row in (await api.get("/audit?who=local"))["items"]] == []
    assert OPERATOR not in caplog.text
