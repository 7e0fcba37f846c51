"""The frames of ranges of a keyed channel's log, joined once for all who begin at about the same time.

A page has exactly what its range of the log has, deletions aside: the range lies in the past, so nothing comes to it any more, and what is
replaced or deleted is cut out. So whoever begins may take any page, or a part of one, however much has changed since it was made.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterable, Sequence

from edge.core.item import KeyedItem

MOST_BYTES = 65_536
"""Of payloads. About as much is written to a client at once."""
FRAME_BYTES = 5
"""What a frame takes in a page beside its own bytes."""
PAGE_BYTES = 600
"""What a page takes, its frames aside."""
PLACE_BYTES = 9
"""What an entry takes in a page, its frames aside."""

FrameOf = Callable[[KeyedItem], bytes]


class Joined:
    """The frames of a page for one variant."""

    __slots__ = ("frames", "lengths")

    def __init__(self, frames: Iterable[bytes]) -> None:
        each = list(frames)
        self.frames = b"".join(each)
        self.lengths = array("I", map(len, each))

    def __repr__(self) -> str:
        return f"<Joined {len(self.lengths)} frames, {len(self.frames)} bytes>"

    @property
    def bytes_held(self) -> int:
        """What it takes, about."""
        return len(self.frames) + FRAME_BYTES * len(self.lengths)

    def part(self, first: int, end: int) -> bytes:
        """Some of the frames, by their places."""
        if end - first == len(self.lengths):
            return self.frames
        begin = sum(self.lengths[:first])
        return self.frames[begin : begin + sum(self.lengths[first:end])]

    def cut(self, at: int) -> None:
        """Let go of the frame at this place."""
        begin = sum(self.lengths[:at])
        end = begin + self.lengths.pop(at)
        self.frames = self.frames[:begin] + self.frames[end:]


class Page:
    """The entries of one range. Compared by identity."""

    __slots__ = ("after", "deleted_at", "joined", "last", "offsets")

    def __init__(self, after: int, entries: Sequence[KeyedItem]) -> None:
        """These are all that the log has behind `after`, up to the last of them."""
        self.after = after
        self.last = entries[-1].offset
        """The end of the range, which belongs to it."""
        self.deleted_at = max((item.offset for item in entries if item.is_deletion), default=0)
        """The newest deletion in the range: only who has no need of it may take the page."""
        self.offsets = array("Q", [item.offset for item in entries if not item.is_deletion])
        self.joined: dict[Hashable, Joined] = {}
        """By variant."""

    def __repr__(self) -> str:
        return f"<Page {len(self.offsets)} entries behind {self.after} up to {self.last}, {len(self.joined)} variants>"

    @property
    def bytes_held(self) -> int:
        """What it takes, about."""
        return PAGE_BYTES + PLACE_BYTES * len(self.offsets) + sum(joined.bytes_held for joined in self.joined.values())

    def places(self, after: int, last: int) -> tuple[int, int]:
        """Where the entries behind `after` begin, and where those up to `last` end."""
        return bisect_right(self.offsets, after), bisect_right(self.offsets, last)

    def cut(self, offset: int) -> None:
        """Let go of the entry at this offset, where it is one."""
        at = bisect_left(self.offsets, offset)
        if at < len(self.offsets) and self.offsets[at] == offset:
            del self.offsets[at]
            for joined in self.joined.values():
                joined.cut(at)


class Pages:
    """Those of one channel that are kept, in order. No two have an offset in common."""

    __slots__ = ("_pages", "_starts", "bytes_held")

    def __init__(self) -> None:
        self._pages: list[Page] = []
        self._starts: list[int] = []
        self.bytes_held = 0

    def __repr__(self) -> str:
        return f"<Pages {len(self)}, {self.bytes_held} bytes>"

    def __len__(self) -> int:
        return len(self._pages)

    def at(self, offset: int) -> Page | None:
        """The page in whose range this is."""
        place = bisect_left(self._starts, offset) - 1
        return self._pages[place] if place >= 0 and offset <= self._pages[place].last else None

    def begin(self, after: int, entries: Sequence[KeyedItem]) -> Page:
        """A new page of what the log has behind `after`: as many of these as fit, the first of which is on no other. It is not kept yet."""
        place = bisect_left(self._starts, entries[0].offset)
        if place:
            after = max(after, self._pages[place - 1].last)
        end = self._starts[place] if place < len(self._starts) else entries[-1].offset
        size, count = 0, 0
        for item in entries:
            size += len(item.payload)
            if item.offset > end or (size > MOST_BYTES and count):
                break
            count += 1
        return Page(after, entries[:count])

    def keep(self, page: Page, variant: Hashable, joined: Joined, room: int) -> None:
        """Keep the page's frames for this variant for others, where they take no more than `room`."""
        is_new = not page.joined
        size = joined.bytes_held + (page.bytes_held if is_new else 0)
        if size > room:
            return
        page.joined[variant] = joined
        self.bytes_held += size
        if is_new:
            place = bisect_left(self._starts, page.after)
            self._starts.insert(place, page.after)
            self._pages.insert(place, page)

    def cut(self, offset: int) -> None:
        """The log has no entry at this offset any more."""
        page = self.at(offset)
        if page is not None:
            self.bytes_held -= page.bytes_held
            page.cut(offset)
            self.bytes_held += page.bytes_held

    def clear(self) -> None:
        """Let go of all."""
        self._pages.clear()
        self._starts.clear()
        self.bytes_held = 0
