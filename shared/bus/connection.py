"""A connection to one Redis server of the bus, on which commands are sent ahead of their answers.

redis-py connects and authenticates; publications and answers go through its connection directly, packed and parsed by hiredis.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import hiredis
import redis

from shared.bus.identity import read_eviction_policy, read_replication_id, read_run_id
from shared.bus.placement import Home
from shared.bus.scripts import PLAIN, SHARDED
from shared.errors import BusError, BusUnavailableError
from shared.telemetry import Log

log = Log("distributary.bus")

NO_EVICTION = "noeviction"
# What Redis says when the same may succeed later: full, loading, failing over, busy with a script, or (in a cluster) not the owner of
# that slot. redis-py has classes for some of these, and takes the word away from their text. Nothing is sent after a MOVED or ASK to
# where it points: the shard is opened there first, as after any other doubt about a server.
_PASSING_ERRORS = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.NoScriptError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.AskError,  # MovedError is one.
)
_PASSING = ("OOM", "LOADING", "READONLY", "BUSY", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "NOREPLICAS", "MISCONF", "NOSCRIPT")


_TOGETHER_BYTES = 65_536
"""So much is sent with one call to the kernel, and not much more: a time-out is for each call."""


def is_passing(refusal: str) -> bool:
    """Whether words of Redis, somewhere in a script's own answer, say that the same may succeed later."""
    return any(word in refusal for word in _PASSING)


class ServerConnection:
    """The connection to one server: made when needed, and forgotten when anything went wrong on it.

    Methods raise BusUnavailableError where the server is away, or says that it cannot at the moment: the connection is forgotten then.
    """

    def __init__(self, home: Home, *, in_cluster: bool) -> None:
        self.home = home
        self._in_cluster = in_cluster
        self.scripts = SHARDED if in_cluster else PLAIN
        self._client = home.client
        self._connection: Any = None  # As the pool makes it; redis-py types only a part of what it has.
        self.term = b""
        """Who the server is this time: its run id; in a cluster also its replication id, because a server may lose its rank to a
        replica, and with it the tail of its data, and get it back, without a restart."""
        self.is_open = False
        """Whether the layout and every shard's incarnation were checked on this very connection."""
        self._eviction_policy = NO_EVICTION

    def __repr__(self) -> str:
        state = "open" if self.is_open else "connected" if self._connection else "away"
        return f"<Redis server {self.name} {state}>"

    @property
    def name(self) -> str:
        """Its address, for logs."""
        options = self._client.connection_pool.connection_kwargs
        return str(options.get("path") or f"{options.get('host')}:{options.get('port') or 6379}")

    def move_in(self, home: Home) -> None:
        """Take what lives here from now on; other shards than before have to be opened."""
        if list(home.shards) != list(self.home.shards):
            self.is_open = False
        self.home = home

    def connect(self) -> None:
        """Connect if need be. A new connection may lead to another server than the last one: so its term is read anew."""
        if self._connection is not None:
            return
        try:
            self._connection = self._client.connection_pool.get_connection()
            for script in (self.scripts.publish, self.scripts.open, self.scripts.beat):
                self.send("SCRIPT", "LOAD", script.text)
                self.read()
            self.learn_term()
            self._look_at_eviction()
        except BaseException as error:
            self.disconnect()
            if isinstance(error, redis.RedisError | OSError):
                msg = f"Redis {self.name}: {error}"
                raise BusUnavailableError(msg) from error
            raise

    def learn_term(self) -> None:
        """Ask who the server is. Raises BusLayoutError where it does not say, or is no part of such a bus."""
        self.send("INFO", "server")
        self.term = read_run_id(self.read(), f"Redis {self.name}", in_cluster=self._in_cluster)
        if self._in_cluster:
            self.send("INFO", "replication")
            self.term += read_replication_id(self.read())

    def _look_at_eviction(self) -> None:
        """Warn where the server may evict: channels go without a word then, and only an operator can help."""
        self.send("INFO", "memory")
        before, self._eviction_policy = self._eviction_policy, read_eviction_policy(self.read())
        if self._eviction_policy not in {before, NO_EVICTION, ""}:
            log.warning(
                "Redis drops channels when it is full: clients see gaps then, and records that come again are published twice; "
                "set maxmemory-policy noeviction",
                server=self.name,
                maxmemory_policy=self._eviction_policy,
            )

    def disconnect(self) -> None:
        """Forget the connection, and with it every answer that is still under way."""
        connection, self._connection = self._connection, None
        self.is_open = False
        if connection is not None:
            connection.disconnect()
            self._client.connection_pool.release(connection)

    def send(self, *command: bytes | str | int) -> None:
        """Send a command without waiting for its answer. `connect` comes first."""
        assert self._connection is not None  # noqa: S101  (callers connect first; the type checker cannot see it)
        try:
            self._connection.send_command(*command)
        except (redis.RedisError, OSError) as error:
            raise self._lost(error) from error

    def send_all(self, commands: Iterable[tuple[bytes | str | int, ...]]) -> None:
        """Send commands without waiting for their answers, small ones together."""
        assert self._connection is not None  # noqa: S101
        try:
            self._connection.send_packed_command(_packed(commands))
        except (redis.RedisError, OSError) as error:
            raise self._lost(error) from error

    def read(self) -> Any:
        """The answer to the oldest command without one; a refusal is returned, as redis.ResponseError."""
        assert self._connection is not None  # noqa: S101
        try:
            return self._connection.read_response()
        except redis.ResponseError as error:
            if isinstance(error, _PASSING_ERRORS) or str(error).startswith(_PASSING):
                raise self._lost(error) from error
            return error
        except (redis.RedisError, OSError) as error:
            raise self._lost(error) from error

    def ask(self, *command: bytes | str | int) -> Any:
        """Send a command and wait for its answer; an error answer is raised as BusError."""
        self.connect()
        self.send(*command)
        answer = self.read()
        if isinstance(answer, redis.ResponseError):
            self.disconnect()
            msg = f"Redis {self.name} refused {command[0]!s}: {answer}"
            raise BusError(msg) from answer
        return answer

    def _lost(self, error: Exception) -> BusUnavailableError:
        self.disconnect()
        what = "the slot moved: " if isinstance(error, redis.exceptions.AskError) else ""
        return BusUnavailableError(f"Redis {self.name}: {what}{str(error) or type(error).__name__}")


def _packed(commands: Iterable[tuple[bytes | str | int, ...]]) -> Iterator[bytes]:
    """The commands as bytes."""
    waiting: list[bytes] = []
    size = 0
    for command in commands:
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # A tuple of any length.
        waiting.append(packed)
        size += len(packed)
        if size >= _TOGETHER_BYTES:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
    if waiting:
        yield b"".join(waiting)
