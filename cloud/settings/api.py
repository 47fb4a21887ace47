"""Settings of the HTTP API."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class ApiSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP API, health and metrics of this controller (experience U5, reliability R4)."""

    enabled: Annotated[bool, Meta(description="Serve the API; needs the extra api: pip install 'fieldpost[api]'.")] = (
        False
    )
    host: Annotated[
        str, Meta(description="Address to listen on; anything but loopback needs certificate_file and token_file.")
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port; 0 takes a free one.")] = 9070
    certificate_file: Annotated[str, Meta(description="PEM file with the certificate chain; empty: no TLS.")] = ""
    key_file: Annotated[str, Meta(description="PEM file with the private key of the certificate.")] = ""
    token_file: Annotated[
        str,
        Meta(
            description="File with one token a line, NAME ROLE TOKEN, ROLE viewer or operator; TOKEN as text or as "
            "sha256:HEX. Read anew when it changes. Empty: data_dir/api.token is made, for whoever may read it."
        ),
    ] = ""
    connections_max: Annotated[
        int, Meta(ge=1, description="Connections at a time; the next is closed at once and counted.")
    ] = 256
    requests_max: Annotated[
        int, Meta(ge=1, description="Requests that may run at a time, streams not; the next is answered 503.")
    ] = 32
    requests_per_s_max: Annotated[
        int, Meta(ge=1, description="Requests of one token in a second; the next is answered 429.")
    ] = 200
    failures_per_s_max: Annotated[
        int, Meta(ge=1, description="Wrong tokens from one address in a second; the next wrong one is answered 429.")
    ] = 10
    watchers_max: Annotated[int, Meta(ge=0, description="Streams of results at a time; the next is answered 503.")] = 64
    body_bytes_max: Annotated[
        int, Meta(ge=1024, description="Largest request body in bytes; more is answered 413.")
    ] = 4 << 20
    head_s_max: Annotated[
        float,
        Meta(gt=0, description="Seconds in which a request's head must have come; then the connection is closed."),
    ] = 10.0
    request_s_max: Annotated[
        float,
        Meta(gt=0, description="Seconds from a request's head to the end of its answer; then 504, or the end."),
    ] = 30.0
    write_s_max: Annotated[
        float,
        Meta(
            gt=0, description="Seconds that a reader of a stream may let a line wait; then it is cut off and counted."
        ),
    ] = 10.0
    heartbeat_s: Annotated[
        float, Meta(gt=0, description="Seconds of silence after which a stream sends a comment.")
    ] = 15.0
    audit_max: Annotated[int, Meta(ge=1, description="Changes kept in the audit log, the last ones.")] = 10_000
    metrics_rules_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Series of a rule, outcome and reason in /metrics, the first that came; the others are summed "
            "as rule _other.",
        ),
    ] = 10_000
