"""Thousands of channels are taken up by a new link in many turns of the event loop, while clients come and go and links break."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import hiredis
import pytest

from edge.adapters import redis_round
from edge.adapters.redis_bus import RedisBus
from edge.adapters.redis_connection import parse_address
from edge.turns import TURN_S, Turns
from shared.bus.layout import BusLayout

LAYOUT = BusLayout(shards=2)
CHANNELS = {f"news:{number}" for number in range(500)}
MOST_A_TURN = 60


class Connection:
    """Keeps which channels were asked for."""

    def __init__(self) -> None:
        self.lost = SimpleNamespace(done=lambda: False)
        self.asked: list[str] = []
        self.is_broken = False

    def hold(self, is_held: bool) -> None:
        """Nothing comes here."""

    def send(self, packed: bytes) -> None:
        if self.is_broken:
            self.is_broken = False
            msg = "broken"
            raise RuntimeError(msg)
        reader = hiredis.Reader()
        reader.feed(packed)
        command, *keys = reader.gets()
        if command == b"SUBSCRIBE":
            self.asked += [key.decode().split(":c:")[1] for key in keys if b":c:" in key]


class World:
    """A bus of one server. Time moves whenever somebody looks at it; the event loop's turns are made by the test."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Callable[[], None]] = []
        address = parse_address("redis://127.0.0.1:1")
        self.bus: Any = RedisBus([address], prefix="d", clock=self.clock, random=random.Random(1).random)
        self.bus._turns = Turns(self.clock, self.soon.append)
        self.bus._placement.layout = LAYOUT
        self.bus._wanted.update(CHANNELS)
        self.link: Any = self.bus._placement.links[0]
        self.link.shards = frozenset(range(LAYOUT.shards))
        self.connect()

    def clock(self) -> float:
        self.now += TURN_S / 5
        return self.now

    def connect(self) -> None:
        self.link._forget_connections()
        self.pubsub = self.link._pubsub = Connection()
        self.link._begin(LAYOUT)

    def turn(self) -> None:
        soon, self.soon[:] = list(self.soon), []
        for callback in soon:
            callback()

    def finish(self) -> None:
        """Make turns until nothing is left."""
        while self.soon:
            before = len(self.pubsub.asked), len(self.verified)
            self.turn()
            assert len(self.pubsub.asked) <= before[0] + MOST_A_TURN
            assert len(self.verified) <= before[1] + MOST_A_TURN

    def confirm(self, channel: str) -> None:
        self.link._on_messages([[b"subscribe", LAYOUT.head_key(channel).encode(), 1]])

    @property
    def verified(self) -> set[str]:
        return set(self.bus._to_verify)

    @property
    def left(self) -> list[str]:
        """Those that were not asked for yet."""
        return sorted(CHANNELS - set(self.pubsub.asked))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(redis_round, "CHANNELS_A_LOOK", 10)
    return World()


def test_all_are_asked_for_once_and_verified_some_a_turn(world: World):
    assert 0 < len(world.pubsub.asked) <= MOST_A_TURN
    world.finish()
    assert sorted(world.pubsub.asked) == sorted(CHANNELS)
    assert world.verified == CHANNELS


def test_what_nobody_uses_any_more_is_not_asked_for(world: World):
    gone = world.left[0]
    world.bus.unsubscribe(gone)
    world.finish()
    assert sorted(world.pubsub.asked) == sorted(CHANNELS - {gone})
    assert world.verified == CHANNELS - {gone}


def test_the_next_connection_takes_all_of_them_up_and_the_one_before_no_more(world: World):
    former, asked = world.pubsub, len(world.pubsub.asked)
    world.connect()
    world.finish()
    assert len(former.asked) == asked
    assert sorted(world.pubsub.asked) == sorted(CHANNELS)
    assert world.verified == CHANNELS


def test_one_that_was_asked_for_by_itself_meanwhile_is_verified_all_the_same(world: World):
    """A client that comes for a channel has it subscribed to. What was published while the link was away, the edge has missed still."""
    early = world.left[0]
    world.link._ask_for([early])
    world.confirm(early)
    world.finish()
    assert world.pubsub.asked.count(early) == 1
    assert early in world.verified


def test_a_shard_that_moved_away_meanwhile_is_not_asked_for_here(world: World):
    before = len(world.pubsub.asked)
    world.link.assign({0})
    world.finish()
    assert {LAYOUT.shard_of(channel) for channel in world.pubsub.asked[before:]} == {0}
    assert {LAYOUT.shard_of(channel) for channel in world.left} == {1}
    world.link.assign({0, 1})
    world.finish()
    assert world.left == []


def test_what_was_refused_is_asked_for_again_and_nothing_else_is(world: World):
    world.finish()
    refused = world.pubsub.asked[:3]
    for channel in CHANNELS.difference(refused):
        world.confirm(channel)
    world.bus._to_verify.clear()
    world.pubsub.asked.clear()
    world.link._take_up(LAYOUT, world.link.shards, "refused", is_again=True)
    world.finish()
    assert sorted(world.pubsub.asked) == sorted(refused)
    assert world.verified == set(refused)


def test_some_that_cannot_be_asked_for_do_not_keep_the_others_from_it(world: World):
    world.pubsub.is_broken = True
    world.finish()
    assert 0 < len(world.left) <= 10
    assert world.verified == CHANNELS, "which has them asked for once more"


def test_shards_that_lost_their_data_are_looked_for_together_some_a_turn(world: World):
    world.finish()
    world.bus._to_verify.clear()
    for shard in range(LAYOUT.shards):
        world.link._on_beat(LAYOUT.beat_channel(shard).encode(), b"another one")
    world.bus._look_for_doubtful()
    assert 0 < len(world.verified) <= MOST_A_TURN
    world.finish()
    assert world.verified == CHANNELS
