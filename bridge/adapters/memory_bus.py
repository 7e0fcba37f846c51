"""The bus in memory, for tests and try-outs: the same promises as Redis, and the same ways to break."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from math import isnan

from shared import envelope
from shared.bus.layout import INCARNATION_BYTES, BusLayout
from shared.bus.push import Outcome, Push, Pushed
from shared.envelope import Envelope
from shared.errors import BusUnavailableError, IncarnationError
from shared.publication import EPOCH_BYTES, ContentType, DeltaFormat

_STOPPING = frozenset((Outcome.FAILED, Outcome.BEHIND))
_BEHIND = Pushed(Outcome.BEHIND, b"", 0)
_IDS_BETWEEN = 16
"""So many ids are noted before some are forgotten again."""


class _Channel:
    """What shared/bus/publish.lua keeps of a channel."""

    def __init__(self, epoch: bytes) -> None:
        self.epoch = epoch
        self.offset = 0
        self.is_keyed = False
        self.newest: bytes | None = None
        """The envelope of the newest publication; None before the first one."""
        self.history: list[bytes] = []
        self.keys: dict[bytes, bytes] = {}
        """The envelope of each key's newest publication."""
        self.versions: dict[bytes, float] = {}
        self.ids: dict[bytes, int] = {}
        self.ids_noted = 0
        """Since some were forgotten."""
        self.key_bytes = 0
        """Of `keys`."""
        self.sources: dict[bytes, tuple[int, int]] = {}

    def base(self, push: Push) -> Envelope | None:
        """What a delta of this push applies to: the newest publication of the channel, or of the key."""
        newest = self.newest if push.key is None else self.keys.get(push.key)
        return None if newest is None else envelope.decode(newest)


class MemoryServer:
    """What several `MemoryBus` share, as several bridges share Redis. Tests break it: `away`, `full`, `flush`, `restore`."""

    def __init__(self, layout: BusLayout | None = None) -> None:
        self.layout = layout or BusLayout()
        self.away = False
        self.full = False
        self.fail_after: int | None = None
        """After so many more publications (also in the middle of a push) the connection breaks, once."""
        self.lost_answers = False
        """The next push is done, and its answer is lost, once."""
        self.foreign: set[str] = set()
        """Channels under whose keys something else lives."""
        self.published: defaultdict[str, list[bytes]] = defaultdict(list)
        """What subscribers were sent: envelopes, by channel."""
        self.beats: list[tuple[int, bytes]] = []
        self.connection = 0
        """Changes when every connection was lost."""
        self._run = 0
        self._count = 0
        self._channels: dict[str, _Channel] = {}
        self._incarnations: dict[int, tuple[bytes, int]] = {}

    def __repr__(self) -> str:
        return f"<MemoryServer {len(self._channels)} channels{', away' * self.away}{', full' * self.full}>"

    def flush(self) -> None:
        """FLUSHALL: everything is gone, connections live on."""
        self._channels.clear()
        self._incarnations.clear()

    def save(self) -> MemoryServer:
        """A snapshot, for `restore`."""
        return deepcopy(self)

    def restore(self, snapshot: MemoryServer) -> None:
        """The server was killed and comes back with the data of a snapshot."""
        self._channels = deepcopy(snapshot._channels)
        self._incarnations = dict(snapshot._incarnations)
        self._run += 1
        self.disconnect()

    def disconnect(self) -> None:
        """Every connection is lost."""
        self.connection += 1

    def drop_history(self, channel: str) -> None:
        """Somebody deleted the history's key (and with it, for the script, all that the channel was)."""
        self._channels[channel].history.clear()

    def history(self, channel: str) -> list[bytes]:
        """The envelopes in a channel's history, oldest first."""
        found = self._channels.get(channel)
        return list(found.history) if found else []

    def keys(self, channel: str) -> dict[bytes, bytes]:
        """The envelope of each key's newest publication."""
        found = self._channels.get(channel)
        return dict(found.keys) if found else {}

    def versions(self, channel: str) -> dict[bytes, float]:
        """The newest version of each key, or of the channel (under no bytes)."""
        found = self._channels.get(channel)
        return dict(found.versions) if found else {}

    def ids(self, channel: str) -> dict[bytes, int]:
        """The ids seen last, with their times."""
        found = self._channels.get(channel)
        return dict(found.ids) if found else {}

    def open_shard(self, shard: int) -> bytes:
        """As open.lua."""
        incarnation, run = self._incarnations.get(shard, (b"", -1))
        if run != self._run:
            incarnation = self._random()
            self._incarnations[shard] = incarnation, self._run
        return incarnation

    def is_incarnation(self, shard: int, incarnation: bytes) -> bool:
        """Whether the shard is what a publisher believes."""
        return self._incarnations.get(shard, (b"", 0))[0] == incarnation

    def publish(self, push: Push, incarnation: bytes, *, is_behind: bool = False) -> Pushed:
        """As publish.lua for one publication. `is_behind` one that failed and lets none of its source pass."""
        channel = self._channels.get(push.channel)
        if channel is not None and channel.epoch[:INCARNATION_BYTES] != incarnation:
            channel = None
        if (reason := self._impossible(push)) is not None:
            return Pushed(Outcome.FAILED, b"", 0, reason)
        if channel is not None and _is_duplicate(channel, push):
            return Pushed(Outcome.DUPLICATE, channel.epoch, channel.offset)
        is_there = channel is not None and channel.history and channel.is_keyed == (push.key is not None)
        there = channel if is_there else None
        outcome = None if there is None else _refusal(there, push)
        if outcome is None and (reason := _lacks_room(there, push)) is not None:
            return Pushed(Outcome.FAILED, b"", 0, reason)
        if is_behind:
            return _BEHIND
        if there is None:
            return self._publish_first(channel, push, incarnation)
        return self._append(there, push) if outcome is None else _refuse(there, push, outcome)

    def _impossible(self, push: Push) -> str | None:
        """Why the push fails whatever the channel holds, or None."""
        if push.channel in self.foreign:
            return "WRONGTYPE"
        return "the version is not a number" if push.version is not None and isnan(push.version) else None

    def _publish_first(self, old: _Channel | None, push: Push, incarnation: bytes) -> Pushed:
        channel = self._channels[push.channel] = _Channel(incarnation + self._random())
        channel.is_keyed = push.key is not None
        if old is not None and old.history:
            channel.sources = old.sources
        return self._append(channel, push)

    def _append(self, channel: _Channel, push: Push) -> Pushed:
        base = channel.base(push)
        fits = base is not None and bool(push.base_hash) and push.base_hash == base.payload_hash
        channel.offset += 1
        entry = _envelope(channel, push, None)
        channel.history.append(entry)
        channel.newest = entry
        _trim(channel.history, push)
        if push.key is not None and push.content_type is ContentType.NONE:
            channel.key_bytes -= len(channel.keys.pop(push.key, b""))
        elif push.key is not None:
            channel.key_bytes += len(entry) - len(channel.keys.get(push.key, b""))
            channel.keys[push.key] = entry
        _note_source(channel, push)
        _note_version_and_id(channel, push)
        self.published[push.channel].append(_envelope(channel, push, base) if fits else entry)
        return Pushed(Outcome.DELTA if fits else Outcome.FULL, channel.epoch, channel.offset)

    def _random(self) -> bytes:
        self._count += 1
        return self._count.to_bytes(INCARNATION_BYTES, "big")


