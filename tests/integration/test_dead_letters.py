"""Dead letters on a real Kafka: nothing is lost, nothing is skipped, and the partition moves on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Message

from bridge.adapters import kafka_dead_letters
from bridge.adapters.kafka_dead_letters import KafkaDeadLetters
from bridge.core.draft import OnError, RecordProblem
from bridge.core.letter import DeadLetter, LetterFacts, Origin, make_letter, read_letter
from bridge.core.letter_topic import DeadLetterTopic
from bridge.core.record import Record
from bridge.ports import LetterAnswer
from shared.bus.layout import BusLayout
from shared.errors import ConfigurationError
from tests.conftest import StartProject
from tests.rig.kafka_server import KafkaCluster
from tests.rig.process import Process
from tests.rig.redis_server import RedisServer
from tests.rig.wait import wait_until

RULES = """
version: 1
sources:
  - {{name: s, topics: ["{topic}"], format: {format}}}
routes:
  - {{name: each, split: value, channel: "item:{{item.id}}", kind: stream, on_error: dead-letter}}
"""
LAYOUT = BusLayout()
# A topic forgets records by their own time: they must not be old.
NOW_MS = int(time.time() * 1000) - 60_000
GOOD = b'[{"id":"a"}]'
POISON = [b"\xff\xfe", b"", b"{", b"[" * 100_000, b"5", b'[{"id":{}}]', b'[{"id":"no good"}]', b'[{"no":1},{"id":"b"},{"no":2}]']


def text_rules(tmp_path: Path, topic: str) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES.format(topic=topic, format="json"))
    return path


StartBridge = Callable[..., Process]


@pytest.fixture
def start_bridge(start_project: StartProject, kafka: KafkaCluster, redis_url: str, unique_name: str) -> StartBridge:
    """Start a bridge of one group."""

    def start(rules: Path, *options: str) -> Process:
        return start_project(
            "bridge",
            *("run", "--rules", rules, "--bootstrap-servers", kafka.bootstrap_servers, "--group", unique_name, "--bus", redis_url),
            *("--internal-port", "0", "--log-format", "json", "--commit-interval-s", "0.2", *options),
        )

    return start


def facts_of(message: Message) -> LetterFacts:
    facts = read_letter(tuple(message.headers() or ()))  # type: ignore[arg-type]
    assert facts is not None
    return facts


def test_poison_is_put_aside_unchanged_and_the_partition_moves_on(
    kafka: KafkaCluster, topic: str, start_bridge: StartBridge, unique_name: str, redis_server: RedisServer, tmp_path: Path
):
    own: list[tuple[str, bytes]] = [("twice", b"1"), ("twice", b"\xff"), ("empty", b"")]
    kafka.produce(topic, [GOOD, *POISON, GOOD], key=b"\x00key", headers=own, timestamp_ms=NOW_MS)
    start_bridge(text_rules(tmp_path, topic))
    end = len(POISON) + 2
    kafka.wait_until_committed(unique_name, topic, end)
    letters = kafka.consume(f"{topic}.dead-letters", len(POISON))
    assert [letter.value() for letter in letters] == POISON
    assert {letter.key() for letter in letters} == {b"\x00key"}
    assert {letter.timestamp()[1] for letter in letters} == {NOW_MS}
    facts = [facts_of(letter) for letter in letters]
    assert [each.headers for each in facts] == [tuple(own)] * len(POISON)
    assert [(each.cluster, each.topic, each.partition, each.offset) for each in facts] == [
        (kafka.cluster_id, topic, 0, offset) for offset in range(1, len(POISON) + 1)
    ]
    assert {(each.route, each.group) for each in facts} == {("each", unique_name)}
    assert all(each.error and each.version and each.at for each in facts)
    assert (facts[-1].items, facts[-1].failed) == ((0, 2), 2)
    with redis_server.client() as client:
        assert client.llen(LAYOUT.history_key("item:a")) == 2
        assert client.llen(LAYOUT.history_key("item:b")) == 1, "the good item of a record with bad ones"


def test_a_halted_partition_stops_alone(kafka: KafkaCluster, unique_name: str, start_bridge: StartBridge, tmp_path: Path):
    topic = kafka.create_topic(unique_name, partitions=2)
    rules = text_rules(tmp_path, topic)
    rules.write_text(rules.read_text().replace("dead-letter", "halt"))
    kafka.produce(topic, [GOOD, b"poison", GOOD])
    kafka.produce(topic, [GOOD] * 5, partition=1)
    bridge = start_bridge(rules)
    kafka.wait_until_committed(unique_name, topic, 5, partition=1)
    kafka.wait_until_committed(unique_name, topic, 1)
    bridge.wait_for_log("partition halted")


def test_a_topic_that_may_not_be_made_is_waited_for(
    kafka: KafkaCluster, topic: str, start_bridge: StartBridge, unique_name: str, tmp_path: Path
):
    rules = text_rules(tmp_path, topic)
    rules.write_text(f"dead_letters: {{topic: {topic}-aside, create: false}}\n{rules.read_text()}")
    kafka.produce(topic, [GOOD, b"poison", GOOD])
    bridge = start_bridge(rules)
    bridge.wait_for_log("dead letters are not taken.*create it")
    kafka.wait_until_committed(unique_name, topic, 1)
    kafka.create_topic(f"{topic}-aside")
    kafka.wait_until_committed(unique_name, topic, 3)
    [letter] = kafka.consume(f"{topic}-aside", 1)
    assert letter.value() == b"poison"


# The adapter alone.


@pytest.fixture
def letters(kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaDeadLetters]:
    monkeypatch.setattr(kafka_dead_letters, "_MESSAGE_TIMEOUT_MS", 120_000)  # However busy the machine is.
    found = KafkaDeadLetters(kafka.bootstrap_servers, {"session.timeout.ms": "6000", "linger.ms": "0"})
    yield found
    found.close()


def letter_to(
    topic: str, *, value: bytes | None = b"v", key: bytes | None = None, time_ms: int | None = NOW_MS, create: bool = True
) -> DeadLetter:
    record = Record("source", 0, 7, time_ms, key, value)
    problem = RecordProblem("r", OnError.DEAD_LETTER, "bad", "bad", (), 1, DeadLetterTopic(topic, create))
    return make_letter(record, [problem], Origin("1", "g", "c"), 0)


def answer_to(letters: KafkaDeadLetters, *sent: DeadLetter) -> list[LetterAnswer]:
    for number, letter in enumerate(sent, 1):
        letters.send(number, letter)
    found: list[LetterAnswer] = []

    def has_all() -> bool:
        found.extend(letters.poll())
        return len(found) >= len(sent)

    wait_until(has_all, what="answers", timeout_s=120)
    return sorted(found, key=lambda answer: answer.number)


def test_a_topic_is_made_once_and_takes_what_is_large(kafka: KafkaCluster, letters: KafkaDeadLetters, unique_name: str):
    large = b"x" * 10_000_000
    answers = answer_to(letters, letter_to(unique_name), letter_to(unique_name, value=large), letter_to(unique_name, value=None))
    assert [(answer.problem, answer.note) for answer in answers] == [("", "")] * 3
    assert kafka.topic_settings(unique_name)["retention.ms"] == "-1", "letters of old records must not be forgotten at once"
    assert sorted((message.value() for message in kafka.consume(unique_name, 3)), key=lambda value: len(value or b"")) == [
        None,
        b"v",
        large,
    ]


def test_what_is_too_large_is_put_aside_without_its_value(kafka: KafkaCluster, letters: KafkaDeadLetters, unique_name: str):
    kafka.create_topic(unique_name, settings={"max.message.bytes": "2000"})
    [small, large] = answer_to(letters, letter_to(unique_name), letter_to(unique_name, value=b"x" * 5000))
    assert (small.problem, small.note, large.problem) == ("", "", "")
    assert "5000 bytes is left out" in large.note
    messages = {facts_of(message).left_out: message.value() for message in kafka.consume(unique_name, 2)}
    assert messages == {None: b"v", 5000: None}


def test_what_can_never_be_written_is_refused_for_good(kafka: KafkaCluster, letters: KafkaDeadLetters, unique_name: str):
    kafka.create_topic(unique_name, settings={"cleanup.policy": "compact"})
    [answer] = answer_to(letters, letter_to(unique_name, key=None))
    assert answer.problem
    assert answer.is_final
    kafka.create_topic(f"{unique_name}-small", settings={"max.message.bytes": "500"})
    [answer] = answer_to(letters, letter_to(f"{unique_name}-small", key=b"k" * 1000))
    assert "does not even take the key" in answer.problem
    assert answer.is_final


def test_a_time_that_the_topic_refuses_is_left_to_the_headers(kafka: KafkaCluster, letters: KafkaDeadLetters, unique_name: str):
    kafka.create_topic(unique_name, settings={"message.timestamp.after.max.ms": "1000"})
    ahead = int(time.time() * 1000) + 3_600_000_000
    [answer] = answer_to(letters, letter_to(unique_name, time_ms=ahead))
    assert answer.problem == ""
    [message] = kafka.consume(unique_name, 1)
    assert message.timestamp()[1] < ahead
    assert facts_of(message).timestamp_ms == ahead


def test_a_topic_that_was_deleted_is_made_again(kafka: KafkaCluster, letters: KafkaDeadLetters, unique_name: str):
    assert answer_to(letters, letter_to(unique_name))[0].problem == ""
    kafka.delete_topic(unique_name)

    def is_written() -> bool:
        return not answer_to(letters, letter_to(unique_name))[0].problem

    wait_until(is_written, what="a letter to be written", timeout_s=120)


def test_a_topic_that_does_not_exist_and_may_not_be_made(letters: KafkaDeadLetters, unique_name: str):
    [answer] = answer_to(letters, letter_to(unique_name, create=False))
    assert answer.problem == f"the topic {unique_name} does not exist, and the rules say `create: false`: create it"
    assert not answer.is_final


def test_properties_that_contradict_are_told_at_the_start(kafka: KafkaCluster):
    with pytest.raises(ConfigurationError, match=r"for dead letters: .*max.in.flight"):
        KafkaDeadLetters(kafka.bootstrap_servers, {"max.in.flight": "10"}).check()


def test_what_the_bus_refuses_is_put_aside_and_its_replay_is_published_where_there_is_room(
    kafka: KafkaCluster, topic: str, start_bridge: StartBridge, start_project: StartProject, unique_name: str,
    redis_server: RedisServer, tmp_path: Path
):  # fmt: skip
    rules = tmp_path / "rules.yaml"
    text = (
        f"version: 1\nsources:\n  - {{name: s, topics: [{topic}]}}\n"
        "routes:\n  - {name: r, split: value, channel: table, kind: keyed, key: item.id, max_keys: 2, on_error: dead-letter}\n"
        "  - {name: feed, channel: feed, kind: stream}\n"
    )
    rules.write_text(text)
    kafka.produce(topic, [b'[{"id":"a"},{"id":"b"}]', b'[{"id":"a","at":1},{"id":"c","at":1},{"id":"b","at":1}]', b'[{"id":"a","at":2}]'])
    bridge = start_bridge(rules)
    wait_until(lambda: kafka.committed(unique_name, topic) == 3, what="all records committed", timeout_s=60)
    [letter] = kafka.consume(f"{topic}.dead-letters", 1)
    facts = facts_of(letter)
    assert (facts.offset, facts.route, facts.items) == (1, "r", (1,))
    assert "as many keys as it may: 2" in facts.error
    with redis_server.client() as client:
        assert client.hlen(LAYOUT.keys_key("table")) == 2
        assert client.llen(LAYOUT.history_key("table")) == 5
    bridge.terminate()
    rules.write_text(text.replace("max_keys: 2", "max_keys: 3"))
    start_bridge(rules)
    replay = ("dead-letters", "replay", "--all", "--yes", "--rules", rules, "--bootstrap-servers", kafka.bootstrap_servers)
    assert start_project("bridge", *replay).wait(60) == 0
    with redis_server.client() as client:
        wait_until(lambda: client.hlen(LAYOUT.keys_key("table")) == 3, what="the key that had no room", timeout_s=30)
        assert client.llen(LAYOUT.history_key("table")) == 6
        assert client.llen(LAYOUT.history_key("feed")) == 3
