"""Slow clients cost only themselves: the others' latency with and without 1 client in 100 that has stopped reading.

990 clients on 10 channels, 20 publications a second on each, of 4 KB; and 10 clients that have all of the channels, so that enough comes
together for their outboxes to overflow behind what the kernel takes. In one run these read, in the other they don't; the two take turns,
in pairs; the bar is on the median of the pairs' ratios. The peak of the edge's memory is told beside what the outboxes may hold.
"""

from __future__ import annotations

from pathlib import Path

from bench.measure import median, report
from bench.stage import Clients, Edge, Publisher, rounds, scaled, stage

CLIENTS = scaled(990, 20)
STOPPED = scaled(10, 2)
CHANNELS = 10
PAIRS = rounds(5)
PAYLOAD_CHARACTERS = 4_000
INTERVAL_S = 0.05
PASSES = 140
MAX_OUTBOX_BYTES = 65_536
COLUMNS = ("what", "without", "with", "ratio", "bar")


def main() -> None:
    """Measure and report."""
    with stage() as (folder, redis):
        publisher = Publisher(redis.url, characters=PAYLOAD_CHARACTERS)
        channels = range(CHANNELS)
        publisher.push(channels)
        edge = Edge(redis, folder / "edge.log", "--max-outbox-bytes", MAX_OUTBOX_BYTES)
        clients = Clients()
        clients.open(CLIENTS, edge.port, channels=CHANNELS)
        one_run(edge, publisher, clients, are_stopped=True)
        before = edge.metric("distributary_edge_slow_consumers")
        pairs = []
        for number in range(PAIRS):
            order = (False, True) if number % 2 else (True, False)
            runs = {are_stopped: one_run(edge, publisher, clients, are_stopped=are_stopped) for are_stopped in order}
            pairs.append((runs[False], runs[True]))
        slow = edge.metric("distributary_edge_slow_consumers") - before
    rows: list[tuple[object, ...]] = []
    for name, unit, key, bar in (("p50", "ms", "p50_us", ""), ("p99", "ms", "p99_us", "1.2"), ("longest", "ms", "max_us", "")):
        without, others = (median([pair[which][key] / 1e3 for pair in pairs]) for which in (0, 1))
        ratio = median([pair[1][key] / pair[0][key] for pair in pairs])
        rows.append((f"latency of the others, {name}, {unit}", f"{without:.1f}", f"{others:.1f}", f"{ratio:.2f}", bar))
    for name, key, bar in (
        ("peak of the edge's RSS, MB", "peak_bytes", f"{STOPPED * MAX_OUTBOX_BYTES / 1e6:.2f} more"),
        ("memory of all sockets in the kernel, MB", "kernel_bytes", ""),
    ):
        without, others = (median([pair[which][key] / 1e6 for pair in pairs]) for which in (0, 1))
        rows.append((name, f"{without:.2f}", f"{others:.2f}", "", bar))
    rows.append(("closed as slow consumers", 0, slow, "", f"{STOPPED * PAIRS}"))
    report("slow_clients", f"{CLIENTS} clients, and {STOPPED} that stopped reading", COLUMNS, rows, pairs=pairs)


def one_run(edge: Edge, publisher: Publisher, clients: Clients, *, are_stopped: bool) -> dict[str, int]:
    """Publish for a while, with the few clients reading or not."""
    few = Clients()
    few.open(STOPPED, edge.port, channels=CHANNELS, subscriptions=CHANNELS, receive_bytes=4_096 if are_stopped else 0)
    if are_stopped:
        few.ask("hold", 0, STOPPED)
    clients.ask("reset")
    edge.forget_peak()
    wanted = PASSES * CLIENTS
    few.tell("run", PASSES * INTERVAL_S)
    clients.tell("until", wanted, 30)
    publisher.paced(range(CHANNELS), PASSES, INTERVAL_S)
    got = clients.hear()[0]
    kernel_bytes = kernel_socket_bytes()
    few.hear()
    assert got >= wanted, f"{got} publications came, not {wanted}"
    seen = clients.stats() | {"peak_bytes": edge.peak_bytes, "kernel_bytes": kernel_bytes}
    assert not seen["lost"] + seen["duplicates"] + seen["closed"], f"the others were harmed: {seen}"
    few.end()
    return seen


def kernel_socket_bytes() -> int:
    """What the kernel holds for TCP sockets, of everybody on this machine (proc(5), sockstat)."""
    line = next(line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:"))
    return int(line.split()[-1]) * 4096


if __name__ == "__main__":
    main()
