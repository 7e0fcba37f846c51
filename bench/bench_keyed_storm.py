"""A storm on one large keyed channel: clients join, and every one of them is sent the newest publication of each key.

usage: python -m bench.bench_keyed_storm

While they come some of the keys change. Every client must come to hold the newest publication. Beside it the longest stall of the event
loop (bench/probed_edge.py), the longest that another client, who is on another channel, waits: for a ping every 5 ms or for a publication
every 20 ms; and the edge's memory.
"""

from __future__ import annotations

from bench.bench_storm import stalls
from bench.measure import report
from bench.stage import PINGER_CHANNEL, Clients, Edge, Pinger, Publisher, per, scaled, stage

CLIENTS = scaled(10_000, 50)
KEYS = scaled(5_000, 100)
INTERVAL_S = 0.1
CHANGES = 10
"""Of keys, in an interval."""
WINDOW = 2_000
LONGEST_S = 120
OTHER_INTERVAL_S = 0.02
COLUMNS = (
    "clients",
    "s until all hold the state",
    "edge us a client",
    "MB sent",
    "loop stall ms",
    "of it CPU",
    "ping, delivery ms",
    "GC ms",
    "RSS MB, before / most / after",
)


def main() -> None:
    """Measure and report."""
    with stage() as (folder, redis):
        publisher = Publisher(redis.url, keys=KEYS)
        publisher.push([0], KEYS)
        edge = Edge(redis, folder / "edge.log", probed=True)
        pinger = Pinger(edge)
        other = Publisher(redis.url)
        with other.going_on([PINGER_CHANNEL], OTHER_INTERVAL_S):
            rows = [join(edge, pinger, publisher, count) for count in (max(1, CLIENTS // 10), CLIENTS)]
    report("keyed_storm", f"clients that join a keyed channel of {KEYS} keys, {CHANGES / INTERVAL_S:.0f} changes a second", COLUMNS, rows)


def join(edge: Edge, pinger: Pinger, publisher: Publisher, count: int) -> tuple[object, ...]:
    """So many clients come at the same moment, to an edge that has the channel's state, or reads it first."""
    clients = Clients()
    edge.stall()
    edge.forget_peak()
    rss, before = edge.rss_bytes, edge.cpu_ns
    with pinger.going_on() as pings:
        with publisher.going_on([0], INTERVAL_S, count=CHANGES):
            took_s = clients.open(count, edge.port, window=WINDOW)
        caught_up, wall_us = clients.ask("reach", publisher.sent, LONGEST_S)
    cost, peak = per(edge.cpu_ns - before, count), edge.peak_bytes
    seen, told = clients.stats(), stalls(edge, pings)
    assert caught_up == count, f"{caught_up} of {count} clients hold the state: {seen}"
    after = edge.rss_bytes
    clients.end()
    memory = " / ".join(f"{size / 1e6:.0f}" for size in (rss, peak, after))
    return (count, f"{took_s + wall_us / 1e6:.1f}", cost, f"{seen['bytes'] / 1e6:.0f}", *told, memory)


if __name__ == "__main__":
    main()
