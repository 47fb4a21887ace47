"""Settings of the edge agent: the ``edge`` section of the configuration file (experience U3)."""

from __future__ import annotations

import re
import socket
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from common.models import WINDOW
from common.resource import check_node_id
from common.rulesync import ITEMS_MAX
from common.settings import BrokerSettings, SharedSettings

_NOT_LABEL = re.compile(r"[^a-z0-9-]+")


class SpoolSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The durable store-and-forward of results (protocol P5.1, P5.3, P5.10)."""

    bytes_max: Annotated[
        int,
        Meta(
            ge=1 << 22,
            description="Bytes the spool may take on disk; what happens near the bound is fold_from and full.",
        ),
    ] = 1 << 30
    fold_from: Annotated[
        float, Meta(gt=0, le=1, description="Share of bytes_max from which the oldest results are folded.")
    ] = 0.8
    full: Annotated[
        Literal["drop_oldest", "block"],
        Meta(description="When nothing is left to fold: drop the oldest results, counted, or hold the sources."),
    ] = "drop_oldest"
    queue_results_max: Annotated[
        int, Meta(ge=1, description="Results that may wait for a commit; above that sources are held back.")
    ] = 50_000


class UplinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How results travel to the cloud (protocol P5.4 to P5.6)."""

    window_messages: Annotated[
        int,
        Meta(ge=1, le=WINDOW, description="Messages frozen and not yet confirmed; the cloud accepts no more than 256."),
    ] = WINDOW
    window_bytes: Annotated[int, Meta(ge=1 << 17, description="Bytes frozen and not yet confirmed.")] = 1 << 20
    batch_results: Annotated[
        int, Meta(ge=1, le=256, description="Most results in one message; 1 sends each alone.")
    ] = 256
    batch_bytes: Annotated[int, Meta(ge=1024, le=65536, description="Most bytes of results in one message.")] = 65536
    backlog_share: Annotated[
        float,
        Meta(
            ge=0.05,
            le=0.95,
            description="Share of the messages that goes to the backlog while live results wait, too; either takes all "
            "when the other is empty.",
        ),
    ] = 0.5
    live_rows_max: Annotated[
        int,
        Meta(ge=1, description="Rows of live results that may wait; when more do, all of them become backlog."),
    ] = 10_000
    resend_first_s: Annotated[
        float,
        Meta(gt=0, description="Seconds without a confirmation after which a message is sent again; then doubling."),
    ] = 2.0
    resend_max_s: Annotated[
        float, Meta(gt=0, description="Longest wait between two sends of one message, in seconds.")
    ] = 60.0
    nodestatus_s: Annotated[float, Meta(gt=0, description="Seconds between two statistics messages of this node.")] = (
        15.0
    )


class FlowSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the executions of one rule (flow F4, F5)."""

    running_max: Annotated[int, Meta(ge=1, description="Executions of one rule whose target has not answered yet.")] = (
        64
    )
    queue_max: Annotated[
        int, Meta(ge=1, description="Messages that wait for one rule; the next is dropped and counted as queue_full.")
    ] = 1000
    journal_after_s: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds after which an unfinished input is journalled on disk and its source acknowledged.",
        ),
    ] = 0.02
    loops: Annotated[
        bool, Meta(description="Let targets match sources of this node over MQTT 3.1.1, where nothing counts hops.")
    ] = False
    stop_s: Annotated[float, Meta(ge=0, description="Seconds that running executions get to end at a clean stop.")] = (
        5.0
    )


class DownlinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the cloud may put on this node (protocol P6)."""

    objects_max: Annotated[
        int,
        Meta(ge=1, le=ITEMS_MAX, description="Rules and endpoints of the cloud; a further one is refused, counted."),
    ] = ITEMS_MAX
    manifest_bytes_max: Annotated[
        int, Meta(ge=1024, le=131_072, description="Bytes of one manifest as JSON; a larger one is refused, counted.")
    ] = 65_536
    bytes_max: Annotated[
        int,
        Meta(
            ge=1 << 16,
            description="Bytes of all manifests together, and of those that wait to be applied; what is above is "
            "refused, or not taken at all, and counted.",
        ),
    ] = 64 << 20


class EventbusSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node's own message bus, for endpoints of type eventbus."""

    broker: Annotated[
        BrokerSettings | None, Meta(description="The local broker; left out, the uplink's broker serves for both.")
    ] = None
    session_expiry_s: Annotated[
        int,
        Meta(
            ge=0, description="Seconds for which the broker keeps what arrives while the agent is away; 0: not at all."
        ),
    ] = 86_400


class ListenerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An HTTP listener for sources; it runs while a rule needs it."""

    host: Annotated[
        str, Meta(description="Address to listen on; anything but loopback needs certificate_file and token_file.")
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port; 0 takes a free one.")] = 9080
    certificate_file: Annotated[str, Meta(description="PEM file with the certificate chain; empty: no TLS.")] = ""
    key_file: Annotated[str, Meta(description="PEM file with the private key of the certificate.")] = ""
    token_file: Annotated[
        str, Meta(description="File with the bearer token that callers must send; empty: none is asked for.")
    ] = ""
    body_bytes_max: Annotated[int, Meta(ge=1, description="Largest request body in bytes; more is answered 413.")] = (
        1 << 20
    )
    body_s_max: Annotated[float, Meta(gt=0, description="Seconds in which a request's body must have come.")] = 30.0
    requests_max: Annotated[
        int, Meta(ge=1, description="Requests that may wait for their answer; the next is answered 503.")
    ] = 256
    connections_max: Annotated[
        int, Meta(ge=1, description="Connections that may be open; a further one is closed at once, counted.")
    ] = 512
    idle_s_max: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds from the opening of a connection, and from each answer, until the whole head of the "
            "next request has come; then it is closed, counted.",
        ),
    ] = 60.0
    keys_max: Annotated[
        int, Meta(ge=1, description="Idempotency keys that are remembered; the oldest are forgotten.")
    ] = 10_000
    keys_s: Annotated[float, Meta(gt=0, description="Seconds for which an idempotency key is remembered.")] = 600.0


class HttpClientSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The connections to HTTP targets."""

    connections_per_rule_max: Annotated[
        int, Meta(ge=1, description="Connections of one rule to its target; shared with no other rule.")
    ] = 32
    ca_file: Annotated[
        str,
        Meta(
            description="PEM file of authorities that may sign the certificates of https targets, beside the system's."
        ),
    ] = ""
    answer_bytes_max: Annotated[int, Meta(ge=1, description="Largest answer in bytes; more fails the execution.")] = (
        1 << 20
    )


class EdgeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The edge agent."""

    node: Annotated[str, Meta(description="Node id, a DNS label. Empty: the host name, made into one.")] = ""
    labels: Annotated[dict[str, str], Meta(description="Labels by which rules choose nodes.")] = {}
    rules: Annotated[
        list[str], Meta(description="Files or directories (*.yaml) with Rule and RuleEndpoint manifests of this node.")
    ] = []
    layers: Annotated[
        str,
        Meta(description="Directory with the layers user_gateway, boot_gateway, node_gateway, post_gateway."),
    ] = ""
    spool: SpoolSettings = SpoolSettings()
    uplink: UplinkSettings = UplinkSettings()
    flow: FlowSettings = FlowSettings()
    downlink: DownlinkSettings = DownlinkSettings()
    eventbus: EventbusSettings = EventbusSettings()
    rest: ListenerSettings = ListenerSettings()
    servicebus: ListenerSettings = ListenerSettings(port=9060)
    http: HttpClientSettings = HttpClientSettings()


class Settings(SharedSettings, frozen=True, forbid_unknown_fields=True):
    """Run one edge agent: rules on local messages, and every result to the cloud."""

    edge: EdgeSettings = EdgeSettings()

    def node_id(self) -> str:
        """The node's id. Raises ResourceError when the configured one cannot be a node id."""
        return check_node_id(self.edge.node or node_id_of_host(socket.gethostname()))


def node_id_of_host(host: str) -> str:
    """Make a host name into a DNS label: its first part in lower case, everything else as ``-``."""
    label = _NOT_LABEL.sub("-", host.split(".")[0].lower()).strip("-")[:63].strip("-")
    return label or "node"
