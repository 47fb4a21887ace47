"""A fake API server for each test, and a client to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

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
