"""Which Redis servers make up a bus, as an operator writes them."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.errors import ConfigurationError

CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 5.0


def parse_servers(bus: str) -> list[str]:
    """Split `redis://HOST:PORT/DB,redis://...` (also rediss:// and unix://) and check each; raise ConfigurationError with all problems."""
    urls = [url.strip() for url in bus.split(",") if url.strip()]
    problems = [problem for url in urls if (problem := _problem_with(url))]
    if not urls:
        problems.append("--bus names no server; it looks like redis://127.0.0.1:6379")
    if problems:
        raise ConfigurationError(problems)
    return urls


def redacted(url: str) -> str:
    """The URL without its password, for logs. What is behind a `?` may be one, too."""
    url, mark, _ = url.partition("?")
    password = urlsplit(url).password
    return (url.replace(f":{password}@", ":***@") if password else url) + (mark and "?***")


def connect_servers(urls: Sequence[str]) -> list[redis.Redis]:
    """A client for each server. Nothing is sent yet; every call has a time-out and no retries of its own."""
    return [
        redis.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            client_name="distributary-bridge",
            max_connections=2,
        )
        for url in urls
    ]


def _problem_with(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"redis", "rediss", "unix"}
        valid = bool(parts.path) if parts.scheme == "unix" else bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError as error:
        return f"--bus: {redacted_or_plain(url)}: {error}"
    if not known:
        return f"--bus: {redacted(url)}: unknown scheme {parts.scheme!r}; use redis://, rediss:// (TLS) or unix://"
    return None if valid else f"--bus: {redacted(url)}: no host; it looks like redis://127.0.0.1:6379"


def redacted_or_plain(url: str) -> str:
    """As `redacted`, for a URL that may not parse."""
    head, at, tail = url.rpartition("@")
    return f"***@{tail}" if at and head else url
