"""One client's life on one transport: its commands, its subscriptions, its end."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from itertools import islice

import msgspec

from edge.core.delivery import Delivery, Mode
from edge.core.hub import Channel, Subscription
from edge.core.limits import CommandRate
from edge.core.paced_keyed import KeyedPaced
from edge.core.protocol import Ack, Command, CommandError, Connect, ErrorCode, Ping, Subscribe, Unsubscribe, read_command
from edge.core.recovery import PacedStart, Start
from edge.core.stream import Gap
from edge.core.variant import Dialect, Variant, Wrap, control, full_frame, gap_fields, gap_message, variant_of
from edge.node import Node
from edge.pacer import Pacer
from edge.ports import ClientPipe
from shared.publication import DELTA_NAMES, KIND_NAMES, DeltaFormat
from shared.telemetry import Log

log = Log("distributary.edge.session")

PROTOCOL_VERSION = 1
LOOKED_BACK = 10
"""Publications of a channel that may be what is unsent."""

CLOSE_SLOW_CONSUMER = (4001, "slow_consumer")
CLOSE_PING_TIMEOUT = (4002, "ping_timeout")
CLOSE_TRY_AGAIN = (4003, "try_again")
CLOSE_CONNECT_TIMEOUT = (4101, "connect_timeout")
CLOSE_TOO_MANY_ERRORS = (4102, "too_many_errors")


class Session:
    """A client: whatever its transport, it speaks in messages of one dialect."""

    __slots__ = (
        "_dialect",
        "_errors",
        "_hasty",
        "_is_beginning",
        "_is_owed",
        "_node",
        "_paced",
        "_pending",
        "_pipe",
        "_postponed",
        "_rate",
        "_subscriptions",
        "_wrap",
        "id",
        "is_closed",
        "is_connected",
    )

    def __init__(self, node: Node, pipe: ClientPipe, dialect: Dialect, wrap: Wrap) -> None:
        self.id = secrets.token_hex(6)
        self.is_closed = False
        self.is_connected = dialect.is_named
        """Whether the client has introduced itself; a bare one needs not."""
        self._node = node
        self._pipe = pipe
        self._dialect = dialect
        self._wrap = wrap
        self._subscriptions: dict[str, Subscription | Pacer] = {}
        self._paced: dict[int, Pacer] = {}
        """Subscriptions in mode conflate or ack, by the channel's number; those who had room last come last."""
        self._pending: dict[str, Subscribe] = {}
        self._postponed: OrderedDict[str, Subscribe] = OrderedDict()  # Finding the first of a dict takes ever longer as they go.
        """Those of `_pending` that begin when the client has read more."""
        self._is_beginning = False
        """Whether those who are postponed wait for a turn of the event loop that has time."""
        self._is_owed = False
        """Whether the client has read what it had to: the next one of them begins, however much else was written meanwhile."""
        self._errors = 0
        self._hasty = 0
        limits = node.limits
        self._rate = CommandRate(limits.max_commands_per_s, limits.command_burst, node.clock())

    def __repr__(self) -> str:
        return f"<Session {self.id} {self._dialect.value} {len(self._subscriptions)} subscriptions{' closed' if self.is_closed else ''}>"

    @property
    def is_subscribed(self) -> bool:
        """Whether the client has a subscription."""
        return bool(self._subscriptions)

    @property
    def is_text(self) -> bool:
        """Whether the client's frames are text."""
        return self._dialect.is_text

    @property
    def largest_bytes(self) -> int:
        """The most that one of the newest publications of its channels may have as a frame, about."""
        subscriptions = [found.subscription if isinstance(found, Pacer) else found for found in self._subscriptions.values()]
        newest = (item for found in subscriptions for item in islice(reversed(found.channel.stream.ring), LOOKED_BACK))
        # As a string of JSON, a payload that is JSON has a backslash before each quotation mark.
        return 2 * max((len(item.payload) for item in newest), default=0) + 1_024

    # -- from the transport --------------------------------------------------------------------------------------------------------

    def receive(self, message: bytes) -> None:
        """Take one message from the client."""
        if self.is_closed:
            return  # Frames that were under way when it was closed: a subscription made now would never end.
        if not self._rate.allows(self._node.clock()):
            self._say(CommandError(ErrorCode.RATE_LIMITED, "too many commands a second; wait before the next", retry=True).fields())
            self._count_haste()
            return
        try:
            self._obey(read_command(message, is_text=self._dialect.is_text))
        except CommandError as error:
            self._say(error.fields())
            if error.code in {ErrorCode.BAD_FRAME, ErrorCode.UNKNOWN_TYPE}:
                self._count_error()

    def subscribe(self, request: Subscribe) -> None:
        """Subscribe; the answer goes to the client now or later."""
        name = request.channel
        if name in self._subscriptions or name in self._pending:
            msg = f"{name} is subscribed to already"
            raise CommandError(ErrorCode.ALREADY_SUBSCRIBED, msg, command_id=request.id, channel=name)
        if len(self._subscriptions) + len(self._pending) >= self._node.limits.max_subscriptions:
            msg = f"a session has at most {self._node.limits.max_subscriptions} subscriptions"
            raise CommandError(ErrorCode.TOO_MANY_SUBSCRIPTIONS, msg, command_id=request.id, channel=name)
        delivery = self._node.agree(name, request.wish)
        if delivery is None:
            msg = f"{name} cannot be had in mode {request.wish.mode}"
            raise CommandError(ErrorCode.MODE_NOT_ALLOWED, msg, command_id=request.id, channel=name)
        request = msgspec.structs.replace(request, delivery=delivery)
        self._pending[name] = request
        self._node.subscribe(request, _Asked(self, request))

    def close(self) -> None:
        """The transport is gone: leave every channel."""
        if self.is_closed:
            return
        self.is_closed = True
        self._pending.clear()
        self._postponed.clear()
        subscriptions, self._subscriptions = self._subscriptions, {}
        self._paced.clear()
        for name, subscription in subscriptions.items():
            self._node.leave(name, subscription)

    def on_writable(self) -> None:
        """The transport has room again (`ClientPipe.keep_short`, `ClientPipe.is_full`)."""
        # Before the others, or large values that change all the time would take the room each time.
        self._is_owed = bool(self._postponed)
        self.begin_postponed()
        for number in list(self._paced):
            if not self._pipe.is_writable:
                break
            pacer = self._paced.pop(number, None)
            if pacer is not None:
                self._paced[number] = pacer  # Last now: who finds no room is before it the next time, however often its value changes.
                pacer.poke()

    def begin_postponed(self) -> None:
        """Begin what waits until the client has read, as far as there is room."""
        if not self._is_beginning:
            self._begin_postponed()

    def rewrite(self) -> None:
        """The transport's `write` is another one from now on."""
        for subscription in self._subscriptions.values():
            if isinstance(subscription, Subscription):
                subscription.channel.rewrite(subscription, self._pipe.write)

    def say_drain(self, reconnect_after_ms: int) -> None:
        """Tell the client to come back elsewhere after this time."""
        self._say({"type": "drain", "reconnect_after_ms": reconnect_after_ms})

    def report(self, error: CommandError) -> None:
        """Tell the client what was wrong with what it asked by URL."""
        self._say(error.fields())

    # -- from the node -------------------------------------------------------------------------------------------------------------

    def is_waiting_for(self, request: Subscribe) -> bool:
        """Whether the client still wants this answer."""
        return self._pending.get(request.channel) is request

    def postpones(self, request: Subscribe) -> bool:
        """Whether the client has to read first what it asked for before; then this begins when there is room."""
        if self._is_owed or not self._pipe.is_full:
            return False
        self._postponed[request.channel] = request
        return True

    def begin(self, request: Subscribe, channel: Channel, start: Start) -> None:
        """Answer a subscribe: what was agreed on, then the first publications, then join the channel."""
        del self._pending[request.channel]
        self._is_owed = False
        variant = variant_of(self._dialect, request.delta, self._wrap)
        frames = [full_frame(item, channel.label, variant) for item in start.items]
        if request.id is not None:
            frames.insert(0, self._wrap(control(_subscribed(request, channel, start), self._dialect)))
        elif start.gap is not None:
            frames.insert(0, self._wrap(control({"type": "gap", "channel": channel.label.name} | gap_fields(start.gap), self._dialect)))
        data = b"".join(frames)
        self._pipe.allow_burst(len(data))
        self._pipe.write(data)
        subscription = Subscription(channel, variant, self._pipe.write, self)
        self._subscriptions[request.channel] = subscription
        channel.add(subscription, in_step=bool(start.items) and start.items[-1] is channel.stream.newest)

    def begin_paced(self, request: Subscribe, channel: Channel, start: PacedStart) -> None:
        """Answer a subscribe in mode conflate or ack (or of a keyed channel), and let it go at its pace."""
        del self._pending[request.channel]
        self._is_owed = False
        self._keep_short()
        if request.id is not None:
            self._say(_subscribed(request, channel, start))
        elif start.gap is not None:
            self._say({"type": "gap", "channel": channel.label.name} | gap_fields(start.gap) | {"epoch": channel.stream.epoch})
        self._pace(channel, variant_of(self._dialect, request.delta, self._wrap), request.delivery, start.cursor)

    # -- edge.core.hub.Holder and edge.pacer.PacerHolder ---------------------------------------------------------------------------

    def on_restart(self, subscription: Subscription, gap: Gap) -> None:
        """The state of a keyed channel is sent anew, at the client's pace."""
        channel, variant = subscription.channel, subscription.variant
        del self._subscriptions[channel.label.name]
        self._keep_short()
        self._pipe.write(self._wrap(gap_message(gap, channel.label, channel.stream.epoch, self._dialect)))
        self._pace(channel, variant, Delivery(), 0)

    def on_whole(self, pacer: Pacer) -> None:
        """The client was sent all: it is a member of the channel's groups now."""
        paced = pacer.subscription
        channel = paced.channel
        floor = paced.floor if isinstance(paced, KeyedPaced) else 0
        del self._paced[channel.label.number]
        self._node.deliveries.close_to_newcomers(channel)  # What waits there it was sent already.
        subscription = Subscription(channel, paced.variant, self._pipe.write, self, floor=floor)
        self._subscriptions[channel.label.name] = subscription
        channel.add(subscription, in_step=channel.stream.newest is not None and not channel.is_behind(floor))

    def on_too_large(self, pacer: Pacer, why: str) -> None:
        """The channel is more than this edge holds."""
        channel = pacer.subscription.channel
        del self._paced[channel.label.number]
        self._end_subscription(channel.label.name, why)

    def on_end(self, subscription: Subscription, why: str) -> None:
        """The channel is more than this edge holds."""
        self._end_subscription(subscription.channel.label.name, why)

    def _end_subscription(self, name: str, why: str) -> None:
        del self._subscriptions[name]
        self._say({"type": "unsubscribed", "channel": name, "code": ErrorCode.STATE_TOO_LARGE, "message": why, "retry": False})

    def _begin_postponed(self) -> None:
        self._is_beginning = False
        while self._postponed and (self._is_owed or not self._pipe.is_full):
            if self._node.turns.is_over():
                self._is_beginning = True
                self._node.turns.later(self._begin_postponed)
                return
            _, request = self._postponed.popitem(last=False)
            self._node.subscribe(request, _Asked(self, request))

    def _keep_short(self) -> None:
        """What goes at its own pace needs to know when there is room."""
        if not self._paced:
            self._pipe.keep_short()
            self.rewrite()

    def _pace(self, channel: Channel, variant: Variant, delivery: Delivery, cursor: int) -> None:
        pacer = self._node.pace(channel, variant, delivery, cursor, self._pipe, self)
        self._subscriptions[channel.label.name] = self._paced[channel.label.number] = pacer
        pacer.poke()

    def refuse(self, request: Subscribe, error: CommandError) -> None:
        """Answer a subscribe that did not work."""
        del self._pending[request.channel]
        self._say(error.fields())

    # -- commands ------------------------------------------------------------------------------------------------------------------

    def _obey(self, command: Command) -> None:
        if isinstance(command, Connect):
            self._connect(command)
        elif not self.is_connected:
            msg = "the first frame is `connect`"
            raise CommandError(ErrorCode.NOT_CONNECTED, msg, command_id=None if isinstance(command, Ack) else command.id)
        elif isinstance(command, Subscribe):
            self.subscribe(command)
        elif isinstance(command, Unsubscribe):
            self._unsubscribe(command)
        elif isinstance(command, Ping):
            self._say({"type": "pong", "id": command.id})
        else:
            self._acknowledge(command)

    def _acknowledge(self, command: Ack) -> None:
        """Without effect where there is no such subscription (any more): acknowledgements cross unsubscribes on their way."""
        found = self._paced.get(command.number) if command.channel is None else self._subscriptions.get(command.channel)
        if isinstance(found, Pacer):
            found.acknowledge(command.offset, command.epoch)

    def _connect(self, command: Connect) -> None:
        if self.is_connected:
            msg = "`connect` comes once, and not from a client that named its channels in the URL"
            raise CommandError(ErrorCode.ALREADY_CONNECTED, msg, command_id=command.id)
        self.is_connected = True
        limits = self._node.limits
        self._say(
            {
                "type": "connected",
                "id": command.id,
                "session": self.id,
                "version": PROTOCOL_VERSION,
                "ping_interval_s": limits.ping_interval_s,
                "max_frame_bytes": limits.max_frame_bytes,
                "max_subscriptions": limits.max_subscriptions,
            }
        )

    def _unsubscribe(self, command: Unsubscribe) -> None:
        subscription = self._subscriptions.pop(command.channel, None)
        if subscription is not None:
            if isinstance(subscription, Pacer):
                del self._paced[subscription.subscription.channel.label.number]
            self._node.leave(command.channel, subscription)
        elif self._pending.pop(command.channel, None) is not None:
            self._postponed.pop(command.channel, None)
        else:
            msg = f"{command.channel} is not subscribed to"
            raise CommandError(ErrorCode.NOT_SUBSCRIBED, msg, command_id=command.id, channel=command.channel)
        self._say({"type": "unsubscribed", "id": command.id, "channel": command.channel})

    def _say(self, fields: dict[str, object]) -> None:
        self._pipe.write(self._wrap(control(fields, self._dialect)))

    def _count_haste(self) -> None:
        self._hasty += 1
        if self._hasty >= self._node.limits.max_errors:
            log.info("closing a session that does not wait", session=self)
            self._pipe.close(*CLOSE_TRY_AGAIN)

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors >= self._node.limits.max_errors:
            log.info("closing a session after too many malformed frames", session=self, errors=self._errors)
            self._pipe.close(*CLOSE_TOO_MANY_ERRORS)


