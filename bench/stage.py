"""The parts of a benchmark of the edge: a Redis, edges, one who publishes as a bridge does, clients, and a ping beside them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.measure import Helper, compiled, cpu_ns, free_port
from shared.bus.layout import BusLayout
from shared.bus.publisher import BusPublisher
from shared.bus.push import Keep, Push, Source, source_id
from shared.bus.servers import connect_servers
from shared.envelope import NO_TIME
from shared.publication import ContentType, Kind, payload_hash
from tests.rig.process import Process, end_all, project_command
from tests.rig.redis_server import RedisServer

SCALE = float(os.environ.get("BENCH_SCALE", "1"))
"""Shrinks clients and channels, to see whether a benchmark runs at all; its numbers then mean nothing."""
FOLDER = Path(__file__).parent
SLICES = 20
EVER_S = 1_000_000
BEAT_INTERVAL_S = 1.0
PINGER_CHANNEL = 999_999
"""What `Pinger` is subscribed to: how long publications there take counts as a ping's round trip does."""
MESSAGE = '{"type":"publication","channel":"b:000000","epoch":"0123456789abcdef","offset":100000,"data":""}'
FRAME_BYTES = 113
DATA_CHARACTERS = FRAME_BYTES - 2 - len(MESSAGE)
"""So much text makes a bare client's frame of 113 bytes, while offsets have 6 digits."""


def rounds(usual: int) -> int:
    """How many rounds to measure: BENCH_ROUNDS, or what is usual."""
    return int(os.environ.get("BENCH_ROUNDS", str(usual)))


def scaled(number: int, least: int = 1) -> int:
    """So many, or fewer in a trial run."""
    return max(least, round(number * SCALE))


def channel(number: int) -> str:
    """A channel of the benchmarks."""
    return f"b:{number:06}"


