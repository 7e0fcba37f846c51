"""`bridge run --workers N` and `--stats`, on a real Kafka and a real Redis."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared import envelope
from shared.bus.layout import BusLayout
from tests.conftest import StartProject
from tests.rig.kafka_server import KafkaCluster
from tests.rig.process import Process, project_command
from tests.rig.redis_server import RedisServer
from tests.rig.wait import wait_until

RULES = """
version: 1
sources: [{{name: a, topics: ["{topic}"]}}]
routes:
  - name: item
    split: value
    channel: "{version}:{{item.id}}"
    kind: stream
    history: {{size: 10000, bytes: 100MB}}
"""
LAYOUT = BusLayout()
PARTITIONS = 4
WORKERS = 2


class Bridge:
    """A bridge of several workers, and records whose channels belong to one partition each."""

    def __init__(self, start: StartProject, kafka: KafkaCluster, topic: str, redis: RedisServer, folder: Path) -> None:
        self.kafka, self.topic, self.redis, self.group = kafka, topic, redis, f"group-{topic}"
        self.rules = folder / "rules.yaml"
        self.put_rules("v1")
        self._start = start
        self.sent = [0] * PARTITIONS

    def put_rules(self, version: str) -> None:
        self.put_text(RULES.format(topic=self.topic, version=version))

    def put_text(self, text: str) -> None:
        """All at once: nobody reads half of it."""
        path = self.rules.with_suffix(".new")
        path.write_text(text)
        path.rename(self.rules)

    def arguments(self, *more: str | int) -> list[str | int | Path]:
        return [
            *("run", "--rules", self.rules, "--bootstrap-servers", self.kafka.bootstrap_servers, "--group", self.group),
            *("--bus", self.redis.url, "--internal-port", 0, "--kafka-property", "group.instance.id=one"),
            # Members are told soon that the group rebalances, and never missed: that of a worker that was killed comes back under its name.
            *("--kafka-property", "heartbeat.interval.ms=500", *more),
        ]

    def start(self, *more: str | int) -> Process:
        self.process = self._start("bridge", *self.arguments("--log-format", "json", "--workers", WORKERS, *more))
        return self.process

    def started(self) -> Process:
        process = self.start()
        process.wait_for_log("all workers started")
        wait_until(self.is_shared_out, what="partitions for each worker", timeout_s=120, state=process.tail)
        return process

    def is_shared_out(self) -> bool:
        """Whether each worker has its half of the partitions, by what they logged."""
        mine: dict[int, set[str]] = {number: set() for number in range(WORKERS)}
        for event in self.process.records():
            names = set(str(event.get("partitions", "")).split(", ")) - {"none", ""}
            if event["message"] == "partitions assigned":
                mine[event["worker"]] |= names
            elif event["message"] in {"partitions revoked", "partitions lost"}:
                mine[event["worker"]] -= names
        return all(len(names) == PARTITIONS // WORKERS for names in mine.values())

    def produce(self, count: int) -> None:
        for partition in range(PARTITIONS):
            numbers = range(self.sent[partition], self.sent[partition] + count)
            values = [json.dumps([{"id": partition, "n": number, "text": "the same in each"}]).encode() for number in numbers]
            self.kafka.produce(self.topic, values, partition=partition)
            self.sent[partition] += count

    def published(self, channel: str) -> list[int]:
        with self.redis.client() as client:
            found = client.lrange(LAYOUT.history_key(channel), 0, -1)
        assert isinstance(found, list)
        return [json.loads(envelope.decode(entry).body)["n"] for entry in found]

    def wait_for_all(self, version: str = "v1") -> None:
        wait_until(
            lambda: all(self.published(f"{version}:{partition}")[-1:] == [sent - 1] for partition, sent in enumerate(self.sent)),
            what="the newest record of each partition",
            timeout_s=120,
            state=self.process.tail,
        )

    def get(self, path: str) -> tuple[int, str]:
        [address] = [event["address"] for event in self.process.records() if "address" in event and "worker" not in event]
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def health(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/health/ready")[1]))

    def wait_for_health(self, is_so: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Wait until every worker answers in time, and the bridge says so of itself; return all that it says."""

        def look() -> dict[str, Any] | None:
            found = self.health()
            return found if all("rules" in worker for worker in found["workers"]) and is_so(found) else None

        return wait_until(look, what=what, ignore=(ValueError, OSError), state=self.process.tail)

    def metrics(self, name: str) -> dict[str, float]:
        """The values of a metric by worker."""
        found = re.findall(rf'^{name}\{{[^}}]*worker="(\d)"[^}}]*\}} ([0-9.e+]+)$', self.get("/metrics")[1], re.MULTILINE)
        return {worker: float(value) for worker, value in found}