class _Asked:
    """One subscribe under way: closed once the client gave it up, even if it asks for the same channel again."""

    __slots__ = ("_request", "_session")

    def __init__(self, session: Session, request: Subscribe) -> None:
        self._session = session
        self._request = request

    @property
    def is_closed(self) -> bool:
        return not self._session.is_waiting_for(self._request)

    def postpones(self, request: Subscribe) -> bool:
        return self._session.postpones(request)

    def begin(self, request: Subscribe, channel: Channel, start: Start) -> None:
        self._session.begin(request, channel, start)

    def begin_paced(self, request: Subscribe, channel: Channel, start: PacedStart) -> None:
        self._session.begin_paced(request, channel, start)

    def refuse(self, request: Subscribe, error: CommandError) -> None:
        self._session.refuse(request, error)


def _subscribed(request: Subscribe, channel: Channel, start: Start | PacedStart) -> dict[str, object]:
    stream = channel.stream
    fields: dict[str, object] = {
        "type": "subscribed",
        "id": request.id,
        "channel": channel.label.name,
        "number": channel.label.number,
        "kind": None if stream.kind is None else KIND_NAMES[stream.kind],
        "mode": request.delivery.mode.value,
        "delta": None if request.delta is DeltaFormat.NONE else DELTA_NAMES[request.delta],
        "position": None if stream.epoch is None else {"epoch": stream.epoch, "offset": stream.offset},
        "recovered": start.recovered,
    }
    if request.delivery.mode is Mode.CONFLATE:
        fields["max_rate"] = request.delivery.max_rate or None
    if request.delivery.window:
        fields["window"] = request.delivery.window
    return fields if start.gap is None else fields | gap_fields(start.gap)
