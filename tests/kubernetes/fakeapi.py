"""An API server over HTTP that keeps to Kubernetes' rules for custom resources, and breaks them when told to.

Kept: one resourceVersion for all; ``generation`` rises only with the spec; a write of the object leaves its status
alone and a write of the status everything else (only where the definition has the subresource); merge patches; pruning
and validation by the definition's own schema; preconditions; a write that changes nothing is none; lists in pages;
watches from a version, with bookmarks, 410 for what was compacted. Not kept: sign-in, admission, owners, other patches.
"""

from __future__ import annotations

import asyncio
import copy
import json
import ssl
import time
import uuid
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiohttp import web

from common.kube.resources import CRDS, ENDPOINTS, RULES, definition
from tests.kubernetes.schemas import drop_nulls, faults, prune

Object = dict[str, Any]
Key = tuple[str, str, str]  # plural, namespace, name
GROUP = "/apis/rules.kubeedge.io/v1"
HANG, CUT, LOST = "hang", "cut", "lost"  # never answer; close without doing it; do it and close without an answer


class Fault(NamedTuple):
    """What becomes of a call: an HTTP status with a body, or HANG, CUT or LOST."""

    what: int | str
    text: str = "injected"
    retry_after: int = 0


class Call(NamedTuple):
    """A call as it came."""

    at: float
    method: str
    path: str
    body: Any


