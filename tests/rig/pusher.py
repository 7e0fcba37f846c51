"""Pushes values to the bus as a bridge does, without Kafka."""

from __future__ import annotations

import itertools
import threading
import time
from types import TracebackType
from typing import Self

import msgspec

from shared.bus.layout import BusLayout
from shared.bus.publisher import BusPublisher
from shared.bus.push import Keep, Push, Source, source_id
from shared.bus.servers import connect_servers
from shared.envelope import NO_TIME
from shared.publication import ContentType, Kind, payload_hash


class Pusher:
    """Opens the bus, until `close`; `push` publishes. As a context manager it goes on pushing in the background.

    What was pushed is in `pushed`.
    """

    def __init__(self, url: str, channel: str, *, padding: int = 0, interval_s: float = 0.005) -> None:
        self.pushed: list[object] = []
        self._channel = channel
        self._padding = padding
        self._interval_s = interval_s
        self._bus = BusPublisher(connect_servers([url]), BusLayout(), instance="test")
        self._bus.open()
        self._source = source_id("test", "test", 0)
        self._numbers = itertools.count(1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, type_: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def push(self) -> object:
        """Publish the next value."""
        number = next(self._numbers)
        value = {"n": number, "padding": "abc" * (self._padding // 3)}
        payload = msgspec.json.encode(value)
        keep = Keep(history_size=10_000)
        source = Source(self._source, number, 0)
        self._bus.push([Push(self._channel, payload, payload_hash(payload), ContentType.JSON, Kind.STREAM, NO_TIME, source, keep)])
        self.pushed.append(value)
        return value

    def stop(self) -> None:
        """Push no more in the background."""
        self._ended.set()
        self._thread.join()

    def close(self) -> None:
        """Push no more, and leave the bus."""
        if self._thread.is_alive():
            self.stop()
        self._bus.close()

    def _work(self) -> None:
        beat_at = 0.0
        while not self._ended.wait(self._interval_s):
            if time.monotonic() >= beat_at:
                self._bus.beat()
                beat_at = time.monotonic() + 1
            self.push()
