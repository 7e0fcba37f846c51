"""The bridge beside the obvious pipeline: the same records, routes and Redis, in turns in one run. CPU of each and of its Redis."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.bench_bridge import ROUNDS, SMALL, SMALL_RECORDS, SPLIT, Measured, run_bridge, small_records, snapshots
from bench.measure import Helper, cpu_ns, median, report
from tests.rig.kafka_server import KafkaCluster
from tests.rig.parts import KAFKA_LIBS
from tests.rig.process import end_all
from tests.rig.redis_server import RedisServer

SNAPSHOTS = 60
RECORDS = SMALL_RECORDS // 4
BAR = 5

# The same as SPLIT and SMALL of bench_bridge.py say, but with JSON Patch as the format of deltas.
SPLIT_ROUTES: list[dict[str, Any]] = [
    {"prefix": "bus:", "id": "id", "split": "@"},
    {
        "prefix": "position:",
        "id": "id",
        "split": "@",
        "project": {"id": "id", "lat": "vehicle.position.latitude", "long": "vehicle.position.longitude"},
    },
]
SMALL_ROUTES: list[dict[str, Any]] = [
    {
        "prefix": "tick:",
        "id": "symbol",
        "project": {"symbol": "symbol", "bid": "book.bid", "ask": "book.ask", "last": "last", "name": "name", "venue": "venue", "at": "at"},
    }
]


def run_obvious(folder: Path, kafka: KafkaCluster, topic: str, routes: list[dict[str, Any]], records: int, name: str) -> Measured:
    """Run the obvious pipeline over a topic, and read what it cost."""
    with RedisServer(folder / f"redis-{name}") as redis:
        command = [
            sys.executable,
            "-m",
            "bench.obvious_pipeline",
            kafka.bootstrap_servers,
            redis.url,
            topic,
            str(records),
            name,
            json.dumps(routes),
        ]
        helper = Helper(command)
        try:
            assert helper.hear() == "READY"
            start = time.monotonic()
            own_cpu, redis_cpu = cpu_ns(helper.pid), cpu_ns(redis.process.pid)
            published = int(helper.hear().split()[1])
            own_cpu, redis_cpu = cpu_ns(helper.pid) - own_cpu, cpu_ns(redis.process.pid) - redis_cpu
            seconds = time.monotonic() - start
        finally:
            helper.end()
    return Measured(records, published, 0, own_cpu / published / 1000, redis_cpu / published / 1000, seconds)


def main() -> None:
    """Measure and report."""
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as name, KafkaCluster(Path(name) / "kafka", KAFKA_LIBS) as kafka:
        folder = Path(name)
        for topic, values, rules, routes in (
            ("vehicles", list(snapshots())[:SNAPSHOTS], SPLIT, SPLIT_ROUTES),
            ("ticks", list(small_records())[:RECORDS], SMALL, SMALL_ROUTES),
        ):
            kafka.create_topic(topic)
            kafka.produce(topic, values)
            ours, theirs = [], []
            for round_ in range(ROUNDS):
                kafka_group = f"{topic}-{round_}"
                ours.append(run_bridge(folder, kafka, topic, rules, len(values), kafka_group))
                theirs.append(run_obvious(folder, kafka, topic, routes, len(values), f"obvious-{kafka_group}"))
            rows.extend(compared(topic, ours, theirs))
    columns = ("what", "publications", "own us", "redis us", "publications/s", "own CPU, times the bridge's", "bar")
    report("obvious", "The bridge and the obvious pipeline: CPU a publication", columns, rows)


def compared(topic: str, ours: list[Measured], theirs: list[Measured]) -> list[tuple[object, ...]]:
    """Two rows: the bridge, and the obvious pipeline with its ratio."""
    ratio = median([their.bridge_us / our.bridge_us for our, their in zip(ours, theirs, strict=True)])
    what = {"vehicles": "152-vehicle snapshots, two routes", "ticks": "small records, 500 channels"}[topic]
    return [
        (f"{what}: bridge, VCDIFF", *figures(ours), "", ""),
        (f"{what}: obvious, JSON Patch", *figures(theirs), f"{ratio:.1f}", f"at least {BAR}"),
    ]


def figures(runs: list[Measured]) -> tuple[object, ...]:
    """The medians of some runs."""
    own, redis = median([run.bridge_us for run in runs]), median([run.redis_us for run in runs])
    return runs[0].published, f"{own:.1f}", f"{redis:.1f}", f"{median([run.published / run.seconds for run in runs]):,.0f}"


if __name__ == "__main__":
    try:
        main()
    finally:
        end_all()
