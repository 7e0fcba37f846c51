"""A city's buses, made from a seed: the demo's data, in the shape of CTtransit's GTFS-realtime vehicle feed.

Pure: a snapshot depends on (seed, number of vehicles, tick) and on nothing else, and any tick can be asked for without the
ones before it. Every vehicle shuttles along one of twelve invented routes around Hartford; between two stops it runs, at a stop
it dwells, at a terminal it rests. While it stands, its entity does not change, its timestamp included, as in real feeds.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from math import cos, hypot, radians
from random import Random
from struct import pack, unpack
from typing import Any

import msgspec

DEFAULT_VEHICLES = 152
FIRST_ID = 1400
START_S = 1_760_000_400
"""The simulated clock at tick 0, in seconds since 1970."""
START_DATE = "20251009"
TICK_S = 5
"""Simulated seconds a tick: the demo sends a tick a second, so that movement shows on a map of a whole city."""

_METRES_A_DEGREE = 111_320.0
_LATITUDE = 41.765
_POINTS_A_CURVE = 16
_PARKED_SHARE = 0.03

# (route id, control points as (latitude, longitude)); the polylines are Catmull-Rom curves through them.
_ROUTES: tuple[tuple[str, tuple[tuple[float, float], ...]], ...] = (
    ("11401", (
        (41.7670, -72.6735), (41.7672, -72.6920), (41.7640, -72.7130), (41.7622, -72.7420), (41.7585, -72.7700), (41.7480, -72.7980),
    )),
    ("11403", (
        (41.7680, -72.6742), (41.7775, -72.6900), (41.7872, -72.7065), (41.8010, -72.7180), (41.8190, -72.7290), (41.8330, -72.7480),
    )),
    ("11407", (
        (41.7662, -72.6720), (41.7790, -72.6765), (41.7950, -72.6820), (41.8110, -72.6790), (41.8330, -72.6650), (41.8520, -72.6450),
    )),
    ("11411", (
        (41.7655, -72.6738), (41.7610, -72.6860), (41.7555, -72.7020), (41.7430, -72.7150), (41.7250, -72.7330), (41.7060, -72.7620),
    )),
    ("11416", (
        (41.7650, -72.6728), (41.7525, -72.6750), (41.7370, -72.6790), (41.7180, -72.6720), (41.7010, -72.6560), (41.6830, -72.6500),
    )),
    ("11419", (
        (41.7645, -72.6745), (41.7490, -72.6830), (41.7320, -72.6930), (41.7130, -72.7120), (41.6930, -72.7240), (41.6720, -72.7390),
    )),
    ("11423", (
        (41.7668, -72.6700), (41.7690, -72.6480), (41.7765, -72.6250), (41.7790, -72.5980), (41.7850, -72.5680), (41.7990, -72.5420),
    )),
    ("11428", (
        (41.7660, -72.6705), (41.7600, -72.6430), (41.7575, -72.6120), (41.7660, -72.5760), (41.7740, -72.5350), (41.7800, -72.5010),
    )),
    ("11432", (
        (41.7652, -72.6710), (41.7510, -72.6380), (41.7330, -72.6190), (41.7120, -72.6080), (41.6940, -72.5960), (41.6750, -72.5730),
    )),
    ("11437", (
        (41.7020, -72.7200), (41.7230, -72.7420), (41.7450, -72.7450), (41.7690, -72.7360), (41.7930, -72.7200), (41.8060, -72.6890),
    )),
    ("11441", (
        (41.7900, -72.7060), (41.7830, -72.6740), (41.7760, -72.6420), (41.7570, -72.6330), (41.7390, -72.6510), (41.7330, -72.6850),
    )),
    ("11446", (
        (41.8330, -72.7480), (41.8460, -72.7100), (41.8520, -72.6450), (41.8380, -72.6060), (41.8110, -72.5760), (41.7850, -72.5680),
    )),
)  # fmt: skip


class _Leg(msgspec.Struct, frozen=True):
    """From second `start_s` of a vehicle's round on: from `from_m` to `to_m` along its route, or standing where both are equal."""

    start_s: float
    from_m: float
    to_m: float


