"""The pipeline's counts as Prometheus metrics. Read when somebody asks, so the hot path pays nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bridge.adapters.rules_file import RulesState
from bridge.core.record import Partition
from bridge.core.tally import RouteTally, Tally
from bridge.dead_letters import DeadLetterQueue


class Watched(Protocol):
    """What is shown of a pipeline."""

    tally: Tally
    halted: dict[Partition, str]
    lag: int | None
    waiting_for_schema: int
    letters: DeadLetterQueue | None

    @property
    def bus_away_since(self) -> float | None:
        """Since when the bus takes nothing."""


class Bases(Protocol):
    """What is shown of a delta chain."""

    hits: int
    misses: int

    @property
    def bytes_held(self) -> int:
        """What it holds."""


class PipelineCollector(Collector):
    """Register it with a prometheus_client registry."""

    def __init__(self, pipeline: Watched, *, bases: Bases, kafka_is_away: Callable[[], bool]) -> None:
        self._pipeline = pipeline
        self._bases = bases
        self._kafka_is_away = kafka_is_away

    def collect(self) -> Iterable[Metric]:
        """All metrics as they are now."""
        tally = self._pipeline.tally
        for name, text, value in (
            ("records", "Kafka records consumed", tally.records),
            ("record_bytes", "Bytes of their values", tally.record_bytes),
            ("tombstones", "Records without a value", tally.tombstones),
            ("filtered", "Items that a `where` left out", tally.filtered),
            ("over_channel_cap", "Items that would have made a route's channels too many", tally.over_cap),
            ("payload_bytes", "Bytes of all publications, if each were full", tally.payload_bytes),
            ("sent_bytes", "Bytes of all publications, as they were published", tally.sent_bytes),
            ("restored", "Publications put back into a bus that lost its data", tally.restored),
            ("bus_failures", "Calls to the bus that failed and were tried again", tally.bus_failures),
            ("incarnations_lost", "Times that a shard of the bus lost its data", tally.incarnations_lost),
            ("dead_letter_failures", "Attempts to write a dead letter that failed", tally.dead_letter_failures),
            ("commits", "Commits of Kafka offsets", tally.commits),
            ("commit_failures", "Commits that Kafka did not take", tally.commit_failures),
        ):
            yield CounterMetricFamily(f"distributary_bridge_{name}", text, value=value)
        yield self._pushes(tally)
        yield self._delta_bases()
        yield _problems(tally)
        yield _dead_letters(tally)
        yield from _by_route(tally)
        yield from self._gauges()

    def _pushes(self, tally: Tally) -> Metric:
        pushes = CounterMetricFamily("distributary_bridge_pushes", "What became of publications", labels=["outcome"])
        for outcome, value in _outcomes(tally):
            pushes.add_metric([outcome], value)
        return pushes

    def _delta_bases(self) -> Metric:
        bases = CounterMetricFamily(
            "distributary_bridge_delta_bases", "Publications by whether their base was in memory", labels=["result"]
        )
        bases.add_metric(["hit"], self._bases.hits)
        bases.add_metric(["miss"], self._bases.misses)
        return bases

    def _gauges(self) -> Iterable[Metric]:
        pipeline = self._pipeline
        for name, text, value in (
            ("bus_up", "1 while the bus takes publications", float(pipeline.bus_away_since is None)),
            ("kafka_up", "1 while a broker can be reached", float(not self._kafka_is_away())),
            ("halted_partitions", "Partitions that a problem halted", float(len(pipeline.halted))),
            ("schema_waiting_partitions", "Partitions that wait for a schema of the registry", float(pipeline.waiting_for_schema)),
            ("delta_cache_bytes", "Bytes that the delta chain holds", float(self._bases.bytes_held)),
        ):
            yield GaugeMetricFamily(f"distributary_bridge_{name}", text, value=value)
        if pipeline.letters is not None:
            yield GaugeMetricFamily(
                "distributary_bridge_dead_letters_waiting", "Dead letters that Kafka has not acknowledged", value=len(pipeline.letters)
            )
            up = float(pipeline.letters.away_since is None)
            yield GaugeMetricFamily("distributary_bridge_dead_letters_up", "1 while dead letters are taken", value=up)
        if pipeline.lag is not None:
            yield GaugeMetricFamily(
                "distributary_bridge_lag_records", "Records in our partitions that are not done, those in flight too", value=pipeline.lag
            )


class RulesCollector(Collector):
    """Which rules are in force, and since when."""

    def __init__(self, state: Callable[[], RulesState]) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """All metrics as they are now."""
        state = self._state()
        prefix = "distributary_bridge_rules"
        info = GaugeMetricFamily(f"{prefix}_info", "1; its label tells the content of the rules in force", labels=["digest"])
        info.add_metric([state.digest], 1)
        yield info
        yield GaugeMetricFamily(f"{prefix}_generation", "Rules in force: 1 are those of the start", value=state.generation)
        yield GaugeMetricFamily(f"{prefix}_refused", "1 while the rules file is refused", value=float(bool(state.problems)))
        yield GaugeMetricFamily(f"{prefix}_loaded_timestamp_seconds", "When rules were last loaded", value=state.loaded_at)
        yield GaugeMetricFamily(
            f"{prefix}_refused_timestamp_seconds", "When rules were last refused; 0: never", value=state.refused_at or 0
        )
        reloads = CounterMetricFamily(f"{prefix}_reloads", "Times that the rules file was read again", labels=["outcome"])
        reloads.add_metric(["ok"], state.reloads)
        reloads.add_metric(["refused"], state.refusals)
        yield reloads


def _dead_letters(tally: Tally) -> Metric:
    letters = CounterMetricFamily("distributary_bridge_dead_letters", "Records put aside and acknowledged", labels=["route"])
    for route, value in tuple(tally.dead_letters.items()):
        letters.add_metric([route], value)
    return letters


def _outcomes(counts: Tally | RouteTally) -> Iterable[tuple[str, int]]:
    return (
        ("full", counts.full),
        ("delta", counts.deltas),
        ("unchanged", counts.unchanged + counts.skipped),
        ("stale", counts.stale),
        ("repeated", counts.repeated),
        ("duplicate", counts.duplicates),
        ("failed", counts.failed),
    )


def _by_route(tally: Tally) -> Iterable[Metric]:
    """What each route published and saved: rate(sent_bytes) / rate(payload_bytes) is what is left of the bytes."""
    routes = tally.routes
    prefix = "distributary_bridge_route"
    publications = CounterMetricFamily(f"{prefix}_pushes", "What became of a route's publications", labels=["route", "outcome"])
    payload = CounterMetricFamily(f"{prefix}_payload_bytes", "Bytes of a route's publications, if each were full", labels=["route"])
    sent = CounterMetricFamily(f"{prefix}_sent_bytes", "Bytes of a route's publications, as they were published", labels=["route"])
    for name, route in routes.items():
        for outcome, value in _outcomes(route):
            publications.add_metric([name, outcome], value)
        payload.add_metric([name], route.payload_bytes)
        sent.add_metric([name], route.sent_bytes)
    return publications, payload, sent


def _problems(tally: Tally) -> Metric:
    problems = CounterMetricFamily(
        "distributary_bridge_problems", "Items or records that a route could not handle", labels=["route", "on_error"]
    )
    for (route, on_error), value in tuple(tally.problems.items()):
        problems.add_metric([route, on_error.value], value)
    return problems
