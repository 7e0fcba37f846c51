"""Processes that tests start, break and always end."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.rig.ports import is_listening
from tests.rig.wait import PATIENCE_S, wait_until

T = TypeVar("T")

ROOT = Path(__file__).parents[2]

_running: set[Process] = set()


class Process:
    """A command with its own process group and its output in a file. Usable as a context manager, which kills it at the end.

    It dies with us, too: by atexit, and by the kernel where we are killed (util-linux' setpriv, where it is there).
    """

    def __init__(self, command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
        """Describe the process; `start` starts it. `env` is added to our environment, `log` gets what it prints (appended)."""
        self.command = [str(part) for part in command]
        self.log = log
        self._env = dict(env or {})
        self._cwd = cwd
        self._popen: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        if self._popen is None:
            state = "not started"
        elif (status := self._popen.poll()) is None:
            state = f"pid {self._popen.pid}"
        else:
            state = f"ended with {status}"
        return f"<{type(self).__name__} {Path(self.command[0]).name}: {state}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> Self:
        """Start it; it must not be running."""
        if self.is_running:
            msg = f"{self!r} is running already"
            raise RuntimeError(msg)
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*_die_with_us(), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._env},
                cwd=self._cwd,
                start_new_session=True,
            )
        _running.add(self)
        return self

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        """Its process id; it must have been started."""
        assert self._popen is not None, "not started"
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status; None while it runs."""
        return None if self._popen is None else self._popen.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone; nothing happens if it has ended."""
        if self._popen is not None:
            self._popen.send_signal(number)

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it goes on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to its whole process group, paused or not, and wait for its end. Harmless when it has ended."""
        if self._popen is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        _running.discard(self)

    def terminate(self, timeout_s: float = PATIENCE_S) -> int:
        """SIGTERM, wait, and return the exit status. If it does not end in time it is killed, and AssertionError is raised."""
        assert self._popen is not None, "not started"
        self._popen.terminate()
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end and return the exit status; kill it and raise AssertionError after `timeout_s` seconds."""
        assert self._popen is not None, "not started"
        try:
            status = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            msg = f"{self!r} did not end within {timeout_s:g} s\n{self.tail()}"
            raise AssertionError(msg) from None
        _running.discard(self)
        return status

    def output(self) -> str:
        """All that it printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 30) -> str:
        """The last lines that it printed, for a failure's message."""
        return "\n".join(self.output().splitlines()[-lines:])

    def wait_for(self, condition: Callable[[], T | None], *, what: str, timeout_s: float = PATIENCE_S) -> T:
        """As wait_until, and give up at once when the process ends."""

        def unless_ended() -> T | None:
            result = condition()
            if not result and not self.is_running:
                msg = f"{self!r} before {what}\n{self.tail()}"
                raise AssertionError(msg)
            return result

        return wait_until(unless_ended, what=f"{what} ({self!r})", timeout_s=timeout_s, state=self.tail)

    def wait_for_log(self, pattern: str, *, timeout_s: float = PATIENCE_S) -> re.Match[str]:
        """Wait until a line that it printed matches this regular expression (search), and return the match."""
        expression = re.compile(pattern, re.MULTILINE)
        return self.wait_for(lambda: expression.search(self.output()), what=f"a log line that matches {pattern!r}", timeout_s=timeout_s)

    def wait_for_port(self, port: int, *, timeout_s: float = PATIENCE_S) -> None:
        """Wait until it accepts connections on this loopback port."""
        self.wait_for(lambda: is_listening(port), what=f"port {port}", timeout_s=timeout_s)

    def wait_for_http(self, url: str, *, timeout_s: float = PATIENCE_S) -> None:
        """Wait until a GET of this loopback URL is answered with a status below 400."""
        self.wait_for(lambda: _answers(url), what=f"GET {url}", timeout_s=timeout_s)

    def records(self) -> list[dict[str, Any]]:
        """Its structured log so far: each line that is a JSON object."""
        found = []
        for line in self.output().splitlines():
            if line.startswith("{"):
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return found


def project_command(name: str, *arguments: str | int | Path) -> list[str]:
    """The command line of one of the project's console scripts, as it is installed beside this Python."""
    return [str(Path(sys.executable).with_name(name)), *map(str, arguments)]


def end_all() -> None:
    """Kill every process that is still there."""
    for process in list(_running):
        process.kill()


atexit.register(end_all)


def _die_with_us() -> list[str]:
    # The kernel sends the signal when the *thread* that started the process ends, so only the main thread may ask for it.
    setpriv = shutil.which("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return []
    return [setpriv, "--pdeathsig", "KILL", "--"]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - the URLs are made by tests
            return bool(response.status < 400)
    except (OSError, urllib.error.URLError):
        return False
