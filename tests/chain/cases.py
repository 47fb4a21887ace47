"""Reads the corpus: plain files of cases, each a program and what must become of it.

# a comment between cases
== the name of the case
@input REQ {"path": "/"}        a read-only input; @writable for a writable one
@strict                          missing values end the run; @seed 7 pins the random generator
@chains                          the program is YAML: main is mounted, other keys are global chains
the program, by default the text of one block
-- ok "value"                    expectations, one a line: the last statement is Ok, err is an answer,
-- fault "message"               fault a fault
-- verb forward "http://a"       also: result, error, resp, outputs, echo (JSON each), run ok, run failed
-- fails PC-LIMIT-STEPS          the run ends by misuse or a limit; the exact text of the error follows
-- load                          the program does not load; the exact text of all errors follows
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
STATUSES = ("ok", "err", "fault")
TEXTS = ("load", "fails")


@dataclass
class Case:
    """One case. ``expected`` has the JSON value of each expectation, for ``load`` and ``fails`` the exact text."""

    name: str
    file: str
    program: str = ""
    inputs: dict[str, Any] = field(default_factory=dict)
    writable: list[str] = field(default_factory=list)
    strict: bool = False
    seed: int | None = None
    chains: bool = False
    expected: dict[str, Any] = field(default_factory=dict)
    code: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"

    @property
    def is_one_statement(self) -> bool:
        """True where the program may stand inside ``$(...)``."""
        return not self.chains and "\n" not in self.program and ";" not in self.program


def read_all() -> list[Case]:
    """Every case of the corpus, in the order of the files' names."""
    return [case for path in sorted(CORPUS.glob("*.case")) for case in read(path)]


def read(path: Path) -> list[Case]:
    """The cases of one file."""
    _, *parts = ("\n" + path.read_text(encoding="utf-8")).split("\n== ")
    return [_case(path.name, part) for part in parts]


def _case(file: str, text: str) -> Case:
    name, _, rest = text.partition("\n")
    case = Case(name.strip(), file)
    lines = rest.rstrip("\n").split("\n")
    first = next((at for at, line in enumerate(lines) if line.startswith("-- ")), len(lines))
    assert first < len(lines), f"{case} expects nothing"
    program = [line for line in lines[:first] if not _directive(case, line)]
    case.program = "\n".join(program)
    _expectations(case, lines[first:])
    return case


def _directive(case: Case, line: str) -> bool:
    word, _, rest = line.partition(" ")
    if word in ("@input", "@writable"):
        name, _, value = rest.partition(" ")
        case.inputs[name] = json.loads(value)
        if word == "@writable":
            case.writable.append(name)
    elif word == "@strict":
        case.strict = True
    elif word == "@seed":
        case.seed = int(rest)
    elif word == "@chains":
        case.chains = True
    else:
        return False
    return True


def _expectations(case: Case, lines: list[str]) -> None:
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if not line.startswith("-- "):
            assert not line.strip(), f"{case}: {line!r} is no expectation"
            continue
        word, _, rest = line[3:].partition(" ")
        if word in TEXTS:
            text = lines[at:]
            end = next((count for count, other in enumerate(text) if other.startswith("-- ")), len(text))
            case.expected[word] = "\n".join(text[:end]).strip("\n")
            case.code = rest.strip()
            at += end
        elif word == "run":
            case.expected["run"] = rest.strip() == "ok"
        elif word == "verb":
            verb, _, target = rest.partition(" ")
            case.expected["verb"] = [verb, json.loads(target) if target else ""]
        else:
            case.expected[word] = json.loads(rest)
