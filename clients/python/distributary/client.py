"""The client: keeps one connection to an edge, comes back when it is lost, and gives each subscription its publications."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Literal, Self

from distributary._chain import ACK, CONFLATE, QUEUE
from distributary._core import Core
from distributary._feed import Feed
from distributary._link import LostError, check_url, open_link
from distributary._session import Session
from distributary.errors import CallTimeoutError, ClientClosedError, ClientError, ProtocolError, UnavailableError
from distributary.options import Clock, LoopClock, Options, Status
from distributary.publication import Gap
from distributary.subscription import Subscription, Wish
from shared.channel import check_channel
from shared.publication import DELTA_NAMES, DeltaFormat, Position

CONFLATE_WINDOW = 2
"""One that the application works on, and the next one on its way."""
MAX_WINDOW = 10_000
MAX_RATE = 1_000

_LOG = logging.getLogger("distributary")
_DELTAS = {name for delta, name in DELTA_NAMES.items() if delta is not DeltaFormat.NONE}


class Client:
    """A connection to an edge, and the subscriptions on it.

    `url` is `ws://HOST:PORT` or `wss://HOST`, with the path `/v1/ws` unless it has another. `delta` is a list of formats in order of
    preference. Use it with `async with`: entering waits for the first connection.

    One slow subscription holds up the others of the same client, since they share its connection: take a client each where that matters.
    """

    def __init__(
        self,
        url: str,
        *,
        format: Literal["msgpack", "json"] = "msgpack",  # noqa: A002 - it is what the protocol calls it
        delta: Iterable[str] = ("vcdiff",),
        options: Options | None = None,
        token: str | None = None,
        on_status: Callable[[Status], None] | None = None,
        rng: random.Random | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.url = check_url(url)
        self._options = options or Options()
        if format not in {"json", "msgpack"}:
            msg = f"format is `json` or `msgpack`, not {format!r}"
            raise ValueError(msg)
        self._format = format
        self._delta = _check_delta(delta)
        self._core = Core(format, name=self._options.name, token=token, max_payload_bytes=self._options.max_payload_bytes)
        self._feeds: dict[str, Feed] = {}
        self._on_status = on_status
        self._rng = rng or random.Random()  # noqa: S311 - it spreads retries, it guards nothing
        self._clock = clock or LoopClock()
        self._session: Session | None = None
        self._runner: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._opened = asyncio.Event()
        """Set at the first connection, and when there will be none."""
        self._error: ClientError | None = None
        self._last_problem = ""
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Client {self.url} {'connected' if self.is_connected else 'not connected'} channels {list(self._feeds)}>"

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._session is not None

    @property
    def call_timeout_s(self) -> float:
        """How long to wait for an answer."""
        return self._options.call_timeout_s

    async def __aenter__(self) -> Self:
        if self._runner is not None:
            msg = "a client is opened once; make another"
            raise ClientClosedError(msg)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._runner = self._loop.create_task(self._run(), name=f"distributary {self.url}")
        try:
            async with asyncio.timeout(self._options.open_timeout_s):
                await self._opened.wait()
        except TimeoutError:
            await self.aclose()
            msg = f"no connection to {self.url} within {self._options.open_timeout_s:g} s; the last problem: {self._last_problem or 'none'}"
            raise UnavailableError(msg) from None
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if self._error is not None:
            await self.aclose()
            raise self._error
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection and end every subscription. Nothing of the client runs afterwards."""
        if self._is_closed:
            return
        self._is_closed = True
        runner = self._runner
        if runner is not None:
            runner.cancel()
            await asyncio.wait([runner])
        for feed in list(self._feeds.values()):
            feed.end(discard=True)
        self._feeds.clear()
        if self._error is None:
            self._tell(Status("closed"))

    def subscribe(  # noqa: PLR0913  (what a subscription may say, all by name)
        self,
        channel: str,
        *,
        position: Position | tuple[str, int] | None = None,
        rewind: dict[str, Any] | int | None = None,
        delta: Iterable[str] | None = None,
        on_gap: Callable[[Gap], None] | None = None,
        mode: Literal["queue", "conflate", "ack"] | None = None,
        max_rate: float | None = None,
        window: int | None = None,
        keep_state: bool = False,
    ) -> Subscription:
        """Subscribe to a channel: iterate over what this returns.

        position: go on right behind it. rewind: start with publications of the past: a count, `{"count": n}` or `{"age_s": x}`.
        on_gap: called as soon as a gap is known; the next publication carries it too.

        mode: what happens to publications while the application is busy; None: what the edge gives to those who do not ask. `queue`: they
        wait. `conflate`: only the newest is delivered, at most `max_rate` a second; `window` publications (2; 0: no bound) are on their
        way before the application has taken them. `ack`: each one is delivered, at most `window` before `Subscription.ack`, and again
        after a reconnect where it was not acknowledged.

        keep_state: of a keyed channel, keep the newest publication of each key in `Subscription.state`.

        Raises ChannelError for what is no channel name.
        """
        if isinstance(position, tuple):
            position = Position(*position)
        if isinstance(rewind, int):
            rewind = {"count": rewind}
        wish = Wish(
            check_channel(channel),
            position=position,
            rewind=rewind,
            delta=self._delta if delta is None else _check_delta(delta),
            on_gap=on_gap,
            delivery=_check_delivery(mode, max_rate, window),
            keep_state=keep_state,
        )
        return Subscription(self, wish)

    async def ping(self, timeout_s: float | None = None) -> float:
        """Ask the edge for a sign of life; return how long it took, in seconds.

        Raises CallTimeoutError, or UnavailableError where there is no connection. It waits behind publications that are not read yet.
        """
        if self._session is None:
            msg = f"not connected to {self.url}"
            raise self._error or UnavailableError(msg)
        began = self._clock.monotonic()
        answered = asyncio.get_running_loop().create_future()
        self._session.ping(answered)
        try:
            async with asyncio.timeout(self._options.call_timeout_s if timeout_s is None else timeout_s):
                await answered
        except TimeoutError:
            msg = "the edge did not answer a ping in time"
            raise CallTimeoutError(msg) from None
        return self._clock.monotonic() - began

    def start(self, wish: Wish) -> Feed:
        """Begin a subscription; for Subscription."""
        if self._error is not None:
            raise self._error
        if self._runner is None or self._is_closed:
            msg = "the client is not open: use `async with Client(...) as client`"
            raise ClientClosedError(msg)
        self._core.add(wish.channel, position=wish.position, delta=wish.delta, rewind=wish.rewind, delivery=wish.delivery)
        feed = Feed(wish.channel, max_items=self._options.max_queue, max_bytes=self._options.max_queue_bytes, on_gap=wish.on_gap)
        self._feeds[wish.channel] = feed
        if self._session is not None:
            self._session.subscribe(wish.channel)
        return feed

    def acknowledge(self, feed: Feed, position: Position) -> None:
        """Note what was handled, and tell the edge; for Subscription."""
        if self._feeds.get(feed.channel) is feed and self._core.acknowledge(feed.channel, position) and self._session is not None:
            self._session.acknowledge(feed.channel)

    def begin_anew(self, feed: Feed, at: Position) -> None:
        """Note that the application has begun a new state with the publication there; for Subscription."""
        if self._feeds.get(feed.channel) is feed:
            self._core.begin_anew(feed.channel, at)

    def release(self, feed: Feed) -> None:
        """End a subscription; for Subscription. From another thread (a garbage collector's) it happens a little later."""
        if threading.get_ident() != self._thread:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._release, feed)
            return
        self._release(feed)

    def _release(self, feed: Feed) -> None:
        feed.end(discard=True)
        if self._feeds.get(feed.channel) is not feed:
            return
        del self._feeds[feed.channel]
        if self._session is not None:
            self._session.unsubscribe(feed.channel)
        else:
            self._core.remove(feed.channel)

    async def _run(self) -> None:
        try:
            await self._keep_connected()
        except ClientError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, see below
            # A mistake in this library must not leave the application waiting for ever.
            _LOG.exception("the client stopped")
            msg = f"the client stopped: {error!r}"
            self._fail(ClientError(msg))

    async def _keep_connected(self) -> None:
        """Connect, serve, come back. Ends only by raising what cannot be helped by coming back."""
        attempt = malformed = 0
        while True:
            self._tell(Status("connecting", self.url))
            session = Session(self._core, self._feeds, self._options, clock=self._clock, rng=self._rng, on_status=self._tell)
            least_s = 0.0
            problem: ClientError
            try:
                await self._serve(session)
            except LostError as lost:
                problem, least_s = lost.error, lost.least_s
                malformed = 0 if session.is_useful else malformed
            except ProtocolError as error:
                problem = error
                malformed = 1 if session.is_useful else malformed + 1
            if not self._options.reconnect or malformed >= self._options.max_malformed:
                raise problem
            attempt = 0 if session.is_useful else attempt
            delay_s = least_s + self._options.backoff.delay_s(attempt, self._rng.random())
            attempt += 1
            self._last_problem = str(problem)
            self._tell(Status("waiting", self._last_problem, delay_s))
            await self._clock.sleep(delay_s)

    async def _serve(self, session: Session) -> None:
        link = await open_link(self.url, self._format, self._options)
        reason: BaseException | None = None
        try:
            await session.open(link)
            self._session = session
            self._opened.set()
            await session.serve()
        except BaseException as error:
            reason = error
            raise
        finally:
            self._session = None
            session.clean_up()
            await link.close(reason)

    def _fail(self, error: ClientError) -> None:
        self._error = error
        self._opened.set()
        for feed in self._feeds.values():
            feed.end(error)
        self._tell(Status("closed", str(error)))

    def _tell(self, status: Status) -> None:
        _LOG.debug("%s %s", status.state, status.detail)
        if self._on_status is not None:
            self._on_status(status)


