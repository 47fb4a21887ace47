"""``fieldpost chain lint|test|run|explain|fmt`` as people meet it: what it prints, and its exit code (L12)."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from common.cli.chains import chain
from tests.docs_support.blocks import ROOT
from tests.docs_support.commands import result_of

GATEWAY = ROOT / "examples" / "gateway.yaml"
RUNNER = CliRunner()
FINE, FAILED, WRONG_USE = 0, 1, 2

CHAINS = """\
# what comes in
main:
  route:
    blocks:
      main:
        block: |
          # first the way
          way = $(invoke way --arg kind $REQ.kind)   ||   reject $way
          $REQ.seen = true
          forward $way
way:
  way:
    blocks:
      find:
        block: |
          topic-match $__args.kind "raw/#" && return "store"
          error "no way for ${__args.kind}"
"""
RULES = """\
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
    # only hot ones
    $MSG.payload.temp  >  80 || drop "not hot"
    accept
---
apiVersion: rules.kubeedge.io/v1
kind: Rule
metadata: {name: kinds}
spec:
  source: bus
  sourceResource: {topic: a}
  target: bus
  targetResource: {topic: b}
  chains:
    kinds: {blocks: {main: {block: 'eq $MSG.payload.kind "x" && accept'}}}
---
apiVersion: rules.kubeedge.io/v1
kind: Rule
metadata: {name: plain}
spec: {source: bus, sourceResource: {topic: a}, target: bus, targetResource: {topic: b}}
"""
DOCUMENT = """\
choices service_info
echo "suffle result: ${nodeid}"
eq nodeid thisnode && upstream_url="tcp://_/${port}" && return
eq netid thisnetid && upstream_url="rtcp://${node_host}/:${port}" || upstream_url="rtcp://${gateway_host}/${node_host}"
return
"""


def cli(*args: Any) -> Result:
    """Run ``fieldpost chain`` with these arguments; an exception is a traceback that a user would see."""
    result = RUNNER.invoke(chain, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    """A file with a hook point's list, and a global chain."""
    file = tmp_path / "chains.yaml"
    file.write_text(CHAINS)
    return file


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Manifests: two rules with chains, one without."""
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    return file


def written(directory: Path, name: str, text: str) -> Path:
    """A file with this text."""
    file = directory / name
    file.write_text(text)
    return file


# -- lint --------------------------------------------------------------------------------------------------------------


def test_lint_takes_other_lists_as_global_chains() -> None:
    """A file whose lists call each other has no error: those that others call are global chains, not hook points."""
    result = cli("lint", GATEWAY)
    assert result.exit_code == FINE
    assert result.stdout.endswith(", 0 errors\n")
    assert set(re.findall(r"PC-[A-Z-]+", result.stdout)) <= {"PC-LINT-NO-VERB"}
    assert "select:" not in result.stdout  # what ends there without a verb goes on where it was called


def test_lint_of_named_hook_points(chains: Path) -> None:
    """--hook-point says which lists are mounted; a list that is, and ends without a verb, is told."""
    assert "PC-LINT-NO-VERB" not in cli("lint", chains).stdout
    result = cli("lint", chains, "--hook-point", "main", "--hook-point", "way")
    assert (result.exit_code, "PC-LINK-TARGET" in result.stdout) == (FAILED, True)  # main's way is none then
    named = cli("lint", chains, "--hook-point", "main")
    assert (named.exit_code, named.stdout) == (FINE, "nothing to say\n")


def test_lint_says_each_thing_once(tmp_path: Path) -> None:
    """An error in a global chain is told once, with its line of the file, although other lists call the chain."""
    file = written(tmp_path, "chains.yaml", CHAINS.replace("topic-match", "topic-mach"))
    result = cli("lint", file)
    assert result.exit_code == FAILED
    assert result.stdout.count("PC-LINK-UNKNOWN-COMMAND: unknown command topic-mach") == 1
    assert f"{file}:16, way:way:find, line 1, column 1\n" in result.stdout


def test_lint_as_json(tmp_path: Path) -> None:
    """--json is one object a line with code, severity and place, and nothing else on standard output."""
    file = written(tmp_path, "a.chain", 'x = 1\nfrobnicate\nif true then accept; end; forward "a"\n')
    result = cli("lint", file, "--json")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == FAILED
    by_code = {finding["code"]: finding for finding in found}
    assert by_code["PC-LINK-UNKNOWN-COMMAND"] | {"message": ""} == {
        "code": "PC-LINK-UNKNOWN-COMMAND", "severity": "error", "message": "", "where": "main:main:main",
        "span": {"line": 2, "column": 1, "end_line": 2, "end_column": 11},
        "source": "frobnicate", "file": str(file), "line": 2, "fix": "",
    }  # fmt: skip
    assert by_code["PC-LINT-UNUSED"]["severity"] == "warning"


def test_lint_of_warnings_alone_is_fine(tmp_path: Path) -> None:
    """Only errors are exit code 1."""
    result = cli("lint", written(tmp_path, "a.chain", "x = 1\naccept\n"))
    assert (result.exit_code, "PC-LINT-UNUSED" in result.stdout) == (FINE, True)
    assert result.stdout.endswith("1 findings, 0 errors\n")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_lint_of_what_does_not_load(tmp_path: Path, options: tuple[str, ...]) -> None:
    """What is no file of chains is an error like any other, as text and as JSON, with its line."""
    result = cli("lint", written(tmp_path, "a.yaml", "main: {c: {block: x}}\n"), *options)
    assert (result.exit_code, "PC-PARSE-SHAPE" in result.stdout, result.stderr) == (FAILED, True, "")
    if options:
        assert {json.loads(line)["span"]["line"] for line in result.stdout.splitlines()} == {1}


def test_lint_of_rules(rules: Path) -> None:
    """Rules are linted on the hook point of a rule: inputs are known, and the line is that of the manifest."""
    assert (cli("lint", rules).exit_code, cli("lint", rules).stdout.endswith(" 0 errors\n")) == (FINE, True)
    rules.write_text(RULES.replace("$MSG.payload.temp", "$MGS.payload.temp").replace("$MSG.payload.kind", "$REQ.kind"))
    result = cli("lint", rules)
    assert result.exit_code == FAILED
    assert "rule default/hot: error PC-LINT-UNKNOWN-NAME: $MGS is set nowhere and is no input" in result.stdout
    assert f"{rules}:16, main:main:main, line 2, column 1" in result.stdout
    assert "rule default/kinds: error PC-LINT-UNKNOWN-NAME: $REQ is set nowhere" in result.stdout
    rows = [json.loads(line) for line in cli("lint", rules, "--json").stdout.splitlines()]
    assert {row["rule"] for row in rows if row["severity"] == "error"} == {"default/hot", "default/kinds"}


def test_lint_of_broken_manifests(tmp_path: Path) -> None:
    """All manifests that are none, and chains that are none, are told at once, each with its rule or line."""
    file = written(tmp_path, "rules.yaml", RULES.replace("targetResource: {topic: b}}", "targetResurce: {topic: b}}"))
    result = cli("lint", file)
    assert (result.exit_code, result.stdout.count("PC-PARSE-MANIFEST")) == (FAILED, 1)
    assert "unknown key spec.targetResurce" in result.stdout
    file.write_text(RULES.replace("kinds: {blocks: {main: {block:", "kinds: {blocks: {main: {blok:"))
    result = cli("lint", file)
    assert (result.exit_code, "PC-PARSE-SHAPE" in result.stdout) == (FAILED, True)
    assert "rule default/kinds" in result.stdout


def test_lint_from_cyfs(tmp_path: Path) -> None:
    """The document's own snippet: every operand that must become a variable is named, with the line as it should be."""
    file = written(tmp_path, "a.chain", DOCUMENT)
    result = cli("lint", file, "--from-cyfs")
    assert result.exit_code == FAILED
    for line in ("choices $service_info", "eq $nodeid $thisnode", "eq $netid $thisnetid"):
        assert f"  write {line}\n" in result.stdout
    assert "PC-LINT-CYFS-ORDER" in result.stdout
    assert "PC-LINT-CYFS" not in cli("lint", file).stdout
    file.write_text(DOCUMENT.replace("service_info", "$services").replace("eq nodeid this", "eq $nodeid $this"))
    assert cli("lint", file).exit_code == FINE


