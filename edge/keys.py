"""Reading the state of a keyed channel from the bus, while the channel is published on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from edge.core.keyed import KeyedLoad
from edge.ports import Bus
from shared.envelope import Envelope
from shared.errors import BusUnavailableError

KEYS_A_PAGE = 500
"""Asked for at once: about 2 ms of this process for small values."""
SETTLE_S = 2.0
"""How long what was published before an entry was read may take to arrive here."""
MANY_KEYS = 10_000
"""So many are put in order beside the event loop: 100,000 take 0.1 to 0.2 s of processor."""
LOOK_S = 0.01
MAX_EARLY = 50_000
MAX_EARLY_BYTES = 33_554_432
"""Publications that wait while the state is read."""


async def read_state(bus: Bus, channel: str, load: KeyedLoad, early: Sequence[Envelope]) -> None:
    """Read all keys, and wait until `early`, to which what is published is added meanwhile, has brought what the entries are ahead by.

    Raises BusUnavailableError where that does not work now, and StateTooLargeError.
    """
    cursor, is_same = 0, True
    while is_same:
        page = await bus.read_keys(channel, cursor, KEYS_A_PAGE)
        is_same, cursor = load.add(page.envelopes), page.cursor
        if not cursor:
            break
    if not is_same or not await _finish(load, (await bus.read(channel, 1)).envelopes):
        msg = f"{channel} has started anew while its keys were read"
        raise BusUnavailableError(msg)
    taken = 0
    for _ in range(int(SETTLE_S / LOOK_S)):
        why = load.follow(early[taken:])
        taken = len(early)
        if why:
            msg = f"{channel}: its publications did not all arrive while its keys were read: {why}"
            raise BusUnavailableError(msg)
        if load.is_settled:
            return
        await asyncio.sleep(LOOK_S)
    msg = f"{channel}: what was published while its keys were read does not arrive"
    raise BusUnavailableError(msg)


async def _finish(load: KeyedLoad, newest: Sequence[Envelope]) -> bool:
    # Nobody else has the load, and the interpreter goes to and fro between the two threads: nobody waits for all of it.
    return await asyncio.to_thread(load.finish, newest) if len(load) > MANY_KEYS else load.finish(newest)
