"""The local control socket: how the command line asks a running agent or controller (architecture decision 9a).

One request per connection, as lines of JSON: ``{"op": "...", "args": {...}}`` is answered by one line
``{"ok": true, "result": ...}``, or by one line ``{"ok": true, "item": ...}`` for each item of a stream and
``{"ok": true, "end": true}`` after the last; ``{"ok": false, "error": {"kind": ..., "text": ...}}`` ends either.
The socket has mode 0600: whoever runs the process, and root, may ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from common.errors import ConfigError, ControlError, FieldpostError

log = logging.getLogger(__name__)

REQUEST_BYTES_MAX = 4 * 1024 * 1024
REPLY_BYTES_MAX = 64 * 1024 * 1024
CLIENTS_MAX = 32
CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 10.0  # for a client to send its request
REPLY_TIMEOUT_S = 60.0  # for an answer that is no stream
STOP_GRACE_S = 2.0  # for operations that are no streams to end by themselves
ADDRESS_BYTES_MAX = 100  # of a unix socket's address; sun_path holds 108 on Linux and 104 elsewhere

Operation = Callable[[dict[str, Any]], Awaitable[Any] | AsyncIterator[Any]]

# socket name -> what answers there, and how to start it
_OWNERS = {
    "cloud.sock": ("cloud controller", "fieldpost cloud"),
    "edge.sock": ("edge agent", "fieldpost edge"),
    "up.sock": ("fieldpost up", ""),
    "telemetry.sock": ("fieldpost telemetry", ""),
}


class _Request(msgspec.Struct):
    op: str
    args: dict[str, Any] = {}


def socket_path(data_dir: str | Path, side: str) -> Path:
    """Where the process of ``side`` (``edge`` or ``cloud``) with this data directory listens."""
    return Path(data_dir) / f"{side}.sock"


class ControlServer:
    """Serves operations on a unix socket; at most one server per path on a machine, held by a lock file beside it.

    Arguments:
        path: of the socket; its directory exists. Paths longer than a socket address work on Linux.
        operations: name -> ``async def(args) -> value`` or ``async def(args)`` with ``yield`` for a stream. Values are
            anything that JSON or a Struct can express. What an operation raises is its answer.
        clients_max: connections at a time; above that a client is refused with an error.
    """

    def __init__(
        self, path: str | Path, operations: Mapping[str, Operation], *, clients_max: int = CLIENTS_MAX
    ) -> None:
        self._path, self._operations, self._clients_max = Path(path), dict(operations), clients_max
        self._server: asyncio.Server | None = None
        self._lock: int | None = None
        self._clients: dict[asyncio.Task[Any], bool] = {}  # True while it streams
        self.requests = 0
        self.refused = 0

    def claim(self) -> None:
        """Keep others from this path before there is anything to ask. Raises ConfigError as ``start`` does."""
        if self._lock is None:
            self._lock = _take_lock(self._path)

    async def start(self) -> None:
        """Begin to listen. Raises ConfigError when a live process holds this path, or the path cannot be used."""
        self.claim()
        assert self._lock is not None
        extra: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        try:
            listener = _bind(self._path)
            self._server = await asyncio.start_unix_server(
                self._serve, sock=listener, limit=REQUEST_BYTES_MAX, backlog=self._clients_max, **extra
            )
        except BaseException:
            os.close(self._lock)
            self._lock = None
            raise

    async def stop(self) -> None:
        """Stop listening, cancel streams, let other operations end (at most 2 s), and remove the socket."""
        if self._server is not None:
            await self._end(self._server)
            self._server = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _end(self, server: asyncio.Server) -> None:
        server.close()
        for task, streams in self._clients.items():
            if streams:
                task.cancel()
        if self._clients:
            _, late = await asyncio.wait(list(self._clients), timeout=STOP_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await server.wait_closed()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if len(self._clients) >= self._clients_max:
                self.refused += 1
                await _answer(writer, {"ok": False, "error": _error(ControlError("too many clients at a time"))})
                return
            self._clients[task] = False
            await self._answer(task, reader, writer)
        except ConnectionError:
            log.debug("control: the client went away")
        except Exception:
            log.exception("control: a connection failed")
        finally:
            self._clients.pop(task, None)
            writer.close()

    async def _answer(
        self, task: asyncio.Task[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.requests += 1
        name = "?"
        try:
            request = await _read_request(reader)
            name = request.op
            operation = self._operations.get(name)
            if operation is None:
                raise ControlError(f"no operation {name!r} here; there are {', '.join(sorted(self._operations))}")
            outcome = operation(request.args)
            if isinstance(outcome, AsyncIterator):
                self._clients[task] = True
                await _stream_out(outcome, reader, writer)
            else:
                await _answer(writer, {"ok": True, "result": await outcome})
        except ConnectionError:
            raise
        except FieldpostError as exc:
            await _answer(writer, {"ok": False, "error": _error(exc)})
        except Exception as exc:
            log.exception("control: operation %s failed", name)
            await _answer(writer, {"ok": False, "error": _error(exc)})


async def call(path: str | Path, op: str, /, **args: Any) -> Any:
    """Ask for an operation and return its result. Raises ControlError: nobody answers, or the operation failed."""
    try:
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            async with _connection(Path(path), op, args) as reader:
                return (await _next_line(reader, op)).get("result")
    except TimeoutError:
        raise ControlError(f"{op}: no answer within {REPLY_TIMEOUT_S:g} s", kind="unreachable") from None


async def stream(path: str | Path, op: str, /, **args: Any) -> AsyncIterator[Any]:
    """Ask for a stream and yield its items until it ends. Close it to end it early. Raises ControlError as ``call``."""
    async with _connection(Path(path), op, args) as reader:
        while True:
            line = await _next_line(reader, op)
            if "item" not in line:
                if "result" in line:
                    yield line["result"]
                return
            yield line["item"]


@contextlib.asynccontextmanager
async def _connection(path: Path, op: str, args: dict[str, Any]) -> AsyncIterator[asyncio.StreamReader]:
    request = msgspec.json.encode(_Request(op, args)) + b"\n"
    if len(request) > REQUEST_BYTES_MAX:
        raise ControlError(f"{op}: a request of {len(request)} bytes, at most {REQUEST_BYTES_MAX}")
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.setblocking(False)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            with _address(path) as address:
                await asyncio.get_running_loop().sock_connect(client, address)
        reader, writer = await asyncio.open_unix_connection(sock=client, limit=REPLY_BYTES_MAX)
    except (OSError, TimeoutError, ConfigError) as exc:
        client.close()
        raise _unreachable(path, exc) from exc
    try:
        with contextlib.suppress(ConnectionError):  # a refusal may have come before the request was read
            writer.write(request)
            await writer.drain()
        yield reader
    finally:
        writer.close()


def _unreachable(path: Path, exc: Exception) -> ControlError:
    if isinstance(exc, PermissionError):
        return ControlError(f"{path}: permission denied; it belongs to the user that runs the process", kind="denied")
    what, command = _OWNERS.get(path.name, ("process", ""))
    start = f"start one with `fieldpost up` or `{command}`" if command else "start it"
    told = f"no {what} answers at {path}: {start}, or name its directory with --data-dir"
    return ControlError(told, kind="unreachable")


async def _next_line(reader: asyncio.StreamReader, op: str) -> dict[str, Any]:
    try:
        line = await reader.readuntil(b"\n")
        answer: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    except (asyncio.IncompleteReadError, ConnectionError):
        raise ControlError(f"{op}: the process ended before it answered", kind="unreachable") from None
    except asyncio.LimitOverrunError:
        raise ControlError(f"{op}: the answer is larger than {REPLY_BYTES_MAX} bytes") from None
    except msgspec.DecodeError as exc:
        raise ControlError(f"{op}: the answer is not JSON: {exc}") from exc
    if answer.get("ok"):
        return answer
    error = answer.get("error") or {}
    raise ControlError(str(error.get("text", "failed without a reason")), kind=str(error.get("kind", "")))


async def _read_request(reader: asyncio.StreamReader) -> _Request:
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            line = await reader.readuntil(b"\n")
        return msgspec.json.decode(line, type=_Request)
    except TimeoutError:
        raise ControlError(f"no request within {REQUEST_TIMEOUT_S:g} s") from None
    except asyncio.LimitOverrunError:
        raise ControlError(f"the request is larger than {REQUEST_BYTES_MAX} bytes") from None
    except asyncio.IncompleteReadError as exc:
        if not exc.partial:
            raise ConnectionResetError("no request") from None
        raise ControlError("the request is not one line of JSON") from None
    except msgspec.DecodeError as exc:
        raise ControlError(f"the request is not {{op, args}}: {exc}") from None


async def _stream_out(items: AsyncIterator[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Write items until they end or the client closes its side; then close the generator."""
    gone = asyncio.create_task(reader.read(1), name="control.client-gone")
    item: asyncio.Future[Any] | None = None
    try:
        while True:
            item = asyncio.ensure_future(anext(items, _END))
            await asyncio.wait((item, gone), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                return
            value = item.result()
            if value is _END:
                return await _answer(writer, {"ok": True, "end": True})
            await _answer(writer, {"ok": True, "item": value})
    finally:
        for future in (gone, item):
            if future is not None and not future.done():
                future.cancel()
        await asyncio.gather(*(future for future in (gone, item) if future is not None), return_exceptions=True)
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


_END = object()


async def _answer(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    line = msgspec.json.encode(value)
    if len(line) >= REPLY_BYTES_MAX:
        line = msgspec.json.encode({"ok": False, "error": _error(ControlError("the answer is too large"))})
    writer.write(line + b"\n")
    await writer.drain()


def _error(exc: BaseException) -> dict[str, str]:
    expected = isinstance(exc, FieldpostError)
    return {
        "kind": getattr(exc, "kind", "") or type(exc).__name__,
        "text": str(exc) if expected else f"internal error: {type(exc).__name__}: {exc}",
    }


def _take_lock(path: Path) -> int:
    """Lock ``<path>.lock``. The kernel drops the lock with the process, so what a dead one left can be replaced."""
    what, _ = _OWNERS.get(path.name, ("process", ""))
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigError(f"data_dir: cannot write {path}.lock: {exc.strerror}") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        raise ConfigError(
            f"another {what} is running with this data_dir ({path.parent}): stop it, or give this one its own data_dir"
        ) from exc
    return lock


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(path):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise ConfigError(f"data_dir: {path} exists and is not a socket")
            path.unlink()
        os.fchmod(listener.fileno(), 0o600)  # on Linux bind gives the file this mode, so it is never open to others
        with _address(path) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        raise ConfigError(f"data_dir: cannot listen at {path}: {exc.strerror or exc}") from exc
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """An address for ``path`` that fits a socket; a long one goes through a descriptor of its directory (Linux)."""
    if len(os.fsencode(path)) <= ADDRESS_BYTES_MAX:
        yield str(path)
        return
    if not os.path.isdir("/proc/self/fd"):
        raise ConfigError(f"data_dir: {path} is longer than the {ADDRESS_BYTES_MAX} bytes of a socket address")
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
