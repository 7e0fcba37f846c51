"""One connection's life: a reader, a sender and a watch around the core. It ends by raising why."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping

from distributary._chain import Resubscribe, Whole
from distributary._core import Answered, Core, Ended, Event, Joined, Skipped
from distributary._feed import Feed
from distributary._frames import Connected, Drain
from distributary._link import Link, LostError
from distributary.errors import CallTimeoutError, ProtocolError, UnavailableError
from distributary.options import Clock, Options, Status
from distributary.publication import Publication

_LOG = logging.getLogger("distributary")
ACKS_PER_S = 50.0
"""How many frames with acknowledgements are sent, all channels together, and `ACK_BURST` at once: a quarter of what an edge allows. They
are cumulative, so more is never needed."""
ACK_BURST = 100
_TICKS = 4
"""How often the watch looks, within the shortest time that it watches."""


class Session:
    """What goes on between `connected` and the end of the connection."""

    def __init__(
        self,
        core: Core,
        feeds: Mapping[str, Feed],
        options: Options,
        *,
        clock: Clock,
        rng: random.Random,
        on_status: Callable[[Status], None],
    ) -> None:
        self.is_useful = False
        """Whether it brought any publication: then the next try to connect starts from the shortest wait."""
        self._core = core
        self._feeds = feeds
        self._options = options
        self._clock = clock
        self._rng = rng
        self._on_status = on_status
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._to_ack: dict[str, None] = {}
        """Channels with news, the one that has waited longest first."""
        self._has_acks = asyncio.Event()
        self._asked_at: dict[str, float] = {}
        self._pings: dict[int, tuple[float, asyncio.Future[None] | None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._held_by: Feed | None = None
        """The feed that is full, so that the reader waits."""
        self._heard_at = clock.monotonic()
        self._drain_at: float | None = None
        self._ping_interval_s = options.ping_interval_s or 25.0

    def __repr__(self) -> str:
        return f"<Session channels {len(self._feeds)} unanswered {len(self._asked_at)} held by {self._held_by}>"

    async def open(self, link: Link) -> None:
        """Say `connect`, and subscribe to everything wanted once the edge has answered. Raises as `serve` does."""
        self._link = link
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                await link.send(self._core.connect())
                answer = self._core.receive(await link.receive())
        except TimeoutError:
            msg = f"the edge did not answer `connect` within {self._options.connect_timeout_s:g} s"
            raise LostError(CallTimeoutError(msg)) from None
        if isinstance(answer, Answered) and answer.error is not None:
            raise LostError(answer.error) if answer.error.retry else answer.error
        if not isinstance(answer, Connected):
            msg = f"the edge answered `connect` with {type(answer).__name__}"
            raise ProtocolError(msg)
        if self._options.ping_interval_s is None:
            self._ping_interval_s = answer.ping_interval_s
        self._heard_at = self._clock.monotonic()
        for channel in self._core.channels:
            self.subscribe(channel)
        self._on_status(Status("connected", f"session {answer.session}" if answer.session else ""))

    async def serve(self) -> None:
        """Until the end: raises LostError (come back) or another ClientError (do not)."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_loop())
                group.create_task(self._ack_loop())
                group.create_task(self._watch())
                await self._read_loop()
        except ExceptionGroup as group_error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                # A task group that ends by an error forgets that it was cancelled at the same time (until Python 3.13).
                raise asyncio.CancelledError from group_error
            raise self._with_drain(group_error.exceptions[0]) from group_error

    def subscribe(self, channel: str) -> None:
        """Send the frames that subscribe (again) to a channel, from where it stands."""
        self._timers.pop(channel, None)
        if channel not in self._feeds:
            return
        _, frames = self._core.subscribe(channel)
        self._asked_at[channel] = self._clock.monotonic()
        for frame in frames:
            self._outgoing.put_nowait(frame)

    def unsubscribe(self, channel: str) -> None:
        """Let go of a channel; the answer is of no interest."""
        self._asked_at.pop(channel, None)
        timer = self._timers.pop(channel, None)
        if timer is not None:
            timer.cancel()
        frame = self._core.remove(channel)
        if frame is not None:
            self._outgoing.put_nowait(frame)

    def ping(self, answered: asyncio.Future[None] | None = None) -> None:
        """Ask for a sign of life."""
        ping_id, frame = self._core.ping()
        self._pings[ping_id] = (self._clock.monotonic(), answered)
        self._outgoing.put_nowait(frame)

    def acknowledge(self, channel: str) -> None:
        """Tell the edge soon what the application has acknowledged."""
        self._to_ack[channel] = None
        self._has_acks.set()

    async def _read_loop(self) -> None:
        while True:
            data = await self._link.receive()
            self._heard_at = self._clock.monotonic()
            event = self._core.receive(data)
            if isinstance(event, Publication):
                await self._hand_over(event)
            elif event is not None:
                self._on_event(event)

    async def _hand_over(self, publication: Publication) -> None:
        """Queue a publication. While the queue is full nothing is read, so that the edge sees a slow consumer and no memory fills here.

        It is queued before the wait: the core has counted it as given, so a connection that ends meanwhile must not take it along.
        """
        feed = self._feeds.get(publication.channel)
        if feed is None:
            return
        self.is_useful = True
        feed.put(publication)
        if not feed.is_full:
            return
        self._held_by = feed
        try:
            await feed.wait_for_space()
        finally:
            self._held_by = None
            self._forgive()

    def _forgive(self) -> None:
        """Time in which we did not read is not the edge's."""
        now = self._heard_at = self._clock.monotonic()
        self._asked_at = dict.fromkeys(self._asked_at, now)
        self._pings = {ping_id: (now, answered) for ping_id, (_, answered) in self._pings.items()}

    def _on_event(self, event: Event) -> None:  # noqa: C901  (one line a kind)
        match event:
            case Joined():
                self._asked_at.pop(event.channel, None)
                if (feed := self._feeds.get(event.channel)) is not None:
                    feed.on_joined(event, self._core.position_of(event.channel))
            case Skipped():
                if (feed := self._feeds.get(event.channel)) is not None:
                    feed.on_gap(event.gap)
                    if event.is_gone:
                        feed.put_whole(Whole(event.channel, None, starts_state=True))
            case Whole():
                if (feed := self._feeds.get(event.channel)) is not None:
                    feed.put_whole(event)
            case Resubscribe():
                self._resync(event)
            case Ended():
                self._asked_at.pop(event.channel, None)
                self._on_ended(event)
            case Answered():
                self._on_answered(event)
            case Drain():
                self._drain_at = self._clock.monotonic() + event.reconnect_after_ms / 1000
                self._on_status(Status("draining", f"the edge goes away; back in {event.reconnect_after_ms:g} ms"))
            case _:
                pass

    def _resync(self, event: Resubscribe) -> None:
        feed = self._feeds.get(event.channel)
        if feed is None:
            return
        feed.resyncs += 1
        _LOG.warning("%s: %s; subscribing again", event.channel, event.why)
        if feed.resyncs > self._options.max_resyncs:
            msg = f"{event.channel}: given up after {self._options.max_resyncs} new subscriptions in a row: {event.why}"
            self.unsubscribe(event.channel)
            feed.end(ProtocolError(msg))
        elif feed.resyncs == 1:
            self.subscribe(event.channel)
        else:
            self._subscribe_later(event.channel, feed.resyncs - 2)

    def _on_ended(self, event: Ended) -> None:
        feed = self._feeds.get(event.channel)
        if feed is None:
            return
        if event.error.retry and self._options.reconnect:
            _LOG.warning("%s; trying again", event.error)
            feed.refusals += 1
            self._subscribe_later(event.channel, feed.refusals - 1)
        else:
            self.unsubscribe(event.channel)
            feed.end(event.error)

    def _on_answered(self, event: Answered) -> None:
        _, answered = self._pings.pop(event.id, (0.0, None))
        if answered is not None and not answered.done():
            if event.error is None:
                answered.set_result(None)
            else:
                answered.set_exception(event.error)
        elif event.error is not None and event.error.code != "not_subscribed":
            # `not_subscribed` answers an `unsubscribe` that crossed the edge's own end of the subscription.
            _LOG.warning("the edge complains: %s", event.error)

    def _subscribe_later(self, channel: str, attempt: int) -> None:
        delay_s = self._options.backoff.delay_s(attempt, self._rng.random())
        self._timers[channel] = asyncio.get_running_loop().call_later(delay_s, self.subscribe, channel)

    async def _send_loop(self) -> None:
        while True:
            await self._link.send(await self._outgoing.get())

    async def _ack_loop(self) -> None:
        """What is acknowledged meanwhile goes into the same frame."""
        allowed, at = float(ACK_BURST), self._clock.monotonic()
        while True:
            await self._has_acks.wait()
            channel = next(iter(self._to_ack))
            del self._to_ack[channel]
            if not self._to_ack:
                self._has_acks.clear()
            frame = self._core.ack(channel)
            if frame is None:
                continue
            self._outgoing.put_nowait(frame)
            now = self._clock.monotonic()
            allowed, at = min(ACK_BURST, allowed + (now - at) * ACKS_PER_S) - 1, now
            if allowed < 1:
                await self._clock.sleep((1 - allowed) / ACKS_PER_S)

    async def _watch(self) -> None:
        """Notice an edge that says nothing any more. It is not blamed for the time in which we do not read."""
        tick_s = min(self._ping_interval_s, self._options.call_timeout_s) / _TICKS
        while True:
            await self._clock.sleep(tick_s)
            now = self._clock.monotonic()
            if self._drain_at is not None and now >= self._drain_at:
                msg = "the edge asked to come back"
                raise LostError(UnavailableError(msg))
            if self._held_by is not None:
                continue
            waiting = [*self._asked_at.values(), *(sent_at for sent_at, _ in self._pings.values())]
            # While other things come from it, the answer is behind them, or waits until they were read.
            if waiting and now - max(self._heard_at, min(waiting)) > self._options.call_timeout_s:
                msg = f"the edge did not answer within {self._options.call_timeout_s:g} s"
                raise LostError(CallTimeoutError(msg))
            if now - self._heard_at > self._ping_interval_s and not self._pings:
                self.ping()

    def _with_drain(self, error: Exception) -> Exception:
        if isinstance(error, LostError) and self._drain_at is not None:
            error.least_s = max(error.least_s, self._drain_at - self._clock.monotonic())
        return error

    def clean_up(self) -> None:
        """The connection is over: leave no timer and nobody waiting."""
        for timer in self._timers.values():
            timer.cancel()
        for _, answered in self._pings.values():
            if answered is not None and not answered.done():
                msg = "the connection was lost before the edge answered"
                answered.set_exception(UnavailableError(msg))
        self._core.lost()
