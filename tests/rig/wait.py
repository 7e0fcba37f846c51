"""Wait for a condition, never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0
"""For what a process does in a second on a machine of its own. Waiting ends when it has happened: patience costs nothing."""


class WaitTimeoutError(AssertionError):
    """What a test waited for did not come; the message tells what it saw last."""


class _Watch:
    """What was seen so far, and until when to look on."""

    def __init__(self, timeout_s: float, what: str, state: Callable[[], object] | None, ignore: tuple[type[Exception], ...]) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._what = what
        self._state = state
        self.ignore = ignore
        self.last: object = None

    def check_time(self) -> None:
        if time.monotonic() < self._deadline:
            return
        msg = f"waited {self._timeout_s:g} s for {self._what}; last seen: {self.last!r}"
        if self._state is not None:
            msg += f"; state: {self._state()}"
        raise WaitTimeoutError(msg)


def wait_until(
    condition: Callable[[], T | None],
    *,
    timeout_s: float = PATIENCE_S,
    what: str,
    interval_s: float = 0.02,
    state: Callable[[], object] | None = None,
    ignore: tuple[type[Exception], ...] = (),
) -> T:
    """Call `condition` until it returns something true, and return that.

    Exceptions of the types in `ignore` count as "not yet". Raises WaitTimeoutError after `timeout_s` seconds, with the last
    value or exception and, where given, `state()`.
    """
    watch = _Watch(timeout_s, what, state, ignore)
    while True:
        try:
            result = condition()
        except ignore as error:
            watch.last = error
        else:
            if result:
                return result
            watch.last = result
        watch.check_time()
        time.sleep(interval_s)


async def wait_until_async(
    condition: Callable[[], T | Awaitable[T | None] | None],
    *,
    timeout_s: float = PATIENCE_S,
    what: str,
    interval_s: float = 0.02,
    state: Callable[[], object] | None = None,
    ignore: tuple[type[Exception], ...] = (),
) -> T:
    """As wait_until, without blocking the event loop; `condition` may be a coroutine function."""
    watch = _Watch(timeout_s, what, state, ignore)
    while True:
        try:
            answer = condition()
            result = await answer if inspect.isawaitable(answer) else answer
        except ignore as error:
            watch.last = error
        else:
            if result:
                return result
            watch.last = result
        watch.check_time()
        await asyncio.sleep(interval_s)
