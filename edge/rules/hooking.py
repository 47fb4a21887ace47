"""Python hooks of the configuration and of installed packages, put on a running node (flow F2.9).

Handlers come from ``hooks:`` in the configuration (``module:function``), from the entry-point group
``fieldpost.hooks`` (name ``preRoute.label``), and by ``Hooks.add``, which this leaves alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from common.errors import ConfigError, HookError
from edge.flow.hooks import Hooks

GROUP = "fieldpost.hooks"


def load_hooks(configured: Mapping[str, str]) -> dict[str, Callable[..., Any]]:
    """Import the handlers: those of installed packages, then the configured ones. Nothing is added yet.

    Raises ConfigError for what cannot be imported, is no function, or has a signature that ``Hooks.add`` refuses.
    """
    from importlib.metadata import entry_points  # loads email and zipfile: whoever only imports need not wait for it

    found: dict[str, Callable[..., Any]] = {}
    scratch = Hooks()
    wanted = {entry.name: entry.value for entry in entry_points(group=GROUP)} | dict(configured)
    for name, target in wanted.items():
        if not name.partition(".")[2]:
            raise ConfigError(f"hook {name}: it needs a label, as in {name}.audit, so that a reload can take it away")
        module, _, function = target.partition(":")
        try:
            handler = getattr(importlib.import_module(module), function)
        except Exception as exc:  # whatever a module does at its import
            raise ConfigError(f"hook {name}: cannot import {target}: {exc}") from exc
        if not callable(handler):
            raise ConfigError(f"hook {name}: {target} is no function")
        try:
            scratch.add(name, handler)
        except HookError as exc:
            raise ConfigError(f"hook {name}: {exc}") from exc
        found[name] = handler
    return found


def check_free(hooks: Hooks, before: Mapping[str, object], after: Mapping[str, object]) -> None:
    """Raises ConfigError for a name of the configuration under which a program has added a handler."""
    for name in after:
        if name not in before and hooks.has(name):
            raise ConfigError(f"hook {name}: a program has added a handler of that name; choose another label")


def swap_hooks(hooks: Hooks, before: Mapping[str, object], after: Mapping[str, Callable[..., Any]]) -> None:
    """Go from the configured handlers of before to those of now. What is as it was stays in its place, and a message
    that is on its way meets one that is replaced as it was.
    """
    for name in before:
        if name not in after and hooks.has(name):
            hooks.remove(name)
    for name, handler in after.items():
        if not hooks.has(name):
            hooks.add(name, handler)
        elif before.get(name) is not handler:
            hooks.replace(name, handler)