def _check_delivery(mode: str | None, max_rate: float | None, window: int | None) -> dict[str, Any]:
    """What `subscribe` says of the delivery."""
    if mode not in {None, QUEUE, CONFLATE, ACK}:
        msg = f"mode is `queue`, `conflate` or `ack`, not {mode!r}"
        raise ValueError(msg)
    if max_rate is not None and (mode in {QUEUE, ACK} or not 0 < max_rate <= MAX_RATE):
        msg = f"max_rate is publications a second, above 0 and at most {MAX_RATE}, in mode conflate; not {max_rate!r}"
        raise ValueError(msg)
    if window is not None and (mode == QUEUE or not (0 if mode == CONFLATE else 1) <= window <= MAX_WINDOW):
        msg = f"window is how many publications are under way, 1 to {MAX_WINDOW}, in modes conflate and ack; not {window!r}"
        raise ValueError(msg)
    if window is None and mode == CONFLATE:
        window = CONFLATE_WINDOW
    return {name: value for name, value in (("mode", mode), ("max_rate", max_rate), ("window", window)) if value}


def _check_delta(formats: Iterable[str]) -> tuple[str, ...]:
    wanted = (formats,) if isinstance(formats, str) else tuple(formats)
    unknown = [name for name in wanted if name not in _DELTAS]
    if unknown:
        msg = f"unknown delta format {unknown[0]!r}; known are {', '.join(sorted(_DELTAS))}"
        raise ValueError(msg)
    return wanted
