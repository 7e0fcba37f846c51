"""What only a real Redis Cluster can show of the bus: slots that move, replicas that take over, and who is refused."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from edge.adapters.redis_bus import RedisBus
from edge.adapters.redis_connection import parse_address
from edge.core.limits import Limits
from edge.node import Node
from shared.bus.layout import BusLayout
from shared.bus.placement import place
from shared.bus.publisher import BusPublisher
from shared.bus.push import Outcome, Pushed
from shared.bus.servers import is_cluster, parse_servers
from shared.errors import BusLayoutError, BusUnavailableError
from tests.conftest import StartRedisCluster
from tests.contract.backends import CLUSTER_LAYOUT, ClusterBackend, make_push
from tests.rig.redis_cluster import RedisCluster
from tests.rig.redis_server import RedisServer
from tests.rig.wait import wait_until

CHANNEL = "a:1"
SHARD = CLUSTER_LAYOUT.shard_of(CHANNEL)


@pytest.fixture
def bus(start_redis_cluster: StartRedisCluster) -> Iterator[ClusterBackend]:
    with closing(ClusterBackend(start_redis_cluster())) as backend:
        yield backend


def push_when_possible(publisher: BusPublisher, offset: int) -> tuple[set[int], Pushed]:
    """What a bridge does: open and push again until it works. Returns which shards had changed."""
    changed: set[int] = set()

    def attempt() -> list[Pushed]:
        changed.update(publisher.open())
        return publisher.push([make_push(CHANNEL, b"%d" % offset, offset)])

    [pushed] = wait_until(attempt, what="a push", ignore=(BusUnavailableError,))
    return changed, pushed


def test_the_layout_is_stored_once_and_another_one_refused(bus: ClusterBackend):
    bus.publisher().open()
    with pytest.raises(BusLayoutError, match="shards 4"):
        bus.publisher(layout=BusLayout(shards=8, cluster=True)).open()


def test_a_shard_that_moves_gets_an_incarnation_of_its_own_and_the_others_keep_theirs(bus: ClusterBackend):
    publisher, cluster = bus.publisher(), bus.cluster
    _, before = push_when_possible(publisher, 1)
    source = cluster.owner(SHARD)
    cluster.migrate(SHARD, next(node for node in cluster.nodes if node is not source))
    changed, after = push_when_possible(publisher, 2)
    assert changed == {SHARD}
    assert (after.outcome, after.offset) == (Outcome.FULL, 1)
    assert after.epoch[:6] != before.epoch[:6]
    assert publisher.beat() == []


def test_nothing_is_published_while_half_of_a_shard_is_elsewhere(bus: ClusterBackend):
    """Not on the one side and not on the other; afterwards each publication is there, once, in order."""
    publisher, cluster = bus.publisher(), bus.cluster
    push_when_possible(publisher, 1)
    source = cluster.owner(SHARD)
    target = next(node for node in cluster.nodes if node is not source)
    cluster.begin_migration(SHARD, target)
    for moved in range(3):
        if moved:
            cluster.move_keys(SHARD, source, target, count=1)
            with pytest.raises(BusUnavailableError):
                open_and_push(publisher)
    cluster.move_keys(SHARD, source, target)
    cluster.end_migration(SHARD, target)
    assert push_when_possible(publisher, 2)[1].offset == 1
    assert push_when_possible(publisher, 3)[1].offset == 2
    assert [entry.body for entry in bus.history(CHANNEL)] == [b"2", b"3"]


def open_and_push(publisher: BusPublisher) -> None:
    publisher.open()
    publisher.push([make_push(CHANNEL, b"2", 2)])


def test_a_primary_that_was_replaced_and_is_back_is_not_believed(start_redis_cluster: StartRedisCluster):
    """It never restarted, so its run id is the same; but it took its data from a replica that may have been behind."""
    cluster = start_redis_cluster(primaries=3, replicas=1)
    with closing(publisher_of(cluster)) as before:
        _, old = push_when_possible(before, 1)
    primary = cluster.owner(SHARD)
    heir = cluster.hand_over(primary)
    cluster.wait_for_replica(heir)
    cluster.wait_until_ok()
    assert cluster.hand_over(heir) is primary
    with closing(publisher_of(cluster)) as after:
        _, new = push_when_possible(after, 2)
    assert new.epoch[:6] != old.epoch[:6]


def publisher_of(cluster: RedisCluster) -> BusPublisher:
    return BusPublisher(place(parse_servers(cluster.url)), CLUSTER_LAYOUT, instance="one")


def test_a_bridge_is_told_what_it_talks_to(redis_cluster: RedisCluster, redis_server: RedisServer):
    node, server = redis_cluster.nodes[0].url, redis_server.url.replace("redis:", "redis+cluster:")
    for url, layout, message in (
        (node, BusLayout(), "is a node of a Redis Cluster"),
        (server, CLUSTER_LAYOUT, "is no node of a Redis Cluster"),
    ):
        with closing(BusPublisher(place([url]), layout, instance="one")) as publisher, pytest.raises(BusLayoutError, match=message):
            publisher.open()


def test_an_edge_is_told_what_it_talks_to(redis_cluster: RedisCluster, redis_server: RedisServer):
    node, server = redis_cluster.nodes[0].url, redis_server.url.replace("redis:", "redis+cluster:")
    for url, message in ((node, "is a node of a Redis Cluster"), (server, "is no node of a Redis Cluster")):
        with pytest.raises(ExceptionGroup) as caught:
            asyncio.run(run_edge(url))
        assert caught.group_contains(BusLayoutError, match=message)


async def run_edge(url: str) -> None:
    bus = RedisBus([parse_address(url)], cluster=is_cluster([url]), prefix="d", clock=time.monotonic, random=random.random)
    node = Node(bus, Limits(), clock=time.monotonic, now_ms=lambda: 0, random=random.random)
    async with asyncio.timeout(60):
        await bus.run(node)
