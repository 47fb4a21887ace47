"""B3 with PostgreSQL as the store: a server of its own, durable as in production, beside everything else.

Its CPU time is read from the processes of the server, so that what the database costs is seen apart from what the
controller does.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bench.measure import Row, median, spread
from bench.pipeline import run_round
from tests.support.brokers import Mosquitto
from tests.support.postgres import NO_POSTGRES, Postgres, Schemas, find_postgres, own_server

BAR = 20_000  # results/s (performance B3)
COUNT = 200_000


async def run(rounds: int, scale: float) -> list[Row]:
    """Results as fast as the pipeline takes them, on an empty schema each round. ``scale`` shrinks their number."""
    if find_postgres() is None:
        raise SystemExit(NO_POSTGRES)
    count = int(COUNT * scale)
    with tempfile.TemporaryDirectory() as directory, own_server(lines="shared_buffers = 128MB") as server:
        lines = ("max_queued_messages 100000", "set_tcp_nodelay true")
        broker = Mosquitto(Path(directory) / "mosquitto", protocol="5", config_lines=lines, verbose=False)
        await broker.start()
        told, database_cpu = [], []
        for _ in range(rounds):
            before = _cpu_s(server)
            told.append(await run_round(broker, count, store=Schemas(server.url()).new()))
            database_cpu.append((_cpu_s(server) - before) / count * 1e6)
        await broker.stop()
    rates = [count / each["took"] for each in told]
    cost = f"edge {median([each['cpu'] for each in told]) / count * 1e6:.1f}, cloud "
    cost += f"{median([each['cloud_cpu'] for each in told]) / count * 1e6:.1f}, database {median(database_cpu):.1f} "
    cost += f"us CPU a result; {spread(rates)}"
    return [Row("Mosquitto, MQTT 5", median(rates), "results/s", f">= {BAR:,}", median(rates) >= BAR, cost)]


def _cpu_s(server: Postgres) -> float:
    """CPU seconds of the server and of its processes, those that have ended included."""
    ticks = 0
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    for pid in (str(server.pid), *children):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        own = fields[11:13] if pid != str(server.pid) else fields[11:15]  # the server's with its children's that ended
        ticks += sum(map(int, own))
    return ticks / os.sysconf("SC_CLK_TCK")
