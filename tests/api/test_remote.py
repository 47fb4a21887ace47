"""The command line through --server: the same as through the control socket, and errors of one line (experience U2)."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

import fieldpost
from common.api import ROUTES, Kind, path_names, request_of, route_of
from common.cli.rates import rates
from common.cli.remote import Server
from common.errors import ControlError
from tests.api.served import OPERATOR, VIEWER, Served, served
from tests.cloud.rulesnode import endpoint, rule
from tests.docs_support.blocks import ROOT
from tests.support.brokers import Embedded
from tests.support.client import Client
from tests.support.wait import eventually, free_port

FINE, FAILED, WRONG_USE = 0, 1, 2
ASKING = (
    "get nodes", "get rules", "get rules --per-node -o yaml", "get results --limit 3", "get errors",
    "get results -o json --status FAIL", "get losses", "get nodes -o json", "dlq ls", "dlq show 1", "ledger",
)  # fmt: skip


async def _fieldpost(*words: str, **env: str) -> Result:
    """Run the command line in a thread, as a process of its own would."""
    runner = CliRunner(env={"FIELDPOST_CONFIG": "", **env})
    return await asyncio.to_thread(runner.invoke, fieldpost.app, list(words))


@contextlib.asynccontextmanager
async def _full(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as api:
        await api.results(1, 4)
        await api.results(5, 2, fail=True)
        api.node.raw("fieldpost/up/edge-1/a:b/update/default/rulestatus/x", b"rubbish")
        await eventually(lambda: api.controller.statistics()["refusals"]["letters"] == 1)
        (tmp_path / "operator").write_text(OPERATOR + "\n")
        (tmp_path / "viewer").write_text(VIEWER)
        yield api


async def test_answers_are_the_same_as_through_the_control_socket(tmp_path: Path) -> None:
    """Every command that reads prints the same with --server, with the variables, and with --data-dir."""
    async with _full(tmp_path) as api:
        data, token = str(tmp_path / "data"), str(tmp_path / "operator")
        for line in ASKING:
            near = await _fieldpost(*line.split(), "--data-dir", data)
            far = await _fieldpost(*line.split(), "--server", api.url, "--token-file", token)
            named = await _fieldpost(*line.split(), FIELDPOST_SERVER=api.url + "/", FIELDPOST_TOKEN_FILE=token)
            assert (far.exit_code, far.output) == (near.exit_code, near.output), line
            assert (named.exit_code, named.output) == (near.exit_code, near.output), line
            assert near.exit_code == FINE, near.output
        flag = await _fieldpost("get", "nodes", "--data-dir", data, FIELDPOST_SERVER="http://127.0.0.1:1")
        assert flag.exit_code == FINE


async def test_changes_go_through_too(tmp_path: Path) -> None:
    """An operator drops letters from afar and is in the audit log; a viewer is told what is missing, in one line."""
    async with _full(tmp_path) as api:
        viewer = ("--server", api.url, "--token-file", str(tmp_path / "viewer"))
        refused = await _fieldpost("dlq", "drop", "1", *viewer)
        assert isinstance(refused.exception, ControlError)
        assert str(refused.exception) == (
            "dlq.drop needs the role operator; grace is a viewer: "
            f"the token in {tmp_path / 'viewer'} is a viewer's, use an operator's"
        )
        operator = ("--server", api.url, "--token-file", str(tmp_path / "operator"))
        assert (await _fieldpost("dlq", "drop", "--all", *operator)).output == "1 letter dropped\n"
        assert (await _fieldpost("dlq", "ls", *operator)).output == "nothing yet\n"
        audit = await _fieldpost("get", "audit", "--who", "ada", *operator)
        assert "dlq.drop" in audit.output
        edge = await _fieldpost("dlq", "ls", "--side", "edge", *operator)
        assert (edge.exit_code, "on its own host" in edge.output) == (WRONG_USE, True)


async def test_findings_are_the_same_from_afar(tmp_path: Path) -> None:
    """apply and check with --server print each finding on a line of its own and end with 1; an endpoint in use is 1."""
    async with _full(tmp_path) as api:
        near, far = (
            ("--data-dir", str(tmp_path / "data")),
            ("--server", api.url, "--token-file", str(tmp_path / "operator")),
        )
        good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
        good.write_text(endpoint() + rule())
        bad.write_text(rule("one", target="buss") + rule("two", target="buss"))
        assert "created" in (await _fieldpost("apply", "-f", str(good), *far)).output
        for where in (near, far):
            done = await _fieldpost("apply", "-f", str(bad), *where)
            assert (done.exit_code, len(done.output.splitlines())) == (FAILED, 2), done.output
            assert all(line.startswith(f"{bad}:") for line in done.output.splitlines())
        assert (await _fieldpost("check", "-f", str(bad), *far)).output == done.output
        (tmp_path / "relay.yaml").write_text(rule("three"))  # its endpoint is in the cloud only
        alone, beside = [await _fieldpost("check", "-f", str(tmp_path / "relay.yaml"), *where) for where in ((), far)]
        assert (alone.exit_code, beside.exit_code) == (FAILED, FINE)
        used = await _fieldpost("delete", "endpoint", "bus", *far)
        assert isinstance(used.exception, ControlError)
        assert used.exception.kind == "conflict"


async def test_a_watch_goes_on_over_a_break(tmp_path: Path) -> None:
    """Rows of a watch come once each and in order, though the connection is cut off between them."""
    async with served(tmp_path) as api:
        (tmp_path / "viewer").write_text(VIEWER)
        rows = Server(api.url, str(tmp_path / "viewer")).stream("watch.results", {"rule": "overheat"})
        first = asyncio.create_task(asyncio.to_thread(next, rows))
        await eventually(lambda: api.controller._operations._watchers)
        await api.results(1, 1)
        seen = [await first]
        assert api.controller.api is not None
        for transport in list(api.controller.api._connections.open.values()):
            transport.abort()
        await api.results(2, 2)
        seen += [await asyncio.to_thread(next, rows) for _ in range(2)]
        assert [row["source_id"] for row in seen] == ["m1", "m2", "m3"]
        await asyncio.to_thread(rows.close)  # type: ignore[attr-defined]


async def test_more_rows_than_a_page_come_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are read until the limit or the end."""
    monkeypatch.setattr("common.cli.remote.PAGE_ROWS_MAX", 2)
    async with _full(tmp_path) as api:
        server = Server(api.url, str(tmp_path / "viewer"))
        for limit, expected in ((5, 5), (100, 6)):
            found = await asyncio.to_thread(server.call, "get.results", {"limit": limit})
            assert len({row["id"] for row in found}) == expected


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host", "expected http://HOST:PORT"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://host/path", "expected http://HOST:PORT"),
        ("http://a:b@host", "holds a user or password"),
        ("http://host:99999", "Port out of range"),
        ("http://controller.example:9070", "never sent without TLS"),
        ("http://127.0.0.1:1", "no cloud controller answers at http"),  # nothing listens there
    ],
)
def test_a_server_that_cannot_be_asked_is_one_line(url: str, said: str, tmp_path: Path) -> None:
    """Wrong URLs, a token that would go in the clear, and nobody there are ControlErrors that say what is wrong."""
    (tmp_path / "token").write_text(VIEWER)
    with pytest.raises(ControlError, match=said):
        Server(url, str(tmp_path / "token")).call("get.nodes", {})


