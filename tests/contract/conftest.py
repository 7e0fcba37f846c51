"""Each test of the contract runs against every bus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.conftest import StartRedis, StartRedisCluster
from tests.contract.backends import Backend, ClusterBackend, MemoryBackend, RedisBackend
from tests.contract.fake_redis import FakeServer


@pytest.fixture(params=["memory", "fakeredis", "redis", "redis-cluster"])
def bus(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """An empty bus. On fakeredis the publish script itself runs, also where no server is."""
    if request.param == "memory":
        yield MemoryBackend()
        return
    if request.param == "fakeredis":
        with closing(RedisBackend(FakeServer())) as backend:
            yield backend
        return
    if request.param == "redis-cluster":
        cluster = request.getfixturevalue("redis_cluster")
        cluster.flush()
        with closing(ClusterBackend(cluster)) as backend:
            yield backend
        return
    server = request.getfixturevalue("redis_server")
    server.flush()
    with closing(RedisBackend(server)) as backend:
        yield backend


@pytest.fixture(params=["memory", "redis", "redis-cluster"])
def mortal_bus(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """An empty bus that can be killed."""
    if request.param == "memory":
        yield MemoryBackend()
        return
    if request.param == "redis-cluster":
        start_cluster: StartRedisCluster = request.getfixturevalue("start_redis_cluster")
        with closing(ClusterBackend(start_cluster())) as backend:
            yield backend
        return
    start: StartRedis = request.getfixturevalue("start_redis")
    with closing(RedisBackend(start())) as backend:
        yield backend
