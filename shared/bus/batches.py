"""Which pushes go to Redis in one call of the publish script, in which order the calls are made, and which must wait for others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from shared.bus.layout import BusLayout
from shared.bus.push import Push

MAX_BATCH = 200
MAX_BATCH_BYTES = 1_048_576
"""A script holds Redis while it runs: so many publications, or so many bytes, make one call."""


Line = tuple[str, bytes]
"""A channel and a source: within it the order of publications holds."""


class Batch(NamedTuple):
    """Some pushes of one shard, by their index."""

    shard: int
    members: list[int]


def rounds_of(pushes: Sequence[Push], layout: BusLayout) -> list[list[Batch]]:
    """Split pushes by shard, in order, into batches within MAX_BATCH and MAX_BATCH_BYTES (one push that is larger goes alone).

    The n-th batch of each shard is in the n-th round.
    """
    rounds: list[list[Batch]] = []
    newest: dict[int, tuple[Batch, int, int]] = {}
    for at, push in enumerate(pushes):
        shard = layout.shard_of(push.channel)
        size = len(push.payload) + len(push.delta)
        batch, number, total = newest.get(shard, (None, -1, 0))
        if batch is None or len(batch.members) >= MAX_BATCH or total + size > MAX_BATCH_BYTES:
            batch, number, total = Batch(shard, []), number + 1, 0
            if number == len(rounds):
                rounds.append([])
            rounds[number].append(batch)
        batch.members.append(at)
        newest[shard] = (batch, number, total + size)
    return rounds


def line_of(push: Push) -> Line:
    """The line in which it stands."""
    return push.channel, push.source.id


def without_stopped(batches: Sequence[Batch], pushes: Sequence[Push], stopped: Collection[Line]) -> list[Batch]:
    """The batches without what is behind a publication that failed in an earlier round (`Keep.stops_at_failure`)."""
    found = []
    for batch in batches:
        members = [at for at in batch.members if pushes[at].restore or line_of(pushes[at]) not in stopped]
        if members:
            found.append(Batch(batch.shard, members))
    return found
