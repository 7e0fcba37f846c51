"""What the delta codecs cost: microseconds of CPU an operation and bytes of delta.

Two payloads of a transit feed, each against the value one step earlier: one vehicle (about 250 bytes) and a snapshot of
152 (about 38 KB). Every delta is applied and compared before it is measured. Where a snapshot costs 300 us more from level
3 on, glibc's malloc gives memory back after each call; shared/delta/xdelta.py says how to prevent that.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jsonpatch
import msgspec

from shared.delta import json_patch, vcdiff, vcdiff_decode, vcdiff_encode

MAX_SIZE = 1 << 20
Pairs = list[tuple[bytes, bytes]]


class Result(NamedTuple):
    """One row of the table."""

    payload: str
    codec: str
    encode_us: float
    decode_us: float
    delta_bytes: float
    full_bytes: float


def snapshots(count: int, vehicles: int = 152) -> list[list[dict[str, Any]]]:
    """The same feed at `count` moments: three vehicles in five move from one to the next."""
    chance = random.Random(1)
    places = [[41.7 + chance.random() / 5, -72.6 - chance.random() / 5] for _ in range(vehicles)]
    feed = []
    for moment in range(count):
        places = [[x + chance.uniform(-0.001, 0.001) for x in place] if chance.random() < 0.6 else place for place in places]
        feed.append([vehicle(1400 + index, place, 1_700_000_000 + 30 * moment) for index, place in enumerate(places)])
    return feed


def vehicle(number: int, place: list[float], time_s: int) -> dict[str, Any]:
    trip = {"tripId": f"13{number}21", "startDate": "20240105", "routeId": f"{number % 50}", "scheduleRelationship": "SCHEDULED"}
    position = {"latitude": round(place[0], 6), "longitude": round(place[1], 6)}
    name = {"id": str(number), "label": str(number)}
    return {"id": str(number), "vehicle": {"trip": trip, "position": position, "timestamp": str(time_s), "vehicle": name}}


def microseconds(function: Callable[[], object], operations: int) -> float:
    """CPU time: the best of five runs of about 0.1 s."""
    timer = timeit.Timer(function, timer=time.process_time)
    number = max(1, int(0.1 / max(timer.timeit(1), 1e-6)))
    return min(timer.repeat(5, number)) / number / operations * 1e6


def measure(name: str, codec: str, pairs: Pairs, encode: Callable[..., bytes | None], decode: Callable[..., bytes]) -> Result:
    deltas = [encode(base, target) or b"" for base, target in pairs]
    tasks = [(base, delta) for (base, _), delta in zip(pairs, deltas, strict=True)]
    for (base, delta), (_, target) in zip(tasks, pairs, strict=True):
        assert decode(base, delta, max_size=MAX_SIZE) == target, codec
    return Result(
        name,
        codec,
        microseconds(lambda: [encode(base, target) for base, target in pairs], len(pairs)),
        microseconds(lambda: [decode(base, delta, max_size=MAX_SIZE) for base, delta in tasks], len(pairs)),
        sum(map(len, deltas)) / len(pairs),
        sum(len(target) for _, target in pairs) / len(pairs),
    )


def jsonpatch_encode(base: bytes, target: bytes) -> bytes:
    return msgspec.json.encode(jsonpatch.make_patch(*map(msgspec.json.decode, (base, target))).patch)


def jsonpatch_decode(base: bytes, delta: bytes, *, max_size: int) -> bytes:
    return msgspec.json.encode(jsonpatch.apply_patch(msgspec.json.decode(base), msgspec.json.decode(delta), in_place=True))[:max_size]


def measure_all(name: str, pairs: Pairs) -> list[Result]:
    codecs: list[tuple[str, Callable[..., bytes | None], Callable[..., bytes]]] = [
        (f"vcdiff ({vcdiff.engine()})", vcdiff.encode, vcdiff.decode),
        ("vcdiff (pure Python)", vcdiff_encode.encode, vcdiff_decode.decode),
        ("json-patch, exact bytes", json_patch.encode, json_patch.decode),
        ("json-patch, value only", json_patch.encode_value, json_patch.decode),
        ("jsonpatch's make_patch", jsonpatch_encode, jsonpatch_decode),
    ]
    if vcdiff.engine() == "xdelta3":
        from shared.delta import xdelta

        codecs[1:1] = [(f"  at level {level}", partial(xdelta.encode, level=level), vcdiff.decode) for level in (1, 2, 3, 6, 9)]
    return [measure(name, codec, pairs, encode, decode) for codec, encode, decode in codecs]


def main() -> None:
    options = argparse.ArgumentParser(description="What the delta codecs cost.")
    options.add_argument("--json", action="store_true", help="write bench/results/delta_codecs.json as well")
    as_json: bool = options.parse_args().json
    before, after = snapshots(2)
    vehicles = list(zip(map(msgspec.json.encode, before[:20]), map(msgspec.json.encode, after), strict=False))
    results = measure_all("vehicle", vehicles) + measure_all("snapshot", [(msgspec.json.encode(before), msgspec.json.encode(after))])
    print(f"{'payload':9} {'codec':26} {'encode us':>10} {'decode us':>10} {'delta':>8} {'full':>8}")
    for row in results:
        print(f"{row.payload:9} {row.codec:26} {row.encode_us:10.1f} {row.decode_us:10.1f} {row.delta_bytes:8.0f} {row.full_bytes:8.0f}")
    if as_json:
        (results_folder := Path(__file__).parent / "results").mkdir(exist_ok=True)
        (results_folder / "delta_codecs.json").write_text(json.dumps([row._asdict() for row in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
