"""Reading the state of a keyed channel: in short pages, whatever its values weigh, and the same however many keys there are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

import edge.keys
from edge.core.keyed import KeyedLoad, StateBounds
from edge.keys import KEYS_A_PAGE, PAGE_BYTES, read_state
from edge.ports import ChannelHistory, KeyPage
from shared.envelope import Envelope
from tests.edge.builders import keyed


class Table:
    """A bus with one keyed channel."""

    def __init__(self, count: int, size: int) -> None:
        body = b"x" * size
        self.entries = [msgspec.structs.replace(keyed(offset, f"key {offset}"), body=body) for offset in range(1, count + 1)]
        self.pages: list[int] = []

    async def read_keys(self, channel: str, cursor: int, count: int) -> KeyPage:
        page: list[Envelope] = self.entries[cursor : cursor + count]
        self.pages.append(sum(len(entry.body) for entry in page))
        end = cursor + count
        return KeyPage(page, end if end < len(self.entries) else 0)

    async def read(self, channel: str, count: int, skip: int = 0) -> ChannelHistory:
        return ChannelHistory(self.entries[-1:], count)


@pytest.mark.parametrize(("count", "size"), [(60, 1_000_000), (60, 10_000_000), (3_000, 50), (3_000, 10_000)])
def test_pages_are_short_and_few(count: int, size: int):
    table: Any = Table(count, size)
    load = KeyedLoad(table.entries[-1], StateBounds(count, 10**10))
    asyncio.run(read_state(table, "table", load, []))
    assert len(load.state) == count
    assert max(table.pages) <= max(PAGE_BYTES, size)
    assert len(table.pages) <= 2 + count // min(KEYS_A_PAGE, max(1, PAGE_BYTES // (size + 1)))


class Keys:
    """A bus with one keyed channel, its keys in no order, in pages of 10."""

    def __init__(self, envelopes: list[Envelope]) -> None:
        self.envelopes = sorted(envelopes, key=lambda envelope: envelope.offset % 7)
        self.newest = max(envelopes, key=lambda envelope: envelope.offset)

    async def read_keys(self, _channel: str, cursor: int, _count: int) -> KeyPage:
        """See `edge.ports.Bus`."""
        end = cursor + 10
        return KeyPage(self.envelopes[cursor:end], end if end < len(self.envelopes) else 0)

    async def read(self, _channel: str, count: int, _skip: int = 0) -> ChannelHistory:
        """See `edge.ports.Bus`."""
        return ChannelHistory([self.newest], count)


@pytest.mark.parametrize("many", [5, 1_000])
def test_a_state_of_many_keys_is_put_in_order_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch, many: int):
    monkeypatch.setattr(edge.keys, "MANY_KEYS", many)
    asides: list[object] = []
    to_thread = asyncio.to_thread

    async def noted(function: Callable[..., object], *arguments: object) -> object:
        asides.append(function)
        return await to_thread(function, *arguments)

    monkeypatch.setattr(asyncio, "to_thread", noted)
    bus = Keys([keyed(offset, f"k{offset}") for offset in range(1, 51)])
    load = KeyedLoad(bus.newest, StateBounds(100, 1_000_000))
    asyncio.run(read_state(bus, "c:1", load, []))  # type: ignore[arg-type]  # it has what is asked for
    assert [item.offset for item in load.state.after(0, 100)] == list(range(1, 51))
    assert len(asides) == (many < 50)
