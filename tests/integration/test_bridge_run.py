"""`bridge run` as a process, on a real Kafka and a real Redis, killed and starved."""

from __future__ import annotations

import json
import random
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from shared import envelope
from shared.bus.layout import BusLayout
from shared.bus.push import source_id
from tests.conftest import StartKafka, StartProject, StartRedis
from tests.rig.kafka_server import KafkaCluster
from tests.rig.process import Process
from tests.rig.redis_server import RedisServer
from tests.rig.wait import wait_until

RULES = """
version: 1
sources:
  - {{name: vehicles, topics: ["{topic}"], format: json}}
routes:
  - name: bus
    source: vehicles
    split: value
    channel: "bus:{{item.id}}"
    kind: stream
    on_error: {on_error}
    history: {{size: 10000, bytes: 100MB}}
  - name: position
    source: vehicles
    split: value
    channel: "position:{{item.id}}"
    project: item.at
    kind: latest
    only_changed: true
    history: {{size: 10000, bytes: 100MB}}
"""
VEHICLES = 30
LAYOUT = BusLayout()


class Feed:
    """Snapshots of a fleet in which every third vehicle stands still, and what must become of them."""

    def __init__(self, kafka: KafkaCluster, topic: str) -> None:
        self.kafka = kafka
        self.topic = topic
        self.produced: dict[str, list[object]] = {}
        self._count = 0

    def produce(self, snapshots: int, partition: int = 0) -> None:
        values = []
        for _ in range(snapshots):
            self._count += 1
            items = [
                {
                    "id": f"{partition}-{number}",
                    "n": self._count,
                    "at": self._count if number % 3 else 0,
                    "label": f"vehicle {number} of the city",
                }
                for number in range(VEHICLES)
            ]
            values.append(json.dumps(items).encode())
            for item in items:
                self.produced.setdefault(f"bus:{item['id']}", []).append(item)
        self.kafka.produce(self.topic, values, partition=partition)

    def check(self, redis: RedisServer) -> None:
        """Each channel's history is what was produced: nothing twice, nothing missing, in order."""
        for channel, items in self.produced.items():
            assert published(redis, channel) == items, channel
            positions = [item["at"] for item in items]  # type: ignore[index]
            changed = [at for number, at in enumerate(positions) if number == 0 or at != positions[number - 1]]
            assert published(redis, channel.replace("bus:", "position:")) == changed, channel

    def is_on(self, redis: RedisServer) -> bool:
        """Whether the newest item of each vehicle has arrived on both of its channels. No two items of a vehicle are equal."""
        return all(
            published(redis, channel)[-1:] == items[-1:]
            and published(redis, channel.replace("bus:", "position:"))[-1:] == [items[-1]["at"]]  # type: ignore[index]
            for channel, items in self.produced.items()
        )


def published(redis: RedisServer, channel: str) -> list[object]:
    with redis.client() as client:
        found = client.lrange(LAYOUT.history_key(channel), 0, -1)
    assert isinstance(found, list)
    entries = [envelope.decode(entry) for entry in found]
    assert [entry.offset for entry in entries] == list(range(1, len(entries) + 1))
    return [json.loads(entry.body) for entry in entries]


class StartBridge:
    """Starts bridges of one group."""

    def __init__(self, start: StartProject, rules: Path, kafka: KafkaCluster, group: str) -> None:
        self._start = start
        self._rules = rules
        self._kafka = kafka
        self._group = group

    def __call__(self, redis: RedisServer, *options: str) -> Process:
        return self._start(
            "bridge",
            *("run", "--rules", self._rules, "--bootstrap-servers", self._kafka.bootstrap_servers, "--group", self._group),
            *("--bus", redis.url, "--internal-port", "0", "--log-format", "json", "--commit-interval-s", "0.2"),
            *("--kafka-property", "session.timeout.ms=6000", "--kafka-property", "heartbeat.interval.ms=500", *options),
        )


@pytest.fixture
def start_bridge(start_project: StartProject, tmp_path: Path, kafka: KafkaCluster, topic: str) -> StartBridge:
    return make_start(start_project, tmp_path, kafka, topic)


