"""What benchmarks share: CPU time of processes, helpers as subprocesses, tables and JSON files."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PARTS = Path(__file__).parent.parent / ".parts"


def cpu_ns(pid: int) -> int:
    """User and system time of all threads that a process has now, in nanoseconds (proc(5), schedstat)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # A thread that ended while we looked.
            total += int((task / "schedstat").read_text().split()[0])
    return total


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Helper:
    """A subprocess that is told lines and answers lines."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def tell(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """The next line; an error where the helper ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            msg = f"{self._process.args!r} ended with {self._process.wait()}"
            raise RuntimeError(msg)
        return line

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def compiled(source: Path) -> str:
    """Compile a C program of this folder, once."""
    program = PARTS / "bench" / source.stem
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
    return str(program)


def machine() -> str:
    """What these numbers were measured on."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    return f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}"


def report(name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], **more: object) -> None:
    """Print a table and write it, with everything else that was measured, to bench/results/NAME.json."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in (columns, *cells)) for at in range(len(columns))]
    print(f"\n{title}\n({machine()})\n")
    for row in (columns, ["-" * width for width in widths], *cells):
        print(
            "  ".join(cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True)))
        )
    sys.stdout.flush()
    RESULTS.mkdir(exist_ok=True)
    result = {"name": name, "machine": machine(), "columns": columns, "rows": rows, **more}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2))


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)
