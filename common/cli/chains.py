"""``fieldpost chain lint|test|run|explain|fmt``: process chains, without an agent (chain-language L12).

A FILE is chains in YAML or JSON, manifests with rules that have chains, or, when its name ends with ``.chain``, the
text of one block. Exit codes: 0 fine, 1 findings or failures, 2 wrong use.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import typer

if TYPE_CHECKING:
    from common.chain.hookpoint import HookPoint
    from common.chain.nodes import LibSource

chain = typer.Typer(
    help="Process chains: check, test, run and format them.", no_args_is_help=True, rich_markup_mode=None
)

FileName = Annotated[Path, typer.Argument(metavar="FILE", help="Chains (YAML, JSON), rule manifests, or NAME.chain.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
PointName = Annotated[str, typer.Option("--hook-point", help="Of several hook points in the file, this one.")]


class _Chains(NamedTuple):
    """The chains of one hook point or one rule in a file."""

    name: str
    source: LibSource
    rule: bool


@chain.command("lint")
def lint(
    file: FileName,
    from_cyfs: Annotated[
        bool, typer.Option("--from-cyfs", help="Also say what chains of cyfs-gateway must change.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check chains without running them. Example: fieldpost chain lint examples/gateway.yaml"""
    from common.chain.lint import lint as find

    errors = findings = 0
    for one in _load(file):
        point = _rule_point() if one.rule else None
        for finding in find([one.source], point=point, from_cyfs=from_cyfs):
            findings += 1
            errors += finding.severity == "error"
            print(msgspec.json.encode(finding.as_json()).decode() if as_json else f"{finding}\n")
    if not as_json:
        print(f"{findings} findings, {errors} errors" if findings else "nothing to say")
    sys.exit(1 if errors else 0)


@chain.command("test")
def run_tests(file: FileName, as_json: AsJson = False) -> None:
    """Run the cases of a file against its chains. Example: fieldpost chain test examples/gateway.test.yaml"""
    from common.chain.casefile import run_cases
    from common.rulechains import commands

    results = _told(lambda: run_cases(file, commands=commands()))
    failed = 0
    for result in results:
        failed += not result.passed
        if as_json:
            print(
                msgspec.json.encode(
                    {"name": result.name, "passed": result.passed, "differences": result.differences}
                ).decode()
            )
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
    """Run chains on an input. Example: fieldpost chain run examples/threshold.yaml --input message.json --trace"""
    given = _inputs(input_file)
    one = _one(file, hook_point)
    point = _point_for(one, given, seed)
    _told(lambda: point.mount(one.source))
    lines: list[Any] | None = [] if trace else None
    outcome = point.run({name: value for name, value in given.items() if name in point.inputs}, lines)
    from common.chain.values import text, to_json

    if as_json:
        shown = {name: _plain(getattr(outcome, name)) for name in _OUTCOME}
        entries = [dict(zip(_TRACE, map(_plain, entry), strict=True)) for entry in lines or ()]
        print(msgspec.json.encode(shown | ({"trace": entries} if trace else {})).decode())
    else:
        for of_chain, block, line, ok, value, seconds in lines or ():
            print(
                f"{of_chain}:{block}:{line:<4} {'ok ' if ok else 'err'} {seconds * 1e6:8.1f} us  {to_json(value)[:100]}"
            )
        for line in outcome.output:
            print(f"echo     {line}")
        print(f"verb     {outcome.verb} {outcome.target}".rstrip() + ("" if outcome.decided else "  (nothing decided)"))
        for name in ("value", "error", "resp"):
            if (value := getattr(outcome, name)) not in ("", None):
                print(f"{name:8} {text(value)}")
        for name, value in outcome.outputs.items():
            print(f"{name:8} {to_json(value)}")
        print(f"steps    {outcome.steps}" + (f", decided at {outcome.where}" if outcome.where else ""))
    sys.exit(0 if outcome.ok else 1)


@chain.command("explain")
def explain(file: FileName, hook_point: PointName = "") -> None:
    """Show the code that each line became. Example: fieldpost chain explain examples/threshold.yaml"""
    from common.chain.emitter import Config
    from common.chain.explain import explain as explained

    for one in _load(file):
        if hook_point in ("", one.name):
            point = _point_for(one, {}, None)
            config = Config(point.inputs, point.engine.commands, point.verbs, False, False)
            print(_told(lambda one=one, config=config: explained(one.source, config)))


