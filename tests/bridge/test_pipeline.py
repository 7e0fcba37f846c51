"""The pipeline between records and a bus in memory: nothing twice, nothing missing, whatever breaks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.adapters.memory import MemoryBus, MemoryRecords, MemoryServer, MemoryTopics
from bridge.core.chain import DeltaChain
from bridge.core.decoding import SchemaUnavailableError
from bridge.core.flow import Hold
from bridge.core.letter import Replay
from bridge.core.record import Partition, Record
from bridge.core.routing import Routed, Router
from bridge.pipeline import Pipeline, PipelineSettings, Time
from bridge.rules.load import parse_rules
from shared import envelope
from shared.bus.layout import BusLayout
from shared.publication import DeltaFormat

RULES = b"""
version: 1
sources:
  - {name: vehicles, topics: [vehicles], format: json}
routes:
  - {name: each, source: vehicles, split: value, channel: "bus:{item.id}", kind: stream, history: {size: 10000, bytes: 100MB}}
  - {name: position, source: vehicles, split: value, channel: "position:{item.id}", project: item.at, kind: latest, only_changed: true}
"""
HALTING = RULES.replace(b"kind: stream", b"kind: stream, on_error: halt")
P, Q = ("vehicles", 0), ("vehicles", 1)


class KilledError(BaseException):
    """The process is gone, without a word."""


def die() -> None:
    raise KilledError


class LeakyRecords(MemoryRecords):
    """Returns a record of a partition that is held, as a client may that had read it ahead."""

    def hold(self, partitions: Iterable[Partition], reason: Hold) -> None:
        """Hold nothing."""


class Clock:
    """Time that passes only when somebody sleeps or a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s


class World:
    """Kafka and a bus in memory, and bridges that come and go."""

    def __init__(self, rules: bytes = RULES, partitions: Iterable[Partition] = (P,)) -> None:
        self.topics = MemoryTopics()
        for partition in partitions:
            self.topics.records[partition] = []
        self.server = MemoryServer(BusLayout(shards=4))
        self.clock = Clock()
        self.rules = parse_rules(rules, "rules.yaml")
        self.produced: dict[str, list[object]] = {}
        self.is_stopping = False

    def produce(self, values: dict[str, int], partition: int = 0) -> None:
        """One record: vehicle id -> where it is."""
        items = [{"id": name, "at": at, "text": "the same in each of them"} for name, at in values.items()]
        count = sum(map(len, self.topics.records.values()))
        self.topics.produce("vehicles", json.dumps(items).encode(), partition=partition, time_ms=count)
        for item in items:
            self.produced.setdefault(f"bus:{item['id']}", []).append(item)

    def bridge(
        self,
        assign: Iterable[Partition] | None = None,
        *,
        settings: PipelineSettings | None = None,
        router: Router | None = None,
        records: MemoryRecords | None = None,
    ) -> tuple[Pipeline, MemoryRecords]:
        """A new bridge that has joined the group, with nothing done yet."""
        records = records or MemoryRecords(self.topics, assign=assign)
        pipeline = Pipeline(
            records,
            MemoryBus(self.server),
            router or Router(self.rules),
            DeltaChain(shards=4, clock=self.clock.now, max_bytes=10**7),
            time=Time(self.clock.now, self.clock.sleep, lambda: 0.5),
            stop=lambda: self.is_stopping,
            settings=settings or PipelineSettings(max_push=7),
        )
        records.start(pipeline)
        return pipeline, records

    def during_wait(self, records: MemoryRecords, what: Callable[[], None], *, waits: int = 3) -> None:
        """Call `what` from within a later `consume`, as the pipeline waits for the bus."""

        def count_down(left: int) -> None:
            if left:
                records.pending.append(lambda: count_down(left - 1))
            else:
                what()

        count_down(waits)

    def lose_bus_in_flight(self, records: MemoryRecords, then: Callable[[], None], *, waits: int = 3) -> None:
        """The bus goes away just as the next records come, so that they are in flight; `then` is called while the pipeline waits."""

        def lose() -> None:
            self.server.away = True
            self.during_wait(records, then, waits=waits)

        records.pending.append(lose)

    def rebalance(self, records: MemoryRecords) -> None:
        """A partition goes, and comes back with the next `consume`."""
        records.pending += [lambda: records.revoke([P]), lambda: records.assign([P])]

    def come_back(self) -> None:
        self.server.away = False

    def published(self, channel: str) -> list[object]:
        """The values in the channel's history, checked to have no hole."""
        entries = [envelope.decode(entry) for entry in self.server.history(channel)]
        assert [entry.offset for entry in entries] == list(range(1, len(entries) + 1))
        return [json.loads(entry.body) for entry in entries]

    def check(self) -> None:
        """Everything that was produced was published exactly once and in order, and the newest position is the newest."""
        for channel, items in self.produced.items():
            assert self.published(channel) == items, channel
        for channel, items in self.produced.items():
            [*_, newest] = self.published(channel.replace("bus:", "position:"))
            assert newest == items[-1]["at"]  # type: ignore[index]


