"""One edge process: it ties the hub to the bus.

For each channel in use there is a *lane*. While a lane is live, envelopes from the bus become steps and are delivered at once. When one
does not follow from what is held, the lane stops being live: envelopes wait, the bus is read, what was missed is delivered (or the gap
told), then what waited, and the lane is live again. Subscribers that come meanwhile wait too, so what a subscriber is told at its
start and what is delivered afterwards always join without a hole or a duplicate: both happen in one turn of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

from edge.core.delivery import Delivery, Policies, Wish
from edge.core.hub import Channel, Hub, Subscription
from edge.core.item import Step
from edge.core.keyed import KeyedLoad, StateTooLargeError
from edge.core.limits import Limits
from edge.core.paced import PacedSubscription
from edge.core.paced_keyed import KeyedPaced
from edge.core.protocol import CommandError, ErrorCode, Subscribe
from edge.core.stream import Gap, OutOfStep, Refill
from edge.core.variant import Variant
from edge.deliveries import Deliveries
from edge.holdings import Holdings
from edge.keys import read_state
from edge.lane import Lane, Subscriber, Waiting
from edge.pacer import Pacer, PacerHolder
from edge.ports import Bus, ChannelHistory, ClientPipe
from edge.reach import READ_MARGIN, Reach
from edge.starts import Starts
from edge.turns import Turns
from shared.channel import namespace_of
from shared.envelope import Envelope
from shared.errors import BusUnavailableError
from shared.telemetry import Log

log = Log("distributary.edge.node")

FIRST_RETRY_S = 0.2
LAST_RETRY_S = 10.0
REFUSED_S = 30.0
"""How long a keyed channel whose state was too large is not read again."""
FORGET_COST = 2_000
"""By it (`edge.turns`) channels that nobody uses any more, thousands after a drop of as many clients, let all others go first."""
FORGOTTEN_A_LOOK = 1_000
TIDIED_A_SECOND = 500
"""Channels whose frames, made for those who recovered, are let go of; about 5 ms where rings are full."""


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
        deliveries: Deliveries | None = None,
    ) -> None:
        self.limits = limits
        self.hub = Hub(ring_items=limits.ring_items, ring_bytes=limits.ring_bytes)
        self.clock = clock
        self.turns = Turns(clock)
        self.deliveries = Deliveries(clock, bus.hold) if deliveries is None else deliveries
        self.holdings = Holdings(limits)
        self.starts = Starts(bus, limits, self.deliveries, self.holdings, self.turns, now_ms)
        self.gaps = 0
        """How many gaps subscribers were told of, counted by channel."""
        self.publications = 0
        self._policies = policies or Policies()
        self._bus = bus
        self._random = random
        self._reach = Reach(limits)
        self._lanes: dict[str, Lane] = {}
        self._idle: dict[str, float] = {}
        """Since when nobody uses a channel; oldest first."""
        self._is_forgetting = False
        """Whether channels that are to be dropped wait for a turn of the event loop that has time."""

    def __repr__(self) -> str:
        return f"<Node {len(self._lanes)} channels, {self.holdings.ring_bytes} bytes held, {len(self._idle)} idle>"

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
            lane = self._lanes[request.channel] = Lane(self.hub.open(request.channel))
        self._idle.pop(request.channel, None)
        if lane.refused_until > self.clock():
            subscriber.refuse(request, _too_large(request, "the channel's state is larger than this edge holds"))
            self._note_idle(lane)
            return
        waiting = Waiting(request, subscriber)
        if lane.is_live and not lane.is_in_doubt(waiting) and not self.starts.start(lane, request, subscriber):
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
            self.starts.framed[self._lanes[channel.label.name]] = None
        pacer = Pacer(kind(channel, variant, delivery, cursor), pipe, self._bus, self.clock, self.turns, self.on_verify, holder)
        channel.add_paced(pacer)
        return pacer

    def leave(self, name: str, subscription: Subscription | Pacer) -> None:
        """End a subscription."""
        subscription.leave()
        self._note_idle(self._lanes[name])

    def forget_idle(self) -> None:
        """Drop the channels that nobody has used for `linger_s`, and frames that nobody needs. Call it every second or so."""
        if not self._is_forgetting:
            self._drop_idle()
        for lane in list(islice(self.starts.framed, TIDIED_A_SECOND)):
            del self.starts.framed[lane]
            if lane.channel.stream.forget_frames(are_made=bool(lane.channel.paced)):
                self.starts.framed[lane] = None

    async def close(self) -> None:
        """End every read under way."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the bus -------------------------------------------------------------------------------------------------------------------

    def on_publications(self, arrived: Sequence[tuple[str, Envelope]]) -> None:
        """One read of the bus brought these; every channel is delivered once."""
        lanes, deliveries, count = self._lanes, self.deliveries, self.holdings.count
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
                    count(lane)
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

    def _fall_behind(self, lane: Lane, envelope: Envelope, why: str) -> None:
        log.info("out of step: reading the bus", channel=lane.name, why=why)
        lane.is_live = False
        lane.early.append(envelope)
        self._read(lane)

    def _read(self, lane: Lane) -> None:
        if lane.task is None:
            lane.task = asyncio.get_running_loop().create_task(self._keep_reading(lane))
        elif lane.nap is not None:
            lane.nap.set()

    async def _keep_reading(self, lane: Lane) -> None:
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
                        lane.refuse_waiting(partial(_unavailable, message=f"the bus does not answer ({error}); try again"))
                        deadline = self.clock() + self.limits.subscribe_timeout_s
                except StateTooLargeError as error:
                    self._give_up(lane, str(error))
                    break
                except Exception:
                    log.exception("reading a channel failed; those who wait for it are refused", lane=lane)
                    lane.refuse_waiting(partial(_unavailable, message="the bus does not answer (internal error); try again"))
                    retry_s = LAST_RETRY_S
                lane.again = True
                if not lane.channel.subscribers and not lane.waiting:
                    break
                await self._pause(lane, retry_s * (0.5 + self._random()))
                retry_s = min(retry_s * 2, LAST_RETRY_S)
        finally:
            lane.task = None
            lane.end_waiting()
        if not lane.is_live:
            lane.early.clear()  # Nobody reads the bus for it now; whoever does begins anew.
        self._note_idle(lane)

    async def _pause(self, lane: Lane, seconds: float) -> None:
        """Wait so long, or until somebody asks for the channel or says that the bus is back."""
        lane.nap = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await lane.nap.wait()
        lane.nap = None

    async def _read_once(self, lane: Lane) -> None:
        await self._bus.subscribe(lane.name)
        history = None
        if lane.again or not lane.is_live or any(lane.is_in_doubt(waiting) for waiting in lane.waiting):
            lane.again = False
            history = await self._refill(lane)
        if not await self.starts.serve(lane, history):
            lane.again = True

    async def _refill(self, lane: Lane) -> ChannelHistory:
        """Bring the stream up to what the bus holds, deliver it, then what arrived meanwhile. Returns what was read."""
        stream, most = lane.channel.stream, self.limits.max_recovery_items
        asked = self._reach.wanted(lane)
        while True:
            # What came before the bus is asked, the answer has, or the bus has lost it since. It must not be looked at after the answer: an
            # envelope of a lost epoch never follows from anything again, and its offset 1 would pass for a new beginning.
            lane.early.clear()
            epoch, present = stream.epoch, list(lane.waiting)
            history = await self._bus.read(lane.name, asked)
            if stream.epoch != epoch:
                continue  # The first publication overtook the answer, which may still say that there is none.
            # Before the stream moves: those who go at their own pace are told of what was, not of an epoch that begins with a gap.
            self.deliveries.flush(lane.channel)
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
        self._reach.learn(lane, history)
        if refill.gap is not None:
            self._tell_gap(lane, refill.gap, refill.steps)
        elif refill.steps:
            self._deliver(lane, refill.steps)
        self.holdings.count(lane)
        if not lane.is_live:
            lane.is_live = True
            early, lane.early = lane.early, []
            self.on_publications([(lane.name, envelope) for envelope in early])
        return history

    def _deliver(self, lane: Lane, steps: Sequence[Step]) -> None:
        for step in steps:
            self.deliveries.add(lane.channel, step)
        self.deliveries.go_on()

    def _tell_gap(self, lane: Lane, gap: Gap, steps: Sequence[Step]) -> None:
        self.gaps += 1
        lane.channel.tell_gap(gap, steps)
        if lane.counted_state_bytes:
            self.holdings.count_state(lane)

    async def _read_keys(self, lane: Lane, newest: Envelope, refill: Refill) -> Refill:
        """Read the state of a keyed channel. The lane is not live: all that came since its newest publication was read waits."""
        lane.early_bytes = 0
        load = KeyedLoad(newest, self.holdings.bounds_for(lane))
        lane.is_reading_keys = True
        try:
            await read_state(self._bus, lane.name, load, lane.early)
        finally:
            lane.is_reading_keys = False
        return lane.channel.stream.adopt(load, "history_trimmed" if refill.gap is None else refill.gap.reason)

    def _give_up(self, lane: Lane, why: str) -> None:
        """A state that is too large goes, and so do its subscriptions: nobody can be given a part of it."""
        log.warning("the state of a keyed channel is too large", channel=lane.name, why=why)
        lane.is_live = False
        lane.refused_until = self.clock() + REFUSED_S
        self.deliveries.forget(lane.channel)
        lane.channel.tell_too_large(why)
        lane.channel.stream.forget()
        self.holdings.count_state(lane)
        self.holdings.count(lane)
        lane.refuse_waiting(partial(_too_large, why=why))
        lane.early.clear()
        self._note_idle(lane)

    def _note_idle(self, lane: Lane) -> None:
        if lane.is_unused and self._lanes.get(lane.name) is lane:
            self._idle.pop(lane.name, None)
            self._idle[lane.name] = self.clock()

    def _drop_idle(self) -> None:
        """Drop the channels whose time is up: as many as this turn of the event loop has time for, the others in turns to come."""
        self._is_forgetting = False
        due = self.clock() - self.limits.linger_s
        while some := list(islice(self._idle.items(), FORGOTTEN_A_LOOK)):
            for name, since in some:
                if since > due:
                    return
                if self.turns.is_over():
                    self._is_forgetting = True
                    self.turns.later(self._drop_idle, FORGET_COST)
                    return
                del self._idle[name]
                if self._lanes[name].task is None:
                    self._drop(self._lanes[name])

    def _drop(self, lane: Lane) -> None:
        self.holdings.forget(lane)
        self.starts.framed.pop(lane, None)
        self.deliveries.forget(lane.channel)
        del self._lanes[lane.name]
        self.hub.drop(lane.name)
        self._bus.unsubscribe(lane.name)


def _too_large(request: Subscribe, why: str) -> CommandError:
    return CommandError(ErrorCode.STATE_TOO_LARGE, why, command_id=request.id, channel=request.channel)


def _unavailable(request: Subscribe, message: str) -> CommandError:
    return CommandError(ErrorCode.UNAVAILABLE, message, command_id=request.id, channel=request.channel, retry=True)