@chain.command("fmt")
def fmt(
    file: FileName,
    write: Annotated[bool, typer.Option("--write", help="Change the file.")] = False,
) -> None:
    """Print chains in their one form; exit code 1 when the file differs. Example: fieldpost chain fmt rules.yaml"""
    from common.chain.format import format_text
    from common.chain.format_file import format_yaml

    text = _text(file)
    formatted: str = _told(lambda: format_text(text) if file.suffix == ".chain" else format_yaml(text, file=str(file)))
    if write and formatted != text:
        file.write_text(formatted)
        print(f"{file} changed")
        return
    if not write:
        print(formatted, end="")
    sys.exit(1 if formatted != text else 0)


_OUTCOME = ("verb", "target", "decided", "value", "ok", "error", "resp", "outputs", "output", "steps", "where", "code")
_TRACE = ("chain", "block", "line", "ok", "value", "seconds")


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise typer.BadParameter(f"cannot read {file}: {exc}", param_hint="FILE") from exc


def _load(file: Path) -> list[_Chains]:
    """The chains of a file, by hook point or rule."""
    from common.chain.loader import load_file, single

    text = _text(file)
    if file.suffix == ".chain":
        return [_Chains("main", single(text), False)]
    if "rules.kubeedge.io/" in text:
        return list(_of_manifests(text, file))
    return [_Chains(name, source, False) for name, source in _told(lambda: load_file(file)).items()]


def _of_manifests(text: str, file: Path) -> Iterator[_Chains]:
    from dataclasses import replace

    from common.manifests import load_manifests
    from common.rulechains import source_of
    from common.rules import Rule

    manifests, findings = load_manifests(text, str(file))
    for finding in findings:
        sys.stderr.write(f"{finding}\n")
    if findings:
        sys.exit(1)
    for manifest in manifests:
        if not isinstance(manifest.value, Rule):
            continue
        spec = manifest.value.spec
        source = _told(lambda spec=spec: source_of(spec))
        if source is None:
            continue
        line = manifest.lines.get("spec.chain", 0) + ("\n" in spec.chain)
        if spec.chains is None and line:
            blocks = tuple(replace(block, line=line) for block in source.chains[0].blocks)
            source = replace(source, chains=(replace(source.chains[0], blocks=blocks),), file=str(file))
        yield _Chains("/".join(manifest.value.key), source, True)


def _one(file: Path, name: str) -> _Chains:
    found = [one for one in _load(file) if name in ("", one.name)]
    if not name:
        found = [one for one in found if one.name == "main"] or found
    if len(found) != 1:
        names = ", ".join(one.name for one in (found or _load(file)))
        raise typer.BadParameter(f"say which: {names}", param_hint="--hook-point")
    return found[0]


def _inputs(file: Path | None) -> dict[str, Any]:
    from common.yamlnodes import compose, plain

    if file is None:
        return {}
    roots = compose(_text(file), str(file))
    value = plain(roots[0], str(file)) if roots else {}
    if not isinstance(value, dict):
        raise typer.BadParameter("a map: name of an input -> value", param_hint="--input")
    return value


def _rule_point(seed: int | None = None) -> HookPoint:
    from common.chain.hookpoint import Engine
    from common.rulechains import commands, rule_point

    return rule_point(Engine(commands(), seed=seed, clock=_clock()))


def _point_for(one: _Chains, given: dict[str, Any], seed: int | None) -> HookPoint:
    from common.chain.hookpoint import Engine, HookPoint
    from common.chain.run import Access
    from common.rulechains import commands

    if one.rule:
        return _rule_point(seed)
    inputs = dict.fromkeys(given, Access.WRITABLE)
    return HookPoint(one.name, engine=Engine(commands(), seed=seed, clock=_clock()), inputs=inputs)


def _clock() -> Any:
    from common.clock import SystemClock

    return SystemClock()


def _plain(value: Any) -> Any:
    from common.chain.values import to_json

    return msgspec.json.decode(to_json(value)) if not isinstance(value, tuple) else list(value)


def _told(work: Any) -> Any:
    """Run ``work``; what is wrong with chains is printed, and ends with exit code 1."""
    from common.chain.errors import ChainErrors

    try:
        return work()
    except ChainErrors as exc:
        sys.stderr.write(f"{exc}\n")
        sys.exit(1)
