"""A bus of several Redis nodes whose slots move, and which fail or hand over, under load.

What each client holds afterwards is right and the newest; what it missed it was told; whoever lives elsewhere notices nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from bridge.core.limits import PipelineSettings
from distributary import Publication
from shared.bus.layout import BusLayout
from tests.conftest import StartProject, StartRedis, StartRedisCluster
from tests.rig.fleet import Fleet, Follower, assert_no_hole, write_rules
from tests.rig.kafka_server import KafkaCluster
from tests.rig.redis_cluster import RedisCluster
from tests.rig.redis_server import RedisServer
from tests.rig.stack import Stack
from tests.rig.wait import wait_until, wait_until_async

ROUNDS = max(1, int(os.environ.get("FAULT_ROUNDS", "8")) // 4)
LAYOUT = BusLayout()
VEHICLES = 60
MOST_AHEAD = 5
"""Snapshots under way to a client that keeps up."""
MOST_IN_FLIGHT = PipelineSettings().max_push // (2 * VEHICLES + 1) + 1
"""Snapshots of which one call to the bus may hold publications."""
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


class Load:
    """A fleet under way, and clients of channels on every shard who write down what they get."""

    def __init__(self, stack: Stack, kafka: KafkaCluster, topic: str) -> None:
        self.fleet = Fleet(vehicles=VEHICLES)
        self._first = self.fleet.snapshots(1)
        self.channels = sorted(channel for channel in self.fleet.expected if channel != "feed")
        assert {LAYOUT.shard_of(channel) for channel in self.channels} == set(range(LAYOUT.shards))
        self.followers = [Follower(stack.url, self.channels), Follower(stack.url, self.channels, format="json", delta=("json-patch",))]
        self._kafka, self._topic = kafka, topic
        self._running: asyncio.Task[None] | None = None
        self._is_enough = False

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._kafka.produce, self._topic, self._first)
        for follower in self.followers:
            await follower.__aenter__()
            await follower.joined()
        await self.settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.stop()
        finally:
            for follower in self.followers:
                await follower.__aexit__()

    def start(self) -> None:
        """Begin to produce, and go on."""
        self._is_enough = False
        self._running = asyncio.create_task(self._produce())

    async def stop(self) -> None:
        """Produce no more. What is being produced is finished first, so that what is expected is what is on Kafka."""
        self._is_enough = True
        running, self._running = self._running, None
        if running is not None:
            await running

    async def settle(self) -> None:
        """Wait until every client shows the newest value of every channel."""
        for follower in self.followers:
            await follower.wait_for_newest({channel: self.fleet.expected[channel][-1] for channel in self.channels}, timeout_s=90)

    def gaps(self, touched: Callable[[str], bool]) -> list[tuple[Follower, str, int]]:
        """Who was told of how many gaps so far."""
        return [
            (follower, channel, len(follower.gaps[channel])) for follower in self.followers for channel in filter(touched, self.channels)
        ]

    async def wait_for_gaps(self, before: list[tuple[Follower, str, int]]) -> None:
        """Wait until each of them was told of one more."""
        for follower, channel, count in before:
            await follower.wait_for_gap(channel, count + 1)

    async def check(self, touched: Callable[[str], bool]) -> None:
        """Every value is a right one, in order, without a hole that was not told; channels that were not touched got each one once."""
        for follower in self.followers:
            for channel in self.channels:
                if not touched(channel):
                    # That it shows the newest value says nothing of a vehicle that stands still.
                    await follower.wait_for(channel, len(self.fleet.expected[channel]))
        for follower in self.followers:
            for channel in self.channels:
                assert_no_hole(follower.got[channel])
                assert_in_order(follower.got[channel], self.fleet.expected[channel])
                if touched(channel):
                    assert {gap.reason for gap in follower.gaps[channel]} <= {"epoch_changed"}
                else:
                    assert follower.gaps[channel] == []
                    assert follower.values(channel) == self.fleet.expected[channel]

    async def _produce(self) -> None:
        """As fast as every client keeps up with some channel: one that cannot is closed as a slow consumer, which is not what is tested."""
        while not self._is_enough:
            await asyncio.to_thread(lambda: self._kafka.produce(self._topic, self.fleet.snapshots(1)))
            for follower in self.followers:
                await wait_until_async(partial(self._keeps_up, follower), what=f"{follower} to keep up", timeout_s=90)

    def _keeps_up(self, follower: Follower) -> bool:
        return any(self._is_near(follower.newest(channel), self.fleet.expected[channel]) for channel in self.channels)

    def _is_near(self, value: Any, expected: list[Any]) -> bool:
        """Whether the value is one of the last; that of a vehicle that stands still tells nothing."""
        return value in expected[-MOST_AHEAD:] and value not in expected[:-MOST_AHEAD]


def assert_in_order(publications: list[Publication], expected: list[Any]) -> None:
    """Within an epoch each value is the one right behind the last; a new epoch goes back by no more than one call to the bus.

    What was in flight when a shard was lost is published anew, though some of it had reached the clients: the bridge was never told.
    """
    last: Publication | None = None
    could_be: list[int] = []  # Where in `expected` the last value stands: a vehicle that stands still has the same one several times.
    for publication in publications:
        is_next = last is not None and publication.gap is None and publication.position.epoch == last.position.epoch
        places = {at + 1 for at in could_be} if is_next else range(max(0, min(could_be, default=0) + 1 - MOST_IN_FLIGHT), len(expected))
        found = [at for at in places if at < len(expected) and expected[at] == publication.data]
        assert found, (publication, last, could_be)
        last, could_be = publication, found


def on(shards: set[int]) -> Callable[[str], bool]:
    return lambda channel: LAYOUT.shard_of(channel) in shards


def migrate_at_once(cluster: RedisCluster, shard: int, to: RedisServer) -> None:
    cluster.migrate(shard, to)


def migrate_slowly(cluster: RedisCluster, shard: int, to: RedisServer) -> None:
    """Half of the keys are here and half there while the bridge would publish."""
    source = cluster.owner(shard)
    cluster.begin_migration(shard, to)
    cluster.move_keys(shard, source, to, count=5)
    refused = commands_refused(source)
    wait_until(lambda: commands_refused(source) >= refused + 3, what="a bridge that was refused")
    cluster.move_keys(shard, source, to)
    cluster.end_migration(shard, to)


def commands_refused(node: RedisServer) -> int:
    with node.client() as client:
        found = client.info("errorstats")
    return sum(each["count"] for name, each in found.items() if name in {"errorstat_TRYAGAIN", "errorstat_ASK"})


@pytest.mark.parametrize("migrate", [migrate_at_once, migrate_slowly])
def test_slots_that_move_under_load(
    migrate: Callable[[RedisCluster, int, RedisServer], None],
    start_project: StartProject,
    start_redis_cluster: StartRedisCluster,
    kafka: KafkaCluster,
    topic: str,
    tmp_path: Path,
) -> None:
    cluster = start_redis_cluster()
    stack = Stack(start_project, kafka.bootstrap_servers, cluster.url)
    stack.start_edge()
    stack.start_bridge(write_rules(tmp_path, topic), topic)

    async def move(load: Load, shard: int) -> None:
        to = cluster.nodes[(cluster.nodes.index(cluster.owner(shard)) + 1) % 3]
        before = load.gaps(on({shard}))
        await asyncio.to_thread(migrate, cluster, shard, to)
        await load.wait_for_gaps(before)
        await asyncio.to_thread(cluster.wait_until_ok)

    async def follow() -> None:
        async with Load(stack, kafka, topic) as load:
            load.start()
            for shard in (1, 7) * ROUNDS:
                await move(load, shard)
            await load.stop()
            await load.settle()
            # Now nothing is published any more: what clients see next comes from the bridge's memory and from reading.
            await move(load, 1)
            await load.settle()
            await load.check(on({1, 7}))

    asyncio.run(follow())


def kill(cluster: RedisCluster, primary: RedisServer) -> RedisServer:
    return cluster.fail_over(primary)


def hand_over(cluster: RedisCluster, primary: RedisServer) -> RedisServer:
    return cluster.hand_over(primary)


@pytest.mark.parametrize("replace", [kill, hand_over])
def test_a_replica_takes_over_under_load(
    replace: Callable[[RedisCluster, RedisServer], RedisServer],
    start_project: StartProject,
    start_redis_cluster: StartRedisCluster,
    kafka: KafkaCluster,
    topic: str,
    tmp_path: Path,
) -> None:
    cluster = start_redis_cluster(replicas=1, acl=documented_users())
    stack = Stack(start_project, kafka.bootstrap_servers, cluster.url_as("bridge:secret"), edge_redis_url=cluster.url_as("edge:secret"))
    stack.start_edge()
    stack.start_bridge(write_rules(tmp_path, topic), topic)

    async def follow() -> None:
        async with Load(stack, kafka, topic) as load:
            lost: set[int] = set()
            for _ in range(ROUNDS):
                primary = cluster.owner(1)
                moved = {shard for shard in range(LAYOUT.shards) if cluster.owner(shard) is primary}
                lost |= moved
                before = load.gaps(on(moved))
                load.start()
                heir = await asyncio.to_thread(replace, cluster, primary)
                await load.wait_for_gaps(before)
                await load.stop()
                await load.settle()
                if not primary.process.is_running:
                    primary.start()  # As a replica, without data of its own.
                await asyncio.to_thread(cluster.wait_until_ok)
                await asyncio.to_thread(cluster.wait_for_replica, heir)
            await load.check(on(lost))

    asyncio.run(follow())


def documented_users() -> list[str]:
    """The two users of docs/operations.md, with one password."""
    lines = re.findall(r"^    (user (?:bridge|edge) on .*)$", OPERATIONS.read_text(), re.MULTILINE)
    assert len(lines) == 2
    return [line.replace(">PASSWORD", ">secret") for line in lines]


def test_one_of_three_independent_servers_dies_and_comes_back(
    start_project: StartProject, start_redis: StartRedis, kafka: KafkaCluster, topic: str, tmp_path: Path
) -> None:
    servers = [start_redis() for _ in range(3)]
    layout = BusLayout(servers=3)
    stack = Stack(start_project, kafka.bootstrap_servers, ",".join(server.url for server in servers))
    stack.start_edge()
    bridge = stack.start_bridge(write_rules(tmp_path, topic), topic)
    lost = set(layout.shards_of(1))

    async def follow() -> None:
        async with Load(stack, kafka, topic) as load:
            before = load.gaps(on(lost))
            load.start()
            servers[1].kill()
            await asyncio.to_thread(bridge.wait_for_log, "the bus is away")
            servers[1].start()
            await load.wait_for_gaps(before)
            await load.stop()
            await load.settle()
            await load.check(on(lost))

    asyncio.run(follow())
