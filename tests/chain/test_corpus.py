"""Every case of the corpus, on the compiled engine and on the oracle."""

from __future__ import annotations

from typing import Any

import pytest

from common.chain.errors import ChainErrors
from tests.chain.cases import STATUSES, Case, read_all
from tests.chain.program import Program
from tests.chain.running import Seen, block, chains, mounted, plain, probing, run_engine, run_oracle

CASES = read_all()
RUNNABLE = [case for case in CASES if "load" not in case.expected]
UNLOADABLE = [case for case in CASES if "load" in case.expected]
CASES_MIN = 900


def program_of(case: Case) -> Program:
    """The case's program as it is run."""
    main, libs = chains(case.program) if case.chains else (block(case.program), {})
    return Program(main, libs, case.inputs, case.writable, case.strict, case.seed)


def check_run(case: Case, seen: Seen) -> None:
    """Compare what a host sees with what the case expects of it."""
    seen_as = {
        "verb": [seen.verb, seen.target], "result": seen.result, "error": seen.error, "resp": seen.resp,
        "echo": seen.echo, "run": seen.ok,
    }  # fmt: skip
    for name, wanted in case.expected.items():
        if name in ("result", "error", "resp"):
            assert seen_as[name] == plain(wanted), name
        elif name in seen_as:
            assert seen_as[name] == wanted, name
        elif name == "fails":
            assert (seen.ok, seen.verb, seen.error) == (False, "reject", case.code)
    wanted = case.expected.get("outputs")
    if wanted is not None:
        start = {name: plain(case.inputs[name]) for name in case.writable}
        assert seen.inputs == start | {name: plain(value) for name, value in wanted.items()}


def check_status(case: Case, resp: Any) -> None:
    """Compare status and value of the last statement, and whether it was a fault, with what the case expects."""
    (name,) = case.expected.keys() & STATUSES
    wanted = plain(case.expected[name])
    kept = "kept" if name == "fault" else wanted
    assert resp == ["success" if name == "ok" else "error", wanted, kept]


@pytest.mark.parametrize("case", RUNNABLE, ids=str)
def test_engine(case: Case) -> None:
    """The compiled engine does what the case says, down to the exact text of an error."""
    program = program_of(case)
    if case.expected.keys() & STATUSES:
        check_status(case, run_engine(probing(program))[0].resp)
    if case.expected.keys() - STATUSES:
        seen, error = run_engine(program)
        check_run(case, seen)
        if case.expected.get("fails"):
            assert error == case.expected["fails"]


@pytest.mark.parametrize("case", RUNNABLE, ids=str)
def test_oracle(case: Case) -> None:
    """The oracle does what the case says, so that it may judge the engine elsewhere."""
    program = program_of(case)
    if case.expected.keys() & STATUSES:
        check_status(case, run_oracle(probing(program)).resp)
    if case.expected.keys() - STATUSES:
        check_run(case, run_oracle(program))


@pytest.mark.parametrize("case", UNLOADABLE, ids=str)
def test_load_errors(case: Case) -> None:
    """A program that is wrong does not load, and the error says exactly what the case says."""
    with pytest.raises(ChainErrors) as caught:
        mounted(program_of(case))
    assert str(caught.value) == case.expected["load"]


def test_the_corpus_is_whole() -> None:
    """No case is there twice, and none went missing."""
    names = [str(case) for case in CASES]
    assert len(names) == len(set(names))
    assert len(names) >= CASES_MIN
