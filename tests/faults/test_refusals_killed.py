"""kill -9 of the bridge, faults of Kafka, and rebalances while the bus refuses items for good: they have letters, others are there once.

What a record with refused items becomes is brought to the bus in parts, with letters in between: the point of the fault may be anywhere.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import redis

from bridge.core.letter import read_letter
from shared.bus.layout import BusLayout
from shared.envelope import decode
from tests.conftest import StartKafka, StartProject
from tests.rig.kafka_server import KafkaCluster
from tests.rig.redis_server import RedisServer
from tests.rig.stack import Stack
from tests.rig.wait import wait_until

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "5"))
RECORDS_A_ROUND = 60
CHANNELS = ("table:0", "table:1")
QUICK = ("--commit-interval-s", "0.2")
STATIC_MEMBER = ("--kafka-property", "group.instance.id=one", *QUICK)
SOON_MISSED = ("--kafka-property", "session.timeout.ms=3000", "--kafka-property", "heartbeat.interval.ms=300", *QUICK)

Item = dict[str, object]


def write_rules(tmp_path: Path, topic: str, letters: str = "{}") -> Path:
    """Each channel has room for the keys a and b of each partition; see `items`."""
    path = tmp_path / "rules.yaml"
    path.write_text(
        f"version: 1\nsources:\n  - {{name: s, topics: [{topic}], dead_letters: {letters}}}\nroutes:\n"
        "  - {name: r, split: value, channel: 'table:{item.table}', kind: keyed, key: item.id, max_keys: 2,"
        " history: {size: 100000}, on_error: dead-letter}\n"
    )
    return path


def items(number: int, partition: int) -> list[Item]:
    """Those of a record. Once the tables have the keys a and b, there is no room for any other. Numbers go up within a partition."""
    good: list[Item] = [{"table": table, "id": key, "n": number} for table in (0, 1) for key in "ab"]
    if number == 0:
        return good  # All partitions begin with these.
    refused: list[Item] = [{"table": table, "id": f"{partition}-{number}-{at}", "n": number} for at, table in enumerate((0, 1, 0))]
    # Both alone, and taking turns in one record.
    return [good[:2], refused[:2], [refused[0], good[0], refused[2], good[1], refused[1], good[2]]][number % 3]


def is_refused(item: Item) -> bool:
    return item["id"] not in {"a", "b"}


def records(first: int, count: int = RECORDS_A_ROUND, partition: int = 0) -> list[bytes]:
    return [json.dumps([{**item, "p": partition} for item in items(number, partition)]).encode() for number in range(first, first + count)]


def published(redis_url: str, channel: str, partition: int = 0) -> list[tuple[object, object]]:
    """The numbers and keys of what is on the bus of the records of a partition, in order."""
    with redis.Redis.from_url(redis_url) as client:
        entries = client.lrange(BusLayout().history_key(channel), 0, -1)
    assert isinstance(entries, list)
    found = [json.loads(decode(entry).body) for entry in entries]
    return [(item["n"], item["id"]) for item in found if item["p"] == partition]


def good_of(total: int, channel: str, partition: int) -> Iterator[tuple[object, object]]:
    for number in range(total):
        for item in items(number, partition):
            if not is_refused(item) and channel == f"table:{item['table']}":
                yield number, item["id"]


def is_at_work(redis_url: str, first: int, partition: int = 0) -> bool:
    """Whether something of the records from this one on is published."""
    return any(isinstance(number, int) and number >= first for number, _ in published(redis_url, CHANNELS[0], partition))


def has_more(kafka: KafkaCluster, letters: str, before: int) -> bool:
    return kafka.end_offset(letters) > before


def check(kafka: KafkaCluster, letters: str, redis_url: str, total: int, partitions: int = 1) -> None:
    """All of it. Of an item there may be several letters, all of them of its record and route."""
    for partition in range(partitions):
        for channel in CHANNELS:
            assert published(redis_url, channel, partition) == list(good_of(total, channel, partition))
    put_aside: dict[tuple[int, int], set[int | str]] = {}
    told = 0
    for message in kafka.consume(letters, kafka.end_offset(letters)):
        facts = read_letter(tuple(message.headers() or ()))  # type: ignore[arg-type]
        assert facts is not None
        assert facts.items
        assert facts.route == "r"
        assert message.value() == records(facts.offset, 1, facts.partition)[0]
        put_aside.setdefault((facts.partition, facts.offset), set()).update(facts.items)
        told += len(facts.items)
    refused = {
        (partition, number): {at for at, item in enumerate(items(number, partition)) if is_refused(item)}
        for partition in range(partitions)
        for number in range(total)
    }
    wanted = {place: its for place, its in refused.items() if its}
    assert put_aside == wanted
    print(f"{sum(map(len, wanted.values()))} items put aside, told {told} times")  # noqa: T201


def test_a_bridge_that_is_killed_while_good_and_refused_items_take_turns(
    stack: Stack, kafka: KafkaCluster, redis_url: str, topic: str, tmp_path: Path
) -> None:
    rules, chance, letters = write_rules(tmp_path, topic), random.Random(12), f"{topic}.dead-letters"
    kafka.create_topic(letters)
    for round_ in range(ROUNDS):
        before = kafka.end_offset(letters)
        kafka.produce(topic, records(round_ * RECORDS_A_ROUND))
        bridge = stack.start_bridge(rules, topic, *STATIC_MEMBER)
        wait_until(partial(has_more, kafka, letters, before), what="a letter", interval_s=0.005)
        time.sleep(chance.uniform(0, 0.1))  # A point that nobody chose: this is the fault, not a wait for something.
        bridge.kill()
    stack.start_bridge(rules, topic, *STATIC_MEMBER)
    total = ROUNDS * RECORDS_A_ROUND
    kafka.wait_until_committed(topic, topic, total)
    check(kafka, letters, redis_url, total)


def test_bridge_and_kafka_that_are_killed_while_letters_of_refused_items_wait(
    start_kafka: StartKafka, start_project: StartProject, redis_server: RedisServer, redis_url: str, unique_name: str, tmp_path: Path
) -> None:
    kafka = start_kafka()
    topic = kafka.create_topic(unique_name)
    letters = kafka.create_topic(f"{topic}.dead-letters")
    stack, rules = Stack(start_project, kafka.bootstrap_servers, redis_url), write_rules(tmp_path, topic)
    bridge = stack.start_bridge(rules, topic, *STATIC_MEMBER)
    kafka.produce(topic, records(0))
    kafka.wait_until_committed(topic, topic, RECORDS_A_ROUND)
    # Both stall, so that the bridge has records in hand and their letters come to nobody; what they wrote into sockets dies with Kafka.
    redis_server.pause()
    kafka.produce(topic, records(RECORDS_A_ROUND))
    time.sleep(0.7)
    kafka.pause()
    redis_server.resume()
    wait_until(partial(is_at_work, redis_url, RECORDS_A_ROUND), what="the bridge at work on them", interval_s=0.005)
    time.sleep(0.3)
    bridge.kill()
    kafka.restart()
    stack.start_bridge(rules, topic, *STATIC_MEMBER)
    # And once it only stalls.
    wait_until(partial(is_at_work, redis_url, RECORDS_A_ROUND + 1), what="the next bridge at work on them", interval_s=0.005)
    kafka.pause()
    time.sleep(0.5)
    kafka.resume()
    total = 2 * RECORDS_A_ROUND
    kafka.wait_until_committed(topic, topic, total)
    check(kafka, letters, redis_url, total)


def test_partitions_that_move_while_what_follows_a_refused_item_is_parked(
    stack: Stack, kafka: KafkaCluster, redis_url: str, unique_name: str, tmp_path: Path
) -> None:
    topic, letters, partitions, total = kafka.create_topic(unique_name, partitions=2), f"{unique_name}.late", 2, 7
    rules = write_rules(tmp_path, topic, f"{{topic: {letters}, create: false}}")
    for partition in range(partitions):
        kafka.produce(topic, records(0, 1, partition), partition=partition)
    first = stack.start_bridge(rules, topic, *SOON_MISSED)
    for partition in range(partitions):
        kafka.wait_until_committed(topic, topic, 1, partition)
        kafka.produce(topic, records(1, total - 1, partition), partition=partition)
    # Their letters' topic is not there, so the partitions stay parked.
    first.wait_for_log("dead letters are not taken")
    second = stack.start_bridge(rules, topic, *SOON_MISSED)
    second.wait_for_log("dead letters are not taken")  # A partition came to it, and was parked again.
    first.kill()
    second.wait_for_log("(?s)partitions assigned.*partitions assigned")
    assert [published(redis_url, channel, partition) for channel in CHANNELS for partition in range(partitions)] == [
        list(good_of(1, channel, partition)) for channel in CHANNELS for partition in range(partitions)
    ]
    kafka.create_topic(letters)
    for partition in range(partitions):
        kafka.wait_until_committed(topic, topic, total, partition)
    check(kafka, letters, redis_url, total, partitions)
