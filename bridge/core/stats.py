"""What an operator wants to see of a running bridge, made of its metrics: of one process, or of several workers together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from bridge.core.tally import saving

Sample = tuple[str, Mapping[str, str], float]
"""A metric's name, its labels and its value."""

_PREFIX = "distributary_bridge_"


class RouteStats(msgspec.Struct):
    """One route: publications and bytes since the start."""

    full: float = 0
    deltas: float = 0
    unchanged: float = 0
    payload_bytes: float = 0
    sent_bytes: float = 0

    @property
    def publications(self) -> float:
        """All that went out."""
        return self.full + self.deltas

    @property
    def saving(self) -> float:
        """The part of the bytes that deltas saved, 0 to 1."""
        return saving(self.payload_bytes, self.sent_bytes)


class Stats(msgspec.Struct):
    """Counts since the start, and how things are at this moment."""

    at_s: float
    """When they were read, in seconds that only go forward."""
    records: float = 0
    record_bytes: float = 0
    full: float = 0
    deltas: float = 0
    unchanged: float = 0
    duplicates: float = 0
    failed: float = 0
    payload_bytes: float = 0
    sent_bytes: float = 0
    problems: float = 0
    dead_letters: float = 0
    lag: float | None = None
    """None while it is not known."""
    halted: float = 0
    delta_cache_bytes: float = 0
    base_hits: float = 0
    base_misses: float = 0
    bus_is_up: bool = True
    kafka_is_up: bool = True
    rules_generation: float = 0
    rules_are_refused: bool = False
    workers: float | None = None
    """That work; None where there are none but the process itself."""
    restarts: float = 0
    cpu_s: float = 0
    memory_bytes: float = 0
    routes: dict[str, RouteStats] = {}

    @property
    def publications(self) -> float:
        """All that went out."""
        return self.full + self.deltas

    @property
    def saving(self) -> float:
        """The part of the bytes that deltas saved, 0 to 1."""
        return saving(self.payload_bytes, self.sent_bytes)

    @property
    def hit_rate(self) -> float:
        """The part of the publications whose base was in memory, 0 to 1."""
        bases = self.base_hits + self.base_misses
        return self.base_hits / bases if bases else 0.0


class Rates(msgspec.Struct, frozen=True):
    """Per second, between two moments; of routes, publications."""

    records: float
    record_bytes: float
    publications: float
    sent_bytes: float
    cpu: float
    """Processor cores in use."""
    routes: dict[str, float]


_SUMMED = {
    "records_total": "records",
    "record_bytes_total": "record_bytes",
    "payload_bytes_total": "payload_bytes",
    "sent_bytes_total": "sent_bytes",
    "problems_total": "problems",
    "dead_letters_total": "dead_letters",
    "halted_partitions": "halted",
    "delta_cache_bytes": "delta_cache_bytes",
    "worker_restarts_total": "restarts",
}
"""What is added up over workers and labels, and where."""
_OUTCOMES = {"full": "full", "delta": "deltas", "unchanged": "unchanged", "duplicate": "duplicates", "failed": "failed"}


def read(samples: Iterable[Sample], at_s: float) -> Stats:
    """The statistics in a collection of metrics. What is not there stays at its default."""
    stats = Stats(at_s)
    for full_name, labels, value in samples:
        if not full_name.startswith(_PREFIX):
            if full_name == "process_cpu_seconds_total":
                stats.cpu_s += value
            elif full_name == "process_resident_memory_bytes":
                stats.memory_bytes += value
            continue
        name = full_name.removeprefix(_PREFIX)
        if (summed := _SUMMED.get(name)) is not None:
            setattr(stats, summed, getattr(stats, summed) + value)
        elif name.startswith("route_"):
            _read_route(stats.routes.setdefault(labels["route"], RouteStats()), name, labels, value)
        else:
            _read_other(stats, name, labels, value)
    return stats


def rates(old: Stats, new: Stats) -> Rates:
    """How fast it goes. A worker that was replaced counts from nothing: never less than 0."""
    seconds = max(new.at_s - old.at_s, 1e-9)

    def rate(name: str) -> float:
        return max(0.0, (float(getattr(new, name)) - float(getattr(old, name))) / seconds)

    routes = {
        name: max(0.0, (route.publications - old.routes.get(name, RouteStats()).publications) / seconds)
        for name, route in new.routes.items()
    }
    return Rates(rate("records"), rate("record_bytes"), rate("publications"), rate("sent_bytes"), rate("cpu_s"), routes)


def _read_route(route: RouteStats, name: str, labels: Mapping[str, str], value: float) -> None:
    if name == "route_payload_bytes_total":
        route.payload_bytes += value
    elif name == "route_sent_bytes_total":
        route.sent_bytes += value
    elif name == "route_pushes_total" and (outcome := _OUTCOMES.get(labels["outcome"])) in {"full", "deltas", "unchanged"}:
        setattr(route, str(outcome), getattr(route, str(outcome)) + value)


def _read_other(stats: Stats, name: str, labels: Mapping[str, str], value: float) -> None:
    if name == "pushes_total" and (outcome := _OUTCOMES.get(labels["outcome"])) is not None:
        setattr(stats, outcome, getattr(stats, outcome) + value)
    elif name == "delta_bases_total":
        if labels["result"] == "hit":
            stats.base_hits += value
        else:
            stats.base_misses += value
    elif name == "lag_records":
        stats.lag = (stats.lag or 0) + value
    elif name == "bus_up":
        stats.bus_is_up = stats.bus_is_up and value > 0
    elif name == "kafka_up":
        stats.kafka_is_up = stats.kafka_is_up and value > 0
    elif name == "rules_generation":
        stats.rules_generation = max(stats.rules_generation, value)
    elif name == "rules_refused":
        stats.rules_are_refused = stats.rules_are_refused or value > 0
    elif name == "workers":
        stats.workers = value
