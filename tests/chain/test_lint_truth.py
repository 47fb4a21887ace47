"""What lint says of generated programs holds when they run: dead code is dead, no end without a verb is missed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from common.chain import nodes as n
from common.chain.hookpoint import HookPoint
from common.chain.lint import Finding, lint
from common.chain.paths import Places
from common.chain.scopes import RUN_NAMES
from common.chain.verbs import COMMON
from tests.chain.generated import of_seed, shown
from tests.chain.program import Program
from tests.chain.running import mounted, run_engine

SEEDS = 40  # of each test; a part of them has findings of the kind
MARK = 'echo "ran after all"'


@cache
def linted(seed: int) -> tuple[Program, list[Finding]]:
    """A program, and what lint says of its list, for the hook point that it is mounted on."""
    program = of_seed(seed)
    return program, lint([program.main], point=mounted(program))


def marked(program: Program, finding: Finding) -> Program:
    """The program with the code that a finding is about replaced by an echo."""

    def change(chain: n.ChainSource, block: n.BlockSource) -> n.BlockSource:
        if f"main:{chain.id}:{block.id}" != finding.where:
            return block
        places, span = Places(block.text), finding.span
        start, end = places.offset(span.line, span.column), places.offset(span.end_line, span.end_column)
        return replace(block, text=block.text[:start] + MARK + block.text[end:])

    chains = tuple(
        replace(chain, blocks=tuple(change(chain, block) for block in chain.blocks)) for chain in program.main.chains
    )
    return replace(program, main=replace(program.main, chains=chains))


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_what_is_unreachable_never_runs(first: int) -> None:
    """Code that lint calls unreachable can be replaced by anything: the run stays the same."""
    for seed in range(first, first + 20):
        program, findings = linted(seed)
        dead = [finding for finding in findings if finding.code == "PC-LINT-UNREACHABLE"]
        before = run_engine(program)[0] if dead else None
        for finding in dead:
            after = run_engine(marked(program, finding))[0]
            assert after == before, f"seed {seed}: {finding}\n{shown(program)}"


def test_there_is_dead_code() -> None:
    """Generated programs have dead code, so that the test above is about something."""
    found = [finding.code for seed in range(SEEDS) for finding in linted(seed)[1]]
    assert found.count("PC-LINT-UNREACHABLE") > 10
    assert found.count("PC-LINT-NO-VERB") > 10


def undecided(program: Program) -> bool:
    """True when the run ended without a verb: on a hook point with a default that nothing else gives."""
    like = mounted(program)
    point = HookPoint("main", engine=like.engine, inputs=like.inputs, verbs=(*COMMON, "undecided"), default="undecided")
    point.mount(program.main)
    return point.run(dict(program.inputs)).verb == "undecided"


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_no_end_without_a_verb_is_missed(first: int) -> None:
    """A run that ends without a verb was foretold, but where a goto or ``$result`` makes it impossible to tell."""
    for seed in range(first, first + 20):
        program, findings = linted(seed)
        text = shown(program)
        if "goto" not in text and f"{RUN_NAMES[0]}=" not in text.replace(" ", "") and undecided(program):
            assert any(finding.code == "PC-LINT-NO-VERB" for finding in findings), f"seed {seed}\n{text}"
