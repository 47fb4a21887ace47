"""Chains on the hook points of the HTTP servers of a running agent: pre_req, main, post_resp (flow F3, F6)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from common.control import call, socket_path
from common.errors import ControlError
from tests.endpoints.parts import Parts, endpoint, parts, rule
from tests.support.brokers import Mosquitto

APP = "http://cloud.example/in"


def manifests(port: int) -> str:
    """Two rules from rest (in, other), one from servicebus (app), all to the target server."""
    to = "{{resource: 'http://127.0.0.1:{}/{}', headers: 'x-user, x-mine'}}"
    return (
        endpoint("web", "rest")
        + endpoint("apps", "servicebus", "{service_port: 9}")
        + rule("in", "web", "{path: '/in/{line}', method: 'POST,PUT'}", "web", to.format(port, "in"))
        + rule("other", "web", "{path: /other}", "web", to.format(port, "other"))
        + rule("app", "apps", f"{{target_url: '{APP}'}}", "web", to.format(port, "app"))
    )


def layer(**points: str) -> str:
    """A layer with one chain of one block for each hook point."""
    chains = {point: {"chain": {"blocks": {"block": {"block": text}}}} for point, text in points.items()}
    return msgspec.json.encode({"hook_points": chains}).decode()


@asynccontextmanager
async def gateway(broker: Mosquitto, tmp_path: Path, text: str) -> AsyncIterator[Parts]:
    """An agent with these chains in a layer."""
    layers = tmp_path / "layers"
    layers.mkdir()
    (layers / "user_gateway.yaml").write_text(text)
    async with parts(broker, tmp_path, manifests, layers=str(layers)) as it:
        yield it


async def ask(tmp_path: Path, operation: str, **args: Any) -> Any:
    """Ask the agent, as the command line does."""
    return await call(socket_path(tmp_path / "data", "edge"), operation, **args)


def reason(body: bytes) -> str:
    """The reason code in an error's body."""
    return str(msgspec.json.decode(body)["reason"])


async def answers(it: Parts, request: web.Request, status: int, headers: dict[str, str]) -> web.StreamResponse:
    """What a target may answer."""
    response = web.Response(status=status, body=b'{"made": 1}', headers=headers)
    response.headers.add("Set-Cookie", "a=1")
    response.headers.add("Set-Cookie", "b=2")
    return response


def target_says(it: Parts, status: int, **headers: str) -> None:
    """From now on the target answers this, with two cookies."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    it.target.handler = lambda request: answers(it, request, status, named)


async def test_accept_goes_on(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """With accept at all three points everything is as without chains: bytes, status, each header, both cookies."""
    async with gateway(mosquitto, tmp_path, layer(pre_req="accept", main="accept", post_resp="accept")) as it:
        target_says(it, 201, X_A="1")
        status, headers, body = await it.request(f"{it.rest}/in/7", b"\xff\x00")
        assert (status, headers["X-A"], body) == (201, "1", b'{"made": 1}')
        assert headers.getall("Set-Cookie") == ["a=1", "b=2"]
        assert it.target.requests[0][1] == b"\xff\x00"
        assert [r.outcome for r in await it.ended()] == ["delivered"]


@pytest.mark.parametrize("point", ["pre_req", "main"])
async def test_reject_is_403(mosquitto: Mosquitto, tmp_path: Path, point: str) -> None:
    """With the chain's reason in the answer; nothing is executed. Other requests pass."""
    chain = 'starts-with $REQ.path "/edge-1/default/in/" && reject "not today"\naccept'
    async with gateway(mosquitto, tmp_path, layer(**{point: chain})) as it:
        status, _, body = await it.request(f"{it.rest}/in/7")
        assert (status, reason(body), msgspec.json.decode(body)["detail"]) == (403, "chain_reject", "not today")
        assert (await it.request(f"{it.rest}/other"))[0] == 201
        assert [r.rule_id.rpartition("/")[2] for r in await it.ended()] == ["other"]


