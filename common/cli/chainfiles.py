"""The files that ``fieldpost chain`` works on: chains in YAML or JSON, manifests with rules, or NAME.chain.

A file of chains may have several lists. Those that no other one calls are hook points' unless the user says which are;
the others are global chains, as for the cases of ``chain test``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import typer
from yaml.nodes import MappingNode, ScalarNode

from common.chain.chainfile import global_chains, hook_points
from common.chain.errors import ChainError, ChainErrors
from common.chain.format import format_text
from common.chain.format_file import format_blocks, format_yaml
from common.chain.hookpoint import Engine, HookPoint
from common.chain.loader import load_json, load_yaml, single
from common.chain.nodes import LibSource
from common.chain.run import Access
from common.chain.values import from_json
from common.clock import SystemClock
from common.errors import ConfigError
from common.manifestfiles import load_manifests
from common.manifests import Manifest
from common.rulechains import commands, rule_point, source_of
from common.rules import Rule
from common.yamlnodes import compose, plain, read_text


class Chains(NamedTuple):
    """One list of chains: of a hook point or a rule, or (``mounted`` is False) a global chain of the others.

    ``libs`` are the global chains that it may call. ``rule`` is the manifest that it stands in, where it does.
    """

    name: str
    source: LibSource
    libs: Mapping[str, LibSource]
    mounted: bool = True
    rule: Manifest | None = None

    def engine(self, seed: int | None = None) -> Engine:
        """An engine with the commands and the global chains that these chains may call."""
        return Engine(commands(), libs=self.libs, seed=seed, clock=SystemClock())

    def point(self, inputs: Collection[str] = (), seed: int | None = None) -> HookPoint:
        """The hook point of a rule; for other chains one with these inputs, all of them writable."""
        engine = self.engine(seed)
        if self.rule is not None:
            return rule_point(engine)
        return HookPoint(self.name, engine=engine, inputs=dict.fromkeys(inputs, Access.WRITABLE))


def read(file: Path, hint: str = "FILE") -> str:
    """The text of a file. Raises BadParameter where there is none."""
    try:
        return read_text(str(file)).replace("\r\n", "\n")
    except ConfigError as exc:
        raise typer.BadParameter(str(exc), param_hint=hint) from exc


def load(file: Path, points: Collection[str] = ()) -> list[Chains]:
    """All lists of a file. ``points`` are the names of those that are hook points', where the user says so.

    Raises ChainErrors for what cannot be read as chains, BadParameter for a file or a hook point that is not there.
    """
    text = read(file)
    if file.suffix == ".chain":
        found = [Chains("main", replace(single(text), file=str(file)), {})]
    elif is_manifest(text, file):
        found = list(_of_manifests(text, file))
    else:
        libs = (load_json if file.suffix == ".json" else load_yaml)(text, file=str(file))
        mounted = [name for name in libs if name in points] if points else hook_points(libs, commands())
        globals_ = global_chains(libs, mounted)
        found = [Chains(name, source, globals_, name in mounted) for name, source in libs.items()]
    names = [one.name for one in found]
    for name in points:
        if name not in names:
            raise typer.BadParameter(f"{file} has no {name!r}; there are {', '.join(names)}", param_hint="--hook-point")
    return found


def choose(file: Path, name: str) -> Chains:
    """The list that is named, else ``main``, else the only one. Raises as ``load``."""
    found = [one for one in load(file, [name] if name else ()) if one.mounted and name in ("", one.name)]
    if not name:
        found = [one for one in found if one.name == "main"] or found
    if not found:
        raise typer.BadParameter(f"{file} has no chains", param_hint="FILE")
    if len(found) > 1:
        raise typer.BadParameter(f"say which: {', '.join(one.name for one in found)}", param_hint="--hook-point")
    return found[0]


def inputs(file: Path | None) -> dict[str, Any]:
    """The inputs in a JSON or YAML file. Raises BadParameter for what is no map of names to JSON's values."""
    if file is None:
        return {}
    text = read(file, "--input")
    try:
        if file.suffix == ".json":
            value = from_json(text)
        else:
            roots = compose(text, str(file))
            value = plain(roots[0], str(file)) if roots else {}
    except (ConfigError, ValueError) as exc:
        what = str(exc) if isinstance(exc, ConfigError) else f"{file}: no JSON: {exc}"
        raise typer.BadParameter(what, param_hint="--input") from exc
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{file}: a map is needed, name of an input: value", param_hint="--input")
    return value


def formatted(text: str, file: Path) -> str:
    """The text of a file with its chains in canonical form, all else as it is; raises as ``load``.

    Of a rule that is its ``chain``; blocks of its ``chains`` are left as they are.
    """
    if file.suffix == ".chain":
        return format_text(text)
    if is_manifest(text, file):
        return format_blocks(text, [one.source for one in _of_manifests(text, file) if one.source.file])
    return format_yaml(text, file=str(file))


def is_manifest(text: str, file: Path) -> bool:
    """True for a text of manifests, which have an ``apiVersion`` where chains have names."""
    try:
        roots = compose(text, str(file))
    except ConfigError:
        return False  # whoever reads it as chains says what is wrong
    first = roots[0] if roots else None
    pairs = first.value if isinstance(first, MappingNode) else []
    return any(isinstance(key, ScalarNode) and key.value == "apiVersion" for key, _ in pairs)


def _of_manifests(text: str, file: Path) -> Iterator[Chains]:
    """The rules that have chains."""
    manifests, findings = load_manifests(text, str(file))
    if findings:
        raise ChainErrors([ChainError("PC-PARSE-MANIFEST", str(finding)) for finding in findings])
    wrong: list[ChainError] = []
    for manifest in manifests:
        try:
            source = source_of(manifest.value.spec) if isinstance(manifest.value, Rule) else None
        except ChainErrors as exc:
            wrong += [error.at(f"{file}, rule {'/'.join(manifest.value.key)}, {error.where}") for error in exc.errors]
            continue
        if source is not None:
            yield Chains("/".join(manifest.value.key), _placed(source, manifest, file), {}, rule=manifest)
    if wrong:
        raise ChainErrors(wrong)


def _placed(source: LibSource, manifest: Manifest, file: Path) -> LibSource:
    """The source with the line of the file at which its text begins, where that is known."""
    spec = manifest.value.spec
    line = manifest.lines.get("spec.chain", 0)
    if not line or not isinstance(manifest.value, Rule) or not manifest.value.spec.chain.strip():
        return source
    line += "\n" in spec.chain  # type: ignore[union-attr] # a text of several lines begins below its key
    chain = source.chains[0]
    blocks = tuple(replace(block, line=line) for block in chain.blocks)
    return replace(source, chains=(replace(chain, blocks=blocks),), file=str(file))
