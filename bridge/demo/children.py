"""The processes of the demo: started with a log file each, watched, and ended together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from shared.errors import DistributaryError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

_POLL_S = 0.05
_LOG_LINES = 15


class ChildError(DistributaryError):
    """A process of the demo ended by itself, or was not ready in time. `log` holds its last lines."""

    def __init__(self, message: str, log: list[str]) -> None:
        """`message` says which process and how."""
        super().__init__(message)
        self.log = log


class Child:
    """One process in a process group of its own, with output to `log_file`."""

    def __init__(self, name: str, command: Sequence[str], log_file: Path, environment: Mapping[str, str] | None = None) -> None:
        """Start `command`; it is killed when this process ends, however that ends."""
        self.name = name
        self.command = tuple(command)
        self.log_file = log_file
        guarded = [sys.executable, "-m", "bridge.demo.guard", str(os.getpid()), *command]
        with log_file.open("wb") as log:
            # A session of its own: Ctrl-C at the terminal reaches the demo only, which then ends its children in order.
            self._process = subprocess.Popen(  # noqa: S603 - commands of this package
                guarded, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def __repr__(self) -> str:
        """Name, process id and whether it runs."""
        return f"Child({self.name!r}, pid={self.pid}, exit_code={self.exit_code})"

    @property
    def pid(self) -> int:
        """The process id of the command (the guard becomes the command)."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    def last_lines(self, count: int = _LOG_LINES) -> list[str]:
        """The end of its log."""
        with contextlib.suppress(OSError), self.log_file.open(encoding="utf-8", errors="replace") as log:
            return [line.rstrip("\n") for line in deque(log, maxlen=count)]
        return []

    def check(self) -> None:
        """Raise ChildError if it has ended."""
        if self.exit_code is not None:
            how = f"was ended by signal {-self.exit_code}" if self.exit_code < 0 else f"ended with exit code {self.exit_code}"
            msg = f"{self.name} (process {self.pid}) {how}"
            raise ChildError(msg, self.last_lines())

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End its whole group."""
        self._signal(signal.SIGKILL)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within `timeout_s`."""
        try:
            self._process.wait(timeout=max(timeout_s, 0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


class Children:
    """All processes of the demo; leaving the `with` block ends them, the newest first."""

    def __init__(self, log_directory: Path, *, environment: Mapping[str, str] | None = None, grace_s: float = 5.0) -> None:
        """`grace_s` is what all of them together get to end by themselves before they are killed; None for `environment` is ours."""
        self._environment = environment
        self._log_directory = log_directory
        self._grace_s = grace_s
        self._children: list[Child] = []

    def __repr__(self) -> str:
        """The processes."""
        return f"Children({self._children!r})"

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End every process."""
        self.close()

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a process, logging to `NAME.log` in the log directory."""
        child = Child(name, command, self._log_directory / f"{name.replace(' ', '-')}.log", self._environment)
        self._children.append(child)
        return child

    def wait_until(self, child: Child, is_ready: Callable[[], bool], timeout_s: float, stop: Callable[[], bool]) -> None:
        """Return once `is_ready` or `stop` says so; raise ChildError if any process ended or `timeout_s` passed first."""
        deadline = time.monotonic() + timeout_s
        while not (stop() or is_ready()):
            self.check()
            if time.monotonic() > deadline:
                msg = f"{child.name} (process {child.pid}) was not ready in time ({timeout_s:g} s)"
                raise ChildError(msg, child.last_lines())
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raise ChildError for the first process that has ended."""
        for child in self._children:
            child.check()

    def close(self) -> None:
        """End the processes, the newest first, so that each still has what it depends on; kill those that take too long."""
        deadline = time.monotonic() + self._grace_s
        while self._children:
            child = self._children[-1]
            child.terminate()
            if not child.wait(deadline - time.monotonic()):
                child.kill()
                child.wait(self._grace_s)
            self._children.pop()