async def test_other_servers_and_wrong_tokens_are_told_apart(tmp_path: Path) -> None:
    """A token that is wrong or cannot be read, a server that is none of ours, and TLS where there is none."""
    async with served(tmp_path) as api:
        (tmp_path / "wrong").write_text("wrong-token-of-somebody")
        for token, said in (("wrong", "no valid bearer token"), ("missing", "No such file"), ("tokens", "one token")):
            with pytest.raises(ControlError, match=said):
                await asyncio.to_thread(Server(api.url, str(tmp_path / token)).call, "get.nodes", {})
        with pytest.raises(ControlError, match="no TLS there"):
            secure = Server(api.url.replace("http", "https"))
            await asyncio.to_thread(secure.call, "get.nodes", {})
        with pytest.raises(ControlError, match="is not part of the API"):
            Server(api.url).call("get.dead_letters", {})

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1") as other:
        url = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"
        with pytest.raises(ControlError, match="answers 404: is it a fieldpost controller"):
            await asyncio.to_thread(Server(url).call, "get.nodes", {})


def test_the_command_ends_with_one_line_and_exit_1() -> None:
    """As a process: no traceback, one line on standard error, exit code 1."""
    command = [sys.executable, "fieldpost.py", "get", "rules", "--server", f"http://127.0.0.1:{free_port()}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr.startswith("fieldpost: no cloud controller answers")
    assert done.stderr.count("\n") == 1


def test_requests_are_made_by_the_table() -> None:
    """Arguments of the path are encoded, empty ones left out, those of POST are in the body; all rows differ."""
    show, rules, replace = route_of("dlq.show"), route_of("get.rules"), route_of("node.replace")
    assert show is not None
    assert rules is not None
    assert replace is not None
    assert request_of(show, {"id": 7}) == ("GET", "/api/v1/dlq/7", b"")
    asked = request_of(rules, {"rule": "a/b c", "namespace": "", "per_node": True})
    assert asked == ("GET", "/api/v1/rules?rule=a%2Fb+c&per_node=true", b"")
    assert request_of(replace, {"node": "a/b"}) == ("POST", "/api/v1/nodes/a%2Fb/replace", b"{}")
    with pytest.raises(KeyError):
        request_of(show, {})
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    assert all(route.kind is Kind.value or route.method == "GET" for route in ROUTES)
    assert all(name.isidentifier() for route in ROUTES for name in path_names(route))


def test_rates_are_differences_of_counts() -> None:
    """Executions a second and their mean duration between two readings, the busiest first; new rules begin at zero."""

    def row(rule: str, success: int, fail: int, duration_sum: int, uid: str = "") -> dict[str, Any]:
        counts = {"success": success, "fail": fail, "duration_sum": duration_sum}
        return {"namespace": "default", "rule": rule, "uid": uid, **counts}

    before = [row("a", 10, 0, 1000), row("gone", 1, 1, 1), row("b", 5, 5, 500), row("again", 9, 0, 9, "old")]
    now = [row("a", 14, 0, 9000), row("b", 5, 25, 40_500), row("idle", 0, 0, 0), row("again", 2, 0, 2000, "new")]
    found = rates(before, now, 2.0)
    assert [(row["rule"], row["success_per_s"], row["fail_per_s"], row["mean_ms"]) for row in found] == [
        ("b", 0.0, 10.0, 2.0), ("a", 2.0, 0.0, 2.0), ("again", 1.0, 0.0, 1.0), ("idle", 0.0, 0.0, None),
    ]  # fmt: skip


async def test_a_message_by_hand_arrives(embedded: Embedded, tmp_path: Path) -> None:
    """``fieldpost send`` ends when the broker has the message, from an argument or a file; a missing file is 2."""
    (tmp_path / "payload").write_bytes(b"\x00\xff")
    async with Client(int(embedded.url.rpartition(":")[2]), "listener") as client:
        await client.subscribe("devices/#")
        for payload in ("hot", f"@{tmp_path / 'payload'}"):
            done = await _fieldpost("send", "devices/d1/telemetry", payload, "--broker", embedded.url)
            assert done.output == "devices/d1/telemetry: the broker has it\n"
        await eventually(lambda: [payload for _, payload, _ in client.messages] == [b"hot", b"\x00\xff"])
    missing = await _fieldpost("send", "a", "@/nowhere", "--broker", embedded.url)
    assert missing.exit_code == WRONG_USE


async def test_top_shows_one_reading_as_json(tmp_path: Path) -> None:
    """With -o json it reads twice and ends."""
    async with served(tmp_path) as api:
        await api.results(1, 2)
        done = await _fieldpost("top", "--every", "0.1", "-o", "json", "--data-dir", str(tmp_path / "data"))
        (row,) = msgspec.json.decode(done.stdout)
        assert (row["rule"], row["success"], row["success_per_s"]) == ("overheat", 2, 0)
