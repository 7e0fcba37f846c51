"""A link to Redis that says nothing because this edge does not listen: there is enough to write."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any, cast

import pytest

from edge.adapters.redis_bus import RedisBus
from edge.adapters.redis_connection import RedisConnection, parse_address
from edge.adapters.redis_link import BEAT_TIMEOUT_S, PING_INTERVAL_S, Link
from shared.bus.layout import BusLayout
from tests.edge.virtual_loop import VirtualLoop


class Connection:
    """Answers whatever it is asked; pushed messages come when the test says so."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.held: list[bool] = []

    async def ask(self, *_: object) -> str:
        return "PONG"

    def send(self, _: bytes) -> None:
        """Nobody answers."""

    def hold(self, is_held: bool) -> None:
        self.held.append(is_held)


class World:
    """A link that is up, and time."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.loop.do(self._begin)

    def _begin(self) -> None:
        address = parse_address("redis://127.0.0.1:1")
        bus = RedisBus([address], prefix="d", clock=self.loop.time, random=random.Random(1).random)
        self.link: Any = Link(bus, address, "Redis", bus._placement.links[0]._dialect)
        self.pubsub = Connection()
        self.link._pubsub = cast("RedisConnection", self.pubsub)
        self.link._heard_at = self.loop.time()
        self.watching = self.loop.create_task(self.link._watch(cast("RedisConnection", Connection()), cast("RedisConnection", self.pubsub)))


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.watching.cancel()
    world.loop.finish()


def test_a_subscription_that_does_not_answer_is_given_up(world: World):
    world.loop.advance(PING_INTERVAL_S + 4)
    assert "does not answer" in str(world.watching.exception())


def test_one_that_is_held_is_not(world: World):
    """However long it takes to write what came: the answer to the ping waits behind what is not read."""
    world.loop.do(lambda: world.link.hold(True))
    world.loop.advance(5 * PING_INTERVAL_S)
    assert not world.watching.done()
    assert world.pubsub.held == [True]


def test_nor_one_that_was_held_when_it_was_asked(world: World):
    world.loop.advance(PING_INTERVAL_S - 0.5)
    world.loop.do(lambda: world.link.hold(True))
    world.loop.advance(1)
    world.loop.do(lambda: world.link.hold(False))
    world.loop.advance(1)
    assert not world.watching.done()
    world.loop.advance(PING_INTERVAL_S + 4)
    assert world.watching.done(), "the next one is judged again"


def test_bridges_are_not_silent_while_nobody_listens(world: World):
    world.loop.do(lambda: world.link.hold(True))
    world.loop.advance(2 * BEAT_TIMEOUT_S)
    assert not world.link.is_silent
    world.loop.do(lambda: world.link.hold(False))
    assert not world.link.is_silent
    world.loop.advance(BEAT_TIMEOUT_S)
    assert world.link.is_silent


def test_bridges_are_not_silent_because_this_process_stood_still(world: World):
    """What they sent meanwhile is not read yet. Reading all channels instead tells those of a short history of gaps that there are not."""
    owner = world.link._owner
    owner._watch_beats()
    world.loop.advance(10 * BEAT_TIMEOUT_S)  # Without a tick.
    owner._watch_beats()
    assert not world.link.is_silent
    world.loop.advance(BEAT_TIMEOUT_S / 2)
    assert not world.link.is_silent
    for _ in range(30):
        world.loop.advance(0.1)
        owner._watch_beats()
    assert world.link.is_silent


def test_a_new_connection_is_held_as_the_one_before(world: World):
    """Else what comes is taken in though there is enough to write, without end where it comes faster than it is written."""
    world.loop.do(lambda: world.link.hold(True))
    world.link._owner._placement.layout = BusLayout()
    world.link._pubsub = world.loop.do(Connection)
    world.loop.do(lambda: world.link._begin(BusLayout()))
    assert world.link._pubsub.held == [True]
    world.loop.do(lambda: world.link.hold(False))
    assert world.link._pubsub.held == [True, False]
