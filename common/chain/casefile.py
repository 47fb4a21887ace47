"""Cases beside a chain: inputs and what must become of them, in YAML (L12, ``chain test``).

    chains: gateway.yaml             # the chains, beside this file
    hook_points:                     # each is one of the file's lists; its other lists are global chains
      main:
        inputs: {REQ: read-only, RESP: writable}
        verbs: [accept, reject]      # these four are optional: the hook point's defaults
        default: reject
        fail: reject
        missing: strict
    given: {REQ: {path: /}}          # inputs that every case has, unless its own ``input`` says otherwise
    cases:
      - name: a page is served
        hook_point: main             # may be left out where the file has a ``main``, or only one
        input: {REQ: {path: /page}}
        seed: 1                      # pins choice and chance
        verb: forward                # what must become of it: verb, target, value, ok, error, resp, outputs, output
        target: http://pages

What a case does not mention may be anything. Each case runs on a hook point of its own, so no quota and no random
number of one is seen by the next, and time stands still: ``now`` is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.chain import comparing, values
from common.chain.chainfile import global_chains
from common.chain.commands.builtin import BUILTIN
from common.chain.commands.spec import Registry
from common.chain.errors import ChainError, ChainErrors
from common.chain.hookpoint import Access, Engine, HookPoint
from common.chain.loader import load_file
from common.chain.run import Outcome

EXPECTED = ("verb", "target", "value", "ok", "error", "resp", "outputs", "output")
_CASE = ("name", "hook_point", "input", "seed", *EXPECTED)
_HOOK_POINT = ("inputs", "verbs", "default", "fail", "missing")
_FILE = ("chains", "hook_points", "given", "cases")


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of one case. ``differences`` has one line for each expectation that did not hold; none: it passed."""

    name: str
    differences: tuple[str, ...]
    outcome: Outcome

    @property
    def passed(self) -> bool:
        """True when everything that the case expects held."""
        return not self.differences


def run_cases(path: str | Path, *, commands: Registry = BUILTIN) -> list[CaseResult]:
    """Run the cases of a file against the chains that it names, in their order.

    ``commands`` are what the chains may use. Raises ChainErrors: PC-CASE-FILE where the file of cases is not what it
    should be, else what is wrong with the chains.
    """
    file = _CaseFile(Path(path), commands)
    return [file.run(case) for case in file.cases]


class _CaseFile:
    """A file of cases, read and checked, with its chains."""

    def __init__(self, path: Path, commands: Registry) -> None:
        self._path, self._commands = path, commands
        content = self._map(self._read(), "the file", _FILE)
        if not isinstance(content.get("chains"), str):
            raise self._wrong('"chains" names the file of the chains')
        self._libs = load_file(path.parent / content["chains"])
        self._points = {
            name: self._map(point or {}, f'the hook point "{name}"', _HOOK_POINT)
            for name, point in self._map(content.get("hook_points") or {}, '"hook_points"').items()
        }
        if unknown := [name for name in self._points if name not in self._libs]:
            raise self._wrong(f'{content["chains"]} has no hook point "{unknown[0]}"')
        self._given = self._map(content.get("given") or {}, '"given"')
        self.cases = self._cases(content.get("cases"))

    def _read(self) -> Any:
        try:
            return yaml.load(self._path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except OSError as exc:
            raise self._wrong(f"cannot read it: {exc.strerror}") from exc
        except (yaml.YAMLError, UnicodeError) as exc:
            raise self._wrong(f"no YAML: {str(exc).splitlines()[0]}") from exc

    def _wrong(self, message: str) -> ChainErrors:
        return ChainErrors([ChainError("PC-CASE-FILE", message, where=str(self._path))])

    def _map(self, value: Any, what: str, known: tuple[str, ...] = ()) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self._wrong(f"{what} is a map of names")
        if known and (unknown := [key for key in value if key not in known]):
            raise self._wrong(f'"{unknown[0]}" is unknown in {what}, known are {", ".join(known)}')
        return value

    def _cases(self, cases: Any) -> list[dict[str, Any]]:
        if not isinstance(cases, list) or not cases:
            raise self._wrong('"cases" is a list of cases')
        seen: set[str] = set()
        for at, case in enumerate(cases, 1):
            name = str(case.get("name") or "") if isinstance(case, dict) else ""
            self._map(case, f'the case "{name}"' if name else f"case {at}", _CASE)
            if not name or name in seen:
                raise self._wrong(f'case {at} needs a "name" of its own')
            seen.add(name)
            if not any(key in EXPECTED for key in case):
                raise self._wrong(f'the case "{name}" expects nothing')
            self._map(case.get("input") or {}, f'"input" of the case "{name}"')
            if self._point_of(case) not in self._points:
                raise self._wrong(f'the case "{name}" needs a "hook_point" out of {", ".join(self._points) or "none"}')
        return cases

    def _point_of(self, case: Mapping[str, Any]) -> str:
        only = next(iter(self._points)) if len(self._points) == 1 else "main"
        return str(case.get("hook_point", only))

    def run(self, case: Mapping[str, Any]) -> CaseResult:
        """Run one case on a hook point of its own."""
        point = self._hook_point(self._point_of(case), case.get("seed"))
        inputs = self._given | (case.get("input") or {})
        outcome = point.run({name: value for name, value in inputs.items() if name in point.inputs})
        differences = (
            _difference(key, case[key], getattr(outcome, key)) for key in EXPECTED if key in case
        )  # fmt: skip
        return CaseResult(str(case["name"]), tuple(filter(None, differences)), outcome)

    def _hook_point(self, name: str, seed: Any) -> HookPoint:
        declared = self._points[name]
        try:
            access = {input_: Access(word) for input_, word in (declared.get("inputs") or {}).items()}
        except ValueError as exc:
            raise self._wrong(f'an input of "{name}" is read-only or writable') from exc
        settings = {key: value for key, value in declared.items() if key != "inputs"}
        engine = Engine(commands=self._commands, libs=global_chains(self._libs, self._points), seed=seed)
        point = HookPoint(name, engine=engine, inputs=access, **settings)
        point.mount(self._libs[name])
        return point


def _difference(key: str, expected: Any, seen: Any) -> str:
    """One line that says how an expectation did not hold, empty where it did."""
    seen = list(seen) if key == "output" else seen
    if comparing.equal(expected, seen):
        return ""
    return f"{key}: expected {values.shown(expected)}, got {values.shown(seen)}"
