"""`bridge demo`: everything on this machine, in one command."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from bridge.commands import terminal
from bridge.core.decoding import SchemaUnavailableError
from bridge.core.record import Record
from bridge.core.routing import Router
from bridge.core.ruleset import CompiledRules
from bridge.demo.children import Child, ChildError, Children
from bridge.demo.kafka import EmbeddedKafka, EmbeddedKafkaError
from bridge.demo.pace import OTHERWISE_S, Pace, time_of_json
from bridge.demo.replay import JSON, Recording, Replay
from bridge.demo.simulation import DEFAULT_VEHICLES, FIRST_ID, Simulation
from bridge.demo.stack import (
    DEFAULT_RULES,
    HOST,
    TOPIC,
    Part,
    Ports,
    StackSettings,
    await_first_record,
    choose_ports,
    environment_of_children,
    feed,
    find_redis_server,
    plan,
    start,
)
from bridge.rules.load import load_rules
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from rich.console import Console

_USAGE_ERROR = 2
_YOURS = "Your own"


class _Stop:
    """Whether the user wants the end. A plain flag: a signal handler must not take a lock that the code it interrupts may hold."""

    def __init__(self) -> None:
        self.is_asked_for = False

    def ask(self, _number: int, _frame: FrameType | None) -> None:
        self.is_asked_for = True

    def __call__(self) -> bool:
        return self.is_asked_for


def demo(
    files: Annotated[
        list[Path] | None, typer.Argument(help="More files for --input, so that `--input *.json` works.", show_default=False)
    ] = None,
    *,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            help="Replay recorded snapshots, a file a record (.json, .json.gz, with --gtfs-rt .pb, .pb.gz, or a directory), "
            "instead of the simulation.",
        ),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Seconds between two records.", envvar="BRIDGE_DEMO_INTERVAL", show_default="1, or as in the recording"
        ),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="10 is ten times faster.", envvar="BRIDGE_DEMO_SPEED")] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Start the replay again at its end.", envvar="BRIDGE_DEMO_LOOP")] = False,
    vehicles: Annotated[
        int, typer.Option(min=1, max=8000, help="Vehicles in the simulation.", envvar="BRIDGE_DEMO_VEHICLES")
    ] = DEFAULT_VEHICLES,
    seed: Annotated[int, typer.Option(help="Of the simulation: the same seed, the same city.", envvar="BRIDGE_DEMO_SEED")] = 1,
    gtfs_rt: Annotated[
        bool,
        typer.Option("--gtfs-rt", help="Send GTFS-realtime, as transit agencies do, and not JSON.", envvar="BRIDGE_DEMO_GTFS_RT"),
    ] = False,
    rules: Annotated[
        Path | None,
        typer.Option(
            help="Routing rules other than the demo's own. The live page shows feed, bus:ID and position:ID.",
            envvar="BRIDGE_DEMO_RULES",
            show_default=False,
            rich_help_panel=_YOURS,
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the first edge; a port in use is skipped. 0: any.", envvar="BRIDGE_DEMO_PORT")
    ] = 8000,
    edges: Annotated[int, typer.Option(min=1, max=16, help="Edge processes.", envvar="BRIDGE_DEMO_EDGES")] = 2,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Serve the live page.", envvar="BRIDGE_DEMO_PAGE")] = True,
    redis_server: Annotated[
        str | None,
        typer.Option(
            help="The Redis to run.", envvar="BRIDGE_DEMO_REDIS_SERVER", show_default="from PATH or .parts/", rich_help_panel=_YOURS
        ),
    ] = None,
) -> None:
    """Start an embedded Kafka, a Redis, a bridge and edges; feed them a simulated city; show it on a live page.

    Ctrl-C ends all of it. Nothing is kept.
    """
    console = terminal.console()
    stop = _Stop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop.ask)
    try:
        kind = _gtfs_realtime() if gtfs_rt else _JSON
        paths = [*(inputs or []), *(files or [])]
        records, hint = _records(paths, kind, loop=loop, replay=bool(inputs), simulation=Simulation(seed, vehicles))
        compiled = _checked(rules or kind.rules)
        first = next(records)
        hint = channel_to_try(compiled, Record(kind.topic, 0, 0, None, None, first), hint)
        records = chain([first], records)
        settings = StackSettings(
            rules=rules or kind.rules, port=port, edges=edges, page=page, redis_server=redis_server or find_redis_server()
        )
        ports = choose_ports(port, edges)
        pace = Pace(interval if inputs or interval else OTHERWISE_S)
    except ConfigurationError as error:
        for problem in error.problems:
            console.print(f"[red]error:[/] {escape(problem)}", soft_wrap=True)
        raise typer.Exit(_USAGE_ERROR) from error
    if inputs and not interval:
        console.print("Replaying at the pace of the recording, where it has times; --speed 10 is ten times faster.")
    try:
        _run(
            console,
            stop,
            settings,
            ports,
            EmbeddedKafka(kind.topic),
            records,
            hint,
            lambda record: pace.wait_s(kind.time_of(record)) / speed,
        )
    except (ChildError, ConfigurationError, EmbeddedKafkaError) as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        for line in error.log if isinstance(error, ChildError) else []:
            console.print(f"  [dim]{escape(line)}[/]", soft_wrap=True)
        raise typer.Exit(1) from error


class _Kind(msgspec.Struct, frozen=True):
    """What the demo's records are."""

    topic: str
    rules: Path
    recording: Recording
    encode: Callable[[list[dict[str, Any]], int], bytes]
    """Of the simulation's entities at a tick."""
    time_of: Callable[[bytes], float | None]
    """When a recorded one was made."""


