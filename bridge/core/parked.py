"""What is parked of a partition: made of its records already, and to be brought to the bus when what was refused before it is put aside."""

from __future__ import annotations

from typing import NamedTuple

from bridge.core.draft import Draft
from bridge.core.record import Record
from shared.bus.push import Source


class Made(NamedTuple):
    """A publication to be, as `Delivery.add` takes it."""

    draft: Draft
    source: Source
    time_ms: int


class Parked:
    """See the module."""

    def __init__(self) -> None:
        self.made: list[Made] = []
        """In the order of their records."""
        self.ends: list[Record] = []
        """The records that are done once all of these are on the bus."""

    def __repr__(self) -> str:
        return f"<Parked {len(self.made)} publications of {len(self.ends)} records>"
