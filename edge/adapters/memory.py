"""The bus in memory, for tests: `edge.ports.Bus` that behaves as RedisBus does, and behind it a store that behaves as publish.lua does.

What is slow or breaks on a real bus can be held up and broken here: `MemoryBus.gate` is awaited wherever a command or an answer is
on its way, `is_held` keeps publications on their way, and links are broken and mended. tests/contract holds both buses to one suite.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from zlib import crc32

import msgspec

from edge.ports import BusEvents, ChannelHistory, KeyPage
from shared.bus.layout import INCARNATION_BYTES
from shared.bus.push import Outcome, Push, Pushed
from shared.envelope import Envelope
from shared.errors import BusUnavailableError
from shared.publication import ContentType, DeltaFormat, Kind

Gate = Callable[[str], Awaitable[None]]
"""Awaited at "subscribe" and "read" (the command is on its way) and at "subscribed" and "answer" (the answer is)."""

_Message = tuple[str, Envelope] | bytes
"""What comes by pub/sub: a publication with its channel, or a heartbeat with its incarnation."""


class MemoryStore:
    """What bridges push to and edges read from: one shard, which loses its data when told to."""

    def __init__(self, *, random: Callable[[int], bytes] = os.urandom) -> None:
        self.is_set_up = False
        """Whether a bridge has ever opened it."""
        self.incarnation: bytes | None = None
        """None from the loss of the data until a bridge opens the store."""
        self._random = random
        self._histories: dict[str, deque[Envelope]] = {}
        self._sources: dict[str, dict[bytes, tuple[int, int]]] = {}
        self._keys: dict[str, dict[bytes, Envelope]] = {}
        self._links: list[MemoryBus] = []

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._histories)} channels, {len(self._links)} edges>"

    def open(self) -> None:
        """As a bridge does on every new connection: give the shard an incarnation where it has none."""
        self.is_set_up = True
        if self.incarnation is None:
            self.incarnation = self._random(INCARNATION_BYTES)

    def beat(self) -> None:
        """As a bridge does all the time. Edges that hear of a new incarnation verify what they hold."""
        if self.incarnation is not None:
            self._publish(self.incarnation)

    def push(self, push: Push) -> Pushed:
        """Publish. The store must be open."""
        assert self.incarnation is not None, "not open"  # noqa: S101  (a test's own mistake)
        history = self._histories.get(push.channel)
        source = self._sources.setdefault(push.channel, {})
        newest = history[-1] if history else None
        if newest is not None and (newest.kind is Kind.KEYED) is not (push.kind is Kind.KEYED):
            self.expire(push.channel)
            return self.push(push)
        place = (push.source.offset, push.source.index)
        if newest is not None and place <= source.get(push.source.id, (-1, -1)):
            return Pushed(Outcome.DUPLICATE, newest.epoch, newest.offset)
        source[push.source.id] = place
        base = newest if push.key is None else self._keys.get(push.channel, {}).get(push.key)
        is_same = base is None if _is_deletion(push) else base is not None and base.payload_hash == push.payload_hash
        if newest is not None and push.only_changed and is_same:
            return Pushed(Outcome.UNCHANGED, newest.epoch, newest.offset)
        epoch = self.incarnation + self._random(INCARNATION_BYTES) if newest is None else newest.epoch
        full = _full(push, epoch, 1 if newest is None else newest.offset + 1)
        self._keep(push, full)
        is_delta = push.delta_format is not DeltaFormat.NONE and base is not None and push.base_hash == base.payload_hash
        self._publish((push.channel, _delta(push, full, base.offset) if is_delta and base is not None else full))
        return Pushed(Outcome.DELTA if is_delta else Outcome.FULL, epoch, full.offset)

    def flush(self) -> None:
        """Lose everything, as FLUSHALL and a restart do."""
        self._histories.clear()
        self._sources.clear()
        self._keys.clear()
        self.incarnation = None

    def expire(self, channel: str) -> None:
        """Lose one channel, as a time to live that runs out does."""
        self._histories.pop(channel, None)
        self._sources.pop(channel, None)
        self._keys.pop(channel, None)

    def keys(self, channel: str) -> Sequence[Envelope]:
        """The newest publication of each key of a keyed channel."""
        return tuple(self._keys.get(channel, {}).values())

    def history(self, channel: str) -> Sequence[Envelope]:
        """All that is kept of a channel, oldest first."""
        return tuple(self._histories.get(channel, ()))

    def attach(self, link: MemoryBus) -> None:
        """Publish to this link from now on."""
        self._links.append(link)

    def _keep(self, push: Push, full: Envelope) -> None:
        history = self._histories.setdefault(push.channel, deque())
        history.append(full)
        if push.key is not None:
            keys = self._keys.setdefault(push.channel, {})
            if _is_deletion(push):
                keys.pop(push.key, None)
            else:
                keys[push.key] = full
        while len(history) > 1 and (
            len(history) > push.keep.history_size or sum(len(envelope.body) for envelope in history) > push.keep.history_bytes
        ):
            history.popleft()

    def _publish(self, message: _Message) -> None:
        for link in self._links:
            link.arrive(message)


class MemoryBus:
    """`edge.ports.Bus` on a MemoryStore: the link of one edge."""

    def __init__(self, store: MemoryStore, *, gate: Gate | None = None) -> None:
        self.gate = gate
        self.is_held = False
        """While set, what was published stays on its way until `deliver` is called."""
        self.is_linked = True
        self.inbox: deque[_Message] = deque()
        """What is on its way, oldest first."""
        self._store = store
        self._incarnation = store.incarnation
        self._events: BusEvents | None = None
        self._wanted: dict[str, None] = {}
        self._subscribed: set[str] = set()
        self._is_due = False

    def __repr__(self) -> str:
        return f"<MemoryBus {'up' if self.is_linked else 'away'} {len(self._wanted)} channels wanted, {len(self.inbox)} on their way>"

    @property
    def wanted(self) -> list[str]:
        """The channels that are subscribed to."""
        return list(self._wanted)

    async def run(self, events: BusEvents) -> None:
        """Tell `events` what happens until cancelled."""
        self.attach(events)
        await asyncio.get_running_loop().create_future()

    def attach(self, events: BusEvents) -> None:
        """Tell `events` what happens from now on."""
        self._events = events
        self._store.attach(self)

    # -- edge.ports.Bus ------------------------------------------------------------------------------------------------------------

    async def subscribe(self, channel: str) -> None:
        """See `edge.ports.Bus`."""
        self._wanted[channel] = None
        if channel in self._subscribed and self.is_linked:
            return
        await self._pass("subscribe")
        if not self._store.is_set_up:
            msg = "no bridge has set this bus up yet"
            raise BusUnavailableError(msg)
        if channel in self._wanted:
            self._subscribed.add(channel)
        await self._pass("subscribed")

    def unsubscribe(self, channel: str) -> None:
        """See `edge.ports.Bus`."""
        self._wanted.pop(channel, None)
        self._subscribed.discard(channel)

    def hold(self, is_held: bool) -> None:  # noqa: FBT001  (see the port)
        """See `edge.ports.Bus`: what arrives here was asked for."""

    async def read(self, channel: str, count: int, skip: int = 0) -> ChannelHistory:
        """See `edge.ports.Bus`."""
        return await self._read(channel, count, lambda held: held[max(0, len(held) - skip - count) : max(0, len(held) - skip)])

    async def read_oldest(self, channel: str, count: int) -> ChannelHistory:
        """See `edge.ports.Bus`."""
        return await self._read(channel, count, lambda held: held[:count])

    async def read_keys(self, channel: str, cursor: int, count: int) -> KeyPage:
        """See `edge.ports.Bus`. As HSCAN does it gives no order, and a key has its place however others come and go."""
        await self._pass("read")
        self._check_open()
        held = sorted(self._store.keys(channel), key=lambda envelope: crc32(envelope.key or b""))
        page = [envelope for envelope in held if crc32(envelope.key or b"") >= cursor]
        last = page[count - 1].key if len(page) > count else None
        taken = page if last is None else [envelope for envelope in page if crc32(envelope.key or b"") <= crc32(last)]
        await self._pass("answer")
        return KeyPage(taken, 0 if len(taken) == len(page) else crc32(last or b"") + 1)

    async def _read(self, channel: str, count: int, part: Callable[[Sequence[Envelope]], Sequence[Envelope]]) -> ChannelHistory:
        await self._pass("read")
        self._check_open()
        envelopes = list(part(self._store.history(channel)))
        await self._pass("answer")
        return ChannelHistory(envelopes, count)

    def _check_open(self) -> None:
        if self._store.incarnation is None:
            msg = "no bridge has opened this shard since it was emptied"
            raise BusUnavailableError(msg)

    # -- what happens on a real one ------------------------------------------------------------------------------------------------

    def arrive(self, message: _Message) -> None:
        """Something was published."""
        if not self.is_linked or (not isinstance(message, bytes) and message[0] not in self._subscribed):
            return
        self.inbox.append(message)
        if not self.is_held and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._deliver_all)

    def deliver(self, count: int) -> None:
        """Hand on the oldest `count` messages, as one read of a socket would."""
        assert self._events is not None, "not attached"  # noqa: S101  (a test's own mistake)
        arrived: list[tuple[str, Envelope]] = []
        for _ in range(min(count, len(self.inbox))):
            message = self.inbox.popleft()
            if isinstance(message, bytes):
                self._hear(message)
            elif message[0] in self._wanted:
                arrived.append(message)
        if arrived:
            self._events.on_publications(arrived)

    def break_link(self) -> None:
        """Lose the connection, and with it all that is on its way."""
        self.is_linked = False
        self.inbox.clear()

    def mend_link(self) -> None:
        """Connect again, and have everything verified."""
        self.is_linked = True
        self._subscribed = set(self._wanted)
        self._incarnation = self._store.incarnation
        self.verify("connected again")

    def verify(self, why: str) -> None:
        """Have every channel in use read, as silence does."""
        if self._events is not None and self._wanted:
            self._events.on_verify(self.wanted, why)

    def _deliver_all(self) -> None:
        self._is_due = False
        if not self.is_held:
            self.deliver(len(self.inbox))

    def _hear(self, incarnation: bytes) -> None:
        if incarnation != self._incarnation:
            self._incarnation = incarnation
            self.verify("the shard lost its data or was replaced")

    async def _pass(self, stage: str) -> None:
        if self.gate is not None:
            await self.gate(stage)
        if not self.is_linked:
            msg = "the bus is away"
            raise BusUnavailableError(msg)


def _full(push: Push, epoch: bytes, offset: int) -> Envelope:
    return Envelope(
        epoch,
        offset,
        0,
        DeltaFormat.NONE,
        push.kind,
        push.content_type,
        push.time_ms,
        push.payload_hash,
        b"",
        push.key,
        push.payload,
        push.tags,
    )


def _delta(push: Push, full: Envelope, base_offset: int) -> Envelope:
    return msgspec.structs.replace(full, base_offset=base_offset, delta=push.delta_format, base_hash=push.base_hash, body=push.delta)


def _is_deletion(push: Push) -> bool:
    return push.content_type is ContentType.NONE
