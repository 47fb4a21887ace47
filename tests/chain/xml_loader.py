"""The engine's XML form of chains (L13): ``<process_chain id priority>`` with ``<block id>``, in any root element.

Nothing of the product reads XML; the peer's chains and benchmarks are written in it.
"""

from __future__ import annotations

from xml.etree import ElementTree

from common.chain.nodes import BlockSource, ChainSource, LibSource


def load_xml(text: str, id: str = "main") -> LibSource:
    """Return the list ``id`` of the chains in a text. A chain's priority is 0 when it has none, as in the engine.

    Raises ValueError for a chain without id or blocks, a block without id or text, and an id that stands twice.
    """
    root = ElementTree.fromstring(text)
    elements = [root] if root.tag == "process_chain" else list(root.iter("process_chain"))
    chains = tuple(_chain(element) for element in elements)
    _check_ids([chain.id for chain in chains])
    return LibSource(id, chains)


def _chain(element: ElementTree.Element) -> ChainSource:
    blocks = tuple(BlockSource(block.get("id", ""), _text(block)) for block in element.iter("block"))
    if not blocks:
        raise ValueError(f"the chain {element.get('id')!r} has no blocks")
    _check_ids([block.id for block in blocks])
    return ChainSource(element.get("id", ""), blocks, int(element.get("priority", "0")))


def _text(block: ElementTree.Element) -> str:
    if not (block.text or "").strip():
        raise ValueError(f"the block {block.get('id')!r} is empty")
    return block.text or ""


def _check_ids(ids: list[str]) -> None:
    if "" in ids or len(set(ids)) < len(ids):
        raise ValueError(f"an id is missing or stands twice: {ids}")
