"""Which servers the edge is linked to, and which shard is whose: a list that stays, or what a Redis Cluster says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from edge.adapters.redis_connection import Address, RedisConnection
from edge.adapters.redis_link import PLAIN, SHARDED, Link, LinkOwner
from shared.bus.layout import BusLayout, StoredLayout, check_layout, decode_layout
from shared.bus.slots import ClusterNode, Owners, parse_owners
from shared.errors import BusLayoutError, BusUnavailableError
from shared.telemetry import Log

log = Log("distributary.edge.bus")

LAYOUT_RETRY_S = 0.5
FIRST_LOOK_S = 0.05
LAST_LOOK_S = 5.0
"""How long to wait before a cluster is asked again who owns what: ever longer while doubts go on."""
CALM_S = 15.0
"""After so long without a doubt the next one is looked into at once."""
REGULAR_LOOK_S = 30.0
MAX_ASKED = 4
"""Nodes that are asked in one go, one after the other."""


class ServerLinks:
    """One server, or several independent ones: shard s lives on server s modulo their number, for good."""

    def __init__(self, owner: LinkOwner, addresses: Sequence[Address], prefix: str) -> None:
        self._owner = owner
        self._prefix = prefix
        self.layout: BusLayout | None = None
        self.has_layout = asyncio.Event()
        count = len(addresses)
        names = [
            f"Redis {address.name}" + (f" (server {index} of {count})" if count > 1 else "") for index, address in enumerate(addresses, 1)
        ]
        self.links = [Link(owner, address, name, PLAIN) for address, name in zip(addresses, names, strict=True)]

    def link_of(self, shard: int) -> Link:
        """The link to the server on which the shard lives. The layout must be known."""
        return self.links[shard % len(self.links)]

    def doubt(self, link: Link) -> None:
        """Nothing moves between these servers."""

    async def run(self) -> None:
        """Keep every server connected until cancelled. Raises BusLayoutError where one is set up otherwise."""
        async with asyncio.TaskGroup() as tasks:
            for link in self.links:
                tasks.create_task(link.keep_connected())

    async def learn_layout(self, link: Link, reader: RedisConnection) -> BusLayout:
        """See `LinkOwner`: each server has the layout; wait until a bridge has stored it on one."""
        index, key = self.links.index(link), BusLayout(prefix=self._prefix).layout_key()
        while True:
            stored = await reader.ask("GET", key)
            if stored is not None or self.layout is not None:
                break
            await asyncio.sleep(self._owner.jittered(LAYOUT_RETRY_S))
        layout = self.layout
        if stored is not None:
            said = decode_layout(stored, link.where)
            layout = layout or BusLayout(said.shards, len(self.links), self._prefix)
            check_layout(said, layout.stored(index), link.where)
        assert layout is not None  # noqa: S101  (the loop above ends with one of the two)
        link.assign(layout.shards_of(index))
        self.layout = layout
        self.has_layout.set()
        return layout


class ClusterLinks:
    """A Redis Cluster: a link to each primary that owns a shard, and the shards follow their slots."""

    def __init__(self, owner: LinkOwner, seeds: Sequence[Address], prefix: str, random: Callable[[], float]) -> None:
        self._owner = owner
        self._seeds = seeds
        self._prefix = prefix
        self._random = random
        self.layout: BusLayout | None = None
        self.has_layout = asyncio.Event()
        self._links: dict[ClusterNode, tuple[Link, asyncio.Task[None]]] = {}
        self._by_shard: dict[int, Link] = {}
        self._doubted = asyncio.Event()
        self._witness: Address | None = None
        """The node that knows better, as it seems."""
        self._asked: Address | None = None

    def __repr__(self) -> str:
        return f"<ClusterLinks {self.links}>"

    @property
    def links(self) -> list[Link]:
        """To every node on which something lives, as far as is known."""
        return [link for link, _ in self._links.values()]

    def link_of(self, shard: int) -> Link:
        """The link to the node on which the shard lives; raise BusUnavailableError where that is none."""
        link = self._by_shard.get(shard)
        if link is None:
            msg = f"no node of the cluster owns shard {shard}"
            raise BusUnavailableError(msg)
        return link

    def doubt(self, link: Link) -> None:
        """Ask the cluster soon who owns what. A node that is still there and sent us away knows it best."""
        if link.is_up:
            self._witness = link.address
        self._doubted.set()

    async def learn_layout(self, link: Link, _reader: RedisConnection) -> BusLayout:
        """See `LinkOwner`: it was learned before there was any link."""
        if self.layout is None:
            msg = f"{link.where}: the layout of the bus is not known"
            raise BusUnavailableError(msg)
        return self.layout

    async def run(self) -> None:
        """Follow the cluster until cancelled. Raises BusLayoutError where it is set up otherwise."""
        pause_s, looked_at = FIRST_LOOK_S, 0.0
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._doubted.clear()
                if self._owner.now() - looked_at > CALM_S:
                    pause_s = FIRST_LOOK_S
                looked_at = self._owner.now()
                try:
                    owners = await self._look()
                except BusUnavailableError as error:
                    log.warning(str(error), retry_in_s=round(pause_s, 2))
                else:
                    self._settle(tasks, owners)
                    await self._wait_for_doubt()
                await asyncio.sleep(self._owner.jittered(pause_s))
                pause_s = min(pause_s * 2, LAYOUT_RETRY_S if self.layout is None else LAST_LOOK_S)

    async def _wait_for_doubt(self) -> None:
        try:
            async with asyncio.timeout(self._owner.jittered(REGULAR_LOOK_S)):
                await self._doubted.wait()
        except TimeoutError:
            return

    async def _look(self) -> Owners:
        """Ask a node who owns what, and the one with shard 0 for the layout."""
        problem = "no node of the cluster is known"
        for address in self._to_ask()[:MAX_ASKED]:
            self._asked = address
            try:
                owners = await _ask_for_owners(address)
            except BusUnavailableError as error:
                problem = str(error)
                continue
            await self._check_layout(owners)
            return owners
        raise BusUnavailableError(problem)

    def _to_ask(self) -> list[Address]:
        """The witness first, but not twice running: a node that lost touch with the others gives its old answer for ever."""
        known = {address.name: address for address in (*self._seeds, *(link.address for link in self.links))}
        addresses = sorted(known.values(), key=lambda _: self._random())
        witness, self._witness = self._witness, None
        return addresses if witness is None or witness == self._asked else [witness, *addresses]

    async def _check_layout(self, owners: Owners) -> None:
        try:
            stored = await self._read_layout(owners)
        except BusUnavailableError:
            # Whoever holds the layout may be the very node that is away: what lives elsewhere goes on.
            if self.layout is None:
                raise
            return
        where = "the Redis Cluster"
        if stored is not None:
            layout = self.layout or BusLayout(stored.shards, 1, self._prefix, cluster=True)
            check_layout(stored, layout.stored(0), where)
            self.layout = layout
        elif self.layout is None:
            msg = f"no bridge has set this bus up yet on {where}"
            raise BusUnavailableError(msg)

    async def _read_layout(self, owners: Owners) -> StoredLayout | None:
        owner = owners.owner_of(0)
        if owner is None:
            msg = "no node of the cluster owns shard 0"
            raise BusUnavailableError(msg)
        connection = await RedisConnection.open(self._address_of(owner))
        try:
            stored = await connection.ask("GET", BusLayout(prefix=self._prefix, cluster=True).layout_key())
        finally:
            connection.close()
        return None if stored is None else decode_layout(stored, f"Redis {owner.name}")

    def _settle(self, tasks: asyncio.TaskGroup, owners: Owners) -> None:
        """Link to whoever owns something now, and let go of the others."""
        assert self.layout is not None  # noqa: S101  (no look succeeds before it is known)
        homes = owners.place(self.layout.shards)
        for node in homes.keys() - self._links.keys():
            link = Link(self._owner, self._address_of(node), f"Redis {node.name}", SHARDED)
            link.shards = frozenset(homes[node])
            self._links[node] = link, tasks.create_task(link.keep_connected())
        gone = [self._links.pop(node) for node in self._links.keys() - homes.keys()]
        self._by_shard = {shard: self._links[node][0] for node, shards in homes.items() for shard in shards}
        self.has_layout.set()
        if any(self._links[node][0].shards != frozenset(shards) for node, shards in homes.items()) or gone:
            log.info("shards moved", servers=", ".join(f"{node.name} {shards}" for node, shards in homes.items()))
        for link, task in gone:
            link.assign(())
            task.cancel()
        for node, shards in homes.items():
            self._links[node][0].assign(shards)

    def _address_of(self, node: ClusterNode) -> Address:
        return msgspec.structs.replace(self._seeds[0], name=node.name, host=node.host, port=node.port, path="")


async def _ask_for_owners(address: Address) -> Owners:
    connection = await RedisConnection.open(address)
    try:
        return parse_owners(await connection.ask("CLUSTER", "SLOTS"), address.host)
    except BusUnavailableError as error:
        if "cluster support disabled" in str(error):
            msg = f"Redis {address.name} is no node of a Redis Cluster: write --bus redis://..."
            raise BusLayoutError(msg) from error
        raise
    finally:
        connection.close()
