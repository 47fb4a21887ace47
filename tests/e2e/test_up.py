"""``fieldpost up``, ``down``, ``get`` and ``tap`` as people use them, in a fresh directory (experience U1, U2)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.control import call, socket_path
from tests.docs_support.commands import Program, fieldpost, result_of
from tests.support.wait import eventually

FIRST_RESULTS_S = 60.0
DATA = "data"


async def _start(cwd: Path, *args: str, **env: str) -> Program:
    program = await fieldpost(cwd, "up", "--data-dir", DATA, "--port", "0", "--every", "0.1", *args, **env)

    def shows_results() -> bool:
        assert program.running, program.err
        return program.out.count("\nresult ") >= 2

    await eventually(shows_results, timeout=FIRST_RESULTS_S, what="up shows results")
    return program


async def _stop(program: Program) -> None:
    program.interrupt()
    code = await program.ended()
    assert (code, program.err) == (0, "")
    assert "stopped; everything is kept in" in program.out


async def _counted(cwd: Path) -> int:
    rows = await call(socket_path(cwd / DATA, "cloud"), "get.rules")
    return sum(row["success"] + row["fail"] for row in rows)


async def _balance(cwd: Path) -> int:
    """What the cloud has counted, when that is all that the edge has accepted; 0 while something is on its way."""
    before = await call(socket_path(cwd / DATA, "edge"), "statistics")
    counted = await _counted(cwd)
    after = await call(socket_path(cwd / DATA, "edge"), "statistics")
    return counted if before["status"]["accepted"] == after["status"]["accepted"] == counted else 0


async def test_up_shows_results_and_ctrl_c_is_clean(tmp_path: Path):
    """Real telemetry becomes results within a minute; Ctrl-C ends everything with exit code 0 and no complaint.

    Python packages in the current directory that have the names of ours are none of its business.
    """
    for package in ("edge", "cloud", "common"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('imported by mistake')")
    program = await _start(tmp_path)
    assert re.search(r"^broker   mqtt://127\.0\.0\.1:\d+ ", program.out)
    assert re.search(r"^result .* default/telemetry +SUCCESS +\d+\.\d delivered$", program.out, re.MULTILINE)
    await _stop(program)
    assert not list((tmp_path / DATA).glob("*.sock"))


async def test_second_start_goes_on_from_the_first(tmp_path: Path):
    """Counts never go back over a restart, and add up: what the cloud has counted is what the edge has accepted."""
    program = await _start(tmp_path)
    first = await _counted(tmp_path)
    await _stop(program)
    program = await _start(tmp_path)
    assert await eventually(lambda: _balance(tmp_path), timeout=30, what="all accepted are counted") > first > 0
    (node,) = await call(socket_path(tmp_path / DATA, "cloud"), "get.nodes")
    assert (node["epoch"].partition("-")[0], node["cloud_lost"], node["conflict"]) == ("2", 0, "")
    await _stop(program)


async def test_get_answers_in_every_format_and_down_stops(tmp_path: Path):
    """``get`` gives tables, JSON and YAML of nodes, rules, results and errors; ``down`` ends ``up`` with code 0."""
    program = await _start(tmp_path, "--node", "gw-7")
    for what in ("nodes", "rules", "results", "errors"):
        code, table, _ = await result_of(tmp_path, "get", what, "--data-dir", DATA)
        assert code == 0
        as_json = msgspec.json.decode((await result_of(tmp_path, "get", what, "--data-dir", DATA, "-o", "json"))[1])
        as_yaml = msgspec.yaml.decode((await result_of(tmp_path, "get", what, "--data-dir", DATA, "-o", "yaml"))[1])
        assert type(as_json) is type(as_yaml) is list
        if what == "errors":
            assert (table, as_json) == ("nothing yet\n", [])
        else:
            assert len(table.splitlines()) > 1
            assert as_json[0].keys() == as_yaml[0].keys()
            assert as_json[0].get("node") in ("", "gw-7")
    code, out, _ = await result_of(tmp_path, "get", "rules", "--data-dir", DATA, "--per-node", "--rule", "telemetry")
    assert (code, out.count("gw-7"), out.count("last-known")) == (0, 1, 0)
    assert (await result_of(tmp_path, "down", "--data-dir", DATA))[:2] == (0, "stopping\n")
    assert (await program.ended(), program.err) == (0, "")


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_tap_decodes_both_codecs(tmp_path: Path, codec: str):
    """``tap`` shows results as text and as JSON lines, whatever they are encoded in."""
    program = await _start(tmp_path, "--node", "gw-7", FIELDPOST__CODEC=codec)
    broker = re.findall(r"mqtt://[0-9.:]+", program.out)[0]
    tap = ("tap", "--broker", broker, "--rule", "telemetry", "--count", "3")
    code, out, _ = await result_of(tmp_path, *tap)
    assert code == 0
    assert [" gw-7 " in line and "default/telemetry" in line for line in out.splitlines()] == [True] * 3
    code, out, _ = await result_of(tmp_path, *tap, "-o", "json")
    seen: list[dict[str, Any]] = [msgspec.json.decode(line) for line in out.splitlines()]
    assert [(row["kind"], row["content"]["RuleID"], row["content"]["Status"]) for row in seen] == [
        ("result", "telemetry", "SUCCESS")
    ] * 3
    assert len({row["content"]["SourceID"] for row in seen}) == 3
    code, out, _ = await result_of(tmp_path, "tap", "--broker", broker, "--count", "3")
    assert (code, len(out.splitlines())) == (0, 3)
    await _stop(program)


async def test_wrong_use_is_one_line_and_an_exit_code(tmp_path: Path):
    """Nobody answers: 1; a wrong flag, format or setting: 2. One line that says what to do, never a traceback."""
    code, _, err = await result_of(tmp_path, "get", "rules", "--data-dir", "nowhere")
    assert (code, err.count("\n")) == (1, 1)
    assert "start one with `fieldpost up`" in err
    assert (await result_of(tmp_path, "down"))[0] == 1
    for wrong in (
        ("up", "--nonsense"),
        ("get", "rules", "-o", "csv"),
        ("tap", "-o", "csv"),
        ("get", "results", "--limit", "0"),
        ("tap", "--status", "failed"),
    ):
        code, _, err = await result_of(tmp_path, *wrong)
        assert code == 2, wrong
        assert "Traceback" not in err
    for wrong in (("--node", "No id"), ("--port", "70000"), ("--broker", "nonsense"), ("--data-dir", "/dev/null/x")):
        code, _, err = await result_of(tmp_path, "up", *wrong)
        assert (code, "Traceback" in err) == (2, False), err
    for wrong in (("edge", "--set", "edge.nod=x"), ("cloud", "--broker", "nonsense"), ("tap", "--broker", "nonsense")):
        code, _, err = await result_of(tmp_path, *wrong)
        assert (code, err.count("\n"), "Traceback" in err) == (2, 1, False), err


async def test_rules_that_cannot_run_end_up_with_the_finding(tmp_path: Path):
    """A wrong manifest ends ``up`` with an error that names file and line, instead of a restart without end."""
    (tmp_path / "wrong.yaml").write_text(
        "apiVersion: rules.kubeedge.io/v1\nkind: Rule\nmetadata: {name: a}\nspce: {}\n"
    )
    code, _, err = await result_of(tmp_path, "up", "--data-dir", DATA, "--port", "0", "--rules", "wrong.yaml")
    assert code == 1
    assert "wrong.yaml:4" in err
    assert "Traceback" not in err
