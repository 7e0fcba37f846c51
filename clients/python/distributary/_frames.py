"""Frames of docs/protocol.md, sections 3 to 6: bytes <-> values, in JSON and in MessagePack. No state, no I/O.

Both formats give the same values, so nothing above this file knows which one is spoken.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, Protocol

import msgspec
from msgspec import Meta

from distributary.errors import ProtocolError
from distributary.publication import Missed
from shared.publication import CONTENT_TYPE_NAMES, DELTA_NAMES, ContentType, DeltaFormat

MAX_INTEGER = 2**53 - 1
_NEWEST_VERSION = 1

Integer = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Offset = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]

_CONTENT_TYPES = {name: content_type for content_type, name in CONTENT_TYPE_NAMES.items() if content_type is not ContentType.NONE}
_DELTAS = {name: delta for delta, name in DELTA_NAMES.items() if delta is not DeltaFormat.NONE}
_CONTENT_TYPE_NUMBERS = {int(content_type): content_type for content_type in ContentType}
_DELTA_NUMBERS = {int(delta): delta for delta in DeltaFormat}


class WirePosition(msgspec.Struct, frozen=True):
    """A position, as checked when read from the edge."""

    epoch: str
    offset: Integer


class Connected(msgspec.Struct, frozen=True, tag="connected"):
    """The edge's answer to `connect`."""

    id: Integer
    version: int = _NEWEST_VERSION
    session: str = ""
    ping_interval_s: Annotated[float, Meta(gt=0)] = 25.0
    max_frame_bytes: int | None = None
    max_subscriptions: int | None = None


class Subscribed(msgspec.Struct, frozen=True, tag="subscribed"):
    """The edge's answer to `subscribe`."""

    id: Integer
    channel: str
    number: Integer | None = None
    kind: str | None = None
    mode: str = "queue"
    max_rate: float | None = None
    window: Integer | None = None
    delta: str | None = None
    position: WirePosition | None = None
    recovered: bool | None = None
    reason: str | None = None
    missed: Missed | None = None


class GapFrame(msgspec.Struct, frozen=True, tag="gap"):
    """The edge skipped publications of a live subscription."""

    reason: str
    number: Integer | None = None
    channel: str | None = None
    missed: Missed | None = None
    epoch: str | None = None


class Unsubscribed(msgspec.Struct, frozen=True, tag="unsubscribed"):
    """A subscription ended: at our wish (`id`) or at the edge's."""

    channel: str
    id: Integer | None = None
    code: str = "unsubscribed"
    message: str = ""
    retry: bool = False


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """The edge's answer to `ping`."""

    id: Integer


class ErrorFrame(msgspec.Struct, frozen=True, tag="error"):
    """A command failed (`id`), or a channel of a bare client (`channel`)."""

    code: str
    id: Integer | None = None
    message: str = ""
    retry: bool = False
    channel: str | None = None


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """The edge goes away."""

    reconnect_after_ms: Annotated[float, Meta(ge=0)] = 0


class CaughtUp(msgspec.Struct, frozen=True, tag="caught_up"):
    """What came makes up the state of a keyed channel at this position."""

    epoch: str
    offset: Integer
    number: Integer | None = None
    channel: str | None = None


class Incoming(msgspec.Struct, frozen=True, gc=False):
    """A publication as it came, before any delta was applied."""

    name: int | str
    """The number of the channel on this connection, or (to a bare client) its name."""
    delta: DeltaFormat
    offset: int
    epoch: str | None
    base: int | None
    time_ms: int | None
    key: str | None
    content_type: ContentType
    body: bytes
    is_exact: bool
    """Whether a full body is the payload byte for byte, and not just JSON text of the same value."""
    tags: dict[str, str] = {}


Control = Connected | Subscribed | GapFrame | CaughtUp | Unsubscribed | Pong | ErrorFrame | Drain
Frame = Control | Incoming


class _JsonPublication(msgspec.Struct, frozen=True, tag="publication"):
    offset: Offset
    data: msgspec.Raw = msgspec.Raw(b"")
    """Absent from a deletion."""
    number: Integer | None = None
    channel: str | None = None
    epoch: str | None = None
    base: Offset | None = None
    delta: str | None = None
    time: int | None = None
    key: str | None = None
    content_type: str = CONTENT_TYPE_NAMES[ContentType.JSON]
    encoding: str | None = None
    deleted: bool = False
    tags: dict[str, str] = {}


class _ArrayPublication(msgspec.Struct, frozen=True, array_like=True):
    format: int
    name: Integer | str
    offset: Offset
    where: Any
    """Checked by hand: msgspec 0.22 crashes on a union of a string, a bounded integer and a tuple."""
    time: int | None
    key: str | None
    content_type: int
    data: bytes
    tags: dict[str, str] = {}


class Format(Protocol):
    """How frames are written. Reading gives None for a type of frame that this version does not know, which is to be ignored."""

    name: str
    is_binary: bool

    def encode(self, command: dict[str, Any]) -> bytes:
        """Write a command."""

    def decode(self, data: bytes) -> Frame | None:
        """Read a frame; raise ProtocolError, saying what is wrong, where it is none."""


class JsonFormat:
    """JSON text frames. `encode` gives UTF-8."""

    name = "json"
    is_binary = False

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_JsonPublication | Control)

    def encode(self, command: dict[str, Any]) -> bytes:
        """Write a command."""
        return msgspec.json.encode(command)

    def decode(self, data: bytes) -> Frame | None:
        """Read a frame; raise ProtocolError, saying what is wrong, where it is none."""
        try:
            frame = self._decoder.decode(data)
            return _from_json(frame) if isinstance(frame, _JsonPublication) else frame
        except msgspec.ValidationError as error:
            if _is_unknown(msgspec.json.decode, data):
                return None
            raise _malformed(error) from error
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise _malformed(error) from error


