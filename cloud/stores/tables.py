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

SCHEMA_VERSION = 5

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
    Column("retired_at", Double, nullable=False, server_default="0"),  # 0: it is one of the fleet
    Column("added_labels", Text, nullable=False, server_default="{}"),  # a person's word, over the node's own labels
    Column("chosen_for", Text, nullable=False, server_default=""),  # labels by which its rules were chosen last (JSON)
    Column("rules_revision", BigInteger, nullable=False, server_default="0"),  # raised when what it is to have changes
)

# The uuid is part of the key: a foreign spool with the same counter has a progress of its own and is never mixed in.
progress = Table(
    "progress",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("n", BigInteger, primary_key=True, autoincrement=False),
    Column("uuid", String(36), primary_key=True),
    Column("mark", BigInteger, nullable=False),
    Column("above", String(64), nullable=False),  # what is committed above the mark: ``cloud.progress.Progress``
    Column("state", Integer, nullable=False, server_default="0"),  # NORMAL, DOUBTFUL or REPLACED
    Column("session", BigInteger, nullable=False, server_default="0"),  # the highest that was born
    Column("ended", BigInteger, nullable=False, server_default="0"),  # its next sequence when a later epoch began
    sqlite_with_rowid=False,
)

NORMAL, DOUBTFUL, REPLACED = 0, 1, 2  # states of an epoch: counted, in conflict, given up by ``node replace`` (P5.8)

