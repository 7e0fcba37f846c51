"""Who a Redis server is, this time: what an incarnation is tied to (docs/adr/0004-incarnations.md, 0007-redis-cluster.md)."""

from __future__ import annotations

from shared.errors import BusLayoutError

RUN_ID_BYTES = 40
CLUSTER_SINCE = 7
"""The first major version of Redis with sharded pub/sub."""


def read_run_id(info: object, where: str, *, in_cluster: bool) -> bytes:
    """The run id in the answer to INFO server; raise BusLayoutError where the server is no part of such a bus (`where` names it)."""
    fields = _fields(info)
    run_id = fields.get(b"run_id", b"")
    if len(run_id) != RUN_ID_BYTES:
        msg = f"{where} does not tell its run id (INFO server): the user needs +info"
        raise BusLayoutError(msg)
    is_node = fields.get(b"redis_mode") == b"cluster"
    if is_node and not in_cluster:
        msg = f"{where} is a node of a Redis Cluster: write --bus redis+cluster://..."
        raise BusLayoutError(msg)
    if in_cluster and int(fields.get(b"redis_version", b"0").split(b".")[0]) < CLUSTER_SINCE:
        msg = f"{where} is Redis {fields[b'redis_version'].decode()}: a Redis Cluster must be of version {CLUSTER_SINCE} or later"
        raise BusLayoutError(msg)
    return run_id


def read_replication_id(info: object) -> bytes:
    """The replication id in the answer to INFO replication: another one each time that a replica takes over."""
    return _fields(info).get(b"master_replid", b"")


def read_eviction_policy(info: object) -> str:
    """What the server does when it is full, from the answer to INFO memory; empty where it does not tell."""
    return _fields(info).get(b"maxmemory_policy", b"").decode(errors="replace")


def _fields(info: object) -> dict[bytes, bytes]:
    # redis-py has no callback here, but a decoding client would give text.
    data = info if isinstance(info, bytes) else str(info).encode()
    pairs = (line.partition(b":") for line in data.splitlines())
    return {name: value.strip() for name, _, value in pairs}