def steps(pipeline: Pipeline, world: World, count: int = 3) -> None:
    for _ in range(count):
        pipeline.step()
        world.clock.now_s += 0.5


def fleet(at: int) -> dict[str, int]:
    return {f"v{number}": at if number % 2 else 0 for number in range(10)}


class TestWell:
    def test_every_item_is_published_once_and_committed(self):
        world = World()
        for at in range(20):
            world.produce(fleet(at))
        pipeline, records = world.bridge()
        steps(pipeline, world)
        world.check()
        assert world.topics.committed == {P: 20}
        assert records.lag() == 0
        assert (pipeline.tally.records, pipeline.tally.publications) == (20, 200 + 5 * 20 + 5)
        assert pipeline.tally.skipped == 5 * 19
        by_route = {name: (route.publications, route.skipped) for name, route in pipeline.tally.routes.items()}
        assert by_route == {"each": (200, 0), "position": (5 * 20 + 5, 5 * 19)}
        assert pipeline.tally.deltas > 100
        assert 0 < pipeline.tally.saving < 1

    def test_subscribers_get_deltas_to_what_they_had_before(self):
        world = World()
        for at in range(5):
            world.produce(fleet(at))
        pipeline, _ = world.bridge()
        steps(pipeline, world)
        sent = [envelope.decode(data) for data in world.server.published["bus:v1"]]
        assert [entry.base_offset for entry in sent] == [0, 1, 2, 3, 4]
        assert {entry.delta for entry in sent[1:]} == {DeltaFormat.VCDIFF}

    def test_offsets_are_committed_each_interval_and_at_the_end(self):
        world = World()
        pipeline, _ = world.bridge()
        pipeline.step()
        world.produce(fleet(1))
        pipeline.step()
        assert world.topics.committed == {}
        world.clock.now_s += 1
        pipeline.step()
        assert world.topics.committed == {P: 1}
        world.produce(fleet(2))
        pipeline.step()
        world.is_stopping = True
        pipeline.run()
        assert world.topics.committed == {P: 2}

    def test_a_commit_that_kafka_refused_is_made_again(self):
        world = World()
        world.produce(fleet(1))
        pipeline, records = world.bridge()
        records.refuse_commits = True
        steps(pipeline, world, 4)
        assert world.topics.committed == {}
        records.refuse_commits = False
        steps(pipeline, world, 4)
        assert world.topics.committed == {P: 1}
        assert pipeline.tally.commit_failures >= 1

    def test_tombstones_and_records_without_items_are_committed(self):
        world = World()
        world.topics.produce("vehicles", None)
        world.topics.produce("vehicles", b"[]")
        pipeline, _ = world.bridge()
        steps(pipeline, world, 4)
        assert world.topics.committed == {P: 2}

    def test_heartbeats_go_out_on_every_shard_while_idle(self):
        world = World()
        pipeline, _ = world.bridge()
        steps(pipeline, world, 8)
        assert [shard for shard, _ in world.server.beats].count(0) >= 3
        assert {shard for shard, _ in world.server.beats} == set(range(4))


