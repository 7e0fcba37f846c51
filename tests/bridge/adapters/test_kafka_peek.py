"""Looking into topics of librdkafka's own mock cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import Producer

from bridge.adapters.kafka_peek import KafkaPeek, PeekError
from shared.errors import ConfigurationError


@pytest.fixture(scope="module")
def producer() -> Producer:
    """The mock cluster lives in it."""
    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    for number in range(40):
        producer.produce("numbers", str(number).encode(), partition=number % 3, timestamp=1000 + number)
    producer.produce("one", b"only", partition=0)
    producer.list_topics("empty", timeout=60)
    assert producer.flush(60) == 0
    return producer


@pytest.fixture
def servers(producer: Producer) -> str:
    [broker] = producer.list_topics(timeout=60).brokers.values()
    return f"{broker.host}:{broker.port}"


@pytest.fixture
def peek(servers: str) -> Iterator[KafkaPeek]:
    with closing(KafkaPeek(servers, {}, clock=time.monotonic, timeout_s=60)) as peek_:
        yield peek_


def test_the_newest_of_all_partitions_in_the_order_of_time(peek: KafkaPeek):
    found = peek.last("numbers", 10)
    assert [record.value for record in found.records] == [str(number).encode() for number in range(30, 40)]
    assert (found.available, found.is_complete) == (40, True)
    assert {record.partition for record in found.records} == {0, 1, 2}


def test_all_there_is_where_more_is_asked_for(peek: KafkaPeek):
    assert len(peek.last("numbers", 1000).records) == 40
    assert [record.value for record in peek.last("one", 100).records] == [b"only"]


def test_an_empty_topic_is_no_error(peek: KafkaPeek):
    found = peek.last("empty", 10)
    assert (found.records, found.available, found.is_complete) == ([], 0, True)
    assert found.partitions > 0


def test_a_topic_that_is_not_there_is_told_with_those_that_are(peek: KafkaPeek):
    with pytest.raises(PeekError, match="there is no topic 'nubmers'; there are empty, numbers, one"):
        peek.last("nubmers", 10)
    with pytest.raises(PeekError, match="no topic"):
        peek.last("nubmers", 10)  # Asking did not make it.


def test_one_record_and_those_before_it(peek: KafkaPeek):
    found = peek.at("numbers", 1, 5, before=2)
    assert [(record.offset, record.value) for record in found.records] == [(3, b"10"), (4, b"13"), (5, b"16")]
    assert [record.offset for record in peek.at("numbers", 1, 1, before=100).records] == [0, 1]
    with pytest.raises(PeekError, match=r"numbers\[1\] has no record at 99: it has records from 0 to 12"):
        peek.at("numbers", 1, 99, before=2)
    with pytest.raises(PeekError, match=r"empty\[0\] has no record at 0: it is empty"):
        peek.at("empty", 0, 0, before=2)
    with pytest.raises(PeekError, match="has no partition 77"):
        peek.at("numbers", 77, 0, before=2)


def test_brokers_that_are_away_are_told_in_time():
    with (
        closing(KafkaPeek("127.0.0.1:1", {}, clock=time.monotonic, timeout_s=0.3)) as peek,
        pytest.raises(PeekError, match="does not answer"),
    ):
        peek.last("numbers", 10)


def test_a_property_that_is_wrong_is_the_operators():
    with pytest.raises(ConfigurationError, match=r"no\.such\.property"):
        KafkaPeek("127.0.0.1:1", {"no.such.property": "1"}, clock=time.monotonic, timeout_s=1)
