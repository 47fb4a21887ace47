"""The audit log in the store: changes that people made, the last ones (reliability R4)."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, delete, insert, select

from cloud.stores.tables import audit


class AuditRow(msgspec.Struct, frozen=True):
    """One change: when (unix seconds), at which controller, who in which role, from where, what, and what became of it.

    ``outcome`` is done, refused or failed; ``arguments`` are JSON, cut at their bound.
    """

    id: int
    at: float
    controller: str
    who: str
    role: str
    remote: str
    operation: str
    arguments: str
    outcome: str
    detail: str


def write_audit(conn: Connection, row: AuditRow, bound: int) -> None:
    """Add a row (its ``id`` is given by the database) and forget what is older than the last ``bound`` ones."""
    values = {name: getattr(row, name) for name in AuditRow.__struct_fields__ if name != "id"}
    done = conn.execute(insert(audit).values(values))
    newest = done.inserted_primary_key[0] if done.inserted_primary_key else 0
    conn.execute(delete(audit).where(audit.c.id <= newest - bound))


def audit_rows(conn: Connection, limit: int, before: int | None, operation: str, who: str) -> list[AuditRow]:
    """The newest ``limit`` rows, the last one first; with ``before`` those whose id is below it."""
    columns = [audit.c[name] for name in AuditRow.__struct_fields__]
    wanted = [column == value for column, value in ((audit.c.operation, operation), (audit.c.who, who)) if value]
    if before is not None:
        wanted.append(audit.c.id < before)
    query = select(*columns).where(*wanted).order_by(audit.c.id.desc()).limit(limit)
    return [AuditRow(*row) for row in conn.execute(query)]
