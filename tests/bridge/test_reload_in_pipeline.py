"""Rules that change while records flow: nothing twice, nothing missing, each record by the rules that were in force when it came."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.adapters.memory_bus import MemoryBus, MemoryServer
from bridge.adapters.memory_kafka import MemoryRecords, MemoryTopics
from bridge.core.chain import DeltaChain
from bridge.core.flow import Hold
from bridge.core.limits import PipelineSettings, Time
from bridge.core.record import Partition
from bridge.core.routing import Router
from bridge.core.ruleset import CompiledRules
from bridge.pipeline import Pipeline
from bridge.rules.load import parse_rules
from shared import envelope
from shared.bus.layout import BusLayout
from shared.errors import ConfigurationError
from shared.publication import DeltaFormat
from tests.bridge.world import Handed

RULES = """
version: 1
sources:
  - {{name: a, topics: {topics}}}
defaults: {{history: {{size: 10000, bytes: 100MB}}}}
routes:
  - {{name: all, channel: "all:{{topic}}", kind: stream}}
  - {{name: changing, channel: "rules-{version}:{{topic}}", kind: stream, on_error: {on_error}{where}}}
  - {{name: newest, channel: "newest:{{item.id}}", only_changed: true}}
"""
A, B = ("a", 0), ("b", 0)
TEXT = "a text that makes a delta smaller than what it is a delta of"


def rules(version: int = 1, topics: str = "[a]", on_error: str = "skip", where: str = "") -> CompiledRules:
    return parse_rules(RULES.format(version=version, topics=topics, on_error=on_error, where=where).encode(), "rules.yaml")


class World:
    """A Kafka and a bus in memory, and one bridge after the other."""

    def __init__(self, first: CompiledRules, partitions: Sequence[Partition] = (A,)) -> None:
        self.topics = MemoryTopics()
        self.topics.records.update({partition: [] for partition in partitions})
        self.server = MemoryServer(BusLayout(shards=2))
        self.now_s = 1000.0
        self.rules = first
        self.start()

    def start(self) -> None:
        self.handed = Handed(self.rules)
        assigned = [partition for partition in self.topics.records if partition[0] in self.rules.topics]
        self.records = MemoryRecords(self.topics, assign=assigned)
        self.chain = DeltaChain(shards=2, clock=lambda: self.now_s, max_bytes=10**7)
        self.pipeline = Pipeline(
            self.records,
            MemoryBus(self.server),
            Router(self.rules),
            self.chain,
            time=Time(lambda: self.now_s, self.sleep, lambda: 0.5),
            stop=lambda: False,
            settings=PipelineSettings(max_push=3),
            new_rules=self.handed,
        )
        self.records.start(self.pipeline)

    def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s

    def produce(self, *numbers: int, topic: str = "a") -> None:
        for number in numbers:
            self.topics.produce(topic, json.dumps({"id": "x", "n": number, "text": TEXT}).encode())

    def reload(self, new: CompiledRules) -> None:
        self.rules = self.handed.pending = new

    def steps(self, count: int = 3) -> None:
        for _ in range(count):
            self.now_s += 1
            self.pipeline.step()

    def published(self, channel: str) -> list[Any]:
        return [json.loads(envelope.decode(entry).body)["n"] for entry in self.server.history(channel)]

    def deltas(self, channel: str) -> list[bool]:
        """Of each publication on the channel, whether it went out as a delta."""
        return [envelope.decode(sent).delta is not DeltaFormat.NONE for sent in self.server.published[channel]]


def test_records_on_each_side_of_the_swap_follow_the_rules_of_their_side():
    world = World(rules(1))
    world.produce(1, 2)
    world.steps()
    world.reload(rules(2))
    world.produce(3, 4)
    world.steps()
    assert world.published("all:a") == [1, 2, 3, 4]
    assert world.published("rules-1:a") == [1, 2]
    assert world.published("rules-2:a") == [3, 4]


def test_deltas_go_on_where_a_route_did_not_change_and_begin_anew_where_it_did():
    world = World(rules(1))
    world.produce(1, 2)
    world.steps()
    world.reload(rules(1, where=", where: item.n"))
    world.produce(3, 4)
    world.steps()
    assert world.deltas("all:a") == [False, True, True, True]
    assert world.deltas("rules-1:a") == [False, True, False, True]
    assert world.published("rules-1:a") == [1, 2, 3, 4]


def test_the_channels_that_a_route_made_stay_counted_where_it_did_not_change():
    def capped(other: str) -> CompiledRules:
        text = f"""
version: 1
sources: [{{name: a, topics: [a]}}]
routes:
  - {{name: few, channel: "n:{{item.n}}", max_channels: 2}}
  - {{name: other, channel: {other}}}
