"""A fleet whose every published value is known, the rules that split it, and followers that write down what clients get."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

import msgspec

from bridge.demo.simulation import Simulation
from distributary import Client, Gap, Publication
from tests.rig.wait import wait_until_async

RULES = """version: 1
sources:
  - {{name: vehicles, topics: ["{topic}"], format: json}}
defaults: {{history: {{size: 10000, bytes: 64MiB}}, only_changed: {only_changed}}}
routes:
  - {{name: feed, channel: feed, history: {{size: 3}}}}
  - {{name: bus, split: value, channel: "bus:{{item.id}}", delta: {bus_delta}}}
  - name: position
    split: value
    channel: "position:{{item.id}}"
    project: {{id: item.id, lat: item.vehicle.position.latitude, long: item.vehicle.position.longitude}}
"""


def write_rules(folder: Path, topic: str, *, only_changed: bool = False, bus_delta: str = "vcdiff") -> Path:
    """The rules file that sends the fleet three ways."""
    path = folder / "rules.yaml"
    path.write_text(RULES.format(topic=topic, only_changed=str(only_changed).lower(), bus_delta=bus_delta))
    return path


class Fleet:
    """Makes snapshots, one after the other, and remembers what every channel must have got from them, in order."""

    def __init__(self, vehicles: int = 152, seed: int = 1) -> None:
        self._simulation = Simulation(seed, vehicles)
        self._tick = 0
        self.expected: dict[str, list[Any]] = defaultdict(list)
        """Values by channel, repeated ones included."""

    def __repr__(self) -> str:
        return f"<Fleet {self._tick} snapshots, {len(self.expected)} channels>"

    def snapshots(self, count: int) -> list[bytes]:
        """The next records."""
        return [self._next() for _ in range(count)]

    def changes(self, channel: str) -> list[Any]:
        """What a channel with `only_changed` must have got."""
        values = self.expected[channel]
        return [value for at, value in enumerate(values) if at == 0 or value != values[at - 1]]

    def _next(self) -> bytes:
        entities = self._simulation.snapshot(self._tick)
        self._tick += 1
        self.expected["feed"].append(entities)
        for entity in entities:
            place = entity["vehicle"]["position"]
            self.expected[f"bus:{entity['id']}"].append(entity)
            position = {"id": entity["id"], "lat": place["latitude"], "long": place["longitude"]}
            self.expected[f"position:{entity['id']}"].append(position)
        return msgspec.json.encode(entities)


class Follower:
    """A client that writes down all it gets of some channels. Use it with `async with`; `joined` waits until it is subscribed."""

    def __init__(self, url: str, channels: list[str], **options: Any) -> None:
        self.name = f"{options.get('format', 'msgpack')}, delta {options.get('delta', ('vcdiff',))}"
        self.got: dict[str, list[Publication]] = {channel: [] for channel in channels}
        self.gaps: dict[str, list[Gap]] = {channel: [] for channel in channels}
        self._client = Client(url, **options)
        self._tasks: list[asyncio.Task[None]] = []
        self._joined: set[str] = set()

    def __repr__(self) -> str:
        return f"<Follower {self.name}: {sum(map(len, self.got.values()))} publications, {sum(map(len, self.gaps.values()))} gaps>"

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        self._tasks = [asyncio.create_task(self._follow(channel)) for channel in self.got]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    async def joined(self, timeout_s: float = 120) -> None:
        """Wait until every channel is subscribed to: what is published from then on arrives one by one."""
        await wait_until_async(
            lambda: self._is_well() and len(self._joined) == len(self.got),
            what="all subscriptions",
            timeout_s=timeout_s,
            state=lambda: self,
        )

    def values(self, channel: str) -> list[Any]:
        """The values of a channel, in the order in which they came."""
        return [publication.data for publication in self.got[channel]]

    def newest(self, channel: str) -> Any:
        """The value that an application would show now."""
        return self.got[channel][-1].data if self.got[channel] else None

    async def wait_for(self, channel: str, count: int, timeout_s: float = 120) -> None:
        """Wait until so many publications came."""
        await wait_until_async(
            lambda: self._is_well() and len(self.got[channel]) >= count,
            what=f"{count} publications on {channel}",
            timeout_s=timeout_s,
            state=lambda: self,
        )

    async def wait_for_newest(self, expected: dict[str, Any], timeout_s: float = 120) -> None:
        """Wait until every channel shows what it must."""
        await wait_until_async(
            lambda: self._is_well() and all(self.newest(channel) == value for channel, value in expected.items()),
            what="the newest values",
            timeout_s=timeout_s,
            state=lambda: {c: (self.newest(c), value) for c, value in expected.items() if self.newest(c) != value},
        )

    async def wait_for_gap(self, channel: str, count: int, timeout_s: float = 120) -> None:
        """Wait until the client was told of so many gaps."""
        await wait_until_async(
            lambda: self._is_well() and len(self.gaps[channel]) >= count,
            what=f"{count} gaps on {channel}",
            timeout_s=timeout_s,
            state=lambda: self,
        )

    def _is_well(self) -> bool:
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()
        return True

    async def _follow(self, channel: str) -> None:
        async with contextlib.aclosing(self._client.subscribe(channel, on_gap=self.gaps[channel].append)) as publications:
            await publications.joined()
            self._joined.add(channel)
            async for publication in publications:
                self.got[channel].append(publication)


def assert_no_hole(publications: list[Publication]) -> None:
    """Offsets ascend by one within an epoch."""
    for before, after in itertools.pairwise(publications):
        if before.position.epoch == after.position.epoch and after.gap is None:
            assert after.position.offset == before.position.offset + 1
