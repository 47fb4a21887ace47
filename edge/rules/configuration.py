"""What a node runs: manifests of files, layers over them, edits over those; checked as a whole, then applied (F4, F6).

A document has four maps: ``endpoints`` and ``rules`` (``namespace/name`` -> the manifest's spec), ``hooks``
(hook point -> label -> ``module:function``), ``hook_points`` (hook point -> chains). Files of manifests are the layer
under all others. The objects of the cloud are a part of ``node_gateway``; only they have a uid, whatever a file says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import structs

from common.checks import ENDPOINT_TYPES, check
from common.errors import ConfigError
from common.manifests import Finding, Manifest, nearest
from common.resource import DEFAULT_NAMESPACE
from common.rules import ENDPOINT_KIND, RULE_KIND, EndpointSpec, Metadata, Rule, RuleEndpoint, RuleSpec
from edge.flow.hooks import POINTS
from edge.rules.cloudlayer import Cloud, clashes, identified, layer_of, without_idle
from edge.rules.edits import Edit, apply
from edge.rules.fitting import Blame, Version
from edge.rules.layers import CLOUD_LAYER, LAYERS, Layer, Merged, Origin, merge

if TYPE_CHECKING:
    from common.chain.nodes import LibSource

HTTP_POINTS = ("pre_req", "main", "post_resp")
SECTIONS = ("endpoints", "rules", "hooks", "hook_points")
MANIFESTS = "manifests"  # the name of the lowest layer
_KEYS = {
    section: [field.encode_name for field in structs.fields(cls)]
    for section, cls in (("endpoints", EndpointSpec), ("rules", RuleSpec))
}


class Files(NamedTuple):
    """What the files say, read once: the layers below the cloud's objects, those above them, and what is unreadable."""

    below: list[Layer]
    above: list[Layer]
    unreadable: Sequence[Finding] = ()


class Wanted(NamedTuple):
    """What a node is to run: manifests, Python hooks (name.label -> ``module:function``), chains of hook points."""

    manifests: list[Rule | RuleEndpoint]
    hooks: dict[str, str]
    points: dict[str, LibSource]
    merged: Merged


