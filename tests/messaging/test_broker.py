"""The embedded broker: a NATS server as a supervised child process (architecture decision 7)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from common.errors import BrokerError
from common.messaging.broker import NOT_INSTALLED, EmbeddedBroker
from common.messaging.probe import answers_mqtt
from tests.support.brokers import Embedded
from tests.support.client import Client
from tests.support.wait import eventually, free_port

ROOT = Path(__file__).parents[2]
PARENT = """
import asyncio, pathlib, sys
from common.messaging import broker
if sys.argv[2] == "no-death-signal":
    broker.dies_with_parent = list
async def main():
    embedded = broker.EmbeddedBroker(pathlib.Path(sys.argv[1]))
    await embedded.start()
    print(embedded.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def alive(pid: int) -> bool:
    """True while the process exists and is not a zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def listeners(pid: int) -> set[str]:
    """The hexadecimal local addresses on which the process listens."""
    links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:
                    found.add(fields[1].partition(":")[0])
    return found


def run_parent(directory: Path, how: str = "") -> tuple[subprocess.Popen[str], int]:
    """Start a process that owns an embedded broker, with nothing in PATH; return it and the server's process id."""
    parent = subprocess.Popen(
        (sys.executable, "-c", PARENT, str(directory), how), cwd=ROOT, env={}, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


async def test_free_port(embedded: Embedded) -> None:
    """Without a port it takes a free one, says which, and accepts MQTT when start returns."""
    assert embedded.port
    assert embedded.broker.url == f"mqtt://127.0.0.1:{embedded.port}"
    assert await answers_mqtt("127.0.0.1", embedded.port)


async def test_files_are_private(embedded: Embedded, tmp_path: Path) -> None:
    """Its directory is open to its owner only, and so is the configuration file."""
    assert stat.S_IMODE((tmp_path / "embedded").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "embedded" / "nats.conf").stat().st_mode) == 0o600


async def test_given_port(tmp_path: Path) -> None:
    """With a port it listens on that one."""
    port = free_port()
    broker = EmbeddedBroker(tmp_path, port=port)
    await broker.start()
    try:
        assert broker.port == port
        assert await answers_mqtt("127.0.0.1", port)
    finally:
        await broker.stop()


async def test_loopback_only(embedded: Embedded) -> None:
    """It listens for MQTT and for NATS clients on 127.0.0.1, and nowhere else (reliability R4)."""
    assert listeners(embedded.pid) == {"0100007F"}


async def test_other_hosts_are_refused(tmp_path: Path) -> None:
    """An address that others can reach is refused, as there is neither TLS nor authentication (reliability R4)."""
    with pytest.raises(BrokerError, match=r"on loopback only, not on 0\.0\.0\.0"):
        await EmbeddedBroker(tmp_path, host="0.0.0.0").start()


async def test_taken_port(tmp_path: Path) -> None:
    """A taken port is an error that names it and says what to do; when it is free again, start works."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        broker = EmbeddedBroker(tmp_path, port=port)
        with pytest.raises(BrokerError, match=rf"port {port} of 127\.0\.0\.1 cannot be used .*stop what listens there"):
            await broker.start()
        assert broker.pid == 0
    await broker.start()
    await broker.stop()


async def test_start_failure_shows_the_log(tmp_path: Path) -> None:
    """When the server ends at once, the error holds what it wrote, and no process is left."""
    (tmp_path / "store").write_text("not a directory")
    broker = EmbeddedBroker(tmp_path)
    with pytest.raises(BrokerError, match=r"ended at once, exit code 1: .*\[FTL\] Can't start JetStream"):
        await broker.start()
    assert broker.pid == 0


def test_not_installed() -> None:
    """Without the wheel the error says how to get it, and what to do instead."""
    code = "import sys; sys.path[:0] = ['.']; from common.messaging import broker; broker.find_server()"
    run = subprocess.run((sys.executable, "-S", "-c", code), cwd=ROOT, capture_output=True, text=True)
    assert run.stderr.splitlines()[-1] == f"common.errors.BrokerError: {NOT_INSTALLED}"


async def test_restart_keeps_everything(embedded: Embedded) -> None:
    """Killed, it comes back on its port with retained messages, sessions and what they have queued (reliability R2)."""
    async with Client(embedded.port, "reader", persistent=True) as reader:
        await reader.subscribe("q/#")
        assert not reader.session_present
    sent = [f"{number}".encode() for number in range(20)]
    async with Client(embedded.port, "writer") as writer:
        await writer.publish("r/one", b"kept", retain=True)
        for payload in sent:
            await writer.publish("q/x", payload)
    pid, port = embedded.pid, embedded.port
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: embedded.broker.restarts == 1)
    assert embedded.pid not in (0, pid)
    assert embedded.port == port
    async with Client(port, "reader", persistent=True) as reader, Client(port, "other") as other:
        assert reader.session_present
        assert [payload for _, payload, _ in await reader.wait_for(20)] == sent
        await other.subscribe("r/+")
        assert await other.wait_for(1) == [("r/one", b"kept", True)]


async def test_every_death_is_followed_by_a_restart(embedded: Embedded, caplog: pytest.LogCaptureFixture) -> None:
    """Each kill is logged and counted, and the server comes back each time."""
    for count in (1, 2, 3):
        os.kill(embedded.pid, signal.SIGKILL)
        await eventually(partial(_restarted, embedded, count))
        assert await answers_mqtt("127.0.0.1", embedded.port)
    assert caplog.text.count("embedded broker died (signal 9)") == 3
    assert "runs again on port" in caplog.text


def _restarted(embedded: Embedded, count: int) -> bool:
    return embedded.broker.restarts == count


async def test_restart_waits_for_its_port(embedded: Embedded, caplog: pytest.LogCaptureFixture) -> None:
    """When something else took the port meanwhile, it says so and tries until the port is free."""
    os.kill(embedded.pid, signal.SIGKILL)
    other = await eventually(lambda: _listen(embedded.port), interval=0.001)
    with other:
        await eventually(lambda: "does not come up" in caplog.text)
        assert "address already in use" in caplog.text
    await eventually(lambda: embedded.broker.restarts == 1)


def _listen(port: int) -> socket.socket | None:
    with contextlib.suppress(OSError):
        return socket.create_server(("127.0.0.1", port))
    return None


async def test_stop_leaves_no_process(embedded: Embedded) -> None:
    """After stop the server is gone and stays gone; stopping again does nothing; start works again on the same port."""
    pid, port = embedded.pid, embedded.port
    await embedded.stop()
    assert not alive(pid)
    assert embedded.pid == 0
    await embedded.stop()
    assert not await answers_mqtt("127.0.0.1", port)
    await embedded.start()
    assert embedded.port == port
    assert embedded.broker.restarts == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the parent death signal is Linux's")
async def test_killed_parent_leaves_no_server(tmp_path: Path) -> None:
    """When the parent is killed -9 the server ends too, and its directory can be used at once."""
    parent, pid = run_parent(tmp_path)
    assert alive(pid)
    parent.kill()
    parent.communicate()
    broker = EmbeddedBroker(tmp_path)
    await broker.start()
    assert not alive(pid)
    await broker.stop()


async def test_left_over_server_is_noticed(tmp_path: Path) -> None:
    """A server that outlived its parent keeps its store: the error names the process, and works after its end."""
    parent, pid = run_parent(tmp_path, "no-death-signal")
    parent.kill()
    parent.communicate()
    broker = EmbeddedBroker(tmp_path)
    try:
        with pytest.raises(BrokerError, match=f"in use by another embedded broker, process {pid}: .* run: kill {pid}"):
            await broker.start()
    finally:
        os.kill(pid, signal.SIGKILL)
    await broker.start()
    await broker.stop()


async def test_two_on_one_directory(embedded: Embedded, tmp_path: Path) -> None:
    """A second broker on the same directory is refused, and the first one goes on."""
    with pytest.raises(BrokerError, match=f"in use by another embedded broker, process {embedded.pid}"):
        await EmbeddedBroker(tmp_path / "embedded").start()
    assert await answers_mqtt("127.0.0.1", embedded.port)


TOPICS = (
    "fieldpost/up/node-1/router:resource/update/default/rule/a.b",
    "fieldpost/up/node-1/a.b:c~d/insert/_/rule_status/100%25",
    "fieldpost/up/node-1/%E4%BD%A0:_/update/default/rule/.",
    "fieldpost/up/node-1/x:y/update/default/rule/..",
    "fieldpost/up/node-1/x:y/update/default/rule/.a..b.",
    "fieldpost/up/node-1/x:y/update/default/rule/%5F~~%2F",
    "a//b",
    "/a",
    "a/",
    "$share.x/~",
)


async def test_topics_come_back_as_they_were(embedded: Embedded) -> None:
    """Every character of our topics (P3.2), dots and empty levels survive the way through NATS subjects."""
    async with Client(embedded.port, "all") as everything, Client(embedded.port, "each") as each:
        await everything.subscribe("#", "$share.x/#")
        await each.subscribe(*TOPICS)
        for topic in TOPICS:
            await everything.publish(topic, topic.encode())
        for client in (everything, each):
            got = [(topic, payload) for topic, payload, _ in await client.wait_for(len(TOPICS))]
            assert got == [(topic, topic.encode()) for topic in TOPICS]


async def test_wildcards(embedded: Embedded) -> None:
    """``+`` matches one level with dots in it, ``#`` all below and the level itself, as MQTT says."""
    filters = {
        "f/up/+/#": "f/up/a.b/x/y",
        "f/presence/+": "f/presence/a.b",
        "f/down/n.1/#": "f/down/n.1",
        "+/+": "a./.b",
    }
    async with Client(embedded.port, "writer") as writer:
        for number, (filter_, topic) in enumerate(filters.items()):
            async with Client(embedded.port, f"reader-{number}") as reader:
                await reader.subscribe(filter_)
                for other in ("f/up", "f/presence/a/b", "f/down/n/1", "x/a/b/c", topic):
                    await writer.publish(other, b"")
                got = [topic for topic, _, _ in await reader.wait_for(1 + (filter_ == "+/+"))]
                assert got == (["f/up", topic] if filter_ == "+/+" else [topic])


async def test_blank_in_topic_ends_the_connection(embedded: Embedded) -> None:
    """The fact behind our own check of topics: the server closes on a blank (reliability R2)."""
    async with Client(embedded.port, "blank") as client:
        client.paho.publish("a b", b"")
        await eventually(lambda: client.disconnects)


async def test_shared_subscriptions_get_nothing(embedded: Embedded) -> None:
    """The fact behind one active controller per embedded broker: the server grants ``$share`` and delivers nothing."""
    async with Client(embedded.port, "shared") as shared, Client(embedded.port, "plain") as plain:
        await shared.subscribe("$share/group/t", "last")
        await plain.subscribe("t")
        await plain.publish("t", b"x")
        await plain.wait_for(1)
        await plain.publish("last", b"y")
        assert [topic for topic, _, _ in await shared.wait_for(1)] == ["last"]


async def test_largest_message(embedded: Embedded) -> None:
    """A message of 128 KiB on a topic of 1,024 bytes goes through, and comes back from the store after a kill."""
    topic, payload = "t/" + "x" * 1022, os.urandom(128 * 1024)
    async with Client(embedded.port, "large") as client:
        await client.subscribe("t/#")
        await client.publish(topic, payload, retain=True)
        assert await client.wait_for(1) == [(topic, payload, False)]
    await embedded.kill()
    await embedded.start()
    async with Client(embedded.port, "large") as client:
        await client.subscribe("t/#")
        assert await client.wait_for(1) == [(topic, payload, True)]


async def test_full_store_heals_itself(tmp_path: Path) -> None:
    """A session that nobody fetches drops its oldest messages at the bound; others work, and it gets the newest."""
    broker = EmbeddedBroker(tmp_path, store_bytes_max=4_000_000)
    await broker.start()
    try:
        async with Client(broker.port, "absent", persistent=True) as absent:
            await absent.subscribe("t/#")
        async with Client(broker.port, "writer") as writer:
            for number in range(60):
                await writer.publish(f"t/{number}", os.urandom(100_000))
            assert writer.disconnects == 0
        async with Client(broker.port, "absent", persistent=True) as absent:
            await eventually(lambda: absent.messages and absent.messages[-1][0] == "t/59")
            assert 20 <= len(absent.messages) < 40
    finally:
        await broker.stop()


async def test_store_can_become_smaller(tmp_path: Path) -> None:
    """A smaller bound than that of the last run is taken, and what is stored stays."""
    for size in (2_000_000_000, 4_000_000, 2_000_000_000):
        broker = EmbeddedBroker(tmp_path, store_bytes_max=size)
        await broker.start()
        try:
            async with Client(broker.port, "client") as client:
                if size == 2_000_000_000:
                    await client.publish("t", b"kept", retain=True)
                await client.subscribe("t")
                assert await client.wait_for(1) == [("t", b"kept", True)]
        finally:
            await broker.stop()


async def test_server_that_hangs_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server that lives and does not answer is killed and started again."""
    broker = EmbeddedBroker(tmp_path, health_interval_s=0.2)
    await broker.start()
    try:
        os.kill(broker.pid, signal.SIGSTOP)
        await eventually(lambda: broker.restarts == 1)
        assert "does not take messages: killed" in caplog.text
        assert await answers_mqtt("127.0.0.1", broker.port)
    finally:
        await broker.stop()


async def test_full_disk_heals_when_it_is_freed(tmp_path: Path) -> None:
    """When the disk was full nothing acknowledged is lost, and once there is room again messages are taken again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if _run("mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)):
        pytest.skip("a small disk is a tmpfs, and mounting one needs root")
    broker = EmbeddedBroker(disk / "broker", health_interval_s=0.3)
    try:
        await broker.start()
        async with Client(broker.port, "reader", persistent=True) as reader:
            await reader.subscribe("t/#")
        async with Client(broker.port, "writer") as writer:
            acknowledged = await _publish_until_full(writer)
        assert _run("mount", "-o", "remount,size=60m", str(disk)) == 0
        await eventually(lambda: broker.restarts, timeout=30)
        assert await answers_mqtt("127.0.0.1", broker.port, stores=True)
        async with Client(broker.port, "reader", persistent=True) as reader:
            await reader.wait_for(acknowledged)
    finally:
        await broker.stop()
        assert _run("umount", str(disk)) == 0


async def _publish_until_full(writer: Client) -> int:
    """Publish 100 KB each until one is not acknowledged; return how many were."""
    for count in range(100):
        try:
            await writer.publish("t/x", os.urandom(100_000), timeout=0.5)
        except AssertionError:
            return count
    raise AssertionError("the disk does not fill")


def _run(*command: str) -> int:
    return subprocess.run(command, capture_output=True).returncode
