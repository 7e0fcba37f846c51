"""Health and metrics of all workers at once. The parent asks each one on its own internal port; metrics get a label `worker`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from shared.workers.orders import WorkerState

ASK_TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 4_194_304

WorkerAnswer = tuple[int, bytes]
"""Status and body; 0 and nothing where a worker does not answer."""


async def ask_all(workers: Iterable[WorkerState], path: str) -> list[WorkerAnswer]:
    """GET from the internal port of each worker."""
    return await asyncio.gather(*(_ask(worker, path) for worker in workers))


async def _ask(worker: WorkerState, path: str) -> WorkerAnswer:
    if worker.internal_port is None:
        return 0, b""
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", worker.internal_port, limit=MAX_ANSWER_BYTES)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read(-1)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head[9:12] or 0), body


def health_of(state: WorkerState, answer: WorkerAnswer) -> dict[str, Any]:
    """What a worker says of itself, and what is known of it."""
    health: dict[str, Any] = {"worker": state.index, "pid": state.pid, "restarts": state.restarts}
    if not answer[0]:
        return health | {"status": "no answer" if state.is_serving else "starting"}
    answered: dict[str, Any] = msgspec.json.decode(answer[1])
    return health | answered


class MergedMetrics(Collector):
    """The workers' metrics, from their answers, and the parent's own: `PREFIX_workers`, `PREFIX_worker_restarts`."""

    def __init__(self, prefix: str, states: list[WorkerState], answers: list[WorkerAnswer]) -> None:
        self._prefix = prefix
        self._states = states
        self._texts = [text.decode() if status == 200 else "" for status, text in answers]

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        yield GaugeMetricFamily(f"{self._prefix}_workers", "Workers that serve.", sum(state.is_serving for state in self._states))
        restarts = CounterMetricFamily(f"{self._prefix}_worker_restarts", "Workers that died and were replaced.", labels=["worker"])
        for state in self._states:
            restarts.add_metric([str(state.index)], state.restarts)
        yield restarts
        families: dict[str, Metric] = {}
        for state, text in zip(self._states, self._texts, strict=True):
            for family in text_string_to_metric_families(text):
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.add_sample(sample.name, sample.labels | {"worker": str(state.index)}, sample.value)
        yield from families.values()
