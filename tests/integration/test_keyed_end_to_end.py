"""A table from a real Kafka through bridge, a real Redis and edge to clients: their maps are what was produced, whatever breaks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from confluent_kafka import Producer
from websockets.asyncio.client import connect

from distributary import Client, Options, Position, Publication
from shared.bus.layout import BusLayout
from tests.conftest import StartProject, StartRedis
from tests.edge.service import EdgeProcess, aside, run
from tests.edge.slow_reader import slow_reader
from tests.rig.kafka_server import KafkaCluster
from tests.rig.process import Process
from tests.rig.redis_server import RedisServer
from tests.rig.wait import wait_until_async

TABLE = "table:v"
PATCHED = "table:p"
END = "the end of {}"
PARTITIONS = 2
FORMATS = [(form, delta) for form in ("json", "msgpack") for delta in ("none", "vcdiff", "json-patch")]
MODES = ["queue", "conflate", "ack"]

RULES = """
version: 1
sources:
  - {{name: rows, topics: ["{topic}"]}}
defaults:
  kind: keyed
  const: {{unit: EUR}}
  set: {{place: "headers.place"}}
  tags: {{rev: item.rev}}
  history: {{size: {history}, bytes: 64MiB}}
routes:
  - {{name: v, channel: "table:v", key: key, delta: vcdiff}}
  - {{name: p, channel: "table:p", key: key, delta: json-patch, only_changed: true}}
"""


class Table:
    """Produces changes of rows, and knows what each row was at each revision: a tombstone is a revision, too."""

    def __init__(self, kafka: KafkaCluster, topic: str, *, keys: int = 60, seed: int = 1) -> None:
        self.newest: dict[str, dict[str, Any]] = {}
        self.said: dict[str, list[dict[str, Any] | None]] = {}
        """What was said of each key, in order; None for a tombstone."""
        self._chance = random.Random(seed)
        self._keys = [f"row {number} é" for number in range(keys)]
        self._topic = topic
        self._producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "acks": "all", "linger.ms": 0, "log_level": 0})
        self._ends = itertools.count(1)
        self._revisions = itertools.count(1)

    def snapshots(self, count: int) -> None:
        """Change some rows of the table, and delete some, so many times."""
        for _ in range(count):
            for key in self._chance.sample(self._keys, 8):
                self.put(key)
            for key in self._chance.sample(self._keys, 2):
                self.delete(key)
        self._producer.flush(60)

    def finish(self) -> dict[str, dict[str, Any]]:
        """Say something that everybody can wait for, on each partition. Returns what the table is then."""
        number = next(self._ends)
        for partition in range(PARTITIONS):
            self.put(END.format(partition), partition=partition, number=number)
        assert self._producer.flush(60) == 0
        return dict(self.newest)

    def put(self, key: str, *, partition: int | None = None, number: int = 0) -> None:
        value: dict[str, Any] = {
            "key": key,
            "rev": next(self._revisions),
            "number": number,
            "ünïcode": "λ" * self._chance.randrange(4),
            "rest": ["some text that does not change, so that deltas are worth it" for _ in range(3)],
        }
        # Known before it is said: a client may have it before this thread goes on.
        self.newest[key] = {**value, "place": "shop", "unit": "EUR"}
        self.said.setdefault(key, []).append(self.newest[key])
        self._say(key, msgspec.json.encode(value), partition)

    def delete(self, key: str) -> None:
        self.newest.pop(key, None)
        self.said.setdefault(key, []).append(None)
        self._say(key, None, None)

    def _say(self, key: str, value: bytes | None, partition: int | None) -> None:
        if partition is None:
            partition = sum(key.encode()) % PARTITIONS
        self._producer.produce(self._topic, value, key.encode(), partition=partition, headers=[("place", b"shop")])
        self._producer.poll(0)


class Watcher:
    """A client's map, each change of which must be one that was said, in order."""

    def __init__(self, table: Table, name: str, *, may_repeat: bool) -> None:
        self.table = table
        self.name = name
        self.map: dict[str, Any] = {}
        self.place = ""
        self.count = 0
        self.may_repeat = may_repeat
        self._at: dict[str, int] = {}

    def begin(self) -> None:
        """The newest of each key comes anew. What is older than what was held may come where the bus was lost."""
        self.map.clear()
        self._at.clear()

    def take(self, key: str, value: Any, place: str) -> None:
        """One publication: a value, or None for a deletion."""
        self.count += 1
        self.place = place
        said = self.table.said[key]
        since = self._at.get(key, -1)
        at = since if self.may_repeat else since + 1
        while at < len(said) and (at < 0 or said[at] != value):
            at += 1
        assert at < len(said), f"{self.name} {place}: {key} became {value}, which it never was after {said[since] if since >= 0 else '-'}"
        self._at[key] = at
        if value is None:
            self.map.pop(key, None)
        else:
            self.map[key] = value

    def __repr__(self) -> str:
        wanted = self.table.newest
        wrong = {key: (self.map.get(key), wanted.get(key)) for key in {*self.map, *wanted} if self.map.get(key) != wanted.get(key)}
        return f"<Watcher {self.name} {self.place}: {self.count} taken, {len(wrong)} keys are wrong: {list(wrong.items())[:3]}>"


