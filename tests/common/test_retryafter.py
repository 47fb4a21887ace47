"""The header Retry-After in both of its forms."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from common.retryafter import http_date, retry_after


def test_seconds_or_a_date() -> None:
    """Both forms are understood, the date against the clock that it is given."""
    assert retry_after("120", 0) == 120
    assert retry_after(formatdate(1000, usegmt=True), 940) == 60


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", formatdate(1000, usegmt=True), "Mon, 99 Foo 2026", "9" * 99])
def test_rubbish_is_no_wait(text: str) -> None:
    """What is neither, and a date that is over, is no wait; many digits are a long one, and never an error."""
    assert retry_after(text, 5000) == (999_999_999 if text.startswith("9") else 0)


def test_a_date_that_is_none() -> None:
    """It is what the caller says instead."""
    assert http_date("yesterday", 7.0) == 7.0
