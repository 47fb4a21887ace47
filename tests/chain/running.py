"""Runs a program on the compiled engine and on the oracle, in the same way, and gives both outcomes one shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from common.chain import nodes as n
from common.chain.commands import match
from common.chain.commands.builtin import BUILTIN
from common.chain.hookpoint import Engine, HookPoint
from common.chain.loader import load_yaml
from common.chain.run import Access, Budgets
from common.chain.values import Set
from common.errors import TopicError
from common.topics import check_filter, matches
from tests.chain.oracle import Oracle
from tests.chain.oracle_state import Outcome as OracleOutcome
from tests.chain.program import Program


def check_topic_filter(text: str) -> None:
    """Raise ValueError with the plain reason for what is no filter."""
    try:
        check_filter(text)
    except TopicError as exc:
        raise ValueError(exc.detail) from exc


REGISTRY = BUILTIN.extended([match.topic_match(matches, check_topic_filter)])
"""The language's commands, and the one that a host adds which knows topics."""
DEPTH_SHOWN = 6
NOW_S = 1_700_000_000


class Fixed:
    """A clock that stands."""

    def time(self) -> float:
        """Unix seconds."""
        return NOW_S

    def monotonic(self) -> float:
        """Seconds."""
        return 0.0


BUDGETS = Budgets(wall_time_ms_max=0)
"""The limits of the design without the one that is not exact."""
PROBE = """w="kept"
w=$(capture --value v --status s $(exec main:main))
resp=[$s, $v, $w]
"""


class Seen(NamedTuple):
    """What a host sees of a run, in plain values. ``error`` is the code alone where misuse or a limit ended it."""

    verb: str
    target: str
    result: Any
    ok: bool
    error: Any
    resp: Any
    inputs: dict[str, Any]
    echo: list[str]


def block(text: str) -> n.LibSource:
    """A list of one chain ``main`` with one block ``main``."""
    return n.LibSource("main", (n.ChainSource("main", (n.BlockSource("main", text),)),))


def chains(text: str) -> tuple[n.LibSource, dict[str, n.LibSource]]:
    """The list ``main`` of a YAML text, and its other keys as global chains."""
    libs = load_yaml(text)
    return libs.pop("main"), libs


def probing(program: Program) -> Program:
    """The same block, called by a chain that puts [status, value, kept] of its last statement into ``$resp``.

    ``kept`` is the word "kept" where the statement was a fault, else its value.
    """
    (chain,) = program.main.chains
    callee = n.ChainSource(chain.id, chain.blocks, 2, False)
    probe = n.ChainSource("probe", (n.BlockSource("probe", PROBE),), 1)
    main = n.LibSource("main", (callee, probe))
    return Program(main, program.libs, program.inputs, program.writable, program.strict, program.seed)


def mounted(program: Program) -> HookPoint:
    """A hook point of the engine with the program mounted. Raises ChainErrors where it does not load."""
    engine = Engine(commands=REGISTRY, libs=dict(program.libs), budgets=BUDGETS, seed=program.seed, clock=Fixed())
    access = {name: Access.WRITABLE if name in program.writable else Access.READ_ONLY for name in program.inputs}
    point = HookPoint("main", engine=engine, inputs=access, missing="strict" if program.strict else "lenient")
    point.mount(program.main)
    return point


def run_engine(program: Program) -> tuple[Seen, str]:
    """What the compiled engine makes of the program, and the exact text of its error."""
    outcome = mounted(program).run(dict(program.inputs))
    inputs = effective(program, outcome.outputs)
    error = outcome.code or plain(outcome.error)
    value, resp = plain(outcome.value), plain(outcome.resp)
    echo = list(outcome.output)
    return Seen(outcome.verb, outcome.target, value, outcome.ok, error, resp, inputs, echo), str(outcome.error)


def run_oracle(program: Program) -> Seen:
    """What the oracle makes of it."""
    access = {name: "writable" if name in program.writable else "read-only" for name in program.inputs}
    oracle = Oracle(
        registry=REGISTRY,
        inputs=access,
        libs=program.libs,
        seed=program.seed,
        missing="strict" if program.strict else "lenient",
        now_ms=NOW_S * 1000,
    )
    oracle.mount(program.main)
    outcome: OracleOutcome = oracle.run(program.inputs)
    inputs = effective(program, outcome.outputs)
    error = outcome.code or plain(outcome.error)
    value, resp = plain(outcome.value), plain(outcome.resp)
    return Seen(outcome.verb, outcome.target, value, outcome.ok, error, resp, inputs, outcome.output)


def effective(program: Program, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The writable inputs as they are after the run."""
    return {name: plain(outputs.get(name, program.inputs[name])) for name in program.writable}


def plain(value: Any, depth: int = 0) -> Any:
    """A value in which comparing sees types: Bool is not Int, Int is not Float, a set is no list; "..." far down, where
    a value that holds itself would not end.
    """
    if isinstance(value, Set):
        return {"$set": sorted(value)}
    if isinstance(value, list | dict) and depth > DEPTH_SHOWN:
        return "..."
    if isinstance(value, list):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {key: plain(item, depth + 1) for key, item in value.items()}
    return f"{type(value).__name__} {value!r}" if isinstance(value, float | bool) else value
