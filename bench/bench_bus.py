"""The bus: Redis' CPU a publication, by how many edges are subscribed to its channel; what sizing needs to know.

The publications are pushed as a bridge does it, 100 in a batch on 100 channels of 16 shards, with 113 bytes and with 1 KB of payload.
An edge is a connection that is subscribed to every channel and reads.
"""

from __future__ import annotations

import sys

from bench.measure import Helper, cpu_ns, median, report
from bench.stage import Publisher, channel, rounds, scaled, stage
from shared.bus.layout import BusLayout

EDGES = (0, 1, 10, 100)
CHANNELS = 100
PASSES = scaled(100, 5)
ROUNDS = rounds(3)
COLUMNS = ("payload bytes", "edges subscribed", "Redis us a publication", "of it for each edge", "publications/s of one Redis")


def main() -> None:
    """Measure and report."""
    rows: list[tuple[object, ...]] = []
    for characters in (113, 1_000):
        alone = 0.0
        for edges in EDGES:
            cost = cost_of(characters, edges)
            alone = alone if edges else cost
            each = f"{(cost - alone) / edges / 1e3:.2f}" if edges else ""
            rows.append((characters, edges, f"{cost / 1e3:.1f}", each, f"{1e9 / cost:,.0f}"))
    report("bus", "What a publication costs Redis", COLUMNS, rows)


def cost_of(characters: int, edges: int) -> float:
    """Nanoseconds of Redis' CPU a publication."""
    costs = []
    with stage() as (_, redis):
        publisher = Publisher(redis.url, characters=characters)
        helper = Helper([sys.executable, "-m", "bench.bench_bus", str(redis.port), str(edges)])
        assert helper.hear() == "ready"
        publisher.push(range(CHANNELS))
        for _ in range(ROUNDS):
            before = cpu_ns(redis.process.pid)
            for _ in range(PASSES):
                publisher.push(range(CHANNELS))
            costs.append((cpu_ns(redis.process.pid) - before) / (PASSES * CHANNELS))
        helper.end()
    return median(costs)


def subscribe(port: int, edges: int) -> None:
    """So many connections that are subscribed to every channel and read; until killed."""
    import select
    import socket

    keys = [BusLayout().head_key(channel(number)) for number in range(CHANNELS)]
    command = "".join(f"${len(word)}\r\n{word}\r\n" for word in ("SUBSCRIBE", *keys))
    epoll, sockets, buffer = select.epoll(), {}, bytearray(262_144)
    for _ in range(edges):
        edge = socket.create_connection(("127.0.0.1", port))
        edge.sendall(f"*{len(keys) + 1}\r\n{command}".encode())
        sockets[edge.fileno()] = edge
        epoll.register(edge.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    while True:
        for number, _ in epoll.poll():
            if not sockets[number].recv_into(buffer):
                return


if __name__ == "__main__":
    if len(sys.argv) > 1:
        subscribe(int(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
