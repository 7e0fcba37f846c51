"""What a subscriber gets first: everything after its position, or an honest `recovered: false` and the newest value."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge.core.delivery import Mode
from edge.core.item import Item
from edge.core.stream import ChannelStream, Gap, Missed
from shared.publication import Kind, Position


class Rewind(msgspec.Struct, frozen=True):
    """How far back a new subscriber wants to start: the newest `count` publications, or those of the last `age_ms`."""

    count: int = 0
    age_ms: int = 0


class Start(msgspec.Struct, frozen=True):
    """The publications that a subscriber gets first, in order."""

    items: list[Item]
    recovered: bool | None = None
    """None where the subscriber named no position."""
    gap: Gap | None = None
    """Set exactly where `recovered` is False."""


class PacedStart(msgspec.Struct, frozen=True):
    """Where a subscriber that goes at its own pace starts: behind the publication at `cursor`."""

    cursor: int
    recovered: bool | None = None
    gap: Gap | None = None
    """Set exactly where `recovered` is False."""


class NeedHistory(msgspec.Struct, frozen=True):
    """The ring does not reach back far enough: read the newest `count` publications from the bus, then ask again with them."""

    count: int


def start_new(
    stream: ChannelStream, rewind: Rewind | None, now_ms: int, *, most: int, most_bytes: int, items: Sequence[Item] | None = None
) -> Start | NeedHistory:
    """Where a subscriber without a position starts. `items` is what a read of the bus brought, once it was made.

    Of a rewind that goes back further than `most` or `most_bytes`, the newest part.
    """
    if rewind is None:
        newest = stream.newest
        return Start([newest] if newest is not None and stream.kind is not Kind.STREAM else [])
    held = list(stream.ring) if items is None else list(items)
    wanted = most if rewind.age_ms else min(rewind.count, most)
    if items is None and len(held) < wanted and not stream.reaches_back_to_start:
        return NeedHistory(wanted)
    if rewind.age_ms:
        since = now_ms - rewind.age_ms
        young = [item for item in held if item.time_ms is None or item.time_ms >= since]
        return Start(_newest_within(young, most_bytes) or (held[-1:] if stream.kind is not Kind.STREAM else []))
    return Start(_newest_within(held[-wanted:], most_bytes))


def start_from(
    stream: ChannelStream, position: Position, *, most: int, most_bytes: int, items: Sequence[Item] | None = None
) -> Start | NeedHistory:
    """Where a subscriber with a position starts. `items` is what a read of the bus brought, once it was made."""
    newest = stream.newest
    if not position.epoch and position.offset == 0:
        if newest is None:
            return Start([], recovered=True)
    elif newest is None or position.epoch != stream.epoch:
        return _lost(newest, "epoch_changed")
    if position.offset > stream.offset:
        return _lost(newest, "position_ahead")
    missed = stream.offset - position.offset
    held = stream.ring if items is None else items
    reaches_back = held[0].offset <= position.offset + 1
    if items is None and not reaches_back and missed <= most and not stream.reaches_back_to_start:
        return NeedHistory(missed)
    following = [item for item in held if item.offset > position.offset]
    if missed > most or (len(following) > 1 and sum(len(item.payload) for item in following) > most_bytes):
        return _lost(newest, "too_large", position)
    return Start(following, recovered=True) if reaches_back else _lost(newest, "history_trimmed", position)


def _newest_within(items: list[Item], most_bytes: int) -> list[Item]:
    """As many of the newest as fit, and the newest in any case."""
    size = 0
    for at in range(len(items) - 1, -1, -1):
        size += len(items[at].payload)
        if size > most_bytes:
            return items[at + 1 :] or items[-1:]
    return items


def start_paced_from(stream: ChannelStream, position: Position, mode: Mode) -> PacedStart:
    """Where a subscriber that goes at its own pace starts with a position. That the history is too short is told when it gets there.

    In another epoch mode conflate wants the newest publication, and mode ack all that there are.
    """
    newest = stream.offset
    if not position.epoch and position.offset == 0:
        return PacedStart(0, recovered=True)
    if position.epoch != stream.epoch:
        cursor = max(0, newest - 1) if mode is Mode.CONFLATE else 0
        return PacedStart(cursor, recovered=False, gap=Gap("epoch_changed", None))
    if position.offset > newest:
        return PacedStart(max(0, newest - 1), recovered=False, gap=Gap("position_ahead", None))
    return PacedStart(position.offset, recovered=True)


def start_keyed(  # noqa: PLR0911  (a case each)
    stream: ChannelStream, position: Position | None, mode: Mode, *, most: int, is_read: bool
) -> PacedStart | NeedHistory:
    """Where a subscriber of a keyed channel starts: with the whole state, or behind its position.

    That takes a state which knows of all deletions since then, or the publications themselves. `is_read` says that as much of the history
    as could help was read.
    """
    keyed, head = stream.keyed, stream.offset
    if position is None or keyed is None:
        return PacedStart(0)
    if not position.epoch and position.offset == 0:
        return PacedStart(0, recovered=True)
    if position.epoch != stream.epoch:
        return PacedStart(0, recovered=False, gap=Gap("epoch_changed", None))
    if position.offset > head:
        return PacedStart(0, recovered=False, gap=Gap("position_ahead", None))
    cursor = position.offset
    if mode is Mode.ACK or keyed.forgotten_up_to <= cursor or stream.ring[0].offset <= cursor + 1:
        return PacedStart(cursor, recovered=True)
    if not is_read and head - cursor <= most:
        return NeedHistory(head - cursor)
    reason = "history_trimmed" if is_read else "too_large"
    return PacedStart(0, recovered=False, gap=Gap(reason, Missed(cursor + 1, head)))


def _lost(newest: Item | None, reason: str, position: Position | None = None) -> Start:
    missed = None
    if position is not None and newest is not None and newest.offset - 1 > position.offset:
        missed = Missed(position.offset + 1, newest.offset - 1)
    return Start([newest] if newest else [], recovered=False, gap=Gap(reason, missed))