# -- test --------------------------------------------------------------------------------------------------------------


def test_cases(tmp_path: Path, chains: Path) -> None:
    """Cases that hold are counted; one that does not is shown with what was expected and what came."""
    head = f"chains: {chains.name}\nhook_points: {{main: {{inputs: {{REQ: writable}}}}}}\ncases:\n"
    good = "- {name: raw, input: {REQ: {kind: raw/x}}, verb: forward, target: store}\n"
    bad = "- {name: noise, input: {REQ: {kind: noise}}, verb: drop}\n"
    cases = written(tmp_path, "cases.yaml", head + good)
    assert (cli("test", cases).exit_code, cli("test", cases).stdout) == (FINE, "1 passed, 0 failed\n")
    cases.write_text(head + good + bad)
    result = cli("test", cases)
    assert (result.exit_code, result.stdout) == (
        FAILED, 'FAILED  noise\n        verb: expected "drop", got "reject"\n\n1 passed, 1 failed\n'
    )  # fmt: skip
    rows = [json.loads(line) for line in cli("test", cases, "--json").stdout.splitlines()]
    assert rows == [
        {"name": "raw", "passed": True, "differences": []},
        {"name": "noise", "passed": False, "differences": ['verb: expected "drop", got "reject"']},
    ]


@pytest.mark.parametrize("cases", ["cases: [", "chains: none.yaml\ncases: [{name: a, verb: drop}]\n"])
def test_cases_that_are_none(tmp_path: Path, cases: str) -> None:
    """A file of cases, or chains, that cannot be used is one error and exit code 1."""
    result = cli("test", written(tmp_path, "cases.yaml", cases))
    assert (result.exit_code, result.stdout, result.stderr.count("PC-")) == (FAILED, "", 1)


