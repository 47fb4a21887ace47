"""The schema. One truth per fact: totals are sums of ``counters``, never columns of their own."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

SCHEMA_VERSION = 2

metadata = MetaData()
_Id = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER makes SQLite number the rows itself

schema = Table("fieldpost_schema", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

nodes = Table(
    "nodes",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("online", Boolean, nullable=False, default=False),
    Column("epoch_n", BigInteger, nullable=False, default=0),  # of the last birth; 0 before the first
    Column("epoch_uuid", String(36), nullable=False, default=""),
    Column("lowest_n", BigInteger, nullable=False, default=0),  # the lowest epoch that the last birth names
    Column("session", BigInteger, nullable=False, default=0),
    Column("version", Text, nullable=False, default=""),
    Column("rules_version", Text, nullable=False, default=""),
    Column("labels", Text, nullable=False, default="{}"),
    Column("status", Text, nullable=False, default=""),
    Column("first_seen", Double, nullable=False),
    Column("last_seen", Double, nullable=False),
    Column("since", Double, nullable=False),
    Column("retired_through", BigInteger, nullable=False, default=0),
    Column("cloud_lost", BigInteger, nullable=False, default=0),
    Column("duplicates", BigInteger, nullable=False, default=0),
    Column("refused", BigInteger, nullable=False, default=0),
    Column("conflict", Text, nullable=False, default=""),
    Column("born_n", BigInteger, nullable=False, server_default="0"),  # of the last birth that was not in doubt
    Column("claim", Text, nullable=False, server_default=""),  # the last birth, when it was in doubt (JSON)
    Column("reported_at", Double, nullable=False, server_default="0"),
)

# The uuid is part of the key: a foreign spool with the same counter has a progress of its own and is never mixed in.
progress = Table(
    "progress",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("n", BigInteger, primary_key=True, autoincrement=False),
    Column("uuid", String(36), primary_key=True),
    Column("mark", BigInteger, nullable=False),
    Column("bits", BigInteger, nullable=False),
    Column("state", Integer, nullable=False, server_default="0"),  # NORMAL, DOUBTFUL or REPLACED
    Column("session", BigInteger, nullable=False, server_default="0"),  # the highest that was born
    Column("ended", BigInteger, nullable=False, server_default="0"),  # its next sequence when a later epoch began
    sqlite_with_rowid=False,
)

NORMAL, DOUBTFUL, REPLACED = 0, 1, 2  # states of an epoch: counted, in conflict, given up by ``node replace`` (P5.8)

counters = Table(
    "counters",
    metadata,
    Column("namespace", String(63), primary_key=True),
    Column("rule", String(253), primary_key=True),
    Column("node", String(63), primary_key=True),
    Column("uid", String(64), primary_key=True),
    Column("status", String(7), primary_key=True),
    Column("outcome", String(64), primary_key=True),
    Column("reason", String(64), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("duration_sum", BigInteger, nullable=False),
    Column("duration_max", BigInteger, nullable=False),
    Column("first_at", Double, nullable=False),
    Column("last_at", Double, nullable=False),
    sqlite_with_rowid=False,
)

# ``digest`` stands for (reason, detail): details are too long for an index.
errors = Table(
    "errors",
    metadata,
    Column("namespace", String(63), primary_key=True),
    Column("rule", String(253), primary_key=True),
    Column("uid", String(64), primary_key=True),
    Column("digest", String(32), primary_key=True),
    Column("reason", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("first_at", Double, nullable=False),
    Column("last_at", Double, nullable=False),
    Column("node", String(63), nullable=False),
    Column("source_id", Text, nullable=False),
    Column("step", Text, nullable=False),
)

results = Table(
    "results",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("namespace", String(63), nullable=False),
    Column("rule", String(253), nullable=False),
    Column("uid", Text, nullable=False),
    Column("node", String(63), nullable=False),
    Column("status", String(7), nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("time", Text, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("duration_us", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("source_id", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("msg_id", Text, nullable=False),
    Index("results_by_rule", "namespace", "rule", "id"),
    sqlite_autoincrement=True,  # an id is never used again after a trim: watchers go on from the last they saw
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("node", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("at", Double, nullable=False),
    Column("times", BigInteger, nullable=False, server_default="1"),  # a conflict's messages come again and again
    Index("dead_letters_by_digest", "sha256"),
    sqlite_autoincrement=True,
)

# Epochs that were retired, the last ones: the late messages of these are told from those of another spool.
retired = Table(
    "retired",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("n", BigInteger, primary_key=True, autoincrement=False),
    Column("uuid", String(36), primary_key=True),
    Column("ended", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

losses = Table(
    "losses",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("id", String(512), primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("results", BigInteger, nullable=False),
    Column("messages", BigInteger, nullable=False),
    Column("epoch", Text, nullable=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("since", Text, nullable=False),
    Column("until", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("origin", String(5), nullable=False),  # edge or cloud
)
