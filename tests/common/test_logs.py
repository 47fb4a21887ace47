"""Logs: one line per record, whatever is in it, with bound fields (experience U6)."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator

import pytest

from common import logs
from common.settings import LogSettings

Setup = Callable[..., io.StringIO]


@pytest.fixture
def setup() -> Iterator[Setup]:
    """Set logging up towards a text buffer, and undo it afterwards."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)

    def begin(level: str = "info", format: str = "text") -> io.StringIO:
        stream = io.StringIO()
        logs.setup(LogSettings(level=level, format=format), stream)  # type: ignore[arg-type]
        return stream

    yield begin
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


log = logging.getLogger("edge.uplink")


def test_text_line(setup: Setup) -> None:
    """Time, level, logger, bound fields in a fixed order, message."""
    stream = setup()
    logs.bind(log, rule="overheat", node="edge-1").info("sent %d", 3)
    line = re.sub(r"^\S+Z", "TIME", stream.getvalue())
    assert line == "TIME INFO edge.uplink node=edge-1 rule=overheat: sent 3\n"


def test_json_line(setup: Setup) -> None:
    """The same as a JSON object, one per line, with the traceback inside."""
    stream = setup(format="json")
    try:
        raise ValueError("no\nway")
    except ValueError:
        logs.bind(log, msg_id="m1").exception("failed")
    entry = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert (entry["level"], entry["logger"], entry["message"], entry["msg_id"]) == (
        "error",
        "edge.uplink",
        "failed",
        "m1",
    )
    assert entry["error"].endswith("ValueError: no\nway")


@pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JsonFormatter()], ids=["text", "json"])
def test_hostile_text_stays_on_its_line(formatter: logging.Formatter) -> None:
    """A payload can neither forge a line nor reach the terminal, and surrogates do not break the log."""
    payload = "a\nERROR fake\r\x1b[2J\x00\udc80ü"
    text = formatter.format(logging.LogRecord("edge", logging.INFO, "", 0, "got %s", (payload,), None))
    assert text.splitlines() == [text]
    assert not set(text) & {"\x1b", "\x00", "\r"}
    assert "ü" in text
    text.encode()


def test_terminal_sees_no_control_character() -> None:
    """C1 controls and Unicode's line separators are escaped in text, too."""
    record = logging.LogRecord("edge", logging.INFO, "", 0, "\x9b2J\u2028\u2029\x7f\x85", (), None)
    assert logs.TextFormatter().format(record).endswith(r": \x9b2J\u2028\u2029\x7f\x85")


def test_traceback_is_one_line(setup: Setup) -> None:
    """In text, too, a traceback is part of its record's line."""
    stream = setup()
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        log.exception("failed")
    assert stream.getvalue().count("\n") == 1
    assert r"failed\nTraceback" in stream.getvalue()


def test_long_messages_are_cut(setup: Setup) -> None:
    """A message is cut at its limit and says how long it was."""
    stream = setup()
    log.info("x" * (logs.MESSAGE_CHARS_MAX + 1))
    assert stream.getvalue().endswith(f"... ({logs.MESSAGE_CHARS_MAX + 1} characters)\n")


def test_level_is_obeyed(setup: Setup) -> None:
    """What is less severe than the level is not written."""
    stream = setup(level="warning")
    log.info("quiet")
    log.warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_setup_again_replaces(setup: Setup) -> None:
    """A second setup does not double the lines."""
    first = setup()
    second = setup()
    log.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_bound_fields_add_up(setup: Setup) -> None:
    """Binding again adds, ``extra`` of one call adds to it for that call only, unknown names are refused."""
    stream = setup()
    bound = logs.bind(logs.bind(log, node="edge-1"), rule="r")
    bound.info("a", extra={"msg_id": "m"})
    bound.info("b")
    first, second = stream.getvalue().splitlines()
    assert "node=edge-1 rule=r msg_id=m: a" in first
    assert "node=edge-1 rule=r: b" in second
    with pytest.raises(ValueError, match="colour"):
        logs.bind(log, colour="red")


def test_warnings_are_logged(setup: Setup) -> None:
    """Python's warnings go the same way as everything else."""
    stream = setup()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "DeprecationWarning: old" in stream.getvalue()
