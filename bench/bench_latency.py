"""Latency at a tenth of capacity, beside the least that a program on asyncio can do with the same Redis.

1,000 clients on 100 channels, one publication on one channel at a time, so many a second that an edge is busy for about a tenth of its
time. The time runs from before the push to the client's read. The peer (bench/echo_peer.py) takes each publication from a subscription of
redis.asyncio and writes it to the sockets of its channel: no history, no recovery, no deltas, no limits. The two take turns; publishing
is the publish script for ours, a plain PUBLISH for the peer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import redis as redis_py

from bench.measure import cpu_ns, free_port, median, report
from bench.stage import Clients, Edge, Publisher, channel, rounds, scaled, stage
from tests.rig.process import Process

CLIENTS = scaled(1_000, 20)
CHANNELS = scaled(100, 2)
RATE = 800
"""Publications a second; each is 10 deliveries, so at 12 us a delivery an edge is busy for a tenth."""
SECONDS = 4
ROUNDS = rounds(5)
PREFIX = "echo:"
COLUMNS = ("what", "p50 us", "p99 us", "longest us", "busy")


def main() -> None:
    """Measure and report."""
    with stage() as (folder, redis):
        publisher = Publisher(redis.url)
        publisher.push(range(CHANNELS))
        edge = Edge(redis, folder / "edge.log")
        peer, peer_port = start_peer(folder, redis.port)
        ours, theirs = Clients(), Clients()
        ours.open(CLIENTS, edge.port, channels=CHANNELS)
        theirs.open(CLIENTS, peer_port, channels=CHANNELS, mode="plain")
        plain = redis_py.Redis(port=redis.port)

        def publish(number: int) -> None:
            plain.publish(PREFIX + channel(number), f'{{"type":"publication","data":"{time.monotonic_ns() // 1000:012}"}}')

        seen: dict[str, list[dict[str, float]]] = {"edge": [], "bare asyncio echo": []}
        for _ in range(ROUNDS):
            seen["edge"].append(one_round(edge.process.pid, ours, lambda number: publisher.push([number])))
            publisher.beat()
            seen["bare asyncio echo"].append(one_round(peer.pid, theirs, publish))
            publisher.beat()
    rows = []
    for what, runs in seen.items():
        p50, p99, longest, busy = (median([run[key] for run in runs]) for key in ("p50_us", "p99_us", "max_us", "busy"))
        rows.append((what, f"{p50:.0f}", f"{p99:.0f}", f"{longest:.0f}", f"{busy:.0%}"))
    report(
        "latency", f"Publish to receive, {CLIENTS} clients on {CHANNELS} channels, {RATE} publications a second", COLUMNS, rows, runs=seen
    )


def start_peer(folder: Path, redis_port: int) -> tuple[Process, int]:
    """The echo, and its port."""
    port = free_port()
    peer = Process([sys.executable, "-m", "bench.echo_peer", str(port), str(redis_port), PREFIX], log=folder / "peer.log").start()
    peer.wait_for_port(port)
    return peer, port


def one_round(pid: int, clients: Clients, publish: Callable[[int], None]) -> dict[str, float]:
    """Publish on all channels in turn for a while."""
    clients.ask("reset")
    count = RATE * SECONDS // CHANNELS * CHANNELS
    clients.tell("until", count * CLIENTS // CHANNELS, SECONDS + 5)
    before, start = cpu_ns(pid), time.monotonic()
    for number in range(count):
        publish(number % CHANNELS)
        time.sleep(max(0, start + (number + 1) / RATE - time.monotonic()))
    busy = (cpu_ns(pid) - before) / 1e9 / (time.monotonic() - start)
    got = clients.hear()[0]
    assert got >= count * CLIENTS // CHANNELS, f"{got} publications came, not {count * CLIENTS // CHANNELS}"
    return {**clients.stats(), "busy": busy}


if __name__ == "__main__":
    main()
