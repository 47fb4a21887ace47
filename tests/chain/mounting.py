"""Small hook points for the tests of the engine: lists from plain texts, and a point with them mounted."""

from __future__ import annotations

from typing import Any

from common.chain.hookpoint import Access, Engine, HookPoint
from common.chain.nodes import BlockSource, ChainSource, LibSource
from common.chain.run import Outcome


def lib(id: str = "main", **chains: Any) -> LibSource:
    """A list: each keyword is a chain, given as one text (its block ``main``) or as a dict of blocks.

    A name that begins with ``_`` does not run by itself.
    """
    return LibSource(id, tuple(_chain(name, blocks) for name, blocks in chains.items()))


def _chain(name: str, blocks: Any) -> ChainSource:
    texts = {"main": blocks} if isinstance(blocks, str) else blocks
    made = tuple(BlockSource(id, text, run=False if id.startswith("_") else None) for id, text in texts.items())
    return ChainSource(name, made, run=False if name.startswith("_") else None)


def point(*libs: LibSource, engine: Engine | None = None, **options: Any) -> HookPoint:
    """A hook point with inputs REQ (read-only) and RESP (writable), and the lists mounted."""
    inputs = {"REQ": Access.READ_ONLY, "RESP": Access.WRITABLE}
    made = HookPoint("main", engine=engine, **{"inputs": inputs, **options})
    made.mount_all(libs)
    return made


def run(text: str, inputs: dict[str, Any] | None = None, **options: Any) -> Outcome:
    """Run one block."""
    return point(lib(main=text), **options).run(inputs or {})


def blocks(**texts: str) -> Outcome:
    """Run the blocks of one chain."""
    return point(lib(main=texts)).run({})


def chains(**given: Any) -> Outcome:
    """Run a list of chains."""
    return point(lib(**given)).run({})
