"""The Kafka adapter on librdkafka's own mock cluster, which needs no server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from bridge.adapters.kafka import KafkaRecords
from bridge.core.flow import Hold
from bridge.core.record import Partition, Record
from shared.bus.push import source_id
from shared.errors import ConfigurationError
from tests.rig.wait import wait_until

P = ("vehicles", 0)


class Mock:
    """A mock cluster with a topic of one partition."""

    def __init__(self) -> None:
        self._producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        [broker] = self._producer.list_topics(timeout=60).brokers.values()
        self.bootstrap_servers = f"{broker.host}:{broker.port}"

    def produce(self, *values: bytes | None, partition: int = 0) -> None:
        for value in values:
            self._producer.produce("vehicles", value, b"key", partition=partition, timestamp=1234, headers=[("h", b"1")])
        assert self._producer.flush(60) == 0


class Told:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.assigned: list[Partition] = []
        self.revoked: list[Partition] = []
        self.before_revoked: Callable[[], None] = lambda: None

    def on_assigned(self, partitions: Sequence[Partition]) -> None:
        self.assigned += partitions

    def on_revoked(self, partitions: Sequence[Partition]) -> None:
        self.before_revoked()
        self.revoked += partitions

    def on_lost(self, partitions: Sequence[Partition]) -> None:
        self.revoked += partitions

    def on_commit_failed(self, partitions: Sequence[Partition]) -> None:
        raise AssertionError(partitions)


def make(bootstrap_servers: str, *, properties: dict[str, str] | None = None, group: str = "group") -> KafkaRecords:
    return KafkaRecords(
        bootstrap_servers,
        group,
        ["vehicles"],
        start_from="earliest",
        properties=properties or {},
        clock=time.monotonic,
        random=lambda: 0.5,
    )


@pytest.fixture(scope="module")
def mock() -> Mock:
    cluster = Mock()
    cluster.produce(b"first", None)
    return cluster


def read(records: KafkaRecords, count: int) -> list[Record]:
    found: list[Record] = []

    def has_all() -> bool:
        found.extend(records.consume(10, 0.1))
        return len(found) >= count

    wait_until(has_all, what=f"{count} records", state=lambda: repr(records))
    return found


def test_records_come_as_they_are_and_are_held_and_committed(mock: Mock):
    told = Told()
    records = make(mock.bootstrap_servers)
    records.start(told)
    first, second = read(records, 2)
    assert first == Record("vehicles", 0, 0, 1234, b"key", b"first", (("h", b"1"),))
    assert second.value is None
    assert P in told.assigned
    # The mock cluster has no topic ids: the name serves.
    [cluster_id] = {records._identities.cluster_id}
    assert cluster_id.startswith("mockCluster")
    assert records.source_id(P) == source_id(cluster_id, "vehicles", 0)
    assert records.owns_all
    assert wait_until(lambda: records.consume(1, 0.1) == [] and records.lag({}) == 0, what="no lag")

    records.hold([P], Hold.BUS_AWAY)
    records.hold([P], Hold.HALTED)
    mock.produce(b"third")
    wait_until(lambda: records.consume(1, 0.1) == [] and records.lag({}) == 1, what="a held partition's lag", state=lambda: repr(records))
    assert records.lag({P: 0}) == 3, "those that were consumed and are not done count"
    records.release([P], Hold.BUS_AWAY)
    assert [records.consume(10, 0.1) for _ in range(5)] == [[]] * 5
    records.release([P], Hold.HALTED)
    assert [record.value for record in read(records, 1)] == [b"third"]
    assert records.lag({P: 2}) == 1

    told.before_revoked = lambda: records.commit({P: 2}, wait=True)
    records.close()
    assert P in told.revoked
    # Not a second member: the mock cluster lets nobody in before the last one's session would have timed out, even if it left.
    with closing(Consumer({"bootstrap.servers": mock.bootstrap_servers, "group.id": "group"})) as onlooker:
        [place] = onlooker.committed([TopicPartition(*P)], timeout=60)
    assert place.offset == 2


def test_what_was_consumed_before_the_start_is_no_lag():
    mock = Mock()
    mock.produce(b"first", b"second")
    with closing(Consumer({"bootstrap.servers": mock.bootstrap_servers, "group.id": "later"})) as before:
        before.commit(offsets=[TopicPartition(*P, 2)], asynchronous=False)
    told = Told()
    with closing(make(mock.bootstrap_servers, group="later")) as records:
        records.start(told)
        assert records.lag({}) is None, "the group has not said yet which partitions are ours"

        def is_known() -> bool:
            assert records.consume(1, 0.1) == []
            return P in told.assigned and records.lag({}) is not None

        wait_until(is_known, what="the lag")
        assert records.lag({}) == 0


def test_a_property_that_is_wrong_is_the_operators(mock: Mock):
    with pytest.raises(ConfigurationError, match=r"no\.such"):
        make(mock.bootstrap_servers, properties={"no.such": "1"})


def test_without_brokers_it_waits():
    records = make("127.0.0.1:1")
    records.start(Told())
    wait_until(lambda: records.consume(1, 0.1) == [] and records.is_away, what="brokers to be missed")
    records.close()
