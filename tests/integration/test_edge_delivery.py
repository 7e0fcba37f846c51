"""What a bridge pushes reaches clients of every kind, through real processes, sockets and Redis."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from shared.publication import DeltaFormat, Kind
from tests.conftest import StartProject, StartRedis
from tests.edge.service import Bridge, EdgeProcess, Listener, aside, bare, client, run, wait_for_json
from tests.rig.redis_server import RedisServer
from tests.rig.wait import wait_until_async


def vehicle(number: int, size: int = 150) -> dict[str, Any]:
    return {"id": "1430", "lat": 41.5 + number / 1000, "label": "x" * size, "n": number}


@pytest.fixture
def bridge(redis_url: str) -> Iterator[Bridge]:
    with Bridge(redis_url) as bridge:
        yield bridge


@pytest.fixture
def edge(redis_url: str, start_project: StartProject) -> EdgeProcess:
    return EdgeProcess(start_project, redis_url)


def has(listener: Listener, count: int) -> bool:
    return len(listener.heard) >= count


def reasons(listener: Listener, channel: str) -> list[str]:
    return [gap["reason"] for gap in listener.gaps if gap["channel"] == channel]


async def keep_pushing(bridge: Bridge, channel: str, first: int, until: asyncio.Event) -> int:
    """Publish one value after the other; returns the last one. The history is so long that an edge without time for a while misses none."""
    for number in itertools.count(first):
        await push(bridge, channel, number, number, keep=10_000)
        if until.is_set():
            return number
    raise AssertionError


async def push(bridge: Bridge, channel: str, first: int, last: int, **options: Any) -> None:
    for number in range(first, last + 1):
        await aside(bridge.push, channel, vehicle(number), **options)


@pytest.mark.parametrize("on_bus", [DeltaFormat.VCDIFF, DeltaFormat.JSON_PATCH, DeltaFormat.NONE])
def test_every_variant_of_client_holds_what_was_published(bridge: Bridge, edge: EdgeProcess, on_bus: DeltaFormat):
    async def main() -> None:
        await push(bridge, "bus:1430", 1, 1)
        async with contextlib.AsyncExitStack() as stack:
            listeners: list[Listener] = []
            for query in ({}, {"delta": "vcdiff"}, {"delta": "json-patch"}):
                for form in ("json", "msgpack"):
                    listeners.append(await stack.enter_async_context(bare(edge, "bus:1430", format=form, **query)))
                    listener = await stack.enter_async_context(client(edge, form=form))
                    await listener.ask(type="subscribe", channel="bus:1430", **({"delta": [query["delta"]]} if query else {}))
                    listeners.append(listener)
            for listener in listeners:
                await listener.wait_for("bus:1430", vehicle(1))
            await push(bridge, "bus:1430", 2, 30, delta=on_bus)
            for listener in listeners:
                await listener.wait_for("bus:1430", vehicle(30))
                assert listener.offsets("bus:1430") == list(range(1, 31))
                listener.check(bridge.published)
            deltas = [sum(each.was_delta for each in listener.heard) for listener in listeners]
            assert deltas == [0] * 4 + [29] * 8

    run(main)


def test_subscribe_and_unsubscribe(bridge: Bridge, edge: EdgeProcess):
    async def main() -> None:
        await push(bridge, "a", 1, 3, kind=Kind.STREAM)
        async with client(edge) as listener:
            answer = await listener.ask(type="subscribe", channel="a")
            assert (answer["kind"], answer["position"]["offset"], answer["recovered"]) == ("stream", 3, None)
            await push(bridge, "a", 4, 4, kind=Kind.STREAM)
            await listener.wait_for("a", vehicle(4))
            assert (await listener.ask(type="unsubscribe", channel="a"))["type"] == "unsubscribed"
            await push(bridge, "a", 5, 6, kind=Kind.STREAM)
            answer = await listener.ask(type="subscribe", channel="a", position={"epoch": answer["position"]["epoch"], "offset": 4})
            assert answer["recovered"] is True
            await listener.wait_for("a", vehicle(6))
            assert listener.offsets("a") == [4, 5, 6]
            assert (await listener.ask(type="ping"))["type"] == "pong"

    run(main)


def test_recovery_of_any_length(bridge: Bridge, edge: EdgeProcess):
    """Beyond the edge's ring from the history of the bus; beyond that, told."""

    async def main() -> None:
        await push(bridge, "a", 1, 60, keep=50)
        epoch = next(iter(bridge.published))[1]
        async with client(edge) as listener:
            for behind in range(52):
                before = len(listener.heard)
                answer = await listener.ask(type="subscribe", channel="a", position={"epoch": epoch, "offset": 60 - behind})
                if behind <= 50:
                    assert answer["recovered"] is True
                    await wait_until_async(partial(has, listener, before + behind), what="what was missed")
                    assert listener.offsets("a")[before:] == list(range(61 - behind, 61))
                else:
                    assert (answer["recovered"], answer["reason"]) == (False, "history_trimmed")
                    assert answer["missed"] == {"from": 10, "to": 59}
                    await wait_until_async(partial(has, listener, before + 1), what="the newest")
                    assert listener.offsets("a")[before:] == [60]
                # Whatever else was under way has arrived before the answer to this.
                await listener.ask(type="unsubscribe", channel="a")
                assert len(listener.heard) == before + (behind if behind <= 50 else 1)

    run(main)


