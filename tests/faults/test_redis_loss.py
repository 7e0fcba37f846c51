"""Redis loses data: a new epoch, clients are told, and what they hold afterwards is right and the newest, of vehicles that stand, too."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import StartProject, StartRedis
from tests.rig.fleet import Fleet, Follower, write_rules
from tests.rig.kafka_server import KafkaCluster
from tests.rig.redis_server import RedisServer
from tests.rig.stack import Stack

ROUNDS = max(1, int(os.environ.get("FAULT_ROUNDS", "8")) // 8)


def flush(server: RedisServer, _: Path) -> None:
    client = server.client()
    client.flushall()
    client.close()


def restart_old(server: RedisServer, snapshot: Path) -> None:
    server.restart(snapshot=snapshot)


def restart_empty(server: RedisServer, _: Path) -> None:
    server.restart(empty=True)


@pytest.mark.parametrize("lose", [flush, restart_old, restart_empty])
def test_redis_that_lost_data(
    lose: Callable[[RedisServer, Path], None],
    start_project: StartProject,
    start_redis: StartRedis,
    kafka: KafkaCluster,
    topic: str,
    tmp_path: Path,
) -> None:
    server = start_redis()
    stack = Stack(start_project, kafka.bootstrap_servers, server.url)
    fleet = Fleet()
    stack.start_edge()
    stack.start_bridge(write_rules(tmp_path, topic, only_changed=True), topic)
    kafka.produce(topic, fleet.snapshots(5))
    channels = [channel for channel in fleet.expected if channel.startswith("position:")] + ["bus:1430", "bus:1400"]

    def newest() -> dict[str, object]:
        return {channel: fleet.expected[channel][-1] for channel in channels}

    async def hold_newest(followers: Sequence[Follower]) -> None:
        for follower in followers:
            await follower.wait_for_newest(newest())

    async def produce(followers: Sequence[Follower]) -> None:
        await asyncio.to_thread(kafka.produce, topic, fleet.snapshots(5))
        await hold_newest(followers)

    async def lose_once(followers: Sequence[Follower]) -> None:
        await hold_newest(followers)
        old = await asyncio.to_thread(server.save)
        await produce(followers)
        told = [{channel: len(follower.gaps[channel]) for channel in channels} for follower in followers]
        await asyncio.to_thread(lose, server, old)
        # Nothing is produced: what comes back comes from the bridge's memory, standing vehicles included.
        for follower, before in zip(followers, told, strict=True):
            for channel in channels:
                await follower.wait_for_gap(channel, before[channel] + 1)
        await hold_newest(followers)
        await produce(followers)

    async def follow() -> None:
        async with Follower(stack.url, channels) as deltas, Follower(stack.url, channels, format="json", delta=("json-patch",)) as patches:
            for _ in range(ROUNDS):
                await lose_once((deltas, patches))
            check_history(deltas, fleet, channels)
            check_history(patches, fleet, channels)
            async with Follower(stack.url, channels) as late:
                await hold_newest((late,))

    asyncio.run(follow())


def check_history(follower: Follower, fleet: Fleet, channels: list[str]) -> None:
    """Every value was produced for its channel, and none came after a newer one."""
    for channel in channels:
        expected, at = fleet.changes(channel), 0
        for value in follower.values(channel):
            assert value in expected[max(0, at - 1) :], (channel, value)
            at = expected.index(value, max(0, at - 1)) + 1
        assert all(gap.reason == "epoch_changed" for gap in follower.gaps[channel])


def test_redis_that_is_away_for_a_while(
    start_project: StartProject, start_redis: StartRedis, kafka: KafkaCluster, topic: str, tmp_path: Path
) -> None:
    server = start_redis()
    stack = Stack(start_project, kafka.bootstrap_servers, server.url)
    fleet = Fleet(vehicles=20)
    edge, bridge = stack.start_edge(), stack.start_bridge(write_rules(tmp_path, topic), topic)
    channel = "bus:1410"

    async def follow() -> None:
        async with Follower(stack.url, [channel]) as follower:
            await follower.joined()
            await asyncio.to_thread(kafka.produce, topic, fleet.snapshots(5))
            await follower.wait_for(channel, 5)
            server.pause()
            await asyncio.to_thread(kafka.produce, topic, fleet.snapshots(20))
            await asyncio.to_thread(bridge.wait_for_log, "the bus is away")
            assert edge.is_running
            server.resume()
            await follower.wait_for(channel, 25)
            # It lost nothing, so nobody was told anything, and nothing came twice.
            assert follower.values(channel) == fleet.expected[channel]
            assert follower.gaps[channel] == []

    asyncio.run(follow())


def test_kafka_that_is_away_leaves_clients_served(start_project: StartProject, start_kafka: object, redis_url: str, tmp_path: Path) -> None:
    cluster: KafkaCluster = start_kafka()  # type: ignore[operator]
    topic = cluster.create_topic("vehicles")
    stack = Stack(start_project, cluster.bootstrap_servers, redis_url)
    fleet = Fleet(vehicles=20)
    stack.start_edge()
    bridge = stack.start_bridge(write_rules(tmp_path, topic), topic)
    channel = "bus:1410"

    async def follow() -> None:
        async with Follower(stack.url, [channel]) as early:
            await early.joined()
            await asyncio.to_thread(cluster.produce, topic, fleet.snapshots(5))
            await early.wait_for(channel, 5)
            await asyncio.to_thread(cluster.kill)
            async with Follower(stack.url, [channel]) as late:
                await late.wait_for_newest({channel: fleet.expected[channel][-1]})
            await asyncio.to_thread(cluster.restart)
            await asyncio.to_thread(cluster.produce, topic, fleet.snapshots(5))
            await early.wait_for(channel, 10)
            assert early.values(channel) == fleet.expected[channel]

    asyncio.run(follow())
    assert bridge.is_running
