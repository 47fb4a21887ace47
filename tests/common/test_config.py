"""Settings: file, environment, flags; errors that say what, where and what to do (experience U3)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
import yaml
from msgspec import Meta

from common.config import describe, document, effective, load, mask, parse_args
from common.errors import ConfigError
from common.settings import BrokerSettings, LogSettings, SharedSettings


class Bus(msgspec.Struct, frozen=True):
    broker: Annotated[BrokerSettings | None, Meta(description="Local broker.")] = None
    labels: dict[str, str] = {}
    topics: list[str] = []
    sizes: list[int] = []


class Edge(msgspec.Struct, frozen=True):
    node: Annotated[str, Meta(description="Node id, 100% yours.")]
    bus: Bus = Bus()
    insecure_dev: bool = False
    mode: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.node == "cloud":
            raise ValueError("node cloud is reserved")


class Settings(SharedSettings, frozen=True, kw_only=True):
    """Settings of a test."""

    edge: Edge


NODE = {"FIELDPOST__EDGE__NODE": "n1"}
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a settings file; the current directory is an empty one."""
    monkeypatch.chdir(tmp_path)

    def put(text: str, name: str = "f.yaml") -> str:
        (tmp_path / name).write_text(text)
        return name

    return put


def error(
    file: str | None = "", environ: dict[str, str] | None = None, overrides: dict[str, str] | None = None
) -> ConfigError:
    """The error of loading."""
    with pytest.raises(ConfigError) as caught:
        load(Settings, file=file, environ={**NODE, **(environ or {})}, overrides=overrides or {})
    return caught.value


def test_later_wins(write: Write) -> None:
    """File, then environment, then overrides; what none gives is the default."""
    file = write("root: a\ncodec: msgpack\nbroker: {keepalive_s: 20, stall_s: 5}\nedge: {node: n}\n")
    settings = load(
        Settings,
        file=file,
        environ={"FIELDPOST__BROKER__KEEPALIVE_S": "30", "FIELDPOST__ROOT": "b", "HOME": "/"},
        overrides={"root": "c"},
    )
    assert (settings.root, settings.codec, settings.broker.keepalive_s, settings.broker.stall_s) == (
        "c",
        "msgpack",
        30,
        5.0,
    )
    assert settings.log == LogSettings()
    assert settings.edge.node == "n"


def test_where_the_file_comes_from(write: Write) -> None:
    """A named file, else $FIELDPOST_CONFIG, else fieldpost.yaml here, else none; an empty name takes none."""
    named, variable = write("root: named"), write("root: variable", "v.yaml")
    assert load(Settings, environ=NODE, overrides={}).root == "fieldpost"
    write("root: here", "fieldpost.yaml")
    assert load(Settings, environ=NODE, overrides={}).root == "here"
    assert load(Settings, environ={**NODE, "FIELDPOST_CONFIG": variable}, overrides={}).root == "variable"
    assert load(Settings, file=named, environ={**NODE, "FIELDPOST_CONFIG": variable}, overrides={}).root == "named"
    assert load(Settings, file="", environ=NODE, overrides={}).root == "fieldpost"
    assert "nowhere.yaml: cannot read it: No such file" in str(error("nowhere.yaml"))


