"""What parent and worker say to each other: orders on the worker's standard input, a line on its standard output when it has started."""

from __future__ import annotations

import msgspec

REFUSED = 3
"""Exit status of a worker that cannot be what it was told to be: no other would fare better."""


class WorkerStarted(msgspec.Struct, frozen=True):
    """What a worker tells its parent once it works."""

    internal_port: int | None
    """Where it is asked for health and metrics, on loopback."""


class WorkerState(msgspec.Struct, frozen=True):
    """What the parent knows of a worker without asking it."""

    index: int
    pid: int | None
    is_serving: bool
    internal_port: int | None
    restarts: int
