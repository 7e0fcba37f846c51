"""The bus over Redis, as an edge sees it: subscribe and read, nothing else.

Each server has a link of two connections: one for pub/sub, one for reads. When either breaks both are made anew, and every channel in
use is verified by reading: what was published meanwhile was pushed to nobody. A link that is up and silent is no better: bridges send
heartbeats on each shard, and where they stay away the channels are read as well, ever more rarely. Which servers there are, and what
lives on each, is the business of redis_placement.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice

from edge.adapters.redis_connection import Address, RedisConnection
from edge.adapters.redis_link import Link
from edge.adapters.redis_placement import ClusterLinks, ServerLinks
from edge.adapters.redis_round import Round
from edge.core.awake import AwakeClock
from edge.ports import BusEvents, ChannelHistory, KeyPage
from edge.turns import Turns
from shared.bus.layout import BusLayout
from shared.envelope import Envelope, decode
from shared.errors import BusUnavailableError, EnvelopeError
from shared.telemetry import Log

log = Log("distributary.edge.bus")

MAX_READS_IN_FLIGHT = 64
VERIFIED_A_TICK = 200
"""Channels read a tick (0.1 s) to verify them: after an outage all edges do this at once."""
TICK_S = 0.1
SUBSCRIBE_TIMEOUT_S = 3.0


class RedisBus:
    """`edge.ports.Bus` over one or several Redis servers, or a Redis Cluster. `run` must be running."""

    def __init__(
        self,
        addresses: Sequence[Address],
        *,
        cluster: bool = False,
        prefix: str,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """`addresses` are all the servers of the bus in their order or, with `cluster`, some nodes of a Redis Cluster."""
        self._awake = AwakeClock(clock)
        """For the links: what came while this process stood still is not read yet, and no heartbeat is late because of it."""
        self._random = random
        self._placement = ClusterLinks(self, addresses, prefix, random) if cluster else ServerLinks(self, addresses, prefix)
        self._events: BusEvents | None = None
        self._wanted: set[str] = set()
        self._reads = asyncio.Semaphore(MAX_READS_IN_FLIGHT)
        self._turns = Turns(clock)
        """Its own: channels are not to wait behind thousands of clients who come at the same time."""
        self._to_verify: dict[str, None] = {}
        self._doubtful: dict[int, str] = {}
        """Shards all of whose channels are to be verified, and why: looked at together, or 16 that are lost at once would be 16 rounds."""
        self._added: Counter[str] = Counter()
        """For the log: how many channels are to be verified since the last tick, by the reason."""
        self._was_up = False
        self.reads = 0

    def __repr__(self) -> str:
        return f"<RedisBus {self._placement.links} {len(self._wanted)} channels wanted>"

    @property
    def layout(self) -> BusLayout | None:
        """Known once a server was reached on which a bridge has stored it."""
        return self._placement.layout

    @property
    def is_up(self) -> bool:
        """Whether every server is connected."""
        links = self._placement.links
        return bool(links) and all(link.is_up for link in links)

    @property
    def was_up(self) -> bool:
        """Whether every server was connected, with all that this edge may do there, at least once."""
        links = self._placement.links
        self._was_up = self._was_up or (bool(links) and all(link.was_up for link in links))
        return self._was_up

    @property
    def is_healthy(self) -> bool:
        """Whether every server is connected and a bridge was heard on it lately."""
        return self.is_up and not any(link.is_silent for link in self._placement.links)

    def describe(self) -> list[dict[str, object]]:
        """The state of each server, for health and logs."""
        return [link.describe() for link in self._placement.links]

    async def run(self, events: BusEvents) -> None:
        """Keep every server connected until cancelled. Raises BusLayoutError where the bus is set up otherwise than this edge."""
        self._events = events
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._placement.run())
            tasks.create_task(self._tick())

    async def subscribe(self, channel: str) -> None:
        """See `edge.ports.Bus`."""
        self._wanted.add(channel)
        try:
            async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S):
                await self._placement.has_layout.wait()
                await self._link_of(channel).subscribe(channel)
        except TimeoutError:
            msg = "no bridge has set this bus up yet" if self.layout is None else f"{self._link_of(channel)} does not answer"
            raise BusUnavailableError(msg) from None

    def unsubscribe(self, channel: str) -> None:
        """See `edge.ports.Bus`."""
        self._wanted.discard(channel)
        self._to_verify.pop(channel, None)
        with contextlib.suppress(BusUnavailableError):  # Where it lives nowhere now, nobody is asked for it either.
            self._link_of(channel).unsubscribe(channel)

    def hold(self, is_held: bool) -> None:  # noqa: FBT001  (see the port)
        """See `edge.ports.Bus`."""
        for link in self._placement.links:
            link.hold(is_held)

    async def read(self, channel: str, count: int, skip: int = 0) -> ChannelHistory:
        """See `edge.ports.Bus`."""
        return await self._read(channel, -count - skip, -1 - skip, count)

    async def read_oldest(self, channel: str, count: int) -> ChannelHistory:
        """See `edge.ports.Bus`."""
        return await self._read(channel, 0, count - 1, count)

    async def read_keys(self, channel: str, cursor: int, count: int) -> KeyPage:
        """See `edge.ports.Bus`."""
        layout = self._known_layout()
        async with self._reads:
            self.reads += 1
            following, entries = await self._link_of(channel).read_keys(layout, channel, cursor, count)
        return KeyPage(self._decode(channel, entries), following)

    async def _read(self, channel: str, first: int, last: int, count: int) -> ChannelHistory:
        """Read a part of the history: the places of its ends, as LRANGE counts them."""
        layout = self._known_layout()
        async with self._reads:
            self.reads += 1
            entries = await self._link_of(channel).read(layout, channel, first, last)
        return ChannelHistory(self._decode(channel, entries), count)

    @staticmethod
    def _decode(channel: str, entries: list[bytes]) -> list[Envelope]:
        try:
            return [decode(entry) for entry in entries]
        except EnvelopeError as error:
            msg = f"what the bus holds of {channel} cannot be read: {error}"
            raise BusUnavailableError(msg) from error

    async def learn_layout(self, link: Link, reader: RedisConnection) -> BusLayout:
        """See `LinkOwner`."""
        return await self._placement.learn_layout(link, reader)

    def doubt(self, link: Link) -> None:
        """See `LinkOwner`."""
        self._placement.doubt(link)

    def go_through(self, shards: Collection[int], visit: Callable[[dict[int, list[str]]], bool]) -> None:
        """See `LinkOwner`."""
        layout = self._known_layout()

        def visit_some(channels: list[str]) -> bool:
            by_shard: dict[int, list[str]] = {}
            for channel in channels:
                if channel in self._wanted and (shard := layout.shard_of(channel)) in shards:
                    by_shard.setdefault(shard, []).append(channel)
            return visit(by_shard)

        Round(self._turns, self._wanted, visit_some).go_on()

    def verify(self, channels: Iterable[str], why: str) -> None:
        """Have these channels read, a bounded number a second."""
        before = len(self._to_verify)
        self._to_verify.update(dict.fromkeys(channels))
        if len(self._to_verify) > before:
            self._added[why] += len(self._to_verify) - before

    def verify_on(self, shards: Collection[int], why: str) -> None:
        """Have the channels in use on these shards read: see `verify`."""
        self._doubtful.update(dict.fromkeys(shards, why))

    def deliver(self, arrived: list[tuple[str, Envelope]]) -> None:
        """Hand publications on."""
        if self._events is not None:
            self._events.on_publications(arrived)

    def jittered(self, seconds: float) -> float:
        """Half to one and a half times as long."""
        return seconds * (0.5 + self._random())

    def now(self) -> float:
        """Seconds on a clock that never goes back, and stands still while this process does."""
        return self._awake()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._watch_beats()
            self._look_for_doubtful()
            for why, channels in self._added.items():
                log.info("verifying channels by reading", channels=channels, why=why)
            self._added.clear()
            due = list(islice(self._to_verify, VERIFIED_A_TICK))
            for channel in due:
                del self._to_verify[channel]
            if due and self._events is not None:
                self._events.on_verify(due, "the bus was away, silent, or lost data")

    def _watch_beats(self) -> None:
        self._awake.tick()
        for link in self._placement.links:
            link.watch_beats()

    def _look_for_doubtful(self) -> None:
        if not self._doubtful:
            return
        doubtful, self._doubtful = self._doubtful, {}

        def visit(by_shard: dict[int, list[str]]) -> bool:
            for shard, channels in by_shard.items():
                self.verify(channels, doubtful[shard])
            return True

        self.go_through(doubtful.keys(), visit)

    def _known_layout(self) -> BusLayout:
        if self.layout is None:
            msg = "no bridge has set this bus up yet"
            raise BusUnavailableError(msg)
        return self.layout

    def _link_of(self, channel: str) -> Link:
        return self._placement.link_of(self._known_layout().shard_of(channel))
