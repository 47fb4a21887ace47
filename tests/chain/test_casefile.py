"""The runner of cases beside a chain, and the gateway of the examples with its requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.chain.casefile import CaseResult, run_cases
from common.chain.errors import ChainErrors
from common.chain.hookpoint import Engine, HookPoint
from common.chain.lint import lint
from common.chain.loader import load_file
from common.chain.run import Access
from tests.chain.program import Program
from tests.chain.running import mounted

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
BLOCKS_MIN = 15
REQUESTS_MIN = 15

CHAINS = """
main:
  a:
    blocks:
      b: {block: 'echo "asked ${REQ.path}"; REQ.seen=true; eq $REQ.path "/" && forward $(exec util) || return "none"'}
util:
  util: {blocks: {b: {block: 'return "http://util"'}}}
"""
HEAD = """
chains: chains.yaml
hook_points: {main: {inputs: {REQ: writable}}}
given: {REQ: {path: /}}
cases:
"""


def results(directory: Path, cases: str, head: str = HEAD, chains: str = CHAINS) -> list[CaseResult]:
    """Write both files and run the cases."""
    (directory / "chains.yaml").write_text(chains)
    (directory / "cases.yaml").write_text(head + cases)
    return run_cases(directory / "cases.yaml")


def test_cases_that_hold(tmp_path: Path) -> None:
    """Every kind of expectation may hold; other lists of the file are global chains; ``given`` is for all cases."""
    (first, second) = results(
        tmp_path,
        "- {name: start, verb: forward, target: 'http://util', ok: true, error: '', resp: '', output: [asked /],"
        " outputs: {REQ: {path: /, seen: true}}}\n"
        "- {name: page, input: {REQ: {path: /x}}, verb: reject, value: none}\n",
    )
    assert first.passed
    assert second.passed
    assert first.outcome.target == "http://util"


def test_cases_that_do_not_hold(tmp_path: Path) -> None:
    """Each expectation that did not hold says what was expected and what came; types count."""
    (failed,) = results(tmp_path, "- {name: start, verb: accept, target: 'http://util', ok: 1, output: [asked]}\n")
    assert not failed.passed
    assert failed.differences == (
        'verb: expected "accept", got "forward"',
        "ok: expected 1, got true",
        'output: expected ["asked"], got ["asked /"]',
    )


def test_cases_are_apart(tmp_path: Path) -> None:
    """A quota that one case used up is full again for the next, and a seed pins what is random."""
    chains = "main: {a: {blocks: {b: {block: 'limit k 0.001 1 && return $(choice [1, 2, 3, 4, 5, 6, 7, 8, 9])'}}}}"
    head = "chains: chains.yaml\nhook_points: {main: }\ncases:\n"
    one, two, three = results(
        tmp_path, "".join(f"- {{name: n{seed}, ok: true, seed: {seed % 2}}}\n" for seed in (1, 2, 3)), head, chains
    )
    assert all(isinstance(result.outcome.value, int) for result in (one, two, three))
    assert one.outcome.value == three.outcome.value


@pytest.mark.parametrize(
    ("head", "cases", "error"),
    [
        ("", "[", "no YAML"),
        ("", "[]", "the file is a map of names"),
        ("", "{}", '"chains" names the file of the chains'),
        (HEAD, "", '"cases" is a list of cases'),
        (HEAD, "- 5", "case 1 is a map of names"),
        (HEAD, "- {verb: x}", 'case 1 needs a "name" of its own'),
        (HEAD, "- {name: a, verb: x}\n- {name: a, verb: x}", 'case 2 needs a "name" of its own'),
        (HEAD, "- {name: a}", 'the case "a" expects nothing'),
        (HEAD, "- {name: a, verbs: x}", '"verbs" is unknown in the case "a"'),
        (HEAD, "- {name: a, verb: x, input: 5}", '"input" of the case "a" is a map of names'),
        (HEAD, "- {name: a, verb: x, hook_point: util}", 'the case "a" needs a "hook_point" out of main'),
        (HEAD.replace("main:", "other:"), "- {name: a, verb: x}", 'chains.yaml has no hook point "other"'),
        (HEAD.replace("writable", "free"), "- {name: a, verb: x}", 'an input of "main" is read-only or writable'),
        (HEAD.replace("inputs", "input"), "- {name: a, verb: x}", '"input" is unknown in the hook point "main"'),
    ],
)
def test_a_file_of_cases_that_is_wrong(tmp_path: Path, head: str, cases: str, error: str) -> None:
    """A mistake in the file of cases is an error that says so, never a case that silently tests nothing."""
    with pytest.raises(ChainErrors) as caught:
        results(tmp_path, cases, head)
    assert error in str(caught.value)
    assert caught.value.errors[0].code == "PC-CASE-FILE"


def test_a_file_of_cases_that_is_not_there(tmp_path: Path) -> None:
    """The error names the file and the system's reason."""
    with pytest.raises(ChainErrors, match="cannot read it: No such file"):
        run_cases(tmp_path / "none.yaml")


