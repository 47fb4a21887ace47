"""A program as the tests run it, on whichever evaluator."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.chain import nodes as n


@dataclass
class Program:
    """What is run: the list that is mounted, the global chains, and the hook point's declarations."""

    main: n.LibSource
    libs: Mapping[str, n.LibSource] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    writable: Collection[str] = ()
    strict: bool = False
    seed: int | None = None
