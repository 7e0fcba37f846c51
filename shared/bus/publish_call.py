"""What the publish script takes and answers, as publish.lua tells at its head: its keys, arguments and answers for one push."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from shared.bus.layout import BusLayout
from shared.bus.push import Outcome, Push, Pushed
from shared.envelope import encode_rest
from shared.publication import ContentType, DeltaFormat

ANSWERS_A_PUSH = 3
"""Outcome, epoch, offset."""

_META = struct.Struct(">BIIQQ8s8sqQI12s")
_MORE = struct.Struct(">????IQQId16s?")
_NO_HASH = bytes(8)
_OUTCOMES = {int(outcome): outcome for outcome in Outcome}


Word = bytes | str | int
"""A part of a command."""


def add_pushes(pushes: Iterable[Push], layout: BusLayout, keys: list[Word], arguments: list[Word]) -> None:
    """Add pushes to the keys and arguments of a call, in their order."""
    for push in pushes:
        keys += (layout.head_key(push.channel), layout.history_key(push.channel))
        if push.key is None and push.version is None and not push.id:
            arguments += _arguments(push)
        else:
            keys += (layout.keys_key(push.channel), layout.versions_key(push.channel), layout.ids_key(push.channel))
            arguments += _more_arguments(push)


def read_answer(outcome: int, epoch: bytes, offset: int) -> Pushed:
    """The answer to one push. Where it failed, `epoch` is the reason."""
    if outcome == Outcome.FAILED:
        return Pushed(Outcome.FAILED, b"", 0, epoch.decode("utf-8", "replace"))
    return Pushed(_OUTCOMES[outcome], epoch, offset)


def _arguments(push: Push) -> tuple[bytes, bytes, bytes]:
    keep, source = push.keep, push.source
    meta = _META.pack(
        push.only_changed | push.restore << 1,
        keep.history_size,
        keep.history_bytes,
        keep.history_age_ms,
        keep.ttl_ms,
        push.payload_hash,
        push.base_hash or _NO_HASH,
        push.time_ms,
        source.offset,
        source.index,
        source.id,
    )
    full = encode_rest(
        kind=push.kind,
        content_type=push.content_type,
        time_ms=push.time_ms,
        payload_hash=push.payload_hash,
        body=push.payload,
        key=push.key,
        tags=push.tags,
    )
    if push.delta_format is DeltaFormat.NONE:
        return meta, full, b""
    delta = encode_rest(
        kind=push.kind,
        content_type=push.content_type,
        time_ms=push.time_ms,
        payload_hash=push.payload_hash,
        body=push.delta,
        delta=push.delta_format,
        base_hash=push.base_hash,
        key=push.key,
        tags=push.tags,
    )
    return meta, full, delta


def _more_arguments(push: Push) -> tuple[bytes, bytes, bytes, bytes]:
    """Those of a push with a key, a version, or an id."""
    meta, full, delta = _arguments(push)
    keep = push.keep
    more = _MORE.pack(
        push.key is not None,
        push.content_type is ContentType.NONE,
        push.version is not None,
        bool(push.id),
        keep.max_keys,
        keep.max_key_bytes,
        keep.id_window_ms,
        keep.id_count,
        push.version or 0.0,
        push.id,
        keep.stops_at_failure and not push.restore,
    )
    return meta + more, full, delta, push.key or b""
