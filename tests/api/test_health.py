"""Health, readiness and metrics (experience U5, U6)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloud.api.health import Health
from cloud.metering import AGE_S, Metering
from cloud.settings.forward import ForwardSettings, LogSinkSettings
from cloud.stores.base import NodeRow, RuleRow
from cloud.stores.latency import durations
from common.clock import ManualClock, SystemClock
from common.errors import StorageError
from common.metrics import Histogram
from tests.api.served import VIEWER, served
from tests.docs_support.blocks import ROOT
from tests.support.wait import eventually

NAMES_OF_U6 = ("results", "nodes", "dead_letters", "dispatch_queue", "commit_seconds", "execution_seconds")
NAMES_OF_FORWARDERS = ("forwarder_lag_seconds", "forwarder_pending")


async def test_readiness_says_what_is_not_ready(tmp_path: Path) -> None:
    """readyz is 200 while broker and store are well, else 503 and names the part; healthz is 200 all the time."""
    async with served(tmp_path) as api:
        assert await api.get("//readyz", token="") == {"ready": True, "parts": {"broker": "ok", "store": "ok"}}
        api.hub.set_available(False)
        answer = await api.ask("GET", "//readyz", token="")
        assert answer.status == 503
        assert "not connected" in answer.json()["parts"]["broker"]
        assert answer.json()["parts"]["store"] == "ok"
        assert (await api.ask("GET", "//healthz", token="")).status == 200
        api.hub.set_available(True)
        await eventually(lambda: _ready(api))


async def _ready(api: Any) -> bool:
    return bool((await api.ask("GET", "//readyz", token="")).status == 200)


class _Store:
    """A store whose writes do what the test says."""

    def __init__(self) -> None:
        self.writes, self.error = 0, ""

    async def write(self, work: Any) -> None:
        self.writes += 1
        if self.error:
            raise StorageError(self.error)


async def test_a_store_that_takes_no_writes_is_not_ready() -> None:
    """What the store says is shown; probes in one second write once."""
    store, clock = _Store(), ManualClock()
    health = Health(store, clock, lambda: True)  # type: ignore[arg-type]
    assert (await health.ready()).parts == {"broker": "ok", "store": "ok"}
    await health.ready()
    assert store.writes == 1
    store.error = "database: read-only"
    clock.advance(2)
    found = await health.ready()
    assert (found.ready, found.parts["store"]) == (False, "database: read-only")


async def test_metrics_have_the_names_that_were_promised(tmp_path: Path) -> None:
    """/metrics is Prometheus' format with the names of U6, right counts, and needs a token."""
    forward = ForwardSettings(log=LogSinkSettings(enabled=True))
    async with served(tmp_path, cloud={"forward": forward}) as api:
        await api.results(1, 3)
        await api.results(4, 1, fail=True)
        await api.controller.store.keep_statistics(SystemClock().time(), everything=True)
        assert (await api.ask("GET", "//metrics", token="")).status == 401
        answer = await api.ask("GET", "//metrics", token=VIEWER)
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
        assert {f"fieldpost_cloud_{name}" for name in (*NAMES_OF_U6, *NAMES_OF_FORWARDERS)} <= set(found)
        results = found["fieldpost_cloud_results"].samples
        assert {(s.labels["outcome"], s.labels["reason"], s.value) for s in results} == {
            ("delivered", "", 3.0), ("failed", "timeout", 1.0),
        }  # fmt: skip
        assert all(s.labels["rule"] == "overheat" and s.labels["namespace"] == "default" for s in results)
        states = {s.labels["state"]: s.value for s in found["fieldpost_cloud_nodes"].samples}
        assert states == {"online": 1, "offline": 0, "unknown": 0, "conflict": 0}
        assert {s.labels["type"] for s in found["fieldpost_cloud_dispatch_queue"].samples} >= {"rulestatus"}
        for family in (f"fieldpost_cloud_{name}" for name in NAMES_OF_FORWARDERS):
            assert {s.labels["sink"] for s in found[family].samples} == {"log"}
        took = {(s.name.rpartition("_")[2], s.labels.get("le")): s.value
                for s in found["fieldpost_cloud_execution_seconds"].samples}  # fmt: skip
        assert (took["bucket", "0.00025"], took["bucket", "0.0005"], took["count", None]) == (3, 4, 4)  # 100 and 300 us
        commits = [s.value for s in found["fieldpost_cloud_commit_seconds"].samples if s.name.endswith("_count")]
        assert commits[0] >= 4
        assert not re.search(r"upstream_\w+_queued", answer.body.decode())


