"""One edge process: it ties the hub to the bus.

For each channel in use there is a *lane*. While a lane is live, envelopes from the bus become steps and are delivered at once. When one
does not follow from what is held, the lane stops being live: envelopes wait, the bus is read, what was missed is delivered (or the gap
told), then what waited, and the lane is live again. Subscribers that come meanwhile wait too, so what a subscriber is told at its
start and what is delivered afterwards always join without a hole or a duplicate: both happen in one turn of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

from edge.core.delivery import Delivery, Mode, Policies, Wish
from edge.core.hub import Channel, Hub, Subscription
from edge.core.item import Item, Step
from edge.core.keyed import KeyedLoad, StateBounds, StateTooLargeError, check_bounds
from edge.core.limits import Limits
from edge.core.paced import PacedSubscription
from edge.core.paced_keyed import KeyedPaced
from edge.core.protocol import CommandError, ErrorCode, Subscribe
from edge.core.recovery import NeedHistory, PacedStart, Start, start_from, start_keyed, start_new, start_paced_from
from edge.core.stream import Gap, OutOfStep, Refill
from edge.core.variant import Variant
from edge.deliveries import Deliveries
from edge.keys import MAX_EARLY, MAX_EARLY_BYTES, read_state
from edge.pacer import Pacer, PacerHolder
from edge.ports import Bus, ChannelHistory, ClientPipe
from edge.turns import Turns
from shared.channel import namespace_of
from shared.envelope import Envelope
from shared.errors import BusUnavailableError
from shared.telemetry import Log

log = Log("distributary.edge.node")

MAX_WAITING_ENVELOPES = 1_000
"""Of one lane that is not live. Beyond it they are dropped, and the bus is read once more."""
FIRST_RETRY_S = 0.2
LAST_RETRY_S = 10.0
REFUSED_S = 30.0
"""How long a keyed channel whose state was too large is not read again."""
FIRST_REACH = 32
"""Publications of a channel that are read at once where somebody comes with a position, until it is known how far behind they are."""
REACH_BYTES = 262_144
"""About as much is read on such a guess, at most."""
ITEM_BYTES = 220
"""What a publication in a ring takes besides its payload (measured: 140 to 215 with CPython 3.11), and is counted with."""
TIDIED_A_SECOND = 500
"""Channels whose frames, made for those who recovered, are let go of; about 5 ms where rings are full."""
READ_MARGIN = 8
"""Read so many more than are wanted: publications go on while the bus is read."""


class Subscriber(Protocol):
    """Who asks for a channel. One of the others is called, once, possibly before `subscribe` returns."""

    @property
    def is_closed(self) -> bool:
        """Whether nobody waits for the answer any more."""

    def postpones(self, request: Subscribe) -> bool:
        """Whether it cannot be begun now; then the subscriber comes again by itself."""

    def begin(self, request: Subscribe, channel: Channel, start: Start) -> None:
        """Send the start and join the channel, in this turn of the event loop."""

    def begin_paced(self, request: Subscribe, channel: Channel, start: PacedStart) -> None:
        """As `begin`, for a subscription in mode conflate or ack."""

    def refuse(self, request: Subscribe, error: CommandError) -> None:
        """Tell that it did not work."""


class _Waiting:
    """A subscribe that waits for the bus."""

    __slots__ = ("is_checked", "request", "subscriber")

    def __init__(self, request: Subscribe, subscriber: Subscriber) -> None:
        self.request = request
        self.subscriber = subscriber
        self.is_checked = False
        """Whether the bus was read since it came: a position that is not known then is wrong."""


_NOBODY: deque[_Waiting] = deque(maxlen=0)
"""Of every channel that nobody waits for: an empty deque takes 0.6 KB. `_Lane.wait` makes another one."""


class _Lane:
    """A channel between the bus and its subscribers."""

    __slots__ = (
        "again",
        "channel",
        "counted_bytes",
        "counted_state_bytes",
        "early",
        "early_bytes",
        "is_live",
        "is_reading_keys",
        "nap",
        "refused_until",
        "task",
        "waiting",
    )

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.is_live = False
        self.waiting = _NOBODY
        self.early: list[Envelope] = []
        self.task: asyncio.Task[None] | None = None
        self.again = False
        """Whether the bus must be read once more after the read under way."""
        self.nap: asyncio.Event | None = None
        """Ends the pause between two tries; None where there is none."""
        self.counted_bytes = 0
        self.counted_state_bytes = 0
        self.early_bytes = 0
        self.is_reading_keys = False
        self.refused_until = 0.0
        """The state was too large: it is not read again before that."""

    def wait(self, waiting: _Waiting) -> None:
        """Have somebody wait for the bus."""
        if self.waiting is _NOBODY:
            self.waiting = deque()
        self.waiting.append(waiting)

    def keep_early(self, envelope: Envelope) -> bool:
        """Keep what comes while the lane is not live; False where that is too much."""
        if self.is_reading_keys:
            if len(self.early) >= MAX_EARLY or self.early_bytes >= MAX_EARLY_BYTES:
                return False
            self.early_bytes += len(envelope.body)
        elif len(self.early) >= MAX_WAITING_ENVELOPES:
            return False
        self.early.append(envelope)
        return True

    def __repr__(self) -> str:
        return f"<Lane {self.channel!r} {'live' if self.is_live else 'reading'} {len(self.waiting)} waiting>"


class Node:
    """The channels and subscribers of one edge process."""

    def __init__(
        self,
        bus: Bus,
        limits: Limits,
        *,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        random: Callable[[], float],
        policies: Policies | None = None,
    ) -> None:
        self.limits = limits
        self.hub = Hub(ring_items=limits.ring_items, ring_bytes=limits.ring_bytes)
        self.clock = clock
        self.turns = Turns(clock)
        self.deliveries = Deliveries(clock, bus.hold)
        self.gaps = 0
        """How many gaps subscribers were told of, counted by channel."""
        self.publications = 0
        self._policies = policies or Policies()
        self._bus = bus
        self._now_ms = now_ms
        self._random = random
        self._lanes: dict[str, _Lane] = {}
        self._idle: dict[str, float] = {}
        self._framed: dict[_Lane, None] = {}
        """Channels somebody recovered on: publications in their rings hold frames, for others who come at the same time."""
        self._held_bytes = 0
        self._max_ring_bytes = limits.max_ring_bytes
        self._state_bytes = 0
        self._reach = FIRST_REACH
        """How many publications those who come with a position are behind by, about."""
        self._payload_bytes = 1_024.0
        """What a publication has that is read, about."""

    def __repr__(self) -> str:
        return f"<Node {len(self._lanes)} channels, {self._held_bytes} bytes held, {len(self._idle)} idle>"

    @property
    def held_bytes(self) -> int:
        """Bytes in all rings: those of the payloads, and ITEM_BYTES each."""
        return self._held_bytes

    @property
    def channels(self) -> list[str]:
        """Every channel that is subscribed to on the bus."""
        return list(self._lanes)

    # -- subscribers ---------------------------------------------------------------------------------------------------------------

    def subscribe(self, request: Subscribe, subscriber: Subscriber) -> None:
        """Start `subscriber` on a channel, now or when the bus has answered."""
        if subscriber.postpones(request):
            return
        lane = self._lanes.get(request.channel)
        if lane is None:
            if len(self._lanes) >= self.limits.max_channels:
                subscriber.refuse(request, _unavailable(request, "this edge serves as many channels as it may"))
                return
            lane = self._lanes[request.channel] = _Lane(self.hub.open(request.channel))
        self._idle.pop(request.channel, None)
        if lane.refused_until > self.clock():
            subscriber.refuse(request, _too_large(request, "the channel's state is larger than this edge holds"))
            self._note_idle(lane)
            return
        waiting = _Waiting(request, subscriber)
        if lane.is_live and not self._is_in_doubt(lane, waiting) and not self._start(lane, request, subscriber):
            return
        lane.wait(waiting)
        self._read(lane)

    def agree(self, channel: str, wish: Wish) -> Delivery | None:
        """How a subscription of `channel` is delivered; None where its namespace does not allow the mode."""
        return self._policies.of(namespace_of(channel)).agree(wish)

    def pace(self, channel: Channel, variant: Variant, delivery: Delivery, cursor: int, pipe: ClientPipe, holder: PacerHolder) -> Pacer:
        """Make a subscription in mode conflate or ack, or of a keyed channel, behind `cursor`. It starts when it is poked."""
        kind = PacedSubscription
        if channel.stream.keyed is not None:
            kind = KeyedPaced
            self._framed[self._lanes[channel.label.name]] = None
        pacer = Pacer(kind(channel, variant, delivery, cursor), pipe, self._bus, self.clock, self.turns, self.on_verify, holder)
        channel.add_paced(pacer)
        return pacer

    def leave(self, name: str, subscription: Subscription | Pacer) -> None:
        """End a subscription."""
        subscription.leave()
        self._note_idle(self._lanes[name])

    def forget_idle(self) -> None:
        """Drop the channels that nobody has used for `linger_s`, and frames that nobody needs. Call it every second or so."""
        due = self.clock() - self.limits.linger_s
        for name, since in list(self._idle.items()):
            if since > due:
                break
            del self._idle[name]
            if self._lanes[name].task is None:
                self._drop(self._lanes[name])
        for lane in list(islice(self._framed, TIDIED_A_SECOND)):
            del self._framed[lane]
            if lane.channel.stream.forget_frames(are_made=bool(lane.channel.paced)):
                self._framed[lane] = None

    async def close(self) -> None:
        """End every read under way."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the bus -------------------------------------------------------------------------------------------------------------------

    def on_publications(self, arrived: Sequence[tuple[str, Envelope]]) -> None:
        """One read of the bus brought these; every channel is delivered once."""
        lanes, deliveries = self._lanes, self.deliveries
        for name, envelope in arrived:
            lane = lanes.get(name)
            if lane is None:
                continue
            if not lane.is_live:
                if lane.task is not None and not lane.keep_early(envelope):
                    lane.again = True
                continue
            channel = lane.channel
            step = channel.stream.apply(envelope)
            if type(step) is Step:
                self.publications += 1
                try:
                    self._count_bytes(lane)
                except StateTooLargeError as error:
                    self._give_up(lane, str(error))
                else:
                    deliveries.add(channel, step)
            elif type(step) is OutOfStep:
                self._fall_behind(lane, envelope, step.why)
        deliveries.go_on()

    def on_verify(self, channels: Sequence[str], why: str) -> None:
        """Read these channels from the bus: what is held may be out of date. Delivery goes on meanwhile."""
        log.debug("verifying", channels=len(channels), why=why)
        for name in channels:
            lane = self._lanes.get(name)
            if lane is not None:
                lane.again = True
                self._read(lane)

    # -- lanes ---------------------------------------------------------------------------------------------------------------------

    def _fall_behind(self, lane: _Lane, envelope: Envelope, why: str) -> None:
        log.info("out of step: reading the bus", channel=lane.channel.label.name, why=why)
        lane.is_live = False
        lane.early.append(envelope)
        self._read(lane)

    def _read(self, lane: _Lane) -> None:
        if lane.task is None:
            lane.task = asyncio.get_running_loop().create_task(self._keep_reading(lane))
        elif lane.nap is not None:
            lane.nap.set()

    async def _keep_reading(self, lane: _Lane) -> None:
        """Read the bus until the lane is live, verified, and nobody waits."""
        retry_s = FIRST_RETRY_S
        deadline = self.clock() + self.limits.subscribe_timeout_s
        try:
            while lane.again or lane.waiting or not lane.is_live:
                try:
                    await self._read_once(lane)
                    retry_s = FIRST_RETRY_S
                    continue
                except BusUnavailableError as error:
                    if self.clock() >= deadline:
                        self._refuse_waiting(lane, str(error))
                        deadline = self.clock() + self.limits.subscribe_timeout_s
                except StateTooLargeError as error:
                    self._give_up(lane, str(error))
                    break
                except Exception:
                    log.exception("reading a channel failed; those who wait for it are refused", lane=lane)
                    self._refuse_waiting(lane, "internal error")
                    retry_s = LAST_RETRY_S
                lane.again = True
                if not lane.channel.subscribers and not lane.waiting:
                    break
                await self._pause(lane, retry_s * (0.5 + self._random()))
                retry_s = min(retry_s * 2, LAST_RETRY_S)
        finally:
            lane.task = None
            if not lane.waiting:
                lane.waiting = _NOBODY
        if not lane.is_live:
            lane.early.clear()  # Nobody reads the bus for it now; whoever does begins anew.
        self._note_idle(lane)

    async def _pause(self, lane: _Lane, seconds: float) -> None:
        """Wait so long, or until somebody asks for the channel or says that the bus is back."""
        lane.nap = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await lane.nap.wait()
        lane.nap = None

    async def _read_once(self, lane: _Lane) -> None:
        name = lane.channel.label.name
        await self._bus.subscribe(name)
        history = None
        if lane.again or not lane.is_live or any(self._is_in_doubt(lane, waiting) for waiting in lane.waiting):
            lane.again = False
            history = await self._refill(lane)
        await self._serve_waiting(lane, history)

    async def _refill(self, lane: _Lane) -> ChannelHistory:
        """Bring the stream up to what the bus holds, deliver it, then what arrived meanwhile. Returns what was read."""
        stream, most = lane.channel.stream, self.limits.max_recovery_items
        asked = self._wanted(lane)
        while True:
            # What came before the bus is asked, the answer has, or the bus has lost it since. It must not be looked at after the answer: an
            # envelope of a lost epoch never follows from anything again, and its offset 1 would pass for a new beginning.
            lane.early.clear()
            epoch, present = stream.epoch, list(lane.waiting)
            history = await self._bus.read(lane.channel.label.name, asked)
            if stream.epoch != epoch:
                continue  # The first publication overtook the answer, which may still say that there is none.
            refill = stream.refill(history.envelopes, asked=asked, most=most)
            if refill.needs_keys:
                if lane.is_live:
                    lane.is_live = False  # From here on all that comes is kept, and the position is read once more.
                    continue
                refill = await self._read_keys(lane, history.envelopes[-1], refill)
            if not refill.needs_more:
                break
            asked = min(refill.needs_more + READ_MARGIN, most)
        for waiting in present:
            waiting.is_checked = True
        self._learn(lane, history)
        self.deliveries.flush(lane.channel)
        if refill.gap is not None:
            self._tell_gap(lane, refill.gap, refill.steps)
        elif refill.steps:
            lane.channel.deliver(refill.steps)
        self._count_bytes(lane)
        if not lane.is_live:
            lane.is_live = True
            early, lane.early = lane.early, []
            self.on_publications([(lane.channel.label.name, envelope) for envelope in early])
        return history

    def _tell_gap(self, lane: _Lane, gap: Gap, steps: Sequence[Step]) -> None:
        self.gaps += 1
        lane.channel.tell_gap(gap, steps)
        if lane.counted_state_bytes:
            self._count_state(lane)

    async def _read_keys(self, lane: _Lane, newest: Envelope, refill: Refill) -> Refill:
        """Read the state of a keyed channel. The lane is not live: all that came since its newest publication was read waits."""
        limits, stream = self.limits, lane.channel.stream
        left = limits.max_all_state_bytes - self._state_bytes + lane.counted_state_bytes
        lane.early_bytes = 0
        load = KeyedLoad(newest, StateBounds(limits.max_keys, min(limits.max_state_bytes, left)))
        lane.is_reading_keys = True
        try:
            await read_state(self._bus, lane.channel.label.name, load, lane.early)
        finally:
            lane.is_reading_keys = False
        return stream.adopt(load, "history_trimmed" if refill.gap is None else refill.gap.reason)

    def _wanted(self, lane: _Lane) -> int:
        """How many of the newest publications to read, so that one read serves the channel and all who wait for it."""
        stream, wanted, is_guess = lane.channel.stream, 1, False
        for waiting in lane.waiting:
            position, rewind, mode = waiting.request.position, waiting.request.rewind, waiting.request.delivery.mode
            if position is not None:
                is_guess = is_guess or mode is not Mode.CONFLATE
                if position.epoch == stream.epoch and position.offset > stream.offset:
                    wanted = max(wanted, position.offset - stream.offset + READ_MARGIN)
            elif rewind is not None:
                wanted = max(wanted, self.limits.max_recovery_items if rewind.age_ms else rewind.count)
        if is_guess:
            wanted = max(wanted, min(self._reach, int(REACH_BYTES / self._payload_bytes)))
        return min(wanted, self.limits.max_recovery_items)

    def _learn(self, lane: _Lane, history: ChannelHistory) -> None:
        """Guess better the next time: in a storm, clients of all channels are behind by about as much."""
        stream, envelopes = lane.channel.stream, history.envelopes
        if envelopes:
            mean = sum(len(envelope.body) for envelope in envelopes) / len(envelopes)
            self._payload_bytes = max(mean + 1, self._payload_bytes + (mean - self._payload_bytes) / 8)
        positions = (waiting.request.position for waiting in lane.waiting)
        behind = [stream.offset - position.offset for position in positions if position is not None and position.epoch == stream.epoch]
        if behind:
            # One who was away for long counts for little: each channel at most doubles it.
            reach = max(int(self._reach * 0.9), min(max(behind) + READ_MARGIN, 2 * self._reach))
            self._reach = max(FIRST_REACH, min(reach, self.limits.ring_items))

    async def _serve_waiting(self, lane: _Lane, history: ChannelHistory | None) -> None:
        """Start those who wait; for those who want more than the ring and what was read have, read the history once for all of them."""
        most = self.limits.max_recovery_items
        wanted = await self._start_waiting(lane)
        if wanted and history is not None:
            wanted = await self._start_waiting(lane, history)
        asked = 0
        while wanted and lane.is_live and asked < most:
            # Somewhat more than is wanted, and ever more: what the bus holds may be ahead of what came here.
            asked = min(max(wanted + READ_MARGIN, 2 * asked), most)
            history = await self._bus.read(lane.channel.label.name, asked)
            wanted = await self._start_waiting(lane, history)
        if wanted:
            lane.again = True

    async def _start_waiting(self, lane: _Lane, history: ChannelHistory | None = None) -> int:
        """Start all who can be, with `history` those who need no more than it has; returns how much of it the others need.

        Those who are nearest go first, and no more in one turn of the event loop than others can wait for.
        """
        if not lane.waiting:
            return 0
        items, is_all = None, False
        if history is not None:
            items = lane.channel.stream.extend(history.envelopes, asked=history.asked)
            # What came meanwhile may have pushed out of the ring what would have joined the two: then it must be read once more.
            is_all = len(history.envelopes) < history.asked and _reaches(items, history.envelopes)
            self._count_bytes(lane)
        lane.waiting = deque(sorted(lane.waiting, key=lambda waiting: self._cost(lane, waiting.request)))
        left: deque[_Waiting] = deque()
        wanted = 0

        def start_some() -> bool:
            nonlocal items, is_all, wanted
            if items is not None:
                followed = lane.channel.stream.follow(items)
                is_all = is_all and bool(followed) and followed[0].offset == items[0].offset
                items = followed
            reach = 0 if items is None else self.limits.max_recovery_items if is_all else len(items)
            while lane.waiting:
                if self.turns.is_over():
                    return False
                waiting = lane.waiting.popleft()
                needed = self._start_one(lane, waiting, items, reach)
                if needed:
                    left.append(waiting)
                    wanted = max(wanted, needed)
            return True

        try:
            await self.turns.finish(start_some, self._cost(lane, lane.waiting[-1].request))
        finally:
            lane.waiting.extendleft(reversed(left))
        return wanted

    def _start_one(self, lane: _Lane, waiting: _Waiting, items: list[Item] | None, reach: int) -> int:
        """Start one who waits; returns 0, how much history must be read first, or -1 where the stream itself must be."""
        if waiting.subscriber.is_closed or waiting.subscriber.postpones(waiting.request):
            return 0
        if not lane.is_live or self._is_in_doubt(lane, waiting):
            return -1
        needed = self._start(lane, waiting.request, waiting.subscriber)
        if 0 < needed <= reach:
            return self._start(lane, waiting.request, waiting.subscriber, items)
        return needed

    def _is_in_doubt(self, lane: _Lane, waiting: _Waiting) -> bool:
        """Whether the bus must be asked before a position can be called wrong: another edge may have been quicker."""
        position = waiting.request.position
        return position is not None and not waiting.is_checked and not lane.channel.stream.knows(position)

    def _cost(self, lane: _Lane, request: Subscribe) -> int:
        """How many publications one who waits gets at its start, about."""
        position, stream = request.position, lane.channel.stream
        if position is not None:
            return max(0, stream.offset - position.offset) if position.epoch == stream.epoch else 1
        if request.rewind is None:
            return 1
        return self.limits.ring_items if request.rewind.age_ms else request.rewind.count

    def _start(self, lane: _Lane, request: Subscribe, subscriber: Subscriber, items: list[Item] | None = None) -> int:
        """Start a subscriber; returns 0, or how much history must be read first."""
        self.deliveries.flush(lane.channel)  # Or who starts at the newest publication would get some of it twice.
        stream, limits = lane.channel.stream, self.limits
        is_paced = request.delivery.mode is not Mode.QUEUE
        start: Start | PacedStart | NeedHistory
        if stream.keyed is not None:
            mode, most = request.delivery.mode, limits.max_recovery_items
            start = start_keyed(stream, request.position, mode, most=most, is_read=items is not None)
            if isinstance(start, NeedHistory):
                return start.count
            subscriber.begin_paced(request, lane.channel, start)
            return 0
        if request.position is not None:
            if is_paced:
                subscriber.begin_paced(request, lane.channel, start_paced_from(stream, request.position, request.delivery.mode))
                return 0
            start = start_from(stream, request.position, most=limits.max_recovery_items, most_bytes=limits.max_recovery_bytes, items=items)
        else:
            now_ms, most, most_bytes = self._now_ms(), limits.max_recovery_items, limits.max_recovery_bytes
            start = start_new(stream, request.rewind, now_ms, most=most, most_bytes=most_bytes, items=items)
        if isinstance(start, NeedHistory):
            return start.count
        if len(start.items) > 1:
            self._framed[lane] = None
        if is_paced:
            cursor = start.items[0].offset - 1 if start.items else stream.offset
            subscriber.begin_paced(request, lane.channel, PacedStart(cursor))
        else:
            subscriber.begin(request, lane.channel, start)
        return 0

    def _refuse_waiting(self, lane: _Lane, why: str) -> None:
        all_waiting, lane.waiting = lane.waiting, deque()
        for waiting in all_waiting:
            if not waiting.subscriber.is_closed:
                waiting.subscriber.refuse(waiting.request, _unavailable(waiting.request, f"the bus does not answer ({why}); try again"))

    def _count_bytes(self, lane: _Lane) -> None:
        """Note how much a channel holds. Raises StateTooLargeError where a keyed one holds too much."""
        stream = lane.channel.stream
        now, before = stream.bytes_held + ITEM_BYTES * len(stream.ring), lane.counted_bytes
        if now != before:
            if self._held_bytes + now - before > self._max_ring_bytes:
                stream.shrink()
                now = stream.bytes_held + ITEM_BYTES * len(stream.ring)
            lane.counted_bytes = now
            self._held_bytes += now - before
        if stream.keyed is not None:
            self._count_state(lane)

    def _count_state(self, lane: _Lane) -> None:
        keyed, limits = lane.channel.stream.keyed, self.limits
        held = 0 if keyed is None else keyed.bytes_held
        self._state_bytes += held - lane.counted_state_bytes
        lane.counted_state_bytes = held
        if keyed is not None:
            check_bounds(StateBounds(limits.max_keys, limits.max_state_bytes), len(keyed), held)
        if self._state_bytes > limits.max_all_state_bytes:
            msg = f"the keyed channels of this edge have more than {limits.max_all_state_bytes} bytes"
            raise StateTooLargeError(msg)

    def _give_up(self, lane: _Lane, why: str) -> None:
        """A state that is too large goes, and so do its subscriptions: nobody can be given a part of it."""
        log.warning("the state of a keyed channel is too large", channel=lane.channel.label.name, why=why)
        lane.is_live = False
        lane.refused_until = self.clock() + REFUSED_S
        self.deliveries.forget(lane.channel)
        lane.channel.tell_too_large(why)
        lane.channel.stream.forget()
        self._count_state(lane)
        self._count_bytes(lane)
        all_waiting, lane.waiting = lane.waiting, deque()
        for waiting in all_waiting:
            if not waiting.subscriber.is_closed:
                waiting.subscriber.refuse(waiting.request, _too_large(waiting.request, why))
        lane.early.clear()
        self._note_idle(lane)

    def _note_idle(self, lane: _Lane) -> None:
        name = lane.channel.label.name
        if not lane.channel.subscribers and not lane.waiting and lane.task is None and self._lanes.get(name) is lane:
            self._idle.pop(name, None)
            self._idle[name] = self.clock()

    def _drop(self, lane: _Lane) -> None:
        name = lane.channel.label.name
        self._held_bytes -= lane.counted_bytes
        self._state_bytes -= lane.counted_state_bytes
        self._framed.pop(lane, None)
        self.deliveries.forget(lane.channel)
        del self._lanes[name]
        self.hub.drop(name)
        self._bus.unsubscribe(name)


def _reaches(items: Sequence[Item], history: Sequence[Envelope]) -> bool:
    """Whether the items go as far back as what was read."""
    return not history or (bool(items) and items[0].offset <= history[0].offset)


def _too_large(request: Subscribe, why: str) -> CommandError:
    return CommandError(ErrorCode.STATE_TOO_LARGE, why, command_id=request.id, channel=request.channel)


def _unavailable(request: Subscribe, message: str) -> CommandError:
    return CommandError(ErrorCode.UNAVAILABLE, message, command_id=request.id, channel=request.channel, retry=True)
