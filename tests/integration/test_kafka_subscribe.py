"""A member of a group whose topics change twice in a row, on a real Kafka (the mock cluster takes a session's time to rebalance)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing

from confluent_kafka import Producer

from bridge.adapters.kafka import KafkaRecords
from bridge.core.record import Partition
from tests.rig.kafka_server import KafkaCluster
from tests.rig.wait import wait_until


class Committing:
    """A listener that commits what was read when partitions are revoked, as the pipeline does."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.records: KafkaRecords

    def on_assigned(self, partitions: Sequence[Partition]) -> None: ...

    def on_revoked(self, partitions: Sequence[Partition]) -> None:
        self.records.commit({partition: self.offsets[-1] + 1 for partition in partitions if self.offsets}, wait=True)

    def on_lost(self, partitions: Sequence[Partition]) -> None: ...

    def on_commit_failed(self, partitions: Sequence[Partition]) -> None: ...


def test_a_topic_that_goes_and_comes_back_at_once_goes_on_where_it_was(kafka: KafkaCluster, topic: str, unique_name: str):
    other = kafka.create_topic(f"{unique_name}-other")
    kafka.produce(topic, [str(number).encode() for number in range(20)])
    told = Committing()
    told.records = records = KafkaRecords(
        kafka.bootstrap_servers, f"group-{topic}", [topic], start_from="earliest", properties={}, clock=time.monotonic, random=lambda: 0.5
    )
    records.start(told)

    def read(last: int, most: int) -> list[int]:
        def has_last() -> bool:
            told.offsets += [record.offset for record in records.consume(most, 0.1)]
            return last in told.offsets

        wait_until(has_last, what=f"the record {last}", state=lambda: f"{records!r}, {told.offsets}")
        return told.offsets

    with closing(records):
        assert read(3, 1) == [0, 1, 2, 3]
        records.subscribe([other])
        records.subscribe([topic])
        assert read(19, 100) == list(range(20))
        records.subscribe([other])
        assert records.consume(1, 0.0) == []
        records.subscribe([other, topic])
        kafka.produce(topic, [b"20"])
        assert read(20, 100) == list(range(21))


def test_the_mark_of_a_transaction_is_no_lag(kafka: KafkaCluster, topic: str):
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(topic, b"one")
    producer.commit_transaction(60)
    assert kafka.end_offset(topic) == 2  # The record, and the mark.
    told = Committing()
    told.records = records = KafkaRecords(
        kafka.bootstrap_servers, f"group-{topic}", [topic], start_from="earliest", properties={}, clock=time.monotonic, random=lambda: 0.5
    )
    records.start(told)

    def is_read() -> bool:
        told.offsets += [record.offset for record in records.consume(10, 0.1)]
        return told.offsets == [0] and records.lag({}) == 0

    with closing(records):
        wait_until(is_read, what="no lag", state=lambda: (told.offsets, records.lag({})))
        kafka.produce(topic, [b"two"])
        wait_until(lambda: [record.value for record in records.consume(10, 0.1)] == [b"two"], what="the next record")
