"""Looking into a topic: some of its records, without a group, without a commit, in bounded time."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from bridge.adapters.kafka import record_of
from bridge.core.record import Record
from shared.errors import ConfigurationError, DistributaryError

MAX_PEEKED_BYTES = 268_435_456
"""Of values, in all."""
_END = KafkaError._PARTITION_EOF  # noqa: SLF001  (librdkafka's own codes begin so)
_MAX_TOPICS_TOLD = 10


class PeekError(DistributaryError):
    """Kafka cannot be asked, or has not what was asked for."""


class Peeked(msgspec.Struct, frozen=True):
    """What was found."""

    records: list[Record]
    """In the order of time; of one partition in its order."""
    partitions: int
    """That the topic has."""
    available: int
    """Records in them, about: compaction and transactions leave gaps."""
    is_complete: bool
    """Whether all that was asked for was read; else the time or the memory was up."""


class KafkaPeek:
    """Asks one cluster. `properties` are librdkafka's; raises ConfigurationError where it does not take one. Close it."""

    def __init__(self, bootstrap_servers: str, properties: dict[str, str], *, clock: Callable[[], float], timeout_s: float) -> None:
        self._servers = bootstrap_servers
        self._clock = clock
        self._timeout_s = timeout_s
        settings: dict[str, Any] = {
            "log_level": 2,
            "client.id": "distributary-peek",
            **properties,
            "bootstrap.servers": bootstrap_servers,
            # Kafka's client wants a name; it joins no group, because partitions are assigned by hand.
            "group.id": "distributary-peek",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "error_cb": self._on_error,
        }
        settings.pop("group.instance.id", None)
        self._reason = ""
        try:
            self._consumer = Consumer(settings, logger=logging.getLogger("bridge.kafka.client"))
        except KafkaException as error:
            raise ConfigurationError([f"Kafka properties: {error.args[0]}"]) from error

    def __repr__(self) -> str:
        return f"<KafkaPeek {self._servers}>"

    def last(self, topic: str, count: int) -> Peeked:
        """The newest `count` records of a topic, over all its partitions."""
        deadline = self._clock() + self._timeout_s
        numbers = self._partitions(topic)
        spans = {number: self._watermarks(topic, number, deadline) for number in numbers}
        starts = {number: (max(low, high - count), high) for number, (low, high) in spans.items() if high > low}
        found, is_complete = self._read(topic, starts, deadline)
        merged = list(heapq.merge(*found.values(), key=lambda record: record.timestamp_ms or 0))
        return Peeked(merged[-count:], len(numbers), sum(high - low for low, high in spans.values()), is_complete)

    def at(self, topic: str, partition: int, offset: int, *, before: int) -> Peeked:
        """The record at a kafka offset, and up to `before` of those before it. Raises PeekError where there is none."""
        deadline = self._clock() + self._timeout_s
        numbers = self._partitions(topic)
        if partition not in numbers:
            msg = f"{topic} has no partition {partition}; it has 0 to {max(numbers)}"
            raise PeekError(msg)
        low, high = self._watermarks(topic, partition, deadline)
        if not low <= offset < high:
            msg = f"{topic}[{partition}] has no record at {offset}: it {_what_it_has(low, high)}"
            raise PeekError(msg)
        found, is_complete = self._read(topic, {partition: (max(low, offset - before), offset + 1)}, deadline)
        records = found.get(partition, [])
        if not records or records[-1].offset != offset:
            why = "it was compacted away, or is no record but a transaction's mark" if is_complete else "the time was up"
            msg = f"{topic}[{partition}]@{offset} cannot be had: {why}"
            raise PeekError(msg)
        return Peeked(records, len(numbers), high - low, is_complete)

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _on_error(self, error: KafkaError) -> None:
        self._reason = error.str()

    def _partitions(self, topic: str) -> list[int]:
        try:
            # Of all topics: asking for one that does not exist may make it.
            topics = self._consumer.list_topics(timeout=self._timeout_s).topics
        except KafkaException as error:
            msg = f"Kafka at {self._servers} does not answer within {self._timeout_s:g} s: {self._reason or error.args[0].str()}"
            raise PeekError(msg) from error
        if topic not in topics:
            raise PeekError(_no_such_topic(topic, topics))
        return sorted(topics[topic].partitions)

    def _watermarks(self, topic: str, number: int, deadline: float) -> tuple[int, int]:
        try:
            found: tuple[int, int] = self._consumer.get_watermark_offsets(
                TopicPartition(topic, number), timeout=max(0.1, deadline - self._clock())
            )
        except KafkaException as error:
            msg = f"{topic}[{number}]: its leader does not answer: {error.args[0].str()}"
            raise PeekError(msg) from error
        return found

    def _read(self, topic: str, spans: dict[int, tuple[int, int]], deadline: float) -> tuple[dict[int, list[Record]], bool]:
        """The records from and before the given offsets; whether they are all there."""
        found: dict[int, list[Record]] = {number: [] for number in spans}
        open_ = set(spans)
        size = 0
        if open_:
            self._consumer.assign([TopicPartition(topic, number, start) for number, (start, _) in spans.items()])
        while open_ and self._clock() < deadline and size < MAX_PEEKED_BYTES:
            for message in self._consumer.consume(500, 0.1):
                number = message.partition()
                error = message.error()
                if number is None or number not in open_ or (error is not None and error.code() != _END):
                    continue
                end = spans[number][1]
                if error is None and (record := record_of(message)).offset < end:
                    found[number].append(record)
                    size += len(record.value or b"")
                if error is not None or (message.offset() or 0) >= end - 1:
                    open_.discard(number)
        return found, not open_


def _what_it_has(low: int, high: int) -> str:
    if high > low:
        return f"has records from {low} to {high - 1}"
    return f"has none any more, those up to {high - 1} were removed" if high else "is empty"


def _no_such_topic(topic: str, topics: Iterable[str]) -> str:
    names = sorted(name for name in topics if not name.startswith("__"))
    if not names:
        return f"there is no topic {topic!r}: the cluster has none (or none that may be seen)"
    more = f" and {len(names) - _MAX_TOPICS_TOLD} more" if len(names) > _MAX_TOPICS_TOLD else ""
    return f"there is no topic {topic!r}; there are {', '.join(names[:_MAX_TOPICS_TOLD])}{more}"
