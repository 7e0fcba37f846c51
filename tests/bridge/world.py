"""Kafka and a bus in memory, and bridges between them: what tests of the pipeline happen in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

from bridge.adapters.memory_bus import MemoryBus, MemoryServer
from bridge.adapters.memory_kafka import MemoryRecords, MemoryTopics
from bridge.core.chain import DeltaChain
from bridge.core.limits import PipelineSettings, Time
from bridge.core.record import Partition
from bridge.core.reload import Change, compare
from bridge.core.routing import Router
from bridge.core.ruleset import CompiledRules
from bridge.dead_letters import DeadLetterQueue
from bridge.pipeline import Pipeline
from bridge.ports import NewRules
from bridge.rules.load import parse_rules
from shared import envelope
from shared.bus.layout import BusLayout

RULES = b"""
version: 1
sources:
  - {name: vehicles, topics: [vehicles], format: json}
routes:
  - {name: each, source: vehicles, split: value, channel: "bus:{item.id}", kind: stream, history: {size: 10000, bytes: 100MB}}
  - {name: position, source: vehicles, split: value, channel: "position:{item.id}", project: item.at, kind: latest, only_changed: true}
"""
HALTING = RULES.replace(b"kind: stream", b"kind: stream, on_error: halt")
P, Q = ("vehicles", 0), ("vehicles", 1)


class KilledError(BaseException):
    """The process is gone, without a word."""


def die() -> None:
    raise KilledError


class Clock:
    """Time that passes only when somebody sleeps or a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s


class Handed:
    """A `bridge.ports.NewRules` that a test puts rules into."""

    def __init__(self, in_force: CompiledRules) -> None:
        self.in_force = in_force
        self.pending: CompiledRules | None = None
        self.refused: list[str] = []

    def take(self) -> Change | None:
        pending, self.pending = self.pending, None
        return compare(self.in_force, pending) if pending is not None else None

    def accept(self, change: Change) -> None:
        self.in_force = change.rules

    def refuse(self, problems: Sequence[str]) -> None:
        self.refused += problems


class World:
    """Kafka and a bus in memory, and bridges that come and go."""

    def __init__(self, rules: bytes = RULES, partitions: Iterable[Partition] = (P,)) -> None:
        self.topics = MemoryTopics()
        for partition in partitions:
            self.topics.records[partition] = []
        self.server = MemoryServer(BusLayout(shards=4))
        self.clock = Clock()
        self.rules = parse_rules(rules, "rules.yaml")
        self.produced: dict[str, list[object]] = {}
        self.is_stopping = False

    def produce(self, values: dict[str, int], partition: int = 0) -> None:
        """One record: vehicle id -> where it is."""
        items = [{"id": name, "at": at, "text": "the same in each of them"} for name, at in values.items()]
        count = sum(map(len, self.topics.records.values()))
        self.topics.produce("vehicles", json.dumps(items).encode(), partition=partition, time_ms=count)
        for item in items:
            self.produced.setdefault(f"bus:{item['id']}", []).append(item)

    def bridge(
        self,
        assign: Iterable[Partition] | None = None,
        *,
        settings: PipelineSettings | None = None,
        router: Router | None = None,
        records: MemoryRecords | None = None,
        letters: DeadLetterQueue | None = None,
        new_rules: NewRules | None = None,
    ) -> tuple[Pipeline, MemoryRecords]:
        """A new bridge that has joined the group, with nothing done yet."""
        records = records or MemoryRecords(self.topics, assign=assign)
        pipeline = Pipeline(
            records,
            MemoryBus(self.server),
            router or Router(self.rules),
            DeltaChain(shards=4, clock=self.clock.now, max_bytes=10**7),
            time=Time(self.clock.now, self.clock.sleep, lambda: 0.5),
            stop=lambda: self.is_stopping,
            settings=settings or PipelineSettings(max_push=7),
            letters=letters,
            new_rules=new_rules,
        )
        records.start(pipeline)
        return pipeline, records

    def during_wait(self, records: MemoryRecords, what: Callable[[], None], *, waits: int = 3) -> None:
        """Call `what` from within a later `consume`, as the pipeline waits for the bus."""

        def count_down(left: int) -> None:
            if left:
                records.pending.append(lambda: count_down(left - 1))
            else:
                what()

        count_down(waits)

    def lose_bus_in_flight(self, records: MemoryRecords, then: Callable[[], None], *, waits: int = 3) -> None:
        """The bus goes away just as the next records come, so that they are in flight; `then` is called while the pipeline waits."""

        def lose() -> None:
            self.server.away = True
            self.during_wait(records, then, waits=waits)

        records.pending.append(lose)

    def rebalance(self, records: MemoryRecords) -> None:
        """A partition goes, and comes back with the next `consume`."""
        records.pending += [lambda: records.revoke([P]), lambda: records.assign([P])]

    def come_back(self) -> None:
        self.server.away = False

    def published(self, channel: str) -> list[object]:
        """The values in the channel's history, checked to have no hole."""
        entries = [envelope.decode(entry) for entry in self.server.history(channel)]
        assert [entry.offset for entry in entries] == list(range(1, len(entries) + 1))
        return [json.loads(entry.body) for entry in entries]

    def check(self) -> None:
        """Everything that was produced was published exactly once and in order, and the newest position is the newest."""
        for channel, items in self.produced.items():
            assert self.published(channel) == items, channel
        for channel, items in self.produced.items():
            [*_, newest] = self.published(channel.replace("bus:", "position:"))
            assert newest == items[-1]["at"]  # type: ignore[index]


def steps(pipeline: Pipeline, world: World, count: int = 3) -> None:
    for _ in range(count):
        pipeline.step()
        world.clock.now_s += 0.5


def fleet(at: int) -> dict[str, int]:
    return {f"v{number}": at if number % 2 else 0 for number in range(10)}
