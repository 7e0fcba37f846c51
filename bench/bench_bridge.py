"""The bridge: CPU of bridge and of Redis for each item (publications and items that were unchanged), from real Kafka to real Redis.

Loads: snapshots of 152 and of 640 vehicles, split, projected and with VCDIFF deltas (the demo's rules); snapshots in which nothing
changed, where the cost is that of an item which makes no publication; and small records of about 250 bytes on 500 channels. The records
are in Kafka before the bridge starts, so the rate is the most that one bridge does. Redis alone, in batches of 100 of one shard, is
measured beside.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.measure import cpu_ns, free_port, median, report
from bridge.demo.simulation import Simulation
from shared.bus.layout import BusLayout
from shared.bus.publisher import BusPublisher
from shared.bus.push import Keep, Push, Source, source_id
from shared.bus.servers import connect_servers
from shared.publication import ContentType, Kind, payload_hash
from tests.rig.kafka_server import KafkaCluster
from tests.rig.parts import KAFKA_LIBS
from tests.rig.process import Process, end_all, project_command
from tests.rig.redis_server import RedisServer

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SNAPSHOTS = 400
SMALL_RECORDS = 60_000
CHANNELS = 500

SPLIT = """version: 1
sources: [{name: vehicles, topics: [TOPIC], format: json}]
routes:
  - {name: bus, split: value, channel: "bus:{item.id}"}
  - name: position
    split: value
    channel: "position:{item.id}"
    project: {id: item.id, lat: item.vehicle.position.latitude, long: item.vehicle.position.longitude}
"""
ONLY_CHANGED = SPLIT.replace('channel: "bus:{item.id}"}', 'channel: "bus:{item.id}", only_changed: true}').replace(
    'channel: "position:{item.id}"\n', 'channel: "position:{item.id}"\n    only_changed: true\n'
)
SMALL = """version: 1
sources: [{name: ticks, topics: [TOPIC], format: json}]
routes:
  - name: tick
    channel: "tick:{item.symbol}"
    project: {symbol: item.symbol, bid: item.book.bid, ask: item.book.ask, last: item.last, name: item.name, venue: item.venue, at: item.at}
"""


def snapshots(vehicles: int = 152, count: int = SNAPSHOTS) -> Iterator[bytes]:
    """The demo's city, tick by tick."""
    city = Simulation(vehicles=vehicles)
    for tick in range(count):
        yield msgspec.json.encode(city.snapshot(tick))


def small_records() -> Iterator[bytes]:
    """Quotes of about 250 bytes, of 500 instruments in turn."""
    for number in range(SMALL_RECORDS):
        symbol = f"S{number % CHANNELS:04}"
        yield msgspec.json.encode(
            {
                "symbol": symbol,
                "book": {"bid": round(100 + number % 977 / 100, 2), "ask": round(100.05 + number % 977 / 100, 2)},
                "last": round(100.02 + number % 983 / 100, 2),
                "name": f"Instrument {symbol} of the benchmark",
                "venue": "XDST",
                "at": 1_700_000_000_000 + number,
                "note": "x" * 90,
            }
        )


class Measured(msgspec.Struct):
    """One run of a bridge over a topic. CPU is that of one item, whether it made a publication or was unchanged."""

    records: int
    published: int
    unchanged: int
    bridge_us: float
    redis_us: float
    seconds: float


def run_bridge(folder: Path, kafka: KafkaCluster, topic: str, rules: str, records: int, name: str) -> Measured:
    """Start a bridge and a Redis of their own, wait until the topic is through, and read what it cost."""
    path = folder / f"{name}.yaml"
    path.write_text(rules.replace("TOPIC", topic))
    with RedisServer(folder / f"redis-{name}") as redis:
        port = free_port()
        command = project_command(
            "bridge", "run", "--rules", path, "--bootstrap-servers", kafka.bootstrap_servers, "--bus", redis.url, "--group", name,
            "--internal-port", port,
        )  # fmt: skip
        with Process(command, log=folder / f"{name}.log") as bridge:
            bridge.wait_for_http(f"http://127.0.0.1:{port}/health/live")
            wait_for(port, "distributary_bridge_records_total", 1)
            first, start = metrics(port), time.monotonic()
            bridge_cpu, redis_cpu = cpu_ns(bridge.pid), cpu_ns(redis.process.pid)
            wait_for(port, "distributary_bridge_records_total", records)
            last, seconds = metrics(port), time.monotonic() - start
            bridge_cpu, redis_cpu = cpu_ns(bridge.pid) - bridge_cpu, cpu_ns(redis.process.pid) - redis_cpu
    published = pushes(last, "full") + pushes(last, "delta") - pushes(first, "full") - pushes(first, "delta")
    unchanged = pushes(last, "unchanged") - pushes(first, "unchanged")
    of = (published + unchanged) * 1000
    return Measured(records, published, unchanged, bridge_cpu / of, redis_cpu / of, seconds)


