"""Every error that Distributary raises on purpose.

    DistributaryError
    +-- ConfigurationError     the operator's: settings or rules; the process does not start
    +-- ChannelError           whoever chose the name: it is not a channel name
    +-- EnvelopeError          whoever wrote to the bus: bytes that are no envelope
    +-- DeltaError             whoever made the delta: it is damaged or meant for another base
    +-- BusError
        +-- BusUnavailableError    nobody's: try again later, nothing was lost
        +-- IncarnationError       the bus lost data or was replaced: open it again, then try again
        +-- BusLayoutError         the operator's: this process is set up otherwise than the bus

Each says whose fault it is and whether to try again; the message says where and what to do.
"""

from __future__ import annotations


class DistributaryError(Exception):
    """Base of all errors raised on purpose."""


class ConfigurationError(DistributaryError):
    """The operator's settings or rules are wrong. `problems` holds every one found, not only the first."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ChannelError(DistributaryError, ValueError):
    """A string is not a channel name (docs/protocol.md, section "Channels")."""


class EnvelopeError(DistributaryError, ValueError):
    """Bytes from the bus are not an envelope that this version reads."""


class DeltaError(DistributaryError, ValueError):
    """A delta is damaged, too large, or was not made for this base."""


class BusError(DistributaryError):
    """Something about the bus."""


class BusUnavailableError(BusError):
    """The bus is away, full, or too slow. Nothing was lost: try the same again later."""


class IncarnationError(BusError):
    """Some shards have another incarnation than the caller believes: their data was lost, restored or replaced."""

    def __init__(self, shards: list[int]) -> None:
        super().__init__(f"the bus lost or replaced the data of shards {shards}")
        self.shards = shards


class BusLayoutError(BusError):
    """The bus has another layout (version, shards, servers) than this process was told."""
