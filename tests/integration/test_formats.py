"""Records of every kind from a real Kafka: each codec, 10 MB, tombstones, headers, null keys, and schemas of a registry that is away."""

from __future__ import annotations

import io
import json
import random
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka import Producer

from bridge.demo import gtfs_realtime
from bridge.demo.simulation import Simulation
from shared import envelope
from shared.bus.layout import BusLayout
from tests.conftest import StartProject, StartRedis
from tests.rig.kafka_server import KafkaCluster
from tests.rig.process import Process
from tests.rig.raw_producer import RawProducer
from tests.rig.redis_server import RedisServer
from tests.rig.schema_registry import FakeRegistry
from tests.rig.wait import wait_until

LAYOUT = BusLayout()
ROOT = Path(__file__).parents[2]


class Bridge:
    """A bridge with rules of its own."""

    def __init__(self, start: StartProject, folder: Path, kafka: KafkaCluster, redis: RedisServer) -> None:
        self.redis = redis
        self._start = start
        self._folder = folder
        self._kafka = kafka

    def run(self, rules: str, topic: str) -> Process:
        file = self._folder / "rules.yaml"
        file.write_text(rules)
        return self._start(
            "bridge",
            *("run", "--rules", file, "--bootstrap-servers", self._kafka.bootstrap_servers, "--group", f"group-{topic}"),
            *("--bus", self.redis.url, "--internal-port", "0", "--log-format", "json", "--commit-interval-s", "0.2"),
        )

    def published(self, channel: str) -> list[bytes]:
        """The payloads in a channel's history."""
        with self.redis.client() as client:
            found = client.lrange(LAYOUT.history_key(channel), 0, -1)
        assert isinstance(found, list)
        return [bytes(envelope.decode(entry).body) for entry in found]

    def wait_for(self, channel: str, count: int, process: Process) -> list[bytes]:
        return wait_until(
            lambda: found if len(found := self.published(channel)) >= count else None,
            what=f"{count} publications on {channel}",
            timeout_s=120,
            state=process.tail,
        )


@pytest.fixture
def bridge(start_project: StartProject, tmp_path: Path, kafka: KafkaCluster, start_redis: StartRedis) -> Bridge:
    return Bridge(start_project, tmp_path, kafka, start_redis())


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def health(process: Process) -> tuple[str, str]:
    """The status that /health/ready tells, and that of schemas."""
    [address] = [record["address"] for record in process.records() if "address" in record]
    try:
        with urllib.request.urlopen(f"http://{address}/health/ready", timeout=30) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        found = json.load(error)
    return found["status"], found["schemas"]


def produce(kafka: KafkaCluster, topic: str, values: list[bytes], properties: Mapping[str, str | int]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "acks": "all", "linger.ms": 50, "log_level": 0, **properties})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(60) == 0


def test_records_compressed_by_each_codec(kafka: KafkaCluster, topic: str, bridge: Bridge):
    expected = []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        values = [json.dumps({"codec": codec, "n": n, "text": "the same " * 50}).encode() for n in range(20)]
        produce(kafka, topic, values, {"compression.type": codec})
        expected += values
    process = bridge.run(f"version: 1\nsources: [{{name: s, topics: [{topic}]}}]\nroutes: [{{name: r, channel: c, kind: stream}}]\n", topic)
    assert bridge.wait_for("c", 100, process) == expected


def test_values_of_ten_megabytes(kafka: KafkaCluster, unique_name: str, bridge: Bridge):
    topic = kafka.create_topic(unique_name, settings={"max.message.bytes": "20000000"})
    chance = random.Random(1)
    values = [json.dumps({"n": n, "data": chance.randbytes(5_000_000).hex()}).encode() for n in range(2)]
    produce(kafka, topic, values, {"message.max.bytes": 20_000_000, "compression.type": "zstd"})
    rules = (
        f"version: 1\nsources: [{{name: s, topics: [{topic}]}}]\n"
        "routes: [{name: whole, channel: whole, history: {bytes: 100MB}}, {name: n, channel: n, project: item.n}]\n"
    )
    process = bridge.run(rules, topic)
    assert bridge.wait_for("whole", 2, process) == values
    assert bridge.wait_for("n", 2, process) == [b"0", b"1"]


