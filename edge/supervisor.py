"""`edge run --workers N`: the parent of the workers. It serves no client; it replaces workers that die, and stops them all.

Every worker has an internal port of its own, any free one on loopback, and tells it when it serves; the parent asks there when it is asked
itself (`edge.aggregate`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from typing import cast

import msgspec
import uvloop

from edge.aggregate import WorkerState, internal_app
from edge.server import Server, reserve
from edge.settings import WORKER_REFUSED, Settings, WorkerOrders, WorkerStarted
from shared.errors import DistributaryError
from shared.telemetry import Log

log = Log("distributary.edge.supervisor")

START_TIMEOUT_S = 60.0
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 30.0
STABLE_S = 30.0
"""A worker that lived so long is replaced as if it had never died before."""
STOP_TIMEOUT_S = 10.0
"""What a worker may take to end, beyond its drain."""


def run(settings: Settings, log_format: str, log_level: str) -> None:
    """Serve until SIGTERM or SIGINT. Raises DistributaryError where no worker can be what it was told to be."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Supervisor(settings, log_format, log_level).run())


class _Supervisor:
    def __init__(self, settings: Settings, log_format: str, log_level: str) -> None:
        self._settings = settings
        self._log = (log_format, log_level)
        self._workers = [_Worker(index) for index in range(settings.workers)]
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """See the module's `run`."""
        settings = self._settings
        self._stop_on_signals()
        sockets = reserve(settings.host, settings.port)
        port = int(sockets[0].getsockname()[1])
        internal = Server(internal_app(self._states, self._stopping.is_set), settings.internal_host, settings.internal_port)
        if settings.internal_port >= 0:
            await internal.start()
        started = asyncio.create_task(self._log_start(port, internal.port if internal.started else None))
        keepers = [asyncio.create_task(self._keep(worker, self._orders(worker, port))) for worker in self._workers]
        try:
            await asyncio.wait(keepers)
        finally:
            started.cancel()
            for socket in sockets:
                socket.close()
            await internal.stop()
        for keeper in keepers:
            keeper.result()
        log.info("edge stopped")

    def _orders(self, worker: _Worker, port: int) -> bytes:
        internal_port = 0 if self._settings.internal_port >= 0 else -1
        settings = msgspec.structs.replace(self._settings, port=port, internal_host="127.0.0.1", internal_port=internal_port)
        return msgspec.json.encode(WorkerOrders(settings, worker.index, os.getpid(), *self._log))

    async def _log_start(self, port: int, internal_port: int | None) -> None:
        for worker in self._workers:
            await worker.has_started.wait()
        internal = "none" if internal_port is None else f"{self._settings.internal_host}:{internal_port}"
        log.info("all workers started", workers=len(self._workers), port=port, internal=internal)

    async def _keep(self, worker: _Worker, orders: bytes) -> None:
        """Start a worker, and another whenever it ends, until told to stop."""
        retry_s = FIRST_RETRY_S
        try:
            while not self._stopping.is_set():
                begun = time.monotonic()
                status = await worker.live(orders, self._stopping, self._settings.drain_s + STOP_TIMEOUT_S)
                if self._stopping.is_set():
                    return
                if status == WORKER_REFUSED or not worker.has_started.is_set():
                    msg = f"worker {worker.index} cannot serve (it ended with status {status}); what it said stands above"
                    raise DistributaryError(msg)
                retry_s = FIRST_RETRY_S if time.monotonic() - begun >= STABLE_S else min(retry_s * 2, LAST_RETRY_S)
                log.warning("a worker ended; another takes its place", worker=worker.index, status=status, in_s=retry_s)
                worker.restarts += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), retry_s)
        finally:
            self._stopping.set()  # One that cannot serve ends them all.

    def _states(self) -> list[WorkerState]:
        return [worker.state() for worker in self._workers]

    def _stop_on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            for worker in self._workers:
                worker.kill()
            raise SystemExit(130)
        log.info("stopping", workers=len(self._workers))
        self._stopping.set()


class _Worker:
    """One place among the workers, and the process that holds it now."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.restarts = 0
        self.has_started = asyncio.Event()
        """Whether the place was ever filled."""
        self._process: Process | None = None
        self._internal_port: int | None = None
        self._is_serving = False

    def __repr__(self) -> str:
        return f"<Worker {self.index} {self.state()}>"

    def state(self) -> WorkerState:
        """What is known of it."""
        pid = None if self._process is None else self._process.pid
        return WorkerState(self.index, pid, self._is_serving, self._internal_port, self.restarts)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def live(self, orders: bytes, stopping: asyncio.Event, stop_timeout_s: float) -> int:
        """One life of the worker: until it ends, or has ended because it was told to. Returns its exit status."""
        # A session of its own: Ctrl-C in a terminal reaches the parent, which tells the workers once.
        command = (sys.executable, "-P", "-m", "edge.worker")
        self._process = process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, start_new_session=True)
        try:
            ending = asyncio.create_task(process.wait())
            told = asyncio.create_task(stopping.wait())
            await self._wait_for_start(process, orders, told)
            await asyncio.wait({ending, told}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                process.terminate()
                await asyncio.wait({ending}, timeout=stop_timeout_s)
            self.kill()
            told.cancel()
            return await ending
        finally:
            self.kill()
            self._process = self._internal_port = None
            self._is_serving = False

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
                log.error("a worker does not start", worker=self.index, after_s=START_TIMEOUT_S)
                process.kill()
        elif line.result():
            self._internal_port = msgspec.json.decode(line.result(), type=WorkerStarted).internal_port
            self._is_serving = True
            self.has_started.set()
