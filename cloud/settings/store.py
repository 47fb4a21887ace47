"""Settings of the store."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from common.models import WINDOW


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The store and what it keeps. Counts are exact and never depend on the bounds here (P8.6)."""

    url: Annotated[
        str, Meta(description="SQLAlchemy URL of the store. Empty: the SQLite file cloud.db in data_dir.")
    ] = ""
    group_max: Annotated[
        int, Meta(ge=1, description="Operations (batches, births, dead letters) in one transaction.")
    ] = 256
    waiting_max: Annotated[
        int, Meta(ge=1, description="Operations that may wait for the writer; above that they are refused and counted.")
    ] = 10_000
    busy_timeout_ms: Annotated[
        int, Meta(ge=0, description="Milliseconds to wait for a SQLite file that another process holds.")
    ] = 5000
    readers: Annotated[int, Meta(ge=1, le=32, description="Connections, and threads, for reads.")] = 2
    epochs_per_node_max: Annotated[
        int,
        Meta(
            ge=WINDOW + 1,
            description="Epochs of a node that are not retired (a birth names at most 256); more are refused.",
        ),
    ] = 320
    losses_per_node_max: Annotated[
        int, Meta(ge=1, description="Loss records kept per node; further ones are added up, one sum per kind (P5.8).")
    ] = 10_000
    counters_per_node_max: Annotated[
        int,
        Meta(
            ge=2,
            description="Rows of counters (rule, status, outcome, reason) that a node may make. What would make a "
            "further one is counted under the rule _other.",
        ),
    ] = 100_000
    statistics_rows_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Rows of rates and latencies written at once, every 5 s. With thousands of rules at work a "
            "rule's turn comes later; counts are always of now.",
        ),
    ] = 5000
    rate_days: Annotated[int, Meta(ge=1, description="Days for which the executions of a rule per day are kept.")] = 30
    errors_per_rule_max: Annotated[
        int, Meta(ge=1, description="Distinct errors kept per rule, the last ones (P8.1).")
    ] = 32
    ring_rule_max: Annotated[int, Meta(ge=1, description="Single results kept per rule (P8.6).")] = 1000
    ring_total_max: Annotated[int, Meta(ge=1, description="Single results kept in all (P8.6).")] = 1_000_000
    ring_rate_max: Annotated[
        int,
        Meta(
            ge=0,
            description="Single results kept per rule, second and status; a flood of SUCCESS so never hides a FAIL.",
        ),
    ] = 50
    ring_rate_total_max: Annotated[
        int,
        Meta(ge=0, description="Single results kept per second and status in all, so cost does not grow with rules."),
    ] = 2000
    dead_letters_max: Annotated[int, Meta(ge=1, description="Dead letters kept, the last ones.")] = 10_000
    dead_letter_bytes_max: Annotated[
        int, Meta(ge=0, description="Bytes kept of a refused message, from its beginning (P4.2).")
    ] = 4096
