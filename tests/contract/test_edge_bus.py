"""What every bus promises an edge: one suite for the bus in memory and the one over Redis."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
import pytest

from edge.adapters.memory import MemoryBus, MemoryStore
from edge.adapters.redis_bus import RedisBus
from edge.adapters.redis_connection import parse_address
from edge.ports import Bus, ChannelHistory
from shared.bus.layout import BusLayout
from shared.bus.placement import place
from shared.bus.publisher import BusPublisher
from shared.bus.push import Keep, Push, Pushed, Source
from shared.bus.servers import is_cluster, parse_servers
from shared.delta import vcdiff
from shared.envelope import Envelope
from shared.errors import BusUnavailableError
from shared.publication import ContentType, DeltaFormat, Kind, payload_hash
from tests.rig import parts
from tests.rig.parts import Part
from tests.rig.redis_cluster import RedisCluster
from tests.rig.redis_server import RedisServer
from tests.rig.wait import wait_until_async

T = TypeVar("T")


class Events:
    """Keeps what the bus tells."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, Envelope]] = []
        self.verified: list[str] = []

    def on_publications(self, arrived: Sequence[tuple[str, Envelope]]) -> None:
        self.arrived += arrived

    def on_verify(self, channels: Sequence[str], why: str) -> None:
        self.verified += channels

    def offsets(self, channel: str) -> list[int]:
        return [envelope.offset for name, envelope in self.arrived if name == channel]


class World(Protocol):
    """A bus, and what bridges and fate do to it."""

    bus: Bus
    events: Events

    async def open(self) -> None: ...
    async def push(self, push: Push) -> Pushed: ...
    async def flush(self) -> None: ...
    async def break_link(self) -> None: ...


class MemoryWorld:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.events = Events()
        self.link = MemoryBus(self.store)
        self.bus: Bus = self.link

    async def open(self) -> None:
        self.store.open()
        self.store.beat()

    async def push(self, push: Push) -> Pushed:
        return self.store.push(push)

    async def flush(self) -> None:
        self.store.flush()

    async def break_link(self) -> None:
        self.link.break_link()
        self.link.mend_link()


class RedisWorld:
    """A Redis server, or the nodes of a Redis Cluster."""

    def __init__(self, url: str, servers: Sequence[RedisServer]) -> None:
        self.events = Events()
        urls = parse_servers(url)
        cluster, addresses = is_cluster(urls), [parse_address(each) for each in urls]
        self.redis = RedisBus(addresses, cluster=cluster, prefix="d", clock=time.monotonic, random=random.random)
        self.bus: Bus = self.redis
        self.publisher = BusPublisher(place(urls), BusLayout(cluster=cluster), instance="bridge-1")
        self._servers = servers

    async def open(self) -> None:
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        self.publisher.open()
        self.publisher.reopen(self.publisher.beat())
        self.publisher.beat()

    async def push(self, push: Push) -> Pushed:
        return (await asyncio.to_thread(self.publisher.push, [push]))[0]

    async def flush(self) -> None:
        for server in self._servers:
            with contextlib.closing(server.client()) as client:
                await asyncio.to_thread(client.flushall)

    async def break_link(self) -> None:
        for server in self._servers:
            with contextlib.closing(server.client()) as client:
                await asyncio.to_thread(client.client_kill_filter, _type="pubsub")


@asynccontextmanager
async def memory_world() -> AsyncIterator[World]:
    world = MemoryWorld()
    running = asyncio.create_task(world.link.run(world.events))
    await asyncio.sleep(0)
    yield world
    running.cancel()


@asynccontextmanager
async def redis_world(url: str, servers: Sequence[RedisServer]) -> AsyncIterator[World]:
    world = RedisWorld(url, servers)
    running = asyncio.create_task(world.redis.run(world.events))
    yield world
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    world.publisher.close()