class Configuration:
    """The configuration of a node, read again at every reload.

    Arguments: ``places`` are files and directories of manifests; ``directory`` holds the layers, "" for none.
    """

    def __init__(self, places: Sequence[str], directory: str = "", *, loops: bool = True) -> None:
        self._places, self._directory, self._loops = list(places), directory, loops
        self._edits: list[Edit] = []

    @property
    def edits(self) -> list[Edit]:
        """The edits of the overlay, in order."""
        return list(self._edits)

    def files(self) -> Files:
        """Read all files. Raises ConfigError for a layer that cannot be read."""
        layers, findings = self._manifests()
        read = []
        if self._directory:
            from edge.rules.layerfiles import load_layers  # YAML and TOML: only for a node that has files

            read = load_layers(Path(self._directory))
        last = LAYERS.index(CLOUD_LAYER)
        below = [layer for layer in read if LAYERS.index(layer.name) <= last]
        return Files(layers + below, [layer for layer in read if layer not in below], findings)

    def read(self, edits: Sequence[Edit] = ()) -> Wanted:
        """Read all files and return what they say, with ``edits`` over it. Raises ConfigError with all findings."""
        return self.wanted(self.files(), edits=edits)

    def wanted(self, files: Files, cloud: Cloud | None = None, edits: Sequence[Edit] = ()) -> Wanted:
        """Check what is in ``files`` and comes from the ``cloud``, with ``edits`` over it, and return what it says.

        Raises ConfigError with all findings.
        """
        wanted, findings = self._made(files, cloud or {}, edits)
        if findings:
            raise ConfigError("\n".join(map(str, findings)))
        return wanted

    def tried(self, files: Files, cloud: Cloud) -> tuple[Wanted, list[Blame]]:
        """As ``wanted``, with what keeps the ``cloud``'s objects from running beside ``files``; nothing is raised."""
        wanted, findings = self._made(files, cloud, ())
        blames = []
        for finding in findings:
            namespace, _, name = finding.name.partition("/")
            key = finding.kind, namespace, name
            subject = f"{finding.kind} {finding.name}" if finding.kind else finding.file
            blames.append(Blame(key if key in cloud else None, subject, str(finding), finding.file))
        return wanted, blames

    def _made(self, files: Files, cloud: Cloud, edits: Sequence[Edit]) -> tuple[Wanted, list[Finding]]:
        merged = merge(files.below)
        findings = [*files.unreadable, *clashes(merged, cloud)]
        if cloud:
            merge([layer_of(cloud)], merged)
        merge([without_idle(layer, merged) for layer in files.above], merged)
        if edits:
            merged = Merged(apply(merged.value, list(edits)), merged.origins)
        manifests, found = _manifests_of(merged, cloud)
        findings += found
        checked = check(manifests, ENDPOINT_TYPES, unreadable=findings, loops=self._loops)
        hooks, wrong_hooks = _hooks_of(merged)
        points, wrong_points = _points_of(merged)
        findings += [*checked, *wrong_hooks, *wrong_points]
        return Wanted([manifest.value for manifest in manifests], hooks, points, merged), findings

    def keep(self, edits: Sequence[Edit]) -> None:
        """Remember the overlay that is applied now; none after a reload."""
        self._edits = list(edits)

    def _manifests(self) -> tuple[list[Layer], list[Finding]]:
        files = [str(file) for place in self._places for file in _manifest_files(Path(place))]
        if not files:
            return [], []
        from common.manifestfiles import load_files  # YAML: only for a node that has files

        manifests, findings = load_files(files)
        findings += [f for f in check(manifests, unreadable=findings) if "stands twice" in f.text]
        layers = []
        for manifest in manifests:
            section = "rules" if isinstance(manifest.value, Rule) else "endpoints"
            name = "/".join(manifest.value.key)
            spec = msgspec.to_builtins(manifest.value.spec)
            spec |= {"metadata": msgspec.to_builtins(manifest.value.metadata)}
            lines = {(section, name, *key.split(".")[1:]): line for key, line in manifest.lines.items() if "." in key}
            lines[section, name] = manifest.line
            layers.append(Layer(MANIFESTS, manifest.file, {section: {name: spec}}, lines))
        return layers, findings


def _manifests_of(merged: Merged, cloud: Cloud) -> tuple[list[Manifest], list[Finding]]:
    manifests: list[Manifest] = []
    findings: list[Finding] = []
    for section, value in merged.value.items():
        if section not in SECTIONS or not isinstance(value, dict):
            text = f"{section!r} is unknown{nearest(section, SECTIONS)}" if section not in SECTIONS else "must be a map"
            findings.append(_finding(merged, (section,), text))
    origins: dict[tuple[str, ...], dict[str, Origin]] = {}  # of each rule and endpoint, by the key in its manifest
    for key, origin in merged.origins.items():
        origins.setdefault(key[:2], {})[".".join(("spec", *key[2:]))] = origin
    for section, kind in (("endpoints", ENDPOINT_KIND), ("rules", RULE_KIND)):
        for name, spec in _items(merged, section):
            namespace, _, short = name.rpartition("/")
            version = cloud.get((kind, namespace, short))
            made = _manifest(merged, section, kind, name, spec, origins.get((section, name), {}), version)
            if isinstance(made, Manifest):
                manifests.append(made)
            else:
                findings += made
    return manifests, findings