# By node first: a message is of one node and touches many rules, whose rows so lie side by side (decision 30).
counters = Table(
    "counters",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("namespace", String(63), primary_key=True),
    Column("rule", String(253), primary_key=True),
    Column("uid", String(64), primary_key=True),
    Column("status", String(7), primary_key=True),
    Column("outcome", String(64), primary_key=True),
    Column("reason", String(64), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("duration_sum", BigInteger, nullable=False),
    Column("duration_max", BigInteger, nullable=False),
    Column("first_at", Double, nullable=False),
    Column("last_at", Double, nullable=False),
    Index("counters_by_rule", "namespace", "rule"),
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

# Desired state (P6): what is wanted, whoever said so. ``version`` rises with each change of ``manifest``.
objects = Table(
    "objects",
    metadata,
    Column("kind", String(16), primary_key=True),  # Rule or RuleEndpoint
    Column("namespace", String(63), primary_key=True),
    Column("name", String(253), primary_key=True),
    Column("uid", String(64), nullable=False),  # anew when it is deleted and made again
    Column("version", BigInteger, nullable=False),
    Column("manifest", Text, nullable=False),  # JSON, as it goes to the nodes
    Column("origin", String(16), nullable=False),  # api or kubernetes
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    sqlite_with_rowid=False,
)

# Rises with each change of a whole table, so that what a controller holds of it in memory is known to be of now.
revisions = Table(
    "revisions",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# What is wanted and reported of an object on a node (P6.3). A row outlives the object: a result is taken only when its
# rule's uid has a row of its node here (P6.4). ``desired`` 0: the node is to have it no more.
assignments = Table(
    "assignments",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("namespace", String(63), primary_key=True),
    Column("name", String(253), primary_key=True),
    Column("uid", String(64), primary_key=True),
    Column("desired", BigInteger, nullable=False),  # version
    Column("offered", BigInteger, nullable=False, server_default="0"),  # the highest version that was desired here
    Column("reported", BigInteger, nullable=False, server_default="0"),  # version that the node runs, 0: none
    Column("refused", BigInteger, nullable=False, server_default="0"),  # version that the node refused last, 0: none
    Column("state", String(16), nullable=False),  # pending, applied, failed, removed
    Column("error", Text, nullable=False, server_default=""),
    Column("changed_at", Double, nullable=False),
    Column("sent_at", Double, nullable=False, server_default="0"),
    Index("assignments_by_object", "kind", "namespace", "name"),
    sqlite_with_rowid=False,
)

PENDING, APPLIED, FAILED, REMOVED = "pending", "applied", "failed", "removed"  # states of an assignment (P6.3)
STALE = "stale"  # shown in their place while nobody has heard of the node for long

# The outbox (P8.2), in two halves: the transaction that changes what is told of a rule raises its version here, once,
# however many sinks there are; what each sink was told is in ``deliveries``.
changes = Table(
    "changes",
    metadata,
    Column("namespace", String(63), primary_key=True),
    Column("rule", String(253), primary_key=True),
    Column("uid", String(64), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("changed_at", Double, nullable=False),
    sqlite_with_rowid=False,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("sink", String(64), primary_key=True),
    Column("namespace", String(63), primary_key=True),
    Column("rule", String(253), primary_key=True),
    Column("uid", String(64), primary_key=True),
    Column("version", BigInteger, nullable=False),  # that the sink has, 0: none
    Column("delivered_at", Double, nullable=False, server_default="0"),
    Column("claimed_until", Double, nullable=False, server_default="0"),
    Column("claimed_by", String(63), nullable=False, server_default=""),
    Column("attempts", BigInteger, nullable=False, server_default="0"),  # in a row that failed
    Column("next_at", Double, nullable=False, server_default="0"),
    Column("refused", Text, nullable=False, server_default=""),  # why the sink will never take it (P8.2)
    sqlite_with_rowid=False,
)

# How long executions took, as histograms that add up: ``bucket`` is ``cloud.stores.latency.bucket_of`` the duration,
# ``start`` the hour (unix seconds).
latencies = Table(
    "latencies",
    metadata,
    Column("namespace", String(63), primary_key=True),
    Column("rule", String(253), primary_key=True),
    Column("uid", String(64), primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("bucket", Integer, primary_key=True, autoincrement=False),
    Column("count", BigInteger, nullable=False),
    Index("latencies_by_start", "start"),
    sqlite_with_rowid=False,
)

# Executions in a span of time, which begins at ``start`` (unix seconds). Each execution stands in one row: minutes
# become hours, hours days (cloud.stores.rates).
rates = Table(
    "rates",
    metadata,
    Column("namespace", String(63), primary_key=True),
    Column("rule", String(253), primary_key=True),
    Column("uid", String(64), primary_key=True),
    Column("span", Integer, primary_key=True, autoincrement=False),  # its length in seconds
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("success", BigInteger, nullable=False),
    Column("fail", BigInteger, nullable=False),
    Index("rates_by_start", "span", "start"),
    sqlite_with_rowid=False,
)

# Conditions of rules (P8.1). A row is written at a transition only; ``since`` is when ``status`` last changed.
conditions = Table(
    "conditions",
    metadata,
    Column("namespace", String(63), primary_key=True),
    Column("rule", String(253), primary_key=True),
    Column("uid", String(64), primary_key=True),
    Column("type", String(16), primary_key=True),
    Column("status", String(7), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("message", Text, nullable=False),
    Column("since", Double, nullable=False),
    Index("conditions_by_status", "type", "status"),
    sqlite_with_rowid=False,
)

# Who does what only one controller may do at a time (P8.3, decision 10).
leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(63), nullable=False),
    Column("until", Double, nullable=False),
    sqlite_with_rowid=False,
)

# Changes that people made through the API or the control socket, the last ones (reliability R4).
audit = Table(
    "audit",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("at", Double, nullable=False),
    Column("controller", String(63), nullable=False),
    Column("who", Text, nullable=False),
    Column("role", String(16), nullable=False),
    Column("remote", Text, nullable=False),  # address, or "control socket"
    Column("operation", String(64), nullable=False),
    Column("arguments", Text, nullable=False),  # JSON, cut
    Column("outcome", String(16), nullable=False),  # done, refused or failed
    Column("detail", Text, nullable=False),
    sqlite_autoincrement=True,
)
