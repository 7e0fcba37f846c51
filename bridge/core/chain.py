"""The delta chain: what each channel (on keyed channels, each key) was last given, so that the next publication can be a change to it.

All that is held here is a guess about the bus, made to save bytes and trips. The bus checks it: a delta whose base is not the
channel's newest payload is published as its full payload, so a wrong guess costs bytes and never a value.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable

from bridge.core.draft import ChannelSettings, Draft
from bridge.core.seen import Seen, SeenIds
from shared.bus.push import Keep, Outcome, Push, Pushed, Source
from shared.channel import shard_of
from shared.delta import json_patch, vcdiff
from shared.publication import ContentType, DeltaFormat, Kind, payload_hash

Place = str | tuple[str, bytes]
"""What has a newest payload: a channel, or a key of a keyed one."""

ENTRY_OVERHEAD_BYTES = 600
"""What an entry takes beside its payload and name: measured with tracemalloc, rounded up."""
MORE_OVERHEAD_BYTES = 250
"""And what a key, version or id adds to that."""
_NO_END_MS = 3_155_760_000_000
"""A hundred years: what the bus is told where a route bounds nothing."""
_NO_COUNT = 2**32 - 1
_NO_BYTES = 2**53
_PART_FOR_IDS = 8
"""Ids have one in so many of the bytes."""
_MOST_TRUSTED_MS = 300_000
"""And no longer than this: a channel that somebody deleted on the bus comes back with the next record after it."""
_TRUSTED_FOR = 4
"""A skip leaves the channel's time to live where it is, so it is allowed for only this part (one in ...) of it."""

_PUBLISHED = frozenset((Outcome.FULL, Outcome.DELTA))
_CONFIRMING = _PUBLISHED | {Outcome.UNCHANGED}
_UNCHANGED = Outcome.UNCHANGED
_REFUSED = frozenset((Outcome.STALE, Outcome.REPEATED))


def place_of(made: Draft | Push) -> Place:
    """What it is the newest of, once it is published."""
    return made.channel if made.key is None else (made.channel, made.key)


class _More:
    """What only publications with a key, a version or an id have."""

    __slots__ = ("id", "is_answered", "is_refused", "key", "known_at", "known_version", "version")

    def __init__(self, draft: Draft, before: _More | None) -> None:
        self.key = draft.key
        self.version = draft.version
        self.id = draft.id
        self.is_answered = False
        self.is_refused = False
        """The bus has something newer, or something else under this id: this is not to be put back."""
        self.known_version: float | None = None
        """The bus has this version, or a newer one, since `known_at`."""
        self.known_at = 0.0
        if before is not None:
            self.known_version, self.known_at = before.known_version, before.known_at
            if draft.version is None:
                self.version = before.version


class _Entry:
    """What a channel, or a key, was last given."""

    __slots__ = (
        "content_type",
        "hash",
        "keep",
        "more",
        "payload",
        "refreshed_at",
        "settings",
        "size",
        "skipped",
        "source",
        "tags",
        "time_ms",
        "trusted",
    )

    def __init__(self, draft: Draft, hash_: bytes, keep: Keep, source: Source, time_ms: int, more: _More | None) -> None:
        self.payload = draft.payload
        self.content_type = draft.content_type
        self.settings = draft.settings
        self.hash = hash_
        self.keep = keep
        self.source = source
        self.time_ms = time_ms
        self.size = len(draft.payload) + len(draft.channel) + ENTRY_OVERHEAD_BYTES
        self.tags = draft.tags
        self.more = more
        if more is not None:
            self.size += MORE_OVERHEAD_BYTES + len(more.key or b"")
        self.trusted = -1
        """The generation in which the bus confirmed that this is the channel's newest; -1 for none."""
        self.refreshed_at = 0.0
        self.skipped: Source | None = None
        """The newest source with this very payload that was not told to the bus; all such are of one partition."""


