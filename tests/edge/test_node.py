"""Lanes: what a channel's subscribers get while the bus is read, asked again, away, or no longer what it was."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
import pytest

import edge.lane
from edge.core.variant import Dialect
from edge.ports import ChannelHistory
from edge.turns import Turns
from shared.publication import DeltaFormat, Kind, Position
from tests.edge.reference_client import NOWHERE, ReferenceClient
from tests.edge.simulation import SMALL, Edge, Simulation


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    simulation = Simulation()
    yield simulation
    simulation.close()


@pytest.fixture
def one(simulation: Simulation) -> Edge:
    return simulation.edges[0]


def subscribe(
    simulation: Simulation, edge_: Edge, channel: str, *, position: Position | None = None, delta: DeltaFormat = DeltaFormat.NONE
) -> ReferenceClient:
    """A client whose subscribe is under way."""
    clients: list[ReferenceClient] = []

    def go() -> None:
        client = simulation.connect(edge_)
        client.subscribe(channel, position=position, delta=delta)
        clients.append(client)

    simulation.do(go)
    return clients[0]


def joined(simulation: Simulation, edge_: Edge, channel: str, *, position: Position | None = None) -> ReferenceClient:
    """A client that is subscribed."""
    client = subscribe(simulation, edge_, channel, position=position)
    simulation.come_to_rest()
    assert client.holdings[channel].is_subscribed
    return client


def stage(edge_: Edge) -> str:
    """What the oldest one at a gate waits for."""
    return edge_.gates[0][0]


def let_until(simulation: Simulation, edge_: Edge, wanted: str) -> None:
    """Let calls through until the oldest waits at this stage."""
    for _ in range(20):
        if edge_.gates and stage(edge_) == wanted:
            return
        simulation.do(lambda: edge_.let(0))
    pytest.fail(f"nobody came to {wanted}")


def counted_reads(edge_: Edge, asked: list[int] | None = None) -> list[str]:
    """From now on, the channels that are read, and how much of them is asked for."""
    reads: list[str] = []
    read = edge_.bus.read

    async def noted(channel: str, count: int, skip: int = 0) -> ChannelHistory:
        reads.append(channel)
        if asked is not None:
            asked.append(count)
        return await read(channel, count, skip)

    edge_.bus.read = noted  # type: ignore[method-assign]
    return reads


class TestWhileTheBusIsRead:
    def test_what_comes_between_confirmation_and_read_is_neither_lost_nor_doubled(self, simulation: Simulation, one: Edge):
        client = subscribe(simulation, one, "latest:1", delta=DeltaFormat.VCDIFF)
        for at in ("subscribe", "subscribed", "read", "answer"):
            let_until(simulation, one, at)
            simulation.do(lambda: simulation.push("latest:1", delta=DeltaFormat.VCDIFF))
            simulation.do(lambda: one.bus.deliver(1))
        simulation.come_to_rest()
        simulation.check_rest()
        assert client.holdings["latest:1"].offset == 4

    def test_an_answer_that_was_overtaken_by_the_first_publication_takes_nothing_back(self, simulation: Simulation, one: Edge):
        client = joined(simulation, one, "latest:1")
        simulation.do(lambda: one.bus.verify("silence"))
        let_until(simulation, one, "answer")  # which says that there is no such channel
        simulation.do(lambda: simulation.push("latest:1"))
        simulation.do(lambda: one.bus.deliver(1))
        simulation.come_to_rest()
        simulation.check_rest()
        assert client.holdings["latest:1"].gaps == []

    def test_what_came_before_the_data_were_lost_does_not_hold_up_what_comes_after(self, simulation: Simulation, one: Edge):
        client = joined(simulation, one, "stream:1")
        simulation.do(lambda: simulation.push("stream:1"))
        simulation.do(lambda: simulation.push("stream:1"))
        simulation.lose(one, 1)
        simulation.do(lambda: one.bus.deliver(1))  # the second without the first: the bus must be read, and is emptied before it is
        simulation.flush()
        simulation.do(simulation.store.open)
        simulation.do(lambda: simulation.push("stream:1"))
        later = subscribe(simulation, one, "stream:1")
        simulation.come_to_rest()
        simulation.check_rest()
        assert later.holdings["stream:1"].is_subscribed
        assert client.holdings["stream:1"].received == 1

    def test_a_publication_of_lost_data_is_not_taken_for_a_new_beginning(self, simulation: Simulation, one: Edge):
        client = subscribe(simulation, one, "latest:1")
        let_until(simulation, one, "subscribed")
        simulation.do(lambda: simulation.push("latest:1"))
        simulation.do(lambda: one.bus.deliver(1))
        simulation.flush()
        simulation.do(simulation.store.open)
        simulation.come_to_rest()
        assert client.holdings["latest:1"].position is None

    def test_more_than_may_wait_is_read_again(self, simulation: Simulation, one: Edge, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(edge.lane, "MAX_WAITING_ENVELOPES", 3)
        client = subscribe(simulation, one, "latest:1")
        let_until(simulation, one, "answer")
        for _ in range(5):
            simulation.do(lambda: simulation.push("latest:1"))
        simulation.do(lambda: one.bus.deliver(5))
        for _ in range(5):
            simulation.let_all()
        assert client.holdings["latest:1"].offset == 5

    @pytest.mark.parametrize("is_delivered", [True, False])
    @pytest.mark.parametrize("count", [1, 2])
    def test_one_who_needs_history_gets_it_although_the_bus_moves_on_before_it_is_read(
        self, simulation: Simulation, one: Edge, count: int, is_delivered: bool
    ):
        simulation.do(lambda: simulation.push("stream:1", size=20))
        oldest = simulation.newest("stream:1")
        assert oldest is not None
        for _ in range(3):
            simulation.do(lambda: simulation.push("stream:1", size=20))
        joined(simulation, one, "stream:1")
        client = subscribe(simulation, one, "stream:1", position=oldest)
        let_until(simulation, one, "read")
        for _ in range(count):
            simulation.do(lambda: simulation.push("stream:1", size=20))
        if is_delivered:
            simulation.do(lambda: one.bus.deliver(count))
        simulation.come_to_rest()
        holding = client.holdings["stream:1"]
        assert (holding.gaps, holding.offset) == ([], 4 + count)
        simulation.check_rest()

    def test_one_who_needs_history_gets_it_while_publications_never_pause(self, simulation: Simulation, one: Edge):
        for _ in range(2):
            simulation.do(lambda: simulation.push("stream:1", size=50))
        joined(simulation, one, "stream:1")
        newest = simulation.newest("stream:1")
        assert newest is not None
        for _ in range(3):
            simulation.do(lambda: simulation.push("stream:1", size=50))
            simulation.do(lambda: one.bus.deliver(1))
        client = subscribe(simulation, one, "stream:1", position=Position(newest.epoch, newest.offset - 1))
        reads = 0
        while not client.holdings["stream:1"].is_subscribed and reads < 3:
            let_until(simulation, one, "answer")
            simulation.do(lambda: simulation.push("stream:1"))
            simulation.do(lambda: one.bus.deliver(1))
            simulation.do(lambda: one.let(0))
            reads += 1
        assert reads == 1
        assert client.holdings["stream:1"].gaps == []
        simulation.come_to_rest()
        simulation.check_rest()


class TestStorm:
    """Many come at the same moment."""

    @pytest.fixture
    def simulation(self) -> Iterator[Simulation]:
        simulation = Simulation(
            limits=msgspec.structs.replace(
                SMALL, ring_items=100, ring_bytes=100_000, max_ring_bytes=10_000_000, max_recovery_items=500, max_recovery_bytes=10_000_000
            )
        )
        yield simulation
        simulation.close()

    def publish(self, simulation: Simulation, count: int, channel: str = "stream:1", size: int = 0) -> Position:
        for _ in range(count):
            simulation.do(lambda: simulation.push(channel, keep=1_000, size=size))
        newest = simulation.newest(channel)
        assert newest is not None
        return newest

    def come(self, simulation: Simulation, one: Edge, newest: Position, behind: list[int]) -> list[ReferenceClient]:
        return [subscribe(simulation, one, "stream:1", position=Position(newest.epoch, newest.offset - number)) for number in behind]

    def test_a_cold_edge_reads_once_whoever_comes_before_and_while_it_reads(self, simulation: Simulation, one: Edge):
        newest = self.publish(simulation, 60)
        reads = counted_reads(one)
        clients = self.come(simulation, one, newest, [0, 3, 20])
        let_until(simulation, one, "answer")
        clients += self.come(simulation, one, newest, [1, 30])
        simulation.come_to_rest()
        assert len(reads) == 1
        assert [client.holdings["stream:1"].received for client in clients] == [0, 3, 20, 1, 30]
        assert all(client.holdings["stream:1"].gaps == [] for client in clients)
        simulation.check_rest()

    def test_it_learns_how_far_behind_they_are(self, simulation: Simulation, one: Edge):
        """The first channel is read twice, for nobody can know; those after it are not."""
        channels = [f"stream:{number}" for number in range(2, 8)]
        newest = {name: self.publish(simulation, 90, name) for name in channels}
        reads = counted_reads(one)
        for name, position in newest.items():
            client = joined(simulation, one, name, position=Position(position.epoch, position.offset - 50))
            assert client.holdings[name].received == 50
        assert reads.count(channels[0]) == 2
        assert [reads.count(name) for name in channels[1:]] == [1] * 5

    def test_frames_made_for_it_are_let_go_of(self, simulation: Simulation, one: Edge):
        newest = self.publish(simulation, 20)
        self.come(simulation, one, newest, [15, 15])
        simulation.come_to_rest()
        channel = one.node.hub.get("stream:1")
        assert channel is not None
        simulation.wait(2)
        assert [item.frames for item in channel.stream.ring if item.frames] == []
        late = self.come(simulation, one, newest, [15])
        assert late[0].holdings["stream:1"].received == 15

    def test_large_publications_are_not_read_on_a_guess(self, simulation: Simulation, one: Edge):
        newest = {name: self.publish(simulation, 20, name, size=200_000) for name in ("stream:2", "stream:3")}
        asked: list[int] = []
        counted_reads(one, asked)
        for name, position in newest.items():
            joined(simulation, one, name, position=Position(position.epoch, position.offset - 1))
        assert asked[0] > 10
        assert asked[1] < 3

    def test_one_who_rewinds_is_served_by_the_first_read(self, simulation: Simulation, one: Edge):
        self.publish(simulation, 200)
        reads = counted_reads(one)
        clients: list[ReferenceClient] = []

        def go() -> None:
            client = simulation.connect(one)
            client.subscribe("stream:1", rewind={"count": 150})
            clients.append(client)

        simulation.do(go)
        simulation.come_to_rest()
        assert len(reads) == 1
        assert clients[0].holdings["stream:1"].received == 150

    def test_a_wrong_position_is_called_wrong_after_one_read(self, simulation: Simulation, one: Edge):
        newest = self.publish(simulation, 3)
        joined(simulation, one, "stream:1")
        reads = counted_reads(one)
        client = joined(simulation, one, "stream:1", position=Position(newest.epoch, newest.offset + 5))
        assert client.holdings["stream:1"].gaps == [("position_ahead", None)]
        assert len(reads) == 1

    def test_the_nearest_are_started_first_some_a_turn_and_nobody_misses_what_comes_meanwhile(self, simulation: Simulation, one: Edge):
        newest = self.publish(simulation, 60)
        started: list[int] = []
        time = itertools.count()
        # Each look at the clock takes 0.4 ms: a turn has time for a dozen.
        one.node.starts._turns = Turns(lambda: next(time) * 0.0004)
        behind = [number % 30 for number in range(100)]
        clients = self.come(simulation, one, newest, behind)
        sizes: list[int] = []
        held = one.node.starts.start

        def noted(lane: Any, request: Any, subscriber: Any, items: Any = None) -> int:
            needed = held(lane, request, subscriber, items)
            started.append(request.position.offset)
            return needed

        one.node.starts.start = noted  # type: ignore[method-assign]
        let_until(simulation, one, "answer")

        def publish_meanwhile() -> None:
            sizes.append(len(started))
            if len(started) < len(clients):
                simulation.push("stream:1", keep=1_000)
                one.bus.deliver(1)
                simulation.loop.call_soon(publish_meanwhile)

        simulation.loop.call_soon(publish_meanwhile)
        simulation.do(lambda: one.let(0))
        simulation.come_to_rest()
        assert len(sizes) > 5
        assert max(after - before for before, after in itertools.pairwise(sizes)) < 20
        assert started == sorted(started, reverse=True)
        simulation.check_rest()
        for client, number in zip(clients, behind, strict=True):
            assert client.holdings["stream:1"].gaps == []
            assert client.holdings["stream:1"].received == number + len(sizes) - 1


class TestRecovery:
    SIZE = 6

    @pytest.mark.parametrize("behind", range(SIZE + 1))
    def test_of_every_number_up_to_the_bound_is_exact(self, simulation: Simulation, one: Edge, behind: int):
        for _ in range(self.SIZE + 2):
            simulation.do(lambda: simulation.push("latest:1"))
        newest = simulation.newest("latest:1")
        assert newest is not None
        client = joined(simulation, one, "latest:1", position=Position(newest.epoch, newest.offset - behind))
        assert client.holdings["latest:1"].gaps == []
        assert client.holdings["latest:1"].received == behind
        simulation.check_rest()

    def test_beyond_what_the_bus_holds_says_what_is_missing(self, simulation: Simulation, one: Edge):
        for _ in range(8):
            simulation.do(lambda: simulation.push("stream:1", keep=4))
        newest = simulation.newest("stream:1")
        assert newest is not None
        near = joined(simulation, one, "stream:1", position=Position(newest.epoch, 4))
        far = joined(simulation, one, "stream:1", position=Position(newest.epoch, 3))
        assert (near.holdings["stream:1"].gaps, near.holdings["stream:1"].received) == ([], 4)
        assert far.holdings["stream:1"].gaps == [("history_trimmed", {"from": 4, "to": 7})]
        assert far.holdings["stream:1"].received == 1

    def test_with_more_than_may_be_sent_says_so(self, simulation: Simulation, one: Edge):
        for _ in range(self.SIZE + 2):
            simulation.do(lambda: simulation.push("latest:1"))
        newest = simulation.newest("latest:1")
        assert newest is not None
        client = joined(simulation, one, "latest:1", position=Position(newest.epoch, 1))
        assert client.holdings["latest:1"].gaps == [("too_large", {"from": 2, "to": 7})]

    def test_from_an_edge_that_was_quicker_is_not_taken_for_a_wrong_position(self):
        simulation = Simulation(edges=2)
        quick, slow = simulation.edges
        joined(simulation, slow, "latest:1")
        before = joined(simulation, quick, "latest:1")
        for _ in range(2):
            simulation.do(lambda: simulation.push("latest:1"))
        simulation.do(lambda: quick.bus.deliver(2))
        after = subscribe(simulation, slow, "latest:1", position=before.holdings["latest:1"].position)
        simulation.come_to_rest()
        assert after.holdings["latest:1"].gaps == []
        simulation.check_rest()
        simulation.close()

    @pytest.mark.parametrize("position", [Position("AAAAAAAAAAAAAAAA", 1), Position("not an epoch", 0)])
    def test_from_another_epoch_is_told_and_gets_the_newest(self, simulation: Simulation, one: Edge, position: Position):
        for _ in range(3):
            simulation.do(lambda: simulation.push("stream:1"))
        client = joined(simulation, one, "stream:1", position=position)
        assert client.holdings["stream:1"].gaps == [("epoch_changed", None)]
        assert client.holdings["stream:1"].received == 1

    @pytest.mark.parametrize("count", [0, 1, 6, 7])
    def test_from_before_the_first_publication(self, simulation: Simulation, one: Edge, count: int):
        for _ in range(count):
            simulation.do(lambda: simulation.push("latest:1"))
        client = joined(simulation, one, "latest:1", position=NOWHERE)
        assert client.holdings["latest:1"].gaps == ([] if count < 7 else [("too_large", {"from": 1, "to": 6})])
        simulation.do(lambda: simulation.push("latest:1"))
        simulation.come_to_rest()
        simulation.check_rest()
        assert client.holdings["latest:1"].received == (count + 1 if count < 7 else 2)

    def test_from_the_future_is_told_and_gets_the_newest(self, simulation: Simulation, one: Edge):
        simulation.do(lambda: simulation.push("stream:1"))
        newest = simulation.newest("stream:1")
        assert newest is not None
        client = joined(simulation, one, "stream:1", position=Position(newest.epoch, 2))
        assert client.holdings["stream:1"].gaps == [("position_ahead", None)]
        assert client.holdings["stream:1"].received == 1

    def test_of_what_never_was_is_told(self, simulation: Simulation, one: Edge):
        client = joined(simulation, one, "stream:1", position=Position("AAAAAAAAAAAAAAAA", 1))
        assert client.holdings["stream:1"].gaps == [("epoch_changed", None)]
        simulation.do(lambda: simulation.push("stream:1"))
        simulation.come_to_rest()
        simulation.check_rest()
        assert client.holdings["stream:1"].received == 1


class TestWhileTheBusIsAway:
    def test_a_long_outage_does_not_make_waiting_long(self, simulation: Simulation, one: Edge):
        """Tries grow rare, but whoever comes, and the bus that is back, end the pause."""
        client = joined(simulation, one, "latest:1")
        simulation.do(one.bus.break_link)
        simulation.do(lambda: one.bus.verify("trying"))
        for _ in range(60):
            simulation.let_all()
            simulation.wait(1)
        simulation.do(one.bus.mend_link)
        simulation.do(lambda: simulation.push("latest:1"))
        simulation.do(simulation.store.beat)
        one.bus.inbox.clear()
        for _ in range(6):
            simulation.let_all()
        assert client.holdings["latest:1"].received == 1

    def test_an_unexpected_error_is_no_end(self, simulation: Simulation, one: Edge, monkeypatch: pytest.MonkeyPatch):
        client = joined(simulation, one, "latest:1")
        monkeypatch.setattr(one.bus, "read", None)
        simulation.do(lambda: one.bus.verify("an error"))
        monkeypatch.undo()
        simulation.do(lambda: simulation.push("latest:1"))
        one.bus.inbox.clear()
        for _ in range(20):
            simulation.let_all()
            simulation.wait(1)
        assert client.holdings["latest:1"].received == 1

    def test_who_asks_is_refused_in_time_and_may_try_again(self, simulation: Simulation, one: Edge):
        simulation.do(one.bus.break_link)
        client = subscribe(simulation, one, "latest:1")
        for _ in range(40):
            simulation.let_all()
            simulation.wait(0.5)
        assert [(error["code"], error["retry"], error["channel"]) for error in client.errors] == [("unavailable", True, "latest:1")]

    def test_who_asks_for_what_is_held_is_served(self, simulation: Simulation, one: Edge):
        simulation.do(lambda: simulation.push("latest:1"))
        joined(simulation, one, "latest:1")
        simulation.do(one.bus.break_link)
        client = subscribe(simulation, one, "latest:1")
        assert client.holdings["latest:1"].received == 1

    def test_nothing_is_missed_afterwards(self, simulation: Simulation, one: Edge):
        simulation.do(lambda: simulation.push("latest:1"))
        client = joined(simulation, one, "latest:1")
        simulation.do(one.bus.break_link)
        for _ in range(3):
            simulation.do(lambda: simulation.push("latest:1"))
        simulation.come_to_rest()
        simulation.check_rest()
        assert client.holdings["latest:1"].received == 4


class TestChannels:
    def test_one_that_nobody_uses_is_given_up_after_a_while(self, simulation: Simulation, one: Edge):
        client = joined(simulation, one, "latest:1")
        simulation.leave(client)
        simulation.wait(SMALL.linger_s - 1)
        assert one.bus.wanted == ["latest:1"]
        simulation.wait(2)
        assert one.bus.wanted == []
        simulation.check_nothing_is_left()

    def test_one_that_is_asked_for_again_meanwhile_is_kept(self, simulation: Simulation, one: Edge):
        simulation.leave(joined(simulation, one, "latest:1"))
        simulation.wait(SMALL.linger_s - 1)
        client = subscribe(simulation, one, "latest:1")
        simulation.wait(SMALL.linger_s + 1)
        simulation.do(lambda: simulation.push("latest:1"))
        simulation.do(lambda: one.bus.deliver(1))
        assert client.holdings["latest:1"].received == 1

    def test_many_that_nobody_uses_are_given_up_a_turn_of_the_event_loop_at_a_time(self, simulation: Simulation, one: Edge):
        names = [f"latest:{number}" for number in range(4)]
        clients = [joined(simulation, one, name) for name in names]
        for client in clients:
            simulation.leave(client)
        simulation.wait(SMALL.linger_s - 1)
        left: list[int] = []

        def look() -> None:
            one.node.turns.is_over()
            one.node.turns.charge(1)
            for _ in range(2):  # As of two seconds: it is begun once.
                one.node.forget_idle()
            left.append(len(one.bus.wanted))
            assert len(one.node.turns) == 1
            simulation.connect(one).subscribe(names[0])

        simulation.loop.advance(2)
        simulation.do(look)
        simulation.come_to_rest()
        assert left == [4]
        assert one.bus.wanted == names[:1]
        simulation.wait(SMALL.linger_s + 1)
        assert one.bus.wanted == names[:1]

    def test_more_than_the_edge_may_have_are_refused(self):
        simulation = Simulation(limits=msgspec.structs.replace(SMALL, max_channels=1))
        joined(simulation, simulation.edges[0], "latest:1")
        client = subscribe(simulation, simulation.edges[0], "latest:2")
        assert [error["code"] for error in client.errors] == ["unavailable"]
        simulation.close()

    def test_memory_that_is_short_costs_rings_not_values(self, simulation: Simulation, one: Edge):
        names = [f"latest:{number}" for number in range(10)]
        for name in names:
            for _ in range(3):
                simulation.do(partial(simulation.push, name, size=30))
        clients = [joined(simulation, one, name) for name in names]
        for name in names:
            simulation.do(partial(simulation.push, name, size=30))
        simulation.do(lambda: one.bus.deliver(100))
        assert one.node.holdings.ring_bytes <= 2 * SMALL.max_ring_bytes
        assert any(len(channel.stream.ring) == 1 for channel in one.node.hub)
        assert any(len(channel.stream.ring) > 1 for channel in one.node.hub)
        simulation.check_rest()
        assert all(client.holdings[name].offset == 4 for client, name in zip(clients, names, strict=True))


def test_every_variant_gets_the_same_values(simulation: Simulation, one: Edge):
    """Deltas from the bus in either format, and clients that want either, or none, in every dialect."""
    simulation.do(lambda: simulation.push("latest:1", size=100))
    wanted = [(dialect, delta) for dialect in Dialect for delta in DeltaFormat]

    def go() -> None:
        for dialect, delta in wanted:
            client = simulation.connect(one, dialect)
            if dialect.is_named:
                client.subscribe_bare("latest:1", delta=delta)
            else:
                client.subscribe("latest:1", delta=delta)

    simulation.do(go)
    simulation.come_to_rest()
    for delta in (DeltaFormat.VCDIFF, DeltaFormat.JSON_PATCH, DeltaFormat.NONE) * 2:
        simulation.do(partial(simulation.push, "latest:1", size=100, delta=delta))
    simulation.do(lambda: one.bus.deliver(3))
    simulation.do(lambda: one.bus.deliver(3))
    simulation.check_rest()
    assert [client.holdings["latest:1"].received for client in simulation.clients] == [7] * len(wanted)
    assert all(client.holdings["latest:1"].kind is Kind.LATEST for client in simulation.clients)