@pytest.mark.parametrize(("most", "is_recovered"), [(1_200, True), (1_199, False)])
def test_how_much_one_gets_who_comes_back_is_for_the_operator(
    bridge: Bridge, redis_url: str, start_project: StartProject, most: int, is_recovered: bool
):
    """A longer history than an edge sends by default is of use where it is told to."""
    edge = EdgeProcess(start_project, redis_url, "--max-recovery-items", str(most))

    async def main() -> None:
        await push(bridge, "a", 1, 1_300, keep=1_300)
        position = {"epoch": next(iter(bridge.published))[1], "offset": 100}
        async with client(edge) as listener:
            answer = await listener.ask(type="subscribe", channel="a", position=position)
            assert (answer["recovered"], answer.get("reason")) == ((True, None) if is_recovered else (False, "too_large"))
            expected = list(range(101, 1_301)) if is_recovered else [1_300]
            await wait_until_async(partial(has, listener, len(expected)), what="what was missed")
            assert listener.offsets("a") == expected

    run(main)


def test_rewind(bridge: Bridge, edge: EdgeProcess):
    async def main() -> None:
        await push(bridge, "a", 1, 10, kind=Kind.STREAM)
        async with client(edge) as listener:
            await listener.ask(type="subscribe", channel="a", rewind={"count": 3})
            await listener.wait_for("a", vehicle(10))
            assert listener.offsets("a") == [8, 9, 10]

    run(main)


def test_two_edges_on_one_bus_and_a_client_that_moves(bridge: Bridge, edge: EdgeProcess, redis_url: str, start_project: StartProject):
    async def main() -> None:
        other = await aside(EdgeProcess, start_project, redis_url)
        await push(bridge, "a", 1, 3)
        async with client(edge) as here, client(other) as there:
            await here.ask(type="subscribe", channel="a", delta=["vcdiff"])
            await there.ask(type="subscribe", channel="a", delta=["vcdiff"])
            await push(bridge, "a", 4, 10)
            await here.wait_for("a", vehicle(10))
            await there.wait_for("a", vehicle(10))
            await here.connection.close()
            await push(bridge, "a", 11, 20)
            async with client(other) as again:
                left = here.heard[-1]
                answer = await again.ask(
                    type="subscribe", channel="a", delta=["vcdiff"], position={"epoch": left.epoch, "offset": left.offset}
                )
                assert answer["recovered"] is True
                await again.wait_for("a", vehicle(20))
                assert here.offsets("a") + again.offsets("a") == list(range(3, 21))
                for listener in (here, there, again):
                    listener.check(bridge.published)

    run(main)


