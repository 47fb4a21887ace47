"""A run for tests of commands: small limits, seeded chance, a clock that stands, and a list of what was asked."""

from __future__ import annotations

from random import Random
from typing import Any

from common.chain.commands.builtin import BUILTIN
from common.chain.commands.spec import Err, Registry
from common.chain.errors import LimitError, MisuseError


class FakeRun:
    """What ``RunContext`` says. ``locked`` are the collections that may not be changed."""

    def __init__(self, string_bytes_max: int = 10_000, collection_items_max: int = 1_000, seed: int = 1) -> None:
        self.string_bytes_max, self.collection_items_max = string_bytes_max, collection_items_max
        self.random = Random(seed).random
        self.lines: list[str] = []
        self.taken: list[tuple[str, float, float]] = []
        self.tokens = 1
        self.locked: list[Any] = []

    def now_ms(self) -> int:
        return 1_800_000_000_000

    def echo(self, text: str) -> None:
        self.lines.append(text)

    def take(self, key: str, rate: float, burst: float) -> bool:
        self.taken.append((key, rate, burst))
        self.tokens -= 1
        return self.tokens >= 0

    def changing(self, collection: Any, size: int = 0) -> None:
        if any(collection is locked for locked in self.locked):
            raise MisuseError("PC-RUN-READ-ONLY", "read-only")
        if size > self.collection_items_max:
            raise LimitError("PC-LIMIT-COLLECTION", f"more than {self.collection_items_max} items")


def called(name: str, *args: Any, run: FakeRun | None = None, registry: Registry = BUILTIN, **options: Any) -> Any:
    """Call a command as the compiler does: its value, or the Err."""
    spec = registry.get(name)
    assert spec is not None
    assert spec.call is not None
    return spec.call(*([run or FakeRun()] if spec.needs_run else []), *args, **options)


def captured(name: str, *args: Any, run: FakeRun | None = None, registry: Registry = BUILTIN, **options: Any) -> Any:
    """Call a command with its out options: a tuple, or the Err."""
    spec = registry.get(name)
    assert spec is not None
    assert spec.capturing is not None
    return spec.capturing(*([run or FakeRun()] if spec.needs_run else []), *args, **options)


def answer(got: Any) -> Any:
    """The value of an Err that is an answer."""
    assert isinstance(got, Err)
    assert not got.fault
    return got.value


def fault(got: Any) -> str:
    """The message of an Err that is a fault."""
    assert isinstance(got, Err)
    assert got.fault
    return str(got.value)
