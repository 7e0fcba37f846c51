"""`bridge try RULES --input FILE | --topic T`: what rules would make of records, without publishing anything."""

from __future__ import annotations

import gzip
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, NoReturn, cast

import typer

from bridge.commands.kafka_options import BootstrapServers, KafkaProperties, KafkaProperty, Timeout, peeking
from bridge.commands.rules_file import PROBLEMS, RulesArgument, load_or_exit, printable, wait_for_schemas

if TYPE_CHECKING:
    from bridge.adapters.kafka_peek import Peeked
    from bridge.core.record import Record
    from bridge.core.ruleset import CompiledRules
    from bridge.rules.try_out import Report, RouteReport, TryOut

MAX_INPUT_BYTES = 268_435_456
"""One record, decompressed. Kafka's own default is 1 MB."""


def try_(  # noqa: PLR0917 - typer calls it by name
    rules: RulesArgument,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            "-i",
            envvar="BRIDGE_INPUT",
            help="A file that holds one record's value; .gz is decompressed, - is stdin. "
            "Give it many times, in Kafka's order (in the variable, with : between). "
            "Without it, records are read from the live --topic.",
        ),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(
            envvar="BRIDGE_TOPIC", help="The topic that the records come from, or are read from. Default: the source's first one."
        ),
    ] = None,
    last: Annotated[
        int, typer.Option(min=1, max=100_000, envvar="BRIDGE_LAST", help="Of a live topic: how many of its newest records.")
    ] = 100,
    source: Annotated[
        str | None, typer.Option(envvar="BRIDGE_SOURCE", help="Try only the routes of this source. Needed where there are several.")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", envvar="BRIDGE_LINES", help="Each line of the input is a record.")] = False,
    key: Annotated[str | None, typer.Option(envvar="BRIDGE_KEY", help="The key of every record. Default: none.")] = None,
    show: Annotated[int, typer.Option(min=0, max=10_000, envvar="BRIDGE_SHOW", help="Channels to show for each route.")] = 3,
    channel: Annotated[
        str, typer.Option(envvar="BRIDGE_CHANNEL", help="Count and show only channels that fit this pattern, such as 'bus:14*'.")
    ] = "*",
    as_json: Annotated[bool, typer.Option("--json", envvar="BRIDGE_JSON", help="Print the report as JSON.")] = False,
    bootstrap_servers: BootstrapServers = None,
    kafka_property: KafkaProperty = None,
    kafka_properties: KafkaProperties = None,
    timeout_s: Timeout = 10.0,
) -> None:
    """Try rules on recorded records, or on those of a live topic: which channels would get what, with sizes and savings.

    Nothing is published and nothing committed; with --input, neither Kafka nor Redis is needed. Bytes are those of payloads, full and
    as deltas (of each publication the smaller one, as the bridge pushes it). A star marks the format that the route asks for.

    Exit code 0: every record could be handled; 1: one could not, or the rules have problems; 2: the command line is wrong.

    [bold]Examples[/bold]

    bridge try rules.yaml --input snapshot1.json --input snapshot2.json

    bridge try rules.yaml --input records.jsonl.gz --lines --channel 'position:14*' --show 20

    bridge try rules.yaml --topic vehicles --last 100 --bootstrap-servers kafka:9092

    kcat -C -e -b kafka:9092 -t vehicles | bridge try rules.yaml --input - --lines --json
    """
    from bridge.rules.try_out import TryOut
    from shared.delta import json_patch, vcdiff

    if not inputs and topic is None:
        refuse("--input", "give files with --input, or a live topic with --topic and --bootstrap-servers")
    wait_for_schemas()
    compiled, topic = choose(load_or_exit(rules), source, topic)
    try_out = TryOut(compiled, vcdiff=vcdiff.encode, json_patch=json_patch.encode, show=show, pattern=channel)
    if inputs:
        for record in records_of(all_values(inputs, lines=lines, is_text=reads_text(compiled, topic)), topic, key):
            try_out.feed(record)
    else:
        with peeking(bootstrap_servers, kafka_property, kafka_properties, timeout_s) as peek:
            _feed_live(try_out, peek.last(topic, last), topic, timeout_s)
    report = try_out.report()
    if as_json:
        _print_json(report)
    else:
        _print_report(report)
    if report.failed:
        raise typer.Exit(PROBLEMS)


def choose(rules: CompiledRules, source: str | None, topic: str | None) -> tuple[CompiledRules, str]:
    """The rules to try (of one source, where it is named) and the topic that records come from."""
    import msgspec

    from bridge.core.routing import Router

    names = [item.name for item in rules.sources]
    if source is not None:
        if source not in names:
            refuse("--source", f"there is no source {source!r}; there are {', '.join(names)}")
        rules = msgspec.structs.replace(
            rules,
            sources=tuple(item for item in rules.sources if item.name == source),
            routes=tuple(route for route in rules.routes if route.source.name == source),
        )
    if topic is None:
        if len(rules.sources) > 1:
            refuse("--source", f"say which of these the records come from: {', '.join(names)}")
        if not rules.sources[0].topics:
            refuse("--topic", "the source has a topic_pattern; say which topic the records come from")
        return rules, rules.sources[0].topics[0]
    if not Router(rules).routes_of(topic):
        refuse("--topic", f"no route reads the topic {topic!r}; sources read {', '.join(rules.topics)}")
    return rules, topic