class DeltaChain:
    """Makes pushes of drafts. `clock` tells seconds that only go forward.

    Byte-bounded: the channels (the keys) longest without news are forgotten.
    """

    def __init__(self, *, shards: int, clock: Callable[[], float], max_bytes: int) -> None:
        self._shards = shards
        self._clock = clock
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Place, _Entry] = OrderedDict()
        self._entry_bytes = 0
        self._max_entry_bytes = max_bytes
        self._ids = SeenIds(max_bytes // _PART_FOR_IDS)
        self._generation = 0
        self.hits = 0
        """Publications whose channel or key had its base here, since the start."""
        self.misses = 0
        """Those for which there was none: it was new, or forgotten. They go out in full."""
        self.skipped_as = Outcome.UNCHANGED
        """What the bus would have answered to the last draft for which `prepare` made no push."""

    def __repr__(self) -> str:
        return f"<DeltaChain {len(self._entries)} channels and keys, {self.bytes_held} of {self._max_bytes} bytes>"

    def __len__(self) -> int:
        """How many channels and keys it holds."""
        return len(self._entries)

    @property
    def bytes_held(self) -> int:
        """What all of it takes."""
        return self._entry_bytes + self._ids.bytes_held

    def prepare(self, draft: Draft, source: Source, time_ms: int, *, sole_writer: bool) -> tuple[Push, ...]:
        """The pushes for a draft: one; none where the bus would surely refuse it, and `skipped_as` tells why.

        That is where the route wants only changes and this payload is the newest, or the bus has a newer version, or the id.

        `sole_writer` says that no other bridge can have published on the channel since the last assignment of partitions.

        Two, where the channel was last skipped for a record of another partition: the first of them tells the bus of that record, which
        would otherwise, processed again after a crash, pass for news and put its old value over this one.
        """
        key, version, id_ = draft.key, draft.version, draft.id
        place = draft.channel if key is None else (draft.channel, key)
        entry = self._entries.get(place)
        is_ranked = version is not None or id_
        if is_ranked and self._is_needless(draft, entry, time_ms):
            return ()
        if entry is None:
            return (self._first(draft, source, time_ms),)
        if version is not None and _is_behind(version, entry):
            return (_unheld(draft, source, time_ms),)
        settings, payload, base_hash = draft.settings, draft.payload, entry.hash
        skipped = entry.skipped
        is_elsewhere = skipped is not None and skipped.id != source.id
        if payload == entry.payload and draft.content_type is entry.content_type:
            # The version or the id of what is unchanged is news to the bus.
            if settings.only_changed and sole_writer and not is_ranked and not is_elsewhere and self._is_fresh(entry):
                entry.skipped = source
                self.skipped_as = _UNCHANGED
                return ()
            hash_ = base_hash
        else:
            hash_ = payload_hash(payload)
        # Of an unchanged payload, the bus will publish nothing or (where another one came in between) no delta to this base.
        delta = b"" if settings.only_changed and hash_ is base_hash else _encode(settings.delta, entry.payload, payload)
        if key is not None and entry.content_type is ContentType.NONE:
            delta = b""
        keep = entry.keep if settings is entry.settings else _keep(settings)
        self.hits += 1
        more = None if key is None and not is_ranked and entry.more is None else _More(draft, entry.more)
        new = _Entry(draft, hash_, keep, source, time_ms, more)
        self._replace(place, new, entry.size)
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
            False,  # noqa: FBT003
            key,
            draft.tags,
            version,
            id_,
        )
        if skipped is not None and is_elsewhere:
            if hash_ is not base_hash:
                return (_note(draft, entry, skipped), push)
            new.skipped = skipped
        return (push,)

    def confirm(self, push: Push, pushed: Pushed) -> None:
        """What the bus answered, in the order of the pushes."""
        entry = self._entries.get(push.channel if push.key is None else (push.channel, push.key))
        if push.version is not None or push.id:
            self._learn(push, pushed.outcome, entry)
        # Of payloads, only the answer to the newest push counts.
        if entry is None or entry.source != push.source:
            return
        if pushed.outcome in _CONFIRMING:
            entry.trusted = self._generation
            entry.refreshed_at = self._clock()
        else:
            entry.trusted = -1

    def withdraw(self, push: Push) -> None:
        """It was not published, and is not to be put back as the newest either: it is tried again, or put aside."""
        place = place_of(push)
        entry = self._entries.get(place)
        if entry is not None and entry.source == push.source:
            self._drop(place)

    def unskip(self, place: Place, source: Source) -> None:
        """No push was made for this one, and the bus shall not hear of it: it would take what failed before it for done."""
        entry = self._entries.get(place)
        if entry is not None and entry.skipped == source:
            entry.skipped = None

    def distrust(self) -> None:
        """Other bridges may publish, or may have published, on our channels: skip nothing until it is confirmed anew."""
        self._generation += 1

    def lose(self, shards: Collection[int]) -> None:
        """These shards have a new incarnation: nothing is known about their channels until it is confirmed anew."""
        for place, entry in self._entries.items():
            if self._is_in(place, shards):
                entry.trusted = -1
                if entry.more is not None:
                    entry.more.known_version = None
        self._ids.lose(shards, self._shards)
        self._max_entry_bytes = self._max_bytes - self._ids.bytes_held

    def held(self, shards: Collection[int], in_flight: Collection[Push]) -> list[Push]:
        """What to put back into shards that lost their data, as restores: the newest value of each `latest` channel and of each key.

        A deleted key is put back as its deletion, because another bridge may hold the value that was deleted. What is `in_flight` is left
        out: it comes anyway, and a restore of the newest of it would make the others duplicates. Streams are not put back: an old
        publication is not news.
        """
        flying = {(place_of(push), push.source) for push in in_flight}
        found = [
            _restore(place, entry)
            for place, entry in self._entries.items()
            if entry.settings.kind is not Kind.STREAM
            and not (entry.more is not None and entry.more.is_refused)
            and (place, entry.source) not in flying
            and self._is_in(place, shards)
        ]
        # What the bus has seen of a source is noted by channel: keys must come in the order of their records.
        found.sort(key=lambda push: (push.source.offset, push.source.index) if push.key is not None else (0, 0))
        return found

    def forget(self, sources: Collection[bytes]) -> None:
        """Forget the channels that were last fed by these partitions (source ids), which are another bridge's now.

        What is held of them is out of date as soon as their new owner publishes, and must never be put back as the newest value.
        """
        for place in [place for place, entry in self._entries.items() if entry.source.id in sources]:
            self._drop(place)

    def keep(self, settings: Iterable[ChannelSettings]) -> None:
        """The rules changed: forget the channels that were last fed by another route than those of these very `settings`.

        A channel that no route feeds any more must not be put back into a bus that lost its data, and where a route changed, a
        payload that is equal may still be of another kind.
        """
        kept = {id(each) for each in settings}
        for place in [place for place, entry in self._entries.items() if id(entry.settings) not in kept]:
            self._drop(place)

    def clear(self) -> None:
        """Forget everything: pushes were made and will never reach the bus."""
        self._entries.clear()
        self._entry_bytes = 0

    def _is_fresh(self, entry: _Entry) -> bool:
        return entry.trusted == self._generation and self._is_recent(entry.refreshed_at, entry.settings)

    def _is_recent(self, at: float, settings: ChannelSettings) -> bool:
        trusted_ms = min((settings.ttl_ms or _NO_END_MS) / _TRUSTED_FOR, _MOST_TRUSTED_MS)
        return (self._clock() - at) * 1000 < trusted_ms

    def _is_in(self, place: Place, shards: Collection[int]) -> bool:
        return shard_of(place if isinstance(place, str) else place[0], self._shards) in shards

    def _is_needless(self, draft: Draft, entry: _Entry | None, time_ms: int) -> bool:
        """Whether the bus surely has the draft's id, or a version as new. What other bridges publish does not change that."""
        settings = draft.settings
        seen = self._ids.find(draft.channel, draft.id) if draft.id else None
        if (
            seen is not None
            and (time_ms < 0 or abs(time_ms - seen.time_ms) <= (settings.id_window_ms or _NO_END_MS))
            and self._is_recent(seen.confirmed_at, settings)
        ):
            self.skipped_as = Outcome.REPEATED
            return True
        more = entry.more if entry is not None else None
        if more is None or more.known_version is None or draft.version is None or not draft.version <= more.known_version:
            return False
        if not self._is_recent(more.known_at, settings):
            return False
        self.skipped_as = Outcome.STALE
        return True

    def _learn(self, push: Push, outcome: Outcome, entry: _Entry | None) -> None:
        """What an answer tells of versions and ids."""
        now = self._clock()
        if push.id and outcome in _CONFIRMING:
            self._ids.add(push.channel, push.id, Seen(push.time_ms, now))
            self._max_entry_bytes = self._max_bytes - self._ids.bytes_held
        more = entry.more if entry is not None else None
        if entry is None or more is None:
            return
        if entry.source == push.source:
            more.is_answered = True
            more.is_refused = outcome in _REFUSED
        elif more.is_answered and outcome in _PUBLISHED and push.version is not None and _is_behind(push.version, entry):
            # The bus knew nothing of the version that is held here, so this is not the newest there.
            self._drop(place_of(push))
            return
        if push.version is not None and (outcome in _CONFIRMING or outcome is Outcome.STALE):
            if more.known_version is None or push.version >= more.known_version:
                more.known_version = push.version
            more.known_at = now

    def _first(self, draft: Draft, source: Source, time_ms: int) -> Push:
        self.misses += 1
        settings, hash_ = draft.settings, payload_hash(draft.payload)
        keep = _keep(settings)
        more = None if draft.key is None and draft.version is None and not draft.id else _More(draft, None)
        self._replace(place_of(draft), _Entry(draft, hash_, keep, source, time_ms, more), 0)
        return _whole(draft, hash_, keep, source, time_ms)

    def _replace(self, place: Place, entry: _Entry, freed: int) -> None:
        """Hold `entry`, which is now the most recent one, and forget the least recent ones beyond the bound."""
        entries = self._entries
        entries[place] = entry
        entries.move_to_end(place)
        self._entry_bytes += entry.size - freed
        while self._entry_bytes > self._max_entry_bytes:
            self._entry_bytes -= entries.popitem(last=False)[1].size

    def _drop(self, place: Place) -> None:
        self._entry_bytes -= self._entries.pop(place).size