class Follower:
    """A Python client of one table that goes on until it is told to stop."""

    def __init__(
        self,
        url: str,
        table: Table,
        channel: str,
        form: str,
        delta: str,
        mode: str,
        *,
        pause_s: float = 0,
        position: Position | None = None,
    ) -> None:
        self.watcher = Watcher(table, f"{channel} {form} {delta} {mode}", may_repeat=mode == "ack")
        self.position = position
        self.gaps: list[Any] = []
        self.kinds: set[bool] = set()
        self._wish = {"mode": mode, "on_gap": self.gaps.append}
        self._client = {"format": form, "delta": () if delta == "none" else (delta,)}
        self._url, self._channel, self._mode, self._pause_s = url, channel, mode, pause_s
        self._task: asyncio.Task[None] | None = None
        self._is_resumed = False
        """Whether it came back with a map that this subscription does not know."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Be gone, as a process that is killed."""
        assert self._task is not None
        if self._task.done():
            self._task.result()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def check(self) -> None:
        if self._task is not None and self._task.done():
            self._task.result()

    async def wait_for(self, wanted: dict[str, Any], timeout_s: float = 120) -> None:
        def is_there() -> bool:
            self.check()
            return self.watcher.map == wanted

        await wait_until_async(
            is_there, what=f"the whole table in {self.watcher.name}", timeout_s=timeout_s, state=lambda: (self.watcher, self.gaps)
        )

    async def _follow(self) -> None:
        watcher = self.watcher
        async with Client(self._url, options=Options(proxy=False), **cast("Any", self._client)) as client:
            subscription = client.subscribe(self._channel, position=self.position, keep_state=True, **cast("Any", self._wish))
            async for publication in subscription:
                self._take(publication)
                if self._mode == "ack":
                    await subscription.ack(publication)
                self.position = subscription.position
                if self._pause_s:
                    await asyncio.sleep(self._pause_s)
                if self.position is None or not watcher.map or self._is_resumed:
                    continue
                held = {key: each.data for key, each in subscription.state.items()}
                assert held == watcher.map, watcher

    def resume(self, edge: EdgeProcess) -> None:
        """Come back with the map and the position that were held."""
        self._url = edge.url()
        self._is_resumed = True
        self.watcher.may_repeat = True
        self.start()

    def _take(self, publication: Publication) -> None:
        if publication.starts_state:
            self.watcher.begin()
            self._is_resumed = False
        self.kinds.add(publication.is_delta)
        assert publication.key is not None
        if not publication.is_deleted and isinstance(publication.data, dict):
            assert publication.tags == {"rev": str(publication.data["rev"])}
        self.watcher.take(publication.key, publication.data, f"at {publication.position}")


