"""The client without its sockets: frames in, events out; commands in, frames to send out. No I/O, no clock, no randomness.

One `Core` lives as long as its client, over many connections: `connect` starts a new one, `lost` ends it. Commands are numbered from 1
on each connection, in the order in which they are made.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from distributary._chain import Chain, Resubscribe, Whole
from distributary._frames import (
    CaughtUp,
    Connected,
    Drain,
    ErrorFrame,
    GapFrame,
    Incoming,
    Pong,
    Subscribed,
    Unsubscribed,
    make_format,
)
from distributary.errors import AlreadySubscribedError, ProtocolError, RefusedError
from distributary.publication import Gap, Publication
from shared.channel import check_channel
from shared.publication import Position

VERSION = 1
MAX_PAYLOAD_BYTES = 16 * 1_048_576


class Joined(msgspec.Struct, frozen=True):
    """The edge took a subscription."""

    channel: str
    kind: str | None
    mode: str
    delta: str | None
    newest: Position | None
    recovered: bool | None
    gap: Gap | None
    """What is known to be missing already. The next publication of the channel carries the same news."""
    max_rate: float | None = None
    """Publications a second, in mode conflate; None: no bound."""
    window: int | None = None
    """Publications that may be under way without an acknowledgement; None: none is asked for."""


class Skipped(msgspec.Struct, frozen=True):
    """Publications of a channel were missed. The next publication of the channel carries the same news."""

    channel: str
    gap: Gap
    is_gone: bool = False
    """Whether the channel has no publication any more."""


class Ended(msgspec.Struct, frozen=True):
    """The edge refused or ended a subscription. With `error.retry` it may be asked again."""

    channel: str
    error: RefusedError


class Answered(msgspec.Struct, frozen=True):
    """A command that is no subscription (connect, ping) was answered; `error` says if it failed."""

    id: int
    error: RefusedError | None = None


Event = Publication | Joined | Skipped | Whole | Resubscribe | Ended | Answered | Connected | Drain


class _Stage(StrEnum):
    IDLE = "idle"
    ASKED = "asked"
    LIVE = "live"
    BROKEN = "broken"


class _Channel:
    """One channel of this client: its chain, and how far its subscription is on the present connection."""

    def __init__(self, chain: Chain, delta: tuple[str, ...], delivery: dict[str, Any]) -> None:
        self.chain = chain
        self.delta = delta
        self.delivery = delivery
        self.stage = _Stage.IDLE
        self.asked_id = 0
        self.asked: Position | None = None
        self.number: int | None = None


class Core:
    """All that a client knows. `receive` is its heart."""

    def __init__(self, format_name: str, *, name: str = "", token: str | None = None, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._format = make_format(format_name)
        self._name = name
        self._token = token
        self._max_payload_bytes = max_payload_bytes
        self._channels: dict[str, _Channel] = {}
        self._names: dict[int | str, _Channel] = {}
        """The live ones, by number and by name."""
        self._asked: dict[int, _Channel] = {}
        """By the id of the `subscribe` that is not answered yet."""
        self._last_id = 0

    def __repr__(self) -> str:
        return f"<Core {self._format.name} channels {len(self._channels)}>"

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that the application wants, in the order in which it asked."""
        return tuple(self._channels)

    def connect(self) -> bytes:
        """Start a new connection: its first frame."""
        self.lost()
        command: dict[str, Any] = {"type": "connect"}
        if self._name:
            command["client"] = self._name
        if self._token is not None:
            command["token"] = self._token
        return self._command(command)[1]

    def lost(self) -> None:
        """The connection is gone, and with it the numbers; the channels stay wanted."""
        self._last_id = 0
        self._names.clear()
        self._asked.clear()
        for channel in self._channels.values():
            channel.stage = _Stage.IDLE
            channel.number = None

    def add(
        self,
        name: str,
        *,
        position: Position | None = None,
        delta: tuple[str, ...] = (),
        rewind: dict[str, float] | None = None,
        delivery: dict[str, Any] | None = None,
    ) -> None:
        """Want a channel; `delivery` is what `subscribe` says of mode, max_rate and window.

        Raises ChannelError, or AlreadySubscribedError where the client has it already.
        """
        check_channel(name)
        if name in self._channels:
            msg = f"this client is already subscribed to {name}; one subscription serves the whole application"
            raise AlreadySubscribedError(msg)
        self._channels[name] = _Channel(Chain(name, position, rewind, max_bytes=self._max_payload_bytes), delta, delivery or {})

    def add_bare(self, name: str, *, delta: tuple[str, ...] = ()) -> None:
        """Want a channel that the URL of a bare client (section 2) has subscribed to already."""
        self.add(name, delta=delta)
        channel = self._channels[name]
        channel.stage = _Stage.LIVE
        self._names[name] = channel

    def remove(self, name: str) -> bytes | None:
        """Want a channel no more: the frame to send, if the edge knows of it."""
        channel = self._channels.pop(name, None)
        if channel is None or channel.stage is _Stage.IDLE:
            return None
        self._detach(channel)
        return self._command({"type": "unsubscribe", "channel": name})[1]

    def subscribe(self, name: str) -> tuple[int, list[bytes]]:
        """Subscribe, or subscribe again: the id to wait for, and the frames to send."""
        channel = self._channels[name]
        frames: list[bytes] = []
        if channel.stage is not _Stage.IDLE:
            self._detach(channel)
            frames.append(self._command({"type": "unsubscribe", "channel": name})[1])
        chain = channel.chain
        asked = channel.asked = chain.position
        command: dict[str, Any] = {"type": "subscribe", "channel": name, **channel.delivery}
        if asked is not None:
            command["position"] = {"epoch": asked.epoch or None, "offset": asked.offset}
        elif chain.rewind is not None:
            command["rewind"] = chain.rewind
        if channel.delta:
            command["delta"] = list(channel.delta)
        channel.stage = _Stage.ASKED
        channel.asked_id, frame = self._command(command)
        self._asked[channel.asked_id] = channel
        return channel.asked_id, [*frames, frame]

    def ping(self) -> tuple[int, bytes]:
        """Ask for a sign of life: the id to wait for, and the frame to send."""
        return self._command({"type": "ping"})

    def acknowledge(self, name: str, position: Position) -> bool:
        """Everything of a channel up to a position was handled. Returns whether that is news: then `ack` makes the frame that says so."""
        channel = self._channels.get(name)
        return channel is not None and channel.chain.acknowledge(position)

    def begin_anew(self, name: str, at: Position) -> None:
        """The application took the first publication of a keyed channel's new state."""
        if (channel := self._channels.get(name)) is not None:
            channel.chain.begin_anew(at)

    def ack(self, name: str) -> bytes | None:
        """The frame that tells the edge what was acknowledged last; None where there is no one to tell."""
        channel = self._channels.get(name)
        if channel is None or channel.stage is not _Stage.LIVE or (acked := channel.chain.acked) is None:
            return None
        who = {"channel": name} if channel.number is None else {"number": channel.number}
        return self._format.encode({"type": "ack", **who, "offset": acked.offset, "epoch": acked.epoch})

    def position_of(self, name: str) -> Position | None:
        """Where the channel would be resumed."""
        return self._channels[name].chain.position

    def receive(self, data: bytes) -> Event | None:
        """Take one frame. None: nothing that anybody has to know.

        Raises ProtocolError where it is none, or none that belongs here; the connection should be given up then, since what it would
        have said is lost.
        """
        frame = self._format.decode(data)
        if isinstance(frame, Incoming):
            return self._on_publication(frame, len(data))
        match frame:
            case Subscribed():
                event = self._on_subscribed(frame)
            case GapFrame():
                event = self._on_gap(frame)
            case CaughtUp():
                event = self._on_caught_up(frame)
            case Unsubscribed():
                event = self._on_unsubscribed(frame)
            case ErrorFrame():
                event = self._on_error(frame)
            case Pong():
                event = Answered(frame.id)
            case Connected():
                event = _check_version(frame)
            case _:
                event = frame
        return event

    def _on_publication(self, incoming: Incoming, size: int) -> Event | None:
        channel = self._names.get(incoming.name)
        if channel is None:
            return None  # Still on its way when we unsubscribed.
        event = channel.chain.on_publication(incoming, size)
        if isinstance(event, Resubscribe):
            self._detach(channel)
            channel.stage = _Stage.BROKEN
        return event

    def _on_subscribed(self, frame: Subscribed) -> Event | None:
        channel = self._asked.pop(frame.id, None)
        if channel is None:
            return None  # The application changed its mind meanwhile.
        name = channel.chain.channel
        if name != frame.channel:
            msg = f"the edge answered a subscription to {name} with {frame.channel!r}"
            raise ProtocolError(msg)
        if frame.number is not None and frame.number in self._names:
            msg = f"the edge gave number {frame.number} to {name} and to {self._names[frame.number].chain.channel}"
            raise ProtocolError(msg)
        channel.stage = _Stage.LIVE
        channel.number = frame.number
        self._names[name] = channel
        if frame.number is not None:
            self._names[frame.number] = channel
        gap = channel.chain.on_subscribed(frame, channel.asked)
        newest = Position(frame.position.epoch, frame.position.offset) if frame.position else None
        return Joined(name, frame.kind, frame.mode, frame.delta, newest, frame.recovered, gap, frame.max_rate, frame.window)

    def _on_gap(self, frame: GapFrame) -> Event | None:
        name = frame.number if frame.number is not None else frame.channel
        channel = self._names.get(name) if name is not None else None
        if channel is None:
            return None
        return Skipped(channel.chain.channel, channel.chain.on_gap(frame), frame.epoch is None)

    def _on_caught_up(self, frame: CaughtUp) -> Event | None:
        name = frame.number if frame.number is not None else frame.channel
        channel = self._names.get(name) if name is not None else None
        return None if channel is None else channel.chain.on_caught_up(frame)

    def _on_unsubscribed(self, frame: Unsubscribed) -> Event | None:
        if frame.id is not None:
            return None
        channel = self._channels.get(frame.channel)
        if channel is None or channel.stage is not _Stage.LIVE:
            return None  # It crossed a command of ours that made it void.
        return self._end(channel, RefusedError(frame.code, frame.message, retry=frame.retry, channel=frame.channel))

    def _on_error(self, frame: ErrorFrame) -> Event | None:
        channel = self._asked.get(frame.id) if frame.id is not None else self._channels.get(frame.channel or "")
        error = RefusedError(frame.code, frame.message, retry=frame.retry, channel=channel.chain.channel if channel else frame.channel)
        if channel is not None:
            return self._end(channel, error)
        return Answered(frame.id or 0, error)

    def _end(self, channel: _Channel, error: RefusedError) -> Event:
        self._detach(channel)
        channel.stage = _Stage.IDLE
        if not error.retry:
            del self._channels[channel.chain.channel]
        return Ended(channel.chain.channel, error)

    def _detach(self, channel: _Channel) -> None:
        """Take no more frames for it: those still on their way belong to a subscription that is over."""
        self._asked.pop(channel.asked_id, None)
        if self._names.get(channel.chain.channel) is channel:
            del self._names[channel.chain.channel]
        if channel.number is not None:
            self._names.pop(channel.number, None)
            channel.number = None

    def _command(self, command: dict[str, Any]) -> tuple[int, bytes]:
        self._last_id += 1
        return self._last_id, self._format.encode({**command, "id": self._last_id})


def _check_version(frame: Connected) -> Connected:
    if frame.version != VERSION:
        msg = f"the edge speaks version {frame.version} of the protocol, this client version {VERSION}"
        raise ProtocolError(msg)
    return frame
