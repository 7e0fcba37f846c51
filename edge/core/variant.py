"""The ways in which one publication is written to clients, and the messages themselves (docs/protocol.md, sections 2 to 6)."""

from __future__ import annotations

import functools
from base64 import b64encode
from collections.abc import Callable, Sequence
from enum import Enum

import msgspec

from edge.core.item import Item, Step
from edge.core.stream import Gap
from shared.publication import CONTENT_TYPE_NAMES, DELTA_NAMES, ContentType, DeltaFormat

Wrap = Callable[[bytes], bytes]
"""Puts a transport's frame around a message."""

SURELY_SMALLER = 8
"""A delta's frame that is so many times shorter than the payload is sent without a look at the whole, which may be compressed, too."""

# To look up a member of an enum takes 70 ns, and every publication passes here.
_JSON, _VCDIFF = ContentType.JSON, DeltaFormat.VCDIFF

_json = msgspec.json.encode
_msgpack = msgspec.msgpack.encode
_read_json = msgspec.json.decode

_KINDS_JSON = {kind: f',"content_type":"{name}"' for kind, name in CONTENT_TYPE_NAMES.items()} | {ContentType.NONE: ',"deleted":true'}
"""What a JSON frame says of a payload that is not JSON."""


class Dialect(Enum):
    """How messages are written. Named ones say channel and epoch each time, for clients that keep no state."""

    JSON = "json"
    JSON_NAMED = "json-named"
    MSGPACK = "msgpack"
    MSGPACK_NAMED = "msgpack-named"

    is_text: bool
    """Whether messages are JSON text."""
    is_named: bool
    """Whether publications name their channel instead of its number."""

    def __init__(self, name: str) -> None:
        self.is_text = name.startswith("json")
        self.is_named = name.endswith("-named")

    __hash__ = object.__hash__  # Enum's own is written in Python.


class Variant:
    """Dialect, delta format and framing: subscribers that agree in these get the same bytes.

    There is one object for each (`variant_of`), compared by identity: each publication asks for it several times.
    """

    __slots__ = ("_write_delta", "_write_full", "delta", "dialect", "is_named", "wrap")

    def __init__(self, dialect: Dialect, delta: DeltaFormat, wrap: Wrap) -> None:
        self.dialect = dialect
        self.is_named = dialect.is_named
        self.delta = delta
        self.wrap = wrap
        self._write_full = _full_json if dialect.is_text else _full_msgpack
        self._write_delta = _delta_json if dialect.is_text else _delta_msgpack

    def __repr__(self) -> str:
        return f"<Variant {self.dialect.value} {self.delta.name}>"

    def full_frame(self, item: Item, label: Label) -> bytes:
        """A new finished frame that carries the whole publication."""
        return self.wrap(self._write_full(item, label, self))

    def step_frame(self, step: Step, label: Label) -> bytes:
        """A new one for a subscriber that holds the step's base: the delta, or the whole publication where that is smaller."""
        item, base = step.item, step.base
        if not self.delta or base is None or (delta := step.delta(self.delta)) is None:
            return self.wrap(self._write_full(item, label, self))
        frame = self.wrap(self._write_delta(item, base.offset, delta, label, self))
        if len(frame) * SURELY_SMALLER < len(item.payload):
            return frame
        full = self.full_frame(item, label)
        return frame if len(frame) < len(full) else full

    def step_frames(self, steps: Sequence[Step], label: Label) -> bytes:
        """Those of several steps, joined."""
        if len(steps) == 1:
            return self.step_frame(steps[0], label)
        return b"".join([self.step_frame(step, label) for step in steps])


@functools.cache
def variant_of(dialect: Dialect, delta: DeltaFormat, wrap: Wrap) -> Variant:
    """The variant of these; always the same object."""
    return Variant(dialect, delta, wrap)


class Label(msgspec.Struct, frozen=True):
    """What a channel is called in messages."""

    name: str
    number: int


def full_frame(item: Item, label: Label, variant: Variant) -> bytes:
    """The finished frame that carries the whole publication; made once and kept with the item."""
    if item.frames is None:
        item.frames = {}
    frame = item.frames.get(variant)
    if frame is None:
        frame = item.frames[variant] = variant.full_frame(item, label)
    return frame


def step_frame(step: Step, label: Label, variant: Variant) -> bytes:
    """The finished frame for a subscriber that holds the step's base; made once and kept with the step."""
    if step.frames is None:
        step.frames = {}
    frame = step.frames.get(variant)
    if frame is None:
        frame = step.frames[variant] = variant.step_frame(step, label)
    return frame


