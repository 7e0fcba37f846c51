"""The edge's link to one Redis server of the bus: a connection for pub/sub, one for reads, and what is known of the shards there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, Protocol

import hiredis

from edge.adapters.redis_connection import Address, RedisConnection, pack
from shared.bus.identity import RUN_ID_BYTES, read_run_id
from shared.bus.layout import INCARNATION_BYTES, BusLayout
from shared.envelope import Envelope, decode
from shared.errors import BusUnavailableError, EnvelopeError
from shared.telemetry import Log

log = Log("distributary.edge.bus")

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0
PING_INTERVAL_S = 5.0
BEAT_TIMEOUT_S = 3.5
LAST_SILENCE_S = 60.0
READ_TIMEOUT_S = 3.0
LOOK_S = 0.1
LOOKS = 30
"""For the answer on the pub/sub connection, LOOK_S apart. They are counted, because a process that stood still has not read what came
meanwhile."""


class Dialect(NamedTuple):
    """How one kind of bus speaks of pub/sub: the commands, and the words of what is pushed."""

    subscribe: str
    unsubscribe: str
    message: bytes
    subscribed: bytes
    unsubscribed: bytes


PLAIN = Dialect("SUBSCRIBE", "UNSUBSCRIBE", b"message", b"subscribe", b"unsubscribe")
SHARDED = Dialect("SSUBSCRIBE", "SUNSUBSCRIBE", b"smessage", b"ssubscribe", b"sunsubscribe")


class LinkOwner(Protocol):
    """What a link asks of the bus that it is a part of, and tells it."""

    @property
    def layout(self) -> BusLayout | None:
        """The layout of the bus, once it is known."""

    async def learn_layout(self, link: Link, reader: RedisConnection) -> BusLayout:
        """The layout of the bus, which this link's server may have to tell. Also sees to it that `link.shards` is right.

        Raises BusLayoutError where the bus is set up otherwise than this edge.
        """

    def go_through(self, shards: Collection[int], visit: Callable[[dict[int, list[str]]], bool]) -> None:
        """Hand out the channels in use on these shards, by shard: some now, the others in turns to come, until `visit` returns False.

        Each is handed out once, if it is in use then. One that comes to be in use meanwhile is not.
        """

    def verify(self, channels: Iterable[str], why: str) -> None:
        """Have these channels read, a bounded number a second."""

    def verify_on(self, shards: Collection[int], why: str) -> None:
        """Have the channels in use on these shards read, a bounded number a second."""

    def deliver(self, arrived: list[tuple[str, Envelope]]) -> None:
        """Hand publications on."""

    def doubt(self, link: Link) -> None:
        """This server was lost, or says that something lives elsewhere."""

    def jittered(self, seconds: float) -> float:
        """Half to one and a half times as long."""

    def now(self) -> float:
        """Seconds on a clock that never goes back, and stands still while this process does."""


class Link:
    """One Redis server of the bus. `keep_connected` must be running."""

    def __init__(self, owner: LinkOwner, address: Address, where: str, dialect: Dialect) -> None:
        self.address = address
        self.shards: frozenset[int] = frozenset()
        """Those that live here."""
        self.where = where
        """For logs and errors."""
        self._owner = owner
        self._dialect = dialect
        self._reader: RedisConnection | None = None
        self._pubsub: RedisConnection | None = None
        self._run_id = b""
        self._names: dict[bytes, str] = {}
        """Channel names by pub/sub channel: those asked for on this connection."""
        self._confirmed: set[str] = set()
        self._confirmations: dict[str, list[asyncio.Future[None]]] = {}
        self._beats: dict[bytes, int] = {}
        self._heard: set[bytes] = set()
        """Pub/sub channels of heartbeats that are subscribed to."""
        self._was_refused = False
        self._ended: list[str] = []
        """Channels whose subscription the server ended, in the read at hand."""
        self._incarnations: dict[int, bytes] = {}
        self._heard_at = 0.0
        self._next_look_at = 0.0
        self._silence_s = BEAT_TIMEOUT_S
        self.was_up = False
        self._is_heard = False
        self._is_held = self._was_held = False
        """Whether nothing is taken in now, and whether that was so since the last ping: then that nothing came says nothing."""

    def __repr__(self) -> str:
        return f"<{self.where} {'up' if self.is_up else 'away'}>"

    @property
    def is_up(self) -> bool:
        """Whether both connections are there. What is wanted was asked for then, or is in the next moments."""
        return self._pubsub is not None

    @property
    def is_silent(self) -> bool:
        """Whether no bridge was heard lately, though we listened."""
        return not self._is_held and self._owner.now() - self._heard_at >= BEAT_TIMEOUT_S

    def describe(self) -> dict[str, object]:
        """For health and logs."""
        return {
            "server": self.address.name,
            "connected": self.is_up,
            "shards": len(self.shards),
            "channels": len(self._confirmed),
            "last_beat_s_ago": round(self._owner.now() - self._heard_at, 1) if self._heard_at else None,
        }

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
                self._owner.doubt(self)
                await asyncio.sleep(self._owner.jittered(retry_s))
                retry_s = min(retry_s * 2, LAST_RETRY_S)
        finally:
            self._forget_connections()

    def assign(self, shards: Iterable[int]) -> None:
        """Take over and give up shards. Channels in use on those that are new here are taken up, and verified."""
        before, self.shards = self.shards, frozenset(shards)
        layout, lost, gained = self._owner.layout, before - self.shards, self.shards - before
        if layout is None:
            return
        if lost:
            self._let_go(layout, lost)
        if gained and self.is_up:
            self._take_up(layout, gained, f"its shard moved to {self.where}")

    async def subscribe(self, channel: str) -> None:
        """Return once publications of `channel` arrive; raise BusUnavailableError where it moves elsewhere meanwhile."""
        if channel in self._confirmed:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = [other for other in self._confirmations.get(channel, ()) if not other.done()]
        self._confirmations[channel] = [*waiting, future]
        if not waiting:
            self._ask_for([channel])
        await future

    def unsubscribe(self, channel: str) -> None:
        """Stop getting publications of `channel`."""
        self._confirmed.discard(channel)
        if self._pubsub is not None and self._owner.layout is not None:
            key = self._owner.layout.head_key(channel)
            self._names.pop(key.encode(), None)
            self._send(pack(self._dialect.unsubscribe, key))

    async def read(self, layout: BusLayout, channel: str, first: int, last: int) -> list[bytes]:
        """A part of a channel's history, of its shard's present incarnation; its ends as LRANGE counts them."""
        incarnation, entries = await self._ask(layout, channel, ("LRANGE", layout.history_key(channel), first, last))
        return [entry for entry in entries if entry[1 : 1 + INCARNATION_BYTES] == incarnation]

    async def read_keys(self, layout: BusLayout, channel: str, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """A page of a keyed channel's newest publications, and where the next page begins: 0 where there is none."""
        incarnation, page = await self._ask(layout, channel, ("HSCAN", layout.keys_key(channel), cursor, "COUNT", count))
        return int(page[0]), [entry for entry in page[1][1::2] if entry[1 : 1 + INCARNATION_BYTES] == incarnation]

    async def _ask(self, layout: BusLayout, channel: str, command: tuple[str | int, ...]) -> tuple[bytes, list[Any]]:
        """Have a command answered, together with the incarnation of the channel's shard."""
        connection = self._reader
        if connection is None:
            msg = f"{self.where} is away"
            raise BusUnavailableError(msg)
        run_id = self._run_id
        commands = (("MULTI",), ("GET", layout.incarnation_key(layout.shard_of(channel))), command, ("EXEC",))
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                answer = await connection.ask_later(commands)
        except TimeoutError:
            connection.close()
            msg = f"{self.where} did not answer a read within {READ_TIMEOUT_S} s"
            raise BusUnavailableError(msg) from None
        if isinstance(answer, hiredis.ReplyError):
            self._owner.doubt(self)
            msg = f"{self.where} refused a read: {answer}"
            raise BusUnavailableError(msg)
        stored, found = answer
        # Redis that came back from an old snapshot gives out offsets a second time: nothing counts until a bridge has looked at it.
        if not isinstance(stored, bytes) or stored[INCARNATION_BYTES : INCARNATION_BYTES + RUN_ID_BYTES] != run_id:
            msg = f"{self.where}: no bridge has opened this shard since the server started, was emptied, or got the shard"
            raise BusUnavailableError(msg)
        if not isinstance(found, list):
            msg = f"{self.where} refused to read {channel}: {found}"
            raise BusUnavailableError(msg)
        return stored[:INCARNATION_BYTES], found

    def hold(self, is_held: bool) -> None:  # noqa: FBT001  (see `edge.ports.Bus`)
        """Take in no publications, or take them in again."""
        if self._is_held and not is_held:
            self._heard_at = self._owner.now()  # What came meanwhile is read only now.
        self._is_held, self._was_held = is_held, self._was_held or is_held
        if self._pubsub is not None:
            self._pubsub.hold(is_held)

    def watch_beats(self) -> None:
        """Where no bridge was heard for too long, read what is in use: a link can be up and deliver nothing."""
        now = self._owner.now()
        if self._pubsub is None or now < self._next_look_at or not self.is_silent:
            return
        self._silence_s = min(self._silence_s * 2, LAST_SILENCE_S)
        self._next_look_at = now + self._owner.jittered(self._silence_s)
        self._owner.verify_on(self.shards, f"no heartbeat on {self.where}")

    async def _stay_connected(self) -> None:
        """Connect, take up every channel in use, and return when the connection is lost."""
        pubsub = await RedisConnection.open(self.address, self._on_messages)
        try:
            reader = await RedisConnection.open(self.address)
        except BusUnavailableError:
            pubsub.close()
            raise
        try:
            in_cluster = self._dialect is SHARDED
            self._run_id = read_run_id(await reader.ask("INFO", "server"), self.where, in_cluster=in_cluster)
            layout = await self._owner.learn_layout(self, reader)
            await self._look_at_shards(reader, layout)
            self._reader, self._pubsub = reader, pubsub
            self._begin(layout)
            await self._watch(reader, pubsub)
        finally:
            pubsub.close()
            reader.close()

    async def _look_at_shards(self, reader: RedisConnection, layout: BusLayout) -> None:
        """Learn which incarnations there are: a heartbeat of another one is news."""
        shards = list(self.shards)
        # One by one: in a cluster they are in different slots, and one that is on the move answers with an error.
        stored = await asyncio.gather(*(reader.ask_later((("GET", layout.incarnation_key(shard)),)) for shard in shards))
        self._incarnations = {
            shard: value[:INCARNATION_BYTES] for shard, value in zip(shards, stored, strict=True) if isinstance(value, bytes)
        }

    def _begin(self, layout: BusLayout) -> None:
        self._names.clear()
        self._confirmed.clear()
        self._beats.clear()
        self._heard.clear()
        self._was_refused = False
        self._heard_at = self._owner.now()
        self._silence_s = BEAT_TIMEOUT_S
        self.hold(self._is_held)  # The new connection, too: nobody says so again.
        # A new link may follow another one, of a node that failed: what was published between the two was pushed to nobody.
        self._take_up(layout, self.shards, f"{self.where} is {'back' if self.was_up else 'linked'}")
        self.was_up = True
        log.info("connected", server=self.where, shards=len(self.shards))

    def _take_up(self, layout: BusLayout, shards: Collection[int], why: str, *, is_again: bool = False) -> None:
        """Ask for the heartbeats and for every channel in use on these shards, where that is not done, and have all of them verified.

        `is_again`: only those that are asked for now. The others were verified when this was done before.
        """
        self._ask_for_beats(layout, shards)
        pubsub = self._pubsub

        def visit(by_shard: dict[int, list[str]]) -> bool:
            if self._pubsub is not pubsub:
                return False  # The next connection takes all of them up.
            here = {shard: channels for shard, channels in by_shard.items() if shard in self.shards}
            missing = [[channel for channel in channels if channel not in self._confirmed] for channels in here.values()]
            # One that was asked for by itself since this began has missed what all others have.
            for channels in missing if is_again else here.values():
                self._owner.verify(channels, why)
            for channels in missing:
                self._ask_for(channels)
            return True

        self._owner.go_through(shards, visit)

    def _ask_for_beats(self, layout: BusLayout, shards: Iterable[int]) -> None:
        beats = {layout.beat_channel(shard).encode(): shard for shard in shards}
        self._beats.update(beats)
        for beat in beats.keys() - self._heard:
            self._send(pack(self._dialect.subscribe, beat))

    def _let_go(self, layout: BusLayout, shards: Collection[int]) -> None:
        """Forget what lived here: the server has ended those subscriptions by itself."""
        for name in {*self._names.values(), *self._confirmations}:
            if layout.shard_of(name) not in shards:
                continue
            self._names.pop(layout.head_key(name).encode(), None)
            self._confirmed.discard(name)
            for future in self._confirmations.pop(name, ()):
                if not future.done():
                    future.set_exception(BusUnavailableError(f"{name} moved away from {self.where}"))
        for beat, shard in list(self._beats.items()):
            if shard in shards:
                del self._beats[beat]
                self._heard.discard(beat)
                self._incarnations.pop(shard, None)

    def _ask_for(self, channels: Iterable[str]) -> None:
        """They live on one shard, and are no more than `edge.adapters.redis_round` hands out: it takes one command.

        A cluster takes none that names channels of several slots.
        """
        layout = self._owner.layout
        if layout is None or self._pubsub is None:
            return
        keys: list[str] = []
        for channel in channels:
            key = layout.head_key(channel)
            self._names[key.encode()] = channel
            keys.append(key)
        if keys:
            self._send(pack(self._dialect.subscribe, *keys))

    async def _watch(self, reader: RedisConnection, pubsub: RedisConnection) -> None:
        """Ping both connections until one is lost or does not answer in time. Ask again for what was refused."""
        while True:
            if self._was_refused and self._owner.layout is not None:
                self._was_refused = False
                self._take_up(self._owner.layout, self.shards, f"{self.where} had refused them", is_again=True)
            done, _ = await asyncio.wait({reader.lost, pubsub.lost}, timeout=PING_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
            if done:
                msg = f"{self.where}: connection lost"
                raise BusUnavailableError(msg)
            # The answer on the pub/sub connection is a pushed message. Any other shows as well that it is alive: behind a burst, which is
            # taken in no faster than it is delivered, the answer may be long in coming.
            self._is_heard, self._was_held = False, self._is_held
            self._send(pack("PING"))
            await reader.ask("PING")
            await self._wait_until_heard()

    async def _wait_until_heard(self) -> None:
        for _ in range(LOOKS):
            if self._is_heard or self._was_held:
                return
            await asyncio.sleep(LOOK_S)
        msg = f"{self.where}: the subscription does not answer"
        raise BusUnavailableError(msg)

    def _send(self, packed: bytes) -> None:
        if self._pubsub is not None and not self._pubsub.lost.done():
            self._pubsub.send(packed)

    def _on_messages(self, messages: list[Any]) -> None:
        self._is_heard = True
        arrived: list[tuple[str, Envelope]] = []
        names, word = self._names, self._dialect.message
        for message in messages:
            if type(message) is list and message[0] == word:
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
            self._owner.deliver(arrived)
        if self._ended:
            self._owner.verify(self._ended, f"the slot moved away from {self.where}")
            self._ended.clear()

    def _on_other(self, message: Any) -> None:
        if isinstance(message, hiredis.ReplyError):
            self._was_refused = True
            log.warning("a subscription was refused", server=self.where, error=message)
            self._owner.doubt(self)
        elif message[0] == self._dialect.subscribed:
            self._on_subscribed(message[1])
        elif message[0] == self._dialect.unsubscribed:
            self._on_unsubscribed(message[1])

    def _on_subscribed(self, key: bytes) -> None:
        name = self._names.get(key)
        if name is None:
            if key in self._beats:
                self._heard.add(key)
            return
        self._confirmed.add(name)
        for future in self._confirmations.pop(name, ()):
            if not future.done():
                future.set_result(None)

    def _on_unsubscribed(self, key: bytes) -> None:
        """Where nobody here asked for it, the slot moved away."""
        name = self._names.get(key)
        if name is not None:
            self._confirmed.discard(name)
            self._ended.append(name)
        elif key in self._beats:
            self._heard.discard(key)
        else:
            return
        self._owner.doubt(self)

    def _on_beat(self, channel: bytes, beat: bytes) -> None:
        shard = self._beats.get(channel)
        if shard is None:
            return
        self._heard_at = self._owner.now()
        self._silence_s = BEAT_TIMEOUT_S
        incarnation = beat[:INCARNATION_BYTES]
        if self._incarnations.get(shard) != incarnation:
            self._incarnations[shard] = incarnation
            self._owner.verify_on({shard}, f"shard {shard} lost its data or was replaced")

    def _forget_connections(self) -> None:
        self._reader = self._pubsub = None
        self._confirmed.clear()
