"""What the bus contract runs against: one way to look at each bus and to break it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import msgspec
import redis

from bridge.adapters.memory_bus import MemoryBus, MemoryServer
from bridge.ports import Bus
from shared import envelope
from shared.bus.layout import BusLayout
from shared.bus.placement import place
from shared.bus.publisher import BusPublisher
from shared.bus.push import Keep, Push, Source, source_id
from shared.bus.servers import parse_servers
from shared.envelope import Envelope
from shared.publication import ContentType, DeltaFormat, Kind, payload_hash
from tests.contract.fake_redis import FakeServer
from tests.rig.redis_cluster import RedisCluster
from tests.rig.redis_server import RedisServer

LAYOUT = BusLayout(shards=4)
CLUSTER_LAYOUT = BusLayout(shards=4, cluster=True)
CHANNELS = [*(f"a:{number}" for number in range(1, 4)), *(f"c:{number}" for number in range(50)), "k:1", "k:2"]
"""Those of the contract's tests: nobody can listen to all channels of a cluster."""
SOURCE = source_id("cluster", "topic", 0)
OTHER_SOURCE = source_id("cluster", "topic", 1)


def make_push(
    channel: str,
    payload: bytes,
    offset: int,
    index: int = 0,
    *,
    source: bytes = SOURCE,
    time_ms: int | None = None,
    base: bytes | None = None,
    keep: Keep | None = None,
    kind: Kind = Kind.LATEST,
    only_changed: bool = False,
    restore: bool = False,
) -> Push:
    """A push whose Kafka time is 1000 plus its kafka offset unless given. With `base`, it carries the delta `b"D"` to that payload."""
    return Push(
        channel,
        payload,
        payload_hash(payload),
        ContentType.JSON,
        kind,
        1000 + offset if time_ms is None else time_ms,
        Source(source, offset, index),
        keep or Keep(),
        DeltaFormat.NONE if base is None else DeltaFormat.VCDIFF,
        b"" if base is None else b"D",
        b"" if base is None else payload_hash(base),
        only_changed=only_changed,
        restore=restore,
    )


def make_keyed(key: str, payload: bytes | None, offset: int, channel: str = "k:1", **changes: Any) -> Push:
    """The same on a keyed channel. No payload makes a deletion; `changes` are those of `make_push`, and fields of the push."""
    fields: dict[str, Any] = {name: changes.pop(name) for name in ("version", "id", "tags") if name in changes}
    if payload is None:
        fields["content_type"] = ContentType.NONE
    made = make_push(channel, payload or b"", offset, kind=Kind.KEYED, **changes)
    return msgspec.structs.replace(made, key=key.encode(), **fields)


class Backend(Protocol):
    """A bus to look at and to break."""

    def publisher(self, instance: str = "one") -> Bus:
        """A bridge's connection; not open yet."""

    def history(self, channel: str) -> list[Envelope]:
        """What the channel's history holds, oldest first."""

    def keys(self, channel: str) -> dict[bytes, Envelope]:
        """The newest publication of each key of the channel."""

    def versions(self, channel: str) -> set[bytes]:
        """Of what the bus keeps a version."""

    def ids(self, channel: str) -> set[bytes]:
        """The ids that the bus keeps."""

    def wire(self, channel: str) -> list[Envelope]:
        """What subscribers were sent since the beginning."""

    def flush(self) -> None:
        """Lose everything; connections live on."""

    def drop_history(self, channel: str) -> None:
        """Lose one channel's history."""

    def put_foreign(self, channel: str) -> None:
        """Put something of another type under the channel's key."""

    def disconnect(self) -> None:
        """Break every connection of publishers, and lose nothing."""

    def save(self) -> None:
        """Take a snapshot."""

    def restore(self) -> None:
        """Die without a word, and come back with the snapshot."""

    def close(self) -> None:
        """Let go of everything."""