class ApiError(Exception):
    """Ends a call with the API's Status object."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        self.code = code
        self.status = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
            "reason": reason, "message": message, "details": details or {},
        }  # fmt: skip


def kubeconfig(url: str) -> str:
    """A kubeconfig without sign-in."""
    return (
        "current-context: here\ncontexts: [{name: here, context: {cluster: here}}]\n"
        f"clusters: [{{name: here, cluster: {{server: '{url}'}}}}]\n"
    )


def merged(value: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for name, part in patch.items():
        if part is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), part)
    return result


class FakeApi:
    """See the top of the file. ``fault`` decides about each call; ``calls`` are all of them, in order."""

    def __init__(self, *, installed: bool = True) -> None:
        self.objects: dict[Key, Object] = {}
        self.definitions: dict[str, Object] = {}
        self.calls: list[Call] = []
        self.writes: dict[str, list[float]] = defaultdict(list)  # of status, by name: when
        self.fault: Callable[[str, str], Fault | None] = lambda method, path: None
        self.bookmarks = True
        self.token = ""
        self.port = 0
        self._version, self._compacted = 100, 0
        self._events: list[tuple[int, str, str, Object]] = []
        self._changed = asyncio.Event()
        self._watches: set[asyncio.Task[Any]] = set()
        for resource in (RULES, ENDPOINTS) if installed else ():
            self.define(definition(resource))

    # -- what tests do ---------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeApi]:
        """Listen on a free port; later on the same one again."""
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True, ssl_context=tls).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self.cut_watches()
            await runner.cleanup()

    def define(self, value: Object) -> Object:
        """Install a definition, served at once."""
        value = copy.deepcopy(value)
        value["metadata"] |= {"uid": str(uuid.uuid4()), "resourceVersion": self._next()}
        value["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
        self.definitions[value["metadata"]["name"]] = value
        return value

    def get(self, plural: str, name: str, namespace: str = "default") -> Object:
        """An object as it is now."""
        return copy.deepcopy(self.objects[plural, namespace, name])

    def apply(self, manifest: Object) -> Object:
        """Create or change an object, as ``kubectl apply`` does."""
        plural = "rules" if manifest["kind"] == "Rule" else "ruleendpoints"
        namespace, name = manifest["metadata"].get("namespace", "default"), manifest["metadata"]["name"]
        if (plural, namespace, name) in self.objects:
            return self._patch((plural, namespace, name), manifest, status=False)
        return self._create(plural, namespace, manifest)

    def delete(self, plural: str, name: str, namespace: str = "default") -> None:
        """Delete an object."""
        value = self.objects.pop((plural, namespace, name))
        value["metadata"]["resourceVersion"] = self._next()
        self._event("DELETED", plural, value)

    def compact(self) -> None:
        """Forget all events: watches from before are 410."""
        self._compacted, self._events = self._version, []

    def cut_watches(self) -> None:
        """Close the connection of every watch."""
        for task in self._watches:
            task.cancel()

    # -- calls -----------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        path = request.path
        self.calls.append(Call(time.monotonic(), request.method, path, json.loads(body) if body else None))
        fault = self.fault(request.method, path)
        if fault is not None and fault.what != LOST:
            return await self._broken(request, fault)
        try:
            if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
                raise ApiError(401, "Unauthorized", "Unauthorized")
            answer = await self._route(request, json.loads(body) if body else None)
        except ApiError as exc:
            answer = web.json_response(exc.status, status=exc.code)
        if fault is not None:
            return await self._broken(request, fault)
        return answer

    async def _broken(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if fault.what == HANG:
            await asyncio.Event().wait()
        if isinstance(fault.what, str):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        status = ApiError(fault.what, "Injected", fault.text).status
        headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
        return web.json_response(status, status=fault.what, headers=headers)

    async def _route(self, request: web.Request, body: Any) -> web.StreamResponse:
        method, path = request.method, request.path
        if path == CRDS or path.startswith(f"{CRDS}/"):
            return web.json_response(self._definition(method, path.removeprefix(CRDS).strip("/"), body))
        parts = path.removeprefix(GROUP).strip("/").split("/")
        namespace = ""
        if parts[0] == "namespaces":
            namespace, parts = parts[1], parts[2:]
        if not path.startswith(GROUP) or f"{parts[0]}.rules.kubeedge.io" not in self.definitions:
            return web.Response(status=404, text="404 page not found\n")
        plural, name, sub = (*parts, "", "")[:3]
        if not name:
            if method == "GET":
                watch = request.query.get("watch") in ("1", "true")
                return await (self._watch if watch else self._list)(request, plural, namespace)
            return web.json_response(self._create(plural, namespace, body), status=201)
        key = (plural, namespace, name)
        if key not in self.objects or (sub == "status" and not self._has_status(plural)):
            raise ApiError(404, "NotFound", f'{plural}.rules.kubeedge.io "{name}" not found', {"name": name})
        if method == "PATCH":
            if request.content_type != "application/merge-patch+json":
                raise ApiError(415, "UnsupportedMediaType", request.content_type)
            return web.json_response(self._patch(key, body, status=sub == "status"))
        if method == "DELETE":
            self.delete(plural, name, namespace)
            return web.json_response({"kind": "Status", "status": "Success"})
        return web.json_response(self.objects[key])

    def _definition(self, method: str, name: str, body: Any) -> Object:
        if method == "POST":
            return self.define(body)
        if name not in self.definitions:
            raise ApiError(404, "NotFound", f'customresourcedefinitions "{name}" not found', {"name": name})
        if method == "PUT":
            if body["metadata"].get("resourceVersion") != self.definitions[name]["metadata"]["resourceVersion"]:
                raise ApiError(409, "Conflict", "the object has been modified")
            return self.define(body)
        return self.definitions[name]

    def _version_of(self, plural: str) -> Object:
        version: Object = self.definitions[f"{plural}.rules.kubeedge.io"]["spec"]["versions"][0]
        return version

    def _has_status(self, plural: str) -> bool:
        return "status" in self._version_of(plural).get("subresources", {})

    def _checked(self, plural: str, value: Object) -> Object:
        schema = self._version_of(plural)["schema"]["openAPIV3Schema"]
        value = drop_nulls(prune(value, schema, top=True), schema)
        if found := list(faults(value, schema)):
            name = value["metadata"]["name"]
            raise ApiError(422, "Invalid", f'{value["kind"]} "{name}" is invalid: {"; ".join(found)}', {"name": name})
        return value

    def _create(self, plural: str, namespace: str, body: Object) -> Object:
        value = copy.deepcopy(body)
        name = value["metadata"]["name"]
        if (plural, namespace, name) in self.objects:
            raise ApiError(409, "AlreadyExists", f'{plural} "{name}" already exists', {"name": name})
        if self._has_status(plural):
            value.pop("status", None)
        value = self._checked(plural, value)
        value["metadata"] |= {
            "namespace": namespace, "uid": str(uuid.uuid4()), "generation": 1, "resourceVersion": self._next(),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        self.objects[plural, namespace, name] = value
        self._event("ADDED", plural, value)
        return copy.deepcopy(value)

    def _patch(self, key: Key, body: Object, *, status: bool) -> Object:
        plural, _, name = key
        old = self.objects[key]
        wanted = (body.get("metadata") or {}).get("resourceVersion", "")
        if wanted and wanted != old["metadata"]["resourceVersion"]:
            raise ApiError(
                409, "Conflict", f'Operation cannot be fulfilled on {plural} "{name}": modified', {"name": name}
            )
        new = merged(copy.deepcopy(old), body)
        if status:
            new = {**copy.deepcopy(old), **({"status": new["status"]} if "status" in new else {})}
        else:
            new["metadata"] |= {k: old["metadata"][k] for k in ("uid", "creationTimestamp", "generation", "namespace")}
            if self._has_status(plural):
                new.pop("status", None)
                new |= {"status": old["status"]} if "status" in old else {}
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        new = self._checked(plural, new)
        if new == old:
            return copy.deepcopy(old)
        if new["spec"] != old["spec"]:
            new["metadata"]["generation"] = old["metadata"]["generation"] + 1
        new["metadata"]["resourceVersion"] = self._next()
        self.objects[key] = new
        if status:
            self.writes[name].append(time.monotonic())
        self._event("MODIFIED", plural, new)
        return copy.deepcopy(new)

    # -- lists and watches -----------------------------------------------------------------------------------------

    def _next(self) -> str:
        self._version += 1
        return str(self._version)

    def _event(self, kind: str, plural: str, value: Object) -> None:
        self._events.append((int(value["metadata"]["resourceVersion"]), kind, plural, copy.deepcopy(value)))
        self._changed.set()
        self._changed = asyncio.Event()

    async def _list(self, request: web.Request, plural: str, namespace: str) -> web.StreamResponse:
        keys = sorted(key for key in self.objects if key[0] == plural and namespace in ("", key[1]))
        token, limit = request.query.get("continue", ""), int(request.query.get("limit", "0"))
        at, version = token.split(":") if token else ("0", str(self._version))
        if token and int(version) < self._compacted:
            raise ApiError(410, "Expired", "The provided continue parameter is too old")
        page = keys[int(at) : int(at) + limit] if limit else keys
        rest = len(keys) - int(at) - len(page)
        metadata = {"resourceVersion": version}
        if rest > 0:
            metadata |= {"continue": f"{int(at) + len(page)}:{version}"}
        items = [{k: v for k, v in self.objects[key].items() if k not in ("kind", "apiVersion")} for key in page]
        return web.json_response({"kind": "List", "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request, plural: str, namespace: str) -> web.StreamResponse:
        seen = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", "300"))):
                while True:
                    if seen < self._compacted:
                        status = ApiError(410, "Expired", f"too old resource version: {seen}").status
                        await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
                        return response
                    changed, until = self._changed, self._version
                    first = bisect_right(self._events, seen, key=lambda event: event[0])
                    for version, kind, of, value in self._events[first:]:
                        if version <= until and of == plural and namespace in ("", value["metadata"]["namespace"]):
                            await response.write(json.dumps({"type": kind, "object": value}).encode() + b"\n")
                    if self.bookmarks and until > seen:
                        mark = {"kind": "Rule", "metadata": {"resourceVersion": str(until)}}
                        await response.write(json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n")
                    seen = until
                    await changed.wait()
        except TimeoutError:
            return response
        finally:
            self._watches.discard(task)
