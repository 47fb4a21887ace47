"""The documentation says what is so: its commands run, its examples are taken, its pages and links are up to date."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud import ledger, sessions
from cloud.forwarders import breaker
from cloud.forwarders.base import Delivered, Refused
from cloud.forwarders.events import of_status
from cloud.forwarders.webhook import WebhookSink
from cloud.handlers import CONTENT_TYPES
from cloud.settings import Settings as CloudSettings
from cloud.settings.forward import WebhookSettings
from cloud.stores import assigning, base, status
from cloud.stores.status import RuleStatus
from common import codec
from common.brokerfiles.directory import BrokerFiles, Layout
from common.brokerfiles.identities import of_node
from common.chain.hookpoint import Engine
from common.checks import check_text
from common.clock import SystemClock
from common.config import describe, load
from common.manifestfiles import load_files
from common.models import Confirmation, ControllerPresence, ExecResult, NodeBirth, Refusal
from common.resource import RULE
from common.rulechains import commands as rule_commands
from common.rules import Rule, RuleEndpoint
from edge.endpoints.replies import STATUS_OF
from edge.rules.configuration import Configuration
from edge.rules.hooking import load_hooks
from edge.rules.httpchains import HttpChains
from edge.rules.mounting import chain_points
from edge.rules.turns import Turns
from edge.settings import Settings as EdgeSettings
from tests.docs_support.blocks import ROOT, Block, blocks, commands, inline, links, name_of, of_language, pages, tables
from tests.docs_support.commands import Program, Shell, environment, fieldpost
from tests.e2e.stack import BUS, Device, Stack
from tests.support.brokers import Embedded
from tests.support.client import Client
from tests.support.wait import eventually

README_LINES_MAX = 120
DECISION_LINES_MAX = 40
LAYER_SECTIONS = ("endpoints:", "rules:", "hooks:", "hook_points:")
OUTCOMES = ("filtered", "rejected", "failed", "dropped")
DOWN = "fieldpost down"
NO_CURL = "curl is not installed: apt-get install curl"
NO_CLIENTS = "mosquitto_sub is not installed: apt-get install mosquitto-clients"
RULES = [file for file in sorted((ROOT / "examples").glob("*.yaml")) if "\nkind: Rule\n" in file.read_text()]
ELSEWHERE = ("make ", "docker ")  # make's are targets; tests/stack/test_compose.py runs docker's on a stack
PAGES_WITH_COMMANDS = [page for page in pages() if any(not _.startswith(ELSEWHERE) for _ in commands(page))]
SUBSCRIBE = sorted({line for page in pages() for line in commands(page) if line.startswith("mosquitto_sub")})
# What a payload of the documentation is, when it is no whole message: by a key that only this one has.
MODELS = {"controller": ControllerPresence, "next_sequence": NodeBirth, "RuleID": ExecResult}


@contextlib.asynccontextmanager
async def _up(cwd: Path) -> AsyncIterator[tuple[str, str]]:
    """``fieldpost up`` in a directory as a reader has it: a clone with examples, and rules; yields the broker's URL,
    and host and port of the API.
    """
    (cwd / "examples").symlink_to(ROOT / "examples")
    (cwd / "rules").mkdir()
    shutil.copy(ROOT / "examples" / "relay.yaml", cwd / "rules")
    shutil.copy(ROOT / "examples" / "threshold.yaml", cwd / "chains.yaml")
    BrokerFiles(cwd / "broker-files").init(Layout(), of_node("gw-7"))
    program = await fieldpost(cwd, "up", "--port", "0", "--every", "0.2", "--node", "gw-7")
    try:
        await eventually(lambda: _shows_a_result(program), timeout=60, what="fieldpost up shows a result")
        url = re.findall(r"mqtt://[0-9.:]+", program.out)[0]
        async with Client(int(url.rpartition(":")[2]), "careless") as client:  # so that there are dead letters to show
            for _ in range(5):
                await client.publish("fieldpost/up/gw-7/router:resource/update/default/rulestatus/telemetry", b"{")
        yield url, re.findall(r"http://([0-9.:]+)/api", program.out)[0]
    finally:
        if program.running:
            program.interrupt()
        assert await program.ended() == 0, program.err


def _shows_a_result(program: Program) -> bool:
    assert program.running, program.err
    return "\nresult " in program.out


@pytest.mark.timeout(300)  # the reference has a hundred commands, each a process
@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=name_of)
async def test_commands_of_a_page_run(page: Path, tmp_path: Path, embedded: Embedded):
    """Every command ends with exit code 0, or goes on until Ctrl-C; ``fieldpost down`` comes last."""
    lines = [line for line in commands(page) if not line.startswith((*ELSEWHERE, "mosquitto_sub "))]
    if any(line.startswith("curl ") for line in lines) and shutil.which("curl") is None:
        pytest.skip(NO_CURL)
    async with _up(tmp_path) as (near, api):
        shell = Shell(tmp_path, near, embedded.url, api)
        for line in (line for line in lines if line != DOWN):
            await shell.run(line)
        await shell.stop()
        if DOWN in lines:
            await shell.run(DOWN)


async def test_mosquitto_sub_shows_the_traffic(tmp_path: Path, embedded: Embedded):
    """Every mosquitto_sub line of the documentation shows a message within seconds."""
    if shutil.which("mosquitto_sub") is None:
        pytest.skip(NO_CLIENTS)
    async with _up(tmp_path) as (near, _):
        shell = Shell(tmp_path, near, embedded.url)
        for line in SUBSCRIBE:
            await shell.run(line)


def test_make_commands_are_targets():
    """Every ``make`` in a command or a text is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in pages():
        lines = [*commands(page), *inline(page)]
        named = {line.split()[1] for line in lines if line.startswith("make ")}
        assert named <= targets, name_of(page)


