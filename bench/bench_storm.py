"""Storms: 10,000 clients dropped at once, and back with their positions while publications go on.

They come back to the edge that they were dropped by, then to another one that holds none of their channels. Every client must catch up with
nothing lost and nothing twice; each edge may read Redis once a channel. The longest stall of the event loop is told by a probe in the loop
(bench/probed_edge.py) and, as clients feel it, by the longest round trip of a ping every 5 ms.
"""

from __future__ import annotations

import time

from bench.measure import report
from bench.stage import Clients, Edge, Pinger, Publisher, per, scaled, stage

CLIENTS = scaled(10_000, 100)
CHANNELS = scaled(100)
WINDOW = 2_000
"""Connections that all clients together have in the making at a time."""
INTERVAL_S = 0.5
BACK_STALL_MS = 100
DROP_STALL_MS = 50
AWAY_S = 1.0
COLUMNS = (
    "what",
    "s",
    "edge us a client",
    "Redis reads",
    "lost",
    "twice",
    "not recovered",
    "refused",
    "loop stall ms",
    "of it CPU",
    "ping ms",
    "GC ms",
    "bar: reads, stall",
)


def main() -> None:
    """Measure and report."""
    with stage() as (folder, redis):
        publisher = Publisher(redis.url)
        channels = range(CHANNELS)
        publisher.push(channels)
        edges = [Edge(redis, folder / f"edge-{name}.log", probed=True) for name in "ab"]
        pingers = [Pinger(edge) for edge in edges]
        clients = Clients()
        rows: list[tuple[object, ...]] = []
        with publisher.going_on(channels, INTERVAL_S):
            clients.open(CLIENTS, edges[0].port, channels=CHANNELS)
            for edge in edges:
                edge.stall()
            rows.append(at_peace(edges[0], pingers[0], clients))
            rows.append(drop(edges[0], pingers[0], clients))
            rows.append(back("back to the same edge", edges[0], pingers[0], clients))
            rows.append(drop(edges[0], pingers[0], clients))
            rows.append(back("back to a cold edge", edges[1], pingers[1], clients))
        # One publication each came before.
        caught_up = clients.ask("reach", publisher.passes + 1, 20)[0]
        seen = clients.stats()
    assert caught_up == CLIENTS, f"{caught_up} of {CLIENTS} clients caught up: {seen}"
    report(
        "storm",
        f"{CLIENTS} clients on {CHANNELS} channels, {CHANNELS / INTERVAL_S:.0f} publications a second",
        COLUMNS,
        rows,
        caught_up=caught_up,
    )


def at_peace(edge: Edge, pinger: Pinger, clients: Clients) -> tuple[object, ...]:
    """What a stall is without any storm."""
    with pinger.going_on() as pings:
        clients.ask("run", 4)
    return ("nothing but publications", "", "", "", "", "", "", "", *stalls(edge, pings), "")


def drop(edge: Edge, pinger: Pinger, clients: Clients) -> tuple[object, ...]:
    """All connections are closed at once."""
    before = edge.cpu_ns
    with pinger.going_on() as pings:
        began = time.monotonic()
        clients.drop()
        while edge.metric("distributary_edge_connections") > 1:
            time.sleep(0.05)
        took_s = time.monotonic() - began
        time.sleep(AWAY_S)
    cost = per(edge.cpu_ns - before, CLIENTS)
    return ("dropped", f"{took_s:.1f}", cost, "", "", "", "", "", *stalls(edge, pings), f"-, {DROP_STALL_MS}")


def back(what: str, edge: Edge, pinger: Pinger, clients: Clients) -> tuple[object, ...]:
    """All come back with their positions."""
    clients.ask("reset")
    reads, before = edge.metric("distributary_edge_bus_reads"), edge.cpu_ns
    with pinger.going_on() as pings:
        opened, wall_us = clients.ask("back", edge.port, WINDOW)
    cost = per(edge.cpu_ns - before, CLIENTS)
    assert opened == CLIENTS, f"{opened} of {CLIENTS} clients came back: {clients.stats()}"
    clients.ask("run", 2 * INTERVAL_S)
    seen, reads = clients.stats(), edge.metric("distributary_edge_bus_reads") - reads
    counted = (reads, seen["lost"], seen["duplicates"], seen["unrecovered"], seen["refused"])
    return (what, f"{wall_us / 1e6:.1f}", cost, *counted, *stalls(edge, pings), f"{CHANNELS}, {BACK_STALL_MS}")


def stalls(edge: Edge, pings: list[int]) -> tuple[str, str, str, str]:
    """The longest stall, its share of CPU, the longest ping, and the longest garbage collection, in milliseconds."""
    seen = edge.stall()
    return (f"{seen['longest_ms']}", f"{seen['cpu_ms']}", f"{pings[3] / 1e3:.1f}", f"{seen['longest_gc_ms']}")


if __name__ == "__main__":
    main()