def _is_behind(version: float, entry: _Entry) -> bool:
    """Whether what is held has a version as new."""
    held = entry.more.version if entry.more is not None else None
    return held is not None and version <= held


def _whole(draft: Draft, hash_: bytes, keep: Keep, source: Source, time_ms: int) -> Push:
    """A push without a delta."""
    return Push(
        draft.channel,
        draft.payload,
        hash_,
        draft.content_type,
        draft.settings.kind,
        time_ms,
        source,
        keep,
        only_changed=draft.settings.only_changed,
        key=draft.key,
        tags=draft.tags,
        version=draft.version,
        id=draft.id,
    )


def _unheld(draft: Draft, source: Source, time_ms: int) -> Push:
    """A push of what will not be the newest, most probably: the bus decides, and what is held stays."""
    return _whole(draft, payload_hash(draft.payload), _keep(draft.settings), source, time_ms)


def _restore(place: Place, entry: _Entry) -> Push:
    """Put back what is held."""
    more = entry.more
    return Push(
        place if isinstance(place, str) else place[0],
        entry.payload,
        entry.hash,
        entry.content_type,
        entry.settings.kind,
        entry.time_ms,
        entry.source,
        entry.keep,
        restore=True,
        key=None if isinstance(place, str) else place[1],
        tags=entry.tags,
        version=None if more is None else more.version,
        id=b"" if more is None else more.id,
    )


def _note(draft: Draft, entry: _Entry, skipped: Source) -> Push:
    """Tell the bus of a record that made no publication because its payload was the newest already where `draft` will be now."""
    return Push(
        draft.channel,
        entry.payload,
        entry.hash,
        entry.content_type,
        entry.settings.kind,
        entry.time_ms,
        skipped,
        entry.keep,
        only_changed=True,
        key=draft.key,
        tags=entry.tags,
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
    return Keep(
        settings.history_size,
        settings.history_bytes,
        settings.history_age_ms,
        settings.ttl_ms or _NO_END_MS,
        settings.max_keys or _NO_COUNT,
        settings.id_window_ms or _NO_END_MS,
        settings.id_count or _NO_COUNT,
        settings.max_key_bytes or _NO_BYTES,
        settings.stops_at_failure,
    )
