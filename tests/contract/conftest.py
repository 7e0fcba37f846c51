"""Each test of the contract runs against every bus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.conftest import StartRedis
from tests.contract.backends import Backend, MemoryBackend, RedisBackend


@pytest.fixture(params=["memory", "redis"])
def bus(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """An empty bus."""
    if request.param == "memory":
        yield MemoryBackend()
        return
    server = request.getfixturevalue("redis_server")
    server.flush()
    with closing(RedisBackend(server)) as backend:
        yield backend


@pytest.fixture(params=["memory", "redis"])
def mortal_bus(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """An empty bus that can be killed."""
    if request.param == "memory":
        yield MemoryBackend()
        return
    start: StartRedis = request.getfixturevalue("start_redis")
    with closing(RedisBackend(start())) as backend:
        yield backend
