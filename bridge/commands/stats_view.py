"""The live view of `bridge run --stats`: drawn anew every second at the bottom of the terminal, with log lines above it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from bridge.commands.rules_file import printable
from bridge.core.stats import Rates, RouteStats, Stats, rates, read

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from bridge.adapters.internal_http import Health

INTERVAL_S = 1.0
MAX_ROUTES = 15
MAX_TROUBLES = 5


class LinesAbove(io.TextIOBase):
    """A stream for log lines that stands above the view."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def write(self, text: str) -> int:
        """Print whole lines; what makes a terminal do things is not in them (shared.telemetry sees to it)."""
        for line in text.splitlines():
            self._console.print(Text(line), soft_wrap=True, highlight=False)
        return len(text)

    def write_bytes(self, line: bytes) -> None:
        """A line of a worker."""
        self.write(line.decode(errors="backslashreplace"))


class StatsView:
    """Shows a bridge for as long as it is entered. Nothing that it cannot read or draw ends the bridge."""

    def __init__(self, console: Console, registry: CollectorRegistry, health: Callable[[], Health]) -> None:
        self._registry = registry
        self._health = health
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._console = console
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stats", daemon=True)
        self._begun = time.monotonic()
        self._last: Stats | None = None

    def __enter__(self) -> Self:
        self._live.start()
        # The view hides the cursor; whoever ends us at once must not leave it so.
        self._console.show_cursor(True)  # noqa: FBT003
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(INTERVAL_S * 2)
        self._live.stop()

    def _run(self) -> None:
        while not self._end.wait(INTERVAL_S):
            try:
                self._live.update(self._frame(), refresh=True)
            except Exception as error:  # noqa: BLE001  (a worker that ends, a terminal that is gone)
                self._live.console.print(Text(f"statistics: {error!r}"))

    def _frame(self) -> RenderableType:
        samples = [(sample.name, sample.labels, sample.value) for family in self._registry.collect() for sample in family.samples]
        now = read(samples, time.monotonic())
        last, self._last = self._last or now, now
        return draw(now, rates(last, now), self._health(), now.at_s - self._begun)


def draw(stats: Stats, speed: Rates, health: Health, running_s: float) -> RenderableType:
    """One frame."""
    parts: list[RenderableType] = [_heading(stats, health, running_s), _numbers(stats, speed)]
    if stats.routes:
        parts.append(_routes(stats.routes, speed))
    parts += [Text(line, style="red", overflow="ellipsis", no_wrap=True) for line in _troubles(health)]
    return Group(Text(), *parts)


def _heading(stats: Stats, health: Health, running_s: float) -> Text:
    style = {"ready": "green", "degraded": "yellow"}.get(health.status, "cyan")
    workers = "" if stats.workers is None else f"   workers {stats.workers:.0f} (replaced {stats.restarts:.0f})"
    rules = f"rules {stats.rules_generation:.0f}" + (" (the file is refused)" if stats.rules_are_refused else "")
    minutes, seconds = divmod(int(running_s), 60)
    return Text.assemble(
        ("bridge ", "bold"), (health.status, style), f"   {rules}{workers}   {minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
    )


def _numbers(stats: Stats, speed: Rates) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    rows: Iterable[tuple[str, str, str, str]] = (
        ("records", f"{speed.records:,.0f}/s, {_size(speed.record_bytes)}/s", "lag", "-" if stats.lag is None else f"{stats.lag:,.0f}"),
        ("publications", f"{speed.publications:,.0f}/s, {_size(speed.sent_bytes)}/s", "bus", "up" if stats.bus_is_up else "AWAY"),
        ("saving", f"{stats.saving:.0%} of {_size(stats.payload_bytes)}", "kafka", "up" if stats.kafka_is_up else "AWAY"),
        (
            "in all",
            f"{stats.records:,.0f} records, {stats.publications:,.0f} publications",
            "halted partitions",
            f"{stats.halted:,.0f}",
        ),
        ("unchanged", f"{stats.unchanged:,.0f}", "dead letters", f"{stats.dead_letters:,.0f}"),
        ("processor", f"{speed.cpu:.0%}", "problems", f"{stats.problems + stats.failed:,.0f}"),
        ("memory", f"{_size(stats.memory_bytes)}, bases {_size(stats.delta_cache_bytes)}", "bases at hand", f"{stats.hit_rate:.1%}"),
    )
    for row in rows:
        table.add_row(*(Text(text, style="dim" if number % 2 == 0 else "") for number, text in enumerate(row)))
    return table


def _routes(routes: dict[str, RouteStats], speed: Rates) -> Table:
    numbers = ("publications", "/s", "full", "sent", "saving", "unchanged")
    table = Table("route", *(Column(name, justify="right") for name in numbers), box=None, pad_edge=False, header_style="dim")
    busiest = sorted(routes.items(), key=lambda each: -each[1].publications)
    for name, route in busiest[:MAX_ROUTES]:
        table.add_row(
            Text(name),
            f"{route.publications:,.0f}",
            f"{speed.routes.get(name, 0):,.0f}",
            _size(route.payload_bytes),
            _size(route.sent_bytes),
            f"{route.saving:.0%}",
            f"{route.unchanged:,.0f}",
        )
    if len(busiest) > MAX_ROUTES:
        table.add_row(Text(f"and {len(busiest) - MAX_ROUTES} more"))
    return table


def _troubles(health: Health) -> list[str]:
    found = [f"halted {name}: {problem}" for name, problem in health.details.get("halted", {}).items()]
    sources: list[dict[str, Any]] = [health.details, *health.details.get("workers", [])]
    found += dict.fromkeys(problem for source in sources for problem in source.get("rules", {}).get("problems", ()))
    more = [f"and {len(found) - MAX_TROUBLES} more"] if len(found) > MAX_TROUBLES else []
    return [printable(line, 500) for line in found[:MAX_TROUBLES] + more]


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
