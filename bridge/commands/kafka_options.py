"""The options of commands that look into Kafka without joining a group."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.commands.rules_file import PROBLEMS, USAGE
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from bridge.adapters.kafka_peek import KafkaPeek

_KAFKA = "Kafka"

BootstrapServers = Annotated[
    str | None,
    typer.Option(
        envvar="BRIDGE_BOOTSTRAP_SERVERS",
        metavar="HOST:PORT,...",
        help="Some of Kafka's brokers, for records of a live topic.",
        rich_help_panel=_KAFKA,
    ),
]
KafkaProperty = Annotated[
    list[str] | None,
    typer.Option(
        envvar="BRIDGE_KAFKA_PROPERTY", metavar="NAME=VALUE", help="A property of librdkafka. Repeatable.", rich_help_panel=_KAFKA
    ),
]
KafkaProperties = Annotated[
    Path | None,
    typer.Option(
        envvar="BRIDGE_KAFKA_PROPERTIES", metavar="FILE", help="A file of properties of librdkafka, a line each.", rich_help_panel=_KAFKA
    ),
]
Timeout = Annotated[
    float,
    typer.Option("--timeout-s", min=0.1, envvar="BRIDGE_TIMEOUT_S", help="How long to read from Kafka at most.", rich_help_panel=_KAFKA),
]


@contextmanager
def peeking(servers: str | None, pairs: list[str] | None, file: Path | None, timeout_s: float) -> Iterator[KafkaPeek]:
    """A look into Kafka. What cannot be had is told on stderr, and ends the command."""
    from bridge.adapters.kafka_peek import KafkaPeek, PeekError
    from bridge.settings import read_properties

    if not servers:
        msg = "a live topic needs the addresses of Kafka's brokers"
        raise typer.BadParameter(msg, param_hint="--bootstrap-servers")
    properties, problems = read_properties(file, pairs or ())
    peek = None
    try:
        peek = KafkaPeek(servers, properties, clock=time.monotonic, timeout_s=timeout_s)
    except ConfigurationError as error:
        problems += error.problems
    if problems or peek is None:
        for problem in problems:
            typer.echo(problem, err=True)
        raise typer.Exit(USAGE)
    try:
        yield peek
    except PeekError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(PROBLEMS) from None
    finally:
        peek.close()
