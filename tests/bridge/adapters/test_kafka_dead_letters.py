"""Dead letters to Kafka, as far as no Kafka is needed. The rest is in tests/integration/test_dead_letters.py."""

from __future__ import annotations

import pytest

from bridge.adapters.kafka_dead_letters import KafkaDeadLetters, producer_properties
from bridge.core.draft import OnError, RecordProblem
from bridge.core.letter import Origin, make_letter
from bridge.core.letter_topic import DeadLetterTopic
from bridge.core.record import Record
from shared.errors import ConfigurationError


def test_properties_that_contradict_are_told_and_end_nothing():
    letters = KafkaDeadLetters("127.0.0.1:1", {"max.in.flight": "10"})
    with pytest.raises(ConfigurationError, match=r"for dead letters: .*max.in.flight"):
        letters.check()
    problem = RecordProblem("r", OnError.DEAD_LETTER, "", "bad", (), 1, DeadLetterTopic())
    letters.send(7, make_letter(Record("t", 0, 0, None, None, b""), [problem], Origin("1", "g"), 0))
    [answer] = letters.poll()
    assert (answer.number, answer.is_final) == (7, False)
    assert "max.in.flight" in answer.problem
    letters.close()


def test_nothing_is_opened_before_it_is_needed():
    letters = KafkaDeadLetters("127.0.0.1:1", {})
    assert letters.poll() == []
    letters.close()


def test_what_only_a_consumer_has_does_not_reach_the_producer_and_what_matters_is_ours():
    given = {
        "group.instance.id": "one",
        "session.timeout.ms": "6000",
        "isolation.level": "x",
        "sasl.username": "u",
        "compression.type": "zstd",
    }
    found = producer_properties("k:1", given)
    assert {"group.instance.id", "session.timeout.ms", "isolation.level"}.isdisjoint(found)
    assert (found["sasl.username"], found["compression.type"]) == ("u", "zstd")
    assert (found["enable.idempotence"], found["acks"], found["bootstrap.servers"]) == (True, "all", "k:1")
