"""How the state of a keyed channel is read: in pages that are short, whatever its values weigh."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

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
