"""Records that a route cannot handle are put aside, and their partitions move on: never lost, never skipped, never committed too soon."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import count

import pytest

from bridge.adapters.memory_bus import MemoryBus, MemoryServer
from bridge.adapters.memory_kafka import MemoryDeadLetters, MemoryRecords, MemoryTopics
from bridge.core.chain import DeltaChain
from bridge.core.decoding import SchemaUnavailableError
from bridge.core.flow import Hold
from bridge.core.letter import DeadLetter, Origin, Replay, read_letter
from bridge.core.limits import PipelineSettings, Time
from bridge.core.record import Partition, Record
from bridge.core.routing import Routed, Router
from bridge.dead_letters import DeadLetterQueue, LetterSettings
from bridge.pipeline import Pipeline
from bridge.ports import NewRules
from bridge.rules.load import parse_rules
from shared import envelope
from shared.bus.layout import BusLayout
from tests.bridge.world import Handed

RULES = b"""
version: 1
sources:
  - {name: s, topics: [t]}
routes:
  - {name: each, split: value.items, channel: "item:{item.id}", kind: stream, history: {size: 1000}, on_error: dead-letter}
  - {name: whole, channel: "all", kind: stream, history: {size: 1000}}
"""
P, Q = ("t", 0), ("t", 1)
DLT = "t.dead-letters"


class World:
    """Kafka, a bus and dead-letter topics in memory."""

    def __init__(self, rules: bytes = RULES, partitions: int = 1) -> None:
        self.topics = MemoryTopics()
        for number in range(partitions):
            self.topics.records["t", number] = []
        self.server = MemoryServer(BusLayout(shards=2))
        self.letters = MemoryDeadLetters()
        self.rules = parse_rules(rules, "rules.yaml")
        self.now_s = 1000.0
        self.is_stopping = False

    def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s

    def produce(self, *items: object, partition: int = 0) -> Record:
        return self.topics.produce("t", json.dumps({"items": items}).encode(), partition=partition)

    def bridge(
        self,
        settings: LetterSettings | None = None,
        max_batch_records: int = 500,
        router: Router | None = None,
        new_rules: NewRules | None = None,
    ) -> tuple[Pipeline, MemoryRecords]:
        records = MemoryRecords(self.topics)
        own = MemoryDeadLetters(self.letters.topics)
        self.letters = own
        queue = DeadLetterQueue(
            own, Origin("1", "g"), now=lambda: self.now_s, wall=lambda: self.now_s, random=lambda: 0.5, settings=settings
        )
        pipeline = Pipeline(
            records,
            MemoryBus(self.server),
            router or Router(self.rules),
            DeltaChain(shards=2, clock=lambda: self.now_s, max_bytes=10**6),
            time=Time(lambda: self.now_s, self.sleep, lambda: 0.5),
            stop=lambda: self.is_stopping,
            settings=PipelineSettings(commit_interval_s=0, max_batch_records=max_batch_records),
            letters=queue,
            new_rules=new_rules,
        )
        records.start(pipeline)
        return pipeline, records

    def steps(self, pipeline: Pipeline, count_: int = 5, wait_s: float = 0.5) -> None:
        for _ in range(count_):
            pipeline.step()
            self.now_s += wait_s

    def put_aside(self) -> list[tuple[str, int]]:
        """Where the dead letters came from."""
        facts = [read_letter(letter.headers) for letter in self.letters.topics.get(DLT, [])]
        return [(each.source, each.failed) for each in facts if each is not None]

    def published(self, channel: str) -> list[object]:
        return [json.loads(envelope.decode(entry).body) for entry in self.server.history(channel)]


def is_away(pipeline: Pipeline) -> bool:
    assert pipeline.letters is not None
    return pipeline.letters.away_since is not None


GOOD, BAD = {"id": "a"}, {"id": None}


def test_the_record_is_put_aside_once_with_its_items_and_everything_else_goes_on():
    world = World()
    bad = world.produce(GOOD, BAD, BAD, GOOD)
    world.produce(GOOD)
    pipeline, _ = world.bridge()
    world.steps(pipeline)
    [letter] = world.letters.topics[DLT]
    facts = read_letter(letter.headers)
    assert facts is not None
    assert letter.record == bad
    assert (facts.cluster, facts.items, facts.failed, facts.route, facts.group) == ("memory", (1, 2), 2, "each", "g")
    assert "{item.id} gave null" in facts.error
    assert len(world.published("item:a")) == 3
    assert len(world.published("all")) == 2
    assert world.topics.committed == {P: 2}
    assert pipeline.tally.dead_letters == {"each": 1}


def test_of_many_items_all_are_listed():
    world = World()
    world.produce(*[BAD if number % 3 else GOOD for number in range(300)])
    pipeline, _ = world.bridge()
    world.steps(pipeline)
    [letter] = world.letters.topics[DLT]
    facts = read_letter(letter.headers)
    assert facts is not None
    assert facts.items == tuple(number for number in range(300) if number % 3)


def test_one_letter_a_route():
    world = World(RULES.replace(b'channel: "all",', b'channel: "{value.no}", on_error: dead-letter,'))
    world.produce(BAD)
    pipeline, _ = world.bridge()
    world.steps(pipeline)
    assert world.put_aside() == [("t[0]@0", 1), ("t[0]@0", 1)]
    assert pipeline.tally.dead_letters == {"each": 1, "whole": 1}
    assert world.topics.committed == {P: 1}


def test_what_is_no_json_is_put_aside():
    world = World()
    world.topics.produce("t", b"\xff{")
    pipeline, _ = world.bridge()
    world.steps(pipeline)
    assert world.put_aside() == [("t[0]@0", 1)]
    assert world.topics.committed == {P: 1}


def test_nothing_is_committed_before_the_letter_is_acknowledged():
    world = World()
    world.produce(GOOD)
    world.produce(BAD)
    world.produce(GOOD)
    pipeline, _ = world.bridge()
    world.letters.is_slow = True
    world.steps(pipeline)
    assert world.topics.committed == {P: 1}
    assert len(world.published("item:a")) == 2
    world.letters.is_slow = False
    world.steps(pipeline)
    assert world.topics.committed == {P: 3}


def test_a_bridge_that_dies_before_the_letter_is_acknowledged_leaves_its_record_to_the_next():
    world = World()
    world.produce(BAD)
    world.produce(GOOD)
    pipeline, _ = world.bridge()
    world.letters.is_slow = True
    world.steps(pipeline)
    after, _ = world.bridge()
    world.steps(after)
    assert world.put_aside() == [("t[0]@0", 1)]
    assert len(world.published("item:a")) == 1
    assert world.topics.committed == {P: 2}


def test_while_letters_are_not_taken_their_partition_waits_and_others_go_on():
    world = World(partitions=2)
    world.produce(BAD)
    pipeline, records = world.bridge()
    world.letters.away = "no leader"
    world.steps(pipeline)
    assert records.flow.held(Hold.DEAD_LETTERS) == [P]
    assert is_away(pipeline)
    world.produce(GOOD)
    world.produce(GOOD, partition=1)
    world.steps(pipeline)
    assert len(world.published("item:a")) == 1
    assert world.topics.committed == {Q: 1}
    polled = records.consumed
    world.steps(pipeline, 100)
    assert records.consumed > polled + 50
    assert 3 < world.letters.sent < 40, "tried again, and ever later"
    world.letters.away = ""
    world.steps(pipeline, 40)
    assert world.topics.committed == {P: 2, Q: 1}
    assert len(world.published("item:a")) == 2
    assert not is_away(pipeline)
    assert records.flow.held(Hold.DEAD_LETTERS) == []
    assert world.put_aside() == [("t[0]@0", 1)]


def test_letters_that_wait_are_bounded_and_the_order_of_records_is_kept():
    world = World()
    numbers = count()
    for _ in range(30):
        world.produce(BAD, {"id": "a", "n": next(numbers)})
    pipeline, records = world.bridge(LetterSettings(max_letters=4), max_batch_records=100)
    world.letters.is_slow = True
    world.steps(pipeline, 20)
    assert pipeline.letters is not None
    assert len(pipeline.letters) == 4
    assert records.flow.held(Hold.DEAD_LETTERS) == [P]
    assert pipeline.lag == 30, "all were read, and the first waits for its letter"
    world.letters.is_slow = False
    world.steps(pipeline, 40)
    assert pipeline.lag == 0
    assert [item["n"] for item in world.published("item:a")] == list(range(30))  # type: ignore[index]
    assert world.topics.committed == {P: 30}
    assert len(world.put_aside()) == 30


def test_a_letter_that_is_refused_for_good_halts_its_partition():
    world = World()
    world.produce(BAD)
    world.produce(GOOD)
    pipeline, records = world.bridge()
    world.letters.refused = "no record of this topic may be without a key"
    world.steps(pipeline)
    assert pipeline.halted == {P: "its dead letter is refused for good: no record of this topic may be without a key"}
    assert records.flow.held(Hold.HALTED) == [P]
    assert world.topics.committed == {}


def test_letters_that_would_be_consumed_again_halt_their_partition():
    world = World(RULES.replace(b"topics: [t]", b'topic_pattern: "^t($|.*letters$)"'))
    world.produce(BAD)
    pipeline, _ = world.bridge()
    world.steps(pipeline)
    assert "which these rules consume" in pipeline.halted[P]
    assert world.letters.sent == 0


def test_when_a_partition_goes_its_letters_are_waited_for_and_committed():
    world = World()
    world.produce(BAD)
    pipeline, records = world.bridge()
    world.letters.is_slow = True
    world.steps(pipeline)
    assert world.topics.committed == {}

    def answer() -> None:
        world.letters.is_slow = False
        records.revoke([P])

    records.pending.append(answer)
    world.steps(pipeline, 1)
    assert world.topics.committed == {P: 1}


def test_when_a_partition_goes_while_letters_are_not_taken_they_are_left_to_its_next_owner():
    world = World()
    world.produce(BAD)
    world.produce(GOOD)
    pipeline, records = world.bridge()
    world.letters.away = "gone"
    world.steps(pipeline)
    records.pending += [lambda: records.revoke([P])]
    before = world.now_s
    world.steps(pipeline, 1)
    assert world.now_s - before < 12
    assert world.topics.committed == {}
    assert pipeline.letters is not None
    assert len(pipeline.letters) == 0
    records.pending += [lambda: records.assign([P])]
    world.letters.away = ""
    world.steps(pipeline)
    assert world.topics.committed == {P: 2}


def test_at_the_end_letters_are_waited_for_in_bounded_time():
    world = World()
    world.produce(BAD)
    pipeline, _ = world.bridge()
    world.letters.is_slow = True
    world.steps(pipeline, 2)
    world.is_stopping = True
    before = world.now_s
    pipeline.run()
    assert world.now_s - before < 25
    assert world.topics.committed == {}


def test_at_the_end_letters_that_are_taken_are_committed():
    world = World()
    pipeline, _ = world.bridge()
    world.steps(pipeline, 1)
    world.produce(BAD)
    pipeline.step()
    world.is_stopping = True
    pipeline.run()
    assert world.topics.committed == {P: 1}
    assert world.put_aside() == [("t[0]@0", 1)]


def test_a_fault_of_ours_is_put_aside_too(monkeypatch: pytest.MonkeyPatch):
    world = World()
    world.produce(GOOD)
    monkeypatch.setattr("bridge.core.routing._items", lambda _: 1 // 0)
    pipeline, _ = world.bridge()
    world.steps(pipeline)
    assert world.put_aside() == [("t[0]@0", 1)]
    facts = read_letter(world.letters.topics[DLT][0].headers)
    assert facts is not None
    assert "ZeroDivisionError" in facts.error
    assert world.topics.committed == {P: 1}


def replayed(letter: DeadLetter, group: str = "g") -> tuple[tuple[str, bytes], ...]:
    facts = read_letter(letter.headers)
    assert facts is not None
    return (
        ("distributary.replay-group", group.encode()),
        ("distributary.replay-route", facts.route.encode()),
        ("distributary.replay-items", json.dumps(facts.items).encode()),
    )


@pytest.mark.parametrize(("group", "made"), [("g", 1), ("others", 0)])
def test_a_replayed_record_goes_through_its_route_with_its_items_only(group: str, made: int):
    world = World()
    world.produce(GOOD, BAD)
    pipeline, _ = world.bridge()
    world.steps(pipeline)
    [letter] = world.letters.topics[DLT]
    fixed = json.dumps({"items": [GOOD, {"id": "b"}]}).encode()
    log = world.topics.records[P]
    log.append(Record("t", 0, len(log), 0, None, fixed, replayed(letter, group)))
    world.steps(pipeline)
    assert len(world.published("item:b")) == made
    assert len(world.published("item:a")) == 1
    assert len(world.published("all")) == 1
    assert world.topics.committed == {P: 2}


class Unschooled(Router):
    """Has no schema for a certain value."""

    lacks_schema_for: bytes | None = None

    def route(self, record: Record, replay: Replay | None = None) -> Routed:
        if self.lacks_schema_for is not None and record.value == self.lacks_schema_for:
            msg = "the registry is away"
            raise SchemaUnavailableError(msg)
        return super().route(record, replay)


def test_a_partition_that_is_halted_while_it_waits_for_a_schema_keeps_its_order_when_it_is_tried_again():
    world = World()
    world.produce(BAD)
    world.produce({"id": "a", "n": 1})
    strange = world.produce({"id": "a", "n": 2})
    router = Unschooled(world.rules)
    router.lacks_schema_for = strange.value
    handed = Handed(world.rules)
    pipeline, records = world.bridge(router=router, new_rules=handed)
    world.letters.is_slow = True
    world.steps(pipeline, wait_s=0.01)
    assert records.flow.held(Hold.SCHEMA_AWAY) == [P]
    world.letters.is_slow, world.letters.refused = False, "too strange"
    world.steps(pipeline, 2, wait_s=0.01)
    assert list(pipeline.halted) == [P]
    world.letters.refused, router.lacks_schema_for = "", None
    handed.pending = world.rules
    world.steps(pipeline)
    assert [item["n"] for item in world.published("item:a")] == [1, 2]  # type: ignore[index]
    assert world.put_aside() == [("t[0]@0", 1)]
    assert world.topics.committed == {P: 3}
    assert records.flow.held(Hold.SCHEMA_AWAY) == records.flow.held(Hold.HALTED) == []


HALTING = RULES.replace(b'channel: "all",', b'channel: "all", where: "value.items[0].halt > `0`", on_error: halt,')


def test_what_a_client_had_read_ahead_of_a_halted_partition_does_not_come_before_what_is_read_again():
    class Ahead(MemoryRecords):
        def hold(self, partitions: Iterable[Partition], reason: Hold) -> None:
            """Return them all the same."""

    world = World(RULES.replace(b"dead-letter}", b"halt}"))
    world.produce(BAD)
    world.produce({"id": "a", "n": 1})
    handed = Handed(world.rules)
    pipeline, records = world.bridge(new_rules=handed)
    records.__class__ = Ahead
    world.steps(pipeline)
    assert list(pipeline.halted) == [P]
    assert pipeline._room.oldest() == {}, "Kafka has them: no memory is held for as long as it takes to correct the rules"
    world.produce({"id": "a", "n": 2})
    world.steps(pipeline)
    assert world.published("item:a") == []
    handed.pending = parse_rules(RULES.replace(b"dead-letter", b"skip"), "rules.yaml")
    world.steps(pipeline)
    assert [item["n"] for item in world.published("item:a")] == [1, 2]  # type: ignore[index]
    assert world.topics.committed == {P: 3}


def test_a_letter_on_its_way_is_made_anew_and_once_when_its_partition_is_halted_and_tried_again():
    world = World(HALTING)
    world.produce(BAD)
    world.produce({"id": "a", "halt": "no number"})
    world.produce(GOOD)
    handed = Handed(world.rules)
    pipeline, _ = world.bridge(new_rules=handed)
    world.letters.is_slow = True
    world.steps(pipeline)
    assert list(pipeline.halted) == [P]
    assert pipeline.letters is not None
    handed.pending = parse_rules(RULES, "rules.yaml")
    world.steps(pipeline)
    assert len(pipeline.letters) == 1
    assert world.topics.committed == {}
    world.letters.is_slow = False
    world.steps(pipeline)
    assert pipeline.tally.dead_letters == {"each": 1}
    assert world.topics.committed == {P: 3}
    assert len(world.published("item:a")) == 2
