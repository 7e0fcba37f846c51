"""The demo's Kafka: librdkafka's mock cluster, inside this process. It speaks the real protocol over TCP, to any client.

It keeps about 5 MB a partition, knows no topic ids and forgets everything when the process ends: made for trials, as this is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, Producer

from bridge.demo.replay import MAX_RECORD_BYTES
from shared.errors import DistributaryError

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

_TIMEOUT_S = 10.0


class EmbeddedKafkaError(DistributaryError):
    """The embedded Kafka did not start or did not take a record."""


class EmbeddedKafka:
    """A cluster of one broker, and the producer that feeds it."""

    def __init__(self, topic: str) -> None:
        """Start the cluster; raise EmbeddedKafkaError if that fails."""
        self.topic = topic
        self._sent = 0
        self._failure: KafkaError | None = None
        try:
            self._producer = Producer(
                {
                    "test.mock.num.brokers": 1,
                    "message.max.bytes": MAX_RECORD_BYTES + 100_000,
                    "linger.ms": 0,
                    "log_level": 3,
                }
            )
            brokers = self._producer.list_topics(timeout=_TIMEOUT_S).brokers.values()
        except KafkaException as error:
            msg = f"the embedded Kafka did not start: {error}"
            raise EmbeddedKafkaError(msg) from error
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def __repr__(self) -> str:
        """Address, topic, records taken."""
        return f"EmbeddedKafka({self.bootstrap_servers}, topic={self.topic!r}, sent={self._sent})"

    @property
    def sent(self) -> int:
        """Records that the broker has acknowledged."""
        return self._sent

    def send(self, value: bytes) -> None:
        """Produce one record, always to partition 0: snapshots must not overtake each other. Wait for the acknowledgement."""
        self._producer.produce(self.topic, value=value, partition=0, on_delivery=self._on_delivery)
        left = self._producer.flush(_TIMEOUT_S)
        if self._failure is not None or left:
            msg = f"the embedded Kafka did not take a record of {len(value)} bytes: {self._failure or 'no answer in time'}"
            raise EmbeddedKafkaError(msg)

    def _on_delivery(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self._sent += 1
        else:
            self._failure = error
