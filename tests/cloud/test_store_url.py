"""A store URL that cannot be read (experience U2, reliability R4)."""

from __future__ import annotations

import pytest

from cloud.settings import StoreSettings
from cloud.stores.sql import SqlStore
from common.errors import StorageError


async def test_a_url_with_a_wrong_port_is_one_line_without_its_password() -> None:
    """U2, R4: a mistake beside a password is one clear error, no traceback, and does not repeat the password."""
    with pytest.raises(StorageError) as caught:
        await SqlStore("postgresql://user:canary@host:port/db", StoreSettings()).start()
    assert "canary" not in str(caught.value)
