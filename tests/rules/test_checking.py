"""``fieldpost check``: offline, all that a node would refuse, by the node's own code (experience U2)."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from edge.rules.checking import check_configuration
from edge.rules.configuration import Configuration
from tests.docs_support.blocks import ROOT
from tests.docs_support.commands import result_of

RULE = """\
apiVersion: rules.kubeedge.io/v1
kind: RuleEndpoint
metadata: {name: bus}
spec: {ruleEndpointType: eventbus}
---
apiVersion: rules.kubeedge.io/v1
kind: Rule
metadata: {name: hot}
spec:
  source: bus
  sourceResource: {topic: a}
  target: bus
  targetResource: {topic: b}
  chain: |
    $MSG.payload.temp > 80 || drop "not hot"
    accept
"""
WRONG = RULE.replace("> 80", "> eighty").replace("target: bus", "target: buss").replace("accept", "acept")


def layers(directory: Path, text: str) -> str:
    """A directory with one layer."""
    (directory / "layers").mkdir()
    (directory / "layers" / "user_gateway.yaml").write_text(text)
    return str(directory / "layers")


def test_what_is_fine(tmp_path: Path) -> None:
    """Rules and endpoints are counted, and there is nothing to say."""
    (tmp_path / "rules.yaml").write_text(RULE)
    assert check_configuration([str(tmp_path / "rules.yaml")]) == (2, [])


def test_hook_points_are_linked_and_hooks_imported(tmp_path: Path) -> None:
    """What only a start would show is shown: chains of hook points that do not link, and modules that are not there."""
    text = (
        "hooks: {preRoute: {mine: 'no_such_module_here:f'}}\n"
        "hook_points:\n"
        "  preRoute: {c: {blocks: {b: {block: frobnicate}}}}\n"
        "  main: {c: {blocks: {b: {block: exec nobody}}}}\n"
    )
    _, findings = check_configuration([], layers(tmp_path, text))
    assert len(findings) == 3
    said = "\n".join(findings)
    assert "cannot import no_such_module_here:f" in said
    assert "hook_points.preRoute: PC-LINK-UNKNOWN-COMMAND" in said
    assert "hook_points.main: PC-LINK-TARGET" in said


def test_a_layer_is_merged_over_the_files(tmp_path: Path) -> None:
    """A layer that breaks a rule of the files is found, with the layer's own file and line."""
    (tmp_path / "rules.yaml").write_text(RULE)
    directory = layers(tmp_path, "rules:\n  default/hot:\n    timeout: never\n")
    _, (finding,) = check_configuration([str(tmp_path)], directory)
    assert "user_gateway.yaml:3" in finding
    assert "spec.timeout" in finding


@pytest.mark.parametrize("text", [WRONG, "hello"])
def test_it_says_what_a_node_says(tmp_path: Path, text: str) -> None:
    """The findings are those of a node's start, word for word."""
    (tmp_path / "rules.yaml").write_text(text)
    _, (said,) = check_configuration([str(tmp_path)], loops=False)
    with pytest.raises(Exception, match=r".") as caught:
        Configuration([str(tmp_path)], loops=False).read()
    assert said == str(caught.value)


async def test_the_command(tmp_path: Path) -> None:
    """All findings on standard output with exit code 1; 0 when there are none; 2 when nothing is named."""
    (tmp_path / "rules.yaml").write_text(WRONG)
    code, out, err = await result_of(tmp_path, "check", "-f", "rules.yaml", "-f", str(ROOT / "examples/relay.yaml"))
    assert (code, "name that file with -f as well" in err) == (1, True)
    assert "rules.yaml:12: Rule default/hot: target 'buss' is no RuleEndpoint" in out
    assert "PC-PARSE-OPERAND" in out
    code, out, err = await result_of(tmp_path, "check", "-f", "none.yaml")
    assert (code, out, "none.yaml is not there" in err) == (2, "", True)
    (tmp_path / "rules.yaml").write_text(RULE)
    code, out, err = await result_of(tmp_path, "check", "-f", ".")
    assert (code, out, err) == (0, "2 rules and endpoints, nothing to say\n", "")
    assert (await result_of(tmp_path, "check"))[0] == 2
    code, out, err = await result_of(tmp_path, "check", "--layers", "none")
    assert (code, out, "does not exist" in err) == (2, "", True)


async def test_it_is_offline(tmp_path: Path) -> None:
    """Rules whose broker nobody runs are checked without asking for it, and leave nothing behind."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        broker = f"mqtt://127.0.0.1:{taken.getsockname()[1]}"
        text = RULE.replace("eventbus}", f"eventbus, properties: {{broker: '{broker}'}}}}")
        (tmp_path / "rules.yaml").write_text(text)
        before = {path.name for path in tmp_path.iterdir()}
        code, out, _ = await result_of(tmp_path, "check", "-f", "rules.yaml")
    left = {path.name for path in tmp_path.iterdir()} - before
    assert (code, out.startswith("2 rules")) == (0, True)
    assert {name.split("-")[0] for name in left} == {"out", "err"}  # of the test itself