"""
        return parse_rules(text.encode(), "rules.yaml")

    world = World(capped("before"))
    world.produce(1, 2, 3)
    world.steps()
    world.reload(capped("after"))
    world.produce(4, 1)
    world.steps()
    assert [world.published(f"n:{number}") for number in (1, 2, 3, 4)] == [[1, 1], [2], [], []]
    assert world.published("after") == [4, 1]
    assert world.pipeline.tally.over_cap == 2


def test_a_channel_that_no_route_feeds_any_more_is_not_put_back_into_a_bus_that_lost_its_data():
    world = World(rules(1))
    world.produce(1)
    world.steps()
    gone = rules(1)
    world.reload(CompiledRules(gone.sources, gone.routes[:2]))
    world.steps()
    world.server.flush()
    world.produce(2)
    world.steps()
    assert world.published("all:a") == [2]
    assert world.published("newest:x") == []


def test_what_was_finished_before_the_swap_is_committed_by_it():
    world = World(rules(1))
    world.pipeline._settings = PipelineSettings(commit_interval_s=1e9)
    world.pipeline._next_commit = 1e9
    world.produce(1, 2)
    world.steps()
    assert world.topics.committed == {}
    world.reload(rules(2))
    world.steps(1)
    assert world.topics.committed == {A: 2}
    world.start()  # The old one was killed.
    world.steps()
    assert world.published("rules-2:a") == []


def test_a_batch_that_waits_for_the_bus_is_finished_under_the_rules_that_made_it():
    world = World(rules(1))
    world.steps()
    world.produce(1)

    def lose() -> None:
        world.server.away = True
        world.reload(rules(2))
        world.records.pending.append(lambda: world.records.pending.append(come_back))

    def come_back() -> None:
        world.produce(2)
        world.server.away = False

    world.records.pending.append(lose)
    world.steps(5)
    assert world.published("all:a") == [1, 2]
    assert (world.published("rules-1:a"), world.published("rules-2:a")) == ([1], [2])


def test_topics_come_and_go_and_nothing_of_them_is_lost():
    world = World(rules(1), [A, B])
    world.produce(1)
    world.produce(1, topic="b")
    world.steps()
    assert world.published("all:b") == []
    world.reload(rules(2, topics="[b]"))
    world.steps()
    world.produce(2)
    world.produce(2, topic="b")
    world.steps()
    assert (world.published("all:a"), world.published("all:b")) == ([1], [1, 2])
    assert world.records.assigned == {B}
    assert world.topics.committed == {A: 1, B: 2}
    world.reload(rules(3, topics="[a, b]"))
    world.steps()
    assert (world.published("all:a"), world.published("rules-3:a")) == ([1, 2], [2])
    assert world.records.owns_all


def test_what_was_read_ahead_of_a_topic_that_goes_is_left_to_whoever_reads_it_next():
    class Ahead(MemoryRecords):
        """Returns what a client has read ahead, while the bus is away."""

        def hold(self, partitions: Iterable[Partition], reason: Hold) -> None:
            if reason is not Hold.BUS_AWAY:
                super().hold(partitions, reason)

    world = World(rules(1, topics="[a, b]"), [A, B])
    world.records.__class__ = Ahead
    world.steps()
    world.produce(1)

    def lose() -> None:
        world.server.away = True
        world.records.pending.append(produce_more)

    def produce_more() -> None:
        world.produce(1, 2, topic="b")
        world.reload(rules(1))
        world.records.pending.append(come_back)

    def come_back() -> None:
        world.server.away = False

    world.records.pending.append(lose)
    world.steps()
    assert world.published("all:a") == [1]
    assert world.published("all:b") == []
    assert B not in world.topics.committed
    world.reload(rules(1, topics="[a, b]"))
    world.steps()
    assert world.published("all:b") == [1, 2]


def test_topics_that_kafka_does_not_take_keep_the_old_rules():
    class Picky(MemoryRecords):
        def subscribe(self, topics: Sequence[str]) -> None:
            raise ConfigurationError(["no"])

    world = World(rules(1))
    world.records.__class__ = Picky
    world.reload(rules(2))
    world.produce(1)
    world.steps()
    assert world.handed.refused == ["no"]
    assert world.published("rules-1:a") == [1]
    assert world.handed.in_force is not world.rules


@pytest.mark.parametrize("is_corrected", [True, False])
def test_a_halted_partition_goes_on_with_the_record_that_halted_it(*, is_corrected: bool):
    first = rules(1, on_error="halt", where=", where: 'sum(item.n) == `0`'")
    world = World(first)
    world.topics.produce("a", json.dumps({"id": "x", "n": [], "text": TEXT}).encode())
    world.produce(2, 3)
    world.steps()
    assert list(world.pipeline.halted) == [A]
    assert world.topics.committed == {A: 1}
    world.reload(rules(1) if is_corrected else first)
    world.steps()
    if is_corrected:
        assert world.pipeline.halted == {}
        assert world.published("all:a") == [[], 2, 3]
        assert world.topics.committed == {A: 3}
    else:
        assert list(world.pipeline.halted) == [A], "it halts again, at the same record"
        assert world.published("all:a") == [[]]
        assert world.topics.committed == {A: 1}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["produce", "step", "reload", "kill", "lose", "rebalance", "flicker"]), max_size=25))
def test_whatever_happens_every_record_is_published_once_by_one_version(events: list[str]):
    world = World(rules(0))
    produced = version = 0
    for event in [*events, "produce"]:
        if event == "produce":
            produced += 2
            world.produce(produced - 1, produced)
        elif event == "step":
            world.steps(1)
        elif event == "reload":
            version += 1
            world.reload(rules(version, on_error=["skip", "halt"][version % 2]))
        elif event == "kill":
            world.start()
        elif event == "lose":
            world.server.disconnect()
        elif event == "rebalance":
            records = world.records
            records.pending += [lambda records=records: records.revoke([A]), lambda records=records: records.assign([A])]  # type: ignore[misc]
        else:
            world.server.fail_after = 1
    world.steps(6)
    assert world.published("all:a") == list(range(1, produced + 1))
    by_version = [world.published(f"rules-{number}:a") for number in range(version + 1)]
    # A record that was begun when the bridge was killed may come by the new rules, too: that is the new channel's first time.
    assert sorted({number for numbers in by_version for number in numbers}) == list(range(1, produced + 1))
    assert all(numbers == sorted(set(numbers)) for numbers in by_version)
    if "kill" not in events:
        assert [number for numbers in by_version for number in numbers] == list(range(1, produced + 1))