class _Route(msgspec.Struct, frozen=True):
    """A polyline: `points[i]` is `metres[i]` from its start."""

    id: str
    points: tuple[tuple[float, float], ...]
    metres: tuple[float, ...]

    @property
    def length_m(self) -> float:
        return self.metres[-1]

    def at(self, metres: float) -> tuple[float, float]:
        """Latitude and longitude `metres` along the route."""
        index = min(max(bisect_right(self.metres, metres), 1), len(self.metres) - 1)
        start, end = self.metres[index - 1], self.metres[index]
        share = (metres - start) / (end - start)
        (lat_a, long_a), (lat_b, long_b) = self.points[index - 1], self.points[index]
        return lat_a + (lat_b - lat_a) * share, long_a + (long_b - long_a) * share


class _Vehicle(msgspec.Struct, frozen=True):
    """One bus: its route, its round there and back as legs, and where in its round it is at tick 0."""

    id: str
    hardware_id: str
    route: _Route
    legs: tuple[_Leg, ...]
    round_s: float
    phase_s: float
    first_trip: int
    back_s: float
    """Where in the round the way back, a trip of its own, begins."""


class Simulation:
    """The vehicles of one seed."""

    def __init__(self, seed: int = 1, vehicles: int = DEFAULT_VEHICLES) -> None:
        """Make `vehicles` buses from `seed`. The same arguments make the same city, on every machine and in every run."""
        if vehicles < 1:
            msg = f"a simulation needs at least 1 vehicle, not {vehicles}"
            raise ValueError(msg)
        self._seed = seed
        random = Random(seed)  # noqa: S311 - buses, not secrets
        routes = [_make_route(route_id, controls) for route_id, controls in _ROUTES]
        # Long routes get more buses: the same headway everywhere.
        weights = [route.length_m for route in routes]
        self._vehicles = [_make_vehicle(FIRST_ID + n, random.choices(routes, weights)[0], random) for n in range(vehicles)]

    def __repr__(self) -> str:
        """Seed and size."""
        return f"Simulation(seed={self._seed}, vehicles={len(self._vehicles)})"

    def snapshot(self, tick: int) -> list[dict[str, Any]]:
        """Every vehicle at `tick`, in the order of their ids, ready for a JSON encoder."""
        return [_entity(vehicle, tick) for vehicle in self._vehicles]


def _make_route(route_id: str, controls: tuple[tuple[float, float], ...]) -> _Route:
    points = _curve_through(controls)
    metres = [0.0]
    for before, after in itertools.pairwise(points):
        metres.append(metres[-1] + _distance_m(before, after))
    return _Route(route_id, tuple(points), tuple(metres))


def _curve_through(controls: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    """A Catmull-Rom curve; its first and last control points are doubled, so that it starts and ends on them."""
    padded = (controls[0], *controls, controls[-1])
    points = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for step in range(_POINTS_A_CURVE):
            t = step / _POINTS_A_CURVE
            points.append((_spline(a[0], b[0], c[0], d[0], t), _spline(a[1], b[1], c[1], d[1], t)))
    points.append(controls[-1])
    return points


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t * t + (3 * b - a - 3 * c + d) * t * t * t)


def _distance_m(a: tuple[float, float], b: tuple[float, float]) -> float:
    return hypot(a[0] - b[0], (a[1] - b[1]) * cos(radians(_LATITUDE))) * _METRES_A_DEGREE


