"""The command line of rules and nodes, against a controller on a hub: words, exit codes, formats (experience U2)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

import fieldpost
from cloud.settings.conditions import ConditionSettings
from common.messaging.memory import MemoryHub
from common.rulesync import SyncedObject
from tests.cloud.node import running
from tests.cloud.rulesnode import RulesNode, endpoint, rule, rules_node
from tests.support.wait import eventually


class Shell:
    """Runs commands beside the controller, each with its data directory."""

    def __init__(self, directory: Path, node: RulesNode) -> None:
        self.directory, self.node = directory, node

    async def __call__(self, *words: str, code: int = 0, given: str = "") -> str:
        """Run a command; its output and what it says of an error."""
        args = [*words, "--data-dir", str(self.directory / "data")]
        done = await asyncio.to_thread(CliRunner().invoke, fieldpost.app, args, given)
        text = done.output if done.exception is None else f"{done.output}{done.exception}"
        assert (done.exit_code, text) == (code, text), text
        return text

    async def has(self, *rules: str) -> None:
        """Wait until the node runs these and no others."""
        await eventually(lambda: set(self.node.running()) == {f"default/{name}" for name in rules})


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    """A controller, and the node gw-1 that takes rules."""
    hub = MemoryHub()
    often = ConditionSettings(interval_s=0.1)
    async with running(tmp_path, hub, conditions=often) as controller, rules_node(hub, "gw-1") as node:
        await eventually(lambda: controller.downstream.statistics()["compared"])
        yield Shell(tmp_path, node)


async def test_apply_to_delete_in_kubectls_words(shell: Shell) -> None:
    """Files, directories and standard input are applied; each line says what became of which object."""
    (shell.directory / "rules").mkdir()
    (shell.directory / "rules" / "a.yaml").write_text(endpoint() + rule("one"))
    (shell.directory / "rules" / "README").write_text("not a manifest")
    said = await shell("apply", "-f", str(shell.directory / "rules"))
    assert said.splitlines() == [
        "endpoint default/bus created, version 1, for 1 node",
        "rule default/one created, version 1, for 1 node",
    ]
    said = await shell("apply", "-f", "-", "-f", str(shell.directory / "rules" / "a.yaml"), given=rule("two"))
    assert said.splitlines() == [
        "rule default/two created, version 1, for 1 node",
        "endpoint default/bus unchanged, version 1, for 1 node",
        "rule default/one unchanged, version 1, for 1 node",
    ]
    await shell.has("one", "two")
    assert "rule default/two disabled, version 2" in await shell("disable", "rule", "two")
    assert "disabled, as" in await shell("describe", "rule", "two")
    assert "rule default/two enabled, version 3" in await shell("enable", "rule", "two")
    assert "in use by 2 rules: one, two" in await shell("delete", "endpoint", "bus", code=1)
    assert await shell("delete", "rule", "one") == "rule default/one deleted\n"
    await shell.has("two")


async def test_what_runs_where_is_shown(shell: Shell) -> None:
    """get rules has wanted and running, describe the finding of each node, -o json and yaml the same as data."""
    shell.node.refuse = lambda m: "" if m["kind"] != "Rule" else "no such hook\n  at main, line 3, column 9\n  | x\n"
    await shell("apply", "-f", "-", given=endpoint() + rule("relay", chain="|\n    echo one\n    accept"))
    shell.node.objects["Rule", "default", "other"] = SyncedObject("Rule", "default", "other", "u", 1)
    await eventually(lambda: _shows(shell, "1 failed", "get", "rules", "-o", "wide"))
    table = (await shell("get", "rules")).splitlines()
    assert table[0].split()[:4] == ["NAMESPACE", "RULE", "VERSION", "NODES"]
    assert table[1].split()[:4] == ["default", "relay", "1", "0/1"]
    assert "UID" in await shell("get", "rules", "-o", "wide")
    (row,) = msgspec.json.decode(await shell("get", "rules", "-o", "json"))
    assert (row["rule"], row["version"], row["summary"]["failed"], row["success"]) == ("relay", 1, 1, 0)
    assert "eventbus" in await shell("get", "endpoints")
    await eventually(lambda: _shows(shell, "Ready: ", "describe", "rule", "relay"))
    said = await shell("describe", "rule", "relay")
    assert said.startswith(
        "rule relay: running on 0 of 1 nodes\ngw-1 refused version 1: no such hook at main, line 3, column 9\n"
    )
    assert "  | x" in said
    assert "0 in the last minute, 0 in the last hour" in said
    assert "p50 0.0 ms" in said
    assert re.search(r"^Ready: +False \(Refused\): node gw-1 refused version 1", said, re.M), said
    assert msgspec.yaml.decode(await shell("describe", "rule", "relay", "-o", "yaml"))["version"] == 1


async def _shows(shell: Shell, text: str, *words: str) -> bool:
    return text in await shell(*words)


async def test_wrong_manifests_and_wrong_use(shell: Shell) -> None:
    """Findings are exit code 1, each a line with its file; wrong use is 2; neither is a traceback."""
    file = shell.directory / "bad.yaml"
    file.write_text(endpoint() + rule("bad", target="buss"))
    said = await shell("apply", "-f", str(file), code=1)
    assert re.match(rf"{file}:\d+: Rule default/bad: target 'buss' is no RuleEndpoint", said)
    assert "rule default/x is not there" in await shell("describe", "rule", "x", code=1)
    await shell("apply", "-f", str(shell.directory / "none.yaml"), code=2)
    await shell("apply", "-f", str(shell.directory / "data"), code=2)
    await shell("apply", code=2)
    await shell("delete", "pod", "x", code=2)
    await shell("describe", "endpoint", "bus", code=2)
    await shell("get", "pods", code=2)
    await shell("node", "add", "gw-2", "--label", "site", code=2)


async def test_kinds_are_taken_in_singular_and_plural(shell: Shell) -> None:
    """rule and rules, endpoint and its manifest's kind mean the same wherever a kind is named."""
    await shell("apply", "-f", "-", given=endpoint() + rule("relay"))
    await shell.has("relay")
    for one, other in (("rule", "rules"), ("node", "nodes"), ("endpoint", "endpoints")):
        await eventually(lambda one=one, other=other: _same(shell, one, other))  # type: ignore[misc]
    assert "relay disabled" in await shell("disable", "rules", "relay")
    assert "rule relay: disabled" in await shell("describe", "rules", "relay")
    assert "relay deleted" in await shell("delete", "Rule", "relay")
    await shell.has()
    assert "bus deleted" in await shell("delete", "RuleEndpoint", "bus")


