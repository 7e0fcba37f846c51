"""Pushing to the bus: a synchronous client of Redis that speaks in batches of the publish script.

One script call for a batch of one shard, all calls of one round in flight before the first answer is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec
import redis

from shared.bus.batches import Batch, Line, line_of, rounds_of, without_stopped
from shared.bus.connection import ServerConnection, is_passing
from shared.bus.layout import BusLayout, check_layout, decode_layout
from shared.bus.placement import Placement, Servers
from shared.bus.publish_call import ANSWERS_A_PUSH, Word, add_pushes, read_answer
from shared.bus.push import Outcome, Push, Pushed
from shared.errors import BusError, BusLayoutError, BusUnavailableError, IncarnationError

_BEHIND = Pushed(Outcome.BEHIND, b"", 0)


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
        self._servers: list[ServerConnection] = []
        self._homes: dict[int, ServerConnection] = {}
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
        by_server: dict[ServerConnection, list[int]] = {}
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
        stopped: set[Line] = set()
        # One batch a shard and round: a batch that overtook a failed one would make its publications duplicates, and so lose them.
        for batches in rounds_of(pushes, self.layout):
            calls = [self._call(batch, pushes) for batch in (without_stopped(batches, pushes, stopped) if stopped else batches)]
            try:
                failed = self._exchange(calls, answers)
            except BusUnavailableError:
                # Answers still under way on the other connections must not be taken for later ones.
                for call in calls:
                    call.server.disconnect()
                raise
            stopped.update(line_of(pushes[at]) for at in failed if pushes[at].keep.stops_at_failure and not pushes[at].restore)
        return [answers.get(at, _BEHIND) for at in range(len(pushes))] if stopped else [answers[at] for at in range(len(pushes))]

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

    def _call(self, batch: Batch, pushes: Sequence[Push]) -> _Call:
        keys: list[Word] = [self.layout.incarnation_key(batch.shard)]
        arguments: list[Word] = [self._incarnations.get(batch.shard, b""), self._random(6)]
        add_pushes([pushes[member] for member in batch.members], self.layout, keys, arguments)
        server = self._homes[batch.shard]
        return _Call(server, batch, ("EVALSHA", server.scripts.publish.sha, len(keys), *keys, *arguments))

    def _exchange(self, calls: Sequence[_Call], answers: dict[int, Pushed]) -> list[int]:
        """Send every call, then read every answer; only then say what went wrong. Returns the pushes that failed for good."""
        for server in dict.fromkeys(call.server for call in calls):
            server.send_all(call.command for call in calls if call.server is server)
        refused: list[int] = []
        failed: list[int] = []
        failure = ""
        for call in calls:
            answer = call.server.read()
            if not isinstance(answer, redis.ResponseError):
                for at, member in enumerate(call.batch.members):
                    answers[member] = pushed = read_answer(*answer[ANSWERS_A_PUSH * at : ANSWERS_A_PUSH * (at + 1)])
                    if pushed.outcome is Outcome.FAILED:
                        failed.append(member)
                        failure = pushed.reason if is_passing(pushed.reason) else failure
            elif str(answer).startswith("INCARNATION"):
                refused.append(call.batch.shard)
            else:
                failure = str(answer)
        if failure:
            msg = f"Redis refused publications: {failure}"
            raise BusUnavailableError(msg)
        if refused:
            raise IncarnationError(refused)
        return failed

    def _check_layout(self, server: ServerConnection) -> None:
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
            server = known.pop(home.client, None) or ServerConnection(home, in_cluster=self._placement.in_cluster)
            server.move_in(home)
            self._servers.append(server)
        for server in known.values():
            server.disconnect()
        self._homes = {shard: server for server in self._servers for shard in server.home.shards}

    def _open_shards(self, server: ServerConnection, shards: Iterable[int]) -> None:
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


class _Call(NamedTuple):
    """A batch as a command to its server."""

    server: ServerConnection
    batch: Batch
    command: tuple[Word, ...]