def _make_vehicle(number: int, route: _Route, random: Random) -> _Vehicle:
    is_parked = random.random() < _PARKED_SHARE
    hardware_id, first_trip = str(number + 1000), 1_260_000 + random.randrange(90_000)
    if is_parked:
        spot_m = random.choice([0.0, route.length_m])
        return _Vehicle(str(number), hardware_id, route, (_Leg(0.0, spot_m, spot_m),), 1.0, 0.0, first_trip, 1.0)
    out, out_s = _one_way(route.length_m, 0.0, random)
    back, end_s = _one_way(route.length_m, out_s, random)
    mirrored = [_Leg(leg.start_s, route.length_m - leg.from_m, route.length_m - leg.to_m) for leg in back]
    phase_s = random.random() * end_s
    return _Vehicle(str(number), hardware_id, route, (*out, *mirrored), end_s, phase_s, first_trip, out_s)


def _one_way(length_m: float, start_s: float, random: Random) -> tuple[list[_Leg], float]:
    """Legs from one end to the other, a rest at the end included, and the second in which they end."""
    legs, now_s, here_m = [], start_s, 0.0
    speed_m_s = random.uniform(8.0, 13.0)
    while here_m < length_m:
        next_m = here_m + random.uniform(450.0, 900.0)
        if next_m > length_m - 300.0:
            next_m = length_m
        legs.append(_Leg(now_s, here_m, next_m))
        now_s += (next_m - here_m) / speed_m_s
        legs.append(_Leg(now_s, next_m, next_m))
        now_s += random.uniform(10.0, 30.0) if next_m < length_m else random.uniform(120.0, 420.0)
        here_m = next_m
    return legs, now_s


def _entity(vehicle: _Vehicle, tick: int) -> dict[str, Any]:
    metres, changed_tick, trip = _state(vehicle, tick)
    latitude, longitude = vehicle.route.at(metres)
    return {
        "id": vehicle.id,
        "vehicle": {
            "trip": {"tripId": str(trip), "startDate": START_DATE, "routeId": vehicle.route.id},
            "position": {"latitude": _as_float32(latitude), "longitude": _as_float32(longitude)},
            # A string: protobuf's JSON mapping writes 64-bit integers so.
            "timestamp": str(START_S + changed_tick * TICK_S),
            "vehicle": {"id": vehicle.hardware_id, "label": vehicle.id},
        },
    }


def _state(vehicle: _Vehicle, tick: int) -> tuple[float, int, int]:
    """Metres along the route, the tick in which the vehicle last reported something new, and its trip."""
    if len(vehicle.legs) == 1:
        return vehicle.legs[0].from_m, 0, vehicle.first_trip
    elapsed_s = vehicle.phase_s + tick * TICK_S
    rounds, second = divmod(elapsed_s, vehicle.round_s)
    leg, end_s = _leg_at(vehicle, second)
    trip = vehicle.first_trip + 2 * int(rounds) + (second >= vehicle.back_s)
    if leg.from_m == leg.to_m:
        # The first tick at or after the moment in which it stopped: the last in which something changed.
        return leg.from_m, max(tick - int((second - leg.start_s) // TICK_S), 0), trip
    share = (second - leg.start_s) / (end_s - leg.start_s)
    eased = share * share * (3 - 2 * share)
    return leg.from_m + (leg.to_m - leg.from_m) * eased, tick, trip


def _leg_at(vehicle: _Vehicle, second: float) -> tuple[_Leg, float]:
    """The leg in which `second` of the round falls, and the second in which it ends."""
    index = bisect_right(vehicle.legs, second, key=lambda leg: leg.start_s) - 1
    is_last = index + 1 == len(vehicle.legs)
    return vehicle.legs[index], vehicle.round_s if is_last else vehicle.legs[index + 1].start_s


def _as_float32(value: float) -> float:
    """The shortest decimal that is the same 32-bit float: GTFS-realtime has no better, and protobuf prints it so."""
    single = pack("f", value)
    for digits in range(6, 9):
        shorter = float(f"{value:.{digits}g}")
        if pack("f", shorter) == single:
            return shorter
    return float(f"{unpack('f', single)[0]:.9g}")