@pytest.mark.parametrize("block", of_language("yaml"), ids=lambda block: block.id)
def test_yaml_is_taken(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Manifests pass the check of the agent (``bus`` is added where it is left out), layers are mounted as there; all
    else are settings.
    """
    if "apiVersion" in block.text:
        text = block.text if "kind: RuleEndpoint" in block.text else BUS + "---\n" + block.text
        manifests, findings = check_text(text, block.id)
        assert manifests
        assert not findings
    elif block.text.startswith(LAYER_SECTIONS):
        monkeypatch.syspath_prepend(ROOT / "examples" / "hooks")
        (tmp_path / "user_gateway.yaml").write_text(block.text)
        wanted = Configuration([], str(tmp_path)).read()
        assert wanted.hooks or wanted.points
        load_hooks(wanted.hooks)
        engine = Engine(rule_commands())
        chain_points(wanted.points, engine)
        clock = SystemClock()
        HttpChains(wanted.points, engine, lambda name: None, clock, Turns(clock.monotonic))
    else:
        _load_settings_text(block.text)


def test_reason_codes_are_those_of_the_code():
    """The tables of rules.md name every reason that the agent gives, none else, and the HTTP status of each."""
    rows = [row for row in tables(ROOT / "docs" / "rules.md") if len(row) == 5 and row[0].strip("`") in OUTCOMES]
    ended = {row[1].strip("`"): row[2] for row in rows if row[1]}
    assert {reason: status for reason, status in ended.items() if reason in STATUS_OF} == {
        reason: str(status) for reason, status in STATUS_OF.items()
    }
    answers = {row[0].strip("`"): row[1] for row in tables(ROOT / "docs" / "rules.md") if len(row) == 3}
    of_code: dict[str, set[str]] = {"Ending": set(STATUS_OF), "problem": set()}
    for file in (ROOT / "edge").rglob("*.py"):
        for name, reason in _reasons(ast.parse(file.read_text())):
            of_code["problem" if name == "problem" else "Ending"].add(reason)
    assert set(ended) - {"target_status_<code>"} == of_code["Ending"]
    assert all(row[4] for row in rows)
    refusals = {reason for reason, status in answers.items() if re.fullmatch(r"[45]\d\d(, [45]\d\d)*", status)}
    assert refusals | set(ended) >= of_code["problem"]
    assert refusals <= of_code["problem"]


def _reasons(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The reason codes that stand in the calls of a file: ``Ending(outcome, reason)``, ``Retry(reason)`` and so on."""
    places = {"Ending": 1, "Retry": 0, "Rejected": 0, "problem": 1}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if name in places and len(call.args) > places[name]:
            argument = call.args[places[name]]
            for part in (argument.body, argument.orelse) if isinstance(argument, ast.IfExp) else (argument,):
                if isinstance(part, ast.Constant):
                    yield name, part.value


def _load_settings_text(text: str) -> None:
    settings: Any = msgspec.yaml.decode(text)
    for cls in (EdgeSettings, CloudSettings):
        overrides = {key: msgspec.json.encode(value).decode() for key, value in settings.items()}
        load(cls, file="", environ={f"FIELDPOST__{k.upper()}": v for k, v in overrides.items()}, overrides={})


@pytest.mark.parametrize("block", of_language("json"), ids=lambda block: block.id)
def test_json_is_what_the_models_take(block: Block):
    """Payloads decode with the models of the code, and have no field that the models do not know."""
    value = msgspec.json.decode(block.text)
    payload = msgspec.json.encode(value)
    if "specversion" in value:
        _assert_known(value["data"], codec.decode_as(msgspec.json.encode(value["data"]), RuleStatus))
        assert set(value) == set(of_status("fieldpost", msgspec.convert(value["data"], RuleStatus)))
        return
    if "header" in value:
        kind, operation = value["route"]["resource"].split("/")[3], value["route"]["operation"]
        content = {"response": Confirmation, "error": Refusal}.get(operation) or {**CONTENT_TYPES, RULE: Rule}[kind]
        message = codec.decode(payload, content)
        assert set(value) <= {"header", "route", "content"}
        _assert_known(value["header"], message.header)
        _assert_known(value["route"], message.route)
        _assert_known(value["content"], message.content)
        return
    model = next(model for key, model in MODELS.items() if key in value)
    _assert_known(value, codec.decode_as(payload, model))


def _assert_known(shown: dict[str, Any], decoded: Any) -> None:
    assert set(shown) <= {field.encode_name for field in msgspec.structs.fields(decoded)}


@pytest.mark.parametrize("name", ["settings.md", "commands.md", "language-commands.md"])
def test_generated_pages_are_up_to_date(name: str):
    """The pages of settings, commands and the language's commands are what ``make docs`` makes of the code."""
    program = "import generate, sys; sys.stdout.write(generate.pages()[sys.argv[1]])"
    done = subprocess.run(
        [sys.executable, "-c", program, name], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "docs")},
    )  # fmt: skip
    assert done.stdout == (ROOT / "docs" / name).read_text(), f"run make docs {done.stderr}"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_lead_to_files(page: Path):
    """Every relative link is a file or directory."""
    for target in links(page):
        assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_named_tests_and_files_exist(page: Path):
    """Every test, source file and example that a text names is there."""
    for text in inline(page):
        file, _, test = text.partition("::")
        if re.fullmatch(r"(tests|examples|common|edge|cloud|bench)/[\w./-]+", file):
            assert (ROOT / file).exists(), text
        if test:
            assert re.search(rf"def {test}\(", (ROOT / file).read_text()), text


