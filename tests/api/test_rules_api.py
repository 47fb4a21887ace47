"""Rules over the API: the control socket's operations, answered as the document says (experience U5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from cloud.api.answers import ANSWERS
from tests.api.served import VIEWER, served
from tests.cloud.rulesnode import endpoint, rule


async def test_rules_are_applied_shown_and_deleted(tmp_path: Path) -> None:
    """Each answer is of the type that the OpenAPI document gives; findings are one problem; a viewer may only look."""
    async with served(tmp_path) as api:

        async def ask(method: str, path: str, operation: str, **more: Any) -> Any:
            answer = await api.ask(method, path, **more)
            assert answer.status == 200, answer.body
            return msgspec.convert(answer.json(), ANSWERS[operation], strict=True)

        good = {"manifests": [{"text": endpoint() + rule(), "file": "a.yaml"}]}
        bad = {"manifests": [{"text": rule("bad", target="buss"), "file": "b.yaml"}]}
        assert (await api.ask("POST", "/apply", token=VIEWER, json=good)).status == 403
        assert (await ask("POST", "/check", "check", json=good)).objects == 2
        done = await ask("POST", "/apply", "apply", json=good)
        assert [(each.name, each.outcome, each.nodes) for each in done] == [
            ("bus", "created", 1),
            ("relay", "created", 1),
        ]
        answer = await api.ask("POST", "/apply", json=bad)
        assert answer.status == 422
        (finding,) = answer.json()["findings"]
        assert (finding["file"], finding["kind"], finding["name"]) == ("b.yaml", "Rule", "default/bad")
        assert answer.json()["detail"] == f"b.yaml:{finding['line']}: Rule default/bad: {finding['text']}"
        assert (await ask("GET", "/rules/default/relay", "describe.rule")).manifest["kind"] == "Rule"
        paged = {"/objects": "get.objects", "/endpoints": "get.objects", "/assignments": "get.assignments"}
        for path, operation in paged.items():
            rows = (await api.get(path))["items"]
            assert rows
            msgspec.convert(rows, list[ANSWERS[operation]], strict=True)
        assert (await ask("POST", "/rules/default/relay/disable", "disable"))[0].version == 2
        assert (await ask("POST", "/rules/default/relay/enable", "enable"))[0].version == 3
        assert (await api.ask("DELETE", "/objects/endpoint/default/bus")).status == 409
        assert (await api.ask("GET", "/rules/default/nope")).status == 404
        assert (await ask("DELETE", "/objects/rule/default/relay", "delete"))[0].outcome == "deleted"
        added = await ask("POST", "/nodes", "node.add", json={"node": "gw-9", "labels": {"site": "a"}})
        assert added.outcome == "added"
        assert (await ask("DELETE", "/nodes/gw-9", "node.delete")).outcome == "deleted"
