"""Keys, tombstones, tags, versions, ids, times and lists of channels: from a real Kafka by the rules to what a real Redis holds."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from shared import envelope
from shared.bus.layout import BusLayout
from shared.envelope import Envelope
from shared.publication import Kind
from tests.conftest import StartProject, StartRedis
from tests.rig.kafka_server import KafkaCluster
from tests.rig.redis_server import RedisServer
from tests.rig.wait import wait_until

RULES = """
version: 1
sources:
  - {{name: orders, topics: ["{topic}"]}}
expressions:
  is_end: "headers.end == 'yes'"
defaults:
  tags: [source]
  history: {{size: 1000}}
routes:
  - name: table
    where: "!is_end"
    kind: keyed
    channel: orders
    key: key
    version: item.rev
    timestamp: {{s: item.at}}
    project: {{state: item.state}}
    const: {{unit: EUR}}
    tags: {{rev: item.rev}}
  - name: once
    where: item && !is_end
    kind: stream
    channel: "tag:{{item.tags}}"
    id: {{value: "[key, item.rev]", window: 1h}}
    project: item.rev
  - {{name: end, where: is_end, channel: end, project: item.state}}
"""
LAYOUT = BusLayout()


class Orders:
    """Records of one topic, and what they became."""

    def __init__(self, kafka: KafkaCluster, topic: str, redis: RedisServer) -> None:
        self._kafka = kafka
        self._topic = topic
        self._redis = redis

    def put(self, key: str, rev: int, state: str, *tags: str, at: int = 1_700_000_000) -> None:
        value = msgspec.json.encode({"rev": rev, "state": state, "tags": tags, "at": at + rev})
        self._kafka.produce(self._topic, [value], key=key.encode(), headers=[("source", b"shop")])

    def delete(self, key: str) -> None:
        self._kafka.produce(self._topic, [None], key=key.encode(), headers=[("source", b"shop")])

    def finish(self) -> None:
        """Wait until all that was put before is through."""
        self._kafka.produce(self._topic, [b'{"state": "end"}'], key=b"end", headers=[("end", b"yes")])
        wait_until(lambda: self.history("end"), what="the last record on the bus")

    def history(self, channel: str) -> list[Envelope]:
        with self._redis.client() as client:
            found = client.lrange(LAYOUT.history_key(channel), 0, -1)
        assert isinstance(found, list)
        return [envelope.decode(entry) for entry in found]

    def table(self) -> dict[str, Envelope]:
        with self._redis.client() as client:
            found = client.hgetall(LAYOUT.keys_key("orders"))
        assert isinstance(found, dict)
        return {key.decode(): envelope.decode(entry) for key, entry in found.items()}


def test_a_table_of_keys_is_what_kafka_says_and_the_rest_is_settled_on_the_way(
    kafka: KafkaCluster, topic: str, start_project: StartProject, start_redis: StartRedis, tmp_path: Path
):
    rules, redis = tmp_path / "rules.yaml", start_redis()
    rules.write_text(RULES.format(topic=topic))
    start_project(
        "bridge",
        *("run", "--rules", rules, "--bootstrap-servers", kafka.bootstrap_servers, "--group", f"group-{topic}"),
        *("--bus", redis.url, "--internal-port", "0", "--log-format", "json"),
    )
    orders = Orders(kafka, topic, redis)
    orders.put("a", 1, "new", "web", "eu", "web")
    orders.put("b", 1, "new", "shop")
    orders.put("a", 3, "paid", "web")
    orders.put("a", 2, "late", "web")  # Not newer: no row of the table.
    orders.put("a", 3, "again", "web")  # Nor is this; and its id is known.
    orders.put("c", 1, "new")
    orders.delete("b")
    orders.delete("never-there")
    orders.finish()

    table = orders.table()
    assert {key: json.loads(entry.body) for key, entry in table.items()} == {
        "a": {"state": "paid", "unit": "EUR"},
        "c": {"state": "new", "unit": "EUR"},
    }
    assert {entry.kind for entry in table.values()} == {Kind.KEYED}
    assert json.loads(table["a"].tags) == {"source": "shop", "rev": "3"}
    assert table["a"].time_ms == 1_700_000_003_000

    log = [(entry.key, entry.is_deletion, entry.offset) for entry in orders.history("orders")]
    assert log[:5] == [(b"a", False, 1), (b"b", False, 2), (b"a", False, 3), (b"c", False, 4), (b"b", True, 5)]
    assert all(key == b"never-there" and deleted for key, deleted, _ in log[5:])

    assert [json.loads(entry.body) for entry in orders.history("tag:web")] == [1, 3, 2]
    assert [json.loads(entry.body) for entry in orders.history("tag:eu")] == [1]
    assert [json.loads(entry.body) for entry in orders.history("tag:shop")] == [1]
    assert orders.history("end")[0].tags == b""