def test_handbook_names_every_state():
    """Each state, condition, balance, loss, refusal and breaker that the code has stands in a table of the handbook."""
    rows = [row for row in tables(ROOT / "docs" / "handbook.md") if len(row) == 3 and "`" in row[0]]
    named = {word.removeprefix("True ").removeprefix("False ").removeprefix("Unknown ").strip("()")
             for row in rows for word in re.findall(r"`([^`]+)`", row[0])}  # fmt: skip
    states = {sessions.ONLINE, sessions.OFFLINE, sessions.UNKNOWN, sessions.CONFLICT}
    on_nodes = {assigning.PENDING, assigning.APPLIED, assigning.FAILED, assigning.STALE, assigning.REMOVED}
    on_nodes |= {status.LOCAL, status.GONE}
    refusals = {
        base.STALE_EPOCH, base.BEYOND_WINDOW, base.CONFLICT, base.NOT_ASSIGNED, base.TOO_MANY_EPOCHS, base.RETIRED,
        base.NOT_STORED,
    }  # fmt: skip
    source = (ROOT / "cloud" / "stores" / "conditions.py").read_text()
    conditions = set(re.findall(r'(?:TRUE|FALSE|UNKNOWN), "(\w+)"', source))
    assert len(conditions) >= 7
    breakers = {breaker.CLOSED, breaker.OPEN, breaker.HALF_OPEN}
    wanted = (
        states | on_nodes | refusals | conditions | breakers | {ledger.OK, ledger.OFF, ledger.OPEN} | set(ledger.KINDS)
    )
    assert wanted <= named


def test_limits_are_those_of_the_code():
    """The table of limits names settings and constants with the values that they have."""
    defaults = {s.key: s.default for cls in (EdgeSettings, CloudSettings) for s in describe(cls)}
    rows = [row for row in tables(ROOT / "docs" / "guarantees.md") if len(row) == 5 and row[0].startswith("`")]
    assert len(rows) > 40
    for name, value, *_ in rows:
        key = name.strip("`")
        if key not in defaults:
            module, _, constant = key.rpartition(".")
            defaults[key] = str(getattr(importlib.import_module(module), constant))
        assert float(value.replace(",", "")) == float(defaults[key]), key