def make_start(start: StartProject, directory: Path, kafka: KafkaCluster, topic: str, on_error: str = "skip") -> StartBridge:
    rules = directory / "rules.yaml"
    rules.write_text(RULES.format(topic=topic, on_error=on_error))
    return StartBridge(start, rules, kafka, f"group-{topic}")


def health(bridge: Process) -> dict[str, object]:
    """The body of /health/ready."""
    [address] = [record["address"] for record in bridge.records() if "address" in record]
    try:
        with urllib.request.urlopen(f"http://{address}/health/ready", timeout=30) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        return dict(json.load(error))


def wait_for_status(bridge: Process, status: str) -> dict[str, object]:
    def has_status() -> dict[str, object] | None:
        found = health(bridge)
        return found if found["status"] == status else None

    return wait_until(has_status, what=f"status {status}", ignore=(ValueError, OSError), state=bridge.tail)


def wait_for_trouble(bridge: Process, what: str) -> None:
    """Wait until the bridge says of this part that it is away, and that it is degraded for it."""
    wait_until(
        lambda: (found := health(bridge))["status"] == "degraded" and found[what] == "away",
        what=f"{what} away",
        ignore=(ValueError, OSError),
        state=bridge.tail,
    )


def wait_for_lag(bridge: Process, lag: int) -> None:
    wait_until(
        lambda: health(bridge)["lag"] == lag,
        what=f"a lag of {lag}, which is looked at every second",
        ignore=(ValueError, OSError),
        state=bridge.tail,
    )


def wait_for_feed(feed: Feed, redis: RedisServer, bridge: Process) -> None:
    wait_until(lambda: feed.is_on(redis), what="the newest snapshot on the bus", timeout_s=120, interval_s=0.2, state=bridge.tail)


def test_a_bridge_that_is_killed_again_and_again_publishes_everything_once(
    kafka: KafkaCluster, topic: str, start_bridge: StartBridge, start_redis: StartRedis
):
    redis, feed, chance = start_redis(), Feed(kafka, topic), random.Random(3)
    first = f"bus:0-{VEHICLES - 1}"
    # A static member, so that the next one need not wait until the group misses the last one; a record a push, to be killed between them.
    options = ("--kafka-property", "group.instance.id=one", "--max-batch-records", "1", "--commit-interval-s", "0.01")
    for _ in range(10):
        bridge = start_bridge(redis, *options)
        feed.produce(10)
        target = len(feed.produced[first]) - chance.randrange(1, 10)
        wait_until(lambda target=target: len(published(redis, first)) >= target, what="some of it on the bus", interval_s=0.001)  # type: ignore[misc]
        bridge.kill()
    bridge = start_bridge(redis, *options)
    bridge.wait_for_log("partitions assigned")
    wait_for_feed(feed, redis, bridge)
    wait_for_lag(bridge, 0)
    assert bridge.terminate() == 0
    feed.check(redis)
    assert kafka.committed(f"group-{topic}", topic) == 100


def test_bridges_that_join_and_leave_publish_everything_once(
    kafka: KafkaCluster, unique_name: str, start_project: StartProject, tmp_path: Path, start_redis: StartRedis
):
    topic = kafka.create_topic(unique_name, partitions=2)
    start_bridge = make_start(start_project, tmp_path, kafka, topic)
    redis, feed = start_redis(), Feed(kafka, topic)
    one = start_bridge(redis)
    feed.produce(5, 0)
    feed.produce(5, 1)
    wait_for_feed(feed, redis, one)
    two = start_bridge(redis)
    two.wait_for_log(rf"assigned.*{topic}\[", timeout_s=120)
    for _ in range(10):
        feed.produce(1, 0)
        feed.produce(1, 1)
    assert one.terminate() == 0
    feed.produce(5, 0)
    feed.produce(5, 1)
    wait_for_feed(feed, redis, two)
    feed.check(redis)