async def _same(shell: Shell, *kinds: str) -> bool:
    one, other = [await shell("get", kind, "-o", "json") for kind in kinds]
    return one == other


async def test_a_node_is_described_with_what_to_do(shell: Shell) -> None:
    """Words say what is refused and why; then presence, account, what is wanted and what runs; as data the same."""
    assert "node gw-9 is not known" in await shell("describe", "node", "gw-9", code=1)
    shell.node.refuse = lambda m: "" if m["kind"] != "Rule" else "no such hook\n  at main, line 3, column 9\n  | x\n"
    await shell("apply", "-f", "-", given=endpoint() + rule("relay"))
    refused = "default/relay: version 1 is refused: no such hook at main, line 3, column 9"
    await eventually(lambda: _shows(shell, refused, "describe", "node", "gw-1"))
    said = await shell("describe", "node", "gw-1")
    assert said.startswith("node gw-1: online\n")
    assert "1 of 2 rules and endpoints that are wanted there run in the wanted version" in said
    assert re.search(r"^State: +online$", said, re.M)
    assert re.search(r"^rule +default/relay +failed +1 +- +1 +0 +0 +-$", said, re.M), said
    assert re.search(r"^endpoint +default/bus +applied +1 +1 ", said, re.M)
    assert "default/relay, version 1:\n  no such hook\n" in said
    assert max(map(len, said.splitlines())) <= 100
    data = msgspec.json.decode(await shell("describe", "nodes", "gw-1", "-o", "json"))
    assert [(each["kind"], each["state"]) for each in data["objects"]] == [
        ("Rule", "failed"),
        ("RuleEndpoint", "applied"),
    ]
    assert data["words"][0] == "node gw-1: online"


async def test_nodes_are_added_and_deleted(shell: Shell) -> None:
    """node add with labels, delete node, node add again."""
    assert await shell("node", "add", "gw-2", "--label", "site=a", "--label", "line=3") == "node gw-2 added\n"
    rows = {row["node"]: row["labels"] for row in msgspec.json.decode(await shell("get", "nodes", "-o", "json"))}
    assert rows == {"gw-1": {}, "gw-2": {"site": "a", "line": "3"}}
    assert (await shell("delete", "node", "gw-2")).startswith("node gw-2 deleted")
    assert "gw-2" not in await shell("get", "nodes")
    assert await shell("node", "add", "gw-2") == "node gw-2 added\n"
    assert await shell("node", "add", "gw-2") == "node gw-2 changed\n"