class TestBusAway:
    def test_at_the_start(self):
        world = World()
        world.produce(fleet(1))
        world.server.away = True
        pipeline, records = world.bridge()
        world.during_wait(records, world.come_back)
        steps(pipeline, world, 10)
        world.check()

    def test_for_a_while_loses_nothing_and_keeps_polling_held_partitions(self):
        world = World()
        world.produce(fleet(1))
        pipeline, records = world.bridge()
        steps(pipeline, world)
        world.produce(fleet(2))
        polled = records.consumed
        seen: list[object] = []

        def look() -> None:
            assert pipeline._flight.pushes
            seen.append((records.flow.held(Hold.BUS_AWAY), pipeline.bus_away_since is not None, dict(world.topics.committed)))
            world.come_back()

        world.lose_bus_in_flight(records, look, waits=20)
        steps(pipeline, world)
        assert seen == [([P], True, {P: 1})]
        assert records.consumed > polled + 20
        assert records.flow.held(Hold.BUS_AWAY) == []
        assert pipeline.bus_away_since is None
        world.check()

    @pytest.mark.parametrize("after", [0, 1, 6, 13, 25])
    def test_that_breaks_in_the_middle_of_a_push(self, after: int):
        world = World()
        for at in range(4):
            world.produce(fleet(at))
        world.server.fail_after = after
        pipeline, _ = world.bridge()
        steps(pipeline, world)
        world.check()

    def test_that_loses_an_answer(self):
        world = World()
        world.produce(fleet(1))
        world.server.lost_answers = True
        pipeline, _ = world.bridge()
        steps(pipeline, world, 4)
        world.check()
        assert pipeline.tally.duplicates > 0
        assert world.topics.committed == {P: 1}

    def test_that_is_full_is_waited_for(self):
        world = World()
        world.produce(fleet(1))
        pipeline, records = world.bridge()
        world.server.full = True
        world.during_wait(records, lambda: setattr(world.server, "full", False))
        steps(pipeline, world)
        world.check()

    def test_records_that_come_all_the_same_are_kept(self):
        world = World()
        world.produce(fleet(1))
        records = LeakyRecords(world.topics)
        pipeline, _ = world.bridge(records=records)

        def produce() -> None:
            world.produce(fleet(2))
            world.come_back()

        world.lose_bus_in_flight(records, produce)
        steps(pipeline, world)
        world.check()

    @pytest.mark.parametrize("max_push", [7, 2000])
    def test_a_bridge_that_dies_while_it_waits_has_committed_nothing_unpublished(self, max_push: int):
        world = World()
        for at in range(3):
            world.produce(fleet(at))
        pipeline, records = world.bridge(settings=PipelineSettings(max_push=max_push, commit_interval_s=0.001))
        world.lose_bus_in_flight(records, die)
        with pytest.raises(KilledError):
            steps(pipeline, world)
        world.come_back()
        steps(world.bridge()[0], world)
        world.check()

    def test_stopping_does_not_wait_for_it_forever_and_loses_nothing(self):
        world = World()
        world.produce(fleet(1))
        pipeline, records = world.bridge()
        steps(pipeline, world)
        world.produce(fleet(2))
        world.lose_bus_in_flight(records, lambda: setattr(world, "is_stopping", True))
        started = world.clock.now_s
        pipeline.run()
        assert world.clock.now_s - started < 15
        assert world.topics.committed == {P: 1}
        assert records.assigned == frozenset()
        world.is_stopping, world.server.away = False, False
        successor, _ = world.bridge()
        steps(successor, world)
        world.check()


class TestBusLostItsData:
    def positions(self, world: World) -> dict[str, object]:
        return {name: world.published(name)[-1] for name in (f"position:v{number}" for number in range(10)) if world.server.history(name)}

    def test_while_idle_the_newest_values_come_back_by_themselves(self):
        world = World()
        world.produce(fleet(3))
        pipeline, _ = world.bridge()
        steps(pipeline, world)
        before = self.positions(world)
        world.server.flush()
        steps(pipeline, world, 4)
        assert self.positions(world) == before
        assert pipeline.tally.restored == 10

    def test_streams_do_not_publish_old_news(self):
        world = World()
        world.produce(fleet(3))
        pipeline, _ = world.bridge()
        steps(pipeline, world)
        world.server.flush()
        steps(pipeline, world, 4)
        assert world.published("bus:v1") == []

    @pytest.mark.parametrize("max_push", [7, 2000])
    def test_in_the_middle_of_a_batch_standing_vehicles_come_back_and_moving_ones_miss_nothing(self, max_push: int):
        world = World()
        world.produce(fleet(1))
        pipeline, _ = world.bridge(settings=PipelineSettings(max_push=max_push))
        steps(pipeline, world)
        for at in range(2, 6):
            world.produce(fleet(at))
        world.server.flush()
        pipeline.step()
        assert self.positions(world) == {f"position:v{number}": 5 if number % 2 else 0 for number in range(10)}
        assert world.published("position:v1")[-4:] == [2, 3, 4, 5]
        assert world.published("bus:v1") == world.produced["bus:v1"][1:]

    def test_a_killed_server_with_an_old_snapshot_gets_a_new_epoch_and_the_newest_values(self):
        world = World()
        world.produce(fleet(1))
        pipeline, _ = world.bridge()
        steps(pipeline, world)
        snapshot = world.server.save()
        world.produce(fleet(2))
        steps(pipeline, world)
        before = self.positions(world)
        epochs = {envelope.decode(world.server.history(name)[0]).epoch for name in before}
        world.server.restore(snapshot)
        steps(pipeline, world, 4)
        assert self.positions(world) == before
        assert not epochs & {envelope.decode(world.server.history(name)[0]).epoch for name in before}

    def test_a_stream_that_wants_only_changes_is_not_believed_to_be_there_still(self):
        world = World(RULES.replace(b"kind: stream", b"kind: stream, only_changed: true"))
        world.produce(fleet(3))
        pipeline, _ = world.bridge()
        steps(pipeline, world)
        world.server.flush()
        steps(pipeline, world)
        world.produce(fleet(3))
        steps(pipeline, world)
        assert world.published("bus:v1") == world.produced["bus:v1"][:1]

    def test_when_it_breaks_again_while_they_are_put_back(self):
        world = World()
        world.produce(fleet(3))
        pipeline, _ = world.bridge()
        steps(pipeline, world)
        before = self.positions(world)
        world.server.flush()
        world.server.fail_after = 4
        steps(pipeline, world, 6)
        assert self.positions(world) == before


