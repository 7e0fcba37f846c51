"""The `edge` command."""

from __future__ import annotations

import sys
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edge.core.delivery import Policies
from edge.core.limits import Limits
from edge.namespaces import load_policies
from edge.settings import DEFAULT_INTERNAL_PORT, DEFAULT_PORT, Settings, check_settings
from shared.bus.layout import DEFAULT_PREFIX
from shared.errors import ConfigurationError, DistributaryError
from shared.extras import needing
from shared.telemetry import LogFormat, configure

app = typer.Typer(
    name="edge",
    help="Hold the clients and deliver what bridges push. Needs the bus (Redis), never Kafka.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

_LIMITS = Limits()
_BUS, _SERVING, _COMING = "Bus", "Serving", "Clients that come"
_ASKING, _HOLDING, _WATCHING = "What a client may ask", "What the edge holds", "Logs"


class LogLevel(StrEnum):
    """The least important lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _show_version(value: bool) -> None:
    if value:
        try:
            typer.echo(f"distributary {version('distributary')}")
        except PackageNotFoundError:
            typer.echo("distributary (not installed)")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Options before the subcommand."""


@app.command()
def run(
    *,
    bus: Annotated[
        str,
        typer.Option(
            envvar="EDGE_BUS",
            help="Redis: `redis://[USER:PASSWORD@]HOST:PORT[/DB]`, `rediss://` for TLS, or several with commas, always in the same order; "
            "`redis+cluster://HOST:PORT,HOST:PORT`: some nodes of one Redis Cluster.",
            rich_help_panel=_BUS,
        ),
    ],
    bus_prefix: Annotated[
        str, typer.Option(envvar="EDGE_BUS_PREFIX", help="What all keys on the bus start with.", rich_help_panel=_BUS)
    ] = DEFAULT_PREFIX,
    host: Annotated[
        str, typer.Option(envvar="EDGE_HOST", help="Address that clients connect to; `0.0.0.0` for all.", rich_help_panel=_SERVING)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="EDGE_PORT", help="Port that clients connect to; 0 for any free one.", rich_help_panel=_SERVING)
    ] = DEFAULT_PORT,
    internal_host: Annotated[
        str, typer.Option(envvar="EDGE_INTERNAL_HOST", help="Address of health and metrics.", rich_help_panel=_SERVING)
    ] = "127.0.0.1",
    internal_port: Annotated[
        int,
        typer.Option(
            envvar="EDGE_INTERNAL_PORT",
            help="Port of `/health/live`, `/health/ready`, `/metrics`; 0 for any free one, -1 for none.",
            rich_help_panel=_SERVING,
        ),
    ] = DEFAULT_INTERNAL_PORT,
    console: Annotated[
        bool,
        typer.Option(
            "--console", envvar="EDGE_CONSOLE", help="Serve the live page at `/`. For demos: anybody may look.", rich_help_panel=_SERVING
        ),
    ] = False,
    drain_s: Annotated[
        float,
        typer.Option(envvar="EDGE_DRAIN_S", help="Seconds over which connections are closed after SIGTERM.", rich_help_panel=_SERVING),
    ] = 10.0,
    deflate: Annotated[
        bool,
        typer.Option(
            "--deflate",
            envvar="EDGE_DEFLATE",
            help="Compress frames for clients that offer it (permessage-deflate, RFC 7692).",
            rich_help_panel=_SERVING,
        ),
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            envvar="EDGE_WORKERS",
            help="Processes that share the port, each with a link to the bus of its own. Limits and rates are each worker's.",
            rich_help_panel=_SERVING,
        ),
    ] = 1,
    max_connections: Annotated[
        int, typer.Option(metavar="N", envvar="EDGE_MAX_CONNECTIONS", help="Connections of a worker.", rich_help_panel=_COMING)
    ] = _LIMITS.max_connections,
    max_connects_per_s: Annotated[
        float,
        typer.Option(
            metavar="N",
            envvar="EDGE_MAX_CONNECTS_PER_S",
            help="Clients let in a second by a worker; the others are told when to come back. 0 for no bound.",
            rich_help_panel=_COMING,
        ),
    ] = _LIMITS.max_connects_per_s,
    max_connections_per_address: Annotated[
        int,
        typer.Option(
            metavar="N",
            envvar="EDGE_MAX_CONNECTIONS_PER_ADDRESS",
            help="Connections of one client address to a worker; 0 for no bound (behind a proxy).",
            rich_help_panel=_COMING,
        ),
    ] = 0,
    max_subscriptions: Annotated[
        int, typer.Option(envvar="EDGE_MAX_SUBSCRIPTIONS", help="Subscriptions of one session.", rich_help_panel=_ASKING)
    ] = _LIMITS.max_subscriptions,
    max_channels: Annotated[
        int, typer.Option(envvar="EDGE_MAX_CHANNELS", help="Channels that a worker subscribes to on the bus.", rich_help_panel=_HOLDING)
    ] = _LIMITS.max_channels,
    max_commands_per_s: Annotated[
        float,
        typer.Option(
            envvar="EDGE_MAX_COMMANDS_PER_S",
            help="Commands and acknowledgements of one session, a second on average.",
            rich_help_panel=_ASKING,
        ),
    ] = _LIMITS.max_commands_per_s,
    command_burst: Annotated[
        int, typer.Option(envvar="EDGE_COMMAND_BURST", help="Commands that one session may send at once.", rich_help_panel=_ASKING)
    ] = _LIMITS.command_burst,
    max_lookups_per_s: Annotated[
        float,
        typer.Option(
            envvar="EDGE_MAX_LOOKUPS_PER_S",
            help="Requests for `/v1/channels/...` that ask the bus, of a worker; 429 beyond it. 0 for none.",
            rich_help_panel=_ASKING,
        ),
    ] = _LIMITS.max_lookups_per_s,
    max_frame_bytes: Annotated[
        int, typer.Option(envvar="EDGE_MAX_FRAME_BYTES", help="Largest frame that a client may send.", rich_help_panel=_ASKING)
    ] = _LIMITS.max_frame_bytes,
    max_recovery_items: Annotated[
        int,
        typer.Option(
            envvar="EDGE_MAX_RECOVERY_ITEMS",
            help="Publications that one who comes back gets at once; who missed more is told of a gap. No more than the rules' history.",
            rich_help_panel=_HOLDING,
        ),
    ] = _LIMITS.max_recovery_items,
    max_recovery_bytes: Annotated[
        int, typer.Option(envvar="EDGE_MAX_RECOVERY_BYTES", help="The same in bytes of payload.", rich_help_panel=_HOLDING)
    ] = _LIMITS.max_recovery_bytes,
    max_outbox_bytes: Annotated[
        int,
        typer.Option(
            envvar="EDGE_MAX_OUTBOX_BYTES",
            help="Unsent bytes of one session before it is closed as a slow consumer.",
            rich_help_panel=_HOLDING,
        ),
    ] = _LIMITS.max_outbox_bytes,
    max_keys: Annotated[
        int,
        typer.Option(
            envvar="EDGE_MAX_KEYS", help="Keys of a keyed channel; one with more is refused to clients.", rich_help_panel=_HOLDING
        ),
    ] = _LIMITS.max_keys,
    max_state_bytes: Annotated[
        int,
        typer.Option(
            envvar="EDGE_MAX_STATE_BYTES",
            help="Memory for the newest values of a keyed channel; one with more is refused.",
            rich_help_panel=_HOLDING,
        ),
    ] = _LIMITS.max_state_bytes,
    max_all_state_bytes: Annotated[
        int,
        typer.Option(
            envvar="EDGE_MAX_ALL_STATE_BYTES", help="The same of all keyed channels of a worker together.", rich_help_panel=_HOLDING
        ),
    ] = _LIMITS.max_all_state_bytes,
    namespaces: Annotated[
        Path | None,
        typer.Option(
            envvar="EDGE_NAMESPACES",
            metavar="FILE",
            help="TOML: delivery modes and rates by namespace; without it, all modes.",
            rich_help_panel=_ASKING,
        ),
    ] = None,
    ping_interval_s: Annotated[
        float,
        typer.Option(metavar="N", envvar="EDGE_PING_INTERVAL_S", help="Seconds between pings of a connection.", rich_help_panel=_COMING),
    ] = _LIMITS.ping_interval_s,
    log_format: Annotated[
        LogFormat, typer.Option(envvar="EDGE_LOG_FORMAT", help="Log lines for people or for machines.", rich_help_panel=_WATCHING)
    ] = LogFormat.TEXT,
    log_level: Annotated[
        LogLevel, typer.Option(envvar="EDGE_LOG_LEVEL", help="Least important lines to log.", rich_help_panel=_WATCHING)
    ] = LogLevel.INFO,
) -> None:
    """Serve clients until SIGTERM or Ctrl-C.

    Example: `edge run --bus redis://127.0.0.1:6379 --host 127.0.0.1 --port 8000`, then open
    `ws://127.0.0.1:8000/v1/ws?channels=bus:1430` with any WebSocket client.

    Every option can be given as an environment variable.
    Exit status: 0 after a signal, 1 if serving failed, 2 if it was told something wrong.
    """
    configure(log_format, log_level)
    limits = msgspec.structs.replace(
        _LIMITS,
        max_connections=max_connections,
        max_connects_per_s=max_connects_per_s,
        max_connections_per_address=max_connections_per_address,
        max_subscriptions=max_subscriptions,
        max_channels=max_channels,
        max_commands_per_s=max_commands_per_s,
        command_burst=command_burst,
        max_lookups_per_s=max_lookups_per_s,
        max_frame_bytes=max_frame_bytes,
        max_recovery_items=max_recovery_items,
        max_recovery_bytes=max_recovery_bytes,
        max_outbox_bytes=max_outbox_bytes,
        max_keys=max_keys,
        max_state_bytes=max_state_bytes,
        max_all_state_bytes=max_all_state_bytes,
        ping_interval_s=ping_interval_s,
    )
    settings = Settings(bus, bus_prefix, host, port, internal_host, internal_port, drain_s, console, deflate, workers, limits)
    try:
        settings = _checked(settings, namespaces)
        # Imported late: `edge --help` needs none of it.
        if workers == 1:
            from edge.app import run as serve

            serve(settings)
        else:
            from edge.supervisor import run as supervise

            supervise(settings, log_format, log_level)
    except ConfigurationError as error:
        for problem in error.problems:
            typer.echo(f"edge: {problem}", err=True)
        raise typer.Exit(2) from None
    except DistributaryError as error:
        typer.echo(f"edge: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def check(
    namespaces: Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file as `edge run --namespaces` takes it.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", envvar="EDGE_QUIET", help="Print problems only.")] = False,
) -> None:
    """Check a file of delivery modes by namespace: every problem at once.

    Needs no Redis. Exit status: 0 if the file is right, 1 if it has problems, 2 if the command line is wrong.

    Example: `edge check namespaces.toml && kubectl create configmap namespaces --from-file namespaces.toml`
    """
    try:
        policies = load_policies(namespaces)
    except ConfigurationError as error:
        for problem in error.problems:
            typer.echo(f"edge: {problem}", err=True)
        raise typer.Exit(1) from None
    if not quiet:
        typer.echo("\n".join(_table(policies)))


def _table(policies: Policies) -> list[str]:
    """What each namespace allows, a line each, aligned."""
    rows = [("namespace", "modes", "max_rate", "window")]
    for name, policy in (*sorted(policies.namespaces.items()), ("(any other)", policies.default)):
        rate = f"{policy.max_rate:g}" if policy.max_rate else "no bound"
        rows.append((name, ", ".join(policy.modes), rate, str(policy.window)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _checked(settings: Settings, namespaces: Path | None) -> Settings:
    """The settings with the policies of a file. Raises ConfigurationError with every problem of both."""
    problems: list[str] = []
    try:
        check_settings(settings)
    except ConfigurationError as error:
        problems += error.problems
    try:
        if namespaces is not None:
            settings = msgspec.structs.replace(settings, policies=load_policies(namespaces))
    except ConfigurationError as error:
        problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return settings


def main() -> None:
    """Entry point of the `edge` script."""
    try:
        with needing("edge"):
            app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
