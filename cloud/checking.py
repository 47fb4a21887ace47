"""Checking manifests before they become desired: by the very code of the node, with all that is there (flow F4)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import structs

from cloud.stores.desired import API, KUBERNETES, Value, stamped
from common.checks import check
from common.manifests import Finding, Manifest
from common.rules import ENDPOINT_KIND, Rule

TAKEN = "this name is taken by what was applied with fieldpost: delete it there (fieldpost delete), or rename this one"
MANIFEST_BYTES_MAX = 65_536  # as JSON: what a node takes by default, and well below what a message holds

_OWNED = {KUBERNETES: "it belongs to Kubernetes: change it there, with kubectl", API: TAKEN}


def check_wanted(
    manifests: Sequence[Manifest], unreadable: Sequence[Finding], there: Sequence[tuple[Value, str]], origin: str
) -> list[Finding]:
    """Return all that is wrong with these manifests, and with desired rules that use an endpoint of theirs.

    An object that somebody else applied, by its origin, is his: its name is taken.

    Arguments: ``unreadable`` is what was found when their texts were loaded; ``there`` are the desired objects around
    them (``desired.read_around``), each with its origin; ``origin`` is who applies.
    """
    new = {(manifest.value.kind, manifest.value.key) for manifest in manifests}
    others = [Manifest(_bare(value)) for value, _ in there if (value.kind, value.key) not in new]
    specs = {(value.kind, value.key): value.spec for value, _ in there}
    changed = {
        manifest.value.key
        for manifest in manifests
        if manifest.value.kind == ENDPOINT_KIND
        and specs.get((ENDPOINT_KIND, manifest.value.key)) != manifest.value.spec
    }
    found = [*unreadable]
    for finding in check([*others, *manifests], unreadable=unreadable):
        namespace, _, name = finding.name.partition("/")
        if (finding.kind, (namespace, name)) in new or _uses(others, finding, changed):
            found.append(finding)
    owners = {(value.kind, value.key): owner for value, owner in there}
    for manifest in manifests:
        owner = owners.get((manifest.value.kind, manifest.value.key), origin)
        if owner != origin:
            found.append(manifest.finding("metadata.name", _OWNED[owner]))
        size = len(msgspec.json.encode(stamped(manifest.value, "", 0)))
        if size > MANIFEST_BYTES_MAX:
            text = f"{size} bytes as JSON, at most {MANIFEST_BYTES_MAX}"
            found.append(manifest.finding("spec", text))
    return sorted(found, key=lambda finding: (finding.file, finding.line))


def _bare(value: Value) -> Value:
    """A desired object without its chains: they were checked when it came, and no endpoint changes what they are."""
    if not isinstance(value, Rule):
        return value
    return structs.replace(value, spec=structs.replace(value.spec, chain="", chains=None))


def _uses(others: Sequence[Manifest], finding: Finding, changed: set[tuple[str, str]]) -> bool:
    """True when the finding is about a rule that uses an endpoint which changes now."""
    for manifest in others:
        value = manifest.value
        if isinstance(value, Rule) and (value.kind, "/".join(value.key)) == (finding.kind, finding.name):
            namespace = value.metadata.namespace
            return not changed.isdisjoint({(namespace, value.spec.source), (namespace, value.spec.target)})
    return False
