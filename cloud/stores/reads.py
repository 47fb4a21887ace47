"""The store's reads: on threads and connections of their own, beside the writer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from cloud.settings import StoreSettings
from cloud.stores import queries
from cloud.stores.base import ALL_LETTERS, Counted, DeadLetter, ErrorRow, Letters, LossRow, NodeRow, ResultRow, RuleRow
from cloud.stores.losses import losses_of
from common.errors import StorageError

T = TypeVar("T")


@contextmanager
def storage_errors() -> Iterator[None]:
    """Raise what the database's driver raises as StorageError."""
    try:
        yield
    except DBAPIError as exc:
        raise StorageError(f"database: {exc.orig}") from exc


class SqlReads:
    """The reading half of a ``SqlStore``, which opens and closes ``_reader``."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._reader: Engine | None = None
        self._pool = ThreadPoolExecutor(settings.readers, thread_name_prefix="store-read")

    async def read(self, query: Callable[[Connection], T]) -> T:
        """See Store."""

        def work() -> T:
            if self._reader is None:  # somebody asks while the controller starts or stops
                raise StorageError("the store is not open; try again in a moment")
            with storage_errors(), self._reader.connect() as conn:
                return query(conn)

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def nodes(self) -> list[NodeRow]:
        """See Store."""
        return await self.read(queries.nodes_all)

    async def rules(
        self, *, namespace: str = "", rule: str = "", per_node: bool = False, after: Sequence[str] = (),
        limit: int | None = None,
    ) -> list[RuleRow]:  # fmt: skip
        """See Store."""
        return await self.read(lambda conn: queries.rules(conn, namespace, rule, per_node, after, limit))

    async def results(
        self, *, limit: int = 100, namespace: str = "", rule: str = "", status: str = "", since: int | None = None,
        before: int | None = None,
    ) -> list[ResultRow]:  # fmt: skip
        """See Store."""
        return await self.read(lambda conn: queries.results_of(conn, limit, namespace, rule, status, since, before))

    async def last_result(self) -> int:
        """See Store."""
        return await self.read(queries.last_result)

    async def errors(self, *, namespace: str = "", rule: str = "") -> list[ErrorRow]:
        """See Store."""
        return await self.read(
            lambda conn: queries.errors_of(conn, namespace, rule, self._settings.errors_per_rule_max)
        )

    async def dead_letters(self, *, limit: int = 100, which: Letters = ALL_LETTERS) -> list[DeadLetter]:
        """See Store."""
        return await self.read(lambda conn: queries.letters_of(conn, limit, which))

    async def losses(self, *, node: str = "", kind: str = "", limit: int = 100) -> list[LossRow]:
        """See Store."""
        return await self.read(lambda conn: losses_of(conn, node, kind, limit))

    async def counted(self) -> dict[str, Counted]:
        """See Store."""
        return await self.read(queries.counted)
