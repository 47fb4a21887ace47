"""Pages: every row once, whatever is added meanwhile; a cursor is only for what it was given for (experience U5)."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import msgspec

from tests.api.served import Served, served
from tests.cloud.node import node_on
from tests.cloud.rulesnode import endpoint, rule
from tests.cloud.samples import birth, ok, status
from tests.support.wait import eventually


async def _pages(api: Served, path: str, limit: int) -> list[list[Any]]:
    found, cursor = [], ""
    while True:
        mark = "&" if "?" in path else "?"
        page = await api.get(f"{path}{mark}limit={limit}" + (f"&cursor={cursor}" if cursor else ""))
        found.append(page["items"])
        assert len(page["items"]) <= limit
        if page["next"] is None:
            return found
        cursor = page["next"]


async def test_results_are_read_back_to_the_first(tmp_path: Path) -> None:
    """Pages of results go from the newest back; results that come meanwhile appear on no page after the first, and with
    since pages go forward.
    """
    async with served(tmp_path) as api:
        await api.results(1, 7)
        first = await api.get("/results?limit=3")
        await api.results(8, 2)
        second = await api.get(f"/results?limit=3&cursor={first['next']}")
        third = await api.get(f"/results?limit=3&cursor={second['next']}")
        sources = [[row["source_id"] for row in page["items"]] for page in (first, second, third)]
        assert sources == [["m7", "m6", "m5"], ["m4", "m3", "m2"], ["m1"]]
        assert third["next"] is None
        forward = await _pages(api, f"/results?since={first['items'][0]['id']}", 1)
        assert [row["source_id"] for page in forward for row in page] == ["m8", "m9"]
        assert [len(page) for page in await _pages(api, "/results?rule=none", 3)] == [0]


async def test_rows_with_a_key_are_each_on_one_page(tmp_path: Path) -> None:
    """Nodes, rules per node and dead letters come whole and in order, page by page, though rows go and come."""
    async with served(tmp_path) as api:
        for number in range(2, 6):
            async with node_on(api.hub, f"edge-{number}") as node:
                node.presence(birth(node=f"edge-{number}"))
                node.raw(f"fieldpost/up/edge-{number}/a:b/update/default/rulestatus/x", b"rubbish %d" % number)
        await eventually(lambda: api.controller.sessions.statistics()["births"] == 5)
        await eventually(lambda: api.controller.statistics()["refusals"]["letters"] == 4)
        nodes = await _pages(api, "/nodes", 2)
        assert [row["node"] for page in nodes for row in page] == [f"edge-{n}" for n in range(1, 6)]
        first = await api.get("/dlq?limit=2")
        await api.ask("POST", "/dlq/drop", json={"ids": [first["items"][0]["id"]]})
        second = await api.get(f"/dlq?limit=2&cursor={first['next']}")
        letters = [row["id"] for page in (first, second) for row in page["items"]]
        assert letters == sorted(letters, reverse=True)
        assert len(set(letters)) == 4
        assert second["next"] is None


async def test_lists_that_grow_with_the_fleet_are_read_page_by_page(tmp_path: Path) -> None:
    """Counts per node and assignments come whole, each row on one page and in order, and the store reads no more rows
    than a page and one.
    """
    async with served(tmp_path) as api:
        manifests = endpoint() + "".join(rule(f"rule-{number}") for number in range(4))
        await api.ask("POST", "/apply", json={"manifests": [{"text": manifests}]})
        for number in range(2, 5):
            async with node_on(api.hub, f"edge-{number}") as node:
                node.presence(birth(node=f"edge-{number}"))
            counted = [ok(f"own-{each}") for each in range(1, 4)]
            await api.controller.store.commit([status(1, counted, node=f"edge-{number}")])
        asked: list[int] = []
        read = api.controller.store.rules

        async def rules(**args: Any) -> Any:
            rows = await read(**args)
            asked.append(len(rows))
            return rows

        api.controller.store.rules = rules
        pages = await _pages(api, "/rules?per_node=true", 2)
        keys = [(row["rule"], row["node"]) for page in pages for row in page]
        assert keys == sorted({(f"own-{n}", f"edge-{node}") for n in range(1, 4) for node in range(2, 5)})
        assert max(asked) == 3
        await eventually(lambda: _has(api, "/assignments?limit=1000", 4 * 5))
        assigned = [row for page in await _pages(api, "/assignments", 3) for row in page]
        assert assigned == (await api.get("/assignments?limit=1000"))["items"]
        for key in (["get.rules", "a"], ["get.rules", 1, 2, 3, 4], ["get.rules", "a", "b", "c", "\0"]):
            cursor = urlsafe_b64encode(msgspec.json.encode(key)).decode()
            assert (await api.ask("GET", f"/rules?per_node=true&cursor={cursor}")).status == 400


async def _has(api: Served, path: str, rows: int) -> bool:
    return len((await api.get(path))["items"]) == rows


async def test_a_cursor_of_another_path_is_refused(tmp_path: Path) -> None:
    """Cursors of other paths and made-up ones are 400, never 500 and never another page."""
    async with served(tmp_path) as api:
        await api.results(1, 3)
        of_results = (await api.get("/results?limit=1"))["next"]
        for path in ("/nodes", "/errors", "/losses"):
            assert (await api.ask("GET", f"{path}?cursor={of_results}")).status == 400
        ends: list[Any] = [None, [], ["get.nodes", 1], ["get.results"], ["get.results", "since", -1], {}, [[1]]]
        ends += [["get.results", "before", 2**64], ["get.results", "before", True], ["get.results", "id", 1]]
        for end in ends:
            cursor = urlsafe_b64encode(msgspec.json.encode(end)).decode()
            assert (await api.ask("GET", f"/results?cursor={cursor}")).status == 400, end
            assert (await api.ask("GET", f"/nodes?cursor={cursor}")).status == 400, end
        for cursor in ("_", "bnVsbA", "%C3%A9", "a" * 2000):
            assert (await api.ask("GET", f"/results?cursor={cursor}")).status == 400, cursor