class _Counts:
    """A store with rows that the test gives."""

    def __init__(self) -> None:
        self.rows: list[RuleRow] = []
        self.reads = 0
        self.durations: dict[tuple[int, int], int] = {}

    async def rules(self) -> list[RuleRow]:
        self.reads += 1
        return self.rows

    async def nodes(self) -> list[NodeRow]:
        return []

    async def read(self, query: Any) -> Any:
        return self.durations if query is durations else 0

    def commit_seconds(self) -> Histogram:
        return Histogram()


async def test_names_from_nodes_make_no_end_of_series() -> None:
    """Above the bound all further series are one, no counter falls when new ones come, and scrapes share a reading."""
    store, clock = _Counts(), ManualClock()
    metering = Metering(store, store, clock, dict, 3)  # type: ignore[arg-type]

    async def read() -> dict[tuple[str, str], float]:
        clock.advance(AGE_S)
        await metering.refresh()
        (family,) = (family for family in metering.families() if family.name == "results")
        return {(labels["rule"], labels["reason"]): float(value) for labels, value in family.samples}  # type: ignore[arg-type]

    store.rows = [RuleRow("default", "b", "", "", outcomes={"FAIL/failed/x": 1, "FAIL/failed/y": 2, "SUCCESS": 3})]
    first = await read()
    assert first == {("b", "x"): 1, ("b", "y"): 2, ("b", ""): 3}
    store.rows = [
        RuleRow("default", "a", "", "", outcomes={f"FAIL/failed/{number}": 1 for number in range(50)}),
        RuleRow("default", "b", "", "", outcomes={"FAIL/failed/x": 4, "FAIL/failed/y": 2, "SUCCESS": 3}),
        RuleRow("default", "b", "made again", "", outcomes={"FAIL/failed/x": 1}),
    ]
    assert await read() == {("b", "x"): 5, ("b", "y"): 2, ("b", ""): 3, ("_other", ""): 50}
    await metering.refresh()
    assert store.reads == 2


async def test_the_histogram_of_durations_never_falls() -> None:
    """Hours that the store drops stay counted, and what is read twice counts once."""
    store, clock = _Counts(), ManualClock()
    metering = Metering(store, store, clock, dict, 3)  # type: ignore[arg-type]

    async def counted() -> int:
        clock.advance(AGE_S)
        await metering.refresh()
        (family,) = (family for family in metering.families() if family.name == "execution_seconds")
        return sum(family.samples[0][1].counts)  # type: ignore[union-attr]

    store.durations = {(0, 3): 5, (3600, 3): 2}
    assert [await counted(), await counted()] == [7, 7]
    store.durations = {(3600, 3): 4, (7200, 9): 1}
    assert await counted() == 10


@pytest.mark.parametrize("module", ["cloud.__main__", "common.cli.looking", "fieldpost"])
def test_who_does_not_serve_the_api_does_not_load_it(module: str) -> None:
    """A controller with the API off, and the command line, import neither FastAPI nor uvicorn."""
    program = (
        f"import sys, {module}; print([m for m in ('fastapi', 'uvicorn', 'starlette', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_its_libraries_the_api_says_what_to_install(tmp_path: Path) -> None:
    """With the API on and FastAPI missing the controller ends with exit code 2 and one line."""
    program = "import sys; sys.modules['fastapi'] = None\nfrom cloud.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    wanted = ["--set", "cloud.api.enabled=true", "--data-dir", str(tmp_path / "data"), "--broker", "mqtt://127.0.0.1:1"]
    done = subprocess.run([sys.executable, "-c", program, *wanted], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "fieldpost cloud: cloud.api.enabled needs fastapi: pip install 'fieldpost[api]'\n"