def test_sections_of_other_processes_are_passed_over(write: Write) -> None:
    """One file, and one environment, may serve edge, cloud and console."""
    file = write("cloud: {store: {url: x}}\nconsole: 5\nedge: {node: n}")
    environ = {"FIELDPOST__CLOUD__STORE__URL": "y", "FIELDPOST__CONSOLE__X": "["}
    assert load(Settings, file=file, environ=environ, overrides={"cloud.x": "1"}).edge.node == "n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("roots: x", "f.yaml:1: unknown setting roots; did you mean root?"),
        ("broker:\n  url: x\n  urk: y", "f.yaml:3: unknown setting broker.urk; did you mean broker.url?"),
        ("log:\n  zzzzzz: 1", "f.yaml:2: unknown setting log.zzzzzz; known here: level, format"),
        (
            "broker:\n\n  keepalive_s: 2",
            "f.yaml:3: broker.keepalive_s: given 2, expected a whole number from 5 to 1200",
        ),
        ("log: {level: loud}", "f.yaml:1: log.level: given loud, expected one of debug, error, info, warning"),
        ("broker: {stall_s: fast}", "f.yaml:1: broker.stall_s: given fast, expected a number above 0"),
        ("edge: {insecure_dev: perhaps}", "f.yaml:1: edge.insecure_dev: given perhaps, expected true or false"),
        (
            "edge: {bus: {sizes: [1, b]}}",
            "f.yaml:1: edge.bus.sizes: given [1, b], expected a list, each a whole number",
        ),
        ("root: {a: b}", "f.yaml:1: root: given {a: b}, expected a text"),
        ("root:\n", "f.yaml:1: root: given null, expected a text"),
        (
            "broker: 5",
            "f.yaml:1: broker: given a single value, expected a map with url, protocol, client, username, password, ",
        ),
        ("- a", "f.yaml:1: given a list, expected a map with root, codec, data_dir, broker, log, edge"),
        ("root: a\nroot: b", "f.yaml:2: 'root' stands twice, first in line 1"),
        ("a: [", "f.yaml:2: not YAML: "),
        ("root: a\n---\nroot: b", "f.yaml:3: holds several documents; one is expected"),
        ("? [a]\n: b", "f.yaml:1: a key must be plain text"),
        ("[" * 100_000, "f.yaml:1: nested deeper than 64"),
        ("edge: {node: cloud}", "edge: node cloud is reserved"),
    ],
)
def test_errors_in_the_file(write: Write, text: str, expected: str) -> None:
    """Each error names the key, what was given, what is expected, file and line."""
    file = write(text)
    with pytest.raises(ConfigError) as caught:
        load(Settings, file=file, environ={} if "cloud" in text else NODE, overrides={})
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_errors_in_environment_and_flags(write: Write) -> None:
    """Each error names the variable or flag that it came from."""
    assert str(error(environ={"FIELDPOST__BROKER__STALL_S": "abc"})) == (
        "broker.stall_s: given abc, expected a number above 0 (from FIELDPOST__BROKER__STALL_S)"
    )
    assert str(error(environ={"FIELDPOST__BROKER__URI": "x"})) == (
        "unknown setting broker.uri; did you mean broker.url? (from FIELDPOST__BROKER__URI)"
    )
    assert str(error(overrides={"log.level": "x"})).endswith("(from --set log.level)")
    assert str(error(overrides={"root.x": "x"})) == "root.x: root has no settings inside (from --set root.x)"
    assert "not YAML" in str(error(environ={"FIELDPOST__EDGE__BUS__SIZES": "[1"}))
    assert "is not UTF-8" in str(error(environ={"FIELDPOST__ROOT": "\udcff"}))


def test_missing_setting_says_how_to_give_it() -> None:
    """A required setting that nobody gave names the ways to give it."""
    with pytest.raises(ConfigError) as caught:
        load(Settings, file="", environ={}, overrides={}, flags={"edge.node": "--node"})
    assert str(caught.value) == "edge.node is not set: give it in the settings file, FIELDPOST__EDGE__NODE, --node"


@pytest.mark.parametrize("text", ["0123", "a: b #c", "true", "null", "[x", " a ", "5"])
def test_texts_are_taken_as_they_stand(text: str) -> None:
    """A text from environment or flag needs no quotes, whatever YAML would make of it."""
    environ = {**NODE, "FIELDPOST__BROKER__PASSWORD": text}
    settings = load(Settings, file="", environ=environ, overrides={"data_dir": text})
    assert (settings.broker.password, settings.data_dir) == (text, text)


def test_texts_in_the_file_need_no_quotes(write: Write) -> None:
    """``protocol: 5`` and a password of digits mean texts; maps and lists of texts too."""
    file = write("broker: {protocol: 5, password: 0123}\nedge: {bus: {labels: {a: 1, b: no}, topics: [1.50, x]}}")
    settings = load(Settings, file=file, environ=NODE, overrides={})
    assert (settings.broker.protocol, settings.broker.password) == ("5", "0123")
    assert settings.edge.bus.labels == {"a": "1", "b": "no"}
    assert settings.edge.bus.topics == ["1.50", "x"]


