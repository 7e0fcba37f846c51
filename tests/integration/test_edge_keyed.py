"""Keyed channels on a real Redis and real sockets: the state while publications go on, slow readers, other edges, bounds."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from distributary import Client, Options, RefusedError, Subscription
from shared.bus.layout import BusLayout
from shared.bus.publisher import BusPublisher
from shared.bus.push import Keep, Outcome, Push, Source
from shared.bus.servers import connect_servers
from shared.delta import vcdiff
from shared.publication import ContentType, DeltaFormat, Kind, payload_hash
from tests.conftest import StartProject
from tests.edge.service import EdgeProcess, aside, run
from tests.edge.slow_reader import slow_reader

FLEET = "fleet:all"
BATCH = 200

StartEdge = Callable[..., EdgeProcess]


class Fleet:
    """Publishes values of keys, and knows the newest of each."""

    def __init__(self, url: str, *, keep: int = 100, pad: int = 40) -> None:
        self.newest: dict[str, dict[str, Any]] = {}
        self._payloads: dict[str, bytes] = {}
        self._publisher = BusPublisher(connect_servers([url]), BusLayout(), instance="bridge-1")
        self._publisher.open()
        self._numbers = itertools.count(1)
        self._keep = Keep(history_size=keep, max_keys=1_000_000)
        self.pad = "x" * pad

    def close(self) -> None:
        self._publisher.close()

    def publish(self, keys: list[str]) -> None:
        """A new value of each key, as a delta where there is one before."""
        for at in range(0, len(keys), BATCH):
            self._push([self._value(key) for key in keys[at : at + BATCH]])

    def delete(self, *keys: str) -> None:
        for key in keys:
            del self.newest[key], self._payloads[key]
        self._push([self._made(key, b"", None, ContentType.NONE) for key in keys])

    def _push(self, pushes: list[Push]) -> None:
        assert {pushed.outcome for pushed in self._publisher.push(pushes)} <= {Outcome.FULL, Outcome.DELTA}
        self._publisher.beat()

    def _value(self, key: str) -> Push:
        number = next(self._numbers)
        self.newest[key] = value = {"id": key, "n": number, "pad": self.pad}
        payload, former = msgspec.json.encode(value), self._payloads.get(key)
        self._payloads[key] = payload
        return self._made(key, payload, former, ContentType.JSON)

    def _made(self, key: str, payload: bytes, former: bytes | None, content_type: ContentType) -> Push:
        return Push(
            FLEET,
            payload,
            payload_hash(payload),
            content_type,
            Kind.KEYED,
            1_700_000_000_000,
            Source(b"s" * 12, next(self._numbers), 0),
            self._keep,
            DeltaFormat.NONE if former is None else DeltaFormat.VCDIFF,
            b"" if former is None else vcdiff.encode(former, payload),
            b"" if former is None else payload_hash(former),
            key=key.encode(),
        )


@pytest.fixture
def fleet(redis_url: str) -> Iterator[Fleet]:
    fleet = Fleet(redis_url)
    yield fleet
    fleet.close()


@pytest.fixture
def start_edge(redis_url: str, start_project: StartProject) -> StartEdge:
    # One that does not read answers no pings: that is not what is tested here.
    return lambda *options: EdgeProcess(start_project, redis_url, "--ping-interval-s", 600, *options)


def client_of(edge: EdgeProcess, **wish: Any) -> Client:
    return Client(edge.url(), options=Options(proxy=False), **wish)


def state_of(subscription: Subscription) -> dict[str, Any]:
    return {key: publication.data for key, publication in subscription.state.items()}


def rss_bytes(edge: EdgeProcess) -> int:
    return int(Path(f"/proc/{edge.process.pid}/statm").read_text().split()[1]) * 4096


def calls(redis_url: str, command: str) -> int:
    with redis.Redis.from_url(redis_url) as client:
        stats: Any = client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def follow_until(subscription: Subscription, wanted: dict[str, dict[str, Any]]) -> None:
    """Take publications until the newest of all is there, and compare all."""
    newest = max(wanted, key=lambda key: wanted[key]["n"])
    while newest not in subscription.state or subscription.state[newest].data != wanted[newest]:
        publication = await anext(subscription)
        assert publication.gap is None
    assert state_of(subscription) == wanted


async def follow_state(frames: Any, state: dict[str, Any], until: int) -> list[int]:
    """Apply frames of JSON without deltas to `state` until offset `until`; returns the offsets."""
    offsets: list[int] = []
    while not offsets or offsets[-1] < until:
        frame = await frames.read()
        if frame["type"] == "caught_up":
            continue
        assert frame["type"] == "publication", frame
        offsets.append(frame["offset"])
        if frame.get("deleted"):
            state.pop(frame["key"], None)
        else:
            state[frame["key"]] = frame["data"]
    return offsets


class TestState:
    def test_100_000_keys_while_publications_go_on(self, fleet: Fleet, start_edge: StartEdge, redis_url: str):
        keys = [f"vehicle {number}" for number in range(100_000)]
        fleet.publish(keys)
        before = calls(redis_url, "hscan")
        edge = start_edge()
        chance = random.Random(1)

        async def publish_on(stop: asyncio.Event) -> None:
            while not stop.is_set():
                await aside(fleet.publish, [chance.choice(keys) for _ in range(BATCH)])

        async def main() -> None:
            stop = asyncio.Event()
            async with client_of(edge, format="msgpack", delta=("vcdiff",)) as one, client_of(edge, format="json", delta=()) as two:
                publishing = asyncio.create_task(publish_on(stop))
                subscriptions = [one.subscribe(FLEET, keep_state=True), two.subscribe(FLEET, keep_state=True)]
                pages = []
                for subscription in subscriptions:
                    assert len(await subscription.read_state()) == len(keys)
                    pages.append(calls(redis_url, "hscan") - before)
                assert pages[0] > 100
                assert pages[1] == pages[0], "one edge reads the keys once, however many clients come"
                stop.set()
                await publishing
                for subscription in subscriptions:
                    await follow_until(subscription, fleet.newest)
                    assert subscription.info is not None
                    assert subscription.info.kind == "keyed"

        run(main)

    def test_deletions_and_what_comes_after_them(self, fleet: Fleet, start_edge: StartEdge):
        fleet.publish(["a", "b", "c"])
        fleet.delete("b")
        edge = start_edge()

        async def main() -> None:
            async with client_of(edge) as one:
                subscription = one.subscribe(FLEET, keep_state=True)
                assert set(await subscription.read_state()) == {"a", "c"}
                await aside(fleet.delete, "a")
                await aside(fleet.publish, ["b", "c"])
                await follow_until(subscription, fleet.newest)
                assert set(subscription.state) == {"b", "c"}

        run(main)

    def test_a_channel_that_is_not_there_yet(self, fleet: Fleet, start_edge: StartEdge):
        edge = start_edge()

        async def main() -> None:
            async with client_of(edge) as one:
                subscription = one.subscribe(FLEET, keep_state=True)
                assert await subscription.read_state() == {}
                await aside(fleet.publish, ["a", "b", "a"])
                await follow_until(subscription, fleet.newest)

        run(main)

    @pytest.mark.parametrize("mode", ["queue", "conflate", "ack"])
    def test_every_mode_ends_with_the_newest_of_each_key(self, fleet: Fleet, start_edge: StartEdge, mode: Any):
        keys = [f"key {number}" for number in range(500)]
        fleet.publish(keys)
        edge = start_edge()
        chance = random.Random(2)

        async def main() -> None:
            async with client_of(edge) as one:
                subscription = one.subscribe(FLEET, keep_state=True, mode=mode)
                await subscription.joined()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(aside(fleet.publish, [*(chance.choice(keys) for _ in range(5_000)), "the last one"]))
                    while "the last one" not in subscription.state:
                        publication = await anext(subscription)
                        if mode == "ack":
                            await subscription.ack(publication)
                assert state_of(subscription) == fleet.newest

        run(main)


class TestSlowReaders:
    def test_conflation_ends_with_the_newest_of_each_key_and_memory_is_flat(self, fleet: Fleet, start_edge: StartEdge):
        keys = [f"key {number}" for number in range(300)]
        fleet.pad = "x" * 2_000
        fleet.publish(keys)
        edge = start_edge()
        chance = random.Random(3)

        async def main() -> None:
            async with client_of(edge) as witness, slow_reader(edge) as slow:
                subscription = witness.subscribe(FLEET, keep_state=True)
                await subscription.read_state()
                await slow.subscribe(FLEET, mode="conflate")
                await aside(fleet.publish, [chance.choice(keys) for _ in range(3_000)])
                await follow_until(subscription, fleet.newest)
                before = rss_bytes(edge)
                await aside(fleet.publish, [chance.choice(keys) for _ in range(12_000)])
                await aside(fleet.delete, keys[7])
                await aside(fleet.publish, ["the last one"])
                await follow_until(subscription, fleet.newest)
                assert rss_bytes(edge) - before < 8_000_000, "24 MB were published, and nothing waits for the slow one"
                state: dict[str, Any] = {}
                offsets = await follow_state(slow, state, until=300 + 3_000 + 12_000 + 2)
                assert offsets == sorted(set(offsets))
                assert len(offsets) < 3_000
                assert state == fleet.newest

        run(main)

    def test_a_queue_is_not_overfilled_by_the_state(self, fleet: Fleet, start_edge: StartEdge):
        fleet.pad = "x" * 500
        keys = [f"key {number}" for number in range(20_000)]
        fleet.publish(keys)
        edge = start_edge("--max-outbox-bytes", 65_536)

        async def main() -> None:
            async with slow_reader(edge) as slow:
                answer = await slow.subscribe(FLEET)
                state: dict[str, Any] = {}
                await aside(fleet.publish, keys[:100])
                await follow_state(slow, state, until=answer["position"]["offset"] + 100)
                assert state == fleet.newest

        run(main)


class TestComingBack:
    @pytest.mark.parametrize("mode", ["queue", "conflate", "ack"])
    def test_to_another_edge_from_the_history(self, fleet: Fleet, start_edge: StartEdge, mode: str):
        fleet.publish(["a", "b", "c", "d"])
        one, two = start_edge(), start_edge()

        async def main() -> None:
            state: dict[str, Any] = {}
            async with slow_reader(one) as first:
                answer = await first.subscribe(FLEET, mode=mode)
                await follow_state(first, state, until=4)
                epoch = answer["position"]["epoch"]
            await aside(fleet.publish, ["a", "b", "a"])
            await aside(fleet.delete, "c")
            async with slow_reader(two) as again:
                answer = await again.subscribe(FLEET, mode=mode, position={"epoch": epoch, "offset": 4})
                assert answer["recovered"] is True
                offsets = await follow_state(again, state, until=8)
                assert offsets == ([5, 6, 7, 8] if mode == "ack" else offsets)
                assert state == fleet.newest

        run(main)

    def test_what_nobody_knows_any_more_is_a_gap_and_the_state(self, redis_url: str, start_edge: StartEdge):
        fleet = Fleet(redis_url, keep=2)
        fleet.publish(["a", "b", "c"])
        edge = start_edge()

        async def main() -> None:
            await aside(fleet.delete, "a")
            await aside(fleet.publish, ["b", "b", "b"])
            async with slow_reader(edge) as slow:
                answer = await slow.subscribe(FLEET, position={"epoch": await epoch_of(edge), "offset": 3})
                assert (answer["recovered"], answer["reason"], answer["missed"]) == (False, "history_trimmed", {"from": 4, "to": 7})
                state: dict[str, Any] = {}
                await follow_state(slow, state, until=7)
                assert state == fleet.newest

        run(main)
        fleet.close()


async def epoch_of(edge: EdgeProcess) -> str:
    async with slow_reader(edge) as reader:
        return str((await reader.subscribe(FLEET))["position"]["epoch"])


class TestBounds:
    def test_more_keys_than_the_edge_holds_are_an_error(self, fleet: Fleet, start_edge: StartEdge):
        fleet.publish([f"key {number}" for number in range(100)])
        edge = start_edge("--max-keys", 99)

        async def main() -> None:
            async with client_of(edge) as one:
                with pytest.raises(RefusedError, match="more than 99 keys") as refused:
                    await one.subscribe(FLEET).joined()
                assert (refused.value.code, refused.value.retry) == ("state_too_large", False)

        run(main)

    def test_one_that_grows_beyond_them_ends(self, fleet: Fleet, start_edge: StartEdge):
        fleet.publish([f"key {number}" for number in range(99)])
        edge = start_edge("--max-keys", 99)

        async def main() -> None:
            async with client_of(edge) as one, slow_reader(edge) as slow:
                subscription = one.subscribe(FLEET, keep_state=True)
                await subscription.read_state()
                await slow.subscribe(FLEET, mode="conflate")
                await aside(fleet.publish, ["one more"])
                with pytest.raises(RefusedError, match="more than 99 keys"):
                    async for _ in subscription:
                        pass
                assert [frame["type"] for frame in await slow.read_all()][-1] == "unsubscribed"

        run(main)
