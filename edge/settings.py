"""How an edge is set up; validated at start, every problem at once."""

from __future__ import annotations

import msgspec

from edge.core.delivery import Policies
from edge.core.limits import Limits
from shared.bus.layout import DEFAULT_PREFIX
from shared.bus.servers import parse_servers
from shared.errors import ConfigurationError

DEFAULT_PORT = 8000
DEFAULT_INTERNAL_PORT = 9101
MAX_PORT = 65_535
MAX_WORKERS = 256


class Settings(msgspec.Struct, frozen=True):
    """Everything that `edge run` can be told."""

    bus: str
    bus_prefix: str = DEFAULT_PREFIX
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """0: any free one; the log says which."""
    internal_host: str = "127.0.0.1"
    internal_port: int = DEFAULT_INTERNAL_PORT
    """For health and metrics. 0: any free one; -1: none."""
    drain_s: float = 10.0
    """How long closing all connections may take after SIGTERM."""
    console: bool = False
    deflate: bool = False
    """Whether clients may have their frames compressed (permessage-deflate)."""
    workers: int = 1
    """Processes that share the port. With one there is no parent."""
    limits: Limits = Limits()
    policies: Policies = Policies()


class WorkerOrders(msgspec.Struct, frozen=True):
    """What the parent tells a worker."""

    settings: Settings
    index: int
    parent: int
    """The parent's process id."""
    log_format: str
    log_level: str


def check_settings(settings: Settings) -> None:
    """Raise ConfigurationError with every problem that there is."""
    problems: list[str] = []
    try:
        parse_servers(settings.bus)
    except ConfigurationError as error:
        problems += error.problems
    problems += [
        f"--{name}: {value} is no port; use 1 to {MAX_PORT}, or 0 for any free one"
        for name, value, least in (("port", settings.port, 0), ("internal-port", settings.internal_port, -1))
        if not least <= value <= MAX_PORT
    ]
    if settings.port == settings.internal_port and settings.port > 0:
        problems.append(f"--internal-port: {settings.internal_port} is --port too; health and metrics need a port of their own")
    limits = settings.limits
    problems += [
        f"--{name.replace('_', '-')}: {getattr(limits, name)} is too small; use at least {least}"
        for name, least in (
            ("max_connections", 1),
            ("max_connects_per_s", 0),
            ("max_subscriptions", 1),
            ("max_channels", 1),
            ("max_commands_per_s", 1),
            ("command_burst", 1),
            ("max_lookups_per_s", 0),
            ("max_frame_bytes", 1_024),
            ("max_recovery_items", 1),
            ("max_recovery_bytes", 1_024),
            ("max_outbox_bytes", 16_384),
            ("max_keys", 1),
            ("max_state_bytes", 1_024),
            ("max_all_state_bytes", 1_024),
            ("ping_interval_s", 1),
        )
        if getattr(limits, name) < least
    ]
    if not 1 <= settings.workers <= MAX_WORKERS:
        problems.append(f"--workers: {settings.workers} is not between 1 and {MAX_WORKERS}")
    if settings.drain_s < 0:
        problems.append(f"--drain-s: {settings.drain_s} is negative")
    if problems:
        raise ConfigurationError(problems)
