"""kill -9 of the bridge, and of Kafka, while records are put aside: each dead letter at least once, each publication exactly once."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from functools import partial
from pathlib import Path

import redis
from confluent_kafka import Message

from bridge.core.letter import read_letter
from shared.bus.layout import BusLayout
from shared.envelope import decode
from tests.conftest import StartKafka, StartProject
from tests.rig.kafka_server import KafkaCluster
from tests.rig.stack import Stack
from tests.rig.wait import wait_until

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "8"))
RECORDS_A_ROUND = 150
STATIC_MEMBER = ("--kafka-property", "group.instance.id=one", "--commit-interval-s", "0.2")


def write_rules(tmp_path: Path, topic: str) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(
        f"version: 1\nsources:\n  - {{name: s, topics: [{topic}]}}\n"
        "routes:\n  - {name: r, channel: 'item:{item.id}', kind: stream, history: {size: 100000}, on_error: dead-letter}\n"
    )
    return path


def records(first: int) -> list[bytes]:
    """Every third is poison."""
    return [b"poison %d" % number if number % 3 == 0 else b'{"id":"a","n":%d}' % number for number in range(first, first + RECORDS_A_ROUND)]


def published(redis_url: str) -> list[int]:
    with redis.Redis.from_url(redis_url) as client:
        entries = client.lrange(BusLayout().history_key("item:a"), 0, -1)
    assert isinstance(entries, list)
    return [json.loads(decode(entry).body)["n"] for entry in entries]


def letters_of(kafka: KafkaCluster, topic: str) -> list[Message]:
    """All that are there: one partition, no transactions."""
    return kafka.consume(f"{topic}.dead-letters", kafka.end_offset(f"{topic}.dead-letters"))


def has_more(kafka: KafkaCluster, topic: str, before: int) -> bool:
    return kafka.end_offset(f"{topic}.dead-letters") > before


def is_at_work(redis_url: str, first: int) -> bool:
    """Whether something of the records from this one on is published."""
    return any(number >= first for number in published(redis_url))


def check(kafka: KafkaCluster, topic: str, redis_url: str, total: int) -> None:
    assert published(redis_url) == [number for number in range(total) if number % 3]
    counts: Counter[bytes] = Counter()
    for message in letters_of(kafka, topic):
        facts = read_letter(tuple(message.headers() or ()))  # type: ignore[arg-type]
        assert facts is not None
        assert message.value() == b"poison %d" % facts.offset
        counts[message.value() or b""] += 1
    assert set(counts) == {b"poison %d" % number for number in range(0, total, 3)}
    print(f"{len(counts)} records put aside, {sum(counts.values())} letters, at most {max(counts.values())} of one record")  # noqa: T201


def test_a_bridge_that_is_killed_between_a_dead_letter_and_its_commit(
    stack: Stack, kafka: KafkaCluster, redis_url: str, topic: str, tmp_path: Path
) -> None:
    rules, chance = write_rules(tmp_path, topic), random.Random(11)
    kafka.create_topic(f"{topic}.dead-letters")
    for round_ in range(ROUNDS):
        before = kafka.end_offset(f"{topic}.dead-letters")
        kafka.produce(topic, records(round_ * RECORDS_A_ROUND))
        bridge = stack.start_bridge(rules, topic, *STATIC_MEMBER)
        wait_until(partial(has_more, kafka, topic, before), what="a letter", interval_s=0.005)
        time.sleep(chance.uniform(0, 0.3))  # A point that nobody chose: this is the fault, not a wait for something.
        bridge.kill()
    stack.start_bridge(rules, topic, *STATIC_MEMBER)
    total = ROUNDS * RECORDS_A_ROUND
    kafka.wait_until_committed(topic, topic, total)
    check(kafka, topic, redis_url, total)


def test_kafka_that_is_killed_while_records_are_put_aside(
    start_kafka: StartKafka, start_project: StartProject, redis_url: str, unique_name: str, tmp_path: Path
) -> None:
    kafka = start_kafka()
    topic = kafka.create_topic(unique_name)
    stack = Stack(start_project, kafka.bootstrap_servers, redis_url)
    rules = write_rules(tmp_path, topic)
    kafka.create_topic(f"{topic}.dead-letters")
    stack.start_bridge(rules, topic, *STATIC_MEMBER)
    total = 0
    for _ in range(2):
        kafka.produce(topic, records(total))
        wait_until(partial(is_at_work, redis_url, total), what="the bridge at work on them", interval_s=0.005)
        total += RECORDS_A_ROUND
        kafka.restart()
    kafka.wait_until_committed(topic, topic, total)
    check(kafka, topic, redis_url, total)
