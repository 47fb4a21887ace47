"""How a block's function ends: the kinds of signals, in an order that makes the usual questions one comparison.

A signal is a tuple ``(kind, value, place)``; a verb's has its word as a fourth item, a goto's its target and the chain
environment. ``kind < ERR`` is Ok, ``ERR <= kind < TERMINAL`` is Err, and ``kind >= TERMINAL`` passes through every
exec that shares its chain's environment. ``place`` is ``chain:block:line``, empty for a block that fell off its end.
"""

from __future__ import annotations

from typing import Any, Final

Signal = tuple[Any, ...]

FELL: Final = 0
"""Fell off the end with Ok."""
RETURN_BLOCK: Final = 1
RETURN_CHAIN: Final = 2
RETURN_LIB: Final = 3
BARE_BLOCK: Final = 4
"""``return`` without a value, which leaves ``$result``; three levels likewise."""
BARE_CHAIN: Final = 5
BARE_LIB: Final = 6

ERR: Final = 7
FAILED: Final = 7
"""Fell off the end with an answer as Err."""
FAULTED: Final = 8
"""Fell off the end with a fault."""
ERROR_BLOCK: Final = 9
ERROR_CHAIN: Final = 10
ERROR_LIB: Final = 11

TERMINAL: Final = 12
GOTO: Final = 12
EXIT: Final = 13
"""``exit``; its value is MISSING for a bare one."""
VERB: Final = 14

FELL_EMPTY: Final[Signal] = (FELL, "", "")
FELL_TRUE: Final[Signal] = (FELL, True, "")
FAILED_FALSE: Final[Signal] = (FAILED, False, "")
FAILED_EMPTY: Final[Signal] = (FAILED, "", "")

LEVELS: Final = ("block", "chain", "lib")
RETURNS: Final = {"block": RETURN_BLOCK, "chain": RETURN_CHAIN, "lib": RETURN_LIB}
BARE_RETURNS: Final = {"block": BARE_BLOCK, "chain": BARE_CHAIN, "lib": BARE_LIB}
ERRORS: Final = {"block": ERROR_BLOCK, "chain": ERROR_CHAIN, "lib": ERROR_LIB}

ENDS_CHAIN: Final = frozenset((RETURN_CHAIN, RETURN_LIB, BARE_CHAIN, BARE_LIB, ERROR_CHAIN, ERROR_LIB))
ENDS_LIB: Final = frozenset((RETURN_LIB, BARE_LIB, ERROR_LIB))