def metrics(port: int) -> dict[str, float]:
    """The bridge's metrics now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def pushes(found: dict[str, float], outcome: str) -> int:
    """How many publications ended so."""
    return int(found[f'distributary_bridge_pushes_total{{outcome="{outcome}"}}'])


def wait_for(port: int, name: str, least: int) -> None:
    """Wait until a metric has come so far, looking rarely: looking costs the bridge, too."""
    deadline = time.monotonic() + 120
    while metrics(port)[name] < least:
        if time.monotonic() > deadline:
            msg = f"{name} did not reach {least}"
            raise TimeoutError(msg)
        time.sleep(0.2 if least > 1 else 0.002)


def script_alone(folder: Path) -> float:
    """Redis' own CPU a publication, in microseconds: batches of 100 of one shard, 250 bytes, nobody subscribed."""
    layout = BusLayout()
    channels = [name for name in (f"tick:{number}" for number in range(10_000)) if layout.shard_of(name) == 0][:CHANNELS]
    payload = next(small_records())
    with RedisServer(folder / "redis-alone") as redis, contextlib.closing(publisher(redis.url, layout)) as bus:
        source, keep, spent = source_id("bench", "bench", 0), Keep(), []
        for round_ in range(2 + ROUNDS):
            before = cpu_ns(redis.process.pid)
            for batch in range(200):
                at = (round_ * 200 + batch) * 100
                bus.push([push(channels[(at + number) % CHANNELS], payload, Source(source, at + number, 0), keep) for number in range(100)])
            spent.append((cpu_ns(redis.process.pid) - before) / 20_000 / 1000)
    return median(spent[2:])


def publisher(url: str, layout: BusLayout) -> BusPublisher:
    """A publisher that is open."""
    bus = BusPublisher(connect_servers([url]), layout, instance="bench")
    bus.open()
    return bus


def push(channel: str, payload: bytes, source: Source, keep: Keep) -> Push:
    """A full publication."""
    return Push(channel, payload, payload_hash(payload), ContentType.JSON, Kind.LATEST, 1_700_000_000_000, source, keep)


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as name, KafkaCluster(Path(name) / "kafka", KAFKA_LIBS) as kafka:
        folder = Path(name)
        loads = {
            "vehicles": list(snapshots()),
            "vehicles-640": list(snapshots(640, 100)),
            "standing": list(snapshots(count=1)) * SNAPSHOTS,
            "ticks": list(small_records()),
        }
        for topic, values in loads.items():
            kafka.create_topic(topic)
            kafka.produce(topic, values)
        rows: list[tuple[object, ...]] = []
        for what, topic, rules, bar in (
            ("152-vehicle snapshots, split, VCDIFF", "vehicles", SPLIT, "20"),
            ("the same, only_changed", "vehicles", ONLY_CHANGED, "20"),
            ("640-vehicle snapshots, only_changed", "vehicles-640", ONLY_CHANGED, "20"),
            ("152 vehicles that stand still, only_changed", "standing", ONLY_CHANGED, "5"),
            ("small records, 500 channels, VCDIFF", "ticks", SMALL, "35, 20"),
        ):
            count = len(loads[topic])
            runs = [run_bridge(folder, kafka, topic, rules, count, f"{topic}-{len(rows)}-{round_}") for round_ in range(ROUNDS)]
            rows.append(row(what, runs, bar))
        rows.append(("script alone, batches of 100", "", "", "", "", f"{script_alone(folder):.1f}", "20", ""))
    columns = ("what", "records", "published", "unchanged", "bridge us", "redis us", "bar (bridge, redis)", "publications/s")
    report("bridge", "Bridge: CPU an item, from real Kafka to real Redis", columns, rows)


def row(what: str, runs: list[Measured], bar: str) -> tuple[object, ...]:
    """The medians of some runs."""
    bridge_us, redis_us = median([run.bridge_us for run in runs]), median([run.redis_us for run in runs])
    rate = median([run.published / run.seconds for run in runs])
    return what, runs[0].records, runs[0].published, runs[0].unchanged, f"{bridge_us:.1f}", f"{redis_us:.1f}", bar, f"{rate:,.0f}"


if __name__ == "__main__":
    try:
        main()
    finally:
        end_all()
