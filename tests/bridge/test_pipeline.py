"""The pipeline between records and a bus in memory: nothing twice, nothing missing, whatever breaks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.flow import Hold
from bridge.core.letter import Replay
from bridge.core.limits import PipelineSettings
from bridge.core.record import Record
from bridge.core.routing import Routed, Router
from shared import envelope
from shared.publication import DeltaFormat
from tests.bridge.world import HALTING, KilledError, P, Q, World, die, fleet, steps


class TestWell:
    def test_every_item_is_published_once_and_committed(self):
        world = World()
        for at in range(20):
            world.produce(fleet(at))
        pipeline, _ = world.bridge()
        steps(pipeline, world)
        world.check()
        assert world.topics.committed == {P: 20}
        assert pipeline.lag == 0
        assert (pipeline.tally.records, pipeline.tally.publications) == (20, 200 + 5 * 20 + 5)
        assert pipeline.tally.skipped == 5 * 19
        by_route = {name: (route.publications, route.skipped) for name, route in pipeline.tally.routes.items()}
        assert by_route == {"each": (200, 0), "position": (5 * 20 + 5, 5 * 19)}
        assert pipeline.tally.deltas > 100
        assert 0 < pipeline.tally.saving < 1

    def test_the_lag_is_not_known_until_it_was_looked_at_since_partitions_came(self):
        """That of a bridge without partitions is 0: it must not pass for the lag of those that it just got."""
        world = World()
        world.produce(fleet(1))
        pipeline, records = world.bridge(assign=[])
        steps(pipeline, world)
        told = [pipeline.lag]
        records.assign([P])
        told.append(pipeline.lag)
        for _ in range(2):
            world.clock.now_s += 1
            pipeline.step()
            told.append(pipeline.lag)
        assert told == [0, None, 1, 0]

    def test_what_was_read_and_is_not_on_the_bus_is_lag(self):
        world = World(partitions=[P, Q])
        for at in range(5):
            world.produce(fleet(at))
        world.produce({"w": 1}, partition=1)
        pipeline, records = world.bridge(settings=PipelineSettings(max_push=7, first_backoff_s=1, most_backoff_s=1))
        told: list[int | None] = []

        def look() -> None:
            told.append(pipeline.lag)
            world.produce(fleet(5))

        def look_again() -> None:
            told.append(pipeline.lag)
            world.come_back()

        world.lose_bus_in_flight(records, look, waits=20)
        world.during_wait(records, look_again, waits=60)
        steps(pipeline, world, 4)
        world.check()
        assert [*told, pipeline.lag] == [6, 7, 0]

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
            assert len(pipeline._delivery)
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
        assert pipeline.lag == 2, "the record that halted it, and the one behind"

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
