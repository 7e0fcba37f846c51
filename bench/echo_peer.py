"""From a Redis subscription to sockets, and nothing else: what bench_latency.py compares with.

usage: python -m bench.echo_peer PORT REDIS_PORT PREFIX

A client sends a WebSocket handshake (which is answered, not checked) and one frame that names a channel; it gets what is published on it.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections import defaultdict

import redis.asyncio

ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


async def main() -> None:
    """See the module."""
    port, redis_port, prefix = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    writers: defaultdict[bytes, list[asyncio.StreamWriter]] = defaultdict(list)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        asked = re.search(rb'"channel":"([^"]+)"', await reader.readuntil(b"}"))
        assert asked is not None
        writers[prefix.encode() + asked[1]].append(writer)
        writer.write(b"\x81\x02{}")
        await reader.read()

    subscription = redis.asyncio.Redis(port=redis_port).pubsub()
    await subscription.psubscribe(f"{prefix}*")
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=4096)
    async with server:
        async for message in subscription.listen():
            if message["type"] == "pmessage":
                data: bytes = message["data"]
                frame = bytes((0x81, len(data))) + data
                for writer in writers[message["channel"]]:
                    writer.write(frame)


if __name__ == "__main__":
    asyncio.run(main())