def test_lists_maps_and_sections_in_the_environment() -> None:
    """Other values are YAML in flow form; one text stands for a list of one."""
    environ = {
        **NODE,
        "FIELDPOST__EDGE__BUS__LABELS": "{zone: 7}",
        "FIELDPOST__EDGE__BUS__SIZES": "[1, 2]",
        "FIELDPOST__EDGE__BUS__TOPICS": "a/#",
        "FIELDPOST__LOG": "{level: debug}",
    }
    settings = load(Settings, file="", environ=environ, overrides={})
    assert settings.edge.bus == Bus(labels={"zone": "7"}, sizes=[1, 2], topics=["a/#"])
    assert settings.log.level == "debug"


def test_optional_sections(write: Write) -> None:
    """A section that may be left out is None until something in it is given, and checked like any other."""
    assert load(Settings, file="", environ=NODE, overrides={}).edge.bus.broker is None
    assert load(Settings, file=write("edge: {bus: {broker: null}}"), environ=NODE, overrides={}).edge.bus.broker is None
    assert load(Settings, file=write("edge: {bus: {broker: {}}}"), environ=NODE, overrides={}).edge.bus.broker == (
        BrokerSettings()
    )
    given = load(Settings, file="", environ=NODE, overrides={"edge.bus.broker.url": "mqtt://x"})
    assert given.edge.bus.broker == BrokerSettings(url="mqtt://x")
    assert "edge.bus.broker.url?" in str(error(environ={"FIELDPOST__EDGE__BUS__BROKER__URLL": "x"}))


@pytest.mark.parametrize("key", ["broker.password", "edge.bus.broker.password"])
def test_secrets_are_not_taken_from_arguments(key: str) -> None:
    """A secret by argument is refused with the reason, also inside a section (reliability R4)."""
    assert "is a secret and may not be given by argument" in str(error(overrides={key: "hunter2"}))
    section = key.rpartition(".")[0]
    assert "is a secret and may not be given by argument" in str(error(overrides={section: "{password: hunter2}"}))


def test_no_error_shows_a_secret(write: Write) -> None:
    """What is wrong with a secret, or near one, is said without its value (reliability R4)."""
    texts = [
        "broker: {password: [hunter2]}",
        "broker: {password: {hunter2: x}}",
        "broker:\n  password: hunter2: x",
        "broker: {password: 'hunter2}",
        "broker: {keepalive_s: 'mqtt://u:hunter2@h'}",
    ]
    for text in texts:
        assert "hunter2" not in str(error(write(text)))
    assert "hunter2" not in str(error(overrides={"broker.password": "hunter2"}))


def test_mask() -> None:
    """Secrets that are set and passwords in URLs are masked, wherever they stand."""
    broker = BrokerSettings(url="mqtt://user:hunter2@host:1", password="hunter2")
    shown = mask(Settings(broker=broker, edge=Edge("n", Bus(broker, topics=["x://u:hunter2@h"]))))
    assert "hunter2" not in str(shown)
    assert shown["broker"]["password"] == shown["edge"]["bus"]["broker"]["password"] == "***"
    assert shown["broker"]["url"] == "mqtt://***@host:1"
    assert mask(Settings(edge=Edge("n")))["broker"]["password"] == ""


def run(*argv: str, environ: dict[str, str] | None = None) -> tuple[Settings, str]:
    """parse_args as an edge process calls it."""
    shortcuts = {
        "--node": "edge.node",
        "--broker": "broker.url",
        "--dev": "edge.insecure_dev",
        "--topic": "edge.bus.topics",
    }
    return parse_args("fieldpost edge", argv, Settings, shortcuts=shortcuts, environ=environ or {})


