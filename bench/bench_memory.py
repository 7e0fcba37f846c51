"""Memory and idle cost: resident memory of the edge for each of 10,000 subscribed clients, and its CPU while they only answer pings.

The clients sit on 100 channels whose newest value they got. One tenth of them is measured first, so that what the process needs once is
seen.
"""

from __future__ import annotations

import time

from bench.measure import report
from bench.stage import Clients, Edge, Publisher, per, scaled, stage

CLIENTS = scaled(10_000, 100)
CHANNELS = scaled(100)
PING_INTERVAL_S = 5
IDLE_S = 10
COLUMNS = ("what", "measured", "bar")


def main() -> None:
    """Measure and report."""
    with stage() as (folder, redis):
        publisher = Publisher(redis.url)
        publisher.push(range(CHANNELS))
        edge = Edge(redis, folder / "edge.log", "--ping-interval-s", PING_INTERVAL_S, "--max-connections", 20_000)
        clients = Clients()
        with publisher.heard():
            empty = edge.rss_bytes
            clients.open(CLIENTS // 10, edge.port, channels=CHANNELS)
            tenth = settled(edge, clients)
            clients.open(CLIENTS - CLIENTS // 10, edge.port, channels=CHANNELS)
            full = settled(edge, clients)
            before = edge.cpu_ns
            clients.ask("run", IDLE_S)
            idle_ns = edge.cpu_ns - before
            publisher.push(range(CHANNELS))
            clients.ask("reach", 2, 10)
            after = settled(edge, clients)
        seen = clients.stats()
    assert seen["open"] == CLIENTS, f"{seen}"
    pings = CLIENTS * IDLE_S / PING_INTERVAL_S
    rows = [
        ("RSS of the empty edge, MB", f"{empty / 1e6:.0f}", ""),
        (f"RSS with {CLIENTS} clients, MB", f"{full / 1e6:.0f}", ""),
        ("RSS a connection, KB", f"{(full - empty) / CLIENTS / 1024:.2f}", "6"),
        ("the same, of the last nine tenths, KB", f"{(full - tenth) / (CLIENTS - CLIENTS // 10) / 1024:.2f}", ""),
        ("the same, after a publication to all, KB", f"{(after - empty) / CLIENTS / 1024:.2f}", ""),
        ("CPU of a ping and its pong, us", per(idle_ns, pings), ""),
        (f"share of a core, {CLIENTS} idle clients, pings every 25 s", f"{idle_ns / pings * CLIENTS / 25 / 1e9:.1%}", ""),
    ]
    report("memory", f"{CLIENTS} subscribed clients that do nothing", COLUMNS, rows)


def settled(edge: Edge, clients: Clients) -> int:
    """Resident memory, once it has been the same for a second."""
    before, deadline = 0, time.monotonic() + 10
    while (now := edge.rss_bytes) != before and time.monotonic() < deadline:
        before = now
        clients.ask("run", 1)
    return now


if __name__ == "__main__":
    main()
