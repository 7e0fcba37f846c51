"""The bridge's memory of bases with a million channels of 1 KB: resident memory under several bounds, and how often a base is there.

Each channel is published to once; then publications come by popularity (Zipf, exponent 1: the first channel twice as often as the second).
A publication whose base was forgotten goes out in full: that costs bytes and nothing else. Each bound runs in a process of its own.

usage: python bench/bench_delta_cache.py
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path

from bench.measure import report
from bridge.core.chain import DeltaChain
from bridge.core.draft import ChannelSettings, Draft
from shared.bus.push import Outcome, Pushed, Source
from shared.publication import ContentType, DeltaFormat

CHANNELS = 1_000_000
PAYLOAD_BYTES = 1024
PUBLICATIONS = 300_000
MIB = 1 << 20
BOUNDS_MIB = (64, 256, 1024, 2048)

_SETTINGS = ChannelSettings()
_FILLER = random.Random(1).randbytes(PAYLOAD_BYTES // 2).hex()


def payload(channel: int, version: int) -> bytes:
    """1 KB of JSON that differs a little from version to version."""
    head = f'{{"id":{channel},"version":{version},"note":"'
    return f'{head}{_FILLER[: PAYLOAD_BYTES - len(head) - 2]}"}}'.encode()


def rss_bytes() -> int:
    """Resident memory of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def measure(bound: int) -> dict[str, float]:
    """Fill a chain, then publish by popularity."""
    chain = DeltaChain(shards=16, clock=time.monotonic, max_bytes=bound)
    weights = list(accumulate(1 / rank for rank in range(1, CHANNELS + 1)))
    chance = random.Random(2)
    before = rss_bytes()
    for channel in range(CHANNELS):
        publish(chain, channel, 0, channel)
    chosen = chance.choices(range(CHANNELS), cum_weights=weights, k=PUBLICATIONS)
    start = time.process_time()
    hits = sum(publish(chain, channel, at, CHANNELS + at) for at, channel in enumerate(chosen, 1))
    spent = time.process_time() - start
    return {
        "held": chain.bytes_held,
        "rss": rss_bytes() - before,
        "channels": len(chain),
        "hits": hits / PUBLICATIONS,
        "us": spent / PUBLICATIONS * 1e6,
    }


def publish(chain: DeltaChain, channel: int, version: int, offset: int) -> bool:
    """One publication; whether it had a base."""
    draft = Draft(f"item:{channel}", payload(channel, version), ContentType.JSON, 0, _SETTINGS, "bench")
    pushes = chain.prepare(draft, Source(b"bench-source", offset, 0), 0, sole_writer=True)
    for push in pushes:
        chain.confirm(push, Pushed(Outcome.FULL, b"epoch-of-12b", version + 1))
    return pushes[-1].delta_format is not DeltaFormat.NONE


def main() -> None:
    """Measure each bound in a child, and report."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]) * MIB)))
        return
    rows: list[tuple[object, ...]] = []
    for bound in BOUNDS_MIB:
        output = subprocess.run([sys.executable, "-m", "bench.bench_delta_cache", str(bound)], check=True, capture_output=True, text=True)
        found = json.loads(output.stdout)
        held, rss = found["held"] / MIB, found["rss"] / MIB
        rows.append((f"{bound} MiB", f"{found['channels']:,}", f"{held:.0f}", f"{rss:.0f}", f"{found['hits']:.0%}", f"{found['us']:.1f}"))
    columns = ("bound", "channels held", "counted MiB", "RSS MiB", "publications with a base", "us CPU")
    report("delta_cache", f"{CHANNELS:,} channels of {PAYLOAD_BYTES} bytes: the bridge's memory of bases", columns, rows)


if __name__ == "__main__":
    main()
