from __future__ import annotations

import io
import threading

from prometheus_client import CollectorRegistry, Counter
from rich.console import Console

from bridge.adapters.internal_http import Health
from bridge.commands.stats_view import LinesAbove, StatsView, draw
from bridge.core.stats import Rates, RouteStats, Stats
from tests.rig.wait import wait_until

SPEED = Rates(1234, 2_500_000, 5678, 400_000, 0.5, {"position": 5000.0})
READY = Health("ready", is_alive=True, details={})


def shown(stats: Stats, health: Health = READY) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(draw(stats, SPEED, health, 3723))
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def test_a_frame_tells_speed_lag_savings_and_state():
    stats = Stats(
        0.0, records=10, full=1, deltas=9, payload_bytes=1000, sent_bytes=250, lag=1500, halted=1, dead_letters=3, rules_generation=2
    )
    stats.routes["position"] = RouteStats(full=1, deltas=9, payload_bytes=1000, sent_bytes=100, unchanged=4)
    text = shown(stats)
    for part in (
        "bridge ready rules 2 01:02:03",
        "records 1,234/s, 2.5 MB/s lag 1,500",
        "publications 5,678/s, 400.0 kB/s bus up",
        "saving 75% of 1.0 kB kafka up",
        "halted partitions 1",
        "dead letters 3",
        "processor 50%",
        "position 10 5,000 1.0 kB 100 B 90% 4",
    ):
        assert part in text


def test_troubles_are_told():
    details = {
        "halted": {"t[0]": "t[0]@7: no JSON\x1b[2J"},
        "workers": [{"rules": {"problems": ["r.yaml:1: wrong"]}}, {"rules": {"problems": ["r.yaml:1: wrong"]}}],
    }
    text = shown(
        Stats(0.0, bus_is_up=False, rules_are_refused=True, workers=2, restarts=1), Health("degraded", is_alive=True, details=details)
    )
    assert "bus AWAY" in text
    assert "(the file is refused) workers 2 (replaced 1)" in text
    assert "halted t[0]: t[0]@7: no JSON\\x1b[2J" in text
    assert text.count("r.yaml:1: wrong") == 1


def test_many_routes_are_cut():
    text = shown(Stats(0.0, routes={f"route-{number}": RouteStats(full=number) for number in range(40)}))
    assert "route-39" in text
    assert "route-2 " not in text
    assert "and 25 more" in text


def test_log_lines_stand_above_as_they_are():
    console = Console(file=io.StringIO(), width=20)
    lines = LinesAbove(console)
    lines.write("a [bold]line[/bold] that is longer than the terminal\n")
    lines.write_bytes(b"of a worker \xff\n")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "a [bold]line[/bold] that is longer than the terminal\nof a worker \\xff\n"


def test_the_view_ends_even_where_it_cannot_be_drawn(monkeypatch: object):
    registry = CollectorRegistry()
    Counter("distributary_bridge_records", "Records", registry=registry).inc(5)
    asked = threading.Event()

    def health() -> Health:
        asked.set()
        raise TimeoutError

    console = Console(file=io.StringIO(), width=140, force_terminal=True)
    assert isinstance(console.file, io.StringIO)
    with StatsView(console, registry, health):
        wait_until(asked.is_set, what="a frame")
    assert "TimeoutError()" in console.file.getvalue()
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h")
