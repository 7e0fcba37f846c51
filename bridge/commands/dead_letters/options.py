"""What the command line says, in the same words for all subcommands: where Kafka is, and which letters are meant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from bridge.commands.rules_file import USAGE, printable

if TYPE_CHECKING:
    from bridge.adapters.kafka_letters import Letter, Place

_KAFKA = "Kafka"

Servers = Annotated[
    str,
    typer.Option(
        "--bootstrap-servers",
        envvar="BRIDGE_BOOTSTRAP_SERVERS",
        metavar="HOST:PORT,...",
        help="Some of Kafka's brokers.",
        rich_help_panel=_KAFKA,
    ),
]
Topics = Annotated[
    list[str] | None,
    typer.Option(
        "--topic",
        "-t",
        envvar="BRIDGE_DEAD_LETTER_TOPICS",
        metavar="TOPIC",
        help="A topic of dead letters. Repeatable. Default: those of --rules.",
    ),
]
Rules = Annotated[
    Path | None,
    typer.Option(
        "--rules", envvar="BRIDGE_RULES", exists=True, dir_okay=False, help="The rules file: names the topics, and decodes values."
    ),
]
Property = Annotated[
    list[str] | None,
    typer.Option(
        "--kafka-property",
        envvar="BRIDGE_KAFKA_PROPERTY",
        metavar="NAME=VALUE",
        help="A property of librdkafka. Repeatable.",
        rich_help_panel=_KAFKA,
    ),
]
Properties = Annotated[
    Path | None,
    typer.Option(
        "--kafka-properties",
        envvar="BRIDGE_KAFKA_PROPERTIES",
        metavar="FILE",
        help="A file of such properties: for passwords.",
        rich_help_panel=_KAFKA,
    ),
]
Route = Annotated[str | None, typer.Option("--route", envvar="BRIDGE_ROUTE", help="Only letters of this route.")]
Since = Annotated[
    str | None,
    typer.Option("--since", envvar="BRIDGE_SINCE", metavar="TIME", help="Only letters put aside since: 30m, 2h, 7d, or 2026-01-31T12:00Z."),
]
AsJson = Annotated[bool, typer.Option("--json", envvar="BRIDGE_JSON", help="Print JSON, a line for each letter.")]


class Wanted:
    """Which letters are meant."""

    def __init__(self, route: str | None, since: str | None) -> None:
        self.route = route
        self.since = _time_of(since)

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self.route is None and self.since is None

    def takes(self, letter: Letter) -> bool:
        """Whether this letter is one of them."""
        facts = letter.facts
        if self.route is not None and facts.route != self.route:
            return False
        return self.since is None or (facts.at is not None and facts.at >= self.since)


def place_of(text: str) -> Place:
    """The place that an argument names."""
    from bridge.adapters.kafka_letters import Place

    place = Place.parse(text)
    if place is None:
        msg = f"{printable(text, 80)} is not TOPIC:PARTITION:OFFSET"
        raise typer.BadParameter(msg)
    return place


def properties_of(file: Path | None, pairs: list[str] | None) -> dict[str, str]:
    """Properties of Kafka's client; where one is wrong, the command ends."""
    from bridge.settings import read_properties

    properties, problems = read_properties(file, pairs or ())
    if problems:
        wrong("\n".join(problems))
    return properties


def wrong(text: str) -> NoReturn:
    """End the command: its line is wrong."""
    typer.echo(text, err=True)
    raise typer.Exit(USAGE)


def _time_of(text: str | None) -> datetime | None:
    if text is None:
        return None
    from bridge.rules.units import parse_duration_ms

    try:
        return datetime.now(UTC) - timedelta(milliseconds=parse_duration_ms(text))
    except (ValueError, OverflowError):
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        msg = f"--since: {printable(text, 80)} is neither a duration such as 30m, 2h or 7d nor a time such as 2026-01-31T12:00Z"
        raise typer.BadParameter(msg) from None
    return found if found.tzinfo is not None else found.astimezone()
