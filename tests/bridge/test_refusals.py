"""What the bus refuses for good is put aside or halts, in its place among the others: nothing overtakes it, and a crash loses nothing."""

from __future__ import annotations

import json

import pytest

from bridge.core.flow import Hold
from bridge.core.letter import read_letter
from bridge.pipeline import Pipeline
from bridge.rules.load import parse_rules
from shared import envelope
from tests.bridge.test_dead_letters import DLT, P, Q, World
from tests.bridge.world import Handed

RULES = b"""
version: 1
sources:
  - {name: s, topics: [t]}
routes:
  - {name: table, split: value.items, channel: table, kind: keyed, key: item.id, max_keys: 2, on_error: dead-letter}
  - {name: feed, channel: feed, kind: stream}
"""
HALTING = RULES.replace(b"on_error: dead-letter", b"on_error: halt")
ONLY_CHANGED = RULES.replace(b"max_keys: 2", b"max_keys: 2, only_changed: true")
WIDER = RULES.replace(b"max_keys: 2", b"max_keys: 9")


def item(key: str, at: int = 0) -> dict[str, object]:
    return {"id": key, "at": at}


def table(world: World) -> dict[str, int]:
    return {key.decode(): json.loads(envelope.decode(entry).body)["at"] for key, entry in world.server.keys("table").items()}


def history(world: World) -> list[tuple[str, int]]:
    return [(value["id"], value["at"]) for value in world.published("table")]  # type: ignore[index]


def letters(world: World) -> list[tuple[int, tuple[int | str, ...] | None]]:
    """The kafka offset and items of each."""
    facts = [read_letter(letter.headers) for letter in world.letters.topics.get(DLT, [])]
    return [(each.offset, each.items) for each in facts if each is not None]


def full_world(rules: bytes = RULES, partitions: int = 1) -> World:
    world = World(rules, partitions)
    world.produce(item("a"), item("b"))
    return world


def is_idle(pipeline: Pipeline) -> bool:
    return not pipeline._partitions.parked and pipeline._checkpoint.unfinished == 0


def test_it_is_put_aside_with_its_item_and_reason_and_everything_else_goes_on():
    world = full_world()
    bad = world.produce(item("a", 1), item("c", 1), item("b", 1))
    world.produce(item("a", 2))
    pipeline, _ = world.bridge()
    world.steps(pipeline)
    [letter] = world.letters.topics[DLT]
    facts = read_letter(letter.headers)
    assert facts is not None
    assert letter.record == bad
    assert (facts.route, facts.items, facts.failed) == ("table", (1,), 1)
    assert "the bus refused it on channel table: the channel has as many keys as it may: 2" in facts.error
    assert history(world) == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)]
    assert len(world.published("feed")) == 3
    assert world.topics.committed == {P: 3}
    assert (pipeline.tally.failed, pipeline.tally.letters) == (1, 1)
    assert is_idle(pipeline)


def test_until_the_letter_is_acknowledged_nothing_is_committed_and_nothing_overtakes():
    world = full_world(partitions=2)
    pipeline, records = world.bridge()
    world.steps(pipeline)
    world.letters.is_slow = True
    world.produce(item("c", 1), item("a", 1))
    world.produce(item("a", 2))
    world.produce(item("b", 3), partition=1)
    world.steps(pipeline)
    world.produce(item("b", 4))
    world.steps(pipeline)
    assert world.topics.committed == {P: 1, Q: 1}
    assert history(world) == [("a", 0), ("b", 0), ("b", 3)]
    assert records.flow.held(Hold.REFUSED) == [P]
    world.letters.is_slow = False
    world.steps(pipeline)
    assert history(world) == [("a", 0), ("b", 0), ("b", 3), ("a", 1), ("a", 2), ("b", 4)]
    assert letters(world) == [(1, (0,))]
    assert world.topics.committed == {P: 4, Q: 1}
    assert records.flow.held(Hold.REFUSED) == []


@pytest.mark.parametrize("is_acknowledged", [False, True])
def test_a_bridge_that_is_killed_before_its_commit_loses_no_letter_and_publishes_nothing_twice(*, is_acknowledged: bool):
    world = full_world()
    world.produce(item("c", 1), item("a", 1), item("d", 1), item("b", 1))
    world.produce(item("a", 2), item("e", 2))
    pipeline, _ = world.bridge()
    world.letters.is_slow = not is_acknowledged
    pipeline.step()
    if is_acknowledged:
        pipeline._partitions.settle_letters()
    assert len(letters(world)) == is_acknowledged
    successor, _ = world.bridge()  # Of the first one, nobody hears any more.
    world.steps(successor, 10)
    items = {places for offset, places in letters(world) if offset == 1}
    assert {place for places in items for place in places or ()} == {0, 2}
    assert (2, (1,)) in letters(world)
    assert history(world) == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)]
    assert world.topics.committed == {P: 3}


