"""Redis' and the publisher's CPU a publication: plain, with a key, with a version, with an id. Batches of 100 on one shard, interleaved.

usage: python -m bench.bench_keyed
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from bench.bench_bridge import CHANNELS, ROUNDS, publisher, push, small_records
from bench.measure import cpu_ns, median, report
from shared.bus.layout import BusLayout
from shared.bus.push import Keep, Push, Source, source_id
from shared.publication import Kind
from tests.rig.redis_server import RedisServer

BATCHES, BATCH = 100, 100
LAYOUT = BusLayout()
NAMES = [name for name in (f"tick:{number}" for number in range(10_000)) if LAYOUT.shard_of(name) == 0][:CHANNELS]
SOURCE, KEEP = source_id("bench", "bench", 0), Keep()


def plain(number: int, payload: bytes) -> Push:
    """One of 500 channels."""
    return push(NAMES[number % CHANNELS], payload, Source(SOURCE, number, 0), KEEP)


def keyed(number: int, payload: bytes, **changes: Any) -> Push:
    """One of 500 keys of one channel."""
    made = push(NAMES[0], payload, Source(SOURCE, number, 0), KEEP)
    return msgspec.structs.replace(made, kind=Kind.KEYED, key=b"%d" % (number % CHANNELS), **changes)


def id_(number: int) -> bytes:
    """Another one for each publication."""
    return blake2b(b"%d" % number, digest_size=16).digest()


WHAT: dict[str, Callable[[int, bytes], Push]] = {
    "plain": plain,
    "with a version": lambda number, payload: msgspec.structs.replace(plain(number, payload), version=float(number)),
    "with a key": keyed,
    "with a key and a version": lambda number, payload: keyed(number, payload, version=float(number)),
    "with a key, a version and an id": lambda number, payload: keyed(number, payload, version=float(number), id=id_(number)),
}


def main() -> None:
    """Measure and report."""
    payload = next(small_records())
    redis_us: dict[str, list[float]] = {what: [] for what in WHAT}
    own_us: dict[str, list[float]] = {what: [] for what in WHAT}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {what: stack.enter_context(RedisServer(Path(folder) / f"redis-{number}")) for number, what in enumerate(WHAT)}
        buses = {what: stack.enter_context(closing(publisher(server.url, LAYOUT))) for what, server in servers.items()}
        for round_ in range(2 + 2 * ROUNDS):
            for what, make in WHAT.items():
                first = round_ * BATCHES * BATCH
                batches = [[make(first + batch * BATCH + at, payload) for at in range(BATCH)] for batch in range(BATCHES)]
                before, own_before = cpu_ns(servers[what].process.pid), time.process_time_ns()
                for pushes in batches:
                    buses[what].push(pushes)
                own_us[what].append((time.process_time_ns() - own_before) / BATCHES / BATCH / 1000)
                redis_us[what].append((cpu_ns(servers[what].process.pid) - before) / BATCHES / BATCH / 1000)
    rows = [(what, f"{median(redis_us[what][2:]):.1f}", f"{median(own_us[what][2:]):.1f}") for what in WHAT]
    report("keyed", "What keys, versions and ids cost", ("publications", "Redis us", "publisher us"), rows)


if __name__ == "__main__":
    main()