class Bare:
    """A client of the bare URL, in JSON without deltas."""

    def __init__(self, edge: EdgeProcess, table: Table, mode: str) -> None:
        self.watcher = Watcher(table, f"bare {mode}", may_repeat=False)
        self._url = edge.url(channels=TABLE, mode=mode)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async with connect(self._url, max_size=None) as connection:
            async for text in connection:
                frame = msgspec.json.decode(text)
                if frame["type"] == "gap":
                    self.watcher.begin()
                elif frame["type"] == "publication":
                    assert frame["channel"] == TABLE
                    assert len(frame["epoch"]) == 16
                    self.watcher.take(frame["key"], None if frame.get("deleted") else frame["data"], f"at {frame['offset']}")

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def wait_for(self, wanted: dict[str, Any]) -> None:
        await wait_until_async(
            lambda: self.watcher.map == wanted, what="the whole table at a bare client", timeout_s=120, state=lambda: self.watcher
        )


class World:
    """All the parts."""

    def __init__(self, start: StartProject, kafka: KafkaCluster, topic: str, redis: RedisServer, directory: Path) -> None:
        self.redis = redis
        self.kafka = kafka
        self.table = Table(kafka, topic)
        self.rules = directory / "rules.yaml"
        self.group = f"group-{topic}"
        self._topic = topic
        self._start = start
        self.write_rules()

    def write_rules(self, history: int = 5_000) -> None:
        self.rules.write_text(RULES.format(topic=self._topic, history=history))

    def bridge(self, *options: str) -> Process:
        bridge = self._start(
            "bridge",
            *("run", "--rules", self.rules, "--bootstrap-servers", self.kafka.bootstrap_servers, "--group", self.group),
            *("--bus", self.redis.url, "--internal-port", "0", "--log-format", "json", "--commit-interval-s", "0.2"),
            *("--kafka-property", "session.timeout.ms=6000", "--kafka-property", "heartbeat.interval.ms=500", *options),
        )
        with self.redis.client() as client:
            bridge.wait_for(lambda: client.exists(BusLayout().layout_key()), what="the bus to be set up")
        return bridge

    def edge(self, *options: str | int) -> EdgeProcess:
        # One that does not read answers no pings: that is not what is tested here.
        return EdgeProcess(self._start, self.redis.url, "--ping-interval-s", 600, *options)

    def follow(self, edge: EdgeProcess, form: str, delta: str, mode: str, channel: str = TABLE, **wish: Any) -> Follower:
        follower = Follower(edge.url(), self.table, channel, form, delta, mode, **wish)
        follower.start()
        return follower


@pytest.fixture
def world(start_project: StartProject, kafka: KafkaCluster, unique_name: str, start_redis: StartRedis, tmp_path: Path) -> World:
    return World(start_project, kafka, kafka.create_topic(unique_name, partitions=PARTITIONS), start_redis(), tmp_path)


@contextlib.asynccontextmanager
async def stopping(*followers: Follower | Bare) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for follower in followers:
            await follower.stop()


def all_of(world: World, edge: EdgeProcess, modes: list[str], **wish: Any) -> list[Follower]:
    return [
        world.follow(edge, form, delta, mode, channel, **wish)
        for number, (mode, (form, delta)) in enumerate(itertools.product(modes, FORMATS))
        for channel in ((TABLE, PATCHED)[number % 2],)
    ]


async def wait_for_all(followers: Sequence[Follower | Bare], wanted: dict[str, Any]) -> None:
    for follower in followers:
        await follower.wait_for(wanted)