def test_values_that_no_json_can_hold(tmp_path: Path) -> None:
    """A trace of collections that hold themselves shows that, as text and as JSON."""
    file = written(tmp_path, "own.chain", "a = []\nlist-push a $a\nb = $a\naccept\n")
    assert "(collections nested deeper than 100 levels)" in cli("run", file, "--trace").stdout
    lines = json.loads(cli("run", file, "--trace", "--json").stdout)["trace"]
    assert lines[2]["value"] == "(collections nested deeper than 100 levels)"


# -- run ---------------------------------------------------------------------------------------------------------------


def test_run(tmp_path: Path, chains: Path) -> None:
    """A run shows verb, target, changed inputs and steps; the list that others call is its global chain."""
    given = written(tmp_path, "in.json", '{"REQ": {"kind": "raw/x"}}')
    result = cli("run", chains, "--input", given)
    assert (result.exit_code, result.stdout.splitlines()) == (
        FINE,
        [
            "verb     forward store",
            "value    reject",
            'REQ      {"kind":"raw/x","seen":true}',
            "steps    2, decided at route:main:4",
        ],
    )  # fmt: skip


def test_run_as_json_with_trace(tmp_path: Path, chains: Path) -> None:
    """--json is one object with all of the outcome; --trace adds every line that ran, in its order."""
    given = written(tmp_path, "in.yaml", "REQ: {kind: noise}\n")
    outcome = json.loads(cli("run", chains, "--input", given, "--json", "--trace").stdout)
    assert (outcome["verb"], outcome["error"], outcome["ok"], outcome["decided"]) == (
        "reject", "no way for noise", True, True
    )  # fmt: skip
    lines = [(entry["chain"], entry["block"], entry["line"], entry["ok"]) for entry in outcome["trace"]]
    assert ("way", "find", 1, False) in lines
    assert all(entry["seconds"] >= 0 for entry in outcome["trace"])
    shown = cli("run", chains, "--input", given, "--trace").stdout
    assert re.search(r"^way:find:1 +err +[0-9.]+ us  false$", shown, re.MULTILINE)
    assert "trace" not in json.loads(cli("run", chains, "--input", given, "--json").stdout)


