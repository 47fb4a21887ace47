"""The models of P1.4 and P5: epochs, versions, texts, times."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import RefusedError
from common.models import Epoch, clean_text, parse_version, rfc3339

UUID = "01935a3c-7a00-7000-8000-000000000000"
ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize("n", [1, 42, 10**18 - 1])
def test_p5_2_epoch_and_version(n: int) -> None:
    """An epoch and a version parse to what was written."""
    epoch = Epoch(n, UUID)
    assert Epoch.parse(str(epoch)) == epoch
    assert parse_version(f"{epoch}.7") == (epoch, 7)


@pytest.mark.parametrize(
    "text",
    ["", "1", UUID, f"0-{UUID}", f"01-{UUID}", f"-1-{UUID}", f"1-{UUID}\n", f"1-{UUID.upper()}", f"1-{UUID}0",
     f"{10**18}-{UUID}", f"٣-{UUID}", f" 1-{UUID}"],
)  # fmt: skip
def test_p5_2_bad_epochs(text: str) -> None:
    """Anything else is refused as undecodable, in an epoch and in a version."""
    for call in (lambda: Epoch.parse(text), lambda: parse_version(text + ".1")):
        with pytest.raises(RefusedError) as caught:
            call()
        assert caught.value.reason == "undecodable"


@pytest.mark.parametrize("tail", ["", ".", ".0", ".01", ".-1", ".1\n", ".1.1", f".{10**18}"])
def test_p5_2_bad_sequences(tail: str) -> None:
    """A sequence is a number from 1 without leading zeros."""
    with pytest.raises(RefusedError):
        parse_version(f"1-{UUID}{tail}")


@settings(deadline=None)  # other work may hold the machine
@given(ANY_TEXT, st.integers(0, 40))
@example("a" * 100, 2)
@example("é" * 100, 4)
def test_p8_1_clean_text(text: str, bytes_max: int) -> None:
    """Never NUL, never a lone surrogate, never above the bytes; cleaning again changes nothing."""
    clean = clean_text(text, bytes_max)
    assert "\x00" not in clean
    assert len(clean.encode()) <= bytes_max
    assert clean_text(clean, bytes_max) == clean


def test_p8_1_clean_text_keeps_what_fits() -> None:
    """A good text of just the bytes is kept, one more byte is cut with a mark."""
    assert clean_text("a" * 2048) == "a" * 2048
    assert clean_text("a" * 2049) == "a" * 2045 + "…"


@pytest.mark.parametrize(
    ("at", "text"),
    [(0, "1970-01-01T00:00:00.000Z"), (1763683200.123, "2025-11-21T00:00:00.123Z"), (-1, "1969-12-31T23:59:59.000Z")],
)
def test_p1_4_rfc3339(at: float, text: str) -> None:
    """Unix seconds as RFC 3339 in UTC."""
    assert rfc3339(at) == text