def test_every_map_is_the_table_in_every_mode_and_format_early_and_late(world: World):
    edge, late_edge = world.edge(), world.edge()
    world.bridge()

    async def main() -> None:
        bares = [Bare(edge, world.table, mode) for mode in MODES[:2]]
        early: list[Follower | Bare] = [*all_of(world, edge, MODES), *bares]
        for bare in bares:
            bare.start()
        async with stopping(*early):
            await aside(world.table.snapshots, 100)
            middle = [*all_of(world, edge, MODES), *all_of(world, late_edge, MODES)]
            async with stopping(*middle):
                await aside(world.table.snapshots, 100)
                wanted = await aside(world.table.finish)
                await wait_for_all([*early, *middle], wanted)
                assert all(not follower.gaps for follower in early if isinstance(follower, Follower))
                assert any(True in follower.kinds for follower in early if isinstance(follower, Follower))
            after = all_of(world, late_edge, MODES)
            async with stopping(*after):
                await wait_for_all(after, wanted)

    run(main)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_warm", [True, False])
@pytest.mark.parametrize("history", [5_000, 50])
def test_a_client_that_is_killed_comes_back_with_its_map(world: World, mode: str, is_warm: bool, history: int):
    world.write_rules(history)
    edge = world.edge()
    world.bridge()

    async def main() -> None:
        await aside(world.table.snapshots, 5)
        followers = [world.follow(edge, form, delta, mode) for form, delta in FORMATS]
        for away in (0, 3, 40):
            await wait_for_all(followers, await aside(world.table.finish))
            for follower in followers:
                await follower.stop()
            await aside(world.table.snapshots, away)
            back = edge if is_warm else world.edge()
            for follower in followers:
                follower.resume(back)
            await aside(world.table.snapshots, 2)
        async with stopping(*followers):
            await wait_for_all(followers, await aside(world.table.finish))

    run(main)


def test_really_slow_readers_have_the_table_in_the_end(world: World):
    edge = world.edge()
    world.bridge()

    async def main() -> None:
        await aside(world.table.snapshots, 2)
        slow = [world.follow(edge, form, delta, "conflate", pause_s=0.02) for form, delta in FORMATS]
        slow += [world.follow(edge, "msgpack", "vcdiff", "ack", pause_s=0.002)]
        async with stopping(*slow), slow_reader(edge) as reader:
            await reader.subscribe(TABLE, mode="conflate")
            for _ in range(10):
                await aside(world.table.snapshots, 10)
            wanted = await aside(world.table.finish)
            watcher = Watcher(world.table, "socket", may_repeat=False)
            while watcher.map != wanted:
                frame = await reader.read()
                if frame["type"] == "publication":
                    watcher.take(frame["key"], None if frame.get("deleted") else frame["data"], f"at {frame['offset']}")
            await wait_for_all(slow, wanted)

    run(main)


class Troubled:
    """What breaks while clients look on."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.bridge = world.bridge()
        self.edge = world.edge()

    def kill_bridge(self) -> None:
        self.bridge.kill()
        self.world.table.snapshots(2)
        self.bridge = self.world.bridge()

    def empty_redis(self) -> None:
        with self.world.redis.client() as client:
            client.flushall()

    def restart_redis(self) -> None:
        self.world.redis.restart(empty=True)

    def restart_edge(self) -> None:
        self.edge.process.kill()
        self.edge.process.start()
        self.edge.process.wait_for_port(self.edge.port)


@pytest.mark.parametrize(
    "troubles",
    [
        ["kill_bridge"] * 3,
        ["empty_redis"] * 3,
        ["restart_edge"] * 2,
        ["empty_redis", "restart_edge", "restart_redis", "empty_redis", "kill_bridge"],
    ],
    ids="-".join,
)
def test_whatever_breaks_no_value_is_wrong_and_nothing_deleted_comes_back(world: World, troubles: list[str]):
    troubled = Troubled(world)

    async def main() -> None:
        await aside(world.table.snapshots, 5)
        followers = all_of(world, troubled.edge, MODES)
        followers += [world.follow(troubled.edge, "msgpack", "vcdiff", "conflate", pause_s=0.005)]
        async with stopping(*followers):
            await wait_for_all(followers, await aside(world.table.finish))
            for trouble in troubles:
                producing = asyncio.create_task(aside(world.table.snapshots, 15))
                await aside(cast("Callable[[], None]", getattr(troubled, trouble)))
                await producing
                await wait_for_all(followers, await aside(world.table.finish))

    run(main)