def test_run_that_fails(tmp_path: Path) -> None:
    """A run that fails is exit code 1, with its code and message, and no traceback."""
    file = written(tmp_path, "a.chain", 'echo "so far"\nfor x in [1] then goto main; end\n')
    result = cli("run", file)
    assert result.exit_code == FAILED
    assert "echo     so far\n" in result.stdout
    assert "verb     reject  (nothing decided)\n" in result.stdout
    assert "PC-LIMIT-GOTO" in result.stdout
    assert json.loads(cli("run", file, "--json").stdout)["code"] == "PC-LIMIT-GOTO"


def test_run_with_a_seed(tmp_path: Path) -> None:
    """The same seed chooses the same; another one another."""
    file = written(tmp_path, "a.chain", "forward $(choice [a, b, c, d, e, f, g, h])\n")
    first = [cli("run", file, "--seed", seed).stdout for seed in range(8)]
    assert first == [cli("run", file, "--seed", seed).stdout for seed in range(8)]
    assert len(set(first)) > 1


def test_run_of_several_hook_points(tmp_path: Path) -> None:
    """Of several hook points or rules one must be named, unless one is main; a wrong name lists those there are."""
    chains = written(tmp_path, "a.yaml", "a: {c: {blocks: {b: {block: accept}}}}\nb: {c: {blocks: {b: {block: drop}}}}")
    result = cli("run", chains)
    assert (result.exit_code, "say which: a, b" in result.stderr) == (WRONG_USE, True)
    assert cli("run", chains, "--hook-point", "b").stdout.startswith("verb     drop\n")
    result = cli("run", chains, "--hook-point", "c")
    assert (result.exit_code, "no 'c'; there are a, b" in result.stderr.replace("\n", " ")) == (WRONG_USE, True)
    assert cli("run", GATEWAY).stdout.startswith("verb     reject bad host\n")  # main
    assert cli("run", GATEWAY, "--hook-point", "post_resp").exit_code == FINE


def test_run_of_rules(tmp_path: Path, rules: Path) -> None:
    """A rule runs on the hook point of rules; an input that rules do not have is wrong use."""
    given = written(tmp_path, "in.json", '{"MSG": {"payload": {"temp": 90}}}')
    result = cli("run", rules, "--hook-point", "default/hot", "--input", given)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (FINE, "verb     accept")
    given.write_text('{"REQ": 1}')
    result = cli("run", rules, "--hook-point", "default/hot", "--input", given)
    assert (result.exit_code, "'REQ'; there are MSG, RULE, NODE, SOURCE" in " ".join(result.stderr.split())) == (
        WRONG_USE, True
    )  # fmt: skip
    only = written(tmp_path, "only.yaml", RULES.rpartition("---")[2])
    assert (cli("run", only).exit_code, "has no chains" in cli("run", only).stderr) == (WRONG_USE, True)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("in.json", "{", "no JSON"),
        ("in.json", "[1]", "a map is needed"),
        ("in.yaml", "a: [", "not YAML"),
        ("in.yaml", "5", "a map is needed"),
        ("in.yaml", "a: 1\na: 2", "stands twice"),
    ],
)
def test_run_with_bad_input(tmp_path: Path, chains: Path, name: str, text: str, told: str) -> None:
    """An input that is none is wrong use, and says the file and why."""
    result = cli("run", chains, "--input", written(tmp_path, name, text))
    assert result.exit_code == WRONG_USE
    assert told in " ".join(result.stderr.split())


# -- explain, fmt ------------------------------------------------------------------------------------------------------


def test_the_example_is_in_the_one_form() -> None:
    """What users copy is what ``fmt`` writes."""
    assert cli("fmt", GATEWAY, "--check").exit_code == FINE


def test_explain(chains: Path, rules: Path) -> None:
    """Every line of the text is shown, with code below; --hook-point shows one list alone."""
    both = cli("explain", chains)
    assert both.exit_code == FINE
    for line in CHAINS.splitlines():
        if line.startswith("          "):
            assert f" | {line.strip()}" in both.stdout
    one = cli("explain", chains, "--hook-point", "way").stdout
    assert ("way:way:find" in one, "main:route:main" in one) == (True, False)
    names = re.findall(r"^main:\S+$", cli("explain", rules).stdout, re.MULTILINE)
    assert names == ["main:main:main", "main:kinds:main"]