def test_sigterm_commits_and_ends_well(kafka: KafkaCluster, topic: str, start_bridge: StartBridge, redis_server: RedisServer):
    redis_server.flush()
    feed = Feed(kafka, topic)
    feed.produce(3)
    bridge = start_bridge(redis_server, "--commit-interval-s", "300")
    wait_for_feed(feed, redis_server, bridge)
    wait_for_status(bridge, "ready")
    wait_for_lag(bridge, 0)
    assert bridge.terminate() == 0
    assert kafka.committed(f"group-{topic}", topic) == 3
    assert "Traceback" not in bridge.output()


def test_redis_that_comes_back_with_old_data_gets_the_newest_values_under_a_new_epoch(
    kafka: KafkaCluster, topic: str, start_bridge: StartBridge, start_redis: StartRedis
):
    redis, feed = start_redis(), Feed(kafka, topic)
    bridge = start_bridge(redis)
    feed.produce(3)
    wait_for_feed(feed, redis, bridge)
    snapshot = redis.save()
    feed.produce(3)
    wait_for_feed(feed, redis, bridge)
    before = epoch_of(redis, "position:0-1")
    redis.restart(snapshot=snapshot)
    wait_until(lambda: published(redis, "position:0-1") == [6], what="the newest value", state=bridge.tail)
    assert epoch_of(redis, "position:0-1") != before
    # What is held is put back one channel after the other.
    wait_until(lambda: published(redis, "position:0-0") == [0], what="that of one that stands still", state=bridge.tail)
    feed.produce(1)
    wait_until(lambda: published(redis, "position:0-1") == [6, 7], what="the next value", state=bridge.tail)


def epoch_of(redis: RedisServer, channel: str) -> bytes:
    with redis.client() as client:
        entry = client.lindex(LAYOUT.history_key(channel), -1)
    assert isinstance(entry, bytes)
    return envelope.decode(entry).epoch


@pytest.mark.parametrize("away", [RedisServer.pause, RedisServer.kill])
def test_a_redis_outage_loses_nothing(
    kafka: KafkaCluster, topic: str, start_bridge: StartBridge, start_redis: StartRedis, away: Callable[[RedisServer], None]
):
    redis, feed = start_redis(options={"appendonly": "yes", "appendfsync": "always"}), Feed(kafka, topic)
    bridge = start_bridge(redis)
    feed.produce(5)
    wait_for_feed(feed, redis, bridge)
    away(redis)
    feed.produce(5)
    wait_for_trouble(bridge, "bus")
    is_killed = not redis.process.is_running
    if is_killed:
        redis.start()
    else:
        redis.resume()
    wait_for_feed(feed, redis, bridge)
    wait_for_status(bridge, "ready")
    if not is_killed:  # A killed one has a new epoch, and the stream's old part stays behind.
        feed.check(redis)


def test_the_lag_grows_while_the_bus_is_away_though_records_were_read(
    kafka: KafkaCluster, topic: str, start_bridge: StartBridge, start_redis: StartRedis
):
    redis, feed = start_redis(), Feed(kafka, topic)
    bridge = start_bridge(redis)
    feed.produce(5)
    wait_for_feed(feed, redis, bridge)
    wait_for_lag(bridge, 0)
    redis.pause()
    feed.produce(3)
    wait_for_trouble(bridge, "bus")
    wait_for_lag(bridge, 3)
    feed.produce(4)
    wait_for_lag(bridge, 7)
    redis.resume()
    wait_for_feed(feed, redis, bridge)
    wait_for_lag(bridge, 0)


def test_a_bridge_waits_for_its_redis_at_the_start(kafka: KafkaCluster, topic: str, start_bridge: StartBridge, start_redis: StartRedis):
    redis, feed = start_redis(), Feed(kafka, topic)
    redis.kill()
    feed.produce(2)
    bridge = start_bridge(redis)
    bridge.wait_for_log("the bus is away")
    redis.start()
    wait_for_feed(feed, redis, bridge)
    feed.check(redis)


