"""Fan-out: what one delivery costs an edge, beside a C loop of send() to as many sockets in the same run.

1,000 clients on one channel, frames of about 113 bytes, no deltas. One publication at a time, and flat out (20 publications a tick).
The loop and the edge take turns; the CPU is each process's own, user and system.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import Helper, compiled, cpu_ns, free_port, median, report
from edge.transports.websocket import wrap_text
from shared.bus.layout import BusLayout
from shared.bus.publisher import BusPublisher
from shared.bus.push import Keep, Push, Source, source_id
from shared.bus.servers import connect_servers
from shared.envelope import NO_TIME
from shared.publication import ContentType, Kind, payload_hash
from tests.rig.process import Process, end_all, project_command
from tests.rig.redis_server import RedisServer

CLIENTS = int(os.environ.get("BENCH_CLIENTS", "1000"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
PASSES = 60
INTERVAL_S = 0.025
BURST = 20
BURSTS = 40
CHANNEL = "bench:1"
DATA = b'"0123456"'
FIRST_OFFSET = 100_000
"""So that every frame has as many digits, and so as many bytes."""
MESSAGE = f'{{"type":"publication","channel":"{CHANNEL}","epoch":"{"x" * 16}","offset":{FIRST_OFFSET},"data":{DATA.decode()}}}'
FRAME_BYTES = len(wrap_text(MESSAGE.encode()))


class Publisher:
    """Pushes to the channel as a bridge does."""

    def __init__(self, url: str) -> None:
        self._bus = BusPublisher(connect_servers([url]), BusLayout(), instance="bench")
        self._bus.open()
        self._source = source_id("bench", "bench", 0)
        self._sent = 0
        self._keep = Keep(history_size=1)

    def push(self, count: int) -> None:
        """Publish `count` in one batch, which one read of the edge takes in."""
        pushes = []
        for _ in range(count):
            self._sent += 1
            source = Source(self._source, self._sent, 0)
            pushes.append(Push(CHANNEL, DATA, payload_hash(DATA), ContentType.JSON, Kind.LATEST, NO_TIME, source, self._keep))
        self._bus.push(pushes)


def paced(publisher: Publisher, passes: int, count: int, interval_s: float) -> None:
    """Push `passes` times, `count` at once, on time."""
    start = time.monotonic()
    for number in range(passes):
        publisher.push(count)
        time.sleep(max(0, start + (number + 1) * interval_s - time.monotonic()))


def receivers(port: int, path: str) -> Helper:
    """The clients, in a process of their own."""
    helper = Helper([sys.executable, "-m", "bench.receivers", str(port), str(CLIENTS), path])
    assert helper.hear() == "ready"
    return helper


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder) / "redis") as redis:
        port = free_port()
        command = project_command("edge", "run", "--bus", redis.url, "--port", port, "--internal-port", -1, "--ping-interval-s", 1_000_000)
        edge = Process(command, log=Path(folder) / "edge.log").start()
        edge.wait_for_port(port)
        publisher = Publisher(redis.url)
        for _ in range(FIRST_OFFSET // 1_000):
            publisher.push(1_000)
        rows = measure(edge, port, publisher)
    report("fan_out", f"Fan-out, {CLIENTS} clients, frames of {FRAME_BYTES} bytes: CPU a delivery", COLUMNS, rows)


COLUMNS = ("what", "edge us", "C loop us", "ratio", "bar", "deliveries/s of a core")


def measure(edge: Process, port: int, publisher: Publisher) -> list[tuple[object, ...]]:
    """Take turns between the loop and the edge; medians of the rounds."""
    floor_port = free_port()
    floor = Helper([compiled(Path(__file__).parent / "floor.c"), str(floor_port), str(CLIENTS), str(FRAME_BYTES)])
    assert floor.hear() == "listening"
    floor_clients, edge_clients = receivers(floor_port, "/"), receivers(port, f"/v1/ws?channels={CHANNEL}")
    assert floor.hear() == "ready"
    # The handshakes and the first value, which are not measured.
    edge_clients.tell(f"{CLIENTS * 10_000_000} 2")
    edge_clients.hear()
    loop, single, joined = [], [], []
    for _ in range(ROUNDS):
        floor_clients.tell(f"{CLIENTS * PASSES * FRAME_BYTES} 30")
        floor.tell(f"{PASSES} {int(INTERVAL_S * 1e6)}")
        loop.append(int(floor.hear().split()[0]) / (CLIENTS * PASSES))
        floor_clients.hear()
        single.append(edge_round(edge, publisher, edge_clients, PASSES, 1))
        joined.append(edge_round(edge, publisher, edge_clients, BURSTS, BURST))
    for helper in (floor, floor_clients, edge_clients):
        helper.end()
    base = median(loop)
    return [
        (what, f"{median(values) / 1000:.2f}", f"{base / 1000:.2f}", f"{median(values) / base:.2f}", bar, f"{1e9 / median(values):,.0f}")
        for what, values, bar in (("one publication at a time", single, "2"), (f"flat out, {BURST} a tick", joined, "0.3"))
    ]


def edge_round(edge: Process, publisher: Publisher, clients: Helper, passes: int, count: int) -> float:
    """One round on the edge: nanoseconds of its CPU a delivery."""
    deliveries = CLIENTS * passes * count
    clients.tell(f"{deliveries * FRAME_BYTES} 30")
    before = cpu_ns(edge.pid)
    paced(publisher, passes, count, INTERVAL_S)
    got = int(clients.hear())
    assert got >= deliveries * FRAME_BYTES, f"{got} bytes came, not {deliveries * FRAME_BYTES}"
    return (cpu_ns(edge.pid) - before) / deliveries


if __name__ == "__main__":
    try:
        main()
    finally:
        end_all()
