"""What a pipeline has done so far, for the log and for metrics."""

from __future__ import annotations

from bridge.core.draft import OnError
from shared.bus.push import Outcome, Push, Pushed


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
        self.full = 0
        """Publications that went out with their full payload."""
        self.deltas = 0
        """Publications that went out as deltas."""
        self.skipped = 0
        """Drafts that equalled the newest payload of their channel, found here: no trip to the bus."""
        self.unchanged = 0
        """The same, found by the bus."""
        self.duplicates = 0
        """Pushes whose source the bus had seen already."""
        self.failed = 0
        """Pushes that the bus refused for good."""
        self.restored = 0
        """Publications put back into a bus that lost its data."""
        self.payload_bytes = 0
        """Of all publications, if each were full."""
        self.sent_bytes = 0
        """Of all publications, as they were published."""
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

    @property
    def publications(self) -> int:
        """All that went out."""
        return self.full + self.deltas

    @property
    def saving(self) -> float:
        """The part of the bytes that deltas saved, 0 to 1."""
        return 1 - self.sent_bytes / self.payload_bytes if self.payload_bytes else 0.0

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
        else:
            self.failed += 1