def gap_message(gap: Gap, label: Label, epoch: str | None, dialect: Dialect) -> bytes:
    """The `gap` message."""
    fields: dict[str, object] = {"type": "gap"}
    fields |= {"channel": label.name} if dialect.is_named else {"number": label.number}
    return control(fields | gap_fields(gap) | {"epoch": epoch}, dialect)


def caught_up_message(label: Label, epoch: str | None, offset: int, dialect: Dialect) -> bytes:
    """The `caught_up` message: what was sent makes up the state of a keyed channel at this position."""
    fields: dict[str, object] = {"type": "caught_up"}
    fields |= {"channel": label.name} if dialect.is_named else {"number": label.number}
    return control(fields | {"epoch": epoch, "offset": offset}, dialect)


def gap_fields(gap: Gap) -> dict[str, object]:
    """`reason` and `missed`, as `gap` and `subscribed` have them."""
    missed = None if gap.missed is None else {"from": gap.missed.first, "to": gap.missed.last}
    return {"reason": gap.reason, "missed": missed}


def control(fields: dict[str, object], dialect: Dialect) -> bytes:
    """Any message but a publication."""
    return _json(fields) if dialect.is_text else _msgpack(fields)


def _head(item: Item, label: Label, variant: Variant, *, with_epoch: bool) -> str:
    if variant.dialect.is_named:
        who = f'"channel":"{label.name}","epoch":"{item.epoch}"'
    elif with_epoch:
        who = f'"number":{label.number},"epoch":"{item.epoch}"'
    else:
        who = f'"number":{label.number}'
    time = "" if item.time_ms is None else f',"time":{item.time_ms}'
    if item.key is None and item.content_type is _JSON and not item.tags:
        return f'{{"type":"publication",{who},"offset":{item.offset}{time}'
    key = "" if item.key is None else f',"key":{_text(item.key)}'
    tags = f',"tags":{item.tags.decode()}' if item.tags else ""
    kind = "" if item.content_type is _JSON else _KINDS_JSON[item.content_type]
    return f'{{"type":"publication",{who},"offset":{item.offset}{time}{key}{tags}{kind}'


def _text(data: bytes) -> str:
    return _json(data.decode("utf-8", "replace")).decode()


def _full_json(item: Item, label: Label, variant: Variant) -> bytes:
    if item.content_type is _JSON and item.key is None and not item.tags and variant.delta is not _VCDIFF:  # as nearly all are
        who = f'"channel":"{label.name}"' if variant.is_named else f'"number":{label.number}'
        time = "" if item.time_ms is None else f',"time":{item.time_ms}'
        start = f'{{"type":"publication",{who},"epoch":"{item.epoch}","offset":{item.offset}{time},"data":'
        return b"".join((start.encode(), item.payload, b"}"))
    head = _head(item, label, variant, with_epoch=True).encode()
    if item.content_type is _JSON and variant.delta is not _VCDIFF:
        return b"".join((head, b',"data":', item.payload, b"}"))
    if item.content_type is ContentType.NONE:
        return head + b"}"
    if item.content_type is not ContentType.BINARY:
        try:
            return b'%b,"encoding":"utf-8","data":%b}' % (head, _json(item.payload.decode()))
        except UnicodeDecodeError:
            pass  # said to be text, but is none: as bytes, then
    return b'%b,"encoding":"base64","data":"%b"}' % (head, b64encode(item.payload))


def _delta_json(item: Item, base_offset: int, delta: bytes, label: Label, variant: Variant) -> bytes:
    head = _head(item, label, variant, with_epoch=False)
    middle = f'{head},"base":{base_offset},"delta":"{DELTA_NAMES[variant.delta]}"'.encode()
    if variant.delta is DeltaFormat.JSON_PATCH:
        return b'%b,"data":%b}' % (middle, delta)
    return b'%b,"encoding":"base64","data":"%b"}' % (middle, b64encode(delta))


def _full_msgpack(item: Item, label: Label, variant: Variant) -> bytes:
    who = label.name if variant.dialect.is_named else label.number
    array = (0, who, item.offset, item.epoch, item.time_ms, _key(item), int(item.content_type), item.payload)
    return _msgpack((*array, _read_json(item.tags)) if item.tags else array)


def _delta_msgpack(item: Item, base_offset: int, delta: bytes, label: Label, variant: Variant) -> bytes:
    base: object = base_offset
    who: object = label.number
    if variant.dialect.is_named:
        who, base = label.name, (item.epoch, base_offset)
    array = (int(variant.delta), who, item.offset, base, item.time_ms, _key(item), int(item.content_type), delta)
    return _msgpack((*array, _read_json(item.tags)) if item.tags else array)


def _key(item: Item) -> str | None:
    return None if item.key is None else item.key.decode("utf-8", "replace")
