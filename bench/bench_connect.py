"""Connect and subscribe: CPU a client, beside FastAPI's own WebSocket on uvicorn in the same run.

10,000 clients, 200 handshakes at a time. Ours: handshake, `connect`, `subscribe` to one of 100 channels, answer with the newest value.
FastAPI's (bench/fastapi_peer.py): handshake, one JSON frame in, one JSON frame out. Nobody is held
back by a limit. The two take turns; the CPU is each server's own.
"""

from __future__ import annotations

import sys

from bench.measure import cpu_ns, free_port, median, report
from bench.stage import Clients, Edge, Publisher, per, rounds, scaled, stage
from tests.rig.process import Process

CLIENTS = scaled(10_000)
CHANNELS = scaled(100)
ROUNDS = rounds(3)
COLUMNS = ("what", "edge us", "FastAPI us", "ratio", "bar", "edge clients/s", "FastAPI clients/s")


def main() -> None:
    """Measure and report."""
    with stage() as (folder, redis):
        publisher = Publisher(redis.url)
        publisher.push(range(CHANNELS))
        edge = Edge(redis, folder / "edge.log", "--max-connects-per-s", 1_000_000)
        port = free_port()
        peer = Process([sys.executable, "-m", "bench.fastapi_peer", str(port)], log=folder / "peer.log").start()
        peer.wait_for_port(port)
        ours, theirs = [], []
        with publisher.heard():
            one_round(edge.process.pid, edge.port, "session", scaled(500))
            one_round(peer.pid, port, "plain", scaled(500))
            for _ in range(ROUNDS):
                ours.append(one_round(edge.process.pid, edge.port, "session", CLIENTS))
                theirs.append(one_round(peer.pid, port, "plain", CLIENTS))
    mine, other = median([cpu for cpu, _ in ours]), median([cpu for cpu, _ in theirs])
    rates = [f"{CLIENTS / median([wall_s for _, wall_s in both]):,.0f}" for both in (ours, theirs)]
    row = ("connect + subscribe", per(mine, CLIENTS), per(other, CLIENTS), f"{mine / other:.2f}", "0.5", *rates)
    report("connect", f"{CLIENTS} clients connect and subscribe: CPU a client", COLUMNS, [row])


def one_round(pid: int, port: int, mode: str, count: int) -> tuple[int, float]:
    """CPU nanoseconds and seconds of `count` clients coming in; they leave again, which is not measured."""
    clients = Clients()
    before = cpu_ns(pid)
    wall_s = clients.open(count, port, channels=CHANNELS, mode=mode)
    cpu = cpu_ns(pid) - before
    clients.drop()
    clients.ask("run", 1)
    clients.end()
    return cpu, wall_s


if __name__ == "__main__":
    main()