def test_tombstones_null_keys_and_headers_of_one_name(kafka: KafkaCluster, topic: str, bridge: Bridge):
    kafka.produce(topic, [b'{"n":1}', None, b'{"n":2}'], headers=[("h", b"first"), ("h", b"last"), ("binary", b"\xff")])
    kafka.produce(topic, [b'{"n":3}'], key=b"\xff\xfe")
    kafka.produce(topic, [b'{"n":4}'], key=b'{"id":7}')
    rules = f"""
version: 1
sources: [{{name: s, topics: [{topic}], key_format: raw}}]
routes:
  - {{name: r, channel: c, kind: stream, project: {{n: item.n, key: key, h: headers.h, binary: headers.binary}}}}
"""
    process = bridge.run(rules, topic)
    assert [json.loads(payload) for payload in bridge.wait_for("c", 4, process)] == [
        {"n": 1, "key": None, "h": "last", "binary": None},
        {"n": 2, "key": None, "h": "last", "binary": None},
        {"n": 3, "key": "//4=", "h": None, "binary": None},
        {"n": 4, "key": "eyJpZCI6N30=", "h": None, "binary": None},
    ]
    kafka.wait_until_committed(f"group-{topic}", topic, 5)


def test_headers_whose_names_are_no_text(kafka: KafkaCluster, topic: str, bridge: Bridge):
    with RawProducer(kafka.bootstrap_servers) as producer:
        producer.send(topic, b'{"n":1}', [(b"\xff\xfe", b"x"), (b"h", b"good"), (b"\xc3", b"\xff"), (b"none", None)])
        producer.send(topic, b'{"n":2}', [(b"h", b"good")])
    rules = f"""
version: 1
sources: [{{name: s, topics: [{topic}]}}]
routes:
  - {{name: r, channel: c, kind: stream, project: {{n: item.n, headers: headers}}}}
"""
    process = bridge.run(rules, topic)
    assert [json.loads(payload) for payload in bridge.wait_for("c", 2, process)] == [
        {"n": 1, "headers": {"\ufffd": None, "h": "good", "none": None}},
        {"n": 2, "headers": {"h": "good"}},
    ]


ORDER: Any = {"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}, {"name": "state", "type": "string"}]}


def order(number: int, value: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(ORDER), value)
    return b"\0" + number.to_bytes(4) + stream.getvalue()


def test_while_the_registry_is_away_its_partitions_wait_and_the_others_go_on(
    kafka: KafkaCluster, unique_name: str, bridge: Bridge, fake: FakeRegistry
):
    topic, other = kafka.create_topic(unique_name), kafka.create_topic(f"{unique_name}-json")
    number = fake.register(f"{topic}-value", json.dumps(ORDER))
    fake.stop()
    rules = f"""
version: 1
schema_registry: {{url: "{fake.url}", timeout: 1s}}
sources:
  - {{name: orders, topics: [{topic}], format: avro}}
  - {{name: others, topics: [{other}]}}
routes:
  - {{name: order, source: orders, channel: "order:{{item.state}}", project: item.id, kind: stream}}
  - {{name: other, source: others, channel: other, kind: stream}}
"""
    kafka.produce(topic, [order(number, {"id": n, "state": "open"}) for n in range(5)])
    process = bridge.run(rules, unique_name)
    process.wait_for_log("the schema registry is away")
    for n in range(3):
        kafka.produce(other, [b"%d" % n])
        bridge.wait_for("other", n + 1, process)
    assert bridge.published("order:open") == []
    kafka.wait_until_committed(f"group-{unique_name}", other, 3)
    assert kafka.committed(f"group-{unique_name}", topic) is None
    wait_until(lambda: health(process) == ("degraded", "away"), what="the registry away", ignore=(OSError,), state=process.tail)
    fake.start()
    assert bridge.wait_for("order:open", 5, process) == [b"0", b"1", b"2", b"3", b"4"]
    # An id that is not there is the record's problem, and no reason to wait.
    kafka.produce(topic, [order(9_999, {"id": 5, "state": "open"}), b"garbage", order(number, {"id": 6, "state": "open"})])
    assert bridge.wait_for("order:open", 6, process)[-1] == b"6"
    process.wait_for_log(r'"problem":".*schema 9999 is not in the schema registry')
    kafka.wait_until_committed(f"group-{unique_name}", topic, 8)
    assert process.terminate() == 0


def test_a_feed_of_gtfs_realtime_by_the_example_rules(kafka: KafkaCluster, topic: str, bridge: Bridge):
    city = Simulation(1, 10)
    kafka.produce(topic, [gtfs_realtime.feed_message(city.snapshot(tick), tick) for tick in range(3)])
    rules = (ROOT / "examples" / "gtfs-realtime.yaml").read_text().replace("topics: [gtfs-realtime]", f"topics: [{topic}]")
    process = bridge.run(rules, topic)
    bridge.wait_for("feed", 3, process)
    # Everything that was made of a record is on the bus when its offset is committed.
    kafka.wait_until_committed(f"group-{topic}", topic, 3)
    for vehicle in city.snapshot(2):
        [*_, last] = bridge.published(f"position:{vehicle['id']}")
        assert json.loads(last)["lat"] == pytest.approx(vehicle["vehicle"]["position"]["latitude"])
