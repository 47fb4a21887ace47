"""Settings of the dispatch queues."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


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
            "512 bytes of a message that holds fewer, larger ones, so this bounds memory too: a result that waits "
            "takes about 800 bytes, all together 50 MB. What does not fit is sent again by its node.",
        ),
    ] = 60_000
    rulestatus_workers: Annotated[
        int,
        Meta(ge=1, le=64, description="Workers that hand batches to the store; two keep its writer thread busy."),
    ] = 2
    rulestatus_batch_max: Annotated[
        int,
        Meta(
            ge=1,
            le=8192,
            description="rulestatus messages in one batch; larger batches wait longer, cost less each. The batches of "
            "all workers take memory beside what waits: 256 results a message, 25 MB.",
        ),
    ] = 64
    presence_max: Annotated[int, Meta(ge=1, description="Births, wills and controllers' presence that wait.")] = 4096
    nodestatus_max: Annotated[int, Meta(ge=1, description="nodestatus messages that wait.")] = 4096
    replies_max: Annotated[
        int,
        Meta(
            ge=1,
            description="response and error messages from nodes that wait. A change for the whole fleet brings "
            "one of each node at once; what does not fit is seen by the next nodestatus.",
        ),
    ] = 8192
    queries_max: Annotated[int, Meta(ge=1, description="Questions of nodes for the rules that they are to have.")] = 256
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
