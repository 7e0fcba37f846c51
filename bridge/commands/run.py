"""`bridge run`: from Kafka to the bus, until told to stop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO, cast

import typer

from bridge.settings import (
    DEFAULT_DELTA_CACHE_BYTES,
    DEFAULT_GROUP,
    DEFAULT_INTERNAL_PORT,
    BridgeSettings,
    StartFrom,
    read_properties,
)
from shared.bus.layout import DEFAULT_PREFIX, DEFAULT_SHARDS
from shared.errors import BusLayoutError, ConfigurationError, DistributaryError
from shared.telemetry import LogFormat, configure
from shared.workers.supervisor import WorkersError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from rich.console import Console

    from bridge.adapters.internal_http import Health
    from bridge.app import Watch
    from bridge.commands.stats_view import LinesAbove, StatsView

_FAILED = 1
_USAGE = 2
_REPORT_INTERVAL_S = 60.0
_OFTEN_S = 10.0
"""Between two lines of progress where they stand in for the live view."""
_LEVELS = ("debug", "info", "warning", "error")
_KAFKA, _BUS, _TUNING, _WATCHING = "Kafka", "Bus", "Tuning", "Logs, health, metrics"


def _internal_port(text: str) -> int:
    """A port; -1 where there is to be none."""
    if text.lower() in {"none", "off"}:
        return -1
    try:
        port = int(text)
    except ValueError:
        msg = f"{text!r} is neither a port nor `none`"
        raise typer.BadParameter(msg, param_hint="--internal-port") from None
    return port


def _level(text: str) -> str:
    if text.lower() not in _LEVELS:
        msg = f"{text!r} is none of {', '.join(_LEVELS)}"
        raise typer.BadParameter(msg)
    return text.lower()


def run(
    *,
    rules: Annotated[Path, typer.Option(envvar="BRIDGE_RULES", metavar="FILE", help="The rules file (docs/rules.md).")],
    bootstrap_servers: Annotated[
        str,
        typer.Option(envvar="BRIDGE_BOOTSTRAP_SERVERS", metavar="HOST:PORT,...", help="Some of Kafka's brokers.", rich_help_panel=_KAFKA),
    ],
    bus: Annotated[
        str,
        typer.Option(
            envvar="BRIDGE_BUS",
            metavar="URL,...",
            help="The Redis servers that make up the bus: redis://[USER:PASSWORD@]HOST:PORT, rediss:// (TLS) or unix://, or "
            "redis+cluster://HOST:PORT,HOST:PORT for some nodes of one Redis Cluster. The same list, in the same order, for every bridge "
            "and edge. With a password, use the environment variable.",
            rich_help_panel=_BUS,
        ),
    ],
    group: Annotated[
        str,
        typer.Option(
            envvar="BRIDGE_GROUP",
            help="The consumer group. Bridges of one group share the work; each bus has a group of its own.",
            rich_help_panel=_KAFKA,
        ),
    ] = DEFAULT_GROUP,
    start_from: Annotated[
        StartFrom,
        typer.Option(
            "--from",
            envvar="BRIDGE_FROM",
            help="Where to begin in partitions for which the group has no committed offset: `earliest` loses nothing; `latest` skips "
            "what is there already (and what came while a partition was unknown).",
            rich_help_panel=_KAFKA,
        ),
    ] = StartFrom.EARLIEST,
    kafka_property: Annotated[
        list[str] | None,
        typer.Option(
            envvar="BRIDGE_KAFKA_PROPERTY",
            metavar="NAME=VALUE",
            help="A property of librdkafka, such as security.protocol=SASL_SSL. Repeatable; wins over --kafka-properties.",
            rich_help_panel=_KAFKA,
        ),
    ] = None,
    kafka_properties: Annotated[
        Path | None,
        typer.Option(
            envvar="BRIDGE_KAFKA_PROPERTIES",
            metavar="FILE",
            help="A file of properties of librdkafka, a line each: the place for passwords.",
            rich_help_panel=_KAFKA,
        ),
    ] = None,
    bus_prefix: Annotated[
        str, typer.Option(envvar="BRIDGE_BUS_PREFIX", help="What all keys of the bus begin with.", rich_help_panel=_BUS)
    ] = DEFAULT_PREFIX,
    bus_shards: Annotated[
        int,
        typer.Option(
            envvar="BRIDGE_BUS_SHARDS",
            help="Shards of the bus, spread over its servers. Fixed once the bus was used.",
            rich_help_panel=_BUS,
        ),
    ] = DEFAULT_SHARDS,
    delta_cache_bytes: Annotated[
        int,
        typer.Option(
            envvar="BRIDGE_DELTA_CACHE_BYTES",
            help="For the newest payload of each channel, to make deltas from and to put back into a bus that lost its data.",
            rich_help_panel=_TUNING,
        ),
    ] = DEFAULT_DELTA_CACHE_BYTES,
    commit_interval_s: Annotated[
        float, typer.Option(envvar="BRIDGE_COMMIT_INTERVAL_S", help="Seconds between two commits.", rich_help_panel=_TUNING)
    ] = 1.0,
    max_batch_records: Annotated[
        int, typer.Option(envvar="BRIDGE_MAX_BATCH_RECORDS", help="Records taken from Kafka at once.", rich_help_panel=_TUNING)
    ] = 500,
    workers: Annotated[
        int,
        typer.Option(
            envvar="BRIDGE_WORKERS",
            help="Processes, each a member of the group with a part of the partitions and a --delta-cache-bytes of its own.",
            rich_help_panel=_TUNING,
        ),
    ] = 1,
    internal_host: Annotated[
        str,
        typer.Option(
            envvar="BRIDGE_INTERNAL_HOST",
            help="Where /health/live, /health/ready and /metrics are served. Not for the Internet.",
            rich_help_panel=_WATCHING,
        ),
    ] = "127.0.0.1",
    internal_port: Annotated[
        str,
        typer.Option(
            envvar="BRIDGE_INTERNAL_PORT",
            metavar="PORT|none",
            help="Its port. 0: any free one (the log tells which). none: do not serve it.",
            rich_help_panel=_WATCHING,
        ),
    ] = str(DEFAULT_INTERNAL_PORT),
    stats: Annotated[
        bool,
        typer.Option(
            "--stats",
            envvar="BRIDGE_STATS",
            help="Show throughput, lag and savings live in the terminal; elsewhere, log the progress every 10 s.",
            rich_help_panel=_WATCHING,
        ),
    ] = False,
    log_format: Annotated[
        LogFormat, typer.Option(envvar="BRIDGE_LOG_FORMAT", help="Log lines for people or for machines.", rich_help_panel=_WATCHING)
    ] = LogFormat.TEXT,
    log_level: Annotated[
        str,
        typer.Option(
            envvar="BRIDGE_LOG_LEVEL", metavar="|".join(_LEVELS), callback=_level, help="The least that is told.", rich_help_panel=_WATCHING
        ),
    ] = "info",
) -> None:
    """Bring records from Kafka to the bus, until told to stop.

    SIGTERM or Ctrl-C finishes what was begun, commits and leaves the group; a second one ends at once. Kafka or the bus may be away,
    at the start too: the bridge waits and loses nothing. A changed rules file is checked and goes into force at once, without a restart;
    one with problems is refused, and the rules in force stay. SIGHUP reloads it, too, and tries halted partitions again.

    Exit code 0: stopped; 1: failed; 2: the options or the rules are wrong.

    [bold]Example[/bold]

    bridge run --rules rules.yaml --bootstrap-servers 127.0.0.1:9092 --bus redis://127.0.0.1:6379 --stats
    """
    console = _terminal() if stats else None
    lines = None if console is None else _lines_above(console)
    configure(log_format, log_level, stream=cast("TextIO | None", lines))
    port = _internal_port(internal_port)
    properties, problems = read_properties(kafka_properties, kafka_property or ())
    settings = BridgeSettings(
        rules=rules,
        bootstrap_servers=bootstrap_servers,
        bus=bus,
        group=group,
        bus_prefix=bus_prefix,
        bus_shards=bus_shards,
        start_from=start_from,
        kafka_properties=properties,
        internal_host=internal_host,
        internal_port=None if port == -1 else port,
        delta_cache_bytes=delta_cache_bytes,
        commit_interval_s=commit_interval_s,
        max_batch_records=max_batch_records,
        workers=workers,
        report_interval_s=_OFTEN_S if stats and console is None else _REPORT_INTERVAL_S,
    )
    watch = None if console is None else partial(_view, console)
    _run(settings, problems, log_format, log_level, watch, None if lines is None else lines.write_bytes)


def _terminal() -> Console | None:
    """The terminal on standard output, if it is one."""
    if not sys.stdout.isatty():
        return None
    from rich.console import Console

    return Console(highlight=False)


def _lines_above(console: Console) -> LinesAbove | None:
    """Where log lines go that would stand in the middle of the view."""
    if not sys.stderr.isatty():
        return None
    from bridge.commands.stats_view import LinesAbove

    return LinesAbove(console)


def _view(console: Console, registry: CollectorRegistry, health: Callable[[], Health]) -> StatsView:
    from bridge.commands.stats_view import StatsView

    return StatsView(console, registry, health)


def _run(
    settings: BridgeSettings,
    problems: list[str],
    log_format: str,
    log_level: str,
    watch: Watch | None,
    on_line: Callable[[bytes], None] | None,
) -> None:
    from bridge import app

    stop = app.Stop()
    try:
        if settings.workers == 1:
            stop.listen()
            app.run(settings, *app.check(settings, problems), stop, watch=watch)
        else:
            from bridge import supervisor

            app.check(settings, problems)
            supervisor.run(settings, log_format, log_level, watch=watch, on_line=on_line)
    except ConfigurationError as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(_USAGE) from None
    except (BusLayoutError, WorkersError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_USAGE) from None
    except DistributaryError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_FAILED) from None
