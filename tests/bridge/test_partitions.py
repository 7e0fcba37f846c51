"""Partitions that wait, for a schema or dead letters or because they are halted, while others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.adapters.memory_kafka import MemoryDeadLetters, MemoryRecords
from bridge.core.decoding import SchemaUnavailableError
from bridge.core.flow import Hold
from bridge.core.letter import Origin, Replay, read_letter
from bridge.core.limits import PipelineSettings
from bridge.core.record import Partition, Record
from bridge.core.routing import Routed, Router
from bridge.dead_letters import DeadLetterQueue, LetterSettings
from tests.bridge.world import RULES, Handed, P, Q, World, steps


class Unschooled(Router):
    """Knows no schema for partition 0 until it is told that it does."""

    knows = False
    asked = 0

    def route(self, record: Record, replay: Replay | None = None) -> Routed:
        if record.partition == 0 and not self.knows:
            self.asked += 1
            msg = "the registry is away"
            raise SchemaUnavailableError(msg)
        return super().route(record, replay)


class TestASchemaThatCannotBeHad:
    def test_holds_its_partition_and_no_other_and_then_nothing_is_missing(self):
        world = World(partitions=(P, Q))
        router = Unschooled(world.rules)
        pipeline, records = world.bridge(router=router)
        for at in range(5):
            world.produce({"a": at}, 0)
            world.produce({"b": at}, 1)
        steps(pipeline, world)
        assert world.published("bus:b") == world.produced["bus:b"]
        assert records.flow.held(Hold.SCHEMA_AWAY) == [P]
        assert pipeline.waiting_for_schema == 1
        assert pipeline.lag == 5
        pipeline.step()
        asked = router.asked
        for _ in range(10):
            pipeline.step()
        assert router.asked == asked  # Not at each turn of the loop.
        world.clock.sleep(1)
        pipeline.step()
        assert router.asked == asked + 1
        pipeline._commit(wait=True)
        assert world.topics.committed == {Q: 5}
        router.knows = True
        world.produce({"a": 5}, 0)
        world.clock.sleep(1)
        steps(pipeline, world)
        assert not records.flow.held(Hold.SCHEMA_AWAY)
        assert (pipeline.waiting_for_schema, pipeline.lag) == (0, 0)
        pipeline._commit(wait=True)
        world.check()
        assert world.topics.committed == {P: 6, Q: 5}

    def test_a_partition_that_goes_meanwhile_is_left_to_its_new_owner(self):
        world = World(partitions=(P, Q))
        router = Unschooled(world.rules)
        pipeline, records = world.bridge(router=router)
        world.produce({"a": 1}, 0)
        steps(pipeline, world)
        records.revoke([P])
        router.knows = True
        world.clock.sleep(1)
        steps(pipeline, world)
        assert world.published("bus:a") == []
        records.assign([P])
        steps(pipeline, world)
        world.check()


LETTERS = RULES.replace(b"kind: stream", b"kind: stream, on_error: dead-letter")


class Leaky(MemoryRecords):
    """Returns more of the partitions that it is told to hold, sometimes: what a client may have read ahead."""

    leaks = False

    def hold(self, partitions: Iterable[Partition], reason: Hold) -> None:
        if not self.leaks:
            super().hold(partitions, reason)


class Chaos:
    """Bridges in a world in which partitions wait for all reasons that there are."""

    def __init__(self, max_push: int) -> None:
        self.world = World(LETTERS, [P, Q])
        self.letters = MemoryDeadLetters()
        self.bad: set[str] = set()
        self._settings = PipelineSettings(max_push=max_push, max_batch_records=5)
        self.crash(0)

    def crash(self, _: int) -> None:
        """The bridge is gone; its successor goes on from the last commit, in a world that is well."""
        self.world.come_back()
        self.letters = MemoryDeadLetters(self.letters.topics)
        clock = self.world.clock.now
        queue = DeadLetterQueue(
            self.letters, Origin("1", "g"), now=clock, wall=clock, random=lambda: 0.5, settings=LetterSettings(max_letters=3)
        )
        self._handed = Handed(self.world.rules)
        self._router = Unschooled(self.world.rules)
        self._router.knows = True
        records = Leaky(self.world.topics)
        self.pipeline, self._records = self.world.bridge(
            settings=self._settings, router=self._router, records=records, letters=queue, new_rules=self._handed
        )

    def produce(self, number: int) -> None:
        self.world.produce({f"p{number % 2}-{vehicle}": number for vehicle in range(3)}, partition=number % 2)

    def produce_bad(self, number: int) -> None:
        record = self.world.topics.produce("vehicles", b'[{"id": null, "at": 1}]', partition=number % 2)
        self.bad.add(record.where)

    def step(self, _: int) -> None:
        steps(self.pipeline, self.world, 1)

    def turn_letters_away(self, number: int) -> None:
        self.letters.away = "no leader" * (number % 2)

    def slow_letters(self, number: int) -> None:
        self.letters.is_slow = number % 2 == 1

    def refuse_letters(self, number: int) -> None:
        self.letters.refused = "never" * (number % 2)

    def lose_schema(self, number: int) -> None:
        self._router.knows = number % 2 == 0

    def leak(self, number: int) -> None:
        # Holds of the time before stay, and those of the time of leaks are made up for by the next `hold`.
        self._records.leaks = number % 2 == 1  # type: ignore[attr-defined]

    def reload(self, _: int) -> None:
        self._handed.pending = self.world.rules

    def rebalance(self, number: int) -> None:
        partition = (P, Q)[number % 2]
        self._records.pending += [lambda: self._records.revoke([partition]), lambda: self._records.assign([partition])]

    def lose_partition(self, number: int) -> None:
        partition = (P, Q)[number % 2]
        self._records.pending += [lambda: self._records.lose([partition]), lambda: self._records.assign([partition])]

    def lose_bus(self, number: int) -> None:
        self.world.lose_bus_in_flight(self._records, self.world.come_back, waits=number % 4)

    def lose_bus_and_rebalance(self, number: int) -> None:
        self.world.lose_bus_in_flight(self._records, partial(self.rebalance, number), waits=number % 4)
        self.world.during_wait(self._records, self.world.come_back, waits=8)

    def break_push(self, number: int) -> None:
        self.world.server.fail_after = number

    def end(self) -> None:
        """Everything is well again, and the rules are reloaded; the bridge is the same."""
        self.world.server.fail_after = None
        self.letters.away, self.letters.refused, self.letters.is_slow, self._router.knows = "", "", False, True
        self.leak(0)
        steps(self.pipeline, self.world, 4)
        self.reload(0)
        for _ in range(100):
            steps(self.pipeline, self.world, 1)
        assert not self.pipeline.halted
        assert not [reason for reason in Hold if self._records.flow.held(reason)]
        self.world.check()
        ends = {partition: len(log) for partition, log in self.world.topics.records.items() if log}
        assert self.world.topics.committed == ends
        facts = [read_letter(letter.headers) for letter in self.letters.topics.get("vehicles.dead-letters", [])]
        assert {each.source for each in facts if each is not None} == self.bad


HAPPENINGS = st.sampled_from(
    [
        *[Chaos.produce, Chaos.produce_bad, Chaos.step] * 3,
        Chaos.crash,
        Chaos.turn_letters_away,
        Chaos.slow_letters,
        Chaos.refuse_letters,
        Chaos.lose_schema,
        Chaos.leak,
        Chaos.reload,
        Chaos.rebalance,
        Chaos.lose_partition,
        Chaos.lose_bus,
        Chaos.lose_bus_and_rebalance,
        Chaos.break_push,
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(HAPPENINGS, st.integers(0, 30)), max_size=40), st.sampled_from([1, 4, 2000]))
def test_whatever_partitions_wait_for_nothing_is_missing_and_nothing_comes_twice_or_out_of_order(
    happenings: list[tuple[Callable[[Chaos, int], None], int]], max_push: int
):
    chaos = Chaos(max_push)
    for happen, number in happenings:
        happen(chaos, number)
    chaos.end()