def test_two_servers_make_one_bus(start_redis: StartRedis, start_project: StartProject):
    url = ",".join(start_redis().url for _ in range(2))

    async def main() -> None:
        with Bridge(url) as bridge:
            edge = await aside(EdgeProcess, start_project, url)
            names = [f"a{number}" for number in range(8)]
            async with bare(edge, ",".join(names)) as listener:
                for name in names:
                    await push(bridge, name, 1, 3)
                for name in names:
                    await listener.wait_for(name, vehicle(3))
                listener.check(bridge.published)

    run(main)


def test_an_edge_that_was_first_waits_for_redis_and_for_a_bridge(start_redis: StartRedis, start_project: StartProject):
    async def main() -> None:
        server = start_redis()
        server.kill()
        edge = await aside(EdgeProcess, start_project, server.url)
        async with client(edge) as listener, bare(edge, "a") as second:
            refused = await listener.ask(type="subscribe", channel="a")
            assert (refused["code"], refused["retry"], refused["channel"]) == ("unavailable", True, "a")
            await wait_until_async(lambda: [each["code"] for each in second.controls] == ["unavailable"], what="the bare client's answer")
            await aside(server.restart)
            refused = await listener.ask(type="subscribe", channel="a")
            assert refused["code"] == "unavailable"
            with Bridge(server.url) as bridge:
                await push(bridge, "a", 1, 1)
                await aside(wait_for_json, edge.internal("/health/ready"), lambda health: health["status"] == "ok")
                assert (await listener.ask(type="subscribe", channel="a"))["type"] == "subscribed"
                await listener.wait_for("a", vehicle(1))

    run(main)


class TestAcl:
    """An edge's user may subscribe and read, and that is all it needs."""

    USER = (
        "user edge on >secret resetkeys ~d:* resetchannels &d:* -@all +subscribe +unsubscribe +psubscribe +ping +get +mget +lrange"
        " +hget +hlen +hscan +multi +exec +info +auth +select +hello"
    )

    def test_is_enough(self, start_redis: StartRedis, start_project: StartProject):
        server = start_redis(acl=[self.USER])
        url = server.url.replace("redis://", "redis://edge:secret@")

        async def main() -> None:
            with Bridge(server.url) as bridge:
                edge = await aside(EdgeProcess, start_project, url)
                await push(bridge, "a", 1, 30)
                epoch = next(iter(bridge.published))[1]
                async with client(edge) as listener:
                    answer = await listener.ask(type="subscribe", channel="a", delta=["vcdiff"], position={"epoch": epoch, "offset": 5})
                    assert answer["recovered"] is True
                    await push(bridge, "a", 31, 40)
                    await listener.wait_for("a", vehicle(40))
                    assert listener.offsets("a") == list(range(6, 41))
                    await aside(self._flush, server)
                    await push(bridge, "a", 41, 45)
                    await listener.wait_for("a", vehicle(45))
                    listener.check(bridge.published)
                assert "secret" not in edge.process.output()

        run(main)

    def test_is_no_more(self, start_redis: StartRedis):
        server = start_redis(acl=[self.USER])
        with contextlib.closing(server.client(username="edge", password="secret")) as redis:
            for command in (
                ("SET", "d:x", "1"),
                ("PUBLISH", "d:x", "1"),
                ("EVAL", "return 1", "0"),
                ("EVAL_RO", "return 1", "0"),
                ("DEL", "d:x"),
                ("RPUSH", "d:x", "1"),
                ("GET", "other"),
                ("SUBSCRIBE", "other"),
                ("KEYS", "*"),
                ("CONFIG", "GET", "*"),
                ("FLUSHALL",),
            ):
                with pytest.raises(Exception, match=r"(?i)no permission|noperm"):
                    redis.execute_command(*command)

    @staticmethod
    def _flush(server: RedisServer) -> None:
        with contextlib.closing(server.client()) as redis:
            redis.flushall()


