"""Fan-out: what one delivery costs an edge, beside a C loop of send() to as many sockets in the same run.

1,000 clients, frames of 113 bytes, no deltas: all on one channel, one publication at a time; the same flat out, 20 publications a tick; and
1,000 channels with one client each, where every delivery is a publication of its own, too.
The loop and the edge take turns; the CPU is each process's own, user and system. The readers of both are bench/receivers.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.measure import Helper, compiled, free_port, median, report
from bench.stage import FRAME_BYTES, Edge, Publisher, channel, rounds, scaled, stage

CLIENTS = scaled(1_000, 10)
ROUNDS = rounds(5)
PASSES = 60
INTERVAL_S = 0.025
BURST = 20
BURSTS = 40
EACH_PASSES = 15
EACH_INTERVAL_S = 0.1
FIRST_OFFSET = 100_000
"""So that every frame has as many digits, and so as many bytes."""
EACH_FIRST_OFFSET = 100
COLUMNS = ("what", "edge us", "C loop us", "ratio", "bar", "deliveries/s of a core")


def main() -> None:
    """Measure and report."""
    with stage() as (folder, redis):
        publisher = Publisher(redis.url, history=1)
        shared, each = [0], range(1, CLIENTS + 1)
        for _ in range(FIRST_OFFSET // 1_000):
            publisher.push(shared, 1_000)
        edge = Edge(redis, folder / "edge.log")
        floor_port = free_port()
        floor = Helper([compiled(Path(__file__).parent / "floor.c"), str(floor_port), str(CLIENTS), str(FRAME_BYTES)])
        assert floor.hear() == "listening"
        floor_clients = receivers(floor_port, "/")
        assert floor.hear() == "ready"
        clients = receivers(edge.port, f"/v1/ws?channels={channel(0)}")
        forget_start(clients)
        loop, single, joined, alone = [], [], [], []
        for _ in range(ROUNDS):
            loop.append(floor_round(floor, floor_clients))
            single.append(edge_round(edge, publisher, clients, (shared, PASSES, INTERVAL_S, 1)))
            joined.append(edge_round(edge, publisher, clients, (shared, BURSTS, INTERVAL_S, BURST)))
        clients.end()
        # Their offsets have 3 digits less, and their frames as many bytes all the same.
        publisher.characters += 3
        for _ in range(EACH_FIRST_OFFSET):
            publisher.push(each)
        clients = receivers(edge.port, "/v1/ws?channels=b:*", first=1)
        forget_start(clients)
        for _ in range(ROUNDS):
            loop.append(floor_round(floor, floor_clients))
            alone.append(edge_round(edge, publisher, clients, (each, EACH_PASSES, EACH_INTERVAL_S, 1)))
        for helper in (floor, floor_clients, clients):
            helper.end()
    base = median(loop)
    rows = [
        (what, f"{median(values) / 1000:.2f}", f"{base / 1000:.2f}", f"{median(values) / base:.2f}", bar, f"{1e9 / median(values):,.0f}")
        for what, values, bar in (
            ("one publication at a time", single, "1.4"),
            (f"flat out, {BURST} a tick", joined, "0.1"),
            (f"{CLIENTS} channels, one client each", alone, "3"),
        )
    ]
    report("fan_out", f"Fan-out, {CLIENTS} clients, frames of {FRAME_BYTES} bytes: CPU a delivery", COLUMNS, rows, loop_ns=loop)


def receivers(port: int, path: str, *, first: int = 0) -> Helper:
    """The clients, in a process of their own."""
    helper = Helper([sys.executable, "-m", "bench.receivers", str(port), str(CLIENTS), path, str(first)])
    assert helper.hear() == "ready"
    return helper


def forget_start(clients: Helper) -> None:
    """Read the handshakes and the first values, which are not measured."""
    clients.tell(f"{CLIENTS * 10_000_000} 2")
    clients.hear()


def floor_round(floor: Helper, clients: Helper) -> float:
    """One round of the C loop: nanoseconds of its CPU a delivery."""
    clients.tell(f"{CLIENTS * PASSES * FRAME_BYTES} 30")
    floor.tell(f"{PASSES} {int(INTERVAL_S * 1e6)}")
    cpu_ns = int(floor.hear().split()[0])
    clients.hear()
    return cpu_ns / (CLIENTS * PASSES)


def edge_round(edge: Edge, publisher: Publisher, clients: Helper, load: tuple[list[int] | range, int, float, int]) -> float:
    """One round on the edge: nanoseconds of its CPU a delivery."""
    channels, passes, interval_s, count = load
    deliveries = CLIENTS * passes * count
    clients.tell(f"{deliveries * FRAME_BYTES} 30")
    before = edge.cpu_ns
    publisher.paced(channels, passes, interval_s, count)
    got = int(clients.hear())
    # A ping now and then is 2 bytes more.
    assert 0 <= got - deliveries * FRAME_BYTES < FRAME_BYTES, f"{got} bytes came, not {deliveries * FRAME_BYTES}"
    return (edge.cpu_ns - before) / deliveries


if __name__ == "__main__":
    main()
