"""A bus that is away, breaks, or loses its data: nothing twice, nothing missing."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from bridge.adapters.memory_kafka import MemoryRecords
from bridge.core.flow import Hold
from bridge.core.limits import PipelineSettings
from bridge.core.record import Partition
from shared import envelope
from tests.bridge.world import RULES, KilledError, P, World, die, fleet, steps


class LeakyRecords(MemoryRecords):
    """Returns a record of a partition that is held, as a client may that had read it ahead."""

    def hold(self, partitions: Iterable[Partition], reason: Hold) -> None:
        """Hold nothing."""


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
            assert len(pipeline._delivery)
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
