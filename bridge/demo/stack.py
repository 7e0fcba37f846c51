"""What the demo runs and in which order: Redis, a bridge, edges; then a record a second into the embedded Kafka.

`plan` decides (commands, ports), `run` does. Bridge and edge are started by their command lines, as a user would start them.
"""

from __future__ import annotations

import http.client
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from bridge.demo.children import Child, Children
from shared.errors import ConfigurationError

HOST = "127.0.0.1"
TOPIC = "vehicles"
GROUP = "demo"
DEFAULT_RULES = Path(__file__).with_name("rules.yaml")
_READY_TIMEOUT_S = 60.0
_FIRST_RECORD_TIMEOUT_S = 15.0
_POLL_S = 0.05
_DRAIN_S = 0.5
# The mock cluster answers a fetch that found nothing only when its time is over, whatever came meanwhile: so this is latency.
_FETCH_WAIT_MS = 10
_SETTINGS_OF_CHILDREN = ("BRIDGE_", "EDGE_")
_PORTS_TRIED = 100
_LONGEST_WAIT_S = 0.25
_MAX_LAG_S = 1.0


class Part(msgspec.Struct, frozen=True):
    """One process of the stack: how to start it, how to tell that it is ready, and what to tell the user about it."""

    name: str
    command: tuple[str, ...]
    is_ready: Callable[[], bool]
    address: str


class StackSettings(msgspec.Struct, frozen=True):
    """What the user chose."""

    rules: Path = DEFAULT_RULES
    port: int = 8000
    """Of the first edge; the others take the next free ones. 0: any free ports."""
    edges: int = 2
    page: bool = True
    redis_server: str = "redis-server"
    runner: tuple[str, ...] = (sys.executable, "-m")
    """What starts a command line of this distribution."""


class Ports(msgspec.Struct, frozen=True):
    """Free TCP ports, all different."""

    redis: int
    bridge_internal: int
    edges: tuple[int, ...]
    edges_internal: tuple[int, ...]


def find_redis_server(parts: Path | None = None) -> str:
    """The path of a redis-server: from PATH, else from `.parts/`, where `make` puts it. Raise ConfigurationError if there is none."""
    found = shutil.which("redis-server")
    if found:
        return found
    directory = parts or Path(".parts")
    for candidate in sorted(directory.rglob("redis-server")):
        if candidate.is_file() and shutil.which(candidate):
            return str(candidate.resolve())
    raise ConfigurationError(
        [f"no redis-server in PATH or in {directory}: install Redis (Debian: `apt install redis-server`), or name one with --redis-server"]
    )


def choose_ports(first_edge_port: int, edges: int) -> Ports:
    """Ports that are free now: for edges the first free ones from `first_edge_port` on, any for the rest.

    Raises ConfigurationError if there are not enough.
    """
    edge_ports: list[int] = []
    if first_edge_port:
        tried = range(first_edge_port, min(first_edge_port + _PORTS_TRIED, 65_536))
        edge_ports = [port for port in tried if is_free(port)][:edges]
        if len(edge_ports) < edges:
            raise ConfigurationError([f"fewer than {edges} free ports from {tried.start} to {tried.stop - 1}: choose another --port"])
    others = _any_free(2 + edges + (edges - len(edge_ports)), avoid=set(edge_ports))
    edge_ports += others[2 + edges :]
    return Ports(others[0], others[1], tuple(edge_ports), tuple(others[2 : 2 + edges]))


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of the loopback address."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def environment_of_children(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without what would set up a bridge or an edge: the demo's own have their command lines and nothing else."""
    return {name: value for name, value in environment.items() if not name.startswith(_SETTINGS_OF_CHILDREN)}