class TestRebalance:
    @pytest.mark.parametrize("new_owner_is_first", [True, False])
    def test_a_partition_that_moves_while_the_bus_is_away_is_published_once_by_both(self, new_owner_is_first: bool):
        world = World()
        world.produce(fleet(1))
        old, records = world.bridge()
        steps(old, world)
        for at in range(2, 5):
            world.produce(fleet(at))
        new, new_records = world.bridge([])

        def move() -> None:
            records.revoke([P])
            new_records.pending.append(lambda: new_records.assign([P]))
            world.come_back()
            if new_owner_is_first:
                steps(new, world)

        world.lose_bus_in_flight(records, move)
        steps(old, world)
        steps(new, world)
        world.check()
        assert records.assigned == frozenset()
        assert world.topics.committed == {P: 4}

    def test_what_was_begun_is_finished_and_committed_before_a_partition_goes(self):
        world = World()
        world.produce(fleet(1))
        pipeline, records = world.bridge()
        pipeline.step()
        records.pending.append(lambda: records.revoke([P]))
        pipeline.step()
        assert world.topics.committed == {P: 1}

    @pytest.mark.parametrize("max_push", [7, 2000])
    def test_revoking_does_not_wait_longer_than_its_budget_and_commits_nothing_unpublished(self, max_push: int):
        world = World()
        world.produce(fleet(1))
        pipeline, records = world.bridge(settings=PipelineSettings(max_push=max_push))
        took: list[float] = []

        def revoke() -> None:
            started = world.clock.now_s
            assert pipeline._flight.pushes
            records.revoke([P])
            took.append(world.clock.now_s - started)
            world.come_back()

        world.lose_bus_in_flight(records, revoke)
        steps(pipeline, world)
        assert took
        assert took[0] <= 10.5
        assert world.topics.committed == {}

    def test_lost_partitions_are_not_committed(self):
        world = World()
        world.produce(fleet(1))
        pipeline, records = world.bridge()
        pipeline.step()
        records.pending.append(lambda: records.lose([P]))
        steps(pipeline, world)
        assert world.topics.committed == {}

    def test_the_rest_of_a_batch_is_left_to_the_new_owner(self):
        world = World(partitions=[P, Q])
        for at in range(5):
            world.produce({"a": at}, partition=0)
            world.produce({"b": at}, partition=1)
        pipeline, records = world.bridge(settings=PipelineSettings(max_push=1))

        def revoke() -> None:
            records.lose([Q])
            world.come_back()

        world.lose_bus_in_flight(records, revoke)
        steps(pipeline, world, 4)
        assert world.published("bus:b") == []
        assert world.topics.committed == {P: 5}
        steps(world.bridge([Q])[0], world, 4)
        world.check()

    def test_with_partitions_elsewhere_nothing_is_skipped_unasked(self):
        world = World(partitions=[P, Q])
        world.produce({"v1": 1})
        pipeline, _ = world.bridge([P])
        steps(pipeline, world)
        steps(world.bridge([Q])[0], world)
        world.produce({"v1": 2}, partition=1)
        other, _ = world.bridge([Q])
        steps(other, world)
        world.produce({"v1": 1})
        steps(pipeline, world)
        assert world.published("position:v1") == [1, 2, 1]


