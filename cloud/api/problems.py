"""Errors of the API as problem details (RFC 9457): what went wrong, where, and what to do."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec
from starlette.responses import Response

from common.errors import (
    ConfigError,
    ControlError,
    FieldpostError,
    QueueFullError,
    RefusedError,
    RequestTimeoutError,
    StorageError,
    TransportError,
)
from common.manifests import Finding as ManifestFinding

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wrong with a manifest: in which file and line, 0 when unknown, and in which object."""

    text: str
    file: str = ""
    line: int = 0
    kind: str = ""
    name: str = ""

    @classmethod
    def of(cls, found: ManifestFinding) -> Finding:
        """The same, as JSON has it."""
        return cls(found.text, found.file, found.line, found.kind, found.name)


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error. ``type`` names it for programs, ``detail`` what is wrong, ``instance`` where, ``hint`` what to do;
    ``findings`` are those of manifests, which ``detail`` has one a line.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    hint: str = ""
    findings: list[Finding] = []


class ApiError(FieldpostError):
    """A request that is answered with a problem; ``name`` is one of ``PROBLEMS``."""

    def __init__(self, name: str, detail: str) -> None:
        self.name, self.detail = name, detail
        super().__init__(detail)


# name -> status, title, what to do
PROBLEMS: Mapping[str, tuple[int, str, str]] = {
    "bad_request": (400, "Wrong request", "Compare with GET /api/v1/openapi.json."),
    "unauthorised": (401, "No valid token", "Send Authorization: Bearer TOKEN, with a token of cloud.api.token_file."),
    "forbidden": (403, "Role not sufficient", "Use a token with the role operator."),
    "not_found": (404, "Not found", "Look at the list that it would be in; GET /api/v1/openapi.json has all paths."),
    "method_not_allowed": (405, "Method not allowed", "GET /api/v1/openapi.json lists the methods."),
    "body_timeout": (408, "Body too slow", "Send the body within cloud.api.request_s_max."),
    "conflict": (409, "Conflict", "Resolve what the detail names, then try again."),
    "body_too_large": (413, "Body too large", "Send less at once; cloud.api.body_bytes_max is the bound."),
    "media_type": (415, "Wrong content type", "Send Content-Type: application/json."),
    "refused": (422, "Refused", "Correct what the detail names; nothing was changed."),
    "too_many_requests": (429, "Too many requests", "Wait a second."),
    "internal": (500, "Fault of the controller", "See the controller's log."),
    "overloaded": (503, "Too much at a time", "Try again in a moment."),
    "unavailable": (503, "Not available", "Try again; GET /readyz says what is not ready."),
    "deadline": (504, "Took too long", "Ask for less, or try again."),
}
_OF_KIND = {"not_found": "not_found", "conflict": "conflict", "refused": "refused", "unreachable": "unavailable"}
_RETRY = {429, 503}


def problem(
    name: str,
    detail: str,
    instance: str = "",
    headers: Mapping[str, str] | None = None,
    findings: Sequence[ManifestFinding] = (),
) -> Response:
    """Return the answer for one of ``PROBLEMS``."""
    status, title, hint = PROBLEMS[name]
    body = Problem(
        f"urn:fieldpost:problem:{name}", title, status, detail, instance, hint, list(map(Finding.of, findings))
    )
    sent = dict(headers or {})
    if status in _RETRY:
        sent["Retry-After"] = str(RETRY_AFTER_S)
    if status == 401:
        sent["WWW-Authenticate"] = "Bearer"
    return Response(msgspec.json.encode(body), status, sent, MEDIA_TYPE)


def problem_of(exc: Exception, instance: str) -> Response:
    """Return the answer for what an operation raised; of what is no error of ours only that it happened."""
    if not isinstance(exc, FieldpostError):
        log.error("api: %s failed", instance, exc_info=exc)
        return problem("internal", "the operation failed; its error is in the controller's log", instance)
    detail = getattr(exc, "detail", "") or str(exc)
    return problem(_name_of(exc), detail, instance, findings=getattr(exc, "findings", ()))


def _name_of(exc: FieldpostError) -> str:
    if isinstance(exc, ApiError):
        return exc.name
    if isinstance(exc, ControlError):
        return _OF_KIND.get(exc.kind, "bad_request")
    if isinstance(exc, ConfigError | RefusedError):
        return "refused"
    if isinstance(exc, RequestTimeoutError):
        return "deadline"
    if isinstance(exc, StorageError | QueueFullError | TransportError):
        return "unavailable"
    return "refused"
