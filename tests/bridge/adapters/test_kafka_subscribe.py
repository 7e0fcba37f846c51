"""Topics that change while a member of the group goes on, on librdkafka's own mock cluster."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from confluent_kafka import Producer

from bridge.adapters.kafka import KafkaRecords
from bridge.adapters.kafka_identity import TopicIdentities
from bridge.core.record import Partition
from shared.errors import ConfigurationError
from tests.rig.wait import wait_until

TOPIC, OTHER = "numbers", "others"


class Told:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.revoked: list[Partition] = []

    def on_assigned(self, partitions: Sequence[Partition]) -> None: ...

    def on_revoked(self, partitions: Sequence[Partition]) -> None:
        self.revoked += partitions

    def on_lost(self, partitions: Sequence[Partition]) -> None: ...

    def on_commit_failed(self, partitions: Sequence[Partition]) -> None: ...


@pytest.fixture(scope="module")
def producer() -> Producer:
    """The mock cluster lives in it."""
    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    for topic in (TOPIC, OTHER):
        for number in range(20):
            producer.produce(topic, str(number).encode(), partition=0)
    assert producer.flush(60) == 0
    return producer


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def records(producer: Producer, told: Told) -> Iterator[KafkaRecords]:
    [broker] = producer.list_topics(timeout=60).brokers.values()
    found = KafkaRecords(
        f"{broker.host}:{broker.port}",
        f"group-{uuid.uuid4().hex}",
        [TOPIC],
        start_from="earliest",
        properties={},
        clock=time.monotonic,
        random=lambda: 0.5,
    )
    found.start(told)
    yield found
    found.close()


def read(records: KafkaRecords, topic: str, last: int, most: int = 100) -> list[int]:
    """The kafka offsets of a topic's records up to one."""
    offsets: list[int] = []

    def has_last() -> bool:
        offsets.extend(record.offset for record in records.consume(most, 0.1) if record.topic == topic)
        return last in offsets

    wait_until(has_last, what=f"the record {last} of {topic}", state=lambda: f"{records!r}, {offsets}")
    return offsets


def test_no_record_comes_of_a_topic_that_is_given_up(records: KafkaRecords, told: Told):
    assert read(records, TOPIC, 3, most=1) == [0, 1, 2, 3]
    records.subscribe([OTHER])
    seen: set[str] = set()

    def is_revoked() -> bool:
        seen.update(record.topic for record in records.consume(100, 0.1))
        return (TOPIC, 0) in told.revoked

    wait_until(is_revoked, what="the topic given up")
    assert TOPIC not in seen
    assert not records.owns_all or (OTHER, 0) in records.assigned


def test_what_was_read_is_read_again_after_a_rewind(records: KafkaRecords):
    assert read(records, TOPIC, 7, most=1) == list(range(8))
    records.rewind({(TOPIC, 0): 2})
    assert read(records, TOPIC, 19) == list(range(2, 20))


@pytest.mark.parametrize(
    ("topic", "is_subscribed"), [("a", True), ("abc", True), ("x.b", True), ("other", False), ("plain", True), ("plain2", False)]
)
def test_a_pattern_means_what_it_means_to_kafkas_client(topic: str, is_subscribed: bool):
    nobody: Any = None
    identities = TopicIdentities(nobody, nobody, ["^a|b$", "plain"], clock=time.monotonic, random=lambda: 0.5)
    assert identities.is_subscribed(topic) == is_subscribed


def test_topics_that_are_no_pattern_are_refused_and_the_old_ones_stay(records: KafkaRecords):
    assert read(records, TOPIC, 0, most=1) == [0]
    with pytest.raises(ConfigurationError, match="topics"):
        records.subscribe(["^("])
    assert read(records, TOPIC, 19) == list(range(1, 20))
