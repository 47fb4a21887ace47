"""The cloud's settings: one frozen section, every attribute with unit, default and reason (experience U3)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from common.settings import SharedSettings


class QueueSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the dispatch queues, one queue per row of the table (P7.1). Overflow is discarded and counted."""

    receive_max: Annotated[
        int, Meta(ge=1, description="Messages of all types between the connection and the dispatcher.")
    ] = 10_000
    rulestatus_results_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Results that wait for the store, each message weighing four more. One is counted for each "
            "512 bytes of a message that holds fewer, larger ones, so this bounds memory too: 50 MB of content. "
            "What does not fit is sent again by its node.",
        ),
    ] = 100_000
    rulestatus_workers: Annotated[
        int,
        Meta(ge=1, le=64, description="Workers that hand batches to the store; two keep its writer thread busy."),
    ] = 2
    rulestatus_batch_max: Annotated[
        int,
        Meta(
            ge=1, le=8192, description="rulestatus messages in one batch; larger batches wait longer, cost less each."
        ),
    ] = 128
    presence_max: Annotated[int, Meta(ge=1, description="Births, wills and controllers' presence that wait.")] = 4096
    nodestatus_max: Annotated[int, Meta(ge=1, description="nodestatus messages that wait.")] = 4096
    replies_max: Annotated[int, Meta(ge=1, description="response and error messages from nodes that wait.")] = 1024
    refusals_max: Annotated[
        int, Meta(ge=1, description="Error replies of ours that wait to be sent; above that they are only counted.")
    ] = 1024
    refusals_per_node_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Error replies to one node in a second. A node that floods with rubbish gets no flood back.",
        ),
    ] = 20


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
        Meta(ge=65, description="Epochs of a node that are not retired (a birth names at most 64); more are refused."),
    ] = 128
    losses_per_node_max: Annotated[
        int, Meta(ge=1, description="Loss records kept per node; further ones are added up, one sum per kind (P5.8).")
    ] = 10_000
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


class CloudSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``cloud`` of the configuration."""

    controller: Annotated[
        str,
        Meta(
            pattern="^cloud-[0-9]+$",
            max_length=63,
            description="Id of this controller, cloud-<n>: its MQTT client id and its presence. One per process.",
        ),
    ] = "cloud-1"
    stale_s: Annotated[
        float,
        Meta(gt=0, description="Seconds without a word from a node that said online, after which it is unknown."),
    ] = 60.0
    store: StoreSettings = StoreSettings()
    queues: QueueSettings = QueueSettings()


class Settings(SharedSettings, frozen=True, forbid_unknown_fields=True):
    """Run one cloud controller: every result counted once, whatever is sent twice."""

    cloud: CloudSettings = CloudSettings()


def store_url(settings: Settings) -> str:
    """Return the URL of the store: the one that is set, or the SQLite file in the data directory."""
    return settings.cloud.store.url or f"sqlite:///{Path(settings.data_dir).absolute() / 'cloud.db'}"
