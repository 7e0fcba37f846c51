"""An edge that is started with few open files holds as many connections as it was told to, where the system lets it."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from edge.open_files import allow_connections

PROGRAM = """
import resource, sys
from shared.telemetry import LogFormat, configure
from edge.open_files import allow_connections
soft, hard, count = map(int, sys.argv[1:])
configure(LogFormat.TEXT, "info")
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
allow_connections(count)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def allow(soft: int, hard: int, count: int) -> tuple[tuple[int, ...], str]:
    """In a process of its own: its limits afterwards, and what it logged."""
    command = [sys.executable, "-c", PROGRAM, *map(str, (soft, hard, count))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    *logged, limits = (done.stderr + done.stdout).splitlines()
    return tuple(map(int, limits.split())), "\n".join(logged)


@pytest.mark.parametrize(
    ("soft", "hard", "count", "after"), [(256, 4_096, 2_000, 3_000), (4_000, 4_096, 2_000, 4_000), (256, 3_000, 2_000, 3_000)]
)
def test_as_many_as_connections_need_and_never_fewer(soft: int, hard: int, count: int, after: int):
    limits, logged = allow(soft, hard, count)
    assert limits == (after, hard)
    assert not logged


def test_where_the_system_lets_it_have_too_few_it_says_how_many_clients_fit():
    limits, logged = allow(256, 2_500, 2_000)
    assert limits == (2_500, 2_500)
    assert "--max-connections" in logged
    assert "fits=1500" in logged


def test_a_system_that_refuses_to_raise_the_limit_is_no_reason_not_to_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(_which: int, _limits: tuple[int, int]) -> None:
        msg = "current limit exceeds maximum limit"
        raise ValueError(msg)

    monkeypatch.setattr(resource, "getrlimit", lambda _which: (256, 10_000))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    allow_connections(2_000)
    assert "too few files" in caplog.text