_JSON = _Kind(TOPIC, DEFAULT_RULES, JSON, lambda entities, _tick: msgspec.json.encode(entities), time_of_json)


def _gtfs_realtime() -> _Kind:
    try:
        from bridge.demo import gtfs_realtime  # in an extra
    except ImportError as error:
        raise ConfigurationError([f"--gtfs-rt needs {error.name}: install distributary[formats]"]) from error
    recording = Recording(gtfs_realtime.SUFFIXES, gtfs_realtime.checked)
    return _Kind(gtfs_realtime.TOPIC, gtfs_realtime.RULES, recording, gtfs_realtime.feed_message, gtfs_realtime.time_of)


def _run(
    console: Console,
    stop: _Stop,
    settings: StackSettings,
    ports: Ports,
    kafka: EmbeddedKafka,
    records: Iterator[bytes],
    hint: str,
    wait_s: Callable[[bytes], float],
) -> None:
    """Run the stack until `stop` is asked for; raise ChildError if a process ends by itself."""
    with tempfile.TemporaryDirectory(prefix="distributary-demo-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        # The first record makes the topic, so that the bridge finds it when it subscribes.
        first = next(records)
        wait_s(first)  # The next one is due so long after it.
        kafka.send(first)
        parts = plan(settings, ports, kafka.bootstrap_servers, directory)
        with Children(directory, environment=environment_of_children(os.environ)) as children:
            with console.status("starting Redis, bridge and edges"):
                started = start(children, parts, stop)
                await_first_record(children, ports, stop)
            if not stop():
                _show(console, settings, ports, kafka, parts, started, hint)

            def idle(seconds: float) -> bool:
                children.check()
                if not stop():
                    time.sleep(seconds)
                return stop()

            if feed(records, kafka.send, wait_s, idle):
                console.print(f"The input ended after {kafka.sent} records; everything stays up. Ctrl-C ends it.")
                while not idle(0.25):
                    pass
            console.print("Ending ...")
    console.print("Ended.")


def _records(paths: list[Path], kind: _Kind, *, loop: bool, replay: bool, simulation: Simulation) -> tuple[Iterator[bytes], str]:
    """The records to send, and a channel that will have publications."""
    if paths and not replay:
        raise ConfigurationError([f"{paths[0]}: files to replay are named with --input"])
    if replay:
        return Replay(paths, loop=loop, recording=kind.recording).records(), "feed"
    return (kind.encode(simulation.snapshot(tick), tick) for tick in count()), f"position:{_example_id(simulation)}"


def _example_id(simulation: Simulation) -> str:
    """A vehicle that moves: 1430 where there is one, as in the documentation."""
    ids = [entity["id"] for entity in simulation.snapshot(0)]
    return "1430" if "1430" in ids else str(ids[0] if ids else FIRST_ID)


def _checked(rules: Path) -> CompiledRules:
    """What is in the rules file, with its mistakes told before anything starts."""
    if not rules.is_file():
        raise ConfigurationError([f"{rules}: there is no such rules file"])
    return load_rules(rules)


def channel_to_try(rules: CompiledRules, first: Record, best: str) -> str:
    """A channel that has publications: `best`, unless the rules send the first record to others only."""
    try:
        channels = [draft.channel for draft in Router(rules).route(first).drafts]
    except SchemaUnavailableError:
        return best
    return best if best in channels or not channels else channels[0]


def _show(
    console: Console, settings: StackSettings, ports: Ports, kafka: EmbeddedKafka, parts: list[Part], children: list[Child], hint: str
) -> None:
    """Tell what runs and what to try."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("running", "process", "address", "log"):
        table.add_column(heading, overflow="fold")
    table.add_row("kafka (mock)", "this one", f"{kafka.bootstrap_servers}, topic {kafka.topic}", "")
    for part, child in zip(parts, children, strict=True):
        table.add_row(part.name, str(child.pid), part.address, str(child.log_file))
    console.print(table)
    if settings.port and ports.edges[0] != settings.port:
        console.print(f"Port {settings.port} is in use; the next free one was taken.")
    first = ports.edges[0]
    console.print()
    if settings.page:
        console.print(f"Live page  [bold]http://{HOST}:{first}/[/]", soft_wrap=True)
    # Plain text: a line to copy must not be wrapped or coloured.
    console.print(f"Try        {_tail_command()} ws://{HOST}:{first} {hint}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"           curl -s http://{HOST}:{first}/v1/channels/{hint}", soft_wrap=True, highlight=False, markup=False)
    console.print("Ctrl-C ends all of it.")


def _tail_command() -> str:
    """`distributary-tail` of this environment, as short as it can be typed here."""
    script = Path(sys.executable).parent / "distributary-tail"
    return str(script.relative_to(Path.cwd())) if script.is_relative_to(Path.cwd()) else str(script)
