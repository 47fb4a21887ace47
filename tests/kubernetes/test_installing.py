"""``fieldpost kube install``: our definitions, and nobody else's unasked (protocol P8.3)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

import fieldpost
from common.errors import ConfigError, KubeError
from common.kube.client import KubeClient
from common.kube.installing import install
from common.kube.resources import CRDS, ENDPOINTS, PART_OF, RULES, definition
from common.rules import EndpointSpec, RetryPolicy, RuleSpec
from tests.kubernetes.fakeapi import FakeApi, Fault, kubeconfig
from tests.kubernetes.samples import endpoint, rule

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = ["rules.rules.kubeedge.io", "ruleendpoints.rules.kubeedge.io"]


async def test_first_nothing_then_created_then_unchanged(api: FakeApi, client: KubeClient) -> None:
    """A second time writes nothing; an older one of ours is brought up to date without asking."""
    api.definitions.clear()
    assert [tuple(done) for done in await install(client)] == [(name, "created") for name in NAMES]
    writes = len([call for call in api.calls if call.method != "GET"])
    assert [done.done for done in await install(client)] == ["unchanged", "unchanged"]
    assert len([call for call in api.calls if call.method != "GET"]) == writes
    older = definition(RULES)
    older["spec"]["versions"][0]["additionalPrinterColumns"].pop()
    api.define(older)
    assert [done.done for done in await install(client)] == ["updated", "unchanged"]
    assert api.definitions[NAMES[0]]["spec"] == definition(RULES)["spec"]


async def test_a_foreign_definition_is_refused_and_with_adopt_replaced(api: FakeApi, client: KubeClient) -> None:
    """Nothing at all is changed by the refusal; adopting keeps its labels and every object."""
    theirs = definition(RULES)
    theirs["metadata"]["labels"] = {"from": "kubeedge"}
    del theirs["spec"]["versions"][0]["subresources"]
    api.definitions.clear()
    api.define(theirs)
    api.apply(rule())
    with pytest.raises(ConfigError) as raised:
        await install(client)
    assert str(raised.value).startswith("rules.rules.kubeedge.io is there and not of fieldpost (KubeEdge's?)")
    assert "--adopt" in str(raised.value)
    assert list(api.definitions) == NAMES[:1]
    assert [done.done for done in await install(client, adopt=True)] == ["adopted", "created"]
    assert api.definitions[NAMES[0]]["metadata"]["labels"] == {"from": "kubeedge", PART_OF: "fieldpost"}
    assert api.get("rules", "relay")["spec"] == rule()["spec"]


async def test_it_waits_until_the_types_are_served(
    api: FakeApi, client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Done is when the cluster takes objects; names that another definition has are said, and so is a long wait."""
    monkeypatch.setattr("common.kube.installing.ESTABLISHED_S", 0.2)
    api.definitions[NAMES[0]]["status"] = {"conditions": []}
    with pytest.raises(KubeError, match="is not served"):
        await install(client, poll_s=0.02)
    taken = {"type": "NamesAccepted", "status": "False", "message": '"re" is already in use'}
    api.definitions[NAMES[1]]["status"] = {"conditions": [taken]}
    api.definitions[NAMES[0]]["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
    with pytest.raises(KubeError, match="already in use"):
        await install(client, poll_s=0.02)


@pytest.mark.parametrize("resource", [RULES, ENDPOINTS])
def test_deploy_has_the_definitions_of_the_package(resource: object) -> None:
    """``kubectl apply -f deploy/crds`` and ``fieldpost kube install`` bring the same: copy common/kube/crds there."""
    for file in (ROOT / "common" / "kube" / "crds").glob("*.yaml"):
        assert (ROOT / "deploy" / "crds" / file.name).read_bytes() == file.read_bytes()
    assert len(list((ROOT / "deploy" / "crds").iterdir())) == 2


def test_the_schema_names_all_that_a_manifest_may_have() -> None:
    """No field of ours is pruned, and none stands in the schema that no rule has."""
    spec = definition(RULES)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    names = {field.encode_name for field in msgspec.structs.fields(RuleSpec)}
    assert set(spec) == names | {"nodeSelector"}
    assert set(spec["retry"]["properties"]) == {f.encode_name for f in msgspec.structs.fields(RetryPolicy)}
    there = definition(ENDPOINTS)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert set(there["properties"]) == {f.encode_name for f in msgspec.structs.fields(EndpointSpec)}


def test_a_definition_keeps_what_it_must_and_prunes_the_rest(api: FakeApi) -> None:
    """Chains of any shape stay; a field that nobody knows goes; the status of a manifest is ignored."""
    chains = {"main": {"x": [{"deep": None}]}}
    made = api.apply({**rule(chains=chains, unknown=1), "status": {"successMessages": 9}})
    assert made["spec"]["chains"] == chains
    assert "unknown" not in made["spec"]
    assert "status" not in made
    assert api.apply(endpoint("web", "servicebus", service_port="80"))["spec"]["properties"] == {"service_port": "80"}


async def test_the_command(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints a line for each, and errors as one line."""
    config = tmp_path / "config"
    config.write_text(kubeconfig(api.url))
    api.definitions.clear()
    code, out = await _run("kube", "install", "--kubeconfig", str(config))
    assert (code, out) == (0, "".join(f"customresourcedefinition {name} created\n" for name in NAMES))
    monkeypatch.setenv("KUBECONFIG", str(config))
    api.fault = lambda method, path: Fault(403, "customresourcedefinitions is forbidden")
    code, out = await _run("kube", "install")
    assert code == 1
    assert out == ""


async def _run(*args: str) -> tuple[int, str]:
    import asyncio

    done = await asyncio.to_thread(CliRunner().invoke, fieldpost.app, list(args))
    return done.exit_code, done.stdout


def test_paths() -> None:
    """As the API has them."""
    assert RULES.collection() == "/apis/rules.kubeedge.io/v1/rules"
    assert RULES.status("plant", "a.b") == "/apis/rules.kubeedge.io/v1/namespaces/plant/rules/a.b/status"
    assert CRDS.startswith("/apis/apiextensions.k8s.io/v1/")