class TestProblems:
    def test_a_record_that_is_skipped_is_counted_and_committed(self):
        world = World()
        world.topics.produce("vehicles", b"no json")
        world.produce(fleet(1))
        pipeline, _ = world.bridge()
        steps(pipeline, world, 4)
        world.check()
        assert world.topics.committed == {P: 2}
        assert sum(pipeline.tally.problems.values()) == 2

    def test_a_record_that_halts_stops_its_partition_and_no_other(self):
        world = World(HALTING, [P, Q])
        world.produce({"a": 1})
        world.topics.produce("vehicles", b'[{"id":"a","at":2},{"at":3}]')
        world.topics.produce("vehicles", b'[{"id":"a","at":4}]')
        world.produce({"b": 1}, partition=1)
        world.produce({"b": 2}, partition=1)
        pipeline, records = world.bridge()
        steps(pipeline, world, 4)
        world.check()
        assert world.topics.committed == {P: 1, Q: 2}
        assert records.flow.held(Hold.HALTED) == [P]
        assert list(pipeline.halted) == [P]
        assert "vehicles[0]@1" in pipeline.halted[P]

    def test_a_fault_in_routing_halts_instead_of_losing(self):
        class Faulty(Router):
            def route(self, record: Record, replay: Replay | None = None) -> Routed:
                if record.partition == 0:
                    raise ZeroDivisionError
                return super().route(record, replay)

        world = World(partitions=[P, Q])
        world.topics.produce("vehicles", b"[]")
        world.produce({"b": 1}, partition=1)
        pipeline, _ = world.bridge(router=Faulty(world.rules))
        steps(pipeline, world, 4)
        assert world.topics.committed == {Q: 1}
        assert list(pipeline.halted) == [P]

    def test_a_channel_that_the_bus_refuses_costs_only_itself(self):
        world = World()
        world.server.foreign.add("bus:v1")
        world.produce(fleet(1))
        pipeline, _ = world.bridge()
        steps(pipeline, world, 4)
        assert pipeline.tally.failed == 1
        assert world.published("bus:v2") == world.produced["bus:v2"]
        assert world.topics.committed == {P: 1}


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
        assert pipeline.waiting_for_schema == 0
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


class Chaos:
    """One bridge after another in a world where everything breaks."""

    def __init__(self, max_push: int) -> None:
        self.world = World(partitions=[P, Q])
        self._settings = PipelineSettings(max_push=max_push)
        self.crash(0)

    def crash(self, _: int) -> None:
        """The bridge is gone; its successor goes on from the last commit."""
        self.world.come_back()
        self._pipeline, self._records = self.world.bridge(settings=self._settings)

    def produce(self, number: int) -> None:
        self.world.produce({f"p{number % 2}-{vehicle}": number for vehicle in range(3)}, partition=number % 2)

    def step(self, _: int) -> None:
        try:
            steps(self._pipeline, self.world, 1)
        except KilledError:
            self.crash(0)

    def break_push(self, number: int) -> None:
        self.world.server.fail_after = number

    def lose_answer(self, _: int) -> None:
        self.world.server.lost_answers = True

    def lose_bus(self, number: int) -> None:
        self.world.lose_bus_in_flight(self._records, self.world.come_back, waits=number % 4)

    def lose_bus_and_crash(self, number: int) -> None:
        self.world.lose_bus_in_flight(self._records, die, waits=number % 4)

    def lose_bus_and_rebalance(self, number: int) -> None:
        self.world.lose_bus_in_flight(self._records, partial(self.world.rebalance, self._records), waits=number % 4)
        self.world.during_wait(self._records, self.world.come_back, waits=8)

    def rebalance(self, _: int) -> None:
        self.world.rebalance(self._records)

    def refuse_commits(self, _: int) -> None:
        self._records.refuse_commits = not self._records.refuse_commits

    def end(self) -> None:
        self.world.server.fail_after = None
        self.crash(0)
        steps(self._pipeline, self.world, 4)
        self.world.check()


HAPPENINGS = st.sampled_from(
    [
        *[Chaos.produce, Chaos.step] * 3,
        Chaos.crash,
        Chaos.break_push,
        Chaos.lose_answer,
        Chaos.lose_bus,
        Chaos.lose_bus_and_crash,
        Chaos.lose_bus_and_rebalance,
        Chaos.rebalance,
        Chaos.refuse_commits,
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(HAPPENINGS, st.integers(0, 30)), max_size=40), st.sampled_from([1, 4, 2000]))
def test_whatever_breaks_everything_is_published_once_and_in_order(
    happenings: list[tuple[Callable[[Chaos, int], None], int]], max_push: int
):
    chaos = Chaos(max_push)
    for happen, number in happenings:
        happen(chaos, number)
    chaos.end()
