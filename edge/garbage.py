"""When Python's garbage collector works in an edge.

Hardly anything here is garbage: sessions, channels and publications hold no circles, so that reference counts free them
(tests/edge/test_garbage.py). What the collector does by itself is look through everything that lives, each time that it has grown by a
quarter: 0.7 s at a stretch with 100,000 channels. So it only looks through what is young, and once a second what has become old is put
where it does not look at all (gc.freeze). Circles that became garbage there are found when nobody is connected.
"""

from __future__ import annotations

import gc

YOUNG = 2_000
"""Objects, net, after which the young ones are looked through: about 1 ms."""
MIDDLE = 4
"""After so many times what is left of these, too: about 7 ms."""
MANY = 10_000
"""More new objects than that in a second are not looked through at once: while thousands come, that would stop them for too long."""
NEVER = 1 << 30


def take_over() -> None:
    """Begin, once what the start makes is there: it stays."""
    gc.set_threshold(YOUNG, MIDDLE, NEVER)
    gc.collect()
    gc.freeze()


def put_old_aside(*, is_idle: bool) -> None:
    """Call it every second. `is_idle`: nobody is connected, so that this is the time to look through everything."""
    new, young_rounds, middle_rounds = gc.get_count()
    new += YOUNG * (young_rounds + MIDDLE * middle_rounds)
    if new < YOUNG:
        return
    if is_idle:
        gc.unfreeze()
    gc.collect(1 if new > MANY and not is_idle else 2)
    gc.freeze()
    gc.collect()  # Of nothing: the counts begin anew.
