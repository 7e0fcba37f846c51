"""The bus over Redis, as an edge sees it: subscribe and read, nothing else.

Each server has two connections: one for pub/sub, one for reads. When either breaks both are made anew, and every channel in use is
verified by reading: what was published meanwhile was pushed to nobody. A link that is up and silent is no better: bridges send
heartbeats on each shard, and where they stay away the channels are read as well, ever more rarely.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hiredis

from edge.adapters.redis_connection import Address, RedisConnection, pack
from edge.ports import BusEvents, ChannelHistory
from shared.bus.layout import INCARNATION_BYTES, BusLayout, StoredLayout, check_layout, decode_layout
from shared.envelope import Envelope, decode
from shared.errors import BusLayoutError, BusUnavailableError, EnvelopeError
from shared.telemetry import Log

log = Log("distributary.edge.bus")

MAX_READS_IN_FLIGHT = 64
VERIFIED_A_TICK = 200
"""Channels read a tick (0.1 s) to verify them: after an outage all edges do this at once."""
TICK_S = 0.1
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0
PING_INTERVAL_S = 5.0
BEAT_TIMEOUT_S = 3.5
LAST_SILENCE_S = 60.0
SUBSCRIBE_TIMEOUT_S = 3.0


class RedisBus:
    """`edge.ports.Bus` over one or several Redis servers. `run` must be running."""

    def __init__(
        self,
        addresses: Sequence[Address],
        *,
        prefix: str,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.prefix = prefix
        self._clock = clock
        self._random = random
        self._servers = [_Server(self, address, index, len(addresses)) for index, address in enumerate(addresses)]
        self._events: BusEvents | None = None
        self._wanted: set[str] = set()
        self._reads = asyncio.Semaphore(MAX_READS_IN_FLIGHT)
        self._to_verify: dict[str, None] = {}
        self._has_layout = asyncio.Event()
        self.layout: BusLayout | None = None
        """Known once a server was reached on which a bridge has stored it."""
        self.reads = 0

    def __repr__(self) -> str:
        return f"<RedisBus {self._servers} {len(self._wanted)} channels wanted>"

    @property
    def is_up(self) -> bool:
        """Whether every server is connected."""
        return all(server.is_up for server in self._servers)

    @property
    def was_up(self) -> bool:
        """Whether every server was connected, with all that this edge may do there, at least once."""
        return all(server.was_up for server in self._servers)

    @property
    def is_healthy(self) -> bool:
        """Whether every server is connected and a bridge was heard on it lately."""
        return all(server.is_up and not server.is_silent for server in self._servers)

    def describe(self) -> list[dict[str, object]]:
        """The state of each server, for health and logs."""
        return [server.describe() for server in self._servers]

    async def run(self, events: BusEvents) -> None:
        """Keep every server connected until cancelled. Raises BusLayoutError where the bus is set up otherwise than this edge."""
        self._events = events
        async with asyncio.TaskGroup() as tasks:
            for server in self._servers:
                tasks.create_task(server.keep_connected())
            tasks.create_task(self._tick())

    async def subscribe(self, channel: str) -> None:
        """See `edge.ports.Bus`."""
        self._wanted.add(channel)
        try:
            async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S):
                await self._has_layout.wait()
                await self._server_of(channel).subscribe(channel)
        except TimeoutError:
            msg = "no bridge has set this bus up yet" if self.layout is None else f"{self._server_of(channel)} does not answer"
            raise BusUnavailableError(msg) from None

    def unsubscribe(self, channel: str) -> None:
        """See `edge.ports.Bus`."""
        self._wanted.discard(channel)
        self._to_verify.pop(channel, None)
        if self.layout is not None:
            self._server_of(channel).unsubscribe(channel)

    async def read(self, channel: str, count: int, skip: int = 0) -> ChannelHistory:
        """See `edge.ports.Bus`."""
        return await self._read(channel, -count - skip, -1 - skip, count)

    async def read_oldest(self, channel: str, count: int) -> ChannelHistory:
        """See `edge.ports.Bus`."""
        return await self._read(channel, 0, count - 1, count)

    async def _read(self, channel: str, first: int, last: int, count: int) -> ChannelHistory:
        """Read a part of the history: the places of its ends, as LRANGE counts them."""
        layout = self._known_layout()
        async with self._reads:
            self.reads += 1
            entries = await self._server_of(channel).read(layout, channel, first, last)
        try:
            return ChannelHistory([decode(entry) for entry in entries], count)
        except EnvelopeError as error:
            msg = f"the history of {channel} cannot be read: {error}"
            raise BusUnavailableError(msg) from error

    def learn_layout(self, stored: StoredLayout, server: int, where: str) -> BusLayout:
        """Take what a server says about the bus, or raise BusLayoutError where it contradicts what is known."""
        if self.layout is None:
            layout = BusLayout(stored.shards, len(self._servers), self.prefix)
            check_layout(stored, layout.stored(server), where)
            self.layout = layout
            self._has_layout.set()
        else:
            check_layout(stored, self.layout.stored(server), where)
        return self.layout

    def wanted_on(self, shards: Iterable[int]) -> list[str]:
        """The channels in use that live on these shards."""
        layout, those = self._known_layout(), set(shards)
        return [channel for channel in self._wanted if layout.shard_of(channel) in those]

    def verify(self, channels: Iterable[str], why: str) -> None:
        """Have these channels read, a bounded number a second."""
        before = len(self._to_verify)
        self._to_verify.update(dict.fromkeys(channels))
        if len(self._to_verify) > before:
            log.info("verifying channels by reading", channels=len(self._to_verify) - before, why=why)

    def deliver(self, arrived: list[tuple[str, Envelope]]) -> None:
        """Hand publications on."""
        if self._events is not None:
            self._events.on_publications(arrived)

    def jittered(self, seconds: float) -> float:
        """Half to one and a half times as long."""
        return seconds * (0.5 + self._random())

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        return self._clock()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for server in self._servers:
                server.watch_beats()
            due = list(self._to_verify)[:VERIFIED_A_TICK]
            for channel in due:
                del self._to_verify[channel]
            if due and self._events is not None:
                self._events.on_verify(due, "the bus was away, silent, or lost data")

    def _known_layout(self) -> BusLayout:
        if self.layout is None:
            msg = "no bridge has set this bus up yet"
            raise BusUnavailableError(msg)
        return self.layout

    def _server_of(self, channel: str) -> _Server:
        layout = self._known_layout()
        return self._servers[layout.server_of(layout.shard_of(channel))]


class _Server:
    """One Redis server of the bus: its two connections and what is known of its shards."""

    def __init__(self, bus: RedisBus, address: Address, index: int, servers: int) -> None:
        self._bus = bus
        self._address = address
        self._index = index
        self._where = f"Redis {address.name}" + (f" (server {index + 1} of {servers})" if servers > 1 else "")
        self._reader: RedisConnection | None = None
        self._pubsub: RedisConnection | None = None
        self._run_id = b""
        self._names: dict[bytes, str] = {}
        """Channel names by pub/sub channel: those asked for on this connection."""
        self._confirmed: set[str] = set()
        self._confirmations: dict[str, list[asyncio.Future[None]]] = {}
        self._beats: dict[bytes, int] = {}
        self._incarnations: dict[int, bytes] = {}
        self._heard_at = 0.0
        self._next_look_at = 0.0
        self._silence_s = BEAT_TIMEOUT_S
        self.was_up = False
        self._has_pong = False

    def __repr__(self) -> str:
        return f"<{self._where} {'up' if self.is_up else 'away'}>"

    @property
    def is_up(self) -> bool:
        return self._pubsub is not None

    @property
    def is_silent(self) -> bool:
        return self._bus.now() - self._heard_at >= BEAT_TIMEOUT_S

    def describe(self) -> dict[str, object]:
        silent_s = round(self._bus.now() - self._heard_at, 1) if self._heard_at else None
        return {"server": self._address.name, "connected": self.is_up, "channels": len(self._confirmed), "last_beat_s_ago": silent_s}

    async def keep_connected(self) -> None:
        """Connect, stay, and connect again, until cancelled."""
        retry_s = FIRST_RETRY_S
        try:
            while True:
                try:
                    await self._stay_connected()
                except BusUnavailableError as error:
                    if self.is_up:  # until now: the next try is a first one
                        retry_s = FIRST_RETRY_S
                    log.warning(str(error), retry_in_s=retry_s)
                self._forget_connections()
                await asyncio.sleep(self._bus.jittered(retry_s))
                retry_s = min(retry_s * 2, LAST_RETRY_S)
        finally:
            self._forget_connections()

    async def subscribe(self, channel: str) -> None:
        if channel in self._confirmed:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = [other for other in self._confirmations.get(channel, ()) if not other.done()]
        self._confirmations[channel] = [*waiting, future]
        if not waiting:
            self._ask_for([channel])
        await future

    def unsubscribe(self, channel: str) -> None:
        self._confirmed.discard(channel)
        if self._pubsub is not None and self._bus.layout is not None:
            key = self._bus.layout.head_key(channel)
            self._names.pop(key.encode(), None)
            self._send(pack("UNSUBSCRIBE", key))

    async def read(self, layout: BusLayout, channel: str, first: int, last: int) -> list[bytes]:
        connection = self._reader
        if connection is None:
            msg = f"{self._where} is away"
            raise BusUnavailableError(msg)
        run_id = self._run_id
        commands = (
            ("MULTI",),
            ("GET", layout.incarnation_key(layout.shard_of(channel))),
            ("LRANGE", layout.history_key(channel), first, last),
            ("EXEC",),
        )
        try:
            async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S):
                answer = await connection.ask_later(commands)
        except TimeoutError:
            connection.close()
            msg = f"{self._where} did not answer a read within {SUBSCRIBE_TIMEOUT_S} s"
            raise BusUnavailableError(msg) from None
        if isinstance(answer, hiredis.ReplyError):
            msg = f"{self._where} refused a read: {answer}"
            raise BusUnavailableError(msg)
        stored, entries = answer
        # Redis that came back from an old snapshot gives out offsets a second time: nothing counts until a bridge has looked at it.
        if not isinstance(stored, bytes) or stored[INCARNATION_BYTES:] != run_id:
            msg = f"{self._where}: no bridge has opened this shard since the server started or was emptied"
            raise BusUnavailableError(msg)
        if not isinstance(entries, list):
            msg = f"{self._where} refused to read {channel}: {entries}"
            raise BusUnavailableError(msg)
        incarnation = stored[:INCARNATION_BYTES]
        return [entry for entry in entries if entry[1 : 1 + INCARNATION_BYTES] == incarnation]

    def watch_beats(self) -> None:
        """Where no bridge was heard for too long, read what is in use: a link can be up and deliver nothing."""
        now = self._bus.now()
        if self._pubsub is None or now < self._next_look_at or not self.is_silent:
            return
        layout = self._bus.layout
        if layout is None:
            return
        self._silence_s = min(self._silence_s * 2, LAST_SILENCE_S)
        self._next_look_at = now + self._bus.jittered(self._silence_s)
        self._bus.verify(self._bus.wanted_on(layout.shards_of(self._index)), f"no heartbeat on {self._where}")

    async def _stay_connected(self) -> None:
        """Connect, take up every channel in use, and return when the connection is lost."""
        pubsub = await RedisConnection.open(self._address, self._on_messages)
        try:
            reader = await RedisConnection.open(self._address)
        except BusUnavailableError:
            pubsub.close()
            raise
        try:
            self._run_id = _run_id(await reader.ask("INFO", "server"), self._where)
            layout = await self._wait_for_layout(reader)
            await self._look_at_shards(reader, layout)
            self._reader, self._pubsub = reader, pubsub
            self._take_up(layout)
            log.info("connected", server=self._where, shards=len(self._incarnations))
            await self._watch(reader, pubsub)
        finally:
            pubsub.close()
            reader.close()

    async def _wait_for_layout(self, reader: RedisConnection) -> BusLayout:
        key = BusLayout(prefix=self._bus.prefix).layout_key()
        while True:
            stored = await reader.ask("GET", key)
            if stored is not None:
                return self._bus.learn_layout(decode_layout(stored, self._where), self._index, self._where)
            if self._bus.layout is not None:
                return self._bus.layout
            await asyncio.sleep(self._bus.jittered(0.5))

    async def _look_at_shards(self, reader: RedisConnection, layout: BusLayout) -> None:
        shards = list(layout.shards_of(self._index))
        stored = await reader.ask("MGET", *(layout.incarnation_key(shard) for shard in shards))
        self._incarnations = {shard: (value or b"")[:INCARNATION_BYTES] for shard, value in zip(shards, stored, strict=True)}

    def _take_up(self, layout: BusLayout) -> None:
        """Ask for the heartbeats and for every channel in use, and have those channels verified."""
        self._names.clear()
        self._confirmed.clear()
        self._heard_at = self._bus.now()
        self._silence_s = BEAT_TIMEOUT_S
        shards = list(layout.shards_of(self._index))
        self._beats = {layout.beat_channel(shard).encode(): shard for shard in shards}
        self._send(pack("SUBSCRIBE", *self._beats))
        wanted = self._bus.wanted_on(shards)
        for at in range(0, len(wanted), 1_000):
            self._ask_for(wanted[at : at + 1_000])
        if self.was_up:
            self._bus.verify(wanted, f"{self._where} is back")
        self.was_up = True

    def _ask_for(self, channels: Sequence[str]) -> None:
        layout = self._bus.layout
        if layout is None or self._pubsub is None:
            return
        keys = [layout.head_key(channel) for channel in channels]
        self._names.update((key.encode(), channel) for key, channel in zip(keys, channels, strict=True))
        self._send(pack("SUBSCRIBE", *keys))

    async def _watch(self, reader: RedisConnection, pubsub: RedisConnection) -> None:
        """Ping both connections until one is lost or does not answer in time."""
        while True:
            done, _ = await asyncio.wait({reader.lost, pubsub.lost}, timeout=PING_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
            if done:
                msg = f"{self._where}: connection lost"
                raise BusUnavailableError(msg)
            # The answer on the pub/sub connection is a pushed message; that one came at all shows below.
            self._has_pong = False
            self._send(pack("PING"))
            await reader.ask("PING")
            await asyncio.sleep(1)
            if not self._has_pong:
                msg = f"{self._where}: the subscription does not answer"
                raise BusUnavailableError(msg)

    def _send(self, packed: bytes) -> None:
        if self._pubsub is not None and not self._pubsub.lost.done():
            self._pubsub.send(packed)

    def _on_messages(self, messages: list[Any]) -> None:
        arrived: list[tuple[str, Envelope]] = []
        names = self._names
        for message in messages:
            if type(message) is list and message[0] == b"message":
                name = names.get(message[1])
                if name is None:
                    self._on_beat(message[1], message[2])
                    continue
                try:
                    arrived.append((name, decode(message[2])))
                except EnvelopeError as error:
                    log.warning("dropped an unreadable publication", channel=name, error=error)
            else:
                self._on_other(message)
        if arrived:
            self._bus.deliver(arrived)

    def _on_other(self, message: Any) -> None:
        if isinstance(message, hiredis.ReplyError):
            log.error("a subscription was refused", server=self._where, error=message)
        elif message[0] == b"subscribe":
            name = self._names.get(message[1])
            if name is not None:
                self._confirmed.add(name)
                for future in self._confirmations.pop(name, ()):
                    if not future.done():
                        future.set_result(None)
        elif message[0] == b"pong":
            self._has_pong = True

    def _on_beat(self, channel: bytes, beat: bytes) -> None:
        shard = self._beats.get(channel)
        if shard is None:
            return
        self._heard_at = self._bus.now()
        self._silence_s = BEAT_TIMEOUT_S
        incarnation = beat[:INCARNATION_BYTES]
        if self._incarnations.get(shard) != incarnation:
            self._incarnations[shard] = incarnation
            self._bus.verify(self._bus.wanted_on([shard]), f"shard {shard} lost its data or was replaced")

    def _forget_connections(self) -> None:
        self._reader = self._pubsub = None
        self._confirmed.clear()


def _run_id(info: bytes, where: str) -> bytes:
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return line.removeprefix(b"run_id:").strip()
    msg = f"{where} does not tell its run id: the edge's user needs +info"
    raise BusLayoutError(msg)
