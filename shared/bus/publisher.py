"""Pushing to the bus: a synchronous client of Redis that speaks in batches of the publish script.

redis-py connects and authenticates; the batches go through its connections directly (packed by hiredis), one script call for a batch
of one shard, all calls of one push in flight before the first answer is read.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
import redis

from shared.bus.identity import read_replication_id, read_run_id
from shared.bus.layout import BusLayout, check_layout, decode_layout
from shared.bus.placement import Home, Placement, Servers
from shared.bus.push import Outcome, Push, Pushed
from shared.envelope import encode_rest
from shared.errors import BusError, BusLayoutError, BusUnavailableError, IncarnationError
from shared.publication import ContentType, DeltaFormat

MAX_BATCH = 200
MAX_BATCH_BYTES = 1_048_576
"""A script holds Redis while it runs: so many publications, or so many bytes, make one call."""

_META = struct.Struct(">BIIQQ8s8sqQI12s")
_MORE = struct.Struct(">????IQQId16s")
_NO_HASH = bytes(8)
_OUTCOMES = {int(outcome): outcome for outcome in Outcome}
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


class _Script:
    """A Lua script of this package and its SHA-1, by which Redis knows it."""

    def __init__(self, name: str, *, sharded: bool) -> None:
        text = (files("shared.bus") / name).read_bytes()
        self.text = text.replace(b"'PUBLISH'", b"'SPUBLISH'") if sharded else text
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


class _Scripts:
    """The scripts as one kind of bus needs them: with sharded pub/sub or without."""

    def __init__(self, *, sharded: bool) -> None:
        self.publish, self.open, self.beat = (_Script(name, sharded=sharded) for name in ("publish.lua", "open.lua", "beat.lua"))


_PLAIN, _SHARDED = _Scripts(sharded=False), _Scripts(sharded=True)


class _Server:
    """One Redis server: a connection that is made when needed, and forgotten when anything went wrong on it."""

    def __init__(self, home: Home, *, in_cluster: bool) -> None:
        self.home = home
        self._in_cluster = in_cluster
        self.scripts = _SHARDED if in_cluster else _PLAIN
        self._client = home.client
        self._connection: Any = None  # As the pool makes it; redis-py types only a part of what it has.
        self.term = b""
        """Who the server is this time: its run id; in a cluster also its replication id, because a server may lose its rank to a
        replica, and with it the tail of its data, and get it back, without a restart."""
        self.is_open = False
        """Whether the layout and every shard's incarnation were checked on this very connection."""

    def __repr__(self) -> str:
        state = "open" if self.is_open else "connected" if self._connection else "away"
        return f"<Redis server {self.name} {state}>"

    @property
    def name(self) -> str:
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

    def read(self) -> Any:
        """The answer to the oldest command without one."""
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


