"""`bridge run`: from Kafka to the bus, until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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

_FAILED = 1
_USAGE = 2
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
        raise typer.BadParameter(msg) from None
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

    bridge run --rules rules.yaml --bootstrap-servers 127.0.0.1:9092 --bus redis://127.0.0.1:6379
    """
    configure(log_format, log_level)
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
    )
    _run(settings, problems)


def _run(settings: BridgeSettings, problems: list[str]) -> None:
    from bridge import app

    stop = app.Stop()
    stop.listen()
    try:
        app.run(settings, *app.check(settings, problems), stop)
    except ConfigurationError as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(_USAGE) from None
    except BusLayoutError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_USAGE) from None
    except DistributaryError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_FAILED) from None