def test_flags(write: Write) -> None:
    """Shortcuts, --set and the file work together; a switch needs no value, a list's flag may be repeated."""
    write("root: r\nedge: {node: file}", "c.yaml")
    argv = ["-c", "c.yaml", "--node", "flag", "--set", "log.level=debug", "--dev", "--topic", "a", "--topic", "b"]
    settings, text = run(*argv, environ={"FIELDPOST__EDGE__NODE": "variable"})
    assert (settings.root, settings.edge.node, settings.log.level, text) == ("r", "flag", "debug", "")
    assert settings.edge.insecure_dev
    assert settings.edge.bus.topics == ["a", "b"]
    assert run("--node", "n", "--set", "broker.url=mqtt://h?a=b")[0].broker.url == "mqtt://h?a=b"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--nod", "x"], "fieldpost edge: unrecognized arguments: --nod x\n"),
        (["--set", "x"], "fieldpost edge: --set x: write it as key=value\n"),
        ([], "fieldpost edge: edge.node is not set: give it in the settings file, FIELDPOST__EDGE__NODE, --node\n"),
        (["--node"], "fieldpost edge: argument --node: expected one argument\n"),
        (
            ["--node", "n", "--dev", "maybe"],
            "fieldpost edge: edge.insecure_dev: given maybe, expected true or false (from --dev)\n",
        ),
        (
            ["--node", "n", "--set", "root=a", "--set", "rot=b"],
            "fieldpost edge: unknown setting rot; did you mean root? (from --set rot)\n",
        ),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    write: Write, capsys: pytest.CaptureFixture[str], argv: list[str], line: str
) -> None:
    """Wrong use ends with 2 and one line on standard error (experience U2)."""
    with pytest.raises(SystemExit) as caught:
        run(*argv)
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", line)


def test_print_config(write: Write) -> None:
    """The effective settings are YAML that says where each value came from, with secrets masked."""
    write("broker:\n  stall_s: 7\n", "fieldpost.yaml")
    environ = {"FIELDPOST__BROKER__PASSWORD": "hunter2"}
    settings, text = run("--node", "n", "--print-config", environ=environ)
    lines = [line.strip() for line in text.splitlines()]
    assert "stall_s: 7.0  # fieldpost.yaml:2" in lines
    assert "password: '***'  # FIELDPOST__BROKER__PASSWORD" in lines
    assert "node: n  # --node" in lines
    assert "hunter2" not in text
    assert yaml.safe_load(text) == mask(settings)
    assert yaml.safe_load(effective(settings)) == mask(settings)


def test_effective_settings_can_be_loaded(write: Write) -> None:
    """What --print-config shows is a settings file that means the same (without secrets)."""
    settings = load(Settings, file="", environ=NODE, overrides={"edge.bus.labels": "{a: '1'}", "root": "x"})
    assert load(Settings, file=write(effective(settings)), environ={}, overrides={}) == settings


def test_describe_lists_every_setting() -> None:
    """Every setting is described with type, default and reason, nested ones by dotted key."""
    settings = {setting.key: setting for setting in describe(Settings)}
    assert settings["broker.keepalive_s"].type == "a whole number from 5 to 1200"
    assert settings["broker.keepalive_s"].default == "15"
    assert settings["edge.node"].default == "required"
    assert settings["broker.password"].secret
    assert settings["edge.bus.broker.tls.ca_file"].description
    assert all(setting.description for setting in describe(SharedSettings))


def test_document_has_each_setting_once() -> None:
    """The page lists settings that several processes share only once."""

    class Cloud(SharedSettings, frozen=True):
        cloud: LogSettings = LogSettings()

    page = document(Settings, Cloud)
    assert page.count("| `broker.url` |") == 1
    assert "| `cloud.level` | one of debug, error, info, warning | `info` |" in page
    assert page.index("## Top level") < page.index("## `broker`") < page.index("## `broker.tls`")


def test_every_process_can_be_described() -> None:
    """The settings of both sides load with their defaults, and every one of them has a description."""
    from cloud.settings import Settings as CloudSettings
    from edge.settings import Settings as EdgeSettings

    classes: list[Any] = [EdgeSettings, CloudSettings]
    for cls in classes:
        assert load(cls, file="", environ={}, overrides={}) == cls()
        assert [setting.key for setting in describe(cls) if not setting.description] == []


def test_a_section_may_have_its_own_defaults() -> None:
    """What the section around has for it counts, in what is read, in what is partly given, and in the reference."""
    from edge.settings import Settings as EdgeSettings

    given = load(EdgeSettings, environ={}, overrides={"edge.servicebus.host": "::1"}, file="")
    assert (given.edge.rest.port, given.edge.servicebus.port) == (9080, 9060)
    assert {s.key: s.default for s in describe(EdgeSettings)}["edge.servicebus.port"] == "9060"
