"""The pipeline's bounds and intervals, and the time and chance that it is given."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class PipelineSettings(msgspec.Struct, frozen=True):
    """Bounds and intervals."""

    max_batch_records: int = 500
    max_batch_bytes: int = 8_388_608
    """Of record values in one batch, about; and of payloads and deltas in one push."""
    max_push: int = 2000
    """Publications in one push."""
    poll_s: float = 0.05
    commit_interval_s: float = 1.0
    beat_interval_s: float = 1.0
    report_interval_s: float = 60.0
    revoke_timeout_s: float = 10.0
    """For what was begun when partitions are revoked."""
    stop_timeout_s: float = 10.0
    """For what was begun when the process is told to stop."""
    schema_retry_s: float = 0.25
    """Between two attempts to read records whose schema could not be had; how often the registry is asked is its client's business."""
    first_backoff_s: float = 0.1
    most_backoff_s: float = 2.0


class Time(msgspec.Struct, frozen=True):
    """Time and chance, passed in."""

    now: Callable[[], float]
    """Seconds that only go forward."""
    sleep: Callable[[float], None]
    random: Callable[[], float]
    """From 0 to 1."""
