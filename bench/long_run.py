"""A long run: mixed modes, clients that come and go, slow readers and ones that stop; every value is checked.

    python -m bench.long_run [SECONDS]      600 unless told otherwise; not a part of `make bench`

The edge is busy for about half of its time: most of that are clients of bench/clients.c on channels of their own, who count what is lost
or comes twice. Of the others, each publication says its channel, its number and a text that follows from both, so a wrong value cannot
pass. At the end everybody leaves, and the edge must be as it was: no connection, channel, task or file descriptor more. Memory is printed
on the way; exit status 1 where anything is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Literal

import msgspec

from bench.measure import cpu_ns, free_port, report
from bench.stage import Clients
from bench.stage import Publisher as CrowdPublisher
from distributary import Client, ClientError, Position, Publication
from shared.bus.layout import BusLayout
from shared.bus.publisher import BusPublisher
from shared.bus.push import Keep, Push, Source, source_id
from shared.bus.servers import connect_servers
from shared.delta import vcdiff
from shared.publication import ContentType, DeltaFormat, Kind, payload_hash
from tests.rig.process import Process, end_all, project_command
from tests.rig.redis_server import RedisServer

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
CHANNELS = [f"long:{number}" for number in range(50)]
RATE = 20
"""Publications a second and channel."""
CLIENTS = 90
STOPPED = 5
CROWD, CROWD_CHANNELS, CROWD_RATE = 2_600, 20, 25
"""Clients that only count, their channels, and publications a second on each of these."""
_MODES: tuple[Literal["queue", "conflate", "ack"], ...] = ("queue", "conflate", "ack")
_FORMATS: tuple[Literal["json", "msgpack"], ...] = ("json", "msgpack")
LIFE_S = 20.0
"""How long a client stays, on average."""


def payload(channel: str, number: int) -> bytes:
    """The number-th value of a channel."""
    text = random.Random(f"{channel} {number // 5}").randbytes(60).hex()
    return msgspec.json.encode({"channel": channel, "number": number, "text": text, "same": "of every publication " * 4})


class Publisher(threading.Thread):
    """Pushes to all channels as a bridge does, with deltas and heartbeats, until told to stop."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._bus = BusPublisher(connect_servers([url]), BusLayout(), instance="long-run")
        self._bus.open()
        self._stopping = threading.Event()
        self._source = source_id("bench", "long", 0)
        self.number = 0

    def run(self) -> None:
        """See the class."""
        start, beat_at = time.monotonic(), 0.0
        while not self._stopping.is_set():
            self.number += 1
            self._bus.push([self._push(channel) for channel in CHANNELS])
            if time.monotonic() >= beat_at:
                self._bus.beat()
                beat_at = time.monotonic() + 1
            time.sleep(max(0, start + self.number / RATE - time.monotonic()))

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        self.join()
        self._bus.close()

    def _push(self, channel: str) -> Push:
        value, base = payload(channel, self.number), payload(channel, self.number - 1)
        source, keep = Source(self._source, self.number, 0), Keep(history_size=400)
        delta = vcdiff.encode(base, value) if self.number > 1 else b""
        kind = DeltaFormat.VCDIFF if delta else DeltaFormat.NONE
        base_hash = payload_hash(base) if delta else b""
        return Push(
            channel,
            value,
            payload_hash(value),
            ContentType.JSON,
            Kind.LATEST,
            time.time_ns() // 1_000_000,
            source,
            keep,
            kind,
            delta,
            base_hash,
        )


class Watch:
    """What was seen, and whether it was right."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []

    def check(self, publication: Publication, mode: str, last: Position | None) -> None:
        """Compare one publication with what was published at its offset, and with the one before it."""
        self.seen[mode] += 1
        offset = publication.position.offset
        if publication.body != payload(publication.channel, offset) and publication.data != msgspec.json.decode(
            payload(publication.channel, offset)
        ):
            self.wrong.append(f"{mode} {publication.channel}:{offset} has the value {publication.body[:80]!r}")
        if last is not None and publication.gap is None and mode != "conflate" and offset != last.offset + 1:
            self.wrong.append(f"{mode} {publication.channel}: {offset} came after {last.offset}")
        if last is not None and offset <= last.offset:
            self.wrong.append(f"{mode} {publication.channel}: {offset} came again after {last.offset}")


async def live(url: str, watch: Watch, chance: random.Random, number: int, until: float) -> None:
    """One client: comes, stays for a while, goes, comes back with its position."""
    mode = _MODES[number % 3]
    format_, delta = chance.choice(_FORMATS), chance.choice([(), ("vcdiff",), ("json-patch",)])
    slow_s = 0.3 if mode != "queue" and number % 5 == 0 else 0.0
    channel, last = chance.choice(CHANNELS), None
    while time.monotonic() < until:
        life = min(until, time.monotonic() + chance.expovariate(1 / LIFE_S))
        with contextlib.suppress(ClientError, TimeoutError):
            async with (
                asyncio.timeout(max(0.1, life - time.monotonic())),
                Client(url, format=format_, delta=delta) as client,
                client.subscribe(channel, mode=mode, position=last) as subscription,
            ):
                async for publication in subscription:
                    watch.check(publication, mode, last)
                    last = publication.position
                    if mode == "ack":
                        await subscription.ack(publication)
                    if slow_s:
                        await asyncio.sleep(slow_s)
        if chance.random() < 0.3:
            channel, last = chance.choice(CHANNELS), None
        await asyncio.sleep(chance.random())


async def stop_reading(port: int, until: float) -> None:
    """Clients that ask for all channels and never read; the edge cuts them, and they come again."""
    request = (
        f"GET /v1/ws?channels={','.join(CHANNELS)} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    while time.monotonic() < until:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(request)
            await asyncio.sleep(min(30, max(0.1, until - time.monotonic())))


class Edge:
    """The edge under test, and what it says of itself."""

    def __init__(self, folder: Path, url: str) -> None:
        self.port, self._internal = free_port(), free_port()
        command = project_command("edge", "run", "--bus", url, "--port", self.port, "--internal-port", self._internal)
        self.process = Process(command, log=folder / "edge.log").start()
        self.process.wait_for_http(f"http://127.0.0.1:{self._internal}/health/ready")

    def gauges(self) -> dict[str, float]:
        """Connections, channels and tasks now; resident memory in MB; open files."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._internal}/metrics", timeout=10) as answer:
            lines = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line.startswith("distributary_edge_")]
        found = {name.removeprefix("distributary_edge_"): float(value) for name, value in lines}
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        files = len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208
        wanted = {name: found[name] for name in ("connections", "channels", "tasks")}
        return {**wanted, "slow": found["slow_consumers_total"], "rss_mb": pages * 4096 / 1e6, "files": files}


