"""The `edge` command with a probe in its event loop, for benchmarks that ask how long the loop stood still.

usage: python -m bench.probed_edge run ...

A timer is due every 2 ms. How much later it runs is how long the loop did something else, or had no processor. On SIGUSR1 the process
prints one line, "stall {...}", of what was seen since the last one, and begins anew: the longest stall, the processor time of the process
in it, how many were longer than 10 and 50 ms, and the longest garbage collection.

BENCH_LIMITS, a JSON object, replaces defaults of `edge.core.limits.Limits` that have no option. With BENCH_PARTS=1 the line also says what
the loop was doing in the longest stall: milliseconds and calls of the callbacks that matter. The timing itself costs a little.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec
import uvloop

import edge.cli
import edge.settings
from edge.node import Node
from edge.server import Server
from edge.starts import Starts
from edge.transports.entry import Endpoint, Entry
from edge.transports.websocket import WebSocketConnection, WebSocketConnections

INTERVAL_S = 0.002
PARTS = (
    (Endpoint, "http_protocol", "accept"),
    (Entry, "connection_made", "accept"),
    (Entry, "data_received", "request"),
    (Endpoint, "_pump", "let in"),
    (WebSocketConnection, "data_received", "frames"),
    (WebSocketConnection, "eof_received", "said goodbye"),
    (WebSocketConnection, "connection_lost", "lost"),
    (WebSocketConnection, "end", "end"),
    (WebSocketConnections, "tick", "tick"),
    (Node, "on_publications", "publications"),
    (Starts, "_start_waiting", "starts"),
    (Node, "forget_idle", "tick"),
    (Server, "on_tick", "tick"),
)


class Probe:
    """Watches one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due = loop.time() + INTERVAL_S
        self._cpu = time.thread_time()
        self._collecting_since = 0.0
        self._parts: dict[str, list[float]] = {}
        self._reset()
        gc.callbacks.append(self._on_collection)

    def _reset(self) -> None:
        self._longest = self._longest_cpu = self._longest_collection = 0.0
        self._over_10_ms = self._over_50_ms = 0
        self._longest_parts: dict[str, list[float]] = {}

    def time_parts(self) -> None:
        """From now on, know which callbacks the time goes to."""
        for owner, name, part in PARTS:
            setattr(owner, name, self._timed(getattr(owner, name), part))

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        parts, clock = self._parts, time.perf_counter

        @functools.wraps(function)
        def timed(*args: Any, **named: Any) -> Any:
            begin = clock()
            try:
                return function(*args, **named)
            finally:
                spent = parts.setdefault(part, [0.0, 0])
                spent[0] += clock() - begin
                spent[1] += 1

        return timed

    def beat(self) -> None:
        """Note how late this is, and come again."""
        now, cpu = self._loop.time(), time.thread_time()
        late = now - self._due
        if late > self._longest:
            self._longest, self._longest_cpu = late, cpu - self._cpu
            self._longest_parts = {part: [round(ms * 1e3, 1), calls] for part, (ms, calls) in self._parts.items()}
        self._over_10_ms += late > 0.010
        self._over_50_ms += late > 0.050
        self._due, self._cpu = now + INTERVAL_S, cpu
        self._parts.clear()
        self._loop.call_later(INTERVAL_S, self.beat)

    def tell(self) -> None:
        """Print what was seen."""
        seen = {
            "longest_ms": round(self._longest * 1e3, 1),
            "cpu_ms": round(self._longest_cpu * 1e3, 1),
            "over_10_ms": self._over_10_ms,
            "over_50_ms": self._over_50_ms,
            "longest_gc_ms": round(self._longest_collection * 1e3, 1),
        } | ({"parts": self._longest_parts} if self._longest_parts else {})
        print("stall", json.dumps(seen), flush=True)
        self._reset()

    def _on_collection(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_since = time.perf_counter()
        else:
            self._longest_collection = max(self._longest_collection, time.perf_counter() - self._collecting_since)


def main() -> None:
    """See the module."""
    new_event_loop = uvloop.new_event_loop

    def new_probed_loop() -> uvloop.Loop:
        loop = new_event_loop()

        def start() -> None:
            probe = Probe(loop)
            if os.environ.get("BENCH_PARTS"):
                probe.time_parts()
            probe.beat()
            loop.add_signal_handler(signal.SIGUSR1, probe.tell)

        loop.call_soon(start)
        return loop

    changed: dict[str, Any] = json.loads(os.environ.get("BENCH_LIMITS", "{}"))
    edge.cli._LIMITS = msgspec.structs.replace(edge.cli._LIMITS, **changed)  # noqa: SLF001  (what has no option cannot be set otherwise)
    uvloop.new_event_loop = new_probed_loop
    edge.cli.main()


if __name__ == "__main__":
    main()