class MemoryBus:
    """One bridge's connection to a MemoryServer: a `bridge.ports.Bus`."""

    def __init__(self, server: MemoryServer, instance: str = "memory") -> None:
        self._server = server
        self._instance = instance.encode()
        self._connection = -1
        self._believed: dict[int, bytes] = {}

    def __repr__(self) -> str:
        return f"<MemoryBus {self._instance.decode()} on {self._server}>"

    @property
    def layout(self) -> BusLayout:
        """Shards and their names."""
        return self._server.layout

    def open(self) -> list[int]:
        """See `bridge.ports.Bus`."""
        self._check_reachable()
        if self._connection == self._server.connection:
            return []
        self._connection = self._server.connection
        return self.reopen(range(self.layout.shards))

    def reopen(self, shards: Iterable[int]) -> list[int]:
        """See `bridge.ports.Bus`."""
        self._check_reachable()
        changed = []
        for shard in shards:
            incarnation = self._server.open_shard(shard)
            if self._believed.get(shard, incarnation) != incarnation:
                changed.append(shard)
            self._believed[shard] = incarnation
        return changed

    def push(self, pushes: Sequence[Push]) -> list[Pushed]:
        """See `bridge.ports.Bus`."""
        self._check_open()
        if self._server.full:
            msg = "OOM"
            raise BusUnavailableError(msg)
        refused: set[int] = set()
        stopped: dict[tuple[str, bytes], Outcome] = {}
        answers = []
        for push in pushes:
            self._maybe_break()
            shard = self.layout.shard_of(push.channel)
            if shard in refused or not self._server.is_incarnation(shard, self._believed[shard]):
                refused.add(shard)
            else:
                line = push.channel, push.source.id
                stop = stopped.get(line)
                is_behind = stop is not None
                pushed = _BEHIND if stop is Outcome.BEHIND else self._server.publish(push, self._believed[shard], is_behind=is_behind)
                answers.append(pushed)
                if pushed.outcome in _STOPPING and push.keep.stops_at_failure and not push.restore:
                    stopped[line] = pushed.outcome
        if self._server.lost_answers:
            self._server.lost_answers = False
            self._break()
        if refused:
            raise IncarnationError(sorted(refused))
        return answers

    def beat(self) -> list[int]:
        """See `bridge.ports.Bus`."""
        self._check_open()
        changed = []
        for shard, incarnation in self._believed.items():
            if self._server.is_incarnation(shard, incarnation):
                self._server.beats.append((shard, incarnation + self._instance))
            else:
                changed.append(shard)
        return changed

    def close(self) -> None:
        """See `bridge.ports.Bus`."""
        self._connection = -1

    def _maybe_break(self) -> None:
        if self._server.fail_after is None:
            return
        if self._server.fail_after == 0:
            self._server.fail_after = None
            self._break()
        else:
            self._server.fail_after -= 1

    def _break(self) -> None:
        self._connection = -1
        msg = "connection lost"
        raise BusUnavailableError(msg)

    def _check_reachable(self) -> None:
        if self._server.away:
            self._break()

    def _check_open(self) -> None:
        self._check_reachable()
        if self._connection != self._server.connection:
            self._break()