RunIn = Callable[[Callable[[World], Coroutine[Any, Any, None]]], None]


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis", marks=pytest.mark.integration),
        pytest.param("redis-cluster", marks=pytest.mark.integration),
    ]
)
def run_in(request: pytest.FixtureRequest) -> RunIn:
    """Runs a coroutine function in a world of its own."""
    make: Callable[[], contextlib.AbstractAsyncContextManager[World]] = memory_world
    if request.param == "redis":
        parts.need(Part.REDIS, request.node.nodeid)
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        make = partial(redis_world, server.url, [server])
    elif request.param == "redis-cluster":
        cluster: RedisCluster = request.getfixturevalue("redis_cluster")
        cluster.flush()
        make = partial(redis_world, cluster.url, cluster.nodes)

    def run(test: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(200), make() as world:
                await test(world)

        asyncio.run(main())

    return run


numbers = itertools.count(1)


def push(channel: str, payload: bytes, *, base: bytes | None = None, keep: int = 100) -> Push:
    number = next(numbers)
    return Push(
        channel,
        payload,
        payload_hash(payload),
        ContentType.JSON,
        Kind.STREAM,
        1_000 + number,
        Source(b"s" * 12, number, 0),
        Keep(history_size=keep),
        DeltaFormat.NONE if base is None else DeltaFormat.VCDIFF,
        b"" if base is None else vcdiff.encode(base, payload),
        b"" if base is None else payload_hash(base),
    )


def push_key(channel: str, key: bytes, payload: bytes | None, *, tags: bytes = b"") -> Push:
    """On a keyed channel; no payload deletes the key."""
    made = push(channel, payload or b"")
    content_type = ContentType.NONE if payload is None else ContentType.JSON
    return msgspec.structs.replace(made, kind=Kind.KEYED, key=key, content_type=content_type, tags=tags)


async def read_all_keys(bus: Bus, channel: str, count: int) -> tuple[dict[bytes, Envelope], int]:
    """All keys, and on how many pages they came."""
    found: dict[bytes, Envelope] = {}
    cursor = pages = 0
    while True:
        page = await bus.read_keys(channel, cursor, count)
        found.update({envelope.key or b"": envelope for envelope in page.envelopes})
        cursor, pages = page.cursor, pages + 1
        if not cursor:
            return found, pages


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until the bus answers."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(BusUnavailableError):
                return await ask()
            await asyncio.sleep(0.02)


async def subscribed(world: World, *channels: str) -> None:
    await world.open()
    for channel in channels:
        await patiently(partial(world.bus.subscribe, channel))


async def read(world: World, channel: str, count: int) -> list[Envelope]:
    """What the bus holds, once it can be asked."""
    return (await patiently(partial(world.bus.read, channel, count))).envelopes


async def arrived(world: World, channel: str, newest: int) -> None:
    await wait_until_async(lambda: newest in world.events.offsets(channel), what=f"publication {newest} of {channel}")


def test_what_is_published_after_subscribe_arrives_in_order(run_in: RunIn):
    async def test(world: World) -> None:
        await subscribed(world, "a")
        for number in range(1, 21):
            await world.push(push("a", b"%d" % number))
        await arrived(world, "a", 20)
        assert world.events.offsets("a") == list(range(1, 21))
        assert [envelope.body for _, envelope in world.events.arrived] == [b"%d" % number for number in range(1, 21)]

    run_in(test)


def test_only_what_is_subscribed_to_arrives(run_in: RunIn):
    async def test(world: World) -> None:
        await subscribed(world, "a", "b", "b")
        world.bus.unsubscribe("a")
        await world.push(push("b", b"1"))
        await arrived(world, "b", 1)
        for channel in ("a", "c", "b"):
            await world.push(push(channel, b"2"))
        await arrived(world, "b", 2)
        assert {name for name, _ in world.events.arrived} == {"b"}
        await subscribed(world, "a")
        await world.push(push("a", b"3"))
        await arrived(world, "a", 2)

    run_in(test)


def test_live_ones_are_deltas_where_the_base_is_right_and_the_history_is_whole(run_in: RunIn):
    async def test(world: World) -> None:
        await subscribed(world, "a")
        first, second, third = (b'{"n":%d,"pad":"%b"}' % (number, b"x" * 100) for number in range(3))
        await world.push(push("a", first))
        await world.push(push("a", second, base=first))
        await world.push(push("a", third, base=first))
        await arrived(world, "a", 3)
        assert [(envelope.delta, envelope.base_offset) for _, envelope in world.events.arrived] == [
            (DeltaFormat.NONE, 0),
            (DeltaFormat.VCDIFF, 1),
            (DeltaFormat.NONE, 0),
        ]
        assert world.events.arrived[1][1].base_hash == payload_hash(first)
        assert [envelope.body for envelope in await read(world, "a", 10)] == [first, second, third]

    run_in(test)


def test_reads_the_newest_oldest_first(run_in: RunIn):
    async def test(world: World) -> None:
        await world.open()
        for number in range(1, 9):
            await world.push(push("a", b"%d" % number, keep=5))
        assert [envelope.offset for envelope in await read(world, "a", 3)] == [6, 7, 8]
        assert [envelope.offset for envelope in await read(world, "a", 10)] == [4, 5, 6, 7, 8]
        assert await read(world, "nobody", 10) == []

    run_in(test)


def test_reads_a_page_before_the_newest_and_the_oldest_that_there_are(run_in: RunIn):
    async def test(world: World) -> None:
        await subscribed(world, "a")
        for number in range(1, 11):
            await world.push(push("a", b"%d" % number, keep=7))
        await arrived(world, "a", 10)

        def offsets(history: ChannelHistory) -> list[int]:
            return [envelope.offset for envelope in history.envelopes]

        assert offsets(await world.bus.read("a", 2, 3)) == [6, 7]
        assert offsets(await world.bus.read("a", 5, 5)) == [4, 5], "fewer than were asked for: there is nothing before them"
        assert offsets(await world.bus.read("a", 5, 7)) == []
        assert offsets(await world.bus.read_oldest("a", 3)) == [4, 5, 6]
        assert offsets(await world.bus.read_oldest("a", 9)) == [4, 5, 6, 7, 8, 9, 10]
        assert offsets(await world.bus.read_oldest("none", 9)) == []

    run_in(test)


def test_a_lost_link_is_made_again_and_everything_is_verified(run_in: RunIn):
    async def test(world: World) -> None:
        await subscribed(world, "a", "b")
        await world.push(push("a", b"1"))
        await arrived(world, "a", 1)
        world.events.verified.clear()
        await world.break_link()
        await wait_until_async(lambda: set(world.events.verified) == {"a", "b"}, what="everything to be verified")
        await subscribed(world, "a")
        await world.push(push("a", b"2"))
        await arrived(world, "a", 2)

    run_in(test)


def test_lost_data_are_not_read_until_a_bridge_has_looked_and_are_verified_then(run_in: RunIn):
    async def test(world: World) -> None:
        await subscribed(world, "a")
        before = await world.push(push("a", b"1"))
        await arrived(world, "a", 1)
        await world.flush()
        with pytest.raises(BusUnavailableError):
            await world.bus.read("a", 1)
        world.events.verified.clear()
        await world.open()
        await wait_until_async(lambda: "a" in world.events.verified, what="the channel to be verified")
        assert await read(world, "a", 1) == []
        after = await world.push(push("a", b"1"))
        assert (after.offset, before.offset) == (1, 1)
        assert after.epoch != before.epoch
        assert (await read(world, "a", 1))[0].epoch == after.epoch

    run_in(test)


def test_a_bus_that_no_bridge_has_set_up_is_unavailable(run_in: RunIn):
    async def test(world: World) -> None:
        with pytest.raises(BusUnavailableError):
            await world.bus.read("a", 1)
        with pytest.raises(BusUnavailableError):
            await world.bus.subscribe("a")
        await subscribed(world, "a")
        await world.push(push("a", b"1"))
        await arrived(world, "a", 1)

    run_in(test)


class TestKeys:
    def test_all_come_on_pages_with_the_newest_of_each(self, run_in: RunIn):
        async def test(world: World) -> None:
            await world.open()
            for number in range(1_000):
                await world.push(push_key("k:1", b"key %d" % (number % 600), b'{"n":%d,"pad":"%b"}' % (number, b"x" * 60)))
            found, pages = await patiently(lambda: read_all_keys(world.bus, "k:1", 100))
            assert pages > 3
            assert len(found) == 600
            assert found[b"key 7"].offset == 608
            assert found[b"key 7"].body.startswith(b'{"n":607,')
            assert found[b"key 599"].offset == 600

        run_in(test)

    def test_a_deleted_key_is_not_there_and_tags_are(self, run_in: RunIn):
        async def test(world: World) -> None:
            await world.open()
            await world.push(push_key("k:1", b"a", b"1", tags=b'{"source":"gps"}'))
            await world.push(push_key("k:1", b"b", b"2"))
            await world.push(push_key("k:1", b"b", None))
            found, _ = await patiently(lambda: read_all_keys(world.bus, "k:1", 100))
            assert {key: envelope.tags for key, envelope in found.items()} == {b"a": b'{"source":"gps"}'}
            history = await world.bus.read("k:1", 1)
            assert history.envelopes[0].is_deletion

        run_in(test)

    def test_a_channel_that_is_not_there_has_none(self, run_in: RunIn):
        async def test(world: World) -> None:
            await world.open()
            assert await patiently(lambda: read_all_keys(world.bus, "k:none", 100)) == ({}, 1)

        run_in(test)

    def test_of_a_shard_that_was_emptied_nothing_is_believed(self, run_in: RunIn):
        async def test(world: World) -> None:
            await world.open()
            await patiently(lambda: world.bus.read("k:1", 1))
            await world.flush()
            with pytest.raises(BusUnavailableError):
                await world.bus.read_keys("k:1", 0, 100)

        run_in(test)
