"""Envelopes, streams and subscribers, made in one line."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge.core.hub import Channel, Subscription
from edge.core.item import Step
from edge.core.stream import ChannelStream, Gap
from edge.core.variant import Dialect, Label, Variant, variant_of
from shared.delta import json_patch, vcdiff
from shared.envelope import NO_TIME, Envelope, epoch_to_text
from shared.publication import ContentType, DeltaFormat, Kind, payload_hash

EPOCH = bytes(range(12))
EPOCH_TEXT = epoch_to_text(EPOCH)
OTHER = b"another one."


def value(number: int, size: int = 0) -> bytes:
    """The payload of publication `number`."""
    return b'{"n":%d,"pad":"%b"}' % (number, b"x" * size)


def full(
    offset: int,
    payload: bytes | None = None,
    *,
    epoch: bytes = EPOCH,
    kind: Kind = Kind.LATEST,
    content_type: ContentType = ContentType.JSON,
    time_ms: int = NO_TIME,
    key: bytes | None = None,
) -> Envelope:
    """A full publication; its payload is `value(offset)` unless given."""
    payload = value(offset) if payload is None else payload
    return Envelope(epoch, offset, 0, DeltaFormat.NONE, kind, content_type, time_ms, payload_hash(payload), b"", key, payload)


def delta(
    offset: int, base: bytes, payload: bytes, *, form: DeltaFormat = DeltaFormat.VCDIFF, body: bytes | None = None, epoch: bytes = EPOCH
) -> Envelope:
    """A publication as a delta to `base`, the payload of the offset before."""
    if body is None:
        body = vcdiff.encode(base, payload) if form is DeltaFormat.VCDIFF else json_patch.encode(base, payload) or b""
    return Envelope(
        epoch, offset, offset - 1, form, Kind.LATEST, ContentType.JSON, NO_TIME, payload_hash(payload), payload_hash(base), None, body
    )


def keyed(offset: int, key: str, payload: bytes | None = None, *, epoch: bytes = EPOCH, base: Envelope | None = None) -> Envelope:
    """A publication on a keyed channel; its payload is `value(offset)` unless given, and with a base it is a delta."""
    payload = value(offset) if payload is None else payload
    made = full(offset, payload, epoch=epoch, kind=Kind.KEYED, key=key.encode())
    if base is None:
        return made
    body = vcdiff.encode(base.body, payload)
    return msgspec.structs.replace(made, base_offset=base.offset, base_hash=base.payload_hash, delta=DeltaFormat.VCDIFF, body=body)


def deletion(offset: int, key: str, *, epoch: bytes = EPOCH) -> Envelope:
    """A key is deleted."""
    return full(offset, b"", epoch=epoch, kind=Kind.KEYED, content_type=ContentType.NONE, key=key.encode())


def history(first: int, last: int, *, epoch: bytes = EPOCH, kind: Kind = Kind.LATEST, size: int = 0) -> list[Envelope]:
    """What the bus holds: publications `first` to `last`."""
    return [full(offset, value(offset, size), epoch=epoch, kind=kind) for offset in range(first, last + 1)]


def stream_at(envelopes: Sequence[Envelope], *, max_items: int = 100, max_bytes: int = 10_000) -> ChannelStream:
    """A stream that has read this, and knows that the bus holds no more."""
    stream = ChannelStream(max_items=max_items, max_bytes=max_bytes)
    stream.refill(envelopes, asked=len(envelopes) + 1, most=1_000)
    return stream


def offsets(steps: Sequence[Step]) -> list[int]:
    """Which publications these are."""
    return [step.item.offset for step in steps]


def step(stream: ChannelStream, envelope: Envelope) -> Step:
    """Apply what follows."""
    made = stream.apply(envelope)
    assert isinstance(made, Step), made
    return made


def plain(message: bytes) -> bytes:
    """No framing."""
    return message


def bracketed(message: bytes) -> bytes:
    """Framing that one can see."""
    return b"<" + message + b">"


LABEL = Label("bus:1430", 17)


def variant(dialect: Dialect = Dialect.JSON, form: DeltaFormat = DeltaFormat.NONE) -> Variant:
    """A variant without framing."""
    return variant_of(dialect, form, plain)


class Reader:
    """A subscriber that keeps every write."""

    def __init__(self, channel: Channel, wanted: Variant, *, in_step: bool) -> None:
        self.writes: list[bytes] = []
        self.subscription = Subscription(channel, wanted, self.writes.append, Nobody())
        channel.add(self.subscription, in_step=in_step)


class Nobody:
    """Holds subscriptions that nothing happens to."""

    def on_restart(self, subscription: Subscription, gap: Gap) -> None:
        """See `edge.core.hub.Holder`."""

    def on_end(self, subscription: Subscription, why: str) -> None:
        """See `edge.core.hub.Holder`."""
