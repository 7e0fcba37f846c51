"""Workers of a bridge: CPU a publication and the rate with one process, with two workers, with four.

Small records of about 250 bytes on 500 channels, spread over 4 partitions by channel, are in Kafka before the bridge starts. CPU is that of
all of the bridge's processes together. What is left of a core for Redis and Kafka bounds the rate: so beside the rate stands how many cores
all of them used, and what the same work would give if cores were the only bound (the rate by cores of the bridge).
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import urllib.request
from pathlib import Path

import msgspec

from bench.bench_bridge import CHANNELS, SMALL, SMALL_RECORDS, small_records
from bench.measure import cpu_ns, free_port, median, report
from bridge.core.stats import Stats, read
from tests.rig.kafka_server import KafkaCluster
from tests.rig.parts import KAFKA_LIBS
from tests.rig.process import Process, end_all, project_command
from tests.rig.redis_server import RedisServer
from tests.rig.wait import wait_until

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
PARTITIONS = 4
MARK = "ticks"


class Measured(msgspec.Struct):
    """One run."""

    bridge_us: float
    """CPU of all its processes, a publication."""
    redis_us: float
    rate: float
    cores: float
    """That the bridge's processes used."""
    least_share: float
    """Of the records, the part of the worker that had least."""


def fill(kafka: KafkaCluster) -> None:
    """Each channel's records in a partition of their own."""
    kafka.create_topic(MARK, partitions=PARTITIONS)
    for partition in range(PARTITIONS):
        values = (value for number, value in enumerate(small_records()) if number % CHANNELS % PARTITIONS == partition)
        kafka.produce(MARK, values, partition=partition)


def run(folder: Path, kafka: KafkaCluster, workers: int, name: str) -> Measured:
    """One bridge over the whole topic."""
    path = folder / f"{name}.yaml"
    path.write_text(SMALL.replace("TOPIC", MARK))
    with RedisServer(folder / f"redis-{name}") as redis:
        redis.pause()  # The bus is away until the workers have shared out the partitions: then all begin at once.
        port = free_port()
        command = project_command(
            "bridge", "run", "--rules", path, "--bootstrap-servers", kafka.bootstrap_servers, "--bus", redis.url, "--group", name,
            "--internal-port", port, "--workers", workers, "--log-format", "json",
        )  # fmt: skip
        with Process(command, log=folder / f"{name}.log") as bridge:
            wait_until(lambda: is_shared_out(bridge, workers), what="partitions for each worker", timeout_s=60)
            redis.resume()
            bridge.wait_for_http(f"http://127.0.0.1:{port}/health/ready")
            pids = [bridge.pid, *(worker["pid"] for worker in health(port).get("workers", ()))]
            first, begun = metrics(port), time.monotonic()
            bridge_cpu, redis_cpu = sum(map(cpu_ns, pids)), cpu_ns(redis.process.pid)
            wait_for(port, SMALL_RECORDS)
            last, seconds = metrics(port), time.monotonic() - begun
            bridge_cpu, redis_cpu = sum(map(cpu_ns, pids)) - bridge_cpu, cpu_ns(redis.process.pid) - redis_cpu
            shares = records_by_worker(port)
    published = last.publications - first.publications
    return Measured(
        bridge_cpu / published / 1000,
        redis_cpu / published / 1000,
        published / seconds,
        bridge_cpu / 1e9 / seconds,
        min(shares) / SMALL_RECORDS,
    )


def is_shared_out(bridge: Process, workers: int) -> bool:
    """Whether each worker has its part of the partitions, by what they logged."""
    mine: dict[int, set[str]] = {number: set() for number in range(workers)}
    for event in bridge.records():
        names = set(str(event.get("partitions", "")).split(", ")) - {"none", ""}
        if event["message"] == "partitions assigned":
            mine[event.get("worker", 0)] |= names
        elif event["message"] == "partitions revoked":
            mine[event.get("worker", 0)] -= names
    return all(len(names) == PARTITIONS // workers for names in mine.values())


def health(port: int) -> dict[str, list[dict[str, int]]]:
    """What the bridge says of its workers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=15) as answer:
        found: dict[str, list[dict[str, int]]] = json.load(answer)
    return found


def samples(port: int) -> list[tuple[str, dict[str, str], float]]:
    """The metrics of all workers."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=15) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]


def metrics(port: int) -> Stats:
    """The counts of all workers together."""
    return read(samples(port), time.monotonic())


def records_by_worker(port: int) -> list[float]:
    """How many records each had."""
    return [value for name, _, value in samples(port) if name == "distributary_bridge_records_total"]


def wait_for(port: int, records: int) -> None:
    """Wait until so many are consumed, looking rarely: looking costs, too."""
    deadline = time.monotonic() + 120
    while metrics(port).records < records:
        if time.monotonic() > deadline:
            msg = f"{records} records were not reached"
            raise TimeoutError(msg)
        time.sleep(0.2 if records > 1 else 0.02)


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as name, KafkaCluster(Path(name) / "kafka", KAFKA_LIBS) as kafka:
        fill(kafka)
        runs: dict[int, list[Measured]] = {1: [], 2: [], 4: []}
        for round_ in range(ROUNDS):
            for workers, found in runs.items():
                found.append(run(Path(name), kafka, workers, f"workers-{workers}-{round_}"))
        rows = [row(workers, found, runs[1]) for workers, found in runs.items()]
    columns = ("workers", "bridge us", "of one's", "redis us", "publications/s", "cores of the bridge", "a core and second", "least share")
    report("bridge_workers", "Bridge: workers that share a topic", columns, rows)


def row(workers: int, runs: list[Measured], one: list[Measured]) -> tuple[object, ...]:
    """The medians of some runs. The ratio is that of runs one after the other."""
    us, rate, cores = (median([getattr(run_, name) for run_ in runs]) for name in ("bridge_us", "rate", "cores"))
    ratio = median([run_.bridge_us / other.bridge_us for run_, other in zip(runs, one, strict=True)])
    redis_us, share = median([run_.redis_us for run_ in runs]), median([run_.least_share for run_ in runs])
    return workers, f"{us:.1f}", f"{ratio:.2f}", f"{redis_us:.1f}", f"{rate:,.0f}", f"{cores:.2f}", f"{1e6 / us:,.0f}", f"{share:.0%}"


if __name__ == "__main__":
    try:
        main()
    finally:
        end_all()
