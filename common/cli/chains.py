"""``fieldpost chain lint|test|run|explain|fmt``: process chains, without an agent (chain-language L12).

A FILE is chains in YAML or JSON, manifests with rules that have chains, or, when its name ends with ``.chain``, the
text of one block. Exit codes: 0 fine, 1 findings or failures, 2 wrong use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

chain = typer.Typer(
    help="Process chains: check, test, run and format them.", no_args_is_help=True, rich_markup_mode=None
)

FileName = Annotated[Path, typer.Argument(metavar="FILE", help="Chains (YAML, JSON), rule manifests, or NAME.chain.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
PointName = Annotated[str, typer.Option("--hook-point", help="Of several hook points or rules in the file, this one.")]
_OUTCOME = ("verb", "target", "decided", "value", "ok", "error", "resp", "outputs", "output", "steps", "where", "code")
_TRACE = ("chain", "block", "line", "ok", "value", "seconds")

T = TypeVar("T")


@chain.command("lint")
def lint(
    file: FileName,
    from_cyfs: Annotated[
        bool, typer.Option("--from-cyfs", help="Also say what chains of cyfs-gateway must change.")
    ] = False,
    hook_points: Annotated[
        list[str] | None,
        typer.Option("--hook-point", help="A list that is a hook point's; repeatable. Others are global chains."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check chains without running them. Example: fieldpost chain lint examples/gateway.yaml"""
    from common.chain.errors import ChainErrors
    from common.chain.lint import Severity, load_findings
    from common.cli.chainfiles import load

    try:
        found = [(one.name if one.rule else "", _findings(one, from_cyfs)) for one in load(file, hook_points or ())]
    except ChainErrors as exc:
        found = [("", load_findings(exc))]
    for rule, findings in found:
        for finding in findings:
            _show_finding(rule, finding, as_json)
    every = [finding for _, findings in found for finding in findings]
    errors = sum(finding.severity is Severity.ERROR for finding in every)
    if not as_json:
        print(f"{len(every)} findings, {errors} errors" if every else "nothing to say")
    sys.exit(1 if errors else 0)


