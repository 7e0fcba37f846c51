"""The state of a keyed channel: the newest publication of each key, in the order of their offsets.

It is a compacted log: what a subscriber at offset n still needs is all that has a greater offset, in ascending order, whether it begins
(n = 0), fell behind or comes back. Deletions stay in it for a while, for those who hold the key; `forgotten_up_to` says for how long.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Hashable, Sequence
from operator import attrgetter

import msgspec

from edge.core.item import Item, KeyedItem, keyed_item_of
from edge.core.pages import FrameOf, Joined, Page, Pages
from shared.delta import json_patch, vcdiff
from shared.envelope import Envelope, epoch_to_text
from shared.errors import DeltaError, DistributaryError
from shared.publication import DeltaFormat, payload_hash

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
"""A delta's result may not be larger. Kafka's own records rarely come near."""
ENTRY_BYTES = 350
"""What an entry takes beside its key and payload (measured, CPython 3.11, 100,000 keys: 290 to 330), without its frames."""
FRAME_BYTES = 270
"""What a frame that is kept takes beside its own bytes."""
MAX_DELETIONS = 1_000
"""Kept in a state of few keys. A larger one keeps a tenth of its keys."""
_SPARE = 64
ENTRIES_A_PAGE = 512
"""At most; pages of larger entries have fewer."""
TIDIED = 10_000
"""Entries whose frames are let go of at once: about 5 ms."""
_VCDIFF = DeltaFormat.VCDIFF  # To look it up takes 70 ns, and every delta passes here.


class StateTooLargeError(DistributaryError):
    """A keyed channel has more keys, or more bytes in them, than this edge holds."""


class StateBounds(msgspec.Struct, frozen=True):
    """What the state of one keyed channel may have."""

    keys: int
    bytes: int


class KeyedState:
    """The newest publication of each key. Time is logarithmic in the number of keys where it is not constant."""

    __slots__ = (
        "_deletions",
        "_first",
        "_items",
        "_kept_deletions",
        "_log",
        "_offsets",
        "_oldest",
        "_tidied",
        "_untidy",
        "bytes_held",
        "forgotten_up_to",
        "frame_bytes",
        "pages",
    )

    def __init__(self, forgotten_up_to: int = 0) -> None:
        self.bytes_held = 0
        """Payloads, keys, and about what the entries take."""
        self.frame_bytes = 0
        """Frames of entries that were kept since they were last let go of, pages aside."""
        self.pages = Pages()
        """For those who begin."""
        self.forgotten_up_to = forgotten_up_to
        """Deletions up to this offset may be missing."""
        self._items: dict[bytes, KeyedItem] = {}
        self._log: list[KeyedItem | None] = []
        """By offset; None where the key has a newer one."""
        self._offsets = array("Q")
        """Of the entries of the log, also of those that are None."""
        self._first = 0
        """No entry before this place of the log is there any more."""
        self._oldest = 0
        """No key that there is has its entry before this place of the log."""
        self._deletions: deque[KeyedItem] = deque()
        self._kept_deletions = 0
        self._tidied = 0
        """Up to this place of the log frames were let go of in this round."""
        self._untidy = 0
        """So many places of the log are to be looked at, once nobody makes frames any more; 0 where all were."""

    def __repr__(self) -> str:
        return f"<KeyedState {len(self)} keys, {self._kept_deletions} deletions, {self.bytes_held} bytes>"

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._items) - self._kept_deletions

    def get(self, key: bytes) -> KeyedItem | None:
        """The newest publication of a key, which may be its deletion."""
        return self._items.get(key)

    @property
    def frame_room(self) -> int:
        """So much more of frames may be kept: all together take no more than the state."""
        return self.bytes_held - self.frame_bytes - self.pages.bytes_held

    @property
    def oldest(self) -> int:
        """The offset of the oldest entry of a key that there is; 0 where there is no key."""
        log = self._log
        while self._oldest < len(log) and ((item := log[self._oldest]) is None or item.is_deletion):
            self._oldest += 1
        return self._offsets[self._oldest] if self._oldest < len(log) else 0

    def put(self, item: KeyedItem) -> None:
        """Take the newest publication of the channel."""
        former = self._items.get(item.key)
        if former is not None:
            self._log[bisect_left(self._offsets, former.offset)] = None
            self.pages.cut(former.offset)
            self.bytes_held -= _size(former)
            self._kept_deletions -= former.is_deletion
        self._items[item.key] = item
        self._log.append(item)
        self._offsets.append(item.offset)
        self.bytes_held += _size(item)
        if item.is_deletion:
            self._kept_deletions += 1
            self._deletions.append(item)
            self._forget_deletions()
        if self.pages and self.frame_room < 0:
            self.pages.clear()
        if len(self._log) > 2 * len(self._items) + _SPARE:
            self._compact()

    def put_all(self, items: Sequence[KeyedItem]) -> None:
        """Fill an empty state with items of different keys, in any order."""
        in_order = sorted(items, key=attrgetter("offset"))
        self._items = {item.key: item for item in in_order}
        self._log = list(in_order)
        self._offsets = array("Q", [item.offset for item in in_order])
        self.bytes_held = sum(map(_size, in_order))

    def after(self, offset: int, most: int) -> list[KeyedItem]:
        """The oldest `most` entries with a greater offset, in ascending order."""
        while self._first < len(self._log) and self._log[self._first] is None:
            self._first += 1
        at = max(self._first, bisect_right(self._offsets, offset))
        found: list[KeyedItem] = []
        while at < len(self._log) and len(found) < most:
            part = self._log[at : at + most]
            at += len(part)
            found += [item for item in part if item is not None]
        return found[:most]

    def page(self, after: int, least: int) -> Page | None:
        """The page that goes on behind `after`, or a new one; None where that would have fewer than `least` entries."""
        page = self.pages.at(after + 1)
        if page is None and len(entries := self.after(after, ENTRIES_A_PAGE)) >= least:
            page = self.pages.at(entries[0].offset) or self.pages.begin(after, entries)
        return page

    def joined(self, page: Page, variant: Hashable, frame_of: FrameOf) -> Joined:
        """The frames of a page for a variant: made once for all who come now, as long as there is room for them."""
        joined = page.joined.get(variant)
        if joined is None:
            entries = [item for item in self.after(page.after, ENTRIES_A_PAGE) if item.offset <= page.last and not item.is_deletion]
            joined = Joined(map(frame_of, entries))
            self.pages.keep(page, variant, joined, self.frame_room)
        return joined

    def newest(self, most: int) -> list[KeyedItem]:
        """The newest `most` entries, in ascending order."""
        found: list[KeyedItem] = []
        for item in reversed(self._log):
            if item is not None:
                found.append(item)
                if len(found) == most:
                    break
        found.reverse()
        return found

    def learn(self, history: Sequence[Envelope], epoch: str) -> None:
        """Take the deletions that a part of the history shows: publications in order without a hole, of this epoch."""
        if not history or not history[0].offset - 1 < self.forgotten_up_to <= history[-1].offset:
            return
        learned: dict[bytes, KeyedItem] = {}
        for envelope in reversed(history):
            if envelope.offset > self.forgotten_up_to:
                continue
            key = envelope.key or b""
            if envelope.is_deletion and key not in self._items and key not in learned:
                if self._kept_deletions + len(learned) >= MAX_DELETIONS:
                    break
                learned[key] = keyed_item_of(epoch, envelope, b"")
            self.forgotten_up_to = envelope.offset - 1
        if learned:
            self._insert_deletions(list(learned.values()))

    def _insert_deletions(self, items: Sequence[KeyedItem]) -> None:
        """Take deletions that are older than all others, newest first, each to its place in the log.

        To insert them one by one would move the whole log for each: 0.1 s for 1,000 of them into 200,000 keys.
        """
        self.pages.clear()  # They do not know of a deletion that comes in between.
        log: list[KeyedItem | None] = []
        offsets = array("Q")
        done = 0
        for item in reversed(items):
            at = bisect_left(self._offsets, item.offset)
            log += self._log[done:at]
            log.append(item)
            offsets += self._offsets[done:at]
            offsets.append(item.offset)
            done = at
        self._log = log + self._log[done:]
        self._offsets = offsets + self._offsets[done:]
        self._items.update((item.key, item) for item in items)
        self._deletions.extendleft(items)
        self._kept_deletions += len(items)
        self.bytes_held += sum(map(_size, items))
        self._first = self._oldest = 0

    def forget_frames(self, *, are_made: bool) -> bool:
        """Let go of all pages, and of the frames of some entries; of others with the next call. `are_made`: somebody goes on making them.

        Returns whether there may be more.
        """
        self.pages.clear()
        if self._tidied >= len(self._log):
            self._tidied = 0
        end = self._tidied + TIDIED
        for item in self._log[self._tidied : end]:
            if item is not None:
                item.frames = None
        is_new = are_made or not self._untidy
        self._untidy = len(self._log) + TIDIED if is_new else max(0, self._untidy - TIDIED)
        self._tidied = end
        if end >= len(self._log):
            self.frame_bytes = 0  # One round is over: what was made meanwhile in places passed already is not counted.
        return self._untidy > 0

    def _forget_deletions(self) -> None:
        while self._kept_deletions > max(MAX_DELETIONS, len(self) // 10):
            oldest = self._deletions.popleft()
            if self._items.get(oldest.key) is not oldest:
                continue  # The key is there again, or was deleted again.
            del self._items[oldest.key]
            self._log[bisect_left(self._offsets, oldest.offset)] = None
            self.bytes_held -= _size(oldest)
            self._kept_deletions -= 1
            self.forgotten_up_to = oldest.offset

    def _compact(self) -> None:
        self._log = [item for item in self._log if item is not None]
        self._offsets = array("Q", [item.offset for item in self._log if item is not None])
        self._first = self._oldest = self._tidied = 0
        self._untidy = len(self._log) + TIDIED if self._untidy else 0
        self._deletions = deque(item for item in self._deletions if self._items.get(item.key) is item)


class KeyedLoad:
    """A keyed channel's state while it is read from the bus: the position, pages of entries, the position again, and what came in between.

    Entries may be newer than the first position, and keys that were deleted meanwhile are missing. At the second position all is right.
    """

    def __init__(self, newest: Envelope, bounds: StateBounds) -> None:
        """`newest` is the channel's newest publication, read before any entry."""
        self.newest = newest
        """The publication at the position that is reached."""
        self.state = KeyedState(newest.offset)
        self._bounds = bounds
        self._epoch = epoch_to_text(newest.epoch)
        self._entries: dict[bytes, KeyedItem] = {}
        """Those that are not in the state yet: once all are read, those ahead of the position."""
        self._bytes = 0
        self._until = newest.offset

    def __repr__(self) -> str:
        return f"<KeyedLoad of {self.state!r} at {self.newest.offset}, {len(self._entries)} ahead>"

    def __len__(self) -> int:
        """How many entries are not in the state yet."""
        return len(self._entries)

    @property
    def is_settled(self) -> bool:
        """Whether the state is that of the position. To be asked after `finish`."""
        return self.newest.offset >= self._until

    @property
    def newest_item(self) -> KeyedItem:
        """The publication at the position."""
        item = self.state.get(self.newest.key or b"")
        if item is None or item.offset != self.newest.offset:  # It is a deletion, or its key was deleted while entries were read.
            return keyed_item_of(self._epoch, self.newest, self.newest.body)
        return item

    def add(self, envelopes: Sequence[Envelope]) -> bool:
        """Take a page of entries. False where the channel has started anew meanwhile. Raises StateTooLargeError."""
        entries = self._entries
        for envelope in envelopes:
            if envelope.epoch != self.newest.epoch:
                return False
            item = keyed_item_of(self._epoch, envelope, envelope.body)
            former = entries.get(item.key)
            if former is None or former.offset < item.offset:
                entries[item.key] = item
                self._bytes += _size(item) - (0 if former is None else _size(former))
        check_bounds(self._bounds, len(entries), self._bytes)
        return True

    def finish(self, newest: Sequence[Envelope]) -> bool:
        """All pages are there, and then the newest publication was read once more. False where the channel has started anew meanwhile."""
        if not newest or newest[-1].epoch != self.newest.epoch:
            return False
        self._until = max(self._until, newest[-1].offset)
        position = self.newest.offset
        entries = self._entries
        self._entries = {key: item for key, item in entries.items() if item.offset > position}
        self.state.put_all([item for item in entries.values() if item.offset <= position])
        return True

    def follow(self, envelopes: Sequence[Envelope]) -> str:
        """Take what was published since, as far as it is news. Returns what is wrong where it does not follow, or nothing."""
        state, ahead = self.state, self._entries
        for envelope in envelopes:
            if envelope.epoch != self.newest.epoch:
                return "the channel has started anew"
            if envelope.offset <= self.newest.offset:
                continue
            if envelope.offset != self.newest.offset + 1:
                return f"offset {envelope.offset} came after {self.newest.offset}"
            key = envelope.key or b""
            entry = ahead.get(key)
            if entry is None or entry.offset < envelope.offset:
                try:
                    payload = payload_of(envelope, state.get(key))
                except DeltaError as error:
                    return str(error)
                state.put(keyed_item_of(self._epoch, envelope, payload))
            elif entry.offset == envelope.offset:
                state.put(ahead.pop(key))
            self.newest = envelope
        return ""


def check_bounds(bounds: StateBounds, keys: int, size: int) -> None:
    """Raise StateTooLargeError where a state has more than it may."""
    if keys > bounds.keys or size > bounds.bytes:
        msg = f"its state has more than {bounds.keys} keys, or {bounds.bytes} bytes, which is what this edge holds of a channel"
        raise StateTooLargeError(msg)


def payload_of(envelope: Envelope, base: Item | None) -> bytes:
    """The full payload of a publication that may be a delta to `base`; raises DeltaError where that is not its base."""
    if not envelope.delta:
        return envelope.body
    if base is None or envelope.base_offset != base.offset or envelope.base_hash != base.payload_hash:
        msg = f"a delta for another base than {base!r}"
        raise DeltaError(msg)
    decode = vcdiff.decode if envelope.delta is _VCDIFF else json_patch.decode
    payload = decode(base.payload, envelope.body, max_size=MAX_PAYLOAD_BYTES)
    if payload_hash(payload) != envelope.payload_hash:
        msg = f"a delta for {base!r} gave other bytes than its maker had"
        raise DeltaError(msg)
    return payload


def _size(item: KeyedItem) -> int:
    return len(item.payload) + len(item.key) + ENTRY_BYTES
