"""The delta chain: what each channel was last given, so that the next publication can be a change to it.

All that is held here is a guess about the bus, made to save bytes and trips. The bus checks it: a delta whose base is not the
channel's newest payload is published as its full payload, so a wrong guess costs bytes and never a value.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable

from bridge.core.draft import ChannelSettings, Draft
from shared.bus.push import Keep, Outcome, Push, Pushed, Source
from shared.channel import shard_of
from shared.delta import json_patch, vcdiff
from shared.publication import DeltaFormat, Kind, payload_hash

ENTRY_OVERHEAD_BYTES = 600
"""What an entry takes beside its payload and name: measured with tracemalloc, rounded up."""
_NO_END_MS = 3_155_760_000_000
"""A hundred years: what the bus is told where a route bounds nothing."""
_MOST_TRUSTED_MS = 300_000
"""And no longer than this: a channel that somebody deleted on the bus comes back with the next record after it."""
_TRUSTED_FOR = 4
"""A skip leaves the channel's time to live where it is, so it is allowed for only this part (one in ...) of it."""

_CONFIRMING = frozenset((Outcome.FULL, Outcome.DELTA, Outcome.UNCHANGED))


class _Entry:
    """What a channel was last given."""

    __slots__ = ("content_type", "hash", "keep", "payload", "refreshed_at", "settings", "size", "skipped", "source", "time_ms", "trusted")

    def __init__(self, draft: Draft, hash_: bytes, keep: Keep, source: Source, time_ms: int) -> None:
        self.payload = draft.payload
        self.content_type = draft.content_type
        self.settings = draft.settings
        self.hash = hash_
        self.keep = keep
        self.source = source
        self.time_ms = time_ms
        self.size = len(draft.payload) + len(draft.channel) + ENTRY_OVERHEAD_BYTES
        self.trusted = -1
        """The generation in which the bus confirmed that this is the channel's newest; -1 for none."""
        self.refreshed_at = 0.0
        self.skipped: Source | None = None
        """The newest source with this very payload that was not told to the bus; all such are of one partition."""


