"""A real Redis Cluster of a test's own: started, resharded, failed over."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

import redis

from shared.bus.identity import CLUSTER_SINCE
from shared.bus.placement import ask_plainly
from shared.bus.slots import SLOTS, slot_of
from tests.rig.ports import free_port
from tests.rig.redis_server import RedisServer
from tests.rig.wait import PATIENCE_S, WaitTimeoutError, wait_until

IMPATIENT_MS, PATIENT_MS = 1_000, 60_000
"""After how long without an answer a node takes another for dead. Impatience is for beginnings and for nodes that are to be missed. Else a
machine that stands still for a second would be reason enough for all of the cluster to refuse to serve."""


class RedisCluster:
    """Some primaries that share the slots evenly, each with `replicas` replicas, on loopback. Usable as a context manager."""

    def __init__(
        self,
        directory: Path,
        *,
        primaries: int = 3,
        replicas: int = 0,
        options: Mapping[str, str] | None = None,
        acl: Sequence[str] = (),
    ) -> None:
        self.primaries = primaries
        bus_ports = [free_port() for _ in range(primaries * (1 + replicas))]
        self.nodes = [
            RedisServer(
                directory / f"node-{number}",
                options={
                    "cluster-enabled": "yes",
                    # Beside the data, so that a node that lost those is still the same one.
                    "cluster-config-file": str(directory / f"node-{number}.conf"),
                    "cluster-node-timeout": str(IMPATIENT_MS),
                    "cluster-port": str(bus_port),
                    "cluster-replica-validity-factor": "0",
                    # Only one that `fail_over` kills is to be replaced.
                    "cluster-replica-no-failover": "yes",
                    "repl-diskless-sync-delay": "0",
                    **(options or {}),
                },
                acl=acl,
            )
            for number, bus_port in enumerate(bus_ports)
        ]
        self._bus_ports = {node.port: bus_port for node, bus_port in zip(self.nodes, bus_ports, strict=True)}
        self._stack = ExitStack()

    def __repr__(self) -> str:
        return f"<RedisCluster {self.nodes}>"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            self._form()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Its address, as `--bus` takes it."""
        return self.url_as("")

    def url_as(self, user: str) -> str:
        """The same for a user, `NAME:PASSWORD`."""
        return f"redis+cluster://{user}{'@' if user else ''}" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def running(self) -> list[RedisServer]:
        """The nodes that are up."""
        return [node for node in self.nodes if node.process.is_running]

    def ask(self, node: RedisServer, *command: str | int | bytes) -> Any:
        """What one node answers."""
        with contextlib.closing(node.client()) as client:
            return ask_plainly(client, *command)

    def owner(self, shard: int) -> RedisServer:
        """The primary that owns a shard of the bus, as a majority of the nodes that run sees it."""
        seen = [self._owner_as_seen_by(node, shard) for node in self.running]
        return max(seen, key=seen.count)

    def replicas_of(self, primary: RedisServer) -> list[RedisServer]:
        """The replicas that follow a primary now."""
        name = self.id_of(primary)
        return [node for node in self.running if self._role(node)[:2] == ["slave", name]]

    def id_of(self, node: RedisServer) -> str:
        """A node's name in the cluster."""
        return str(self.ask(node, "CLUSTER", "MYID").decode())

    def wait_for_replica(self, primary: RedisServer) -> None:
        """Wait until a replica follows a primary and has all that it has."""
        wait_until(lambda: any(self._is_in_step(node) for node in self.replicas_of(primary)), what=f"a replica of {primary!r}")

    def wait_until_ok(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until every node that runs says that the cluster serves every slot, and all agree who serves which."""
        wait_until(self._is_ok, what="a cluster that is ok", timeout_s=timeout_s, ignore=(redis.RedisError,), state=lambda: self)
        self._be_patient_for(PATIENT_MS)

    def begin_migration(self, shard: int, to: RedisServer) -> None:
        """Have a shard's slot migrating, with nothing moved yet."""
        slot, source = slot_of(shard), self.owner(shard)
        self.ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(to))

    def move_keys(self, shard: int, source: RedisServer, to: RedisServer, count: int | None = None) -> int:
        """Move some or all keys of a slot that is migrating; returns how many."""
        moved = 0
        while count is None or moved < count:
            keys = self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot_of(shard), 10 if count is None else min(10, count - moved))
            if not keys:
                break
            self.ask(source, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
            moved += len(keys)
        return moved

    def end_migration(self, shard: int, to: RedisServer) -> None:
        """Give the slot away: the new owner is told first, as an operator's tool does."""
        name = self.id_of(to)
        for node in (to, *(other for other in self.running if other is not to)):
            with contextlib.suppress(redis.ResponseError):  # A replica refuses it, and hears of it from the others.
                self.ask(node, "CLUSTER", "SETSLOT", slot_of(shard), "NODE", name)

    def migrate(self, shard: int, to: RedisServer) -> None:
        """Move a shard, keys and all, as `redis-cli --cluster reshard` does."""
        source = self.owner(shard)
        self.begin_migration(shard, to)
        self.move_keys(shard, source, to)
        self.end_migration(shard, to)

    def fail_over(self, primary: RedisServer) -> RedisServer:
        """Kill a primary that has a replica, and return the replica that took over."""
        heirs = self.replicas_of(primary)
        for heir in heirs:
            self.ask(heir, "CONFIG", "SET", "cluster-replica-no-failover", "no")
        with self._impatient():
            primary.kill()
            return wait_until(
                lambda: next((heir for heir in heirs if self._role(heir)[0] == "master"), None),
                what=f"a replica that takes over from {primary!r}",
            )

    def hand_over(self, primary: RedisServer) -> RedisServer:
        """Have a replica take over in order (CLUSTER FAILOVER); the old primary becomes its replica."""
        heir = self.replicas_of(primary)[0]
        with self._impatient():  # They do not vote again for two such times.
            for _ in range(20):
                with contextlib.suppress(redis.ResponseError):
                    self.ask(heir, "CLUSTER", "FAILOVER")
                with contextlib.suppress(WaitTimeoutError):  # Redis gives up after 5 s.
                    wait_until(lambda: self._role(heir)[0] == "master", what=f"{heir!r} as the primary", timeout_s=6)
                    return heir
        msg = f"{heir!r} did not take over"
        raise AssertionError(msg)

    def _be_patient_for(self, timeout_ms: int) -> None:
        for node in self.running:
            self.ask(node, "CONFIG", "SET", "cluster-node-timeout", timeout_ms)

    @contextlib.contextmanager
    def _impatient(self) -> Iterator[None]:
        self._be_patient_for(IMPATIENT_MS)
        try:
            yield
        finally:
            self._be_patient_for(PATIENT_MS)

    def flush(self) -> None:
        """Empty every primary, and forget scripts."""
        for node in self.nodes:
            if self._role(node)[0] == "master":
                node.flush()

    def _form(self) -> None:
        primaries, replicas = self.nodes[: self.primaries], self.nodes[self.primaries :]
        for number, node in enumerate(self.nodes):
            self.ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number, node in enumerate(primaries):
            first, end = (SLOTS * part // len(primaries) for part in (number, number + 1))
            self.ask(node, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for node in self.nodes[1:]:
            bus_port = self._bus_ports[node.port]
            self.ask(self.nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port, bus_port)
        everyone = {self.id_of(node) for node in self.nodes}
        for node in self.nodes:
            wait_until(partial(self._knows, node, everyone), what=f"{node!r} that knows every node")
        for number, node in enumerate(replicas):
            primary = primaries[number % len(primaries)]
            self.ask(node, "CLUSTER", "REPLICATE", self.id_of(primary))
        for node in replicas:
            wait_until(partial(self._is_in_step, node), what=f"{node!r} as a replica")
        self.wait_until_ok()

    def _knows(self, node: RedisServer, everyone: set[str]) -> bool:
        lines = bytes(self.ask(node, "CLUSTER", "NODES")).decode().splitlines()
        return {line.split()[0] for line in lines if "handshake" not in line} == everyone

    def _role(self, node: RedisServer) -> list[str]:
        for line in bytes(self.ask(node, "CLUSTER", "NODES")).decode().splitlines():
            name, _, flags, primary = line.split()[:4]
            if "myself" in flags:
                return ["slave" if "slave" in flags else "master", primary, name]
        return ["none"]

    def _is_in_step(self, node: RedisServer) -> bool:
        info = bytes(self.ask(node, "INFO", "replication"))
        return b"master_link_status:up" in info

    def _is_ok(self) -> bool:
        answers = {repr(sorted(entry[:3] for entry in self.ask(node, "CLUSTER", "SLOTS"))) for node in self.running}
        return len(answers) == 1 and all(b"cluster_state:ok" in bytes(self.ask(node, "CLUSTER", "INFO")) for node in self.running)

    def _owner_as_seen_by(self, node: RedisServer, shard: int) -> RedisServer:
        for first, last, primary, *_ in self.ask(node, "CLUSTER", "SLOTS"):
            if first <= slot_of(shard) <= last:
                return next(other for other in self.nodes if other.port == primary[1])
        msg = f"nobody owns shard {shard}"
        raise AssertionError(msg)


def has_cluster(program: str = "redis-server") -> bool:
    """Whether this machine's Redis can shard pub/sub in a cluster: version 7 or later."""
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return int(version.partition("v=")[2].partition(".")[0]) >= CLUSTER_SINCE