class Publisher:
    """Pushes to channels as a bridge does. The payload is text that begins with the time, so that clients can tell the latency."""

    def __init__(self, url: str, *, characters: int = DATA_CHARACTERS, history: int = 100, keys: int = 0) -> None:
        """With `keys` channels are keyed, and the keys take turns."""
        self._bus = BusPublisher(connect_servers([url]), BusLayout(), instance="bench")
        self._bus.open()
        self._source = source_id("bench", "bench", 0)
        self.sent = 0
        """Publications, of all channels."""
        self._keys = keys
        self._lock = threading.Lock()
        self._beaten_at = 0.0
        self._keep = Keep(history_size=history)
        self.characters = characters
        self.passes = 0
        """How often `going_on` has pushed to each of its channels."""

    def push(self, channels: Sequence[int], count: int = 1) -> None:
        """Publish `count` on each of these channels, all at once."""
        self.beat()
        pushes = []
        for _ in range(count):
            payload = f'"{time.monotonic_ns() // 1000:012},{"x" * self.characters}'[: self.characters + 1].encode() + b'"'
            digest = payload_hash(payload)
            for number in channels:
                self.sent += 1
                source = Source(self._source, self.sent, 0)
                push = Push(channel(number), payload, digest, ContentType.JSON, Kind.LATEST, NO_TIME, source, self._keep)
                if self._keys:
                    push = msgspec.structs.replace(push, kind=Kind.KEYED, key=b"%d" % (self.sent % self._keys))
                pushes.append(push)
        with self._lock:
            self._bus.push(pushes)

    def beat(self) -> None:
        """Send the heartbeat of a bridge where one is due: an edge that misses it reads its channels."""
        with self._lock:
            if time.monotonic() - self._beaten_at >= BEAT_INTERVAL_S:
                self._beaten_at = time.monotonic()
                self._bus.beat()

    def paced(self, channels: Sequence[int], passes: int, interval_s: float, count: int = 1) -> None:
        """Push `passes` times, on time."""
        start = time.monotonic()
        for number in range(passes):
            self.push(channels, count)
            time.sleep(max(0, start + (number + 1) * interval_s - time.monotonic()))

    @contextlib.contextmanager
    def going_on(self, channels: Sequence[int], interval_s: float, *, count: int = 1) -> Iterator[None]:
        """Push to each of the channels `count` times in `interval_s`, a few at a time, in a thread, while the block runs.

        Afterwards all have had as many publications: those in `passes`.
        """
        ended = threading.Event()
        step = -(-len(channels) // SLICES)
        slices = [channels[at : at + step] for at in range(0, len(channels), step)]

        def work() -> None:
            while not ended.is_set():
                for some in slices:
                    self.push(some, count)
                    ended.wait(interval_s / len(slices))
                self.passes += 1

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Send heartbeats while the block runs."""
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(BEAT_INTERVAL_S / 4):
                self.beat()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class Clients:
    """Clients in a process of their own: bench/clients.c, which says what each command does."""

    def __init__(self) -> None:
        self._helper = Helper([compiled(FOLDER / "clients.c")])
        self.count = 0

    def tell(self, *words: object) -> None:
        """Give a command; `hear` its answer."""
        self._helper.tell(" ".join(map(str, words)))

    def hear(self) -> list[int]:
        """The numbers that a command answered."""
        return [int(word) for word in self._helper.hear().split() if word != "ok"]

    def ask(self, *words: object) -> list[int]:
        """Give a command and wait for its answer."""
        self.tell(*words)
        return self.hear()

    def open(
        self,
        count: int,
        port: int,
        *,
        first: int = 0,
        channels: int = 1,
        subscriptions: int = 1,
        window: int = 200,
        mode: str = "session",
        receive_bytes: int = 0,
    ) -> float:
        """Connect `count` more; returns the seconds that it took."""
        opened, wall_us = self.ask("open", count, port, first, channels, subscriptions, window, mode, receive_bytes)
        assert opened == count, f"{opened} of {count} clients came in; {self.stats()}"
        self.count += count
        return wall_us / 1e6

    def drop(self, first: int = 0, count: int | None = None) -> None:
        """These, or all, close their connections."""
        self.ask("drop", first, self.count - first if count is None else count)

    def stats(self) -> dict[str, int]:
        """What was counted since the last `reset`."""
        self._helper.tell("stats")
        counted: dict[str, int] = json.loads(self._helper.hear())
        return counted

    def end(self) -> None:
        """Kill the process: all connections are closed by the kernel at once."""
        self._helper.end()


class Edge:
    """One edge process under test. A publisher must have opened the bus before."""

    def __init__(
        self, redis: RedisServer, log: Path, *options: object, probed: bool = False, limits: dict[str, object] | None = None
    ) -> None:
        self.port, self._internal_port = free_port(), free_port()
        arguments = [
            "run",
            "--bus",
            redis.url,
            "--port",
            self.port,
            "--internal-port",
            self._internal_port,
            "--log-level",
            "warning",
            *options,
        ]
        if "--ping-interval-s" not in options:
            arguments += ["--ping-interval-s", EVER_S]
        if "--max-connects-per-s" not in options:
            arguments += ["--max-connects-per-s", 0]  # What a client costs is measured, not how many are let in.
        plain = project_command("edge", *map(str, arguments))
        command = [sys.executable, "-m", "bench.probed_edge", *plain[1:]] if probed or limits else plain
        self.process = Process(command, log=log, env={"BENCH_LIMITS": json.dumps(limits or {})}).start()
        self.process.wait_for_http(f"http://127.0.0.1:{self._internal_port}/health/ready")

    @property
    def cpu_ns(self) -> int:
        """Its processor time so far."""
        return cpu_ns(self.process.pid)

    @property
    def rss_bytes(self) -> int:
        """Its resident memory now."""
        return self._memory("VmRSS")

    @property
    def peak_bytes(self) -> int:
        """The most that its resident memory was since `forget_peak`."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        """Start over with `peak_bytes` (proc(5), clear_refs)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def metric(self, name: str) -> int:
        """One of its metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._internal_port}/metrics", timeout=10) as answer:
            found = re.search(rf"^{name}(?:_total)? (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found is not None, f"no metric {name}"
        return int(float(found[1]))

    def stall(self) -> dict[str, Any]:
        """What its probe saw since the last time."""
        lines = self.process.output().count("\nstall ") + self.process.output().startswith("stall ")
        self.process.signal(signal.SIGUSR1)
        self.process.wait_for(lambda: self._stalls()[lines:], what="the probe's line")
        told: dict[str, Any] = json.loads(self._stalls()[-1])
        return told

    def _stalls(self) -> list[str]:
        return re.findall(r"^stall (\{.*\})$", self.process.output(), re.MULTILINE)

    def _memory(self, what: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith(what))) * 1024


class Pinger:
    """A client that sends a ping every 5 ms, from a process of its own: what clients feel of a stall."""

    def __init__(self, edge: Edge) -> None:
        self._client = Clients()
        self._client.open(1, edge.port, first=PINGER_CHANNEL)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[list[int]]:
        """Ping while the block runs; afterwards the list has how many, and p50, p99 and longest round trip in microseconds."""
        seen: list[int] = []
        self._client.tell("ping", 5_000)
        try:
            yield seen
        finally:
            self._client.tell("reset")
            seen += self._client.hear()
            self._client.hear()

    def end(self) -> None:
        """End the process."""
        self._client.end()


@contextlib.contextmanager
def stage() -> Iterator[tuple[Path, RedisServer]]:
    """A folder and a Redis; afterwards every process is gone."""
    try:
        with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder) / "redis") as redis:
            yield Path(folder), redis
    finally:
        end_all()


def per(nanoseconds: float, count: float, digits: int = 1) -> str:
    """Microseconds each."""
    return f"{nanoseconds / count / 1e3:.{digits}f}"
