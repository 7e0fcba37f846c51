"""What a pipeline has done so far, for the log and for metrics."""

from __future__ import annotations

from bridge.core.draft import OnError
from shared.bus.push import Outcome, Push, Pushed

_UNCHANGED = Outcome.UNCHANGED
"""Looking it up in the enumeration takes longer than what is done with it."""


class Tally:
    """Counts since the start. Written by the pipeline's thread; other threads may read it at any time."""

    def __init__(self) -> None:
        self.records = 0
        """Consumed."""
        self.record_bytes = 0
        """Bytes of their values."""
        self.tombstones = 0
        self.filtered = 0
        """Items that a `where` left out."""
        self.over_cap = 0
        """Items that would have made a route's channels too many (`max_channels`)."""
        self.restored = 0
        """Publications put back into a bus that lost its data."""
        self.routes: dict[str, RouteTally] = {}
        """By the names of routes; the counts of publications below are their sums."""
        self.problems: dict[tuple[str, OnError], int] = {}
        """Items or records that a route could not handle, by route."""
        self.bus_failures = 0
        """Calls to the bus that failed, to be tried again."""
        self.incarnations_lost = 0
        """Times that a shard turned out to have lost its data."""
        self.dead_letters: dict[str, int] = {}
        """Records put aside and acknowledged, by route."""
        self.dead_letter_failures = 0
        """Attempts to write one that failed."""
        self.commits = 0
        self.commit_failures = 0

    def __repr__(self) -> str:
        return f"<Tally {self.records} records, {self.publications} publications, saving {self.saving:.0%}>"

    def of(self, route: str) -> RouteTally:
        """The counts of a route."""
        found = self.routes.get(route)
        if found is None:
            # Another thread may be reading the old one.
            found = RouteTally()
            self.routes = {**self.routes, route: found}
        return found

    @property
    def full(self) -> int:
        """Publications that went out with their full payload."""
        return sum(route.full for route in self.routes.values())

    @property
    def deltas(self) -> int:
        """Publications that went out as deltas."""
        return sum(route.deltas for route in self.routes.values())

    @property
    def publications(self) -> int:
        """All that went out."""
        return sum(route.publications for route in self.routes.values())

    @property
    def skipped(self) -> int:
        """Drafts that equalled the newest payload of their channel, found here: no trip to the bus."""
        return sum(route.skipped for route in self.routes.values())

    @property
    def unchanged(self) -> int:
        """The same, found by the bus."""
        return sum(route.unchanged for route in self.routes.values())

    @property
    def stale(self) -> int:
        """Drafts whose version was not newer than that of their channel or key, found here or by the bus."""
        return sum(route.stale for route in self.routes.values())

    @property
    def repeated(self) -> int:
        """Drafts whose id was published within the window, found here or by the bus."""
        return sum(route.repeated for route in self.routes.values())

    @property
    def duplicates(self) -> int:
        """Pushes whose source the bus had seen already."""
        return sum(route.duplicates for route in self.routes.values())

    @property
    def failed(self) -> int:
        """Pushes that the bus refused for good."""
        return sum(route.failed for route in self.routes.values())

    @property
    def payload_bytes(self) -> int:
        """Of all publications, if each were full."""
        return sum(route.payload_bytes for route in self.routes.values())

    @property
    def sent_bytes(self) -> int:
        """Of all publications, as they were published."""
        return sum(route.sent_bytes for route in self.routes.values())

    @property
    def letters(self) -> int:
        """Records put aside, of all routes."""
        return sum(self.dead_letters.values())

    @property
    def saving(self) -> float:
        """The part of the bytes that deltas saved, 0 to 1."""
        return saving(self.payload_bytes, self.sent_bytes)


class RouteTally:
    """What became of one route's publications."""

    __slots__ = ("deltas", "duplicates", "failed", "full", "payload_bytes", "repeated", "sent_bytes", "skipped", "stale", "unchanged")

    def __init__(self) -> None:
        self.full = 0
        self.deltas = 0
        self.skipped = 0
        self.unchanged = 0
        self.stale = 0
        self.repeated = 0
        self.duplicates = 0
        self.failed = 0
        self.payload_bytes = 0
        self.sent_bytes = 0

    def __repr__(self) -> str:
        return f"<RouteTally {self.publications} publications, saving {saving(self.payload_bytes, self.sent_bytes):.0%}>"

    @property
    def publications(self) -> int:
        """All that went out."""
        return self.full + self.deltas

    def count(self, push: Push, pushed: Pushed) -> None:
        """Add one answer of the bus."""
        outcome = pushed.outcome
        if outcome is Outcome.DELTA:
            self.deltas += 1
            self.payload_bytes += len(push.payload)
            self.sent_bytes += len(push.delta)
        elif outcome is Outcome.FULL:
            self.full += 1
            self.payload_bytes += len(push.payload)
            self.sent_bytes += len(push.payload)
        elif outcome is Outcome.UNCHANGED:
            self.unchanged += 1
        elif outcome is Outcome.DUPLICATE:
            self.duplicates += 1
        elif outcome is Outcome.FAILED:
            self.failed += 1
        else:
            self.skip(outcome)

    def skip(self, outcome: Outcome) -> None:
        """Add a draft that was not pushed, because the bus would have answered so."""
        if outcome is _UNCHANGED:  # Nearly always, and often.
            self.skipped += 1
        elif outcome is Outcome.STALE:
            self.stale += 1
        elif outcome is Outcome.REPEATED:
            self.repeated += 1
        else:
            self.skipped += 1


def saving(payload_bytes: float, sent_bytes: float) -> float:
    """The part of the bytes that deltas saved, 0 to 1."""
    return 1 - sent_bytes / payload_bytes if payload_bytes else 0.0
