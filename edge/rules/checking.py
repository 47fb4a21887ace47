"""What would keep a node's configuration from running, found without running any of it (``fieldpost check``).

The same steps as ``edge.rules.host`` takes: read, merge and check, import the hooks, link the chains of hook points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from common.clock import SystemClock
from common.errors import ConfigError
from edge.rules.configuration import Configuration, Wanted
from edge.rules.hooking import load_hooks


def check_configuration(places: Sequence[str], directory: str = "", *, loops: bool = True) -> tuple[int, list[str]]:
    """Return how many rules and endpoints there are, and everything that is wrong, each as a node would say it.

    Arguments as of ``Configuration``. Of texts that are wrong themselves nothing is imported or linked.
    """
    try:
        wanted = Configuration(places, directory, loops=loops).read()
    except ConfigError as exc:
        return 0, [str(exc)]
    found = []
    for step in (lambda: load_hooks(wanted.hooks), *_linking(wanted)):
        try:
            step()
        except ConfigError as exc:
            found.append(str(exc))
    return len(wanted.manifests), found


def _linking(wanted: Wanted) -> list[Callable[[], Any]]:
    """What links the chains of hook points; the language is loaded where there are some."""
    if not wanted.points:
        return []
    from common.chain.hookpoint import Engine
    from common.rulechains import commands
    from edge.rules.httpchains import HttpChains
    from edge.rules.mounting import chain_points
    from edge.rules.turns import Turns

    clock = SystemClock()
    engine = Engine(commands(), clock=clock)
    return [
        lambda: chain_points(wanted.points, engine),
        lambda: HttpChains(wanted.points, engine, lambda name: None, clock, Turns(clock.monotonic)),
    ]
