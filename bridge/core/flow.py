"""Flow: which partitions are held back, and why. A partition flows only when no reason holds it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from bridge.core.record import Partition


class Hold(StrEnum):
    """Why a partition is held back."""

    BUS_AWAY = "bus-away"
    """The bus takes nothing: Kafka keeps the records."""
    HALTED = "halted"
    """A record that a route cannot handle, and the route says `on_error: halt`."""
    DEAD_LETTERS = "dead-letters"
    """Dead letters of it are not acknowledged, and there is no room for more or their topic does not take them."""
    REFUSED = "refused"
    """The bus refused a publication of it for good, and its dead letter is not acknowledged."""
    UNSUBSCRIBED = "unsubscribed"
    """The rules read its topic no more, and Kafka has not taken it away yet."""
    SCHEMA_AWAY = "schema-away"
    """A record waits for its schema: the schema registry is away."""
    UNIDENTIFIED = "unidentified"
    """Its topic's id is not known yet, and without it a record processed again would be published again."""


class Flow:
    """The assigned partitions, each with the reasons that hold it back."""

    def __init__(self) -> None:
        self._reasons: dict[Partition, set[Hold]] = {}

    def __repr__(self) -> str:
        held = {f"{topic}[{partition}]": sorted(reasons) for (topic, partition), reasons in self._reasons.items() if reasons}
        return f"<Flow {len(self._reasons)} partitions, held: {held or 'none'}>"

    def __len__(self) -> int:
        """How many are ours."""
        return len(self._reasons)

    @property
    def assigned(self) -> frozenset[Partition]:
        """All that are ours."""
        return frozenset(self._reasons)

    def owns(self, partition: Partition) -> bool:
        """Whether it is ours."""
        return partition in self._reasons

    def is_held(self, partition: Partition) -> bool:
        """Whether any reason holds it back."""
        return bool(self._reasons.get(partition))

    def held(self, reason: Hold) -> list[Partition]:
        """Those that `reason` holds back, in order."""
        return sorted(partition for partition, reasons in self._reasons.items() if reason in reasons)

    def assign(self, partitions: Iterable[Partition]) -> None:
        """They became ours; nothing holds them."""
        for partition in partitions:
            self._reasons[partition] = set()

    def drop(self, partitions: Iterable[Partition]) -> None:
        """They are ours no more."""
        for partition in partitions:
            self._reasons.pop(partition, None)

    def hold(self, partitions: Iterable[Partition], reason: Hold) -> list[Partition]:
        """Hold them back. Returns those that flowed until now, to be paused."""
        return [partition for partition in partitions if self._add(partition, reason)]

    def release(self, partitions: Iterable[Partition], reason: Hold) -> list[Partition]:
        """Take one reason away. Returns those that flow now, to be resumed."""
        return [partition for partition in partitions if self._remove(partition, reason)]

    def _add(self, partition: Partition, reason: Hold) -> bool:
        reasons = self._reasons.get(partition)
        if reasons is None:
            return False
        flowed = not reasons
        reasons.add(reason)
        return flowed

    def _remove(self, partition: Partition, reason: Hold) -> bool:
        reasons = self._reasons.get(partition)
        if reasons is None or reason not in reasons:
            return False
        reasons.remove(reason)
        return not reasons
