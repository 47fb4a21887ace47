"""Commands whose pattern is prepared: once when the text is loaded if it is literal, else from a cache at each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.chain import values
from common.chain.commands.patterns import PatternError
from common.chain.commands.spec import DYNAMIC, BadArgument, Err, Static, fault

Made = Callable[[str], Any]
Prepare = Callable[..., Made]
"""Gets the pattern and the options as keywords; returns what to call with the value. Raises PatternError."""
Specialise = Callable[[Static], Callable[..., Any] | None]


def call_with(name: str, prepare: Prepare) -> Callable[..., Any]:
    """Return the ``call`` of command ``name`` with the parameters value and pattern."""

    def call(value: str, pattern: str, **options: Any) -> Any:
        try:
            made = prepare(pattern, **options)
        except PatternError as exc:
            return fault(f"{name}: {exc}")
        return made(value)

    return call


def specialise_with(prepare: Prepare) -> Specialise:
    """Return the ``specialise`` of a command with the parameters value and pattern."""

    def specialise(static: Static) -> Callable[..., Any] | None:
        value, pattern = static.args
        if pattern is DYNAMIC or not known(static):
            return None
        try:
            made = prepare(values.text(pattern), **keywords(static))
        except PatternError as exc:
            raise BadArgument(str(exc), 1) from None
        return bound(made, value)

    return specialise


def known(static: Static) -> bool:
    """True when all options are literal."""
    return DYNAMIC not in static.options.values()


def keywords(static: Static) -> dict[str, Any]:
    """The options as ``call`` gets them."""
    return {name.replace("-", "_"): value for name, value in static.options.items()}


def bound(made: Made, value: Any) -> Callable[..., Any]:
    """Return ``made`` itself, or bound to a value that is literal, too."""
    if value is DYNAMIC:
        return made
    given = values.text(value)
    return lambda: made(given)


NOT_MATCHED = Err(False)
"""The answer of a predicate that captures: shared, so nobody may change it."""