class Crowd:
    """Those who make up most of the load."""

    def __init__(self, url: str, port: int) -> None:
        self._publisher = CrowdPublisher(url)
        self._publisher.push(range(CROWD_CHANNELS))
        self._clients = Clients()
        self._clients.open(CROWD, port, channels=CROWD_CHANNELS)
        self._clients.ask("reset")
        self._clients.tell("run", SECONDS + 1)
        passes = round(SECONDS * CROWD_RATE)
        self._thread = threading.Thread(target=self._publisher.paced, args=(range(CROWD_CHANNELS), passes, 1 / CROWD_RATE), daemon=True)
        self._thread.start()
        self.wanted = passes * CROWD

    def end(self) -> dict[str, int]:
        """What they counted; they are gone then."""
        self._thread.join()
        self._clients.hear()
        self._clients.ask("until", self.wanted, 10)
        seen = self._clients.stats()
        self._clients.end()
        return seen


async def run(edge: Edge, publisher: Publisher, watch: Watch) -> list[dict[str, float]]:
    """The run itself; returns what was seen on the way."""
    until, seen = time.monotonic() + SECONDS, []
    url = f"ws://127.0.0.1:{edge.port}"
    people = [asyncio.create_task(live(url, watch, random.Random(number), number, until)) for number in range(CLIENTS)]
    people += [asyncio.create_task(stop_reading(edge.port, until)) for _ in range(STOPPED)]
    while time.monotonic() < until:
        await asyncio.sleep(min(20, SECONDS / 10))
        seen.append({"published": publisher.number * len(CHANNELS), **await asyncio.to_thread(edge.gauges)})
        print(" ".join(f"{name} {value:,.0f}" for name, value in seen[-1].items()), f"checked {sum(watch.seen.values()):,}", flush=True)
    await asyncio.gather(*people)
    return seen


def main() -> int:
    """Run, and say how it ended."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as name, RedisServer(Path(name) / "redis") as redis:
        publisher = Publisher(redis.url)
        edge = Edge(Path(name), redis.url)
        before = edge.gauges()
        crowd = Crowd(redis.url, edge.port)
        publisher.start()
        cpu, start = cpu_ns(edge.process.pid), time.monotonic()
        seen = asyncio.run(run(edge, publisher, watch))
        busy = (cpu_ns(edge.process.pid) - cpu) / 1e9 / (time.monotonic() - start)
        publisher.stop()
        counted = crowd.end()
        after = settled(edge, before)
        problems = [
            f"{key}: {before[key]:.0f} before, {after[key]:.0f} after"
            for key in ("connections", "channels", "tasks", "files")
            if after[key] > before[key]
        ]
        problems += [f"{counted[key]} {key} among those who only count" for key in ("lost", "duplicates", "gaps", "closed") if counted[key]]
        if counted["publications"] != crowd.wanted:
            problems.append(f"{counted['publications']} publications came to those who only count, not {crowd.wanted}")
        middle = [entry["rss_mb"] for entry in seen[len(seen) // 2 :]]
    rows = [
        ("publications", f"{publisher.number * len(CHANNELS):,}"),
        *((f"checked in mode {mode}", f"{count:,}") for mode, count in sorted(watch.seen.items())),
        (f"counted by {CROWD:,} others", f"{counted['publications']:,}"),
        ("wrong values, holes, repeats", len(watch.wrong)),
        ("closed as slow consumers", f"{after['slow']:.0f}"),
        ("edge's CPU", f"{busy:.0%} of a core"),
        ("edge's RSS, second half, least to most", f"{min(middle):.1f} to {max(middle):.1f} MB"),
        ("left over at the end, or wrong among the others", "; ".join(problems) or "nothing"),
    ]
    report("long_run", f"Long run, {SECONDS:.0f} s, {CLIENTS} clients that come and go, {STOPPED} that never read", ("what", "value"), rows)
    print("\n".join(watch.wrong[:10]))
    return 1 if watch.wrong or problems else 0


def settled(edge: Edge, before: dict[str, float]) -> dict[str, float]:
    """What is left once channels without subscribers were given up."""
    deadline = time.monotonic() + 60
    while True:
        after = edge.gauges()
        if time.monotonic() > deadline or all(after[key] <= before[key] for key in ("connections", "channels", "tasks", "files")):
            return after
        time.sleep(0.5)


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        end_all()
