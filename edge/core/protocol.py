"""What clients say: commands, read and checked (docs/protocol.md, sections 3 and 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeGuard

import msgspec

from edge.core.delivery import MAX_WINDOW, Delivery, Mode, Wish
from edge.core.recovery import Rewind
from shared.channel import check_channel
from shared.errors import ChannelError, DistributaryError, EnvelopeError
from shared.publication import DELTA_NAMES, DeltaFormat, Position, parse_position

MAX_ID = 2**53 - 1
MAX_DELTA_FORMATS = 8
MAX_REWIND_COUNT = 100_000
MAX_REWIND_AGE_S = 30 * 86_400
MAX_RATE = 1_000

_FORMATS = {name: delta for delta, name in DELTA_NAMES.items()}


class ErrorCode(StrEnum):
    """What an `error` frame says is wrong; docs/protocol.md, section 7."""

    BAD_FRAME = "bad_frame"
    UNKNOWN_TYPE = "unknown_type"
    NOT_CONNECTED = "not_connected"
    ALREADY_CONNECTED = "already_connected"
    BAD_CHANNEL = "bad_channel"
    ALREADY_SUBSCRIBED = "already_subscribed"
    NOT_SUBSCRIBED = "not_subscribed"
    TOO_MANY_SUBSCRIPTIONS = "too_many_subscriptions"
    MODE_NOT_ALLOWED = "mode_not_allowed"
    STATE_TOO_LARGE = "state_too_large"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"


class CommandError(DistributaryError):
    """A client's frame is wrong: answer with an `error` frame of this code; the connection lives."""

    def __init__(
        self, code: ErrorCode, message: str, *, command_id: int | None = None, channel: str | None = None, retry: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.command_id = command_id
        self.channel = channel
        self.retry = retry

    def fields(self) -> dict[str, object]:
        """The `error` message."""
        fields: dict[str, object] = {"type": "error", "id": self.command_id, "code": self.code, "message": str(self), "retry": self.retry}
        return fields if self.channel is None else fields | {"channel": self.channel}


class Connect(msgspec.Struct, frozen=True):
    """The first command on a connection."""

    id: int
    client: str


class Subscribe(msgspec.Struct, frozen=True):
    """Ask for a channel."""

    id: int | None
    """None where the URL asked, not a frame."""
    channel: str
    position: Position | None = None
    delta: DeltaFormat = DeltaFormat.NONE
    """The first format of the client's list that there is."""
    rewind: Rewind | None = None
    wish: Wish = Wish()
    delivery: Delivery = Delivery()
    """What was agreed on; the session fills it in."""


class Ack(msgspec.Struct, frozen=True):
    """Everything of a channel up to an offset was handled. There is no answer."""

    channel: str | None
    """None where the number says which."""
    number: int
    offset: int
    epoch: str | None = None
    """Of the position, where the client names it: an acknowledgement of a former epoch is none of this one."""


class Unsubscribe(msgspec.Struct, frozen=True):
    """Give up a channel."""

    id: int
    channel: str


class Ping(msgspec.Struct, frozen=True):
    """Ask for a `pong`."""

    id: int


Command = Connect | Subscribe | Unsubscribe | Ping | Ack


def read_command(message: bytes, *, is_text: bool) -> Command:
    """Read one frame from a client; raise CommandError, saying what is wrong with which field, if it is no command."""
    try:
        fields = msgspec.json.decode(message) if is_text else msgspec.msgpack.decode(message)
    except (msgspec.MsgspecError, OverflowError, RecursionError, ValueError) as error:
        msg = f"not {'JSON' if is_text else 'MessagePack'}: {error}"
        raise CommandError(ErrorCode.BAD_FRAME, msg) from None
    if not isinstance(fields, dict):
        msg = f"a frame is one object, not {type(fields).__name__}"
        raise CommandError(ErrorCode.BAD_FRAME, msg)
    if fields.get("type") == "ack":
        return _ack(fields)
    command_id = fields.get("id")
    if not isinstance(command_id, int) or isinstance(command_id, bool) or not 0 < command_id <= MAX_ID:
        msg = "`id` must be a positive integer"
        raise CommandError(ErrorCode.BAD_FRAME, msg)
    kind = fields.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        msg = f"unknown type {_shown(kind)}; there are {', '.join(_READERS)}"
        raise CommandError(ErrorCode.UNKNOWN_TYPE, msg, command_id=command_id)
    try:
        return reader(command_id, fields)
    except EnvelopeError as error:
        raise CommandError(ErrorCode.BAD_FRAME, str(error), command_id=command_id) from None


def read_channel(name: object, command_id: int | None) -> str:
    """Check a channel name from a client."""
    if not isinstance(name, str):
        msg = "`channel` must be a string"
        raise CommandError(ErrorCode.BAD_FRAME, msg, command_id=command_id)
    try:
        return check_channel(name)
    except ChannelError as error:
        raise CommandError(ErrorCode.BAD_CHANNEL, str(error), command_id=command_id, channel=name[:255]) from None


def read_delta(names: object, command_id: int | None) -> DeltaFormat:
    """The first known format of a client's list; unknown ones are passed over, so that new ones can be offered to old edges."""
    if names is None:
        return DeltaFormat.NONE
    if not isinstance(names, list) or len(names) > MAX_DELTA_FORMATS or not all(isinstance(name, str) for name in names):
        msg = f"`delta` must be a list of at most {MAX_DELTA_FORMATS} names of formats"
        raise CommandError(ErrorCode.BAD_FRAME, msg, command_id=command_id)
    return next((_FORMATS[name] for name in names if name in _FORMATS), DeltaFormat.NONE)


def read_wish(fields: Mapping[str, Any], command_id: int | None) -> Wish:
    """The delivery that a client wants: `mode`, `max_rate` and `window`, each of which may be absent."""
    mode, max_rate, window = fields.get("mode"), fields.get("max_rate"), fields.get("window")
    if mode is not None and not (isinstance(mode, str) and mode in set(Mode)):
        msg = f"`mode` is one of {', '.join(Mode)}, not {_shown(mode)}"
        raise CommandError(ErrorCode.BAD_FRAME, msg, command_id=command_id)
    if max_rate is not None and not (isinstance(max_rate, int | float) and not isinstance(max_rate, bool) and 0 < max_rate <= MAX_RATE):
        msg = f"`max_rate` is publications a second, above 0 and at most {MAX_RATE}"
        raise CommandError(ErrorCode.BAD_FRAME, msg, command_id=command_id)
    if window is not None and not (_is_count(window) and 1 <= window <= MAX_WINDOW):
        msg = f"`window` is from 1 to {MAX_WINDOW}"
        raise CommandError(ErrorCode.BAD_FRAME, msg, command_id=command_id)
    return Wish(None if mode is None else Mode(mode), max_rate or 0, window or 0)


def _connect(command_id: int, fields: dict[Any, Any]) -> Connect:
    client = fields.get("client", "")
    if not isinstance(client, str):
        msg = "`client` must be a string"
        raise CommandError(ErrorCode.BAD_FRAME, msg, command_id=command_id)
    return Connect(command_id, client[:100])


def _subscribe(command_id: int, fields: dict[Any, Any]) -> Subscribe:
    return Subscribe(
        command_id,
        read_channel(fields.get("channel"), command_id),
        _position(fields.get("position"), command_id),
        read_delta(fields.get("delta"), command_id),
        _rewind(fields.get("rewind"), command_id),
        read_wish(fields, command_id),
    )


def _unsubscribe(command_id: int, fields: dict[Any, Any]) -> Unsubscribe:
    return Unsubscribe(command_id, read_channel(fields.get("channel"), command_id))


def _ack(fields: dict[Any, Any]) -> Ack:
    channel, number, offset, epoch = fields.get("channel"), fields.get("number", 0), fields.get("offset"), fields.get("epoch")
    if (
        not _is_count(offset)
        or not _is_count(number)
        or not isinstance(channel, str | None)
        or not isinstance(epoch, str | None)
        or (channel is None) is ("number" not in fields)
    ):
        msg = "`ack` has `number` or `channel`, and a position's `offset` and, if it likes, `epoch`"
        raise CommandError(ErrorCode.BAD_FRAME, msg)
    return Ack(channel, number, offset, epoch)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID


def _ping(command_id: int, _: dict[Any, Any]) -> Ping:
    return Ping(command_id)


_READERS: dict[str, Callable[[int, dict[Any, Any]], Command]] = {
    "connect": _connect,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "ping": _ping,
}


def _position(value: object, command_id: int) -> Position | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        msg = '`position` must be an object such as {"epoch": "...", "offset": 12}'
        raise CommandError(ErrorCode.BAD_FRAME, msg, command_id=command_id)
    return parse_position(value.get("epoch"), value.get("offset"))


def _rewind(value: object, command_id: int) -> Rewind | None:
    if value is None:
        return None
    msg = f'`rewind` must be {{"count": 1 to {MAX_REWIND_COUNT}}} or {{"age_s": above 0 to {MAX_REWIND_AGE_S}}}'
    if not isinstance(value, dict) or len(value) != 1:
        raise CommandError(ErrorCode.BAD_FRAME, msg, command_id=command_id)
    count, age_s = value.get("count"), value.get("age_s")
    if isinstance(count, int) and not isinstance(count, bool) and 1 <= count <= MAX_REWIND_COUNT:
        return Rewind(count=count)
    if isinstance(age_s, int | float) and not isinstance(age_s, bool) and 0 < age_s <= MAX_REWIND_AGE_S:
        return Rewind(age_ms=max(1, int(age_s * 1000)))
    raise CommandError(ErrorCode.BAD_FRAME, msg, command_id=command_id)


def _shown(value: object) -> str:
    # Only of a string: what is nested as deep as could just be read cannot be shown.
    text = repr(value) if isinstance(value, str) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
