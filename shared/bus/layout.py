"""Where things are on the bus: key names, shards, servers (docs/protocol.md, section 8)."""

from __future__ import annotations

import msgspec

from shared.channel import shard_of
from shared.errors import BusLayoutError

LAYOUT_VERSION = 1
DEFAULT_PREFIX = "d"
DEFAULT_SHARDS = 16
MAX_SHARDS = 4096

INCARNATION_BYTES = 6


class StoredLayout(msgspec.Struct, frozen=True, omit_defaults=True):
    """What each server of the bus says about the bus, or a Redis Cluster as a whole; JSON under `BusLayout.layout_key`."""

    version: int
    shards: int
    servers: int
    server: int
    """Which of the servers this one is, from 0."""
    cluster: bool = False
    """Whether the bus is a Redis Cluster; then servers is 1 and server 0. A layout that does not say is that of servers."""


class BusLayout(msgspec.Struct, frozen=True):
    """Key names and placement for one bus.

    Shard s lives on server s modulo the number of servers; in a Redis Cluster, wherever the cluster has its slot (shared/bus/slots.py).
    """

    shards: int = DEFAULT_SHARDS
    servers: int = 1
    prefix: str = DEFAULT_PREFIX
    cluster: bool = False

    def shard_of(self, channel: str) -> int:
        """The shard that holds `channel`."""
        return shard_of(channel, self.shards)

    def server_of(self, shard: int) -> int:
        """The index of the server that holds `shard`; not for a Redis Cluster."""
        return shard % self.servers

    def shards_of(self, server: int) -> range:
        """The shards that live on `server`; not for a Redis Cluster."""
        return range(server, self.shards, self.servers)

    def head_key(self, channel: str) -> str:
        """The hash that holds a channel's position; also the name of its pub/sub channel."""
        return f"{self.prefix}:{{{self.shard_of(channel)}}}:c:{channel}"

    def history_key(self, channel: str) -> str:
        """The list that holds a channel's history."""
        return f"{self.prefix}:{{{self.shard_of(channel)}}}:h:{channel}"

    def keys_key(self, channel: str) -> str:
        """The hash that holds, on a keyed channel, the newest publication of each key that there is."""
        return f"{self.prefix}:{{{self.shard_of(channel)}}}:k:{channel}"

    def versions_key(self, channel: str) -> str:
        """The hash that holds the newest version, where publications have one: of each key, or of the channel."""
        return f"{self.prefix}:{{{self.shard_of(channel)}}}:v:{channel}"

    def ids_key(self, channel: str) -> str:
        """The sorted set that holds the ids seen last, where publications have one."""
        return f"{self.prefix}:{{{self.shard_of(channel)}}}:i:{channel}"

    def incarnation_key(self, shard: int) -> str:
        """The string that holds a shard's incarnation."""
        return f"{self.prefix}:{{{shard}}}:incarnation"

    def beat_channel(self, shard: int) -> str:
        """The pub/sub channel of a shard's heartbeat."""
        return f"{self.prefix}:{{{shard}}}:beat"

    def layout_key(self) -> str:
        """The string that holds the layout: one on each server, or one for a Redis Cluster, beside shard 0."""
        return f"{self.prefix}:{{0}}:layout" if self.cluster else f"{self.prefix}:layout"

    def stored(self, server: int) -> StoredLayout:
        """What `server` (or the Redis Cluster, as its server 0) should say."""
        return StoredLayout(LAYOUT_VERSION, self.shards, self.servers, server, self.cluster)


def decode_layout(data: bytes, where: str) -> StoredLayout:
    """Read a stored layout; raise BusLayoutError naming the server (`where`) if it is none of this version."""
    try:
        stored = msgspec.json.decode(data, type=StoredLayout)
    except msgspec.MsgspecError as error:
        msg = f"{where} holds something else under the layout's key ({error}); choose another --bus-prefix"
        raise BusLayoutError(msg) from None
    if stored.version != LAYOUT_VERSION or not 1 <= stored.shards <= MAX_SHARDS:
        msg = f"{where} holds bus layout version {stored.version} with {stored.shards} shards; this process speaks version {LAYOUT_VERSION}"
        raise BusLayoutError(msg)
    return stored


def check_layout(stored: StoredLayout, wanted: StoredLayout, where: str) -> None:
    """Raise BusLayoutError, naming each difference, unless the server says what this process was told."""
    differences = [
        f"{name} {getattr(stored, name)}, this process was told {getattr(wanted, name)}"
        for name in ("version", "shards", "servers", "server", "cluster")
        if getattr(stored, name) != getattr(wanted, name)
    ]
    if differences:
        msg = f"{where} was set up with {'; '.join(differences)} (same --bus list and --bus-shards everywhere, in the same order)"
        raise BusLayoutError(msg)
