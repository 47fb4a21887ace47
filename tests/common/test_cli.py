"""The command line as a whole: its help, and what it says of wrong use (experience U2)."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

import fieldpost
from common.cli.sections import SECTIONS

RULE = """apiVersion: rules.kubeedge.io/v1
kind: Rule
metadata: {name: relay}
spec: {source: bus, sourceResource: {topic: a}, target: bus, targetResource: {topic: b}}
"""
LAYERS = str(Path(fieldpost.__file__).with_name("examples") / "layers")


def _cli(*words: str, **environ: str) -> Result:
    return CliRunner(env={"FIELDPOST_CONFIG": "", **environ}).invoke(fieldpost.app, list(words))


def test_help_names_every_command_once() -> None:
    """Each command stands in one section of the help, and none is missing."""
    named = [name for names in SECTIONS.values() for name in names]
    assert sorted(named) == sorted(get_command(fieldpost.app).commands)  # type: ignore[attr-defined]
    said = _cli("--help").output
    assert [title for title in SECTIONS if f"\n{title}:\n" in said] == list(SECTIONS)
    assert "  describe " in said


def test_a_word_that_is_nearly_right_is_told() -> None:
    """A command or option that is not there is wrong use, and the nearest one is named."""
    for words, near in ((("gte",), "'get'"), (("get", "ruls"), "'rules'"), (("get", "rules", "--ouput"), "--output")):
        done = _cli(*words)
        assert done.exit_code == 2
        assert near in done.output


def test_check_says_what_is_missing_and_where_it_may_be(tmp_path: Path) -> None:
    """A rule without its endpoint is a finding, with the two ways to give the endpoint; a file that is not there is
    wrong use.
    """
    file = tmp_path / "rule.yaml"
    file.write_text(RULE)
    done = _cli("check", "-f", str(file))
    assert done.exit_code == 1
    assert "source 'bus' is no RuleEndpoint of namespace 'default'" in done.stdout
    assert "with -f as well" in done.stderr
    assert "--server" in done.stderr
    done = _cli("check", "-f", str(tmp_path / "none.yaml"))
    assert done.exit_code == 2
    assert "none.yaml is not there" in done.output


def test_layers_are_of_this_host() -> None:
    """--layers beside --server is wrong use, not a check that is not made; beside the variable it goes before it."""
    done = _cli("check", "--layers", LAYERS, "--server", "http://127.0.0.1:1")
    assert done.exit_code == 2
    assert "--layers is about this host" in done.output
    assert _cli("check", "--layers", LAYERS, FIELDPOST_SERVER="http://127.0.0.1:1").exit_code == 0


@pytest.mark.parametrize("server", ["127.0.0.1:9070", "http://host:99999", "http://a:b@host"])
def test_a_server_that_is_no_url_is_wrong_use(
    server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line, as for every wrong setting; nobody there would be 1."""
    monkeypatch.setattr("sys.argv", ["fieldpost", "get", "nodes", "--server", server])
    with pytest.raises(SystemExit) as ended:
        fieldpost.main()
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
