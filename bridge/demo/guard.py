"""Run a command that must not outlive the demo: `python -m bridge.demo.guard PARENT_PID COMMAND ARGUMENT...`.

The kernel is asked to kill this process when its parent ends, however that ends (`kill -9` included); the request survives
`exec`, so the command itself carries it. A process of its own makes the request, because code that runs between fork and exec of
a process with threads (librdkafka's) may deadlock. Where the kernel knows no such request (not Linux), the command just runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_NOT_FOUND = 127


def main(arguments: list[str]) -> int:
    """Become the command; return an exit code only where that failed or the parent is gone already."""
    parent_pid, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        # A parent that ended before the request took effect sends nothing any more.
        if os.getppid() != parent_pid:
            return 1
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        return _NOT_FOUND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