def test_readme_is_short_and_begins_with_its_sentence():
    """README.md has at most 120 lines and no badges; a decision has at most 40 lines (experience U8)."""
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= README_LINES_MAX
    assert readme.startswith("fieldpost ")
    assert "![" not in readme
    for page in (ROOT / "docs" / "decisions").glob("0*.md"):
        lines = page.read_text().splitlines()
        assert len(lines) <= DECISION_LINES_MAX, page.name
        assert re.fullmatch(r"# \d{4} .+", lines[0])
        assert lines[2].startswith("Status: ")


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.name)
def test_example_rules_pass_the_check(file: Path):
    """Each example loads without a finding, with rules and their endpoint."""
    manifests, findings = load_files([str(file)])
    assert not findings
    assert {type(manifest.value) for manifest in manifests} == {Rule, RuleEndpoint}
    assert Configuration([str(file)]).read().manifests


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.name)
async def test_example_rules_run_as_readme_says(file: Path, tmp_path: Path, embedded: Embedded):
    """``python -m edge --rules examples/FILE`` runs, whichever file it is, and ends with exit code 0."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shell = Shell(tmp_path, embedded.url, embedded.url)
    await shell.run(f"python -m edge --node gw-7 --rules examples/{file.name} --set edge.rest.port=0")
    await shell.stop()


@pytest.mark.parametrize("block", of_language("python"), ids=lambda block: block.id)
def test_python_is_of_an_example(block: Block):
    """Python in a page stands in an example, which a test runs."""
    assert any(block.text in file.read_text() for file in (ROOT / "examples").rglob("*.py"))


async def test_example_receiver_takes_what_is_signed(tmp_path: Path):
    """examples/receiver.py takes a controller's events once, and refuses those with another secret."""
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "other").write_text("another")
    command = [sys.executable, str(ROOT / "examples" / "receiver.py"), "--port", "0", "--secret-file", "secret"]
    program = await Program(command, tmp_path, environment()).start()
    try:
        await eventually(lambda: "listening on " in program.out, timeout=30)
        url = program.out.split()[2]
        relay = RuleStatus("default", "relay", "", version=2, success=3, fail=1)
        for secret, answer in (("secret", Delivered), ("secret", Delivered), ("other", Refused)):
            settings = WebhookSettings(
                url=url, allow_http=True, allow_networks=["127.0.0.0/8"], secret_file=str(tmp_path / secret)
            )
            sink = WebhookSink("webhook:t", settings, SystemClock(), "fieldpost")
            await sink.start()
            found = await sink.deliver([relay, msgspec.structs.replace(relay, rule="other")])
            await sink.stop()
            assert [type(each) for each in found] == [answer, answer]
        assert program.out.splitlines()[1:] == [
            "default/relay: 3 delivered, 1 failed", "default/other: 3 delivered, 1 failed"
        ]  # fmt: skip
    finally:
        program.interrupt()
        assert await program.ended() == 0


@pytest.mark.parametrize("settings", [EdgeSettings, CloudSettings])
def test_example_settings_load(settings: type[msgspec.Struct]):
    """examples/fieldpost.yaml serves the agent and the controller, and names defaults where it says nothing new."""
    loaded = load(settings, file=str(ROOT / "examples" / "fieldpost.yaml"), environ={}, overrides={})
    assert loaded != settings()


async def test_examples_run(tmp_path: Path, embedded: Embedded):
    """The example rules together: each counts for itself, and those for other nodes or switched off do not run."""
    rules = "\n---\n".join((ROOT / "examples" / name).read_text() for name in ("relay.yaml", "fan-out.yaml"))
    async with Stack(embedded, tmp_path, rules) as stack, Device(embedded) as device:
        await device.publish("devices/d1/telemetry", [b"%d" % n for n in range(20)])
        await device.publish("devices/d1/alarm/hot", [b"1"])
        assert await stack.settled(40) == 40
        assert await stack.counts() == {"relay": 20, "last-known": 20}


def test_data_files_are_installed():
    """What the packages hold beside code is declared, so that a plain pip install has it too."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    installed = {
        file for package, patterns in declared.items() for name in patterns for file in _package(package).glob(name)
    }
    files = {file for side in ("edge", "cloud", "common") for file in (ROOT / side).rglob("*") if file.is_file()}
    assert {file for file in files if file.suffix not in (".py", ".pyc")} == installed


def _package(name: str) -> Path:
    return ROOT.joinpath(*name.split("."))


def test_every_page_has_its_blocks_closed():
    """No fence is left open, and every block names a language that is tested, or none."""
    for page in pages():
        fences = [line for line in page.read_text().splitlines() if line.startswith("```")]
        assert len(fences) % 2 == 0, name_of(page)
        languages = {block.language for block in blocks(page)}
        assert languages <= {"", "sh", "console", "yaml", "json", "markdown", "python", "chain", "chains", "cases"}, (
            name_of(page)
        )
