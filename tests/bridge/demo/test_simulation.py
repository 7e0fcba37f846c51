"""The simulated city: the same in every run, in the feed's shape, and alive."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from bridge.demo.simulation import Simulation

TICKS = 120


class Trip(msgspec.Struct, forbid_unknown_fields=True):
    """As in the feed."""

    tripId: str  # noqa: N815 - the feed's name
    startDate: str  # noqa: N815
    routeId: str  # noqa: N815


class Place(msgspec.Struct, forbid_unknown_fields=True):
    """As in the feed."""

    latitude: float
    longitude: float


class Hardware(msgspec.Struct, forbid_unknown_fields=True):
    """As in the feed."""

    id: str
    label: str


class VehiclePosition(msgspec.Struct, forbid_unknown_fields=True):
    """As in the feed."""

    trip: Trip
    position: Place
    timestamp: str
    vehicle: Hardware


class Entity(msgspec.Struct, forbid_unknown_fields=True):
    """As in the feed."""

    id: str
    vehicle: VehiclePosition


@pytest.fixture(scope="module")
def snapshots() -> list[list[Entity]]:
    """What a consumer of the topic would decode."""
    simulation = Simulation(seed=1)
    return [msgspec.json.decode(msgspec.json.encode(simulation.snapshot(tick)), type=list[Entity]) for tick in range(TICKS)]


def test_a_seed_makes_the_same_city_in_any_order_of_ticks() -> None:
    first, second = Simulation(seed=7), Simulation(seed=7)
    forward = [first.snapshot(tick) for tick in range(20)]
    backward = [second.snapshot(tick) for tick in reversed(range(20))]
    assert forward == backward[::-1]
    assert Simulation(seed=8).snapshot(3) != forward[3]


def test_the_city_of_a_seed_stays_the_same_from_version_to_version() -> None:
    entity = next(item for item in Simulation(seed=1).snapshot(10) if item["id"] == "1430")
    assert entity == {
        "id": "1430",
        "vehicle": {
            "trip": {"tripId": "1333601", "startDate": "20251009", "routeId": "11432"},
            "position": {"latitude": 41.68305, "longitude": entity["vehicle"]["position"]["longitude"]},
            "timestamp": "1760000450",
            "vehicle": {"id": "2430", "label": "1430"},
        },
    }


def test_152_vehicles_with_their_own_ids(snapshots: list[list[Entity]]) -> None:
    for snapshot in snapshots:
        assert [entity.id for entity in snapshot] == [str(number) for number in range(1400, 1552)]


def test_they_stay_around_hartford_on_twelve_routes(snapshots: list[list[Entity]]) -> None:
    places = [entity.vehicle.position for snapshot in snapshots for entity in snapshot]
    assert all(41.6 < place.latitude < 41.9 and -72.9 < place.longitude < -72.4 for place in places)
    assert len({entity.vehicle.trip.routeId for entity in snapshots[0]}) == 12


def test_about_a_third_stands_still_and_its_entity_does_not_change(snapshots: list[list[Entity]]) -> None:
    for before, after in itertools.pairwise(snapshots):
        unchanged = sum(a == b for a, b in zip(before, after, strict=True)) / len(after)
        assert 0.2 < unchanged < 0.5


def test_who_moves_reports_a_newer_time_and_moves_like_a_bus(snapshots: list[list[Entity]]) -> None:
    movers = set()
    for before, after in itertools.pairwise(snapshots):
        for a, b in zip(before, after, strict=True):
            assert int(b.vehicle.timestamp) >= int(a.vehicle.timestamp)
            if a.vehicle.position != b.vehicle.position:
                movers.add(b.id)
                assert int(b.vehicle.timestamp) > int(a.vehicle.timestamp)
                # 5 simulated seconds: less than 150 m.
                assert abs(a.vehicle.position.latitude - b.vehicle.position.latitude) < 0.0014
                assert abs(a.vehicle.position.longitude - b.vehicle.position.longitude) < 0.0019
    assert len(movers) > 130


def test_a_vehicle_comes_back_on_a_new_trip() -> None:
    simulation = Simulation(seed=1, vehicles=5)
    trips = {snapshot[0]["vehicle"]["trip"]["tripId"] for snapshot in (simulation.snapshot(tick) for tick in range(0, 5000, 20))}
    assert len(trips) > 3


def test_other_sizes() -> None:
    assert len(Simulation(vehicles=1).snapshot(0)) == 1
    assert len(Simulation(vehicles=3000).snapshot(0)) == 3000
    with pytest.raises(ValueError, match="at least 1 vehicle"):
        Simulation(vehicles=0)