def refuse(option: str, why: str) -> NoReturn:
    """End the command: an option is wrong."""
    raise typer.BadParameter(why, param_hint=option)


def records_of(values: Iterator[bytes], topic: str, key: str | None) -> Iterator[Record]:
    """The values as records of one partition, all with this key."""
    from bridge.core.record import Record

    encoded_key = key.encode(errors="surrogateescape") if key is not None else None
    now_ms = time.time_ns() // 1_000_000
    for offset, value in enumerate(values):
        yield Record(topic, 0, offset, now_ms, encoded_key, value)


def _feed_live(try_out: TryOut, found: Peeked, topic: str, timeout_s: float) -> None:
    for record in found.records:
        try_out.feed(record)
    if not found.available:
        has = f"{found.partitions} partition{'s' * (found.partitions != 1)}"
        typer.echo(f"{topic} has {has} and no records: none was produced yet, or retention removed them.", err=True)
    elif not found.is_complete:
        typer.echo(f"{topic}: read {len(found.records):,} records in {timeout_s:g} s, and not all that was asked for.", err=True)


def reads_text(rules: CompiledRules, topic: str) -> bool:
    """Whether the values of `topic` are text in every source that reads it."""
    from bridge.core.routing import Router

    names = set(Router(rules).routes_of(topic))
    return all(route.source.decoder.is_text for route in rules.routes if route.name in names)


def all_values(paths: list[Path], *, lines: bool, is_text: bool = True) -> Iterator[bytes]:
    """The values in files: one each, or one a line."""
    if lines and not is_text:
        refuse("--lines", "the source's format is not text, and its values may hold line ends: give a file a record")
    for path in paths:
        try:
            yield from _values(path, lines=lines, is_text=is_text)
        except (OSError, EOFError, zlib.error) as error:
            refuse("--input", f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")


def _values(path: Path, *, lines: bool, is_text: bool) -> Iterator[bytes]:
    with _opened(path) as file:
        if not lines:
            data = _bounded(file.read(MAX_INPUT_BYTES + 1), path)
            yield data.rstrip(b"\r\n") if is_text else data  # An editor's last line end; of other formats each byte counts.
            return
        while line := file.readline(MAX_INPUT_BYTES + 1):
            value = _bounded(line, path).rstrip(b"\r\n")
            if value:
                yield value


def _opened(path: Path) -> BinaryIO:
    if str(path) == "-":
        return sys.stdin.buffer
    if path.suffix == ".gz":
        return cast("BinaryIO", gzip.open(path, "rb"))
    return path.open("rb")


def _bounded(data: bytes, path: Path) -> bytes:
    if len(data) > MAX_INPUT_BYTES:
        refuse("--input", f"{path} holds a record of more than {MAX_INPUT_BYTES} bytes")
    return data


def _print_json(report: Report) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))


def _print_report(report: Report) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    from bridge.commands.terminal import console

    numbers = ("records", "publications", "unchanged", "channels", "bytes", "as vcdiff", "as json-patch")
    out = console()
    table = Table("route", *(Column(name, justify="right") for name in numbers))
    for route in report.routes:
        table.add_row(*_row(route))
    out.print(table)
    for route in report.routes:
        if route.shown:
            out.print(f"\n[bold]{escape(route.route)}[/bold]: {route.kind}, {_count(route.channels, 'channel')}")
        for shown in route.shown:
            # Payloads are the producer's: what they contain must neither be taken for markup nor reach the terminal as control codes.
            out.print(f"  {shown.channel} ({shown.publications})  {printable(shown.payload, 160)}", markup=False, soft_wrap=True)
        if route.shown and route.channels > len(route.shown):
            out.print(f"  and {route.channels - len(route.shown):,} more (--show, --channel)", markup=False)
    for line in _remarks(report):
        out.print(line, markup=False, soft_wrap=True)


def _row(route: RouteReport) -> list[str]:
    return [
        route.route,
        f"{route.records:,}",
        f"{route.publications:,}",
        f"{route.unchanged:,}",
        f"{route.channels:,}",
        f"{route.bytes_full:,}",
        _saving(route.bytes_vcdiff, route.bytes_full) + (" *" if route.delta == "vcdiff" else ""),
        _saving(route.bytes_json_patch, route.bytes_full) + (" *" if route.delta == "json-patch" else ""),
    ]


def _saving(size: int, full: int) -> str:
    share = 100 * (full - size) // full if full else 0
    return f"{size:,} ({-share}%)" if share else f"{size:,}"


def _remarks(report: Report) -> Iterator[str]:
    yield ""
    left_out, tombstones = _count(report.filtered, "item"), _count(report.tombstones, "tombstone")
    yield f"{_count(report.records, 'record')}, {left_out} left out by `where`, {tombstones}"
    if not any(route.publications for route in report.routes):
        yield "Nothing would be published."
    for route in report.routes:
        if route.repeated or route.stale:
            yield f"route {route.route}: {_count(route.repeated, 'item')} repeated by `id`, {route.stale:,} not newer by `version`"
    if report.became_nothing:
        yield f"{_count(report.became_nothing, 'record')} became nothing:"
    for found in report.nothing:
        yield f"  {found.records:,} x route {found.route}: {printable(found.why, 200)}"
        yield f"      {printable(found.example, 300)}"
    if report.failed:
        yield f"{_count(report.failed, 'problem')}:"
        yield from (f"  {printable(problem, 400)}" for problem in report.problems)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
