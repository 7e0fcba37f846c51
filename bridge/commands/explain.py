"""`bridge explain RULES`: one record, step by step through every route."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.commands.kafka_options import BootstrapServers, KafkaProperties, KafkaProperty, Timeout, peeking
from bridge.commands.rules_file import PROBLEMS, RulesArgument, load_or_exit, printable, wait_for_schemas
from bridge.commands.try_ import all_values, choose, reads_text, records_of, refuse

if TYPE_CHECKING:
    from bridge.core.explain import Explanation, ItemSteps, Publication, RouteSteps
    from bridge.core.record import Record

BEFORE = 100
"""Records before the one to explain that are read from its partition, for what its deltas are made against."""


def explain(  # noqa: PLR0917 - typer calls it by name
    rules: RulesArgument,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            "-i",
            envvar="BRIDGE_INPUT",
            help="A file that holds one record's value; .gz is decompressed, - is stdin. Repeatable.",
        ),
    ] = None,
    record: Annotated[
        int | None,
        typer.Option(
            min=0, envvar="BRIDGE_RECORD", help="Which record of the input, from 0. Default: the last one. Deltas are to those before."
        ),
    ] = None,
    topic: Annotated[str | None, typer.Option(envvar="BRIDGE_TOPIC", help="The topic that the record comes from, or is read from.")] = None,
    partition: Annotated[int, typer.Option(min=0, envvar="BRIDGE_PARTITION", help="Of a live topic.")] = 0,
    offset: Annotated[int | None, typer.Option(min=0, envvar="BRIDGE_OFFSET", help="Of a live topic: the record's kafka offset.")] = None,
    source: Annotated[
        str | None, typer.Option(envvar="BRIDGE_SOURCE", help="Explain only the routes of this source. Needed where there are several.")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", envvar="BRIDGE_LINES", help="Each line of the input is a record.")] = False,
    key: Annotated[str | None, typer.Option(envvar="BRIDGE_KEY", help="The key of every record of the input. Default: none.")] = None,
    show: Annotated[int, typer.Option(min=20, max=1_000_000, envvar="BRIDGE_SHOW", help="Characters to show of a value.")] = 300,
    as_json: Annotated[bool, typer.Option("--json", envvar="BRIDGE_JSON", help="Print it as JSON.")] = False,
    bootstrap_servers: BootstrapServers = None,
    kafka_property: KafkaProperty = None,
    kafka_properties: KafkaProperties = None,
    timeout_s: Timeout = 10.0,
) -> None:
    """Explain one record: what it is when decoded, and what each route makes of it, step by step.

    For each route: whether its source reads the topic, what `split` gives, `where` with the values in it, the channels' names, the
    payload with its size and that of its deltas to the channel's last payload, and problems. Nothing is published and nothing committed.

    Exit code 0: the record becomes something; 1: it becomes nothing, there are problems, or it cannot be had; 2: the command line is wrong.

    [bold]Examples[/bold]

    bridge explain rules.yaml --input snapshot1.json --input snapshot2.json

    bridge explain rules.yaml --input records.jsonl --lines --record 17 --json

    bridge explain rules.yaml --topic vehicles --partition 3 --offset 1207 --bootstrap-servers kafka:9092
    """
    from bridge.rules.try_out import TryOut
    from shared.delta import json_patch, vcdiff

    if not inputs and (topic is None or offset is None):
        refuse("--input", "give files with --input, or a live record with --topic, --partition, --offset and --bootstrap-servers")
    wait_for_schemas()
    compiled, topic = choose(load_or_exit(rules), source, topic)
    if inputs:
        records = _up_to(records_of(all_values(inputs, lines=lines, is_text=reads_text(compiled, topic)), topic, key), record)
    else:
        with peeking(bootstrap_servers, kafka_property, kafka_properties, timeout_s) as peek:
            records = peek.at(topic, partition, offset or 0, before=BEFORE).records
    try_out = TryOut(compiled, vcdiff=vcdiff.encode, json_patch=json_patch.encode, show=0)
    for before in records[:-1]:
        try_out.feed(before)
    explanation = try_out.explain(records[-1], shown=show)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(explanation), indent=2))
    else:
        for line in _lines(explanation):
            typer.echo(printable(line, 1_000_000))
    if explanation.is_nothing or any(route.problems for route in explanation.routes):
        raise typer.Exit(PROBLEMS)


def _up_to(records: Iterator[Record], number: int | None) -> list[Record]:
    """The records up to the one that is asked for."""
    found: list[Record] = []
    for record in records:
        found.append(record)
        if number is not None and len(found) > number:
            return found
    if not found:
        refuse("--input", "there is no record in it")
    if number is not None:
        refuse("--record", f"there are {len(found)} records, from 0 to {len(found) - 1}")
    return found


def _lines(explanation: Explanation) -> Iterator[str]:
    yield f"record   {explanation.record}"
    yield f"key      {'none' if explanation.key is None else explanation.key}"
    for header in explanation.headers:
        yield f"header   {header.text}: {header.value}"
    yield "value    none: a tombstone" if explanation.size is None else f"value    {explanation.size:,} bytes"
    for format_, value in explanation.values.items():
        yield f"  as {format_}: {value}"
    for route in explanation.routes:
        yield ""
        yield f"route {route.route}: {route.outcome}"
        yield from _route_lines(route)


def _route_lines(route: RouteSteps) -> Iterator[str]:
    if not route.reads_topic:
        yield f"  source   {route.source} does not read this topic"
        return
    yield f"  source   {route.source} reads this topic"
    if route.split_text is not None:
        yield f"  split    {route.split_text}: {route.items:,} items"
    if route.where_text is not None:
        failed = f", a problem for {route.failed:,}" if route.failed else ""
        through = route.items - route.left_out - route.failed
        yield f"  where    {route.where_text}: true for {through:,}, false for {route.left_out:,}{failed}"
    for step in route.steps:
        yield from _step_lines(step)
    if route.items > len(route.steps):
        yield f"  ... and {route.items - len(route.steps):,} more items"
    for publication in route.publications:
        yield from _publication_lines(publication)
    if route.made > len(route.publications):
        yield f"  ... and {route.made - len(route.publications):,} more publications"
    for problem in route.problems:
        yield f"  problem  {problem}"


def _step_lines(step: ItemSteps) -> Iterator[str]:
    if step.index is not None:
        yield f"  item {step.index}   {step.item}"
    if step.where is not None:
        gave = f"a problem: {step.where}" if step.is_failed else f"{'true' if step.is_through else 'false'}: it gave {step.where}"
        yield f"    where    {gave}"
        for operand in step.operands:
            yield f"             {operand.text} = {operand.value}"
    for channel in step.channels:
        yield f"    channel  {channel.text} -> {channel.value}"


def _publication_lines(publication: Publication) -> Iterator[str]:
    key = "" if publication.key is None else f", key {publication.key}"
    yield f"  publishes on {publication.channel}{key}: {publication.size:,} bytes"
    yield f"    payload  {publication.payload}"
    if publication.base_size is None:
        yield "    delta    none: it is the channel's first payload here"
    elif publication.is_unchanged:
        yield "    delta    unchanged: equal to the channel's last payload (with `only_changed` it is not published)"
    else:
        patch = "none" if publication.json_patch_size is None else f"{publication.json_patch_size:,} bytes"
        yield f"    delta    vcdiff {publication.vcdiff_size:,} bytes, json-patch {patch} (to a base of {publication.base_size:,} bytes)"
