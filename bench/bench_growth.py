"""What ten times as much costs: clients, channels, payload size, publication rate, each grown alone.

The edge's CPU a second of load, at 1, 10 and (where it fits) 100 times; the last column is how many times the cost grew for each ten
times of the load, and 10 is linear. Less is better: what is joined is paid for once.
"""

from __future__ import annotations

from itertools import pairwise

from bench.measure import median, report
from bench.stage import Clients, Edge, Publisher, rounds, scaled, stage

ROUNDS = rounds(2)
COLUMNS = ("what", "clients", "channels", "payload", "rate/s", "deliveries/s", "edge ms a second", "us a delivery", "times", "bar")
BAR = "10"
PAYLOAD = 100

# what, clients, channels, characters, passes a second, publications a pass
Load = tuple[str, int, int, int, float, int]
LOADS: list[list[Load]] = [
    [("clients", scaled(clients, 2), 1, PAYLOAD, 4, 1) for clients in (100, 1_000, 10_000)],
    [("channels, one client each", scaled(channels, 2), scaled(channels, 2), PAYLOAD, 1, 1) for channels in (100, 1_000, 10_000)],
    [("payload", scaled(100, 2), 1, characters, 20, 1) for characters in (100, 1_000, 10_000, 100_000)],
    [("rate", scaled(100, 2), 1, PAYLOAD, rate, 1) for rate in (10, 100, 1_000)],
]
SECONDS = 3


def main() -> None:
    """Measure and report."""
    rows: list[tuple[object, ...]] = []
    for loads in LOADS:
        costs = [(load, cost_of(load)) for load in loads]
        growth = ["", *(f"{cost / before:.1f}" for (_, before), (_, cost) in pairwise(costs))]
        for (load, cost), times in zip(costs, growth, strict=True):
            what, clients, channels, characters, rate, count = load
            deliveries = clients * rate * count
            rows.append(
                (
                    what,
                    clients,
                    channels,
                    characters,
                    rate,
                    deliveries,
                    f"{cost * 1e3:.1f}",
                    f"{cost / deliveries * 1e6:.1f}",
                    times,
                    BAR if times else "",
                )
            )
    report("growth", "What ten times as much costs the edge", COLUMNS, rows)


def cost_of(load: Load) -> float:
    """Seconds of the edge's CPU in a second of this load; what the edge does without load is not in it."""
    _, count, channel_count, characters, rate, at_once = load
    with stage() as (folder, redis):
        publisher = Publisher(redis.url, characters=characters, history=5)
        channels = range(channel_count)
        publisher.push(channels)
        edge = Edge(redis, folder / "edge.log")
        clients = Clients()
        with publisher.heard():
            clients.open(count, edge.port, channels=channel_count)
        clients.ask("reset")
        passes = round(rate * SECONDS)
        costs = []
        for _ in range(ROUNDS):
            clients.ask("reset")
            wanted = passes * count * at_once
            clients.tell("until", wanted, SECONDS + 30)
            before = edge.cpu_ns
            publisher.paced(channels, passes, 1 / rate, at_once)
            got = clients.hear()[0]
            assert got >= wanted, f"{got} publications came, not {wanted}: {clients.stats()}"
            costs.append((edge.cpu_ns - before) / 1e9 / SECONDS)
        clients.end()
    return median(costs)


if __name__ == "__main__":
    main()
