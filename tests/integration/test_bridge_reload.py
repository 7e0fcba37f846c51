"""`bridge run` whose rules change while records flow, on a real Kafka and a real Redis."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Self

import pytest

from shared import envelope
from shared.bus.layout import BusLayout
from tests.conftest import StartProject
from tests.rig.kafka_server import KafkaCluster
from tests.rig.process import Process
from tests.rig.redis_server import RedisServer
from tests.rig.wait import wait_until

RULES = """
version: 1
sources:
  - {{name: numbers, topics: {topics}}}
defaults: {{kind: stream, history: {{size: 100000, bytes: 100MB}}}}
routes:
  - {{name: all, channel: "all:{{topic}}"}}
  - {{name: changing, channel: "rules-{version}:{{topic}}", on_error: halt{where}}}
"""
LAYOUT = BusLayout()


class ConfigMap:
    """A folder as Kubernetes mounts a ConfigMap: a change turns one symbolic link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rules = folder / "rules.yaml"
        self._numbers = count(1)
        folder.mkdir()
        self.rules.symlink_to("..data/rules.yaml")

    def put(self, text: str) -> None:
        version = self.folder / f"..{next(self._numbers)}"
        version.mkdir()
        (version / "rules.yaml").write_text(text)
        link = self.folder / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(self.folder / "..data")


class Flow:
    """Records with the numbers from 0 on, a few at a time, until `stop`."""

    def __init__(self, kafka: KafkaCluster, topic: str, partitions: int = 1) -> None:
        self.sent = 0
        self._kafka, self._topic, self._partitions = kafka, topic, partitions
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.is_set():
            self.send(20)

    def send(self, number: int) -> None:
        values = [json.dumps({"n": each, "text": "the same in all of them"}).encode() for each in range(self.sent, self.sent + number)]
        self._kafka.produce(self._topic, values, partition=self.sent % self._partitions)
        self.sent += number

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


