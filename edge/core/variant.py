"""The ways in which one publication is written to clients, and the messages themselves (docs/protocol.md, sections 2 to 6)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from enum import Enum

import msgspec

from edge.core.item import Item, Step
from edge.core.stream import Gap
from shared.publication import CONTENT_TYPE_NAMES, DELTA_NAMES, ContentType, DeltaFormat

Wrap = Callable[[bytes], bytes]
"""Puts a transport's frame around a message."""

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

    @property
    def is_text(self) -> bool:
        """Whether messages are JSON text."""
        return self in {Dialect.JSON, Dialect.JSON_NAMED}

    @property
    def is_named(self) -> bool:
        """Whether publications name their channel instead of its number."""
        return self in {Dialect.JSON_NAMED, Dialect.MSGPACK_NAMED}


class Variant(msgspec.Struct, frozen=True):
    """Dialect, delta format and framing: subscribers that agree in these get the same bytes."""

    dialect: Dialect
    delta: DeltaFormat
    wrap: Wrap

    def __hash__(self) -> int:
        return hash((self.dialect, self.delta, self.wrap))


class Label(msgspec.Struct, frozen=True):
    """What a channel is called in messages."""

    name: str
    number: int


def full_frame(item: Item, label: Label, variant: Variant) -> bytes:
    """The finished frame that carries the whole publication; made once and kept with the item."""
    frame = item.frames.get(variant)
    if frame is None:
        write = _full_json if variant.dialect.is_text else _full_msgpack
        frame = item.frames[variant] = variant.wrap(write(item, label, variant))
    return frame


def step_frame(step: Step, label: Label, variant: Variant) -> bytes:
    """The finished frame for a subscriber that holds the step's base: the delta, or the whole publication where that is smaller."""
    frame = step.frames.get(variant)
    if frame is None:
        frame = step.frames[variant] = _smaller(step, label, variant)
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


def _smaller(step: Step, label: Label, variant: Variant) -> bytes:
    full = full_frame(step.item, label, variant)
    base = step.base
    if variant.delta is DeltaFormat.NONE or base is None:
        return full
    delta = step.delta(variant.delta)
    if delta is None:
        return full
    write = _delta_json if variant.dialect.is_text else _delta_msgpack
    frame = variant.wrap(write(step.item, base.offset, delta, label, variant))
    return frame if len(frame) < len(full) else full


def _head(item: Item, label: Label, variant: Variant, *, with_epoch: bool) -> str:
    who = f'"channel":"{label.name}"' if variant.dialect.is_named else f'"number":{label.number}'
    epoch = f',"epoch":"{item.epoch}"' if with_epoch or variant.dialect.is_named else ""
    time = "" if item.time_ms is None else f',"time":{item.time_ms}'
    key = "" if item.key is None else f',"key":{_text(item.key)}'
    tags = f',"tags":{item.tags.decode()}' if item.tags else ""
    kind = "" if item.content_type is ContentType.JSON else _KINDS_JSON[item.content_type]
    return f'{{"type":"publication",{who}{epoch},"offset":{item.offset}{time}{key}{tags}{kind}'


def _text(data: bytes) -> str:
    return _json(data.decode("utf-8", "replace")).decode()


def _full_json(item: Item, label: Label, variant: Variant) -> bytes:
    head = _head(item, label, variant, with_epoch=True).encode()
    if item.content_type is ContentType.NONE:
        return head + b"}"
    if item.content_type is ContentType.JSON and variant.delta is not DeltaFormat.VCDIFF:
        return b'%b,"data":%b}' % (head, item.payload)
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
