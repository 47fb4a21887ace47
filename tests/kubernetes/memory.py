"""Desired state in memory, checked as the real one is: what the tests of the source look into."""

from __future__ import annotations

from collections.abc import Mapping

from cloud.selection import ObjectKey
from cloud.sources.desired import CONFLICT, IN_USE, INVALID, Held, Refusal
from common.checks import check
from common.manifests import Manifest
from common.rules import Rule


class MemoryDesired:
    """``wanted`` is what the nodes are to have; names in ``others`` are somebody else's."""

    def __init__(self) -> None:
        self.wanted: dict[ObjectKey, tuple[Manifest, Held]] = {}
        self.others: set[ObjectKey] = set()
        self.puts: list[ObjectKey] = []

    def names(self) -> list[str]:
        """Names of what is wanted, in order."""
        return sorted(key.name for key in self.wanted)

    async def put(self, manifests: Mapping[ObjectKey, tuple[Manifest, Held]]) -> dict[ObjectKey, Refusal]:
        """See Desired."""
        refused = {}
        for key, (manifest, held) in manifests.items():
            self.puts.append(key)
            before = self.wanted.get(key)
            if before and before[1].uid == held.uid and before[1].version > held.version:
                continue
            found = [m for other, (m, _) in self.wanted.items() if other != key and other.namespace == key.namespace]
            findings = [f for f in check([*found, manifest]) if f.name == f"{key.namespace}/{key.name}"]
            if key in self.others:
                refused[key] = Refusal(CONFLICT, "it was applied by somebody else")
            elif findings:
                refused[key] = Refusal(INVALID, "; ".join(finding.text for finding in findings))
            else:
                self.wanted[key] = manifest, held
        return refused

    async def remove(self, uids: Mapping[ObjectKey, str]) -> dict[ObjectKey, Refusal]:
        """See Desired."""
        refused = {}
        for key, uid in uids.items():
            users = [
                manifest.value.metadata.name
                for other, (manifest, _) in self.wanted.items()
                if isinstance(manifest.value, Rule)
                and key.kind == "RuleEndpoint"
                and other.namespace == key.namespace
                and key.name in (manifest.value.spec.source, manifest.value.spec.target)
            ]
            if users:
                refused[key] = Refusal(IN_USE, f"rules use it: {', '.join(users)}")
            elif key in self.wanted and self.wanted[key][1].uid == uid:
                del self.wanted[key]
        return refused

    async def owned(self) -> dict[ObjectKey, Held]:
        """See Desired."""
        return {key: held for key, (_, held) in self.wanted.items()}