@chain.command("test")
def run_tests(file: FileName, as_json: AsJson = False) -> None:
    """Run the cases of a file against its chains. Example: fieldpost chain test examples/gateway.test.yaml"""
    from common.chain.casefile import run_cases
    from common.cli.chainfiles import read
    from common.rulechains import commands

    read(file)
    results = _told(lambda: run_cases(file, commands=commands()))
    failed = sum(not result.passed for result in results)
    for result in results:
        if as_json:
            row = {"name": result.name, "passed": result.passed, "differences": result.differences}
            print(msgspec.json.encode(row).decode())
        elif not result.passed:
            print(f"FAILED  {result.name}\n" + "".join(f"        {line}\n" for line in result.differences))
    if not as_json:
        print(f"{len(results) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


@chain.command("run")
def run(
    file: FileName,
    input_file: Annotated[
        Path | None, typer.Option("--input", help="JSON or YAML file: name of an input -> value.")
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show every line that ran.")] = False,
    hook_point: PointName = "",
    seed: Annotated[int | None, typer.Option("--seed", help="Of choice and chance, to run the same again.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run chains on an input. Example: fieldpost chain run examples/gateway.yaml --hook-point post_resp --trace"""
    from common.cli.chainfiles import choose, inputs

    given = inputs(input_file)
    one = _told(lambda: choose(file, hook_point))
    point = one.point(given, seed)
    if unknown := [name for name in given if name not in point.inputs]:
        known = ", ".join(point.inputs)
        raise typer.BadParameter(f"a rule has no input {unknown[0]!r}; there are {known}", param_hint="--input")
    _told(lambda: point.mount(one.source))
    entries: list[Any] | None = [] if trace else None
    outcome = point.run(given, entries)
    if as_json:
        shown = {name: _plain(getattr(outcome, name)) for name in _OUTCOME}
        lines = [dict(zip(_TRACE, map(_plain, entry), strict=True)) for entry in entries or ()]
        print(msgspec.json.encode(shown | ({"trace": lines} if trace else {})).decode())
    else:
        _show_trace(entries or [])
        _show_outcome(outcome)
    sys.exit(0 if outcome.ok else 1)


@chain.command("explain")
def explain(file: FileName, hook_point: PointName = "") -> None:
    """Show the code that each line became. Example: fieldpost chain explain examples/gateway.yaml --hook-point net"""
    from common.chain.emitter import Config
    from common.chain.explain import explain as explained
    from common.cli.chainfiles import Chains, load

    def text(one: Chains) -> str:
        point = one.point()
        return explained(one.source, Config(point.inputs, point.engine.commands, point.verbs, False, False))

    found = _told(lambda: load(file, [hook_point] if hook_point else ()))
    print("\n\n".join(_told(lambda: [text(one) for one in found if hook_point in ("", one.name)])))


@chain.command("fmt")
def fmt(
    file: FileName,
    write: Annotated[bool, typer.Option("--write", help="Change the file.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it differs: exit code 1.")] = False,
) -> None:
    """Print chains in their one form. Example: fieldpost chain fmt examples/gateway.yaml"""
    from common.cli.chainfiles import formatted, read

    text = read(file)
    made = _told(lambda: formatted(text, file))
    if not (write or check):
        print(made, end="")
    elif made != text:
        if write:
            _write(file, made)
        print(f"{file} {'changed' if write else 'differs'}")
        sys.exit(1 if check else 0)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise typer.BadParameter(f"cannot write {file}: {exc.strerror}", param_hint="FILE") from exc


def _findings(one: Any, from_cyfs: bool) -> list[Any]:
    """What lint says of one list: not what it says of the global chains, which are lists of the file, too."""
    from common.chain.lint import lint as find

    if one.rule is not None:
        return find([one.source], point=one.point(), from_cyfs=from_cyfs)
    found = find([one.source], engine=one.engine(), from_cyfs=from_cyfs)
    own = (finding for finding in found if finding.where.partition(":")[0] in ("", one.source.id))
    return [finding for finding in own if one.mounted or finding.code != "PC-LINT-NO-VERB"]


def _show_finding(rule: str, finding: Any, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(finding.as_json() | ({"rule": rule} if rule else {})).decode())
    else:
        print(f"{f'rule {rule}: ' if rule else ''}{finding}\n")


def _show_trace(entries: list[Any]) -> None:
    from common.chain.values import shown

    for of_chain, block, line, ok, value, seconds in entries:
        status = "ok " if ok else "err"
        print(f"{of_chain}:{block}:{line:<4} {status} {seconds * 1e6:8.1f} us  {shown(value)[:100]}")


def _show_outcome(outcome: Any) -> None:
    from common.chain.values import shown

    for line in outcome.output:
        print(f"echo     {line}")
    print(f"verb     {outcome.verb} {outcome.target}".rstrip() + ("" if outcome.decided else "  (nothing decided)"))
    for name in ("value", "error", "resp"):
        if (value := getattr(outcome, name)) not in ("", None):
            print(f"{name:8} {value if isinstance(value, str) else shown(value)}")
    for name, value in outcome.outputs.items():
        print(f"{name:8} {shown(value)}")
    print(f"steps    {outcome.steps}" + (f", decided at {outcome.where}" if outcome.where else ""))


def _plain(value: Any) -> Any:
    """The value in JSON's types; where JSON would be too large for it, a text that says so."""
    from common.chain.errors import LimitError
    from common.chain.values import to_json

    try:
        return msgspec.json.decode(to_json(value)) if not isinstance(value, tuple) else list(value)
    except LimitError as exc:
        return f"({exc.message})"


def _told(work: Callable[[], T]) -> T:
    """Run ``work``; what is wrong with chains is printed, and ends with exit code 1."""
    from common.chain.errors import ChainErrors

    try:
        return work()
    except ChainErrors as exc:
        sys.stderr.write(f"{exc}\n")
        sys.exit(1)