def _is_duplicate(channel: _Channel, push: Push) -> bool:
    newest = channel.sources.get(push.source.id)
    return newest is not None and (push.source.offset, push.source.index) <= newest


def _refusal(channel: _Channel, push: Push) -> Outcome | None:
    """Why the bus does not publish, or None."""
    base, is_deletion = channel.base(push), push.content_type is ContentType.NONE
    seen = channel.ids.get(push.id) if push.id and not push.restore else None
    if seen is not None and (push.time_ms < 0 or abs(push.time_ms - seen) <= push.keep.id_window_ms):
        return Outcome.REPEATED
    newest = None if push.version is None else channel.versions.get(push.key or b"")
    if newest is not None and push.version is not None and push.version <= newest and not (push.restore and push.version == newest):
        return Outcome.STALE
    is_newer = newest is not None and newest != push.version
    if push.restore and not is_newer and base is not None:
        is_of_same_time = base.time_ms == push.time_ms and push.source.id not in channel.sources
        if base.time_ms > push.time_ms or is_of_same_time:
            return Outcome.DUPLICATE
    if is_deletion and base is None and (push.only_changed or push.restore):
        return Outcome.UNCHANGED
    if push.only_changed and not is_deletion and base is not None and base.payload_hash == push.payload_hash:
        return Outcome.UNCHANGED
    return None


def _refuse(channel: _Channel, push: Push, outcome: Outcome) -> Pushed:
    if outcome is not Outcome.DUPLICATE:
        _note_source(channel, push)
    if outcome is Outcome.UNCHANGED:
        _note_version_and_id(channel, push)
    return Pushed(outcome, channel.epoch, channel.offset)


def _lacks_room(channel: _Channel | None, push: Push) -> str | None:
    """Why the value has no room among the channel's keys, or None."""
    if push.key is None or push.content_type is ContentType.NONE:
        return None
    keep, channel = push.keep, channel or _Channel(bytes(EPOCH_BYTES))
    old = channel.keys.get(push.key)
    if old is None and channel.keys and len(channel.keys) >= keep.max_keys:
        return f"the channel has as many keys as it may: {keep.max_keys}"
    more = len(_envelope(channel, push, None)) - len(old or b"")
    if more > 0 and channel.key_bytes + more > keep.max_key_bytes:
        return f"the values of the channel's keys take as many bytes as they may: {keep.max_key_bytes}"
    return None


def _note_source(channel: _Channel, push: Push) -> None:
    channel.sources[push.source.id] = push.source.offset, push.source.index


def _note_version_and_id(channel: _Channel, push: Push) -> None:
    if push.version is not None:
        channel.versions[push.key or b""] = push.version
        gone = [key for key in channel.versions if key not in channel.keys and key != push.key]
        if push.key is not None and len(channel.versions) > 2 * push.keep.max_keys:
            for key in gone[:1]:
                del channel.versions[key]
    if push.id:
        ids = channel.ids
        time_ms = push.time_ms if push.time_ms >= 0 else max(ids.values(), default=0)
        ids[push.id] = max(time_ms, ids.get(push.id, time_ms))
        channel.ids_noted = (channel.ids_noted + 1) % _IDS_BETWEEN
        if channel.ids_noted == 0:
            newest = push.time_ms if push.time_ms >= 0 else max(ids.values())
            expired = sum(seen < newest - push.keep.id_window_ms for seen in ids.values())
            for id_ in sorted(ids, key=lambda id_: (ids[id_], id_))[: max(expired, len(ids) - push.keep.id_count, 0)]:
                del ids[id_]


def _envelope(channel: _Channel, push: Push, base: Envelope | None) -> bytes:
    """What the push becomes: a delta to `base`, or full."""
    as_delta = base is not None
    return envelope.encode(
        Envelope(
            epoch=channel.epoch,
            offset=channel.offset,
            base_offset=0 if base is None else base.offset,
            delta=push.delta_format if as_delta else DeltaFormat.NONE,
            kind=push.kind,
            content_type=push.content_type,
            time_ms=push.time_ms,
            payload_hash=push.payload_hash,
            base_hash=push.base_hash if as_delta else b"",
            key=push.key,
            body=push.delta if as_delta else push.payload,
            tags=push.tags,
        )
    )


def _trim(history: list[bytes], push: Push) -> None:
    keep = push.keep
    while len(history) > 1:
        is_over = len(history) > keep.history_size or sum(map(len, history)) > keep.history_bytes
        if not is_over and keep.history_age_ms:
            is_over = push.time_ms - envelope.decode(history[0]).time_ms > keep.history_age_ms
        if not is_over:
            break
        del history[0]
