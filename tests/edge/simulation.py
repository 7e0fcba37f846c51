"""Edges, a bus between them and a store, and clients, in one thread under a clock of their own: whatever can happen, in any order.

Publications wait on the link until they are delivered, lost or damaged; commands to the bus and their answers wait at gates until they
are let through. So a test chooses every interleaving that a network could.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from functools import partial

import msgspec

from edge.adapters.memory import MemoryBus, MemoryStore
from edge.core.delivery import Mode
from edge.core.limits import Limits
from edge.core.variant import Dialect
from edge.deliveries import Deliveries
from edge.holdings import ITEM_BYTES
from edge.node import Node
from edge.pacer import Pacer
from shared.bus.push import Keep, Outcome, Push, Pushed, Source
from shared.delta import json_patch, vcdiff
from shared.envelope import Envelope, epoch_to_text
from shared.publication import ContentType, DeltaFormat, Kind, Position, payload_hash
from tests.edge.reference_client import Published, ReferenceClient
from tests.edge.reference_holding import Holding
from tests.edge.reference_keyed import KeyedHolding
from tests.edge.virtual_loop import VirtualLoop

SMALL = Limits(
    ring_items=3,
    ring_bytes=300,
    max_ring_bytes=700 + 12 * ITEM_BYTES,
    max_recovery_items=6,
    max_recovery_bytes=400,
    linger_s=5,
    subscribe_timeout_s=5,
    max_commands_per_s=1e9,
    command_burst=1_000_000_000,
)
"""Limits that a short run meets."""


def kind_of(channel: str) -> Kind:
    """What a channel of the simulation is: its name says so."""
    return {"stream": Kind.STREAM, "keyed": Kind.KEYED}.get(channel.partition(":")[0], Kind.LATEST)


class Edge:
    """One edge process and its link to the store."""

    def __init__(self, simulation: Simulation, limits: Limits, *, is_hurried: bool = False) -> None:
        """`is_hurried`: it has time for one write a turn, and its turns, too, wait at a gate."""
        self._loop = simulation.loop
        self.bus = MemoryBus(simulation.store, gate=self._gate)
        self.bus.is_held = True
        self.gates: list[tuple[str, asyncio.Future[None]]] = []
        """Who waits to be let through, oldest first."""
        self.has_lost = False
        """Whether something was lost that only a look at the bus can show."""
        hurried = Deliveries(self._loop.time, self.bus.hold, soon=self._turn, slice_s=0, look_after=1, many=1)
        self.node = Node(
            self.bus,
            limits,
            clock=self._loop.time,
            now_ms=lambda: simulation.time_ms,
            random=random.Random(1).random,
            deliveries=hurried if is_hurried else None,
        )
        self.bus.attach(self.node)

    def let(self, index: int) -> None:
        """Let one of those at a gate through."""
        if self.gates:
            _, future = self.gates.pop(index % len(self.gates))
            if not future.done():
                future.set_result(None)

    def _turn(self, begin: Callable[[], None]) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        future.add_done_callback(lambda _: begin())
        self.gates.append(("turn", future))

    async def _gate(self, stage: str) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self.gates.append((stage, future))
        await future


class Simulation:
    """All of it. Call what touches an edge through `do`."""

    def __init__(self, *, edges: int = 1, limits: Limits = SMALL) -> None:
        self.loop = VirtualLoop()
        self.store = MemoryStore(random=random.Random(0).randbytes)
        self.store.open()
        self.published: Published = {}
        self.epochs: list[str] = []
        self.time_ms = 1_700_000_000_000
        self.limits = limits
        self.clients: list[ReferenceClient] = []
        self.edges = [Edge(self, limits, is_hurried=number % 2 == 1) for number in range(edges)]
        self._values = itertools.count(1)
        self._kafka_offsets = itertools.count()

    def do(self, action: Callable[[], object]) -> None:
        """Do something on the event loop, and let it have its consequences."""
        self.loop.do(action)
        self._check_failures()

    def wait(self, seconds: float) -> None:
        """Let time pass; edges look after idle channels once a second."""
        for _ in range(max(1, int(seconds))):
            self.loop.advance(seconds / max(1, int(seconds)))
            for edge in self.edges:
                self.do(edge.node.forget_idle)
        self.time_ms += int(seconds * 1000)
        self._check_failures()

    def close(self) -> None:
        """Give the loop up."""
        self.loop.finish()

    def newest(self, channel: str) -> Position | None:
        """Where the channel is in truth."""
        history = self.store.history(channel)
        return Position(epoch_to_text(history[-1].epoch), history[-1].offset) if history else None

    # -- bridges -------------------------------------------------------------------------------------------------------------------

    def push(
        self,
        channel: str,
        *,
        size: int = 0,
        content_type: ContentType = ContentType.JSON,
        delta: DeltaFormat = DeltaFormat.NONE,
        base_is_wrong: bool = False,
        keep: int = 100,
        key: str = "a",
    ) -> Pushed | None:
        """Publish a new value; with a delta to the newest one, or to something else. Nothing happens where the store is not open.

        `ContentType.NONE` deletes the key of a keyed channel, where there is one; where it is not, this is a value.
        """
        if self.store.incarnation is None:
            return None
        is_keyed = kind_of(channel) is Kind.KEYED
        held = [each for each in self.store.keys(channel) if each.key == key.encode()] if is_keyed else self.store.history(channel)
        if content_type is ContentType.NONE and not (is_keyed and held):
            content_type = ContentType.JSON
        if content_type is ContentType.NONE:
            delta = DeltaFormat.NONE
        payload = self._payload(size, content_type)
        base = held[-1].body if held and not base_is_wrong else b'{"n":0}'
        body = None
        if delta is DeltaFormat.VCDIFF:
            body = vcdiff.encode(base, payload)
        elif delta is DeltaFormat.JSON_PATCH:
            body = json_patch.encode(base, payload)
        self.time_ms += 1
        pushed = self.store.push(
            Push(
                channel,
                payload,
                payload_hash(payload),
                content_type,
                kind_of(channel),
                self.time_ms,
                Source(b"source", next(self._kafka_offsets), 0),
                Keep(history_size=keep),
                DeltaFormat.NONE if body is None else delta,
                body or b"",
                b"" if body is None else payload_hash(base),
                key=key.encode() if is_keyed else None,
            )
        )
        assert pushed.outcome in {Outcome.FULL, Outcome.DELTA}
        epoch = epoch_to_text(pushed.epoch)
        if epoch not in self.epochs:
            self.epochs.append(epoch)
        self.published[channel, epoch, pushed.offset] = content_type, payload, key if is_keyed else None
        return pushed

    def _payload(self, size: int, content_type: ContentType) -> bytes:
        value = next(self._values)
        if content_type is ContentType.NONE:
            return b""
        if content_type is ContentType.JSON:
            return msgspec.json.encode({"n": value, "pad": "x" * size, "list": [1, value, 3]})
        if content_type is ContentType.TEXT:
            return f"value {value} {'ü' * size}".encode()
        return b"\xff\x00" + value.to_bytes(4, "big") + bytes(size)

    # -- what goes wrong -----------------------------------------------------------------------------------------------------------

    def lose(self, edge: Edge, count: int) -> None:
        """The oldest messages on the link never arrive."""
        for _ in range(min(count, len(edge.bus.inbox))):
            edge.bus.inbox.popleft()
            edge.has_lost = True

    def damage(self, edge: Edge, *, base: bool, at: int) -> None:
        """The oldest delta on the link arrives with a bit of its body turned over, or with another base than its own."""
        for place, message in enumerate(edge.bus.inbox):
            if isinstance(message, tuple) and message[1].delta is not DeltaFormat.NONE:
                body = bytearray(message[1].body)
                body[at % len(body)] ^= 1
                damaged: Envelope = msgspec.structs.replace(message[1], **({"base_hash": b"\0" * 8} if base else {"body": bytes(body)}))
                edge.bus.inbox[place] = (message[0], damaged)
                return

    def flush(self) -> None:
        """The store loses everything; nobody is told until a bridge opens it and its heartbeat is heard."""
        self.store.flush()
        for edge in self.edges:
            edge.has_lost = True

    def expire(self, channel: str) -> None:
        """A channel's time to live has run out. Nobody is told."""
        self.store.expire(channel)
        for edge in self.edges:
            edge.has_lost = True

    # -- clients -------------------------------------------------------------------------------------------------------------------

    def connect(self, edge: Edge, dialect: Dialect = Dialect.JSON) -> ReferenceClient:
        """A new client."""
        client = ReferenceClient(edge.node, dialect, self.published, kind_of)
        client.on_loss = self._check_loss
        client.on_wrong_position = self._check_wrong_position
        self.clients.append(client)
        return client

    def leave(self, client: ReferenceClient) -> None:
        """A client is gone."""
        self.do(client.leave)
        self.clients.remove(client)

    def _check_loss(self, channel: str, epoch: str, reason: str, missed: dict[str, int]) -> None:
        """What an edge says cannot be had really cannot: the store only ever forgets more, so it is enough to look now."""
        history = self.store.history(channel)
        first, newest = missed["from"], missed["to"] + 1
        if reason == "not held":
            for offset in range(first, newest + 1):
                assert (channel, epoch, offset) in self.published
            is_held = bool(history) and epoch_to_text(history[0].epoch) == epoch and history[0].offset < newest
            assert not is_held, f"{channel}: some of {missed} is there, but was not sent"
            return
        if reason == "history_trimmed":
            is_there = bool(history) and epoch_to_text(history[0].epoch) == epoch and history[0].offset <= first
            assert not is_there, f"{channel}: {missed} is there, but was not sent"
        else:
            assert reason == "too_large"
            size = sum(len(self.published[channel, epoch, offset][1]) for offset in range(first, newest + 1))
            assert newest + 1 - first > self.limits.max_recovery_items or size > self.limits.max_recovery_bytes

    def _check_wrong_position(self, holding: Holding) -> None:
        """A position that an edge calls wrong is not, or no longer, one of the channel: an epoch that is over never comes back."""
        newest = self.newest(holding.channel)
        assert holding.epoch is not None or not holding.is_anchored, f"{holding}: was nowhere, and is told to be wrong"
        if newest is not None and holding.epoch == newest.epoch:
            assert holding.is_invented or holding.offset > newest.offset, f"{holding}: told to be wrong, and {newest} is the newest"

    # -- the end -------------------------------------------------------------------------------------------------------------------

    def let_all(self) -> None:
        """Let everything that is on its way arrive, once."""
        for edge in self.edges:
            if edge.bus.inbox:
                self.do(partial(edge.bus.deliver, len(edge.bus.inbox)))
            for _ in range(len(edge.gates)):
                self.do(partial(edge.let, 0))

    def come_to_rest(self) -> None:
        """Mend all that is broken, and wait until nothing happens any more. Fails where that never comes."""
        self.do(self.store.open)
        self.do(self.store.beat)
        for edge in self.edges:
            if not edge.bus.is_linked:
                self.do(edge.bus.mend_link)
            elif edge.has_lost:
                self.do(partial(edge.bus.verify, "a look at the bus"))
            edge.has_lost = False
        for _ in range(60):
            for _ in range(5):
                self.let_all()
                for client in self.clients:
                    self.do(client.read_on)
                    for channel in list(client.holdings):
                        self.do(partial(client.acknowledge, channel))
            if not any(self._is_busy(edge) for edge in self.edges) and not any(
                holding.unacked for client in self.clients for holding in client.holdings.values()
            ):
                return
            self.wait(1)
        msg = f"no rest: {[(edge.node, list(edge.node._lanes.values()), edge.gates) for edge in self.edges]}"
        raise AssertionError(msg)

    @staticmethod
    def _is_busy(edge: Edge) -> bool:
        if edge.gates or edge.bus.inbox or any(lane.task for lane in edge.node._lanes.values()):
            return True
        pacers = [pacer for channel in edge.node.hub for pacer in channel.paced if isinstance(pacer, Pacer)]
        return any(pacer._task or pacer._timer for pacer in pacers)

    def check_rest(self) -> None:
        """At rest, every client is where its channels are, and holds the newest value of those that have one."""
        for client in self.clients:
            for holding in client.holdings.values():
                newest = self.newest(holding.channel)
                assert holding.is_subscribed, f"{holding}: never answered"
                if isinstance(holding, KeyedHolding):
                    self._check_keyed(holding, newest)
                    continue
                if holding.is_anchored:
                    assert holding.position == newest, f"{holding}: the newest is {newest}"
                if newest is not None and holding.kind is Kind.LATEST:
                    assert holding.has_value or holding.is_resumed, f"{holding}: holds nothing, and the newest is {newest}"
                    assert holding.position == newest
        for edge in self.edges:
            assert edge.node.holdings.ring_bytes == sum(
                channel.stream.bytes_held + ITEM_BYTES * len(channel.stream.ring) for channel in edge.node.hub
            )
            for lane in edge.node._lanes.values():
                groups = lane.channel.groups.values()
                in_groups = sum(len(group.in_step) + len(group.behind) for group in groups)
                assert lane.channel.subscribers == in_groups + len(lane.channel.paced)
                assert lane.is_live or not lane.channel.subscribers
                assert not lane.waiting
                assert not lane.early

    def _check_keyed(self, holding: KeyedHolding, newest: Position | None) -> None:
        is_bare = holding.number is None  # It is not told where it starts, and of an empty channel nothing at all.
        assert holding.is_whole or newest is None or is_bare, f"{holding}: never caught up with {newest}"
        there = {(each.key or b"").decode(): each.offset for each in self.store.keys(holding.channel)}
        assert holding.state == there, f"{holding}: holds {holding.state}, and there is {there}"
        assert newest is None or holding.position == newest or holding.mode is Mode.CONFLATE

    def check_nothing_is_left(self) -> None:
        """Once all clients are gone, edges hold nothing, and want nothing of the bus."""
        for client in list(self.clients):
            self.leave(client)
        self.wait(self.limits.linger_s + 2)
        for edge in self.edges:
            assert edge.node.channels == []
            assert len(edge.node.hub) == 0
            assert edge.bus.wanted == []
            assert edge.node.holdings.ring_bytes == 0

    def _check_failures(self) -> None:
        for client in self.clients:
            if client.failure is not None:
                raise client.failure
        for edge in self.edges:
            assert not self.loop.failures, self.loop.failures
            for lane in edge.node._lanes.values():
                if lane.task is not None and lane.task.done():
                    lane.task.result()
