"""Which of the operator's properties of librdkafka are for which of its clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

_V = TypeVar("_V")

_CONSUMER_ONLY = (
    "allow.auto.", "auto.", "check.crcs", "consume.", "coordinator.", "enable.auto", "enable.partition.eof", "fetch.", "group.",
    "heartbeat.", "isolation.", "max.partition.fetch", "max.poll", "partition.assignment", "queued.", "session.",
)  # fmt: skip
"""How their names begin: librdkafka warns of them in its other clients."""


def not_only_of_consumers(properties: Mapping[str, _V]) -> dict[str, _V]:
    """Those that a producer and the admin client take, too."""
    return {name: value for name, value in properties.items() if not name.startswith(_CONSUMER_ONLY)}