def _manifest(
    merged: Merged,
    section: str,
    kind: str,
    name: str,
    spec: Any,
    origins: Mapping[str, Origin],
    version: Version | None,
) -> Manifest | list[Finding]:
    at = (section, name)
    if not isinstance(spec, dict):
        return [_finding(merged, at, "must be a map", kind)]
    spec = dict(spec)
    namespace, _, short = name.rpartition("/")
    given = spec.pop("metadata", None) or {}
    if not isinstance(given, dict):
        return [_finding(merged, (*at, "metadata"), "metadata must be a map", kind)]
    metadata = {"name": short, "namespace": namespace or DEFAULT_NAMESPACE, **given}
    cls: Any = RuleSpec if kind == RULE_KIND else EndpointSpec
    known = _KEYS[section]
    wrong = [
        _finding(merged, (*at, key), f"unknown key {key}{nearest(key, known)}", kind)
        for key in spec
        if key not in known
    ]
    if wrong:
        return wrong
    try:
        model = msgspec.convert(_texts(spec), cls)
        meta = identified(msgspec.convert(metadata, Metadata), version, spec)
    except msgspec.ValidationError as exc:
        return [_finding(merged, at, str(exc), kind)]
    origin = merged.origin(at)
    value: Rule | RuleEndpoint = Rule(meta, model) if kind == RULE_KIND else RuleEndpoint(meta, model)
    lines = {key: found.line for key, found in origins.items()}
    files = {key: found.file for key, found in origins.items()}
    return Manifest(value, origin.file, origin.line, lines, files)


def _texts(spec: dict[str, Any]) -> dict[str, Any]:
    """Resource maps hold texts; YAML's numbers and truth values there are taken as they are written."""
    made = dict(spec)
    for key in ("sourceResource", "targetResource", "properties"):
        if isinstance(made.get(key), dict):
            made[key] = {name: _text(value) for name, value in made[key].items()}
    return made


def _text(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _hooks_of(merged: Merged) -> tuple[dict[str, str], list[Finding]]:
    hooks: dict[str, str] = {}
    findings: list[Finding] = []
    for point, labelled in _items(merged, "hooks"):
        if point not in POINTS:
            findings.append(_finding(merged, ("hooks", point), f"there is no hook {point!r}{nearest(point, POINTS)}"))
        elif not isinstance(labelled, dict):
            findings.append(_finding(merged, ("hooks", point), "hooks are a map: label -> module:function"))
        else:
            for label, target in labelled.items():
                if isinstance(target, str) and target.count(":") == 1 and all(target.split(":")):
                    hooks[f"{point}.{label}"] = target
                else:
                    text = f"{target!r} is no module:function"
                    findings.append(_finding(merged, ("hooks", point, label), text))
    return hooks, findings


def _points_of(merged: Merged) -> tuple[dict[str, LibSource], list[Finding]]:
    points: dict[str, LibSource] = {}
    findings: list[Finding] = []
    given = _items(merged, "hook_points")
    if not given:
        return points, findings
    from common.chain.errors import ChainErrors  # the language is loaded when a hook point needs it: start light
    from common.chain.loader import load_json

    known = (*POINTS, *HTTP_POINTS)
    for point, chains in given:
        at = ("hook_points", point)
        if point not in known:
            findings.append(_finding(merged, at, f"there is no hook point {point!r}{nearest(point, known)}"))
            continue
        if not chains:
            continue
        try:
            points[point] = load_json(msgspec.json.encode({point: chains}).decode())[point]
        except ChainErrors as exc:
            findings += [_finding(merged, at, str(error)) for error in exc.errors]
    return points, findings


def _items(merged: Merged, section: str) -> list[tuple[str, Any]]:
    value = merged.value.get(section)
    return list(value.items()) if isinstance(value, dict) else []


def _finding(merged: Merged, key: tuple[str, ...], text: str, kind: str = "") -> Finding:
    origin = merged.origin(key)
    return Finding(origin.file, origin.line, kind, key[1] if kind else "", text)


def _manifest_files(place: Path) -> list[Path]:
    found = sorted(path for path in place.glob("*.y*ml") if path.suffix in (".yaml", ".yml"))
    if place.is_dir() and not found:
        raise ConfigError("no *.yaml or *.yml in this directory of rules", file=str(place))
    return found or [place]