@pytest.fixture
def bridge(start_project: StartProject, kafka: KafkaCluster, unique_name: str, redis_server: RedisServer, tmp_path: Path) -> Bridge:
    redis_server.flush()
    return Bridge(start_project, kafka, kafka.create_topic(unique_name, partitions=PARTITIONS), redis_server, tmp_path)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_share_the_partitions_and_report_together(bridge: Bridge, kafka: KafkaCluster):
    process = bridge.started()
    bridge.produce(50)
    bridge.wait_for_all()
    health = bridge.wait_for_health(lambda found: found["lag"] == 0 and found["status"] == "ready", "no lag")
    assert [worker["worker"] for worker in health["workers"]] == [0, 1]
    assert all(worker["status"] == "ready" and worker["rules"]["generation"] == 1 for worker in health["workers"])
    records = wait_until(
        lambda: len(found := bridge.metrics("distributary_bridge_records_total")) == WORKERS and found, what="metrics of each"
    )
    assert isinstance(records, dict)
    assert sum(records.values()) == 200
    assert all(records.values()), "each worker did a part"
    assert "distributary_bridge_workers 2.0" in bridge.get("/metrics")[1]
    assert bridge.get("/health/live")[0] == 200
    pids = [worker["pid"] for worker in health["workers"]]
    assert process.terminate() == 0
    assert not any(is_alive(pid) for pid in pids)
    assert [kafka.committed(bridge.group, bridge.topic, partition) for partition in range(PARTITIONS)] == bridge.sent
    assert "Traceback" not in process.output()


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost_nor_twice(bridge: Bridge):
    process = bridge.started()
    bridge.produce(50)
    bridge.wait_for_all()
    pids = {worker["worker"]: worker["pid"] for worker in bridge.health()["workers"]}
    assert all(pids.values())
    bridge.produce(50)
    os.kill(pids[0], signal.SIGKILL)
    bridge.produce(50)
    bridge.wait_for_all()
    for partition, sent in enumerate(bridge.sent):
        assert bridge.published(f"v1:{partition}") == list(range(sent))

    def is_replaced(health: dict[str, Any]) -> bool:
        worker = health["workers"][0]
        return worker["pid"] not in {pids[0], None} and worker["status"] == "ready" and worker["restarts"] == 1

    bridge.wait_for_health(is_replaced, "a new worker")
    assert bridge.health()["workers"][1]["pid"] == pids[1]
    assert bridge.metrics("distributary_bridge_worker_restarts_total")["0"] == 1
    assert process.terminate() == 0


def test_a_change_of_the_rules_reaches_every_worker(bridge: Bridge):
    bridge.started()
    bridge.put_rules("v2")
    bridge.wait_for_health(lambda found: all(worker["rules"]["generation"] == 2 for worker in found["workers"]), "new rules everywhere")
    bridge.produce(10)
    bridge.wait_for_all("v2")
    bridge.put_text("no rules")
    health = bridge.wait_for_health(lambda found: all(worker["rules"]["problems"] for worker in found["workers"]), "rules refused by each")
    assert health["status"] == "degraded"
    bridge.process.signal(signal.SIGHUP)

    def refusals() -> list[int]:
        events = bridge.process.records()
        return sorted(event["worker"] for event in events if event["message"].startswith("the rules file is refused"))

    wait_until(lambda: refusals() == [0, 0, 1, 1], what="each to have read it again", state=refusals)
    bridge.produce(10)
    bridge.wait_for_all("v2")


def test_workers_that_cannot_work_end_it_all(bridge: Bridge):
    process = bridge.start("--kafka-property", "no.such.property=1")
    assert process.wait() == 2
    assert "no.such.property" in process.output()


def test_workers_die_with_their_parent(bridge: Bridge):
    process = bridge.started()
    pids = [worker["pid"] for worker in bridge.health()["workers"]]
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in pids), what="the end of the workers")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_live_view_shows_what_happens_and_ends_with_ctrl_c(bridge: Bridge, workers: int):
    parent, child = pty.openpty()
    command = project_command("bridge", *bridge.arguments("--workers", workers, "--stats"))
    process = subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, start_new_session=True, env={**os.environ, "COLUMNS": "140", "TERM": "xterm"}
    )
    os.close(child)
    shown = b""

    def read() -> bytes:
        nonlocal shown
        while select.select([parent], [], [], 0.05)[0]:
            try:
                shown += os.read(parent, 65536)
            except OSError:  # The other side is closed.
                break
        return shown

    try:
        wait_until(lambda: b"partitions assigned" in read(), what="the log above the view", state=lambda: shown[-2000:])
        bridge.produce(25)
        wait_until(lambda: b"100 records, 100 publications" in read(), what="the counts", state=lambda: shown[-2000:])
        for text in (b"ready", b"halted partitions", b"saving", b"rules 1", b"workers 2" if workers == 2 else b"unchanged"):
            assert text in shown, text
        process.send_signal(signal.SIGINT)
        assert wait_until(lambda: (read(), process.poll())[1] is not None, what="the end", state=lambda: shown[-2000:])
        read()
        assert process.returncode == 0
        assert b"Traceback" not in shown
        assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l"), "the cursor is shown again"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(parent)


def test_without_a_terminal_the_progress_is_logged(bridge: Bridge):
    process = bridge.start("--stats", "--workers", 1)
    bridge.produce(5)
    process.wait_for_log('"progress","records":20')
    assert "\x1b[" not in process.output()
