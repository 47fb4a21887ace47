"""The Kubernetes source over the store: who owns a name, which generation is wanted, one bad object among good ones."""

from __future__ import annotations

from typing import Any

import pytest

from cloud.selection import ObjectKey
from cloud.sources.desired import Held
from cloud.sources.kubernetes import manifest_of
from cloud.sources.wanted import GENERATION, WantedInStore
from cloud.stores.sql import SqlStore
from common.manifests import Manifest
from common.rules import Rule
from tests.cloud.test_desired import downstream
from tests.kubernetes.samples import endpoint, manifests_of, rule

BUS, RELAY, OTHER = (ObjectKey(kind, "default", name) for kind, name in
                     (("RuleEndpoint", "bus"), ("Rule", "relay"), ("Rule", "other")))  # fmt: skip


@pytest.fixture
def wanted(store: SqlStore) -> WantedInStore:
    """Desired state in it."""
    return WantedInStore(downstream(store), store)


def put(value: dict[str, Any], uid: str, generation: int = 1) -> tuple[Manifest, Held]:
    """An object of the cluster's."""
    manifest, findings = manifest_of(value["kind"], value)
    assert manifest is not None, findings
    return manifest, Held(uid, generation)


async def test_uid_and_generation_are_known_after_a_restart(wanted: WantedInStore, store: SqlStore) -> None:
    """They travel in the manifest; so a new controller puts nothing again."""
    assert await wanted.put({BUS: put(endpoint(), "b", 1)}) == {}
    assert await wanted.put({RELAY: put(rule(), "r", 7)}) == {}
    assert await WantedInStore(downstream(store), store).owned() == {BUS: Held("b", 1), RELAY: Held("r", 7)}
    (relay,) = [m.value for m in await store.read(manifests_of) if isinstance(m.value, Rule)]
    assert relay.metadata.annotations == {GENERATION: "7"}


async def test_one_bad_object_keeps_out_no_other(wanted: WantedInStore) -> None:
    """All that can be are put at once; those that cannot say what is wrong with them."""
    await wanted.put({BUS: put(endpoint(), "b")})
    bad = put(rule("other", chain="nosuchcommand\n"), "o")
    refused = await wanted.put({RELAY: put(rule(), "r"), OTHER: bad})
    assert refused.keys() == {OTHER}
    assert "unknown command nosuchcommand" in refused[OTHER].text
    assert (await wanted.owned()).keys() == {BUS, RELAY}


async def test_a_change_that_breaks_another_object_is_refused(wanted: WantedInStore) -> None:
    """An endpoint whose new type its rules cannot use stays as it is; another one that comes with it is taken."""
    web = ObjectKey("RuleEndpoint", "default", "web")
    await wanted.put({BUS: put(endpoint(), "b")})
    await wanted.put({RELAY: put(rule(), "r")})
    refused = await wanted.put({BUS: put(endpoint(kind="rest"), "b", 2), web: put(endpoint("web", "rest"), "w")})
    assert refused.keys() == {BUS}
    assert "Rule default/relay" in refused[BUS].text
    assert await wanted.owned() == {BUS: Held("b", 1), RELAY: Held("r", 1), web: Held("w", 1)}


async def test_what_was_applied_by_others_keeps_its_name(store: SqlStore) -> None:
    """Neither put nor remove touches it; the refusal says what to do."""
    manifest, _ = put(endpoint(), "")
    there = downstream(store)
    await there.apply([manifest])
    wanted, web = WantedInStore(there, store), ObjectKey("RuleEndpoint", "default", "web")
    refused = await wanted.put({BUS: put(endpoint(), "b"), web: put(endpoint("web", "rest"), "w")})
    assert refused.keys() == {BUS}
    assert refused[BUS].reason == "Conflict"
    assert "fieldpost delete" in refused[BUS].text
    assert await wanted.remove({BUS: "b"}) == {}
    assert await wanted.owned() == {web: Held("w", 1)}
    assert len(await store.read(manifests_of)) == 2


async def test_what_comes_late_changes_nothing(wanted: WantedInStore, store: SqlStore) -> None:
    """An older generation of the same object, and the end of an object that was made again."""
    await wanted.put({BUS: put(endpoint(), "b", 5)})
    before = len(await store.read(manifests_of))
    assert await wanted.put({BUS: put(endpoint(kind="rest"), "b", 4)}) == {}
    assert await wanted.remove({BUS: "another"}) == {}
    assert await wanted.owned() == {BUS: Held("b", 5)}
    assert await wanted.put({BUS: put(endpoint(), "again", 1)}) == {}
    assert await wanted.owned() == {BUS: Held("again", 1)}
    assert len(await store.read(manifests_of)) == before


async def test_what_is_needed_is_not_removed(wanted: WantedInStore) -> None:
    """Of several, those go that can go."""
    web = ObjectKey("RuleEndpoint", "default", "web")
    await wanted.put({BUS: put(endpoint(), "b"), web: put(endpoint("web", "rest"), "w")})
    await wanted.put({RELAY: put(rule(), "r")})
    refused = await wanted.remove({BUS: "b", web: "w"})
    assert {key: refusal.reason for key, refusal in refused.items()} == {BUS: "InUse"}
    assert (await wanted.owned()).keys() == {BUS, RELAY}
