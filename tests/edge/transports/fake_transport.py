"""An asyncio transport that writes down what is done with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from edge.core.limits import Limits
from edge.node import Node
from edge.turns import Turns


class FakeTransport(asyncio.Transport):
    """Where one protocol's bytes go. `protocol` is whoever would get the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.is_closed = False
        self.is_aborted = False
        self.is_paused = False
        self.unsent = 0
        """As many bytes wait for the client."""
        self.socket: Any = None
        self.protocol: asyncio.BaseProtocol | None = None
        self.on_write: Callable[[FakeTransport], None] | None = None

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.is_closed
        self.sent += bytes(data)
        if self.on_write is not None:
            self.on_write(self)

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_closing(self) -> bool:
        return self.is_closed

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self.socket
        return ("192.0.2.1", 5) if name == "peername" else default


class FakeNode(SimpleNamespace):
    """As much of a node as a connection without subscriptions needs, with a clock that stands until it is moved."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(limits=Limits(**limits), now=0.0, soon=[])
        self.turns = Turns(self.clock, self._call_soon)

    def _call_soon(self, callback: Callable[[], None]) -> None:
        try:
            asyncio.get_running_loop().call_soon(callback)
        except RuntimeError:
            self.soon.append(callback)

    def next_turn(self) -> None:
        """Let the event loop go round once, in a test without one."""
        soon, self.soon[:] = list(self.soon), []
        for callback in soon:
            callback()

    def clock(self) -> float:
        return float(self.now)

    @property
    def as_node(self) -> Node:
        return cast("Node", self)
