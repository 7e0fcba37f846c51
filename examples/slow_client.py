"""The three delivery modes side by side, with clients that are too slow: `python examples/slow_client.py`, while `make demo` runs.

Each mode has a client of its own that works so long on a publication that 5 are made for 2 that it handles. What is printed is how many
publications each of them is behind. Ctrl-C ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import Annotated, Any

import typer

from distributary import Client, ClientError, Options, Subscription

SLOWNESS = 2.5
"""Publications that are made while a client works on one."""
MEASURED = 4
"""Intervals between publications that are looked at first."""

WISHES: dict[str, dict[str, Any]] = {"queue": {"mode": "queue"}, "conflate": {"mode": "conflate"}, "ack": {"mode": "ack", "window": 8}}


class Channel:
    """Where the channel is, and where the client in each mode is."""

    def __init__(self) -> None:
        self.newest = 0
        self.handled: dict[str, int] = {}

    def line(self) -> str:
        """How far behind each mode is."""
        lags = ", ".join(f"{mode} {self.newest - offset:4} behind" for mode, offset in self.handled.items())
        return f"publication {self.newest}: {lags}"


async def follow(subscription: Subscription, channel: Channel) -> None:
    """Read everything at once, and print where everybody is."""
    async for publication in subscription:
        channel.newest = publication.position.offset
        if channel.handled:
            print(channel.line(), flush=True)


async def work_slowly(url: str, name: str, mode: str, channel: Channel, work_s: float) -> None:
    """Handle publications in one mode."""
    # Its own queue is short, so that in mode queue the backlog is the edge's to deal with.
    async with Client(url, options=Options(name=f"slow-{mode}", max_queue=2)) as client:
        subscription = client.subscribe(name, **WISHES[mode])
        async for publication in subscription:
            channel.handled[mode] = publication.position.offset
            await asyncio.sleep(work_s)
            if mode == "ack":
                await subscription.ack(publication)


async def compare(url: str, name: str) -> None:
    """Until it is cancelled."""
    channel = Channel()
    async with Client(url) as witness:
        subscription = witness.subscribe(name)
        print(f"Measuring how often {name} changes ...", flush=True)
        await anext(subscription)
        began = time.monotonic()
        for _ in range(MEASURED):
            await anext(subscription)
        work_s = SLOWNESS * (time.monotonic() - began) / MEASURED
        print(f"Each client works {work_s:.2f} s on a publication. Ctrl-C ends it.", flush=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(subscription, channel))
            for mode in WISHES:
                group.create_task(work_slowly(url, name, mode, channel, work_s))


def main(
    url: Annotated[str, typer.Argument(help="The edge.")] = "ws://127.0.0.1:8000",
    channel: Annotated[str, typer.Argument(help="A channel that changes often.")] = "feed",
) -> None:
    """Show how far behind a slow client is in each delivery mode."""
    problem = ""
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(compare(url, channel))
        except* ClientError as errors:
            problem = str(errors.exceptions[0])
    if problem:
        print(f"slow_client: {problem}", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
