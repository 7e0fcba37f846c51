"""What an operator sets for `bridge run`: checked as a whole, every problem told at once, secrets never shown."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import msgspec

from shared.bus.layout import DEFAULT_PREFIX, DEFAULT_SHARDS, MAX_SHARDS, BusLayout
from shared.bus.servers import is_cluster, parse_servers, redacted
from shared.errors import ConfigurationError

DEFAULT_GROUP = "distributary"
DEFAULT_INTERNAL_PORT = 9100
DEFAULT_DELTA_CACHE_BYTES = 268_435_456
MAX_BATCH_RECORDS = 100_000
MAX_WORKERS = 256
MAX_PROPERTIES_BYTES = 1_048_576

OWN_PROPERTIES = {
    "bootstrap.servers": "it is --bootstrap-servers",
    "metadata.broker.list": "it is --bootstrap-servers",
    "group.id": "it is --group",
    "auto.offset.reset": "it is --from",
    "enable.auto.commit": "offsets are committed when their publications are on the bus",
    "enable.auto.offset.store": "offsets are committed when their publications are on the bus",
    "partition.assignment.strategy": "rebalances are cooperative",
    "group.protocol": "rebalances are those of the classic protocol",
    "enable.idempotence": "dead letters are written once and for sure",
    "acks": "dead letters are written once and for sure",
    "request.required.acks": "dead letters are written once and for sure",
    "transactional.id": "only `bridge dead-letters replay` uses transactions",
    "enable.partition.eof": "the end of a partition is no event to the bridge",
}
"""Properties of Kafka's client that the bridge sets itself, and why an operator may not."""

_SECRET_PARTS = ("password", "secret", "token", "jaas", "key.pem", "oauthbearer.config")


class StartFrom(StrEnum):
    """Where to begin in partitions for which the group has committed no offset (or one that Kafka no longer has)."""

    EARLIEST = "earliest"
    LATEST = "latest"


class BridgeSettings(msgspec.Struct, frozen=True):
    """All settings of `bridge run`. `check_settings` says whether they make sense."""

    rules: Path
    bootstrap_servers: str
    bus: str
    group: str = DEFAULT_GROUP
    bus_prefix: str = DEFAULT_PREFIX
    bus_shards: int = DEFAULT_SHARDS
    start_from: StartFrom = StartFrom.EARLIEST
    kafka_properties: dict[str, str] = {}
    internal_host: str = "127.0.0.1"
    internal_port: int | None = DEFAULT_INTERNAL_PORT
    """0 is any free port; None is none."""
    delta_cache_bytes: int = DEFAULT_DELTA_CACHE_BYTES
    commit_interval_s: float = 1.0
    max_batch_records: int = 500
    report_interval_s: float = 60.0
    """Between two lines in the log that tell the progress."""
    workers: int = 1
    """Processes, each a member of the group. With one there is no parent."""

    @property
    def bus_servers(self) -> list[str]:
        """The URLs of the bus' servers."""
        return parse_servers(self.bus)

    @property
    def bus_layout(self) -> BusLayout:
        """The layout that the bus must have."""
        cluster = is_cluster(self.bus_servers)
        return BusLayout(self.bus_shards, 1 if cluster else len(self.bus_servers), self.bus_prefix, cluster)

    def shown(self) -> dict[str, str | int | float]:
        """What a log may tell of it."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "group": self.group,
            "from": self.start_from.value,
            "bus": ",".join(redacted(url) for url in self.bus_servers),
            "bus_prefix": self.bus_prefix,
            "bus_shards": self.bus_shards,
            "kafka_properties": ",".join(f"{name}={_shown(name, value)}" for name, value in sorted(self.kafka_properties.items()))
            or "none",
        }


class WorkerOrders(msgspec.Struct, frozen=True):
    """What the parent tells a worker."""

    settings: BridgeSettings
    index: int
    parent: int
    """The parent's process id."""
    log_format: str
    log_level: str


def encode_orders(orders: WorkerOrders) -> bytes:
    """For the worker's standard input."""
    return msgspec.json.encode(orders, enc_hook=str)