class MsgpackFormat:
    """MessagePack binary frames."""

    name = "msgpack"
    is_binary = True

    def __init__(self) -> None:
        self._publications = msgspec.msgpack.Decoder(_ArrayPublication)
        self._controls = msgspec.msgpack.Decoder(Control)

    def encode(self, command: dict[str, Any]) -> bytes:
        """Write a command."""
        return msgspec.msgpack.encode(command)

    def decode(self, data: bytes) -> Frame | None:
        """Read a frame; raise ProtocolError, saying what is wrong, where it is none."""
        try:
            if _is_array(data):
                return _from_array(self._publications.decode(data))
            frame: Control = self._controls.decode(data)
        except msgspec.ValidationError as error:
            if not _is_array(data) and _is_unknown(msgspec.msgpack.decode, data):
                return None
            raise _malformed(error) from error
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise _malformed(error) from error
        return frame


def make_format(name: str) -> Format:
    """The format of that name: `json` or `msgpack`."""
    return MsgpackFormat() if name == "msgpack" else JsonFormat()


_KNOWN = {"connected", "subscribed", "publication", "gap", "caught_up", "unsubscribed", "pong", "error", "drain"}


def _is_array(data: bytes) -> bool:
    return bool(data) and (data[0] & 0xF0 == 0x90 or data[0] in {0xDC, 0xDD})


def _is_unknown(decode: Callable[[bytes], Any], data: bytes) -> bool:
    """Whether it is a frame of a later version: an object with a type that we have never heard of."""
    try:
        frame = decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return isinstance(frame, dict) and isinstance(kind := frame.get("type"), str) and kind not in _KNOWN


def _malformed(error: Exception) -> ProtocolError:
    msg = f"the edge sent a malformed frame: {error}"
    return ProtocolError(msg)


def _from_json(frame: _JsonPublication) -> Incoming:
    name: int | str | None = frame.number if frame.number is not None else frame.channel
    if name is None:
        _reject("it names no channel")
    if frame.content_type not in _CONTENT_TYPES:
        _reject(f"unknown content type {frame.content_type!r}")
    content_type = ContentType.NONE if frame.deleted else _CONTENT_TYPES[frame.content_type]
    delta = DeltaFormat.NONE
    if frame.delta is not None:
        if frame.delta not in _DELTAS:
            _reject(f"unknown delta format {frame.delta!r}")
        delta = _DELTAS[frame.delta]
        if frame.base is None:
            _reject("a delta without a base")
    elif frame.epoch is None:
        _reject("a full publication without an epoch")
    return Incoming(
        name=name,
        delta=delta,
        offset=frame.offset,
        epoch=frame.epoch,
        base=frame.base if delta is not DeltaFormat.NONE else None,
        time_ms=frame.time,
        key=frame.key,
        content_type=content_type,
        body=_body(frame, content_type, delta),
        is_exact=frame.encoding is not None or frame.deleted,
        tags=frame.tags,
    )


def _body(frame: _JsonPublication, content_type: ContentType, delta: DeltaFormat) -> bytes:
    if frame.deleted:
        if frame.key is None or delta is not DeltaFormat.NONE:
            _reject("a deletion without a key, or as a delta")
        return b""
    if not bytes(frame.data):
        _reject("no data")
    if frame.encoding is None:
        if delta is DeltaFormat.VCDIFF or (delta is DeltaFormat.NONE and content_type is not ContentType.JSON):
            _reject("data without an encoding")
        # A copy: `Raw` is a view that would keep the whole frame alive.
        return bytes(frame.data)
    text = msgspec.json.decode(frame.data)
    if not isinstance(text, str):
        _reject("data with an encoding that is not a string")
    if frame.encoding == "utf-8":
        return text.encode()
    if frame.encoding != "base64":
        _reject(f"unknown encoding {frame.encoding!r}")
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        _reject(f"data is not base64: {error}")


def _from_array(frame: _ArrayPublication) -> Incoming:
    if frame.format not in _DELTA_NUMBERS:
        _reject(f"unknown format {frame.format}")
    if frame.content_type not in _CONTENT_TYPE_NUMBERS:
        _reject(f"unknown content type {frame.content_type}")
    delta = _DELTA_NUMBERS[frame.format]
    if frame.content_type == ContentType.NONE and (frame.key is None or delta is not DeltaFormat.NONE or frame.data):
        _reject("a deletion without a key, as a delta, or with data")
    epoch, base = _where(frame.where, delta)
    return Incoming(
        name=frame.name,
        delta=delta,
        offset=frame.offset,
        epoch=epoch,
        base=base,
        time_ms=frame.time,
        key=frame.key,
        content_type=_CONTENT_TYPE_NUMBERS[frame.content_type],
        body=frame.data,
        is_exact=True,
        tags=frame.tags,
    )


def _where(where: Any, delta: DeltaFormat) -> tuple[str | None, int | None]:
    """Epoch and base, as far as they are named: an epoch, a base or, to a bare client, both."""
    if delta is DeltaFormat.NONE:
        if isinstance(where, str):
            return where, None
        _reject("a full publication without an epoch")
    epoch, base = where if isinstance(where, list) and len(where) == 2 and isinstance(where[0], str) else (None, where)
    if isinstance(base, bool) or not isinstance(base, int) or not 1 <= base <= MAX_INTEGER:
        _reject("a delta without a base")
    return epoch, base


def _reject(what: str) -> NoReturn:
    msg = f"the edge sent a malformed publication: {what}"
    raise ProtocolError(msg)
