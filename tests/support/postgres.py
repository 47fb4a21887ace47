"""PostgreSQL for tests: a server of the installed binaries, on a free port of loopback, thrown away at the end.

Durability is as in production (fsync and synchronous_commit are left on). ``FIELDPOST_TEST_POSTGRES`` names a server by
URL to use instead; its user must be allowed to create databases, and tests that kill the server are skipped.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from sqlalchemy.engine import make_url

from common.messaging.child import dies_with_parent
from tests.support.wait import free_port

NO_POSTGRES = "PostgreSQL is not installed: apt-get install postgresql, or name a server in FIELDPOST_TEST_POSTGRES"
URL_VARIABLE = "FIELDPOST_TEST_POSTGRES"
START_TIMEOUT_S = 30.0
CHUNK_BYTES = 65536
COMMIT = b"COMMIT\x00"  # as it stands on the wire; BEGIN says READ COMMITTED
_CONFIG = """
unix_socket_directories = ''
listen_addresses = '127.0.0.1'
max_connections = {connections}
shared_buffers = 32MB
max_wal_size = 256MB
logging_collector = off
deadlock_timeout = 200ms
"""


def find_postgres() -> Path | None:
    """The directory of the server's programs, the newest version; Debian keeps them outside the PATH."""
    on_path = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: int(each.parts[-3]))
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


class Postgres:
    """A server under test. It keeps its port and data over ``kill`` and ``start``.

    Arguments: ``directory`` for its data, made here, which the user who runs it can reach; ``connections`` is the most
    it accepts; ``lines`` are added to its configuration.
    """

    def __init__(self, directory: Path, *, connections: int = 100, lines: str = "") -> None:
        binaries = find_postgres()
        assert binaries is not None, NO_POSTGRES
        self._binaries, self._dir, self._port = binaries, directory, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._user = _other_user()
        directory.mkdir(parents=True, exist_ok=True)
        if self._user is not None:
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "-D", str(self._data), "-U", "fieldpost", "-A", "trust", "-E", "UTF8", "--no-sync")
        config = _CONFIG.format(connections=connections) + lines
        with open(self._data / "postgresql.conf", "a") as file:
            file.write(config)

    @property
    def _data(self) -> Path:
        return self._dir / "data"

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return self._port

    @property
    def pid(self) -> int:
        """Of the postmaster; 0 while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def url(self, database: str = "postgres", port: int = 0) -> str:
        """SQLAlchemy URL of a database, through another port if one is given."""
        return f"postgresql://fieldpost@127.0.0.1:{port or self._port}/{database}"

    def start(self) -> None:
        """Start, and return when it answers; after a kill it recovers first."""
        (self._data / "postmaster.pid").unlink(missing_ok=True)  # of a killed one: its shared memory is gone
        with open(self._dir / "log", "ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", str(self._data), "-p", str(self._port)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._dir,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                return psycopg.connect(_plain(self.url())).close()
            except psycopg.OperationalError as exc:
                if not self.pid or time.monotonic() > deadline:
                    said = (self._dir / "log").read_text(errors="replace")[-4000:]
                    raise RuntimeError(f"PostgreSQL does not start: {exc}\n{said}") from exc
                time.sleep(0.02)

    def stop(self) -> None:
        """Stop in an orderly way, ending all connections; nothing happens when it does not run."""
        self._end(signal.SIGINT)

    def drop(self) -> None:
        """Stop at once: what it held is not wanted any more, and to write it down takes as long as a test."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """SIGKILL to the server and all its processes, as a power cut of everything but the disk."""
        if self._process is not None:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            self._end(signal.SIGKILL)
            for pid in map(int, children):
                _kill(pid)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _run(self, program: str, *args: str) -> None:
        done = subprocess.run(self._command(program, *args), cwd=self._dir, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr[-2000:]}")

    def _command(self, program: str, *args: str) -> list[str]:
        """A command that ends with this process, as the user who may run it."""
        command = [str(self._binaries / program), *args]
        if self._user is None:
            return dies_with_parent(command)
        who = [f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]
        return ["setpriv", *who, "--pdeathsig=KILL", *command]


def _other_user() -> pwd.struct_passwd | None:
    """Who runs the server when this is root, which it refuses to be; None: nobody else is needed."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("there is no user postgres or nobody to run PostgreSQL as")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it saw its parent die and has ended
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.005)


def _plain(url: str) -> str:
    """The URL as libpq takes it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def execute(url: str, *statements: str) -> None:
    """Run statements outside any transaction, as an administrator would."""
    with psycopg.connect(_plain(url), autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)


class Schemas:
    """Stores of their own in one database: a schema each, which costs a hundredth of a database.

    Argument: ``url`` of the database.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._known: dict[Path, str] = {}

    def url_for(self, directory: Path) -> str:
        """URL of the schema that belongs to ``directory``; it is made, empty, when it is first asked for."""
        if directory not in self._known:
            self._known[directory] = self.new()
        return self._known[directory]

    def new(self) -> str:
        """URL of a new, empty schema."""
        name = f"s_{uuid4().hex}"
        execute(self.url, f"CREATE SCHEMA {name}")
        return make_url(self.url).update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(False)


@contextmanager
def server() -> Iterator[str]:
    """The URL of a database for the tests of one session: on a server of its own, or on the one that is named."""
    named = os.environ.get(URL_VARIABLE)
    if named:
        name = f"fieldpost_test_{uuid4().hex}"
        execute(named, f"CREATE DATABASE {name}")
        try:
            yield make_url(named).set(database=name).render_as_string(hide_password=False)
        finally:
            execute(named, f"DROP DATABASE {name} WITH (FORCE)")
        return
    with own_server(lines="fsync = off\n") as started:  # of what it holds nothing is to outlive the session
        yield started.url()


@contextmanager
def own_server(**options: Any) -> Iterator[Postgres]:
    """A started server that the test may kill; arguments as for ``Postgres``."""
    with tempfile.TemporaryDirectory(prefix="fieldpost-postgres-") as directory:
        os.chmod(directory, 0o755)  # the user who runs it is another one
        started = Postgres(Path(directory) / "server", **options)
        started.start()
        try:
            yield started
        finally:
            started.drop()


class CommitCutter:
    """A TCP proxy to a server that can lose the answer to a COMMIT: ``cut`` of them reach the server, and no answer
    comes back but the end of the connection.
    """

    def __init__(self, port: int) -> None:
        self._server_port, self.port = port, free_port()
        self.cut = self.lost = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> CommitCutter:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, out = await asyncio.open_connection("127.0.0.1", self._server_port)
        back = asyncio.create_task(_forward(there, writer))
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                cutting = self.cut > 0 and COMMIT in chunk
                if cutting:
                    self.cut -= 1
                    back.cancel()
                    await asyncio.wait({back})
                out.write(chunk)
                await out.drain()
                if cutting:
                    await there.read(1)  # it has committed
                    self.lost += 1
                    return
        except ConnectionError:
            return  # one side has gone, and with it this connection
        finally:
            back.cancel()
            writer.close()
            out.close()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        return
    finally:
        writer.close()
