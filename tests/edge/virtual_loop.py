"""An event loop whose time stands still until a test moves it: coroutines run step by step, the same way each time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs callbacks only inside `do` and `advance`; timers are due when `advance` gets there."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 1_000.0
        self.failures: list[dict[str, Any]] = []
        """What callbacks and tasks raised and nobody took."""
        self.set_exception_handler(lambda _, context: self.failures.append(context))

    def time(self) -> float:
        """Seconds; only `advance` moves them."""
        return self._now

    def do(self, action: Callable[[], T]) -> T:
        """Call `action` on the loop, then run all that is ready."""
        results: list[T] = []
        errors: list[BaseException] = []

        def call() -> None:
            try:
                results.append(action())
            except BaseException as error:  # noqa: BLE001  (raised below, to the test)
                errors.append(error)

        self.call_soon(call)
        self.settle()
        if errors:
            raise errors[0]
        return results[0]

    def run(self, coroutine: Coroutine[Any, Any, T], *, within_s: float = 60) -> T:
        """Run a coroutine to its end, moving time on as it waits."""
        task = self.create_task(coroutine)
        self.settle()
        end = self._now + within_s
        while not task.done():
            assert self._now < end, f"still waiting after {within_s} virtual seconds"
            self.advance(0.05)
        return task.result()

    def settle(self) -> None:
        """Run until nothing is ready. Fails where that never comes."""
        for _ in range(10_000):
            self.call_soon(self.stop)
            self.run_forever()
            if not self._ready:  # type: ignore[attr-defined]
                return
        msg = "the loop never comes to rest"
        raise AssertionError(msg)

    def advance(self, seconds: float) -> None:
        """Move time on, from timer to timer."""
        end = self._now + seconds
        while True:
            due = [timer.when() for timer in self._scheduled if not timer.cancelled() and timer.when() <= end]  # type: ignore[attr-defined]
            if not due:
                break
            self._now = max(self._now, min(due))
            self.settle()
        self._now = end
        self.settle()

    def finish(self) -> None:
        """Cancel what is left and close."""
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        self.settle()
        self.close()
