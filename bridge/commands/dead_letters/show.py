"""`bridge dead-letters show`: one letter, with all that is known of it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.commands.dead_letters.options import AsJson, Properties, Property, Rules, Servers, place_of
from bridge.commands.dead_letters.reader import open_reader
from bridge.commands.dead_letters.table import described, json_line, shown_time
from bridge.commands.dead_letters.value import contents, shown_bytes, shown_value
from bridge.commands.rules_file import PROBLEMS, load_or_exit, printable

if TYPE_CHECKING:
    from bridge.adapters.kafka_letters import Letter
    from bridge.core.ruleset import CompiledRules


def show(
    letter: Annotated[str, typer.Argument(metavar="LETTER", help="As the list names it: TOPIC:PARTITION:OFFSET.")],
    bootstrap_servers: Servers,
    rules: Rules = None,
    raw: Annotated[bool, typer.Option("--raw", envvar="BRIDGE_RAW", help="Write the record's value, as it is, to stdout.")] = False,
    as_json: AsJson = False,
    kafka_property: Property = None,
    kafka_properties: Properties = None,
) -> None:
    """Show one dead letter: what its headers tell, and its key and value, decoded where that is possible.

    With --rules, the value is read as the route's source says (Avro, Protobuf ...). Exit code 0: done; 1: there is no such letter, or
    Kafka does not answer; 2: the command line is wrong.

    [bold]Examples[/bold]

    bridge dead-letters show vehicles.dead-letters:0:12 --bootstrap-servers kafka:9092

    bridge dead-letters show vehicles.dead-letters:0:12 --bootstrap-servers kafka:9092 --raw > value.bin
    """
    place = place_of(letter)
    compiled = load_or_exit(rules) if rules is not None else None
    with open_reader(bootstrap_servers, kafka_properties, kafka_property) as reader:
        found = reader.letter(place)
    if found is None:
        typer.echo(f"there is no dead letter at {place}", err=True)
        raise typer.Exit(PROBLEMS)
    if raw:
        sys.stdout.buffer.write(found.record.value or b"")
    elif as_json:
        typer.echo(json_line({**described(found, None), **contents(found)}))
    else:
        _print_letter(found, compiled)


def _print_letter(letter: Letter, rules: CompiledRules | None) -> None:
    facts, record = letter.facts, letter.record
    lines = {
        "letter": str(letter.place),
        "put aside": shown_time(facts.at),
        "from": f"{facts.source} of cluster {facts.cluster or 'unknown'}",
        "record's time": shown_time(_from_ms(facts.timestamp_ms)),
        "route": f"{facts.route} (group {facts.group})",
        "error": facts.error,
        "items": f"{facts.failed} failed" + (f": {', '.join(map(str, facts.items))}" if facts.items is not None else ""),
        "version": facts.version,
    }
    for name, text in lines.items():
        typer.echo(f"{name + ':':<15}{printable(text, 5_000)}")
    for header, value in facts.headers:
        typer.echo(f"{'header:':<15}{printable(header, 200)} = {shown_bytes(value, 500)}")
    typer.echo(f"{'key:':<15}{shown_bytes(record.key, 500)}")
    if facts.left_out is not None:
        typer.echo(
            f"{'value:':<15}left out: its {facts.left_out} bytes were more than the topic takes; it is at {facts.source}, if that is kept"
        )
        return
    typer.echo(f"{'value:':<15}{'none (a tombstone)' if record.value is None else f'{len(record.value)} bytes'}")
    if record.value is not None:
        typer.echo(shown_value(letter, rules))


def _from_ms(time_ms: int | None) -> datetime | None:
    try:
        return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