class Bridge:
    """One bridge with its rules in a ConfigMap."""

    def __init__(self, start: StartProject, kafka: KafkaCluster, redis: RedisServer, folder: Path, topics: str) -> None:
        self.topics, self.redis, self.group = topics, redis, f"group-{topics[1:5]}-{os.urandom(4).hex()}"
        self.config = ConfigMap(folder / "config")
        self.put(1)
        self._start, self._kafka = start, kafka
        self.process = self.start()

    def start(self) -> Process:
        process = self._start(
            "bridge",
            *("run", "--rules", self.config.rules, "--bootstrap-servers", self._kafka.bootstrap_servers, "--group", self.group),
            *("--bus", self.redis.url, "--internal-port", "0", "--log-format", "json"),
            *("--kafka-property", "topic.metadata.refresh.interval.ms=1000"),
            # A static member, so that the next one need not wait until the group misses one that was killed. Nobody is to be missed sooner
            # than usual: a bridge that gets no time for some seconds would join anew, and read anew.
            *("--kafka-property", "group.instance.id=one"),
        )
        process.wait_for_log("health and metrics")
        return process

    def put(self, version: int, *, topics: str | None = None, where: str = "") -> None:
        self.config.put(RULES.format(topics=topics or self.topics, version=version, where=where))

    def get(self, path: str) -> str:
        [address] = [record["address"] for record in self.process.records() if "address" in record]
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def logged(self, message: str) -> list[dict[str, Any]]:
        """The log's events whose message begins so."""
        return [record for record in self.process.records() if record["message"].startswith(message)]

    def health(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/health/ready")))

    def wait_for_health(self, is_so: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Wait until the bridge says so of itself, and return all that it says."""

        def look() -> dict[str, Any] | None:
            found = self.health()
            return found if is_so(found) else None

        return wait_until(look, what=what, ignore=(ValueError, OSError), state=self.process.tail)

    def wait_for_generation(self, number: int) -> None:
        self.wait_for_health(lambda health: health["rules"]["generation"] == number, f"rules of generation {number}")

    def entries(self, channel: str) -> list[envelope.Envelope]:
        with self.redis.client() as client:
            found = client.lrange(LAYOUT.history_key(channel), 0, -1)
        assert isinstance(found, list)
        return [envelope.decode(entry) for entry in found]

    def published(self, channel: str) -> list[int]:
        return [json.loads(entry.body)["n"] for entry in self.entries(channel)]

    def wait_for(self, channel: str, number: int) -> None:
        wait_until(lambda: self.published(channel)[-1:] == [number], what=f"{number} on {channel}", timeout_s=120, state=self.process.tail)

    def wait_for_both(self, version: int, topic: str, number: int) -> None:
        """A record reaches one channel after the other: until it is on both."""
        self.wait_for(f"all:{topic}", number)
        self.wait_for(f"rules-{version}:{topic}", number)


@pytest.fixture
def bridge(start_project: StartProject, kafka: KafkaCluster, topic: str, redis_server: RedisServer, tmp_path: Path) -> Bridge:
    redis_server.flush()
    return Bridge(start_project, kafka, redis_server, tmp_path, f"[{topic}]")


def test_rules_change_while_records_flow(bridge: Bridge, kafka: KafkaCluster, topic: str):
    with Flow(kafka, topic) as flow:
        for version in (2, 3, 4):
            wait_until(lambda version=version: bridge.published(f"rules-{version - 1}:{topic}"), what="records by the old rules")  # type: ignore[misc]
            bridge.put(version)
            bridge.wait_for_generation(version)
        wait_until(lambda: bridge.published(f"rules-4:{topic}"), what="records by the newest rules")
    bridge.wait_for_both(4, topic, flow.sent - 1)
    everything = list(range(flow.sent))
    assert bridge.published(f"all:{topic}") == everything
    by_version = [bridge.published(f"rules-{version}:{topic}") for version in (1, 2, 3, 4)]
    assert [number for numbers in by_version for number in numbers] == everything
    assert all(by_version)
    assert len(bridge.logged("partitions assigned")) == 1, "the group was not joined anew"
    metrics = bridge.get("/metrics")
    assert "distributary_bridge_rules_generation 4.0" in metrics
    assert 'distributary_bridge_rules_reloads_total{outcome="ok"} 3.0' in metrics
    # Everything but the first publication of each channel went out as a delta: the bases outlived the reloads.
    assert 'distributary_bridge_pushes_total{outcome="full"} 5.0' in metrics
    assert bridge.process.terminate() == 0
    assert kafka.committed(bridge.group, topic) == flow.sent


def test_a_broken_file_keeps_the_rules_and_is_told_with_its_lines(bridge: Bridge, kafka: KafkaCluster, topic: str):
    flow = Flow(kafka, topic)
    flow.send(10)
    bridge.wait_for(f"rules-1:{topic}", 9)
    bridge.config.put("version: 1\nsources: [{name: a, topics: [b]}]\nroutes:\n  - {name: x, chanel: y}\n  - {name: x, channel: '{z}'}\n")
    health = bridge.wait_for_health(lambda found: found["rules"]["problems"], "problems")
    assert health["status"] == "degraded"
    problems = health["rules"]["problems"]
    assert [problem.split(":")[1] for problem in problems] == ["4", "5", "5"]
    bridge.process.wait_for_log("the rules file is refused")
    assert [record["problem"] for record in bridge.logged("problem in the rules")] == problems
    flow.send(10)
    bridge.wait_for(f"rules-1:{topic}", 19)
    bridge.put(2)
    bridge.wait_for_health(lambda found: found["rules"]["generation"] == 2 and found["status"] == "ready", "rules that are taken")
    flow.send(10)
    bridge.wait_for(f"rules-2:{topic}", 29)
    assert bridge.published(f"rules-2:{topic}") == list(range(20, 30))


def test_topics_come_and_go_with_the_rules(bridge: Bridge, kafka: KafkaCluster, topic: str, unique_name: str):
    other = kafka.create_topic(f"{unique_name}-other")
    flow, other_flow = Flow(kafka, topic), Flow(kafka, other)
    flow.send(10)
    other_flow.send(10)
    bridge.wait_for_both(1, topic, 9)
    bridge.put(2, topics=f"[{topic}, {other}]")
    bridge.wait_for(f"all:{other}", 9)
    bridge.put(3, topics=f"[{other}]")
    bridge.process.wait_for_log(rf"partitions revoked.*{topic}\[0\]", timeout_s=120)
    flow.send(10)
    other_flow.send(10)
    bridge.wait_for(f"all:{other}", 19)
    assert bridge.published(f"all:{topic}") == list(range(10))
    bridge.put(4)
    bridge.wait_for_both(4, topic, 19)
    assert bridge.published(f"all:{topic}") == list(range(20))
    assert bridge.published(f"rules-4:{topic}") == list(range(10, 20))
    assert bridge.published(f"all:{other}") == list(range(20))


def test_sighup_and_a_corrected_file_go_on_with_a_halted_partition(bridge: Bridge, kafka: KafkaCluster, topic: str):
    flow = Flow(kafka, topic)
    bridge.put(2, where=', where: "sum(to_array(item.n)) >= `0`"')
    bridge.wait_for_generation(2)
    flow.send(10)
    bridge.wait_for_both(2, topic, 9)
    kafka.produce(topic, [b'{"n": "a text"}'])
    bridge.wait_for_health(lambda found: found["halted"], "the partition halted")
    flow.send(10)
    bridge.process.signal(signal.SIGHUP)
    bridge.process.wait_for_log("halted partitions are tried again")
    wait_until(lambda: len(bridge.logged("partition halted")) == 2, what="the partition halted again")
    bridge.put(3)
    bridge.wait_for_both(3, topic, 19)
    expected = [*range(10), "a text", *range(10, 20)]
    assert bridge.published(f"all:{topic}") == expected
    assert bridge.published(f"rules-3:{topic}") == expected[10:]
    assert bridge.health()["halted"] == {}


def test_a_bridge_that_is_killed_during_a_change_loses_nothing(bridge: Bridge, kafka: KafkaCluster, topic: str):
    with Flow(kafka, topic) as flow:
        for version in (2, 3):
            wait_until(lambda version=version: bridge.published(f"rules-{version - 1}:{topic}"), what="records by the old rules")  # type: ignore[misc]
            bridge.put(version)
            bridge.wait_for_generation(2)  # Each process counts its own.
            bridge.process.kill()
            bridge.process = bridge.start()
        wait_until(lambda: bridge.published(f"rules-3:{topic}"), what="records by the newest rules")
    bridge.wait_for_both(3, topic, flow.sent - 1)
    assert bridge.published(f"all:{topic}") == list(range(flow.sent))
    for version in (1, 2, 3):
        numbers = bridge.published(f"rules-{version}:{topic}")
        assert numbers == sorted(set(numbers))
