"""The settings that edge and cloud share: broker, topics, codec, logs, data directory (experience U3).

Every attribute has a description with unit and reason; ``docs/settings.md`` is generated from these.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Transport security towards the broker; used when the URL's scheme is ``mqtts``."""

    ca_file: Annotated[
        str,
        Meta(description="PEM file of the authorities that may sign the broker's certificate; empty: the system's."),
    ] = ""
    cert_file: Annotated[
        str, Meta(description="PEM file of this client's certificate, for brokers that ask for one.")
    ] = ""
    key_file: Annotated[str, Meta(description="PEM file of the private key for cert_file.")] = ""
    insecure: Annotated[
        bool, Meta(description="Do not verify the broker's certificate. For tests on loopback only; refused elsewhere.")
    ] = False


class BrokerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach an MQTT broker."""

    url: Annotated[
        str,
        Meta(description="mqtt://HOST:PORT or mqtts://HOST:PORT; several, with commas, are tried in turn."),
    ] = "mqtt://127.0.0.1:1883"
    protocol: Annotated[
        Literal["auto", "5", "3.1.1"],
        Meta(description="MQTT version. auto tries 5, then 3.1.1 when that is refused; everything works on 3.1.1."),
    ] = "auto"
    client: Annotated[
        Literal["native", "paho"],
        Meta(description="MQTT client: native is fieldpost's own, at a fraction of the cost; paho is the library."),
    ] = "native"
    username: Annotated[str, Meta(description="User name; by convention the client id (reliability R4).")] = ""
    password: Annotated[
        str, Meta(description="Password; masked everywhere it is shown. Prefer password_file.", extra={"secret": True})
    ] = ""
    password_file: Annotated[
        str, Meta(description="File that holds the password, read at each connect so that it can be replaced.")
    ] = ""
    keepalive_s: Annotated[
        int, Meta(ge=5, le=1200, description="Seconds between pings; a dead connection is noticed within twice that.")
    ] = 15
    window_messages: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="QoS 1 messages in flight; small, as what is not confirmed is sent again.",
        ),
    ] = 64
    queue_messages_max: Annotated[
        int,
        Meta(ge=1, description="Messages that wait for the window; above that a publish is refused, never dropped."),
    ] = 1000
    reconnect_max_s: Annotated[
        float, Meta(gt=0, description="Longest wait between connects in seconds; waits double from 0.2 s, with jitter.")
    ] = 30.0
    stall_s: Annotated[
        float,
        Meta(
            gt=0, description="Seconds without any PUBACK while messages are in flight after which the link reconnects."
        ),
    ] = 30.0
    tls: TlsSettings = TlsSettings()

    def __repr__(self) -> str:
        shown = msgspec.structs.asdict(self) | {"password": "***" if self.password else ""}
        return f"BrokerSettings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Logging: one line each, to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least severe level to write.")] = (
        "info"
    )
    format: Annotated[Literal["text", "json"], Meta(description="text for people, json for collectors.")] = "text"


class SharedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands at the top of the configuration file, for both sides."""

    root: Annotated[
        str, Meta(description="First topic level of everything fieldpost sends; lets several fleets share a broker.")
    ] = "fieldpost"
    codec: Annotated[
        Literal["json", "msgpack"],
        Meta(description="Codec of what this process sends; readers take both. json can be read in any MQTT client."),
    ] = "json"
    data_dir: Annotated[
        str, Meta(description="Directory for databases and the control socket, made with mode 0700 if missing.")
    ] = ".fieldpost"
    broker: BrokerSettings = BrokerSettings()
    log: LogSettings = LogSettings()
