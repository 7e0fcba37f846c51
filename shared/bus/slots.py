"""Where the shards of a bus are in a Redis Cluster: their slots, and who owns which slot (redis.io, "Redis cluster specification")."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable
from typing import Any, NamedTuple

SLOTS = 16_384


def slot_of(shard: int) -> int:
    """The slot of every key and every pub/sub channel of a shard: they all carry the hash tag `{SHARD}`."""
    return crc_hqx(str(shard).encode(), 0) % SLOTS


class ClusterNode(NamedTuple):
    """A node of a cluster, as the cluster tells clients to reach it."""

    host: str
    port: int

    @property
    def name(self) -> str:
        """For logs."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Owners:
    """Which primary owns which slots, as one node saw it. It may be behind: whoever is asked in vain says MOVED."""

    def __init__(self, ranges: Iterable[tuple[int, int, ClusterNode]]) -> None:
        self._ranges = sorted(ranges)

    def __repr__(self) -> str:
        return f"<Owners {', '.join(f'{first}-{last} {node.name}' for first, last, node in self._ranges)}>"

    def owner_of(self, shard: int) -> ClusterNode | None:
        """The primary that owns the shard's slot, if any does."""
        slot = slot_of(shard)
        return next((node for first, last, node in self._ranges if first <= slot <= last), None)

    def place(self, shards: int) -> dict[ClusterNode, list[int]]:
        """The shards 0 to `shards` - 1 by their owner. Those that have none are left out."""
        homes: dict[ClusterNode, list[int]] = {}
        for shard in range(shards):
            owner = self.owner_of(shard)
            if owner is not None:
                homes.setdefault(owner, []).append(shard)
        return homes


def parse_owners(answer: Any, asked: str) -> Owners:
    """Read the answer to CLUSTER SLOTS. A node that does not know its own address means the one under which it was asked, `asked`."""
    ranges = []
    for first, last, primary, *_ in answer:
        host = (primary[0] or b"").decode() or asked
        if host != "?":
            ranges.append((int(first), int(last), ClusterNode(host, int(primary[1]))))
    return Owners(ranges)
