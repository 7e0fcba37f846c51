"""The demo's processes: none is left behind, and one that ends is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.demo.children import Child, ChildError, Children

STUBBORN = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
POLITE = "import time; print('up', flush=True); time.sleep(60)"
PARENT = """
import os, sys, time
from pathlib import Path
from bridge.demo.children import Child
child = Child("sleeper", [sys.executable, "-c", {code!r}], Path({log!r}))
while b"up" not in Path({log!r}).read_bytes(): time.sleep(0.01)
print(child.pid, flush=True)
time.sleep(60)
"""


def _until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    """Zombies, which nobody may be there to reap, are dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except FileNotFoundError:
        return False


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def _has_said(child: Child, text: str) -> Callable[[], bool]:
    return lambda: text in "".join(child.last_lines())


SAYS_WHEN_IT_ENDS = """
import signal, sys, time
def end(*_):
    open({file!r}, "a").write({name!r} + " ")
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(60)
"""


def test_all_end_with_the_block_the_newest_first(tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    with Children(tmp_path) as children:
        started = [
            children.start(name, _python(SAYS_WHEN_IT_ENDS.format(file=str(ends), name=name))) for name in ("redis", "bridge", "edge")
        ]
        for child in started:
            _until(_has_said(child, "up"))
    assert not any(_is_alive(child.pid) for child in started)
    assert ends.read_text() == "edge bridge redis "


def test_the_stubborn_is_killed(tmp_path: Path) -> None:
    with Children(tmp_path, grace_s=0.2) as children:
        child = children.start("stubborn", _python(STUBBORN))
        _until(_has_said(child, "up"))
    assert child.exit_code == -signal.SIGKILL


def test_they_end_when_the_block_is_left_by_an_error(tmp_path: Path) -> None:
    pids = []

    def fail() -> None:
        with Children(tmp_path) as children:
            pids.append(children.start("one", _python(POLITE)).pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not _is_alive(pids[0])


def test_a_process_that_ends_is_told_with_its_last_lines(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("edge 1", _python("print('port is taken'); raise SystemExit(3)"))
        with pytest.raises(ChildError, match=r"edge 1 \(process \d+\) ended with exit code 3") as caught:
            children.wait_until(child, lambda: False, 60, lambda: False)
    assert caught.value.log == ["port is taken"]
    assert child.log_file.name == "edge-1.log"


def test_a_process_ended_by_a_signal_is_told(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("bridge", _python(POLITE))
        _until(_has_said(child, "up"))
        os.kill(child.pid, signal.SIGKILL)
        _until(lambda: child.exit_code is not None)
        with pytest.raises(ChildError, match="was ended by signal 9"):
            children.check()


def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("redis", [str(tmp_path / "no-such-server")])
        with pytest.raises(ChildError, match="exit code 127") as caught:
            children.wait_until(child, lambda: False, 60, lambda: False)
    assert "no-such-server" in caught.value.log[0]


def test_one_that_is_never_ready_is_told(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("edge 1", _python(POLITE))
        with pytest.raises(ChildError, match="was not ready in time"):
            children.wait_until(child, lambda: False, 0.2, lambda: False)


def test_waiting_ends_when_the_user_wants_the_end(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("edge 1", _python(POLITE))
        children.wait_until(child, lambda: False, 60, lambda: True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent")
def test_kill_9_of_the_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    script = PARENT.format(code=STUBBORN, log=str(tmp_path / "log"))
    parent = subprocess.Popen(_python(script), stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _is_alive(pid)
        parent.kill()
        parent.wait()
        _until(lambda: not _is_alive(pid))
    finally:
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()
