"""Chains of the configuration, linked for the seven hook points; loaded only where some are configured (flow F2)."""

from __future__ import annotations

from collections.abc import Mapping

from common.chain.errors import ChainErrors
from common.chain.hookpoint import Engine
from common.chain.nodes import LibSource
from common.errors import ConfigError
from edge.flow.chains import ChainPoints
from edge.flow.hooks import POINTS


def chain_points(configured: Mapping[str, LibSource], engine: Engine) -> ChainPoints:
    """Link the chains of the seven hook points. Raises ConfigError with all that is wrong."""
    points = ChainPoints(engine)
    wrong: list[str] = []
    for name, source in configured.items():
        if name in POINTS:
            try:
                points.mount(name, source)
            except ChainErrors as exc:
                wrong += [f"hook_points.{name}: {error}" for error in exc.errors]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return points