class MemoryBackend:
    """The bus in memory."""

    def __init__(self) -> None:
        self.server = MemoryServer(LAYOUT)
        self._snapshot: MemoryServer | None = None

    def publisher(self, instance: str = "one") -> Bus:
        return MemoryBus(self.server, instance)

    def history(self, channel: str) -> list[Envelope]:
        return [envelope.decode(entry) for entry in self.server.history(channel)]

    def keys(self, channel: str) -> dict[bytes, Envelope]:
        return {key: envelope.decode(entry) for key, entry in self.server.keys(channel).items()}

    def versions(self, channel: str) -> set[bytes]:
        return set(self.server.versions(channel))

    def ids(self, channel: str) -> set[bytes]:
        return set(self.server.ids(channel))

    def wire(self, channel: str) -> list[Envelope]:
        return [envelope.decode(entry) for entry in self.server.published[channel]]

    def flush(self) -> None:
        self.server.flush()

    def drop_history(self, channel: str) -> None:
        self.server.drop_history(channel)

    def put_foreign(self, channel: str) -> None:
        self.server.foreign.add(channel)

    def disconnect(self) -> None:
        self.server.disconnect()

    def save(self) -> None:
        self._snapshot = self.server.save()

    def restore(self) -> None:
        assert self._snapshot is not None
        self.server.restore(self._snapshot)

    def close(self) -> None:
        pass


class RedisBackend:
    """A Redis. `server` is a real one, and this test's own, where it is to be killed."""

    def __init__(self, server: RedisServer | FakeServer) -> None:
        self.server = server
        self.client = server.client()
        self._saved: Path | None = None
        self._publishers: list[BusPublisher] = []
        self._wire: dict[str, list[Envelope]] = {}
        self._listen()

    def publisher(self, instance: str = "one", layout: BusLayout = LAYOUT) -> BusPublisher:
        made = BusPublisher([self.server.client()], layout, instance=instance)
        self._publishers.append(made)
        return made

    def history(self, channel: str) -> list[Envelope]:
        entries: list[Any] = self.client.lrange(LAYOUT.history_key(channel), 0, -1)
        return [envelope.decode(entry) for entry in entries]

    def keys(self, channel: str) -> dict[bytes, Envelope]:
        entries: Any = self.client.hgetall(LAYOUT.keys_key(channel))
        return {key: envelope.decode(entry) for key, entry in entries.items()}

    def versions(self, channel: str) -> set[bytes]:
        found: Any = self.client.hkeys(LAYOUT.versions_key(channel))
        return set(found)

    def ids(self, channel: str) -> set[bytes]:
        found: Any = self.client.zrange(LAYOUT.ids_key(channel), 0, -1)
        return set(found)

    def wire(self, channel: str) -> list[Envelope]:
        self._drain()
        return self._wire.get(LAYOUT.head_key(channel), [])

    def flush(self) -> None:
        self.client.flushall()

    def drop_history(self, channel: str) -> None:
        self.client.delete(LAYOUT.history_key(channel))

    def put_foreign(self, channel: str) -> None:
        self.client.set(LAYOUT.head_key(channel), "something else")

    def disconnect(self) -> None:
        self.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def save(self) -> None:
        assert isinstance(self.server, RedisServer)
        self._saved = self.server.save()

    def restore(self) -> None:
        assert isinstance(self.server, RedisServer)
        self._drain()
        self.server.restart(snapshot=self._saved)
        self._listen()

    def close(self) -> None:
        for publisher in self._publishers:
            publisher.close()
        self._pubsub.close()
        self.client.close()

    def _listen(self) -> None:
        self._pubsub = self.client.pubsub()
        self._pubsub.psubscribe(f"{LAYOUT.prefix}:*")
        assert self._pubsub.get_message(timeout=60) is not None

    def _drain(self) -> None:
        end = f"{LAYOUT.prefix}:end"
        self.client.publish(end, b"")
        while (message := self._pubsub.get_message(timeout=60)) is not None:
            name = message["channel"].decode()
            if name == end:
                return
            if message["type"] == "pmessage" and not name.endswith(":beat"):
                self._wire.setdefault(name, []).append(envelope.decode(message["data"]))
        msg = "what was published last did not come"
        raise AssertionError(msg)