class DeltaChain:
    """Makes pushes of drafts. `clock` tells seconds that only go forward. Byte-bounded: the channels longest without news are forgotten."""

    def __init__(self, *, shards: int, clock: Callable[[], float], max_bytes: int) -> None:
        self._shards = shards
        self._clock = clock
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._generation = 0
        self.bytes_held = 0

    def __repr__(self) -> str:
        return f"<DeltaChain {len(self._entries)} channels, {self.bytes_held} of {self._max_bytes} bytes, generation {self._generation}>"

    def __len__(self) -> int:
        """How many channels it holds."""
        return len(self._entries)

    def prepare(self, draft: Draft, source: Source, time_ms: int, *, sole_writer: bool) -> tuple[Push, ...]:
        """The pushes for a draft: one; none where the route wants only changes and the bus surely has this payload as the newest.

        `sole_writer` says that no other bridge can have published on the channel since the last assignment of partitions.

        Two, where the channel was last skipped for a record of another partition: the first of them tells the bus of that record, which
        would otherwise, processed again after a crash, pass for news and put its old value over this one.
        """
        entry = self._entries.get(draft.channel)
        if entry is None:
            return (self._first(draft, source, time_ms),)
        settings, payload, base_hash = draft.settings, draft.payload, entry.hash
        skipped = entry.skipped
        is_elsewhere = skipped is not None and skipped.id != source.id
        if payload == entry.payload:
            if settings.only_changed and sole_writer and not is_elsewhere and self._is_fresh(entry):
                entry.skipped = source
                return ()
            hash_ = base_hash
        else:
            hash_ = payload_hash(payload)
        # Of an unchanged payload, the bus will publish nothing or (where another one came in between) no delta to this base.
        delta = b"" if settings.only_changed and hash_ is base_hash else _encode(settings.delta, entry.payload, payload)
        keep = entry.keep if settings is entry.settings else _keep(settings)
        new = _Entry(draft, hash_, keep, source, time_ms)
        self._replace(draft, new, entry.size)
        # By position: this is the hot path.
        push = Push(
            draft.channel,
            payload,
            hash_,
            draft.content_type,
            settings.kind,
            time_ms,
            source,
            keep,
            settings.delta if delta else DeltaFormat.NONE,
            delta,
            base_hash if delta else b"",
            settings.only_changed,
        )
        if skipped is None or not is_elsewhere:
            return (push,)
        if hash_ is base_hash:
            new.skipped = skipped
            return (push,)
        return (_note(draft.channel, entry, skipped), push)

    def confirm(self, push: Push, pushed: Pushed) -> None:
        """What the bus answered. Only the answer to a channel's newest push counts."""
        entry = self._entries.get(push.channel)
        if entry is None or entry.source != push.source:
            return
        if pushed.outcome in _CONFIRMING:
            entry.trusted = self._generation
            entry.refreshed_at = self._clock()
        else:
            entry.trusted = -1

    def distrust(self) -> None:
        """Other bridges may publish, or may have published, on our channels: skip nothing until it is confirmed anew."""
        self._generation += 1

    def lose(self, shards: Collection[int]) -> None:
        """These shards have a new incarnation: nothing is known about their channels until it is confirmed anew."""
        for channel, entry in self._entries.items():
            if shard_of(channel, self._shards) in shards:
                entry.trusted = -1

    def held(self, shards: Collection[int], except_channels: Collection[str]) -> list[Push]:
        """What to put back into shards that lost their data: the newest value of each `latest` channel, as a restore.

        `except_channels` are those of the batch in flight, which brings its own newer values: a restore of the newest of them would
        make the others duplicates. Streams are not put back: an old publication is not news.
        """
        return [
            Push(
                channel,
                entry.payload,
                entry.hash,
                entry.content_type,
                entry.settings.kind,
                entry.time_ms,
                entry.source,
                entry.keep,
                restore=True,
            )
            for channel, entry in self._entries.items()
            if entry.settings.kind is Kind.LATEST and channel not in except_channels and shard_of(channel, self._shards) in shards
        ]

    def forget(self, sources: Collection[bytes]) -> None:
        """Forget the channels that were last fed by these partitions (source ids), which are another bridge's now.

        What is held of them is out of date as soon as their new owner publishes, and must never be put back as the newest value.
        """
        for channel in [channel for channel, entry in self._entries.items() if entry.source.id in sources]:
            self.bytes_held -= self._entries.pop(channel).size

    def keep(self, settings: Iterable[ChannelSettings]) -> None:
        """The rules changed: forget the channels that were last fed by another route than those of these very `settings`.

        A channel that no route feeds any more must not be put back into a bus that lost its data, and where a route changed, a
        payload that is equal may still be of another kind.
        """
        kept = {id(each) for each in settings}
        for channel in [channel for channel, entry in self._entries.items() if id(entry.settings) not in kept]:
            self.bytes_held -= self._entries.pop(channel).size

    def clear(self) -> None:
        """Forget everything: pushes were made and will never reach the bus."""
        self._entries.clear()
        self.bytes_held = 0

    def _is_fresh(self, entry: _Entry) -> bool:
        trusted_ms = min((entry.settings.ttl_ms or _NO_END_MS) / _TRUSTED_FOR, _MOST_TRUSTED_MS)
        return entry.trusted == self._generation and (self._clock() - entry.refreshed_at) * 1000 < trusted_ms

    def _first(self, draft: Draft, source: Source, time_ms: int) -> Push:
        settings, hash_ = draft.settings, payload_hash(draft.payload)
        keep = _keep(settings)
        self._replace(draft, _Entry(draft, hash_, keep, source, time_ms), 0)
        return Push(
            draft.channel,
            draft.payload,
            hash_,
            draft.content_type,
            settings.kind,
            time_ms,
            source,
            keep,
            only_changed=settings.only_changed,
        )

    def _replace(self, draft: Draft, entry: _Entry, freed: int) -> None:
        """Hold `entry`, which is now the most recent one, and forget the least recent ones beyond the bound."""
        entries = self._entries
        entries[draft.channel] = entry
        entries.move_to_end(draft.channel)
        self.bytes_held += entry.size - freed
        while self.bytes_held > self._max_bytes:
            self.bytes_held -= entries.popitem(last=False)[1].size


def _note(channel: str, entry: _Entry, skipped: Source) -> Push:
    """Tell the bus of a record that made no publication because its payload was the channel's newest already."""
    return Push(
        channel,
        entry.payload,
        entry.hash,
        entry.content_type,
        entry.settings.kind,
        entry.time_ms,
        skipped,
        entry.keep,
        only_changed=True,
    )


def _encode(format_: DeltaFormat, base: bytes, target: bytes) -> bytes:
    """The delta, or nothing where it is not smaller than the payload itself."""
    if format_ is DeltaFormat.VCDIFF:
        delta: bytes | None = vcdiff.encode(base, target)
    elif format_ is DeltaFormat.JSON_PATCH:
        delta = json_patch.encode(base, target)
    else:
        return b""
    return delta if delta is not None and len(delta) < len(target) else b""


def _keep(settings: ChannelSettings) -> Keep:
    """The bus's words for a route's bounds. A ttl of 0 means none, and would delete the channel if it went to Redis."""
    return Keep(settings.history_size, settings.history_bytes, settings.history_age_ms, settings.ttl_ms or _NO_END_MS)