def test_a_kafka_outage_leaves_the_bridge_alive(
    start_kafka: StartKafka, start_project: StartProject, tmp_path: Path, redis_server: RedisServer
):
    redis_server.flush()
    kafka = start_kafka()
    topic = kafka.create_topic("vehicles")
    bridge = make_start(start_project, tmp_path, kafka, topic)(redis_server)
    feed = Feed(kafka, topic)
    feed.produce(2)
    wait_for_feed(feed, redis_server, bridge)
    kafka.kill()
    wait_for_trouble(bridge, "kafka")
    kafka.start()
    wait_for_status(bridge, "ready")
    feed.produce(2)
    wait_for_feed(feed, redis_server, bridge)
    feed.check(redis_server)


def test_stopping_while_kafka_is_away_does_not_hang(
    start_kafka: StartKafka, start_project: StartProject, tmp_path: Path, redis_server: RedisServer
):
    redis_server.flush()
    kafka = start_kafka()
    bridge = make_start(start_project, tmp_path, kafka, kafka.create_topic("vehicles"))(redis_server)
    wait_for_status(bridge, "ready")
    bridge.wait_for_log(r"assigned.*vehicles\[")
    kafka.kill()
    wait_for_trouble(bridge, "kafka")
    assert bridge.terminate() == 0


def test_a_topic_that_is_made_anew_is_not_taken_for_the_old_one(
    kafka: KafkaCluster, topic: str, start_bridge: StartBridge, redis_server: RedisServer
):
    redis_server.flush()
    feed = Feed(kafka, topic)
    feed.produce(5)
    bridge = start_bridge(redis_server)
    wait_for_feed(feed, redis_server, bridge)
    kafka.delete_topic(topic)
    kafka.create_topic(topic)
    feed.produce(2)
    wait_for_feed(feed, redis_server, bridge)
    feed.check(redis_server)


def test_sources_are_named_by_cluster_and_topic_id(kafka: KafkaCluster, topic: str, start_bridge: StartBridge, redis_server: RedisServer):
    redis_server.flush()
    feed = Feed(kafka, topic)
    feed.produce(1)
    wait_for_feed(feed, redis_server, start_bridge(redis_server))
    with redis_server.client() as client:
        fields = client.hkeys(LAYOUT.head_key("bus:0-1"))
    assert isinstance(fields, list)
    assert source_id(kafka.cluster_id, kafka.topic_id(topic), 0) in fields


def test_a_halted_partition_is_seen_by_who_looks(
    kafka: KafkaCluster, topic: str, start_project: StartProject, tmp_path: Path, redis_server: RedisServer
):
    redis_server.flush()
    kafka.produce(topic, [b'[{"id":"1","at":1}]', b"no json", b'[{"id":"1","at":2}]'])
    bridge = make_start(start_project, tmp_path, kafka, topic, on_error="halt")(redis_server)
    found = wait_for_status(bridge, "degraded")
    assert isinstance(found["halted"], dict)
    assert f"{topic}[0]@1" in found["halted"][f"{topic}[0]"]
    assert bridge.terminate() == 0
    assert published(redis_server, "position:1") == [1]
    assert kafka.committed(f"group-{topic}", topic) == 1


def test_a_topic_may_come_later(
    kafka: KafkaCluster, unique_name: str, start_project: StartProject, tmp_path: Path, redis_server: RedisServer
):
    redis_server.flush()
    bridge = make_start(start_project, tmp_path, kafka, unique_name)(
        redis_server, "--kafka-property", "topic.metadata.refresh.interval.ms=500"
    )
    bridge.wait_for_log("does not exist yet")
    feed = Feed(kafka, kafka.create_topic(unique_name))
    feed.produce(1)
    wait_for_feed(feed, redis_server, bridge)


def test_a_second_signal_ends_at_once(kafka: KafkaCluster, topic: str, start_bridge: StartBridge, start_redis: StartRedis):
    redis, feed = start_redis(), Feed(kafka, topic)
    bridge = start_bridge(redis)
    feed.produce(1)
    wait_for_feed(feed, redis, bridge)
    redis.kill()
    feed.produce(1)
    wait_for_trouble(bridge, "bus")
    bridge.signal(signal.SIGTERM)
    wait_for_status(bridge, "stopping")
    bridge.signal(signal.SIGTERM)
    assert bridge.wait() == 130
