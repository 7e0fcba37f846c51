"""Recorded feeds as streams of (channel, payload), split as a route would split them. None of them is part of the project.

A folder of recordings holds, each gzipped: `nyct-gtfsrt/*` (FeedMessages, raw protobuf), `auckland-gtfsrt/*.json.gz` (a poll each),
`austin-vehicles/*.csv.gz` (a row a measurement), `crypto/*.gz` (lines `seconds: JSON` of exchanges' WebSocket feeds).
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from bridge.demo.simulation import Simulation

Stream = Iterator[tuple[str, bytes]]
"""Channel and payload (compact JSON), in order of time."""

_encode = msgspec.json.encode


def simulated(count: int = 120) -> Stream:
    """The demo's city: what there is where there is no recording."""
    city = Simulation()
    for tick in range(count):
        for entity in city.snapshot(tick):
            yield f"bus:{entity['id']}", _encode(entity)


def new_york(folder: Path) -> Stream:
    """Subway trips and trains, 80 polls. An entity's id is a row number there; a trip is known by its date and id."""
    from google.protobuf.json_format import MessageToDict
    from google.transit import gtfs_realtime_pb2

    for path in sorted(folder.glob("nyct-gtfsrt/*.gz")):
        feed = gtfs_realtime_pb2.FeedMessage.FromString(_unzipped(path))
        for entity in MessageToDict(feed).get("entity", []):
            kind = "tripUpdate" if "tripUpdate" in entity else "vehicle"
            if kind in entity:
                trip = entity[kind]["trip"]
                yield f"{kind}:{trip.get('startDate')}:{trip.get('tripId')}", _encode(entity[kind])


def auckland(folder: Path) -> Stream:
    """Trip updates by vehicle, 58 polls."""
    for path in sorted(folder.glob("auckland-gtfsrt/*.json.gz")):
        feed = msgspec.json.decode(_unzipped(path))
        for entity in feed["response"]["entity"]:
            update = entity["trip_update"]
            yield f"trip:{update.get('vehicle', {}).get('id')}", _encode(update)


def austin(folder: Path) -> Stream:
    """Positions of buses for a day."""
    for path in sorted(folder.glob("austin-vehicles/*.csv.gz")):
        rows = csv.DictReader(io.StringIO(_unzipped(path).decode()))
        for row in sorted(rows, key=lambda row: row["timestamp"]):
            numbers = {name: float(row[name] or 0) for name in ("speed", "latitude", "longitude")}
            yield f"bus:{row['vehicle_id']}", _encode(row | numbers)


def exchange(folder: Path, pattern: str, channel_of: Callable[[Any], str | None]) -> Stream:
    """One exchange's messages, by product and type."""
    for path in sorted(folder.glob(f"crypto/{pattern}")):
        for line in _unzipped(path).decode().splitlines():
            head, _, text = line.partition(": ")
            if not text or head.startswith("wss:") or "<-" in head:
                continue
            message = msgspec.json.decode(text)
            channel = channel_of(message) if isinstance(message, dict) else None
            if channel is not None:
                yield channel, _encode(message)


def recordings(folder: Path | None) -> Iterator[tuple[str, Stream]]:
    """All that there are, by name."""
    yield "simulated city", simulated()
    if folder is None:
        return
    yield "New York subway", new_york(folder)
    yield "Auckland trips", auckland(folder)
    yield "Austin buses", islice(austin(folder), 20_000)
    yield "Binance", exchange(folder, "BINANCE*", lambda message: message.get("stream"))
    yield "Bitget books", exchange(folder, "BITGET*", _bitget_channel)
    yield "Coinbase", exchange(folder, "COINBASE*", lambda message: _joined(message, "type", "product_id"))
    yield "Delta books", exchange(folder, "DELTA*", lambda message: _joined(message, "type", "symbol"))
    yield "Kraken", exchange(folder, "KRAKEN*", lambda message: _joined(message, "feed", "product_id"))


def _bitget_channel(message: dict[str, Any]) -> str | None:
    return _joined(message["arg"], "channel", "instId") if "data" in message else None


def _joined(message: dict[str, Any], *names: str) -> str | None:
    values = [message.get(name) for name in names]
    return None if None in values else ":".join(map(str, values))


def _unzipped(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())
