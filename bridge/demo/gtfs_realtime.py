"""The simulated city as GTFS-realtime: a FeedMessage a tick, vehicles and trip updates, as an agency's server sends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from google.transit import gtfs_realtime_pb2

from bridge.demo.simulation import START_S, TICK_S
from shared.errors import ConfigurationError

RULES = Path(__file__).with_name("gtfs-realtime.yaml")
TOPIC = "gtfs-realtime"
SUFFIXES = (".pb", ".pb.gz")
_DELAY_HOLDS_TICKS = 12


def feed_message(entities: list[dict[str, Any]], tick: int) -> bytes:
    """A snapshot of the simulation (its JSON entities) as a serialized FeedMessage."""
    feed = gtfs_realtime_pb2.FeedMessage()
    feed.header.gtfs_realtime_version = "2.0"
    feed.header.timestamp = START_S + tick * TICK_S
    for entity in entities:
        _add_vehicle(feed.entity.add(id=entity["id"]).vehicle, entity)
    for entity in entities:
        _add_trip_update(feed.entity.add(id=f"trip-{entity['id']}").trip_update, entity, tick)
    return feed.SerializeToString()


def _add_vehicle(vehicle: gtfs_realtime_pb2.VehiclePosition, entity: dict[str, Any]) -> None:
    _fill_trip(vehicle.trip, entity)
    vehicle.vehicle.id = vehicle.vehicle.label = entity["id"]
    vehicle.position.latitude = entity["vehicle"]["position"]["latitude"]
    vehicle.position.longitude = entity["vehicle"]["position"]["longitude"]
    vehicle.timestamp = int(entity["vehicle"]["timestamp"])


def _add_trip_update(update: gtfs_realtime_pb2.TripUpdate, entity: dict[str, Any], tick: int) -> None:
    _fill_trip(update.trip, entity)
    update.vehicle.id = entity["id"]
    number = int(entity["id"])
    # A new forecast every minute of the simulation, each vehicle at a moment of its own.
    minute = (tick + number) // _DELAY_HOLDS_TICKS
    for ahead in range(1, 4):
        stop = update.stop_time_update.add(stop_sequence=minute + ahead, stop_id=f"{entity['vehicle']['trip']['routeId']}-{ahead}")
        stop.arrival.delay = (number * 37 + minute * 53) % 600 - 120
        stop.arrival.time = START_S + (minute + 2 * ahead) * 60 + stop.arrival.delay


def _fill_trip(trip: gtfs_realtime_pb2.TripDescriptor, entity: dict[str, Any]) -> None:
    described = entity["vehicle"]["trip"]
    trip.trip_id, trip.start_date, trip.route_id = described["tripId"], described["startDate"], described["routeId"]


def checked(data: bytes) -> bytes:
    """`data`, if it is a FeedMessage; else ConfigurationError."""
    try:
        is_feed = bool(gtfs_realtime_pb2.FeedMessage.FromString(data).header.gtfs_realtime_version)
    except DecodeError:
        is_feed = False
    if not is_feed:
        raise ConfigurationError(["is no GTFS-realtime FeedMessage"])
    return data


def time_of(data: bytes) -> float | None:
    """When a FeedMessage was made, in seconds since 1970; None where it does not tell."""
    return gtfs_realtime_pb2.FeedMessage.FromString(data).header.timestamp or None
