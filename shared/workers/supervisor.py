"""The parent of workers: it starts them, replaces those that die, and stops them all. It does none of the work itself."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from shared.errors import DistributaryError
from shared.telemetry import Log
from shared.workers.orders import REFUSED, WorkerStarted, WorkerState

START_TIMEOUT_S = 60.0
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 30.0
STABLE_S = 30.0
"""A worker that lived so long is replaced as if it had never died before."""


class WorkersError(DistributaryError):
    """No worker can be what it was told to be."""


class Supervisor:
    """Keeps as many workers as there are `orders`, each a Python process of `module`, which tells when it has started.

    A worker that does not end within `stop_timeout_s` after SIGTERM is killed. `on_line`, where given, gets each line that workers print
    on standard error; else they share the parent's.
    """

    def __init__(
        self, module: str, orders: Sequence[bytes], *, stop_timeout_s: float, log: Log, on_line: Callable[[bytes], None] | None = None
    ) -> None:
        self.stopping = asyncio.Event()
        """Set to end all workers."""
        self._module = module
        self._orders = list(orders)
        self._stop_timeout_s = stop_timeout_s
        self._log = log
        self._workers = [_Worker(index, log, on_line) for index in range(len(self._orders))]

    def __repr__(self) -> str:
        return f"<Supervisor of {self._module}: {self.states()}>"

    def states(self) -> list[WorkerState]:
        """What is known of the workers."""
        return [worker.state() for worker in self._workers]

    def stop_on_signals(self) -> None:
        """SIGTERM and SIGINT end all workers in peace; a second one ends them at once, and us (SystemExit)."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to each worker."""
        for worker in self._workers:
            worker.signal(number)

    async def run(self, on_all_started: Callable[[], None]) -> None:
        """Until `stopping` is set and all have ended. Raises WorkersError where no worker can be what it was told to be."""
        started = asyncio.create_task(self._wait_until_started(on_all_started))
        keepers = [asyncio.create_task(self._keep(worker, orders)) for worker, orders in zip(self._workers, self._orders, strict=True)]
        try:
            await asyncio.wait(keepers)
        finally:
            started.cancel()
        for keeper in keepers:
            keeper.result()

    async def _wait_until_started(self, on_all_started: Callable[[], None]) -> None:
        for worker in self._workers:
            await worker.has_started.wait()
        on_all_started()

    async def _keep(self, worker: _Worker, orders: bytes) -> None:
        """Start a worker, and another whenever it ends, until told to stop."""
        retry_s = FIRST_RETRY_S
        try:
            while not self.stopping.is_set():
                begun = time.monotonic()
                status = await worker.live(self._module, orders, self.stopping, self._stop_timeout_s)
                if self.stopping.is_set():
                    return
                if status == REFUSED or not worker.has_started.is_set():
                    msg = f"worker {worker.index} cannot serve (it ended with status {status}); what it said stands above"
                    raise WorkersError(msg)
                retry_s = FIRST_RETRY_S if time.monotonic() - begun >= STABLE_S else min(retry_s * 2, LAST_RETRY_S)
                self._log.warning("a worker ended; another takes its place", worker=worker.index, status=status, in_s=retry_s)
                worker.restarts += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), retry_s)
        finally:
            self.stopping.set()  # One that cannot serve ends them all.

    def _on_signal(self) -> None:
        if self.stopping.is_set():
            for worker in self._workers:
                worker.signal(signal.SIGKILL)
            raise SystemExit(130)
        self._log.info("stopping", workers=len(self._workers))
        self.stopping.set()


class _Worker:
    """One place among the workers, and the process that holds it now."""

    def __init__(self, index: int, log: Log, on_line: Callable[[bytes], None] | None) -> None:
        self.index = index
        self.restarts = 0
        self.has_started = asyncio.Event()
        """Whether the place was ever filled."""
        self._log = log
        self._on_line = on_line
        self._process: Process | None = None
        self._internal_port: int | None = None
        self._is_serving = False

    def __repr__(self) -> str:
        return f"<Worker {self.index} {self.state()}>"

    def state(self) -> WorkerState:
        """What is known of it."""
        pid = None if self._process is None else self._process.pid
        return WorkerState(self.index, pid, self._is_serving, self._internal_port, self.restarts)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there and has started: before, a signal other than SIGKILL could end it."""
        if self._process is not None and (self._is_serving or number == signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def live(self, module: str, orders: bytes, stopping: asyncio.Event, stop_timeout_s: float) -> int:
        """One life of the worker: until it ends, or has ended because it was told to. Returns its exit status."""
        # A session of its own: Ctrl-C in a terminal reaches the parent, which tells the workers once.
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", module, stdin=PIPE, stdout=PIPE, stderr=PIPE if self._on_line else None, start_new_session=True
        )
        lines = asyncio.create_task(self._pass_lines(process))
        try:
            ending = asyncio.create_task(process.wait())
            told = asyncio.create_task(stopping.wait())
            await self._wait_for_start(process, orders, told)
            await asyncio.wait({ending, told}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                process.terminate()
                await asyncio.wait({ending}, timeout=stop_timeout_s)
            self.signal(signal.SIGKILL)
            told.cancel()
            status = await ending
            await asyncio.wait({lines}, timeout=1)
            return status
        finally:
            lines.cancel()
            self.signal(signal.SIGKILL)
            self._process = self._internal_port = None
            self._is_serving = False

    async def _pass_lines(self, process: Process) -> None:
        if process.stderr is None or self._on_line is None:
            return
        with contextlib.suppress(ValueError):  # A line beyond all bounds.
            while line := await process.stderr.readline():
                self._on_line(line)

    async def _wait_for_start(self, process: Process, orders: bytes, told: asyncio.Task[bool]) -> None:
        to, of = cast("asyncio.StreamWriter", process.stdin), cast("asyncio.StreamReader", process.stdout)
        with contextlib.suppress(ConnectionError):
            to.write(orders)
            await to.drain()
            to.close()
        line = asyncio.create_task(of.readline())
        await asyncio.wait({line, told}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if not line.done():
            line.cancel()
            if not told.done():
                self._log.error("a worker does not start", worker=self.index, after_s=START_TIMEOUT_S)
                process.kill()
        elif line.result():
            self._internal_port = msgspec.json.decode(line.result(), type=WorkerStarted).internal_port
            self._is_serving = True
            self.has_started.set()