class TestFaults:
    """Clients are told, hold right values, and no delta meets another base than its own: `check` looks at every value."""

    @pytest.mark.parametrize("how", ["flush", "kill", "snapshot"])
    def test_redis_loses_data_under_way(self, start_redis: StartRedis, start_project: StartProject, how: str):
        server = start_redis()

        async def main() -> None:
            with Bridge(server.url) as bridge:
                edge = await aside(EdgeProcess, start_project, server.url)
                await push(bridge, "moving", 1, 5)
                await push(bridge, "standing", 1, 1)
                snapshot = await aside(server.save)
                async with contextlib.AsyncExitStack() as stack:
                    listeners = [
                        await stack.enter_async_context(bare(edge, "moving,standing", delta=delta))
                        for delta in ("", "vcdiff", "json-patch")
                    ]
                    await push(bridge, "moving", 6, 10)
                    for listener in listeners:
                        await listener.wait_for("moving", vehicle(10))
                        await listener.wait_for("standing", vehicle(1))
                    enough = asyncio.Event()
                    pushing = asyncio.create_task(keep_pushing(bridge, "moving", 11, enough))
                    before = [len(listener.heard) for listener in listeners]
                    for listener, count in zip(listeners, before, strict=True):
                        await wait_until_async(partial(has, listener, count + 5), what="publications before the fault")
                    if how == "flush":
                        await aside(TestAcl._flush, server)
                    elif how == "kill":
                        await aside(server.restart, empty=True)
                    else:
                        await aside(server.restart, snapshot=snapshot)
                    for listener in listeners:
                        for channel in ("moving", "standing"):
                            await wait_until_async(partial(reasons, listener, channel), what=f"a gap on {channel}", state=listener.__repr__)
                    enough.set()
                    last = await pushing
                    for listener in listeners:
                        await listener.wait_for("moving", vehicle(last))
                        await listener.wait_for("standing", vehicle(1))
                        listener.check(bridge.published)
                        assert {gap["reason"] for gap in listener.gaps} == {"epoch_changed"}
                        assert listener.connection.close_code is None

        run(main)

    def test_redis_that_stands_still_for_a_while_costs_nothing(self, start_redis: StartRedis, start_project: StartProject):
        server = start_redis()

        async def main() -> None:
            with Bridge(server.url) as bridge:
                edge = await aside(EdgeProcess, start_project, server.url)
                await push(bridge, "a", 1, 3)
                async with bare(edge, "a", delta="vcdiff") as listener:
                    await listener.wait_for("a", vehicle(3))
                    server.pause()
                    pushing = asyncio.create_task(push(bridge, "a", 4, 10))
                    async with client(edge) as late:
                        await late.ask(type="subscribe", channel="a")  # is held already, so it needs no bus
                        answer = await late.ask(type="subscribe", channel="b")
                        assert answer["code"] == "unavailable"
                        server.resume()
                        await pushing
                        await listener.wait_for("a", vehicle(10))
                        await late.wait_for("a", vehicle(10))
                        assert listener.offsets("a") == list(range(3, 11))
                        assert listener.gaps == []
                        listener.check(bridge.published)

        run(main)

    def test_a_lost_subscription_connection_loses_nothing(self, bridge: Bridge, edge: EdgeProcess, redis_server: RedisServer):
        async def main() -> None:
            await push(bridge, "a", 1, 3)
            async with bare(edge, "a", delta="vcdiff") as listener:
                await listener.wait_for("a", vehicle(3))
                for first in (4, 14, 24):
                    with contextlib.closing(redis_server.client()) as redis:
                        await aside(redis.client_kill_filter, _type="pubsub")
                    await push(bridge, "a", first, first + 9)
                await listener.wait_for("a", vehicle(33))
                assert listener.offsets("a") == list(range(3, 34))
                assert listener.gaps == []
                listener.check(bridge.published)

        run(main)
