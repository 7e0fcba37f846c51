from __future__ import annotations

import logging

import pytest
from confluent_kafka import Producer

from bridge.adapters.kafka_properties import not_only_of_consumers

OF_CONSUMERS = {
    "allow.auto.create.topics": "true",
    "auto.commit.interval.ms": "1000",
    "check.crcs": "true",
    "coordinator.query.interval.ms": "1000",
    "enable.partition.eof": "true",
    "fetch.wait.max.ms": "10",
    "group.instance.id": "one",
    "isolation.level": "read_committed",
    "max.partition.fetch.bytes": "1000000",
    "max.poll.interval.ms": "300000",
    "queued.max.messages.kbytes": "1024",
    "session.timeout.ms": "6000",
}
OF_ALL = {"client.id": "one", "compression.type": "zstd", "socket.timeout.ms": "1000"}


def test_other_clients_get_what_they_do_not_warn_of(caplog: pytest.LogCaptureFixture):
    found = not_only_of_consumers({**OF_CONSUMERS, **OF_ALL})
    assert found == OF_ALL
    producer = Producer({**found, "bootstrap.servers": "127.0.0.1:1", "log_level": 4}, logger=logging.getLogger("kafka.client"))
    producer.poll(0)
    assert "CONFWARN" not in caplog.text
