"""``chain lint``: everything that can be said about chains without running them (L12).

Errors of loading come from mounting the lists on a hook point of the same kind, so that lint and mounting never
disagree. The checks of their own are in lint_names (PC-LINT-UNKNOWN-NAME, OTHER-CHAIN, UNUSED, SHADOWED, OVERWRITTEN,
BARE), lint_flow (UNREACHABLE, NO-VERB), lint_faults (FAULT, LOOSE), here (TWICE), and lint_cyfs (CYFS-...).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common.chain.errors import ChainError, ChainErrors, Span
from common.chain.hookpoint import Engine, HookPoint
from common.chain.linking import unknown_target
from common.chain.lint_cyfs import from_cyfs as cyfs_findings
from common.chain.lint_cyfs import in_wrong_text
from common.chain.lint_faults import loose, untested_faults
from common.chain.lint_flow import Flow
from common.chain.lint_model import CALLS, Finding, Program, Severity, commands, finding
from common.chain.lint_names import Names
from common.chain.nodes import BlockSource, LibSource, Text
from common.chain.scopes import sort_of


def lint(
    libs: Iterable[LibSource], *, point: HookPoint | None = None, engine: Engine | None = None, from_cyfs: bool = False
) -> list[Finding]:
    """Return all findings about the lists, in the order of their text.

    Arguments: ``libs`` are the lists as they would be mounted together. ``point`` is a hook point of the kind that they
    are for: its inputs, verbs, commands and global chains count, what is mounted on it does not; without one, every
    name that is set nowhere may be an input, and ``engine`` has the commands and global chains. ``from_cyfs`` adds what
    chains of cyfs-gateway must change.
    """
    lists = tuple(libs)
    host = point or HookPoint("main", engine=engine)
    program = Program(lists, host.engine.libs, inputs=host.inputs, registry=host.engine.commands, verbs=host.verbs)
    found = [
        *_load_errors(lists, host),
        *Names(program, known=point is not None).findings(),
        *Flow(program).findings(),
        *untested_faults(program),
        *loose(program),
        *_run_twice(program),
    ]
    found += _targets(program, {(item.where, item.span) for item in found if item.code == "PC-LINK-TARGET"})
    if from_cyfs:
        found += cyfs_findings(program)
        found += _of_wrong_texts(lists, {unit.where for unit in program.units})
    order = {where: at for at, where in enumerate(_places(lists))}
    return sorted(
        found, key=lambda item: (order.get(item.where, -1), item.span.line, item.span.column, item.severity, item.code)
    )


def load_findings(wrong: ChainErrors) -> list[Finding]:
    """What keeps a text from being read as chains, as findings."""
    return [_of_error(error, {}) for error in wrong.errors]


def _places(lists: Iterable[LibSource]) -> Iterator[str]:
    return (f"{lib.id}:{chain.id}:{block.id}" for lib in lists for chain in lib.chains for block in chain.blocks)


def _load_errors(lists: Iterable[LibSource], host: HookPoint) -> Iterator[Finding]:
    """What mounting would refuse, as findings."""
    trial = HookPoint(
        host.name, engine=host.engine, inputs=host.inputs, verbs=host.verbs, default=host.default, fail=host.fail
    )
    try:
        trial.mount_all(lists)
    except ChainErrors as wrong:
        blocks = {
            f"{lib.id}:{chain.id}:{block.id}": (lib, block)
            for lib in lists
            for chain in lib.chains
            for block in chain.blocks
        }
        found = (_of_error(error, blocks) for error in wrong.errors)
        yield from dict.fromkeys(found)  # each once: a list may be a global chain, too


def _of_error(error: ChainError, blocks: dict[str, tuple[LibSource, BlockSource]]) -> Finding:
    message = error.message
    if error.expected:
        message += f" (expected {', '.join(error.expected)})"
    place = blocks.get(error.where)
    if place is None:
        return Finding(error.code, Severity.ERROR, message, error.where, error.span, error.source)
    return finding(*place, error.where, error.code, Severity.ERROR, message, error.span, "")


def _targets(program: Program, told: set[tuple[str, Span]]) -> Iterator[Finding]:
    """Literal targets that do not exist, in blocks that have other errors: mounting does not come to them there."""
    for unit in program.units:
        for command in commands(unit):
            bound = unit.scopes.bound.get(id(command))
            if command.name in CALLS and bound and bound.args and isinstance(bound.args[0], Text):
                target = bound.args[0]
                if program.called(unit, command) is None and (unit.where, target.span) not in told:
                    message = unknown_target(command.name, sort_of(bound), target.value)
                    yield unit.finding("PC-LINK-TARGET", Severity.ERROR, message, target.span)


def _run_twice(program: Program) -> Iterator[Finding]:
    """A block of the own chain that is called by its id, and does not say whether it also runs by itself (L1)."""
    told = set()
    for unit in program.units:
        for command in commands(unit):
            if command.name not in ("exec", "invoke"):
                continue
            for called in program.called(unit, command) or ():
                if called.chain is unit.chain and called.runs and called.block.run is None and called not in told:
                    told.add(called)
                    message = (
                        f'{unit.where} calls this block, which also runs by itself: say "run: false", or "run: true"'
                    )
                    yield called.finding("PC-LINT-TWICE", Severity.WARNING, message, called.body.span)


def _of_wrong_texts(lists: Iterable[LibSource], parsed: set[str]) -> Iterator[Finding]:
    """What can be said of the engine's texts that do not parse here."""
    for lib in lists:
        for chain in lib.chains:
            for block in chain.blocks:
                where = f"{lib.id}:{chain.id}:{block.id}"
                for line, word, message in () if where in parsed else in_wrong_text(block.text):
                    span = Span(line, 1, line, 1)
                    yield finding(lib, block, where, f"PC-LINT-CYFS-{word}", Severity.WARNING, message, span, "")


__all__ = ["Finding", "Severity", "lint", "load_findings"]
