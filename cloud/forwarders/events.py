"""What a webhook is sent: CloudEvents 1.0 in JSON, with the headers of Standard Webhooks, which sign it (P8.4).

The id of an event is made of what it tells, so telling it again gives the same id: ``<uid or local>.<version>`` of a
rule's status under the source ``/<root>/status/<namespace>/<rule>``, the id in the ring of a single result.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from cloud.stores.base import ResultRow
from cloud.stores.status import RuleStatus
from common.errors import ConfigError
from common.models import rfc3339

ONE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
RULE_STATUS, RESULT = "fieldpost.rulestatus", "fieldpost.result"  # types of events
SECRET_PREFIX = "whsec_"  # of a secret in base64

Event = dict[str, Any]


def of_status(root: str, status: RuleStatus) -> Event:
    """Return the event of a rule's status; its time is that of the last result."""
    last = max(status.last_success, status.last_failure)
    return {
        "specversion": "1.0",
        "id": f"{status.uid or 'local'}.{status.version}",
        "source": f"/{root}/status/{status.namespace}/{status.rule}",
        "type": RULE_STATUS,
        "subject": f"{status.namespace}/{status.rule}",
        **({"time": rfc3339(last)} if last else {}),
        "datacontenttype": "application/json",
        "data": status,
    }


def of_result(root: str, row: ResultRow) -> Event:
    """Return the event of a single result; its time is when the cloud received it."""
    return {
        "specversion": "1.0",
        "id": str(row.id),
        "source": f"/{root}/results",
        "type": RESULT,
        "subject": f"{row.namespace}/{row.rule}",
        "time": rfc3339(row.received_at),
        "datacontenttype": "application/json",
        "data": row,
    }


def key_of(events: Sequence[Event]) -> str:
    """Return the idempotency key of a request: the same events always have the same."""
    text = "\n".join(f"{event['source']} {event['id']}" for event in events)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def body_of(events: Sequence[Event]) -> bytes:
    """Return one event as an object, several as an array."""
    return msgspec.json.encode(events[0] if len(events) == 1 else events)


def secrets_of(file: str) -> list[bytes]:
    """Return the secrets in ``file``, a line each; none without a file. Raises ConfigError, with no secret in it."""
    if not file:
        return []
    try:
        lines = [line.strip() for line in Path(file).read_text().splitlines()]
        found = [
            base64.b64decode(line.removeprefix(SECRET_PREFIX), validate=True)
            if line.startswith(SECRET_PREFIX)
            else line.encode()
            for line in lines
            if line
        ]
    except OSError as exc:
        raise ConfigError(f"secret_file {file}: {exc.strerror}") from exc
    except (binascii.Error, ValueError):
        raise ConfigError(f"secret_file {file}: not text, or not base64 after {SECRET_PREFIX}") from None
    if not all(found) or not found:
        raise ConfigError(f"secret_file {file} holds no secret")
    return found


def signature(secrets: Sequence[bytes], key: str, timestamp: int, body: bytes) -> str:
    """Return the header ``webhook-signature``: ``v1,`` and the base64 of HMAC-SHA256 over ``key.timestamp.body``."""
    text = f"{key}.{timestamp}.".encode() + body
    signed = (hmac.new(secret, text, hashlib.sha256).digest() for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in signed)
