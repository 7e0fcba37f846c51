"""Reading the state of a keyed channel: however many keys there are, it comes out the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import edge.keys
from edge.core.keyed import KeyedLoad, StateBounds
from edge.keys import read_state
from edge.ports import ChannelHistory, KeyPage
from shared.envelope import Envelope
from tests.edge.builders import keyed


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