def test_fmt_prints_the_one_form(chains: Path) -> None:
    """The formatted file goes to standard output; --check only says that it differs, with exit code 1."""
    result = cli("fmt", chains)
    assert result.exit_code == FINE
    assert "way = $(invoke way --arg kind $REQ.kind) || reject $way\n" in result.stdout
    checked = cli("fmt", chains, "--check")
    assert (checked.exit_code, checked.stdout, chains.read_text()) == (FAILED, f"{chains} differs\n", CHAINS)
    chains.write_text(result.stdout)
    checked = cli("fmt", chains, "--check")
    assert (checked.exit_code, checked.stdout) == (FINE, "")


@pytest.mark.parametrize("name", ["chains.yaml", "rules.yaml", "a.chain"])
def test_fmt_write(tmp_path: Path, name: str) -> None:
    """--write changes the blocks and nothing else: comments and keys stay, and a second time nothing changes."""
    text = {"chains.yaml": CHAINS, "rules.yaml": RULES, "a.chain": "# why\naccept   &&   drop\n"}[name]
    file = written(tmp_path, name, text)
    result = cli("fmt", file, "--write")
    assert (result.exit_code, result.stdout) == (FINE, f"{file} changed\n")
    made = file.read_text()
    changed = [(old, new) for old, new in zip(text.splitlines(), made.splitlines(), strict=True) if old != new]
    assert len(changed) == 1
    assert [line for line in text.splitlines() if "#" in line] == [line for line in made.splitlines() if "#" in line]
    again = cli("fmt", file, "--write")
    assert (again.exit_code, again.stdout, file.read_text()) == (FINE, "", made)
    assert cli("fmt", file).stdout == made


def test_fmt_takes_lines_of_windows(tmp_path: Path) -> None:
    """Line ends of another system are no obstacle."""
    file = tmp_path / "chains.yaml"
    file.write_bytes(CHAINS.replace("\n", "\r\n").encode())
    assert cli("fmt", file, "--write").exit_code == FINE
    assert "reject $way\n" in file.read_text()
    assert cli("fmt", file, "--check").exit_code == FINE


def test_fmt_of_what_does_not_parse(tmp_path: Path) -> None:
    """An error leaves the file as it was."""
    file = written(tmp_path, "a.chain", "if true\n")
    result = cli("fmt", file, "--write")
    assert (result.exit_code, result.stdout, "PC-PARSE" in result.stderr) == (FAILED, "", True)
    assert file.read_text() == "if true\n"


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["lint", "test", "run", "explain", "fmt"])
def test_files_that_cannot_be_read(tmp_path: Path, command: str) -> None:
    """A file that is not there, a directory, and bytes that are no text are wrong use, told in a line or two."""
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "none.yaml", tmp_path, tmp_path / "binary.yaml"):
        result = cli(command, file)
        assert (result.exit_code, result.stdout) == (WRONG_USE, "")
        assert "FILE" in result.stderr


@pytest.mark.parametrize("command", ["run", "explain", "fmt"])
def test_chains_that_do_not_load(tmp_path: Path, command: str) -> None:
    """Errors of chains go to standard error, with exit code 1."""
    result = cli(command, written(tmp_path, "a.chain", "if true then accept\n"))
    assert (result.exit_code, result.stdout) == (FAILED, "")
    assert result.stderr.startswith('PC-PARSE-END: "if" has no "end"')


async def test_as_a_process(tmp_path: Path) -> None:
    """The same through the program itself: exit codes and both outputs, without a traceback."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    code, out, err = await result_of(tmp_path, "chain", "test", "examples/gateway.test.yaml")
    assert (code, err) == (FINE, "")
    assert re.fullmatch(r"\d+ passed, 0 failed\n", out)
    (tmp_path / "a.chain").write_text("frobnicate\n")
    code, out, err = await result_of(tmp_path, "chain", "run", "a.chain")
    assert (code, out, err.splitlines()[0]) == (FAILED, "", "PC-LINK-UNKNOWN-COMMAND: unknown command frobnicate")
    code, out, err = await result_of(tmp_path, "chain", "lint", "none.yaml")
    assert (code, out, "Traceback" in err) == (WRONG_USE, "", False)