@pytest.mark.parametrize("rules", [ONLY_CHANGED, ONLY_CHANGED.replace(b"on_error: dead-letter", b"on_error: halt")])
def test_what_is_unchanged_behind_it_does_not_make_it_pass_for_done(rules: bytes):
    world = full_world(rules, partitions=2)
    pipeline, _ = world.bridge()
    world.steps(pipeline)
    world.letters.is_slow = True
    world.produce(item("c", 1))
    world.produce(item("a"))  # The bridge knows that this is what the bus has.
    world.steps(pipeline)
    world.produce(item("a", 5), partition=1)  # And would tell the bus so with the next one of another partition.
    world.steps(pipeline)
    assert history(world) == [("a", 0), ("b", 0), ("a", 5)]
    successor, _ = world.bridge()  # Of the first one, nobody hears any more.
    world.steps(successor, 10)
    assert successor.tally.failed == 1
    assert letters(world) == [(1, (0,))] if rules is ONLY_CHANGED else "t[0]@1: route table: item 0" in successor.halted[P]


def test_a_record_of_several_pushes_is_parked_in_the_middle():
    world = full_world()
    world.produce(*(item("c" if at % 200 == 0 and key == "b" else key, at) for at in range(1, 1200) for key in "ab"))
    world.produce(item("a", 1000))
    pipeline, _ = world.bridge()
    world.steps(pipeline, 30, wait_s=0)
    assert is_idle(pipeline)
    assert history(world)[-3:] == [("a", 1199), ("b", 1199), ("a", 1000)]
    assert world.topics.committed == {P: 3}
    found = {place for offset, places in letters(world) if offset == 1 for place in places or ()}
    assert found == {2 * at - 1 for at in range(200, 1200, 200)}


def test_halt_stops_before_it_and_goes_on_from_it_when_there_is_room():
    world = full_world(HALTING)
    world.produce(item("c", 1), item("a", 1))
    world.produce(item("a", 2))
    handed = Handed(world.rules)
    pipeline, _ = world.bridge(new_rules=handed)
    world.steps(pipeline)
    assert "t[0]@1: route table: item 0: the bus refused it on channel table" in pipeline.halted[P]
    assert history(world) == [("a", 0), ("b", 0)]
    assert world.topics.committed == {P: 1}
    handed.pending = parse_rules(HALTING.replace(b"max_keys: 2", b"max_keys: 3"), "rules.yaml")
    world.steps(pipeline)
    assert pipeline.halted == {}
    assert history(world) == [("a", 0), ("b", 0), ("c", 1), ("a", 1), ("a", 2)]
    assert world.topics.committed == {P: 3}
    assert len(world.published("feed")) == 3


def test_skip_counts_it_and_goes_on():
    world = full_world(RULES.replace(b"on_error: dead-letter", b"on_error: skip"))
    world.produce(item("c", 1), item("a", 1))
    pipeline, _ = world.bridge()
    world.steps(pipeline)
    assert history(world) == [("a", 0), ("b", 0), ("a", 1)]
    assert (pipeline.tally.failed, pipeline.tally.letters) == (1, 0)
    assert world.topics.committed == {P: 2}
    assert DLT not in world.letters.topics


def test_a_foreign_type_under_the_channel_puts_all_of_it_aside():
    world = full_world()
    world.server.foreign.add("table")
    world.produce(item("a", 1))
    pipeline, _ = world.bridge()
    world.steps(pipeline)
    assert letters(world) == [(0, (0, 1)), (1, (0,))]
    assert len(world.published("feed")) == 2
    assert world.topics.committed == {P: 2}


def test_new_rules_go_for_what_is_parked_too():
    world = full_world()
    world.produce(item("c", 1), item("a", 1))
    handed = Handed(world.rules)
    pipeline, _ = world.bridge(new_rules=handed)
    world.letters.away = "not allowed"
    world.steps(pipeline)
    assert history(world) == [("a", 0), ("b", 0)]
    handed.pending = parse_rules(WIDER, "rules.yaml")
    world.steps(pipeline)
    assert history(world) == [("a", 0), ("b", 0), ("c", 1), ("a", 1)]
    assert world.topics.committed == {P: 2}
    assert is_idle(pipeline)


def test_a_partition_that_goes_leaves_what_is_parked_to_its_next_owner():
    world = full_world()
    world.produce(item("c", 1), item("a", 1))
    pipeline, records = world.bridge()
    world.letters.is_slow = True
    world.steps(pipeline)
    records.pending.append(lambda: records.revoke([P]))
    world.steps(pipeline)
    assert pipeline._partitions.parked == {}
    assert world.topics.committed == {P: 1}
    successor, _ = world.bridge()
    world.steps(successor)
    assert history(world) == [("a", 0), ("b", 0), ("a", 1)]
    assert (1, (0,)) in letters(world)
    assert world.topics.committed == {P: 2}


def test_a_letter_that_is_refused_for_good_halts_and_nothing_passes():
    world = full_world()
    world.produce(item("c", 1), item("a", 1))
    pipeline, _ = world.bridge()
    world.letters.refused = "never"
    world.steps(pipeline)
    assert "refused for good" in pipeline.halted[P]
    assert history(world) == [("a", 0), ("b", 0)]
    assert world.topics.committed == {P: 1}


def test_a_bus_that_loses_its_data_gets_back_nothing_that_waits():
    world = full_world()
    pipeline, _ = world.bridge()
    world.steps(pipeline)
    world.letters.is_slow = True
    world.produce(item("c", 1), item("a", 1))
    world.steps(pipeline)
    world.server.flush()
    world.steps(pipeline)
    assert "c" not in table(world)
    assert table(world).get("a") != 1
    world.letters.is_slow = False
    world.steps(pipeline)
    assert table(world)["a"] == 1
    assert letters(world) == [(1, (0,))]
