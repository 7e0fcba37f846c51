"""How paced subscriptions read the history: few reads, none in a circle, and nothing left when the client goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from edge.core.delivery import Delivery, Mode
from edge.core.paced import Due
from edge.pacer import PAGE_MARGIN, RETRY_S, Pacer
from edge.turns import TURN_S, Turns
from shared.publication import Position
from tests.edge.reference_client import NOWHERE, ReferenceClient
from tests.edge.simulation import SMALL, Simulation

CHANNEL = "stream:1"


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    """One edge whose link holds nothing up, and which keeps two publications of a channel."""
    simulation = Simulation(limits=msgspec.structs.replace(SMALL, ring_items=2, ring_bytes=10_000))
    simulation.edges[0].bus.is_held = False
    simulation.edges[0].bus.gate = None
    yield simulation
    simulation.close()


def push(simulation: Simulation, count: int, *, size: int = 0, keep: int = 1_000) -> None:
    for _ in range(count):
        simulation.do(partial(simulation.push, CHANNEL, size=size, keep=keep))


def connect(simulation: Simulation, position: Position = NOWHERE, *, window: int) -> ReferenceClient:
    clients: list[ReferenceClient] = []
    simulation.do(lambda: clients.append(simulation.connect(simulation.edges[0])))
    simulation.do(lambda: clients[0].subscribe(CHANNEL, position=position, mode=Mode.ACK, window=window))
    return clients[0]


def count_reads(simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many publications each read of the bus has asked for, from now on."""
    bus = simulation.edges[0].bus
    reads: list[int] = []

    async def read(channel: str, count: int, skip: int = 0) -> object:
        reads.append(count)
        return await type(bus).read(bus, channel, count, skip)

    monkeypatch.setattr(bus, "read", read)
    return reads


def test_one_page_for_many_acknowledgements(simulation: Simulation, monkeypatch: pytest.MonkeyPatch):
    push(simulation, 200)
    client = connect(simulation, window=20)
    reads = count_reads(simulation, monkeypatch)
    holding = client.holdings[CHANNEL]
    while holding.offset < 200:
        simulation.do(lambda: client.acknowledge(CHANNEL, but=len(holding.unacked) - 1))
    assert len(reads) <= 200 / 10
    assert max(reads) <= 20 + PAGE_MARGIN


def test_a_page_of_large_publications_is_short(simulation: Simulation, monkeypatch: pytest.MonkeyPatch):
    push(simulation, 10, size=400_000)
    reads = count_reads(simulation, monkeypatch)
    client = connect(simulation, window=50)
    assert client.holdings[CHANNEL].offset == 10
    assert max(reads) == 2 + PAGE_MARGIN


def test_a_history_that_ends_far_behind_the_client_is_read_from_its_oldest(simulation: Simulation, monkeypatch: pytest.MonkeyPatch):
    push(simulation, 500, keep=30)
    reads = count_reads(simulation, monkeypatch)
    client = connect(simulation, window=50)
    holding = client.holdings[CHANNEL]
    assert holding.gaps == [("history_trimmed", {"from": 1, "to": 470})]
    assert holding.offset == 500
    assert len(reads) < 5


def test_a_channel_that_is_gone_is_verified_and_not_asked_for_in_a_circle(simulation: Simulation, monkeypatch: pytest.MonkeyPatch):
    push(simulation, 50)
    client = connect(simulation, Position(simulation.epochs[0], 10), window=5)
    simulation.do(lambda: simulation.expire(CHANNEL))
    reads = count_reads(simulation, monkeypatch)
    simulation.do(lambda: client.acknowledge(CHANNEL))
    assert client.holdings[CHANNEL].gaps == [("epoch_changed", None)]
    push(simulation, 3)
    simulation.wait(RETRY_S + 1)
    assert len(reads) < 5
    assert client.holdings[CHANNEL].position == simulation.newest(CHANNEL)


def test_a_bus_that_is_away_is_asked_again_later(simulation: Simulation):
    push(simulation, 50)
    client = connect(simulation, Position(simulation.epochs[0], 10), window=5)
    simulation.do(simulation.edges[0].bus.break_link)
    simulation.do(lambda: client.acknowledge(CHANNEL))
    assert client.holdings[CHANNEL].offset == 15
    simulation.do(simulation.edges[0].bus.mend_link)
    simulation.wait(RETRY_S + 1)
    assert client.holdings[CHANNEL].offset == 20


def test_nothing_is_left_of_one_that_goes_while_a_page_is_read(simulation: Simulation):
    push(simulation, 50)
    client = connect(simulation, Position(simulation.epochs[0], 10), window=5)
    edge = simulation.edges[0]
    edge.bus.gate = edge._gate
    simulation.do(lambda: client.acknowledge(CHANNEL))
    channel = edge.node.hub.get(CHANNEL)
    assert channel is not None
    (pacer,) = channel.paced
    assert isinstance(pacer, Pacer)
    task = pacer._task
    assert task is not None
    simulation.leave(client)
    assert task.cancelled()
    assert not channel.paced


def test_many_who_are_far_behind_take_turns_and_let_others_go_first():
    """All of them have much to be sent: a turn of the event loop is no longer for that, and everybody gets on."""
    now, soon, sent = [100.0], list[Callable[[], None]](), list[str]()

    def clock() -> float:
        return now[0]

    turns = Turns(clock, soon.append)

    def pacer_of(name: str) -> Pacer:
        def advance(_now: float, *, is_writable: bool) -> Due:
            assert is_writable
            if sent.count(name) == 5:
                return Due()
            sent.append(name)
            now[0] += TURN_S / 4
            return Due(b"x" * 65_536, is_more=True)

        channel = SimpleNamespace(stream=SimpleNamespace(keyed=None, offset=10_000))
        subscription: Any = SimpleNamespace(channel=channel, advance=advance, delivery=Delivery(), cursor=0)
        pipe: Any = SimpleNamespace(is_writable=True, allow_burst=lambda _size: None, write=lambda _frames: None)
        bus, holder = Any, Any
        return Pacer(subscription, pipe, bus, clock, turns, lambda _channels, _why: None, holder)  # type: ignore[arg-type]

    names = [str(number) for number in range(20)]
    for pacer in map(pacer_of, names):
        pacer.poke()
        pacer.poke()  # A publication that comes while it waits for its turn changes nothing.
    started = len(sent)
    assert started <= 4 + len(names), "each is started, and then waits"
    turns.later(lambda: sent.append("a ping"))
    while soon:
        before, callbacks = len(sent), soon[:]
        soon.clear()
        for callback in callbacks:
            callback()
        assert len(sent) - before <= 5
    assert sent[started] == "a ping"
    assert all(sent.count(name) == 5 for name in names)
    assert list(dict.fromkeys(sent[started + 1 :])) == names, "in the order in which they came, and nobody is left behind"