@pytest.mark.parametrize("point", ["pre_req", "main"])
async def test_drop_closes_the_connection(
    mosquitto: Mosquitto, tmp_path: Path, point: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No byte of an answer; counted; nothing is executed, nothing is logged as an error; the next one is served."""
    caplog.set_level(logging.WARNING)
    async with gateway(mosquitto, tmp_path, layer(**{point: 'eq $REQ.method "PATCH" && drop\naccept'})) as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.agent.rest.listener.port)
        writer.write(b"PATCH /edge-1/default/other HTTP/1.1\r\nHost: a\r\n\r\n")
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        with pytest.raises(aiohttp.ClientError):
            await it.request(f"{it.rest}/other", method="PATCH")
        assert it.agent.rest.listener.statistics()["closed"] == 2
        assert (await it.request(f"{it.rest}/other"))[0] == 201
        assert len(await it.ended()) == 1
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("point", ["pre_req", "main"])
async def test_a_chain_rewrites_the_request(mosquitto: Mosquitto, tmp_path: Path, point: str) -> None:
    """Path (the rule of the new one takes it), method, query, headers and body; the target gets the new ones."""
    chain = """
        rewrite $REQ.path "/edge-1/default/v1/*" "/edge-1/default/in/*"
        $REQ.method = "put"
        $REQ.query = "q=2"
        $REQ.headers["x-user"] = "alice"
        $REQ.headers["x-mine"] = null
        $REQ.payload.more = "ü"
        accept
    """
    async with gateway(mosquitto, tmp_path, layer(**{point: chain})) as it:
        assert (await it.request(f"{it.rest}/v1/7", b'{"n": 1}', x_mine="1"))[0] == 201
        ((request, body),) = it.target.requests
        assert (request.method, request.path, request.headers["x-user"]) == ("PUT", "/in", "alice")
        assert request.headers["ce-subject"] == "/in/7"
        assert "x-mine" not in request.headers
        assert msgspec.json.decode(body) == {"n": 1, "more": "ü"}


async def test_both_servers_have_the_chains(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """An application that calls servicebus meets the same chains as a client of rest."""
    text = layer(main='eq $REQ.headers.x-user "eve" && reject', post_resp='$RESP.headers["x-seen"] = "1"')
    async with gateway(mosquitto, tmp_path, text) as it:
        status, headers, _ = await it.request(it.servicebus, b"1", target_url=APP)
        assert (status, headers["x-seen"]) == (201, "1")
        assert (await it.request(it.servicebus, b"1", target_url=APP, x_user="eve"))[0] == 403


@pytest.mark.parametrize("verb", ["forward", "server"])
@pytest.mark.parametrize("name", ["other", "default/other", "rule/default/other", "${REQ.headers.x-to}"])
async def test_main_names_the_rule(mosquitto: Mosquitto, tmp_path: Path, verb: str, name: str) -> None:
    """Whether the path has a rule (in) or none, the named one takes the request, with its own result."""
    async with gateway(mosquitto, tmp_path, layer(main=f'{verb} "{name}"')) as it:
        for path, subject in (("in/7", "/in/7"), ("nowhere", "/edge-1/default/nowhere")):
            it.target.requests.clear()
            assert (await it.request(f"{it.rest}/{path}", b"x", x_to="other"))[0] == 201
            ((request, body),) = it.target.requests
            assert (request.path, request.headers["ce-subject"], body) == ("/other", subject, b"x")
        assert [r.rule_id.rpartition("/")[2] for r in await it.ended(2)] == ["other", "other"]


async def test_main_names_no_rule(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """500 unknown_destination, and nothing is executed."""
    async with gateway(mosquitto, tmp_path, layer(main="forward none")) as it:
        status, _, body = await it.request(f"{it.rest}/in/7")
        assert (status, reason(body)) == (500, "unknown_destination")
        assert it.results() == []


async def test_asynchronous_mode_passes_through_main(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """respond-async holds for a forwarded request, too: 202 with the input on disk."""
    async with gateway(mosquitto, tmp_path, layer(main="forward other")) as it:
        gate = asyncio.Event()

        async def wait(request: web.Request) -> web.StreamResponse:
            await gate.wait()
            return web.Response()

        it.target.handler = wait
        assert (await it.request(f"{it.rest}/nowhere", prefer="respond-async"))[0] == 202
        assert it.agent.spool.stats.inputs == 1
        gate.set()
        assert (await it.ended())[0].outcome == "delivered"


async def test_what_main_leaves_open(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """The rule of the path takes it; without one the default is reject, where accept would have said 404."""
    text = layer(main='eq $REQ.headers.x-user "alice" && accept')
    async with gateway(mosquitto, tmp_path, text) as it:
        assert (await it.request(f"{it.rest}/in/7"))[0] == 201
        status, _, body = await it.request(f"{it.rest}/nowhere")
        assert (status, reason(body)) == (403, "chain_no_verb")
        status, _, body = await it.request(f"{it.rest}/nowhere", x_user="alice")
        assert (status, reason(body)) == (404, "no_rule")
        assert (await it.request(f"{it.rest}/in/7", method="GET", x_user="alice"))[0] == 405


async def test_post_resp_changes_the_answer(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """CORS: headers on every answer, a preflight that no rule takes becomes 204; a target's own header goes away."""
    chain = """
        origin = $REQ.headers.origin
        eq $origin "" && accept
        $RESP.headers["access-control-allow-origin"] = $origin
        $RESP.headers["x-powered-by"] = null
        eq $REQ.method "OPTIONS" || accept
        $RESP.status = 204
        $RESP.payload = null
        $RESP.headers["access-control-allow-methods"] = "GET, POST"
    """
    async with gateway(mosquitto, tmp_path, layer(post_resp=chain)) as it:
        target_says(it, 200, X_Powered_By="php")
        status, headers, _ = await it.request(f"{it.rest}/in/7", origin="https://a.example")
        assert (status, headers["access-control-allow-origin"]) == (200, "https://a.example")
        assert "x-powered-by" not in headers
        assert headers.getall("Set-Cookie") == ["a=1", "b=2"]
        status, headers, body = await it.request(f"{it.rest}/in/7", method="OPTIONS", origin="https://a.example")
        assert (status, headers["access-control-allow-methods"], body) == (204, "GET, POST", b"")
        status, headers, _ = await it.request(f"{it.rest}/nowhere", origin="https://a.example")
        assert (status, headers["access-control-allow-origin"]) == (404, "https://a.example")
        assert "access-control-allow-origin" not in (await it.request(f"{it.rest}/in/7"))[1]


async def test_post_resp_sees_refusals_of_the_other_points(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """A browser wants its headers on a 403 of pre_req, too; reject at post_resp itself is 403."""
    text = layer(
        pre_req='eq $REQ.headers.x-user "eve" && reject',
        post_resp='$RESP.headers["x-seen"] = "${RESP.status}"\neq $REQ.headers.x-user "bob" && reject',
    )
    async with gateway(mosquitto, tmp_path, text) as it:
        status, headers, _ = await it.request(f"{it.rest}/in/7", x_user="eve")
        assert (status, headers["x-seen"]) == (403, "403")
        assert (await it.request(f"{it.rest}/in/7", x_user="bob"))[0] == 403
        assert (await it.request(f"{it.rest}/in/7"))[0] == 201


@pytest.mark.parametrize(
    "line",
    [
        '$RESP.headers["x-a"] = "1\\r\\nx-b: 2"', '$RESP.headers["bad name"] = "1"', '$RESP.status = 1000',
        '$RESP.status = "no number"', '$RESP.headers = "none"', '$RESP.headers["content-length"] = "5"',
        '$RESP.headers["transfer-encoding"] = "chunked"', '$RESP = null',
    ],
)  # fmt: skip
async def test_answers_that_cannot_be_written(mosquitto: Mosquitto, tmp_path: Path, line: str) -> None:
    """What can be no header or status is left out: no second answer is smuggled in, the rest of it arrives."""
    async with gateway(mosquitto, tmp_path, layer(post_resp=line)) as it:
        status, headers, body = await it.request(f"{it.rest}/in/7", b"abc")
        assert (status, body) == (201, b"cba")
        assert "x-b" not in headers
        assert (await it.request(f"{it.rest}/in/7", b"abc"))[0] == 201


@pytest.mark.parametrize("point", ["pre_req", "main", "post_resp"])
@pytest.mark.parametrize(
    ("chain", "says"),
    [
        ('exec "no-${REQ.method}"', 'chain_fault PC-RUN-TARGET: exec: there is no block or chain "no-POST"'),
        ("goto chain", "chain_limit PC-LIMIT-GOTO: more than 128 gotos"),
        ('error "out of order"', "chain_error out of order"),
    ],
)  # fmt: skip
async def test_a_broken_chain_is_500(
    mosquitto: Mosquitto, tmp_path: Path, point: str, chain: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With its code and words, without a traceback on the wire or in the log, nor the text of the chain."""
    async with gateway(mosquitto, tmp_path, layer(**{point: chain})) as it:
        status, headers, body = await it.request(f"{it.rest}/in/7")
        assert (status, headers["content-type"]) == (500, "application/problem+json")
        assert f"{reason(body)} {msgspec.json.decode(body)['detail']}".startswith(says)
        assert b"Traceback" not in body
        assert b"| exec" not in body
        assert len(it.results()) == (point == "post_resp")
        assert "Traceback" not in caplog.text


async def test_resp_is_the_answer(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """A map in $resp with accept or reject: status, headers and body as the chain says, and no execution."""
    chain = """
        case $REQ.path as path then
          when ends-with $path "/health" then
            resp = {status: 200, body: "ok"}
            accept
          when ends-with $path "/login" then
            resp = {status: 302, headers: {location: "https://login.example/"}}
            accept
          when ends-with $path "/json" then
            resp = {body: {n: 1}}
            reject
        end
    """
    async with gateway(mosquitto, tmp_path, layer(main=chain)) as it:
        status, headers, body = await it.request(f"{it.rest}/health", method="GET")
        assert (status, headers["content-type"], body) == (200, "text/plain; charset=utf-8", b"ok")
        status, headers, body = await it.request(f"{it.rest}/login", method="GET")
        assert (status, headers["location"], body) == (302, "https://login.example/", b"")
        status, headers, body = await it.request(f"{it.rest}/json", method="GET")
        assert (status, headers["content-type"], body) == (403, "application/json", b'{"n":1}')
        assert it.results() == []


async def test_edits_for_diagnosis(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """main:chain:block takes edits while requests come, a broken one changes nothing, a reload drops them."""
    async with gateway(mosquitto, tmp_path, layer(main="accept")) as it:
        url = f"{it.rest}/in/7"
        await ask(tmp_path, "rule.edit", edit="add", address="main:chain:block", text='eq $REQ.query "bad" && reject')
        assert [(await it.request(f"{url}?{q}"))[0] for q in ("good", "bad")] == [201, 403]
        with pytest.raises(ControlError, match="PC-LINK-UNKNOWN-COMMAND"):
            await ask(tmp_path, "rule.edit", edit="set", address="main:chain:block:1", text="acept")
        assert (await it.request(f"{url}?bad"))[0] == 403
        await ask(tmp_path, "rule.edit", edit="add", address="pre_req", text="reject")
        assert (await it.request(url))[0] == 403
        assert (await ask(tmp_path, "reload"))["dropped"] == 2
        assert (await it.request(f"{url}?bad"))[0] == 201


async def test_a_gateway(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """The shape of examples/gateway.yaml: quotas before all, chains that call each other, a global way to an
    application by host and prefix, access by session, and headers at the end.
    """
    text = (Path(__file__).parent / "gateway_layer.yaml").read_text()
    async with gateway(mosquitto, tmp_path, text) as it:
        alice = {"host": "chat.example.org", "authorization": "Bearer s-alice"}
        status, headers, _ = await it.request(f"{it.rest}/room", b"1", "POST", **alice, origin="https://a.example.org")
        assert (status, headers["access-control-allow-origin"]) == (201, "https://a.example.org")
        ((request, body),) = it.target.requests
        assert (request.path, request.headers["x-user"], body) == ("/other", "alice", b"1")
        bob = {"host": "chat.example.org", "authorization": "Bearer s-bob"}
        assert (await it.request(f"{it.rest}/room", **bob))[0] == 403
        status, headers, _ = await it.request(f"{it.rest}/room", method="GET", host="chat.example.org")
        assert (status, headers["location"]) == (302, "https://login.example.org/?to=https%3A%2F%2Fchat.example.org")
        assert (await it.request(f"{it.rest}/room", host="none.example.com"))[0] == 403
        status, _, body = await it.request(f"{it.rest}/health", method="GET", host="x.example.org")
        assert (status, body) == (200, b"ok")
        statuses = [(await it.request(f"{it.rest}/in/7", x_user="flood"))[0] for _ in range(5)]
        assert statuses == [201, 201, 429, 429, 429]