def plan(settings: StackSettings, ports: Ports, bootstrap_servers: str, directory: Path) -> list[Part]:
    """The processes, in the order in which they start."""
    bus = f"redis://{HOST}:{ports.redis}"
    redis = (settings.redis_server, "--port", str(ports.redis), "--bind", HOST, "--dir", str(directory), "--save", "", "--appendonly", "no")
    bridge = (
        *settings.runner, "bridge.cli", "run", "--rules", str(settings.rules), "--bootstrap-servers", bootstrap_servers,
        "--group", GROUP, "--bus", bus, "--internal-port", str(ports.bridge_internal),
        "--kafka-property", f"fetch.wait.max.ms={_FETCH_WAIT_MS}",
    )  # fmt: skip
    parts = [
        Part("redis", redis, lambda: redis_answers(ports.redis), bus),
        Part("bridge", bridge, lambda: accepts(ports.bridge_internal), f"internal http://{HOST}:{ports.bridge_internal}"),
    ]
    for number, (port, internal) in enumerate(zip(ports.edges, ports.edges_internal, strict=True), 1):
        edge = (
            *settings.runner, "edge.cli", "run", "--bus", bus, "--host", HOST, "--port", str(port), "--internal-port", str(internal),
            "--drain-s", str(_DRAIN_S), *(("--console",) if settings.page else ()),
        )  # fmt: skip
        parts.append(Part(f"edge {number}", edge, lambda port=port: http_answers(port), f"http://{HOST}:{port}"))  # type: ignore[misc]
    return parts


def start(children: Children, parts: list[Part], stop: Callable[[], bool]) -> list[Child]:
    """Start the parts one after the other, each when the one before it is ready; return early if `stop` says so.

    Raises ChildError if one ends or takes too long.
    """
    started = []
    for part in parts:
        if stop():
            break
        child = children.start(part.name, part.command)
        children.wait_until(child, part.is_ready, _READY_TIMEOUT_S, stop)
        started.append(child)
    return started


def await_first_record(children: Children, ports: Ports, stop: Callable[[], bool]) -> None:
    """Return when what was sent so far is on the bus, so that all that the user is told to try works at once.

    Or after a while: with other rules the bridge may have nothing to do. Raises ChildError if a process ends.
    """
    deadline = time.monotonic() + _FIRST_RECORD_TIMEOUT_S
    while not (stop() or has_caught_up(ports.bridge_internal) or time.monotonic() > deadline):
        children.check()
        time.sleep(_POLL_S)


def feed(records: Iterator[bytes], send: Callable[[bytes], None], wait_s: Callable[[bytes], float], idle: Callable[[float], bool]) -> bool:
    """Send each record `wait_s` after the one before; return True when they came to their end, False when `idle` said to stop.

    `idle(seconds)` waits at most so long, looks after the processes, and tells whether to stop.
    """
    due_s = time.monotonic()
    for record in records:
        # After a suspended laptop or a stopped process, do not catch up with a burst.
        due_s = max(due_s + wait_s(record), time.monotonic() - _MAX_LAG_S)
        while (left_s := due_s - time.monotonic()) > 0:
            if idle(min(left_s, _LONGEST_WAIT_S)):
                return False
        send(record)
        if idle(0):
            return False
    return True


def accepts(port: int) -> bool:
    """Whether something listens on `port`."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0):
            return True
    except OSError:
        return False


def redis_answers(port: int) -> bool:
    """Whether a Redis on `port` answers PING."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def http_answers(port: int) -> bool:
    """Whether an HTTP server on `port` answers at all."""
    return _get(port, "/") is not None


def has_caught_up(port: int) -> bool:
    """Whether the bridge with its internal server on `port` is through with what is in Kafka, or says that something keeps it."""
    try:
        health = msgspec.json.decode(_get(port, "/health/ready") or b"{}", type=dict[str, object])
    except msgspec.DecodeError:
        return False
    return health.get("lag") == 0 or health.get("status") == "degraded"


def _get(port: int, path: str) -> bytes | None:
    """What an HTTP server answers, whatever its status; None where none does."""
    connection = http.client.HTTPConnection(HOST, port, timeout=1.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _any_free(count: int, avoid: set[int]) -> list[int]:
    """Ports that the kernel gave out just now; held open until all are found, so that none comes twice."""
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        while len(ports) < count:
            probe = socket.socket()
            held.append(probe)
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
            if port not in avoid:
                ports.append(port)
    finally:
        for probe in held:
            probe.close()
    return ports