def test_chains_that_do_not_load(tmp_path: Path) -> None:
    """What is wrong with the chains comes as their own errors."""
    with pytest.raises(ChainErrors, match="PC-LINK-UNKNOWN-COMMAND"):
        results(tmp_path, "- {name: a, verb: x}", chains="main: {a: {blocks: {b: {block: 'frobnicate'}}}}")


GATEWAY = run_cases(EXAMPLES / "gateway.test.yaml")


@pytest.mark.parametrize("result", GATEWAY, ids=lambda result: result.name)
def test_gateway(result: CaseResult) -> None:
    """The example gateway decides every request as its file of cases says."""
    assert result.differences == ()


def test_the_gateway_is_of_realistic_size() -> None:
    """It has enough blocks, layers and requests to be worth reading."""
    libs = load_file(EXAMPLES / "gateway.yaml")
    blocks = [block for lib in libs.values() for chain in lib.chains for block in chain.blocks]
    assert len(blocks) >= BLOCKS_MIN
    assert len(GATEWAY) >= REQUESTS_MIN
    assert {result.outcome.verb for result in GATEWAY} == {"accept", "reject", "drop", "forward", "server"}


ACCESS = {
    "pre_req": {"REQ": Access.READ_ONLY, "CONFIG": Access.READ_ONLY},
    "main": {"REQ": Access.WRITABLE, "CONFIG": Access.READ_ONLY},
    "post_resp": {"REQ": Access.READ_ONLY, "RESP": Access.WRITABLE, "CONFIG": Access.READ_ONLY},
}


@pytest.mark.parametrize("name", ACCESS)
def test_lint_has_no_fault_to_find_in_the_gateway(name: str) -> None:
    """What we show others has no finding but notes on lists that leave the decision to the default."""
    libs = load_file(EXAMPLES / "gateway.yaml")
    chains = {id: lib for id, lib in libs.items() if id not in ACCESS}
    point = HookPoint(name, engine=Engine(libs=chains), inputs=ACCESS[name])
    assert {finding.code for finding in lint([libs[name]], point=point)} <= {"PC-LINT-NO-VERB"}


@pytest.mark.parametrize("name", ACCESS)
def test_the_gateway_stands_without_inputs(name: str) -> None:
    """A request with nothing in it ends in a decision, not in misuse: what is missing never opens the gate."""
    libs = load_file(EXAMPLES / "gateway.yaml")
    main = libs.pop(name)
    inputs = {"REQ": {}, "RESP": {}, "CONFIG": {}}
    outcome = mounted(Program(main, {"select": libs["select"], "net": libs["net"]}, inputs, ("REQ", "RESP"))).run(
        inputs
    )
    assert outcome.code == ""
    assert outcome.verb in (("reject",) if name == "main" else ("accept", "reject"))
