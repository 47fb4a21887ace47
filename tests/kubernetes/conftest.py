"""A fake API server for each test, and a client to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.settings import StoreSettings
from cloud.stores.sql import SqlStore
from common.clock import SystemClock
from common.kube.access import Access
from common.kube.client import KubeClient
from tests.kubernetes.fakeapi import FakeApi


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    """With our definitions installed."""
    async with FakeApi().running() as running:
        yield running


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[KubeClient]:
    """A client whose calls end within two seconds."""
    made = KubeClient(Access(api.url), SystemClock(), timeout_s=2)
    yield made
    await made.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    """A store of its own."""
    made = SqlStore(f"sqlite:///{tmp_path / 'cloud.db'}", StoreSettings())
    await made.start()
    yield made
    await made.stop()
