"""What an HTTP source answers when its execution has ended (flow F3)."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from edge.messages import Answer, Ending

RETRY_AFTER_S = 1
STATUS_OF = {  # reason code -> HTTP status
    "chain_reject": 403,
    "chain_no_verb": 403,
    "chain_error": 500,
    "chain_fault": 500,
    "chain_limit": 500,
    "hook_error": 500,
    "unknown_destination": 500,
    "target_unreachable": 502,
    "target_answer_too_large": 502,
    "target_url": 502,
    "target_topic": 502,
    "queue_full": 503,
    "suspended": 503,
    "target_timeout": 504,
    "loop": 508,
    "payload_too_large": 413,
}
WORDS = {
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    409: "Conflict", 408: "Request Timeout", 413: "Content Too Large", 422: "Unprocessable Content",
    500: "Internal Server Error", 501: "Not Implemented",
    502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout", 508: "Loop Detected",
}  # fmt: skip
# Of one connection only (RFC 9110 7.6.1), or made anew by whoever sends the answer.
HOP_BY_HOP = frozenset((
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "content-length", "date", "server", "host",
))  # fmt: skip

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


class Reply(NamedTuple):
    """An HTTP answer that is ready to be written."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


def reply_of(msgid: str, ending: Ending, answer: Answer | None) -> Reply:
    """The answer for an execution: the target's own when it gave one, else what the outcome means."""
    if answer is not None and (ending.outcome == "delivered" or ending.reason.startswith("target_status_")):
        return Reply(answer.status, answer.headers, answer.body)
    if ending.outcome == "delivered":
        return _json(200, {"msg_id": msgid})
    if ending.outcome == "filtered":
        return Reply(204)
    reason = ending.reason
    status = STATUS_OF.get(reason, 502 if reason.startswith("target_") else 500)
    return problem(status, reason, ending.detail, msgid=msgid)


def is_header(name: str, value: str) -> bool:
    """True for what can be a header of an answer: a token, a value without line breaks, not made by whoever writes."""
    return name not in HOP_BY_HOP and _NAME.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None


def accepted(msgid: str) -> Reply:
    """The answer in asynchronous mode: the input is on disk."""
    return _json(202, {"msg_id": msgid})


def problem(status: int, reason: str, detail: str = "", *, msgid: str = "", allow: str = "") -> Reply:
    """An error as RFC 9457 has it: reason code, words, and the message's id."""
    body = {"type": "about:blank", "title": WORDS.get(status, "Error"), "status": status, "reason": reason}
    if detail:
        body["detail"] = detail
    if msgid:
        body["msg_id"] = msgid
    headers = [("content-type", "application/problem+json")]
    if status == 503:
        headers.append(("retry-after", str(RETRY_AFTER_S)))
    if allow:
        headers.append(("allow", allow))
    return Reply(status, tuple(headers), msgspec.json.encode(body))


def _json(status: int, body: dict[str, str]) -> Reply:
    return Reply(status, (("content-type", "application/json"),), msgspec.json.encode(body))
