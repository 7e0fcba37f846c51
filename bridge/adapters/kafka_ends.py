"""Where partitions end that are held back: Kafka's client learns a partition's end only as it fetches, so here it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import OFFSET_INVALID, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from bridge.core.record import Partition

_INTERVAL_S = 2.0
"""Between two questions."""
_ANSWER_S = 5.0


class HeldEnds:
    """Asks without ever waiting: what comes later is known at one of the next calls. `clock` tells seconds that only go forward."""

    def __init__(self, admin: AdminClient, *, clock: Callable[[], float]) -> None:
        self._admin: AdminClient | None = admin
        self._clock = clock
        self._ends: dict[Partition, int] = {}
        self._asked: dict[TopicPartition, Future[Any]] = {}
        self._next_question = 0.0

    def __repr__(self) -> str:
        return f"<HeldEnds {len(self._ends)} known, {len(self._asked)} asked>"

    def look(self, partitions: Iterable[Partition]) -> None:
        """Take answers in, and from time to time ask for the ends of these."""
        if self._asked:
            self._collect()
        if self._asked or self._admin is None or self._clock() < self._next_question:
            return
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        wanted = {TopicPartition(*partition): latest for partition in partitions}
        if wanted:
            self._next_question = self._clock() + _INTERVAL_S
            self._asked = self._admin.list_offsets(wanted, request_timeout=_ANSWER_S)

    def of(self, partition: Partition) -> int:
        """The kafka offset behind a partition's last record, as far as it was asked for; negative where it is not known."""
        return self._ends.get(partition, OFFSET_INVALID)

    def forget(self, partition: Partition) -> None:
        """What is known of it may be wrong."""
        self._ends.pop(partition, None)

    def close(self) -> None:
        """Ask no more."""
        self._asked.clear()
        self._admin = None

    def _collect(self) -> None:
        if not all(future.done() for future in self._asked.values()):
            return
        asked, self._asked = self._asked, {}
        for place, future in asked.items():
            if future.exception() is None:  # Else it is asked for again.
                self._ends[place.topic, place.partition] = future.result().offset