class BusPublisher:
    """The bus as a bridge sees it. Not thread-safe.

    Every method raises BusUnavailableError where a server is away or full: then call it again later, with the same arguments;
    what was already published is not published twice.
    """

    def __init__(
        self,
        servers: Placement | Sequence[redis.Redis],
        layout: BusLayout,
        *,
        instance: str,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`servers` says where shards live; some clients mean just those servers, in this order."""
        self.layout = layout
        self._instance = instance
        self._random = random
        self._placement: Placement = Servers(servers) if isinstance(servers, Sequence) else servers
        self._servers: list[_Server] = []
        self._homes: dict[int, _Server] = {}
        """The server of each shard. Both are empty until the placement was asked."""
        self._incarnations: dict[int, bytes] = {}
        self._changed: set[int] = set()  # Kept until the caller was told, also where a connection breaks half-way.

    def __repr__(self) -> str:
        return f"<BusPublisher {self._servers} {len(self._incarnations)} of {self.layout.shards} shards open>"

    def open(self) -> list[int]:
        """Connect to every server, check or store the layout, and learn every shard's incarnation.

        Cheap when all is well, so call it before each push. Returns the shards whose incarnation is another one than this
        publisher believed in: whatever it knows about their channels is void. Raises BusLayoutError where the bus is set up otherwise.
        """
        self._open_all()
        return self._tell_changed()

    def reopen(self, shards: Iterable[int]) -> list[int]:
        """Learn the incarnations of `shards` after an IncarnationError. Returns those that changed, as `open` does."""
        self._open_all()
        by_server: dict[_Server, list[int]] = {}
        for shard in shards:
            by_server.setdefault(self._homes[shard], []).append(shard)
        for server, its_shards in by_server.items():
            self._check_layout(server)
            server.learn_term()
            self._open_shards(server, its_shards)
        return self._tell_changed()

    def push(self, pushes: Sequence[Push]) -> list[Pushed]:
        """Publish in the order given (the order holds within a channel); answers come in the same order.

        Raises IncarnationError where a shard's data was lost meanwhile: call `reopen`, then push the same again. Raises
        BusUnavailableError where a server is not open: a connection that was lost may come back to another server's data, and
        only `open` finds that out.
        """
        self._require_open()
        answers: dict[int, Pushed] = {}
        # One batch a shard and round: a batch that overtook a failed one would make its publications duplicates, and so lose them.
        for batches in _rounds(pushes, self.layout):
            calls = [self._call(batch, pushes) for batch in batches]
            try:
                self._exchange(calls, answers)
            except BusUnavailableError:
                # Answers still under way on the other connections must not be taken for later ones.
                for call in calls:
                    call.server.disconnect()
                raise
        return [answers[at] for at in range(len(pushes))]

    def beat(self) -> list[int]:
        """Publish a heartbeat on each shard. Returns the shards that have another incarnation than this publisher believes in: reopen them.

        Raises BusUnavailableError where a server is not open, as `push` does.
        """
        self._require_open()
        shards = list(self._homes)
        try:
            for shard in shards:
                keys = self.layout.incarnation_key(shard), self.layout.beat_channel(shard)
                self._homes[shard].send("EVALSHA", self._homes[shard].scripts.beat.sha, 2, *keys, self._incarnations[shard], self._instance)
            answers = [self._homes[shard].read() for shard in shards]
        except BusUnavailableError:
            # Answers still under way on the other connections must not be taken for later ones.
            self.close()
            raise
        for answer in answers:
            if isinstance(answer, redis.ResponseError):
                self.close()
                msg = f"Redis refused the heartbeat: {answer}"
                raise BusError(msg) from answer
        return [shard for shard, answer in zip(shards, answers, strict=True) if answer != 1]

    def close(self) -> None:
        """Disconnect from every server."""
        for server in self._servers:
            server.disconnect()

    def _call(self, batch: _Batch, pushes: Sequence[Push]) -> _Call:
        keys: list[bytes | str | int] = [self.layout.incarnation_key(batch.shard)]
        arguments: list[bytes | str | int] = [self._incarnations.get(batch.shard, b""), self._random(6)]
        for member in batch.members:
            push = pushes[member]
            keys += (self.layout.head_key(push.channel), self.layout.history_key(push.channel))
            if push.key is None and push.version is None and not push.id:
                arguments += _arguments(push)
            else:
                keys += (self.layout.keys_key(push.channel), self.layout.versions_key(push.channel), self.layout.ids_key(push.channel))
                arguments += _more_arguments(push)
        server = self._homes[batch.shard]
        return _Call(server, batch, ("EVALSHA", server.scripts.publish.sha, len(keys), *keys, *arguments))

    def _exchange(self, calls: Sequence[_Call], answers: dict[int, Pushed]) -> None:
        """Send every call, then read every answer; only then say what went wrong."""
        for call in calls:
            call.server.send(*call.command)
        refused: list[int] = []
        failure = ""
        for call in calls:
            answer = call.server.read()
            if not isinstance(answer, redis.ResponseError):
                for at, member in enumerate(call.batch.members):
                    answers[member] = pushed = _pushed(*answer[3 * at : 3 * at + 3])
                    if pushed.outcome is Outcome.FAILED and any(word in pushed.reason for word in _PASSING):
                        failure = pushed.reason
            elif str(answer).startswith("INCARNATION"):
                refused.append(call.batch.shard)
            else:
                failure = str(answer)
        if failure:
            msg = f"Redis refused publications: {failure}"
            raise BusUnavailableError(msg)
        if refused:
            raise IncarnationError(refused)

    def _check_layout(self, server: _Server) -> None:
        wanted = server.home.says
        if wanted is None:
            return
        key = self.layout.layout_key()
        try:
            stored = server.ask("GET", key)
            if stored is None:  # Only then, so that a full Redis, which takes no SET, can still be opened for heartbeats.
                server.ask("SET", key, msgspec.json.encode(wanted), "NX")
                stored = server.ask("GET", key)
            check_layout(decode_layout(stored or b"", f"Redis {server.name}"), wanted, f"Redis {server.name}")
        except BusLayoutError:
            server.disconnect()
            raise

    def _open_all(self) -> None:
        if self._servers and all(server.is_open for server in self._servers):
            return
        self._settle()
        for server in self._servers:
            if not server.is_open:
                server.connect()
                self._check_layout(server)
                self._open_shards(server, server.home.shards)
                server.is_open = True

    def _settle(self) -> None:
        """Ask the placement where shards live, and let go of the servers on which none lives any more."""
        known = {server.home.client: server for server in self._servers}
        homes = self._placement.homes(self.layout)
        self._servers = []
        for home in homes:
            server = known.pop(home.client, None) or _Server(home, in_cluster=self._placement.in_cluster)
            server.move_in(home)
            self._servers.append(server)
        for server in known.values():
            server.disconnect()
        self._homes = {shard: server for server in self._servers for shard in server.home.shards}

    def _open_shards(self, server: _Server, shards: Iterable[int]) -> None:
        for shard in shards:
            answer = server.ask("EVALSHA", server.scripts.open.sha, 1, self.layout.incarnation_key(shard), server.term, self._random(6))
            if self._incarnations.get(shard, answer) != answer:
                self._changed.add(shard)
            self._incarnations[shard] = answer

    def _tell_changed(self) -> list[int]:
        changed = sorted(self._changed)
        self._changed.clear()
        return changed

    def _require_open(self) -> None:
        for server in self._servers:
            if not server.is_open:
                msg = f"Redis {server.name}: not open"
                raise BusUnavailableError(msg)
        if not self._servers:
            msg = "the bus is not open"
            raise BusUnavailableError(msg)


class _Batch(NamedTuple):
    """Some pushes of one shard, by their index."""

    shard: int
    members: list[int]


class _Call(NamedTuple):
    """A batch as a command to its server."""

    server: _Server
    batch: _Batch
    command: tuple[bytes | str | int, ...]


def _rounds(pushes: Sequence[Push], layout: BusLayout) -> list[list[_Batch]]:
    """Split pushes by shard, in order, into batches within MAX_BATCH and MAX_BATCH_BYTES (one push that is larger goes alone).

    The n-th batch of each shard is in the n-th round.
    """
    rounds: list[list[_Batch]] = []
    newest: dict[int, tuple[_Batch, int, int]] = {}
    for at, push in enumerate(pushes):
        shard = layout.shard_of(push.channel)
        size = len(push.payload) + len(push.delta)
        batch, number, total = newest.get(shard, (None, -1, 0))
        if batch is None or len(batch.members) >= MAX_BATCH or total + size > MAX_BATCH_BYTES:
            batch, number, total = _Batch(shard, []), number + 1, 0
            if number == len(rounds):
                rounds.append([])
            rounds[number].append(batch)
        batch.members.append(at)
        newest[shard] = (batch, number, total + size)
    return rounds


def _more_arguments(push: Push) -> tuple[bytes, bytes, bytes, bytes]:
    """Those of a push with a key, a version, or an id."""
    meta, full, delta = _arguments(push)
    keep = push.keep
    more = _MORE.pack(
        push.key is not None,
        push.content_type is ContentType.NONE,
        push.version is not None,
        bool(push.id),
        keep.max_keys,
        keep.max_key_bytes,
        keep.id_window_ms,
        keep.id_count,
        push.version or 0.0,
        push.id,
    )
    return meta + more, full, delta, push.key or b""


def _arguments(push: Push) -> tuple[bytes, bytes, bytes]:
    keep, source = push.keep, push.source
    meta = _META.pack(
        push.only_changed | push.restore << 1,
        keep.history_size,
        keep.history_bytes,
        keep.history_age_ms,
        keep.ttl_ms,
        push.payload_hash,
        push.base_hash or _NO_HASH,
        push.time_ms,
        source.offset,
        source.index,
        source.id,
    )
    full = encode_rest(
        kind=push.kind,
        content_type=push.content_type,
        time_ms=push.time_ms,
        payload_hash=push.payload_hash,
        body=push.payload,
        key=push.key,
        tags=push.tags,
    )
    if push.delta_format is DeltaFormat.NONE:
        return meta, full, b""
    delta = encode_rest(
        kind=push.kind,
        content_type=push.content_type,
        time_ms=push.time_ms,
        payload_hash=push.payload_hash,
        body=push.delta,
        delta=push.delta_format,
        base_hash=push.base_hash,
        key=push.key,
        tags=push.tags,
    )
    return meta, full, delta


def _pushed(outcome: int, epoch: bytes, offset: int) -> Pushed:
    if outcome == Outcome.FAILED:
        return Pushed(Outcome.FAILED, b"", 0, epoch.decode("utf-8", "replace"))
    return Pushed(_OUTCOMES[outcome], epoch, offset)
