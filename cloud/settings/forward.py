"""Settings of the forwarders: which sinks are told of rules, how often, and how patiently (protocol P8)."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,46}[a-z0-9])?")

Interval = Annotated[
    float, Meta(ge=0, le=86_400, description="Seconds between two messages about the same rule; 0: every change.")
]
Batch = Annotated[int, Meta(ge=1, le=1000, description="Rules, or single results, told at once.")]
Rate = Annotated[
    float, Meta(ge=0, description="Rules, or single results, told in a second by all controllers; 0: any number.")
]


class WebhookSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One webhook: where it is, what it is told, and what it may not be."""

    url: Annotated[str, Meta(description="Where to POST. https, unless allow_http.")]
    tell: Annotated[
        Literal["rules", "results"],
        Meta(description="rules: the status of each rule that changed; results: every single result that is kept."),
    ] = "rules"
    secret_file: Annotated[
        str,
        Meta(
            description="File with the secret that signs, read for each request: plain text, or whsec_ and base64. "
            "Several lines sign with each, to change a secret. Empty: no signature."
        ),
    ] = ""
    timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="Seconds for a whole request: name, connection, answer.")
    ] = 10.0
    answer_bytes_max: Annotated[
        int, Meta(ge=0, le=1 << 24, description="Bytes read of an answer; the connection of a longer one is closed.")
    ] = 65_536
    batch_max: Batch = 100
    interval_s: Interval = 1.0
    rate_max: Rate = 0.0
    allow_http: Annotated[bool, Meta(description="Allow http://, where anybody on the way can read and change.")] = (
        False
    )
    allow_networks: Annotated[
        list[str],
        Meta(description="Networks such as 10.0.0.0/8 that may be reached though they are private, or of the host."),
    ] = []
    ca_file: Annotated[
        str, Meta(description="PEM file of the authorities that may sign the certificate; empty: the system's.")
    ] = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ValueError("url is not https://HOST/...")
        if parts.scheme == "http" and not self.allow_http:
            raise ValueError("url is http, where anybody on the way can read and change: use https, or allow_http")
        if "@" in parts.netloc:
            raise ValueError("url holds a user or password: use secret_file")
        for network in self.allow_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as exc:
                raise ValueError(f"allow_networks: {exc}") from exc


class MqttSinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Retained status of each rule at the controller's own broker, below ``<root>/status`` (P8.5)."""

    enabled: Annotated[bool, Meta(description="Publish it.")] = False
    batch_max: Batch = 100
    interval_s: Interval = 1.0
    rate_max: Rate = 0.0
    timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="Seconds for the broker to confirm; then it is published again.")
    ] = 10.0


class LogSinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line in the controller's log for each rule that changed (P8.5)."""

    enabled: Annotated[bool, Meta(description="Write it.")] = False
    batch_max: Batch = 100
    interval_s: Interval = 60.0
    rate_max: Rate = 0.0


class ForwardSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the status of rules goes, and how patiently. Every sink has its own queue, retries and breaker."""

    webhooks: Annotated[
        dict[str, WebhookSettings],
        Meta(description="Webhooks by name, of a-z 0-9 - and at most 48 characters; the sink is webhook:NAME."),
    ] = {}
    mqtt: MqttSinkSettings = MqttSinkSettings()
    log: LogSinkSettings = LogSinkSettings()
    poll_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="Seconds after which a sink looks for what other controllers committed."),
    ] = 5.0
    claim_s: Annotated[
        float,
        Meta(
            ge=1, le=3600, description="Seconds for which a controller holds what it tells; when it died, others wait "
            "that long. Longer than every timeout_s.",
        ),
    ] = 60.0  # fmt: skip
    failures_max: Annotated[
        int, Meta(ge=1, description="Batches that fail in a row, after which a sink is only probed.")
    ] = 5
    retry_first_s: Annotated[float, Meta(gt=0, description="Wait after the first failure; doubles, with jitter.")] = 0.5
    retry_max_s: Annotated[float, Meta(gt=0, le=3600, description="Longest such wait.")] = 60.0
    retry_after_max_s: Annotated[
        float, Meta(ge=0, le=3600, description="Longest wait that a sink may ask for (Retry-After).")
    ] = 600.0

    def __post_init__(self) -> None:
        for name, webhook in self.webhooks.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"webhooks: {name!r} is no name of a-z 0-9 - and at most 48 characters")
            if webhook.timeout_s > self.claim_s * 0.75:
                raise ValueError(f"webhooks.{name}.timeout_s is above three quarters of claim_s ({self.claim_s:g})")
        if self.mqtt.timeout_s > self.claim_s * 0.75:
            raise ValueError(f"mqtt.timeout_s is above three quarters of claim_s ({self.claim_s:g})")
