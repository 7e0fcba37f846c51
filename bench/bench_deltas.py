"""What deltas save: bytes of each publication in full, as VCDIFF and as JSON Patch, each with and without permessage-deflate.

Every item against the one before it on its channel; an item equal to that one makes no publication (`only_changed`) and is not counted.
A delta counts as what would be sent: itself or the full payload, whichever is smaller. Deflate is that of the edge: each message by itself,
from 256 bytes on. The last column is what a server saves that keeps a compressor for each connection (300 KB of memory, and CPU for each
client), with one channel on each. The second table chooses VCDIFF's level.

usage: python bench/bench_deltas.py [--data FOLDER]   (bench/recordings.py tells what the folder holds; without: the demo's simulation)
"""

from __future__ import annotations

import argparse
import os
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.measure import report
from bench.recordings import Stream, recordings
from edge.transports.deflate import LEVEL, MEMORY_LEVEL, MIN_BYTES
from shared.delta import json_patch, vcdiff, vcdiff_encode

Pair = tuple[str, bytes, bytes]
"""Channel, the payload before, the payload."""
Encode = Callable[[bytes, bytes], bytes | None]


def pairs_of(stream: Stream) -> tuple[list[Pair], int]:
    """What changed, and how many items were equal to the one before."""
    newest: dict[str, bytes] = {}
    pairs: list[Pair] = []
    unchanged = 0
    for channel, payload in stream:
        before = newest.get(channel)
        if before == payload:
            unchanged += 1
        elif before is not None:
            pairs.append((channel, before, payload))
        newest[channel] = payload
    return pairs, unchanged


def smaller(encode: Encode, before: bytes, payload: bytes) -> bytes:
    """The delta, or the payload where that is smaller."""
    delta = encode(before, payload)
    return payload if delta is None or len(delta) >= len(payload) else delta


def deflated(message: bytes) -> int:
    """The size of a message as the edge compresses it."""
    if len(message) < MIN_BYTES:
        return len(message)
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, MEMORY_LEVEL)
    return min(len(message), len(compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)) - 4)


def deflated_with_context(pairs: list[Pair]) -> int:
    """The size of all messages where each channel's client has a compressor that remembers what went before."""
    compressors: dict[str, zlib._Compress] = {}
    total = 0
    for channel, before, payload in pairs:
        compressor = compressors.get(channel)
        if compressor is None:
            compressor = compressors[channel] = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, 8)
            compressor.compress(before)
            compressor.flush(zlib.Z_SYNC_FLUSH)
        total += len(compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)) - 4
    return total


def patch(before: bytes, payload: bytes) -> bytes | None:
    """A JSON Patch of the value, as a client gets it."""
    return json_patch.encode_value(before, payload)


def savings(name: str, pairs: list[Pair], unchanged: int) -> tuple[object, ...]:
    """One row of the first table: bytes a publication, and as a share of the full ones."""
    count = len(pairs)
    messages = {
        "full": [payload for _, _, payload in pairs],
        "vcdiff": [smaller(vcdiff.encode, before, payload) for _, before, payload in pairs],
        "patch": [smaller(patch, before, payload) for _, before, payload in pairs],
    }
    full = sum(map(len, messages["full"]))
    sizes = [size for found in messages.values() for size in (sum(map(len, found)), sum(map(deflated, found)))]
    sizes.append(deflated_with_context(pairs))
    shares = [f"{size / full:.0%}" for size in sizes[1:]]
    return name, count, f"{unchanged / (count + unchanged):.0%}", f"{full / count:.0f}", *shares


def levels(name: str, pairs: list[Pair]) -> list[tuple[object, ...]]:
    """Rows of the second table: what each level of VCDIFF costs and makes of at most 2,000 of the pairs."""
    some = pairs[:: max(1, len(pairs) // 2000)]
    encoders: dict[str, Encode] = {"chosen": vcdiff.encode, "pure Python": vcdiff_encode.encode}
    if vcdiff.engine() == "xdelta3":
        from shared.delta import xdelta

        encoders |= {f"level {level}": partial(xdelta.encode, level=level) for level in (1, 3, 6, 9)}
    full = sum(len(payload) for _, _, payload in some)
    rows: list[tuple[object, ...]] = []
    for what, encode in encoders.items():
        start = time.process_time()
        size = sum(len(smaller(encode, before, payload)) for _, before, payload in some)
        rows.append((name, what, f"{full / len(some):.0f}", f"{size / full:.1%}", f"{(time.process_time() - start) / len(some) * 1e6:.1f}"))
    return rows


def main() -> None:
    """Measure and report."""
    options = argparse.ArgumentParser(description="What deltas save.")
    options.add_argument("--data", type=Path, default=os.environ.get("BENCH_DATA"), help="folder of recordings (also BENCH_DATA)")
    data = options.parse_args().data
    rows: list[tuple[object, ...]] = []
    level_rows: list[tuple[object, ...]] = []
    for name, stream in recordings(None if data is None else Path(data)):
        pairs, unchanged = pairs_of(stream)
        rows.append(savings(name, pairs, unchanged))
        level_rows.extend(levels(name, pairs))
    heads = ("full, deflate", "vcdiff", "vcdiff, deflate", "patch", "patch, deflate", "full, deflate with context")
    report(
        "deltas",
        "Bytes a changed publication, as a share of the full payload",
        ("data", "changed", "unchanged", "full bytes", *heads),
        rows,
    )
    report("delta_levels", "VCDIFF by level", ("data", "level", "full bytes", "of full", "us CPU"), level_rows)


if __name__ == "__main__":
    main()
