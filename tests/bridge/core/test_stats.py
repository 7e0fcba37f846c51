from __future__ import annotations

from bridge.adapters.memory_bus import MemoryBus, MemoryServer
from bridge.adapters.memory_kafka import MemoryRecords, MemoryTopics
from bridge.adapters.metrics import PipelineCollector
from bridge.core.chain import DeltaChain
from bridge.core.draft import OnError
from bridge.core.limits import Time
from bridge.core.routing import Router
from bridge.core.stats import Rates, Sample, Stats, rates, read
from bridge.pipeline import Pipeline
from bridge.rules.load import parse_rules

RULES = b"""
version: 1
sources: [{name: a, topics: [t]}]
routes: [{name: a, channel: a}]
"""


class Bases:
    hits, misses, bytes_held = 3, 1, 1000


def samples(pipeline: Pipeline, **labels: str) -> list[Sample]:
    """What a scrape of this pipeline gives."""
    collector = PipelineCollector(pipeline, bases=Bases(), kafka_is_away=lambda: False)
    return [(sample.name, sample.labels | labels, sample.value) for family in collector.collect() for sample in family.samples]


def busy() -> Pipeline:
    chain = DeltaChain(shards=1, clock=lambda: 0.0, max_bytes=1000)
    time = Time(lambda: 0.0, lambda _: None, lambda: 0.5)
    router = Router(parse_rules(RULES, "rules.yaml"))
    pipeline = Pipeline(MemoryRecords(MemoryTopics()), MemoryBus(MemoryServer()), router, chain, time=time, stop=lambda: True)
    pipeline.lag = 7
    tally = pipeline.tally
    tally.records, tally.record_bytes = 10, 1000
    for name, full, deltas in (("a", 1, 3), ("b", 2, 0)):
        route = tally.of(name)
        route.full, route.deltas, route.unchanged, route.payload_bytes, route.sent_bytes = full, deltas, 5, 400, 100
    tally.problems["a", OnError.SKIP] = 2
    tally.dead_letters["b"] = 3
    pipeline.halted["t", 0] = "why"
    return pipeline


def test_everything_is_read_from_the_metrics_of_one_process():
    stats = read(samples(busy()), 1.0)
    assert (stats.records, stats.record_bytes, stats.publications, stats.unchanged) == (10, 1000, 6, 10)
    assert (stats.problems, stats.dead_letters, stats.halted, stats.lag, stats.delta_cache_bytes) == (2, 3, 1, 7, 1000)
    assert stats.saving == 0.75
    assert stats.hit_rate == 0.75
    assert stats.bus_is_up
    assert stats.kafka_is_up
    assert stats.workers is None
    assert {name: (route.publications, route.saving) for name, route in stats.routes.items()} == {"a": (4, 0.75), "b": (2, 0.75)}


def test_workers_are_added_up_and_one_that_lacks_the_bus_shows():
    away = busy()
    away._delivery.away_since = 1.0
    found = [*samples(busy(), worker="0"), *samples(away, worker="1"), ("distributary_bridge_workers", {}, 2.0)]
    stats = read(found, 1.0)
    assert (stats.records, stats.publications, stats.lag, stats.halted, stats.workers) == (20, 12, 14, 2, 2)
    assert not stats.bus_is_up
    assert stats.routes["a"].publications == 8
    assert (stats.base_hits, stats.base_misses) == (6, 2)


def test_without_a_lag_it_is_unknown_and_not_0():
    pipeline = busy()
    pipeline.lag = None
    assert read(samples(pipeline), 1.0).lag is None


def test_rates_are_between_two_moments_and_never_negative():
    pipeline = busy()
    old = read(samples(pipeline), 10.0)
    pipeline.tally.records += 20
    pipeline.tally.of("a").deltas += 4
    new = read([*samples(pipeline), ("process_cpu_seconds_total", {}, 1.0)], 12.0)
    speed = rates(old, new)
    assert (speed.records, speed.publications, speed.routes, speed.cpu) == (10, 2, {"a": 2, "b": 0}, 0.5)
    assert rates(new, Stats(13.0)) == Rates(0, 0, 0, 0, 0, {}), "a worker was replaced"