class ClusterBackend:
    """A real Redis Cluster. `cluster` is this test's own where it is to be killed."""

    def __init__(self, cluster: RedisCluster) -> None:
        self.cluster = cluster
        self._saved: dict[RedisServer, Path] = {}
        self._publishers: list[BusPublisher] = []
        self._wire: dict[str, list[Envelope]] = {}
        self._ears: list[tuple[redis.Redis, Any, str]] = []
        self._listen()

    def publisher(self, instance: str = "one", layout: BusLayout = CLUSTER_LAYOUT) -> BusPublisher:
        made = BusPublisher(place(parse_servers(self.cluster.url)), layout, instance=instance)
        self._publishers.append(made)
        return made

    def history(self, channel: str) -> list[Envelope]:
        entries: list[bytes] = self._ask(channel, "LRANGE", LAYOUT.history_key(channel), 0, -1)
        return [envelope.decode(entry) for entry in entries]

    def keys(self, channel: str) -> dict[bytes, Envelope]:
        entries: Any = self._ask(channel, "HGETALL", LAYOUT.keys_key(channel))  # RESP3 has maps.
        return {key: envelope.decode(entry) for key, entry in entries.items()}

    def versions(self, channel: str) -> set[bytes]:
        return set(self._ask(channel, "HKEYS", LAYOUT.versions_key(channel)))

    def ids(self, channel: str) -> set[bytes]:
        return set(self._ask(channel, "ZRANGE", LAYOUT.ids_key(channel), 0, -1))

    def wire(self, channel: str) -> list[Envelope]:
        self._drain()
        return self._wire.get(LAYOUT.head_key(channel), [])

    def flush(self) -> None:
        for node in self.cluster.nodes:
            self.cluster.ask(node, "FLUSHALL")

    def drop_history(self, channel: str) -> None:
        self._ask(channel, "DEL", LAYOUT.history_key(channel))

    def put_foreign(self, channel: str) -> None:
        self._ask(channel, "SET", LAYOUT.head_key(channel), "something else")

    def disconnect(self) -> None:
        for node in self.cluster.nodes:
            self.cluster.ask(node, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def save(self) -> None:
        self._saved = {node: node.save() for node in self.cluster.nodes}

    def restore(self) -> None:
        self._drain()
        for node, snapshot in self._saved.items():
            node.restart(snapshot=snapshot)
        self.cluster.wait_until_ok()
        self._listen()

    def close(self) -> None:
        for publisher in self._publishers:
            publisher.close()
        self._stop_listening()

    def _ask(self, channel: str, *command: str | int) -> Any:
        return self.cluster.ask(self.cluster.owner(LAYOUT.shard_of(channel)), *command)

    def _listen(self) -> None:
        self._stop_listening()
        by_node: dict[RedisServer, list[int]] = {}
        for shard in range(LAYOUT.shards):
            by_node.setdefault(self.cluster.owner(shard), []).append(shard)
        for node, shards in by_node.items():
            client = node.client()
            pubsub: Any = client.pubsub()
            end = f"{{{shards[0]}}}:end"
            for name in [*(LAYOUT.head_key(channel) for channel in CHANNELS if LAYOUT.shard_of(channel) in shards), end]:
                pubsub.ssubscribe(name)
                assert pubsub.get_message(timeout=60) is not None
            self._ears.append((client, pubsub, end))

    def _stop_listening(self) -> None:
        for client, pubsub, _ in self._ears:
            pubsub.close()
            client.close()
        self._ears.clear()

    def _drain(self) -> None:
        for client, pubsub, end in self._ears:
            client.execute_command("SPUBLISH", end, b"")
            while (message := pubsub.get_message(timeout=60)) is not None:
                name = message["channel"].decode()
                if name == end:
                    break
                self._wire.setdefault(name, []).append(envelope.decode(message["data"]))
            else:
                msg = "what was published last did not come"
                raise AssertionError(msg)
