"""Which Redis servers make up a bus, as an operator writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.bus.slots import ClusterNode
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    import redis

CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 5.0

_CLUSTER = "+cluster://"


def parse_servers(bus: str) -> list[str]:
    """Split a bus' address into one URL a server and check each; raise ConfigurationError with all problems.

    `redis://HOST:PORT/DB,redis://...` (also rediss:// and unix://) are independent servers, among which the shards are dealt out.
    `redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT?OPTIONS` (also rediss+cluster://) names some nodes of one Redis Cluster, from
    which the others are learned; what is before the first host and after the last holds for all nodes.
    """
    urls = [url.strip() for url in bus.split(",") if url.strip()]
    if urls and _CLUSTER in urls[0]:
        urls = _complete(urls)
    problems = [problem for url in urls if (problem := _problem_with(url))]
    if not urls:
        problems.append("--bus names no server; it looks like redis://127.0.0.1:6379")
    if len({_CLUSTER in url for url in urls}) > 1:
        problems.append("--bus: a bus is one Redis Cluster or servers of their own, not both")
    if problems:
        raise ConfigurationError(problems)
    return urls


def is_cluster(urls: Sequence[str]) -> bool:
    """Whether these URLs of `parse_servers` are nodes of one Redis Cluster."""
    return _CLUSTER in urls[0]


def server_url(url: str, node: ClusterNode | None = None) -> str:
    """The URL of a cluster's node as one of a plain server; with `node`, that of another node of the same cluster."""
    plain = url.replace(_CLUSTER, "://", 1)
    if node is None:
        return plain
    parts = urlsplit(plain)
    user, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{at}{node.name}").geturl()


def redacted(url: str) -> str:
    """The URL without its password, for logs. What is behind a `?` may be one, too."""
    url, mark, _ = url.partition("?")
    password = urlsplit(url).password
    return (url.replace(f":{password}@", ":***@") if password else url) + (mark and "?***")


def connect_server(url: str) -> redis.Redis:
    """A client for a server. Nothing is sent yet; every call has a time-out and no retries of its own."""
    import redis  # noqa: PLC0415 - only here: to read an address, and so for `--help`, no library is needed
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    client: redis.Redis = redis.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=ANSWER_TIMEOUT_S,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        client_name="distributary-bridge",
        max_connections=2,
    )
    return client


def connect_servers(urls: Sequence[str]) -> list[redis.Redis]:
    """A client for each of several servers, as `connect_server` makes it."""
    return [connect_server(url) for url in urls]


def _complete(urls: list[str]) -> list[str]:
    """Give every node of a cluster what is written once: scheme and user before the first host, options after the last."""
    scheme, mark, rest = urls[0].partition("://")
    user, at, _ = rest.partition("?")[0].rpartition("@")
    options = next((url.partition("?")[2] for url in urls if "?" in url), "")
    completed = []
    for url in urls:
        host = url.partition("?")[0]
        node = host if "://" in host else f"{scheme}{mark}{user}{at}{host}"
        completed.append(f"{node}?{options}" if options else node)
    return completed


def _problem_with(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"redis", "rediss", "unix", "redis+cluster", "rediss+cluster"}
        valid = bool(parts.path) if parts.scheme == "unix" else bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError as error:
        return f"--bus: {redacted_or_plain(url)}: {error}"
    if not known:
        return (
            f"--bus: {redacted(url)}: unknown scheme {parts.scheme!r}; use redis://, rediss:// (TLS), unix://, "
            "redis+cluster:// or rediss+cluster://"
        )
    if _CLUSTER in url and parts.path not in {"", "/", "/0"}:
        return f"--bus: {redacted(url)}: a Redis Cluster has database 0 only"
    return None if valid else f"--bus: {redacted(url)}: no host; it looks like redis://127.0.0.1:6379"


def redacted_or_plain(url: str) -> str:
    """As `redacted`, for a URL that may not parse."""
    head, at, tail = url.rpartition("@")
    return f"***@{tail}" if at and head else url
