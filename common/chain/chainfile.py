"""Which lists of a file are mounted on hook points, and which are global chains: the same for all tools (L1, L12)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from common.chain.commands.spec import Registry
from common.chain.lint_model import Program, commands
from common.chain.nodes import LibSource
from common.chain.verbs import Verbs


def global_chains(libs: Mapping[str, LibSource], points: Collection[str]) -> dict[str, LibSource]:
    """The lists of a file that are no hook point's: any hook point's chains may call them."""
    return {name: lib for name, lib in libs.items() if name not in points}


def hook_points(libs: Mapping[str, LibSource], registry: Registry) -> list[str]:
    """The lists of a file that are mounted when nobody says which: those that no other list calls; else all."""
    program = Program(libs.values(), libs, inputs={}, registry=registry, verbs=Verbs())
    called = {
        unit.lib.id
        for caller in program.units
        for command in commands(caller)
        for unit in program.called(caller, command) or ()
        if unit.lib is not caller.lib
    }
    return [name for name in libs if name not in called] or list(libs)
