"""Many channels: 100,000 on one edge with 2 sessions each, and 10,000 on one session; subscribe, deliver, unsubscribe, memory.

Each step is measured at a tenth of it, too: what is linear costs as much for each channel. 20 sessions hold 10,000 channels each, and
every channel is in two sessions. Commands are not limited in rate here. At the end the edge gives up all of the channels, which nobody uses
any more.
"""

from __future__ import annotations

import time

from bench.measure import report
from bench.stage import Clients, Edge, Publisher, per, scaled, stage

OPTIONS = ("--max-commands-per-s", 1e9, "--command-burst", 1_000_000_000, "--max-outbox-bytes", 33_554_432)
COLUMNS = (
    "sessions x subscriptions",
    "channels",
    "subscribe us",
    "the same again us",
    "deliver us",
    "unsubscribe us",
    "RSS a channel KB",
    "stall ms: subscribe",
    "deliver",
    "unsubscribe",
    "give up",
    "longest GC ms",
    "s",
)
PUBLISHED_AT_ONCE = 1_000
LINGER_S = 4
"""How long the edge keeps a channel that nobody uses: less than usual, and longer than all take to unsubscribe."""


def main() -> None:
    """Measure and report."""
    rows = []
    for sessions, subscriptions, channels in ((1, 1_000, 1_000), (1, 10_000, 10_000), (20, 1_000, 10_000), (20, 10_000, 100_000)):
        rows.append(one_size(sessions, scaled(subscriptions, 10), scaled(channels, 10)))
    report("channels", "Many channels on one edge: CPU of the edge for each subscription, or delivery", COLUMNS, rows)


def one_size(sessions: int, subscriptions: int, channels: int) -> tuple[object, ...]:
    """Half of the sessions open all channels; the other half then find them open."""
    with stage() as (folder, redis):
        publisher = Publisher(redis.url, history=1)
        for at in range(0, channels, PUBLISHED_AT_ONCE):
            publisher.push(range(at, min(at + PUBLISHED_AT_ONCE, channels)))
        edge = Edge(redis, folder / "edge.log", "--max-subscriptions", subscriptions, *OPTIONS, probed=True, limits={"linger_s": LINGER_S})
        clients = Clients()
        with publisher.heard():
            empty = edge.rss_bytes
            edge.stall()
            half = max(1, sessions // 2)
            first_ns, wall_s = subscribe(edge, clients, half, subscriptions, channels)
            grown = edge.rss_bytes - empty
            again = ""
            if sessions > half:
                again_ns, again_s = subscribe(edge, clients, sessions - half, subscriptions, channels)
                again, wall_s = per(again_ns, half * subscriptions), wall_s + again_s
            stalls = [edge.stall()]
            deliver_ns = deliver(edge, publisher, clients, channels, sessions * subscriptions)
            stalls.append(edge.stall())
            before = edge.cpu_ns
            left, leave_us = clients.ask("leave", 0, sessions)
            assert left == sessions, f"{left} of {sessions} unsubscribed: {clients.stats()}"
            leave_ns = edge.cpu_ns - before
            stalls.append(edge.stall())
            while edge.metric("distributary_edge_channels"):
                time.sleep(0.5)
            stalls.append(edge.stall())
        assert not clients.stats()["errors"], f"{clients.stats()}"
        clients.end()
    total = sessions * subscriptions
    return (
        f"{sessions} x {subscriptions}",
        channels,
        per(first_ns, half * subscriptions),
        again,
        per(deliver_ns, total),
        per(leave_ns, total),
        f"{grown / channels / 1024:.2f}",
        *(stall["longest_ms"] for stall in stalls),
        max(stall["longest_gc_ms"] for stall in stalls),
        f"{wall_s + leave_us / 1e6:.1f}",
    )


def subscribe(edge: Edge, clients: Clients, sessions: int, subscriptions: int, channels: int) -> tuple[int, float]:
    """CPU nanoseconds and seconds."""
    before = edge.cpu_ns
    wall_s = clients.open(sessions, edge.port, channels=channels, subscriptions=subscriptions)
    return edge.cpu_ns - before, wall_s


def deliver(edge: Edge, publisher: Publisher, clients: Clients, channels: int, deliveries: int) -> int:
    """One publication on every channel: CPU nanoseconds."""
    clients.ask("reset")
    clients.tell("until", deliveries, 60)
    before = edge.cpu_ns
    for at in range(0, channels, PUBLISHED_AT_ONCE):
        publisher.push(range(at, min(at + PUBLISHED_AT_ONCE, channels)))
    got = clients.hear()[0]
    assert got >= deliveries, f"{got} publications came, not {deliveries}: {clients.stats()}"
    return edge.cpu_ns - before


if __name__ == "__main__":
    main()
