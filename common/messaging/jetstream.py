"""Bounds for the streams in which the embedded broker keeps MQTT messages.

The NATS server makes these streams without a limit of their own. When the whole store is full it can no longer write a
session, so it refuses every client, also the one that would fetch what fills the store: only a person could help. So
each stream gets a bound below that of the store, and drops its oldest messages there (reliability R1: no broker feature
is needed, the uplink sends again). What is spoken here is the text protocol of NATS and the JSON API of JetStream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from common.errors import BrokerError

# Shares of the store: messages for sessions, retained messages, the sessions themselves, and the state of QoS 2.
STREAM_SHARES = {
    "$MQTT_msgs": 0.75,
    "$MQTT_rmsgs": 0.1,
    "$MQTT_sess": 0.05,
    "$MQTT_out": 0.05,
    "$MQTT_qos2in": 0.05,
}
# The limit of the server is out of reach: one below what the streams were promised by an earlier run, when the store
# was larger, would refuse to make them smaller.
SERVER_BYTES_MAX = 2**50
TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 1024 * 1024
_INBOX = "_INBOX.fieldpost"


async def bound_streams(host: str, client_port: int, store_bytes_max: int) -> None:
    """Give the message streams their share of the store. They exist once the first MQTT client was accepted.

    The bounds are stored with the streams; setting them again changes nothing. Raises BrokerError.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, client_port)
            try:
                await reader.readline()  # INFO
                writer.write(f'CONNECT {{"verbose":false,"pedantic":false}}\r\nSUB {_INBOX} 1\r\n'.encode())
                for stream, share in STREAM_SHARES.items():
                    await _bound(reader, writer, stream, int(store_bytes_max * share))
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError, LookupError, asyncio.IncompleteReadError) as exc:
        raise BrokerError(f"the embedded broker's streams cannot be bounded: {exc!r}") from exc


async def _bound(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: str, bytes_max: int) -> None:
    config = (await _request(reader, writer, f"$JS.API.STREAM.INFO.{stream}", b""))["config"]
    if config["max_bytes"] != bytes_max:
        changed = json.dumps({**config, "max_bytes": bytes_max}).encode()
        await _request(reader, writer, f"$JS.API.STREAM.UPDATE.{stream}", changed)


async def _request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, subject: str, payload: bytes
) -> dict[str, Any]:
    writer.write(f"PUB {subject} {_INBOX} {len(payload)}\r\n".encode() + payload + b"\r\n")
    while True:
        line = (await reader.readline()).decode()
        if not line or line.startswith("-ERR"):
            raise BrokerError(f"the embedded broker refused {subject}: {line.strip() or 'connection closed'}")
        if line.startswith("PING"):
            writer.write(b"PONG\r\n")
        elif line.startswith("MSG "):
            size = int(line.split()[-1])
            if size > ANSWER_BYTES_MAX:
                raise BrokerError(f"the embedded broker answered {subject} with {size} bytes")
            answer: dict[str, Any] = json.loads(await reader.readexactly(size + 2))
            if error := answer.get("error"):
                raise BrokerError(f"the embedded broker refused {subject}: {error}")
            return answer
