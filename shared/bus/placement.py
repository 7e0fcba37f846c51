"""Which server holds which shard: dealt out among servers that know nothing of each other, or wherever a Redis Cluster has it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import redis

from shared.bus.layout import BusLayout, StoredLayout
from shared.bus.servers import connect_server, connect_servers, is_cluster, server_url
from shared.bus.slots import ClusterNode, Owners, parse_owners
from shared.errors import BusLayoutError, BusUnavailableError

MAX_ASKED = 4
"""Nodes that are asked, one after the other, who owns what: each may cost a time-out."""


class Home(NamedTuple):
    """A server, and what lives on it now."""

    client: redis.Redis
    """The same object as long as it is the same server."""
    shards: Sequence[int]
    says: StoredLayout | None
    """What is stored on it under the layout's key; None where that key lives elsewhere."""


class Placement(Protocol):
    """Knows where each shard of a bus lives."""

    in_cluster: bool
    """Whether the servers are nodes of a Redis Cluster, where pub/sub is sharded."""

    def homes(self, layout: BusLayout) -> list[Home]:
        """Where each shard lives now; every shard is somewhere.

        Raises BusUnavailableError where that cannot be found out, BusLayoutError where the servers are not what they were said to be.
        """


class Servers:
    """One Redis server, or several independent ones: shard s lives on server s modulo their number, for good."""

    in_cluster = False

    def __init__(self, clients: Sequence[redis.Redis]) -> None:
        self._clients = clients

    def homes(self, layout: BusLayout) -> list[Home]:
        """See `Placement`."""
        return [Home(client, layout.shards_of(index), layout.stored(index)) for index, client in enumerate(self._clients)]


class Cluster:
    """A Redis Cluster, known by some of its nodes."""

    in_cluster = True

    def __init__(self, seeds: Sequence[str], *, shuffle: Callable[[list[str]], None] = random.shuffle) -> None:
        """Take the nodes' URLs as `parse_servers` returns them."""
        self._seeds = [server_url(seed) for seed in seeds]
        self._shuffle = shuffle
        self._clients: dict[str, redis.Redis] = {}

    def __repr__(self) -> str:
        return f"<Cluster of {len(self._clients)} known nodes>"

    def homes(self, layout: BusLayout) -> list[Home]:
        """See `Placement`."""
        placed = self._ask_for_owners().place(layout.shards)
        if sum(map(len, placed.values())) < layout.shards:
            msg = "some slots of the cluster have no owner"
            raise BusUnavailableError(msg)
        urls = {server_url(self._seeds[0], node): shards for node, shards in placed.items()}
        for gone in self._clients.keys() - urls.keys() - set(self._seeds):
            self._clients.pop(gone).close()
        return [Home(self._client(url), shards, layout.stored(0) if 0 in shards else None) for url, shards in urls.items()]

    def _ask_for_owners(self) -> Owners:
        # Never the same first: a node that lost touch with the others would give its old answer for ever.
        urls = list(dict.fromkeys([*self._clients, *self._seeds]))
        self._shuffle(urls)
        problem = ""
        for url in urls[:MAX_ASKED]:
            client = self._client(url)
            settings = client.connection_pool.connection_kwargs
            node = ClusterNode(settings.get("host", ""), settings.get("port", 0))
            try:
                return parse_owners(ask_plainly(client, "CLUSTER", "SLOTS"), node.host)
            except redis.ResponseError as error:
                if "cluster support disabled" in str(error):
                    msg = f"Redis {node.name} is no node of a Redis Cluster: write --bus redis://..."
                    raise BusLayoutError(msg) from error
                problem = f"Redis {node.name} refused CLUSTER SLOTS: {error}"
            except (redis.RedisError, OSError) as error:
                problem = f"Redis {node.name}: {error}"
        raise BusUnavailableError(problem)

    def _client(self, url: str) -> redis.Redis:
        client = self._clients.get(url)
        if client is None:
            client = self._clients[url] = connect_server(url)
        return client


def ask_plainly(client: redis.Redis, *command: str | int | bytes) -> Any:
    """The answer as it came: redis-py reads the answers of some commands in its own way, another one in each major version."""
    pool = client.connection_pool
    connection: Any = pool.get_connection()  # redis-py types only a part of what it has.
    try:
        connection.send_command(*command)
        return connection.read_response()
    except redis.ResponseError:
        raise
    except BaseException:
        connection.disconnect()  # An answer that is still under way must not be taken for the next one.
        raise
    finally:
        pool.release(connection)


def place(urls: Sequence[str]) -> Placement:
    """The placement for these URLs of `parse_servers`. Nothing is sent yet."""
    return Cluster(urls) if is_cluster(urls) else Servers(connect_servers(urls))