def decode_orders(data: bytes) -> WorkerOrders:
    """What `encode_orders` made."""
    return msgspec.json.decode(data, type=WorkerOrders, dec_hook=lambda type_, value: type_(value))


def check_settings(settings: BridgeSettings) -> None:
    """Raise ConfigurationError with every problem, in the words of the command line."""
    problems = []
    if not all(server.strip() for server in settings.bootstrap_servers.split(",")):
        problems.append(
            f"--bootstrap-servers: {settings.bootstrap_servers!r} is not a list of HOST:PORT; it looks like kafka-1:9092,kafka-2:9092"
        )
    if not settings.group:
        problems.append("--group: must not be empty")
    servers = 1
    try:
        servers = settings.bus_layout.servers
    except ConfigurationError as error:
        problems += error.problems
    problems += _layout_problems(settings, servers)
    problems += [
        f"Kafka property {name}: the bridge sets it itself: {why}"
        for name, why in OWN_PROPERTIES.items()
        if name in settings.kafka_properties
    ]
    problems += _range_problems(settings)
    if problems:
        raise ConfigurationError(problems)


def read_properties(file: Path | None, pairs: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The properties in `file` (lines NAME=VALUE; `#` begins a comment), then those in `pairs`, which win; and every problem.

    A problem never tells a value: it may be a password.
    """
    problems: list[str] = []
    found: dict[str, str] = {}
    if file is not None:
        for where, line in _lines(file, problems):
            _read_pair(line, where, found, problems)
    for number, pair in enumerate(pairs, 1):
        _read_pair(pair, f"--kafka-property (number {number})", found, problems)
    return found, problems


def _layout_problems(settings: BridgeSettings, servers: int) -> list[str]:
    problems = []
    if 1 <= settings.bus_shards < servers:
        problems.append(f"--bus-shards: {settings.bus_shards} shards leave some of the {servers} servers without any")
    if not settings.bus_prefix or any(character in settings.bus_prefix for character in "{} \t\n"):
        problems.append(f"--bus-prefix: {settings.bus_prefix!r} must not be empty nor hold braces or white space")
    return problems


def _range_problems(settings: BridgeSettings) -> list[str]:
    checks = [
        (settings.internal_port is None or 0 <= settings.internal_port <= 65_535, "--internal-port: is from 0 to 65535, or `none`"),
        (1 <= settings.bus_shards <= MAX_SHARDS, f"--bus-shards: is from 1 to {MAX_SHARDS}"),
        (settings.delta_cache_bytes >= 0, "--delta-cache-bytes: must not be negative"),
        (0 < settings.commit_interval_s <= 300, "--commit-interval-s: is more than 0 and at most 300"),
        (1 <= settings.max_batch_records <= MAX_BATCH_RECORDS, f"--max-batch-records: is from 1 to {MAX_BATCH_RECORDS}"),
        (1 <= settings.workers <= MAX_WORKERS, f"--workers: is from 1 to {MAX_WORKERS}"),
    ]
    return [problem for is_right, problem in checks if not is_right]


def _lines(file: Path, problems: list[str]) -> list[tuple[str, str]]:
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_PROPERTIES_BYTES).decode()
    except OSError as error:
        problems.append(f"--kafka-properties: {file}: cannot be read: {error.strerror or error}")
        return []
    except UnicodeDecodeError:
        problems.append(f"--kafka-properties: {file}: is not UTF-8 text")
        return []
    lines = [(f"{file}:{number}", line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(where, line) for where, line in lines if line and not line.startswith(("#", "!"))]


def _read_pair(pair: str, where: str, found: dict[str, str], problems: list[str]) -> None:
    name, separator, value = pair.partition("=")
    name = name.strip()
    if not separator or not name:
        problems.append(f"{where}: is not NAME=VALUE")
    else:
        found[name] = value.strip()


def _shown(name: str, value: str) -> str:
    return "***" if any(part in name for part in _SECRET_PARTS) else value
