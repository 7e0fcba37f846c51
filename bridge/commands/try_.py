"""`bridge try RULES --input FILE`: what rules would make of records, without Kafka and Redis."""

from __future__ import annotations

import gzip
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, NoReturn, cast

import typer

from bridge.commands.rules_file import PROBLEMS, RulesArgument, load_or_exit, printable

if TYPE_CHECKING:
    from bridge.core.ruleset import CompiledRules
    from bridge.rules.try_out import Report, RouteReport, TryOut

MAX_INPUT_BYTES = 268_435_456
"""One record, decompressed. Kafka's own default is 1 MB."""


def try_(  # noqa: PLR0917 - typer calls it by name
    rules: RulesArgument,
    inputs: Annotated[
        list[Path],
        typer.Option(
            "--input",
            "-i",
            envvar="BRIDGE_INPUT",
            help="A file that holds one record's value; .gz is decompressed, - is stdin. "
            "Give it many times, in Kafka's order (in the variable, with : between).",
        ),
    ],
    topic: Annotated[
        str | None, typer.Option(envvar="BRIDGE_TOPIC", help="The topic that the records come from. Default: the source's first one.")
    ] = None,
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
) -> None:
    """Try rules on recorded records: which channels would get what, with sizes and savings.

    Needs neither Kafka nor Redis. Bytes are those of payloads, full and as deltas (of each publication the smaller one, as the bridge
    pushes it). A star marks the format that the route asks for.

    Exit code 0: every record could be handled; 1: one could not, or the rules have problems; 2: the command line is wrong.

    [bold]Examples[/bold]

    bridge try rules.yaml --input snapshot1.json --input snapshot2.json

    bridge try rules.yaml --input records.jsonl.gz --lines --channel 'position:14*' --show 20

    kcat -C -e -b kafka:9092 -t vehicles | bridge try rules.yaml --input - --lines --json
    """
    from bridge.rules.try_out import TryOut
    from shared.delta import json_patch, vcdiff

    compiled, topic = _choose(load_or_exit(rules), source, topic)
    try_out = TryOut(compiled, vcdiff=vcdiff.encode, json_patch=json_patch.encode, show=show, pattern=channel)
    _feed(try_out, _all_values(inputs, lines=lines), topic, key)
    report = try_out.report()
    if as_json:
        _print_json(report)
    else:
        _print_report(report)
    if report.failed:
        raise typer.Exit(PROBLEMS)


def _choose(rules: CompiledRules, source: str | None, topic: str | None) -> tuple[CompiledRules, str]:
    """The rules to try (of one source, where it is named) and the topic that records come from."""
    import msgspec

    from bridge.core.routing import Router

    names = [item.name for item in rules.sources]
    if source is not None:
        if source not in names:
            _refuse("--source", f"there is no source {source!r}; there are {', '.join(names)}")
        rules = msgspec.structs.replace(
            rules,
            sources=tuple(item for item in rules.sources if item.name == source),
            routes=tuple(route for route in rules.routes if route.source.name == source),
        )
    if topic is None:
        if len(rules.sources) > 1:
            _refuse("--source", f"say which of these the records come from: {', '.join(names)}")
        if not rules.sources[0].topics:
            _refuse("--topic", "the source has a topic_pattern; say which topic the records come from")
        return rules, rules.sources[0].topics[0]
    if not Router(rules).routes_of(topic):
        _refuse("--topic", f"no route reads the topic {topic!r}; sources read {', '.join(rules.topics)}")
    return rules, topic


def _refuse(option: str, why: str) -> NoReturn:
    raise typer.BadParameter(why, param_hint=option)


def _feed(try_out: TryOut, values: Iterator[bytes], topic: str, key: str | None) -> None:
    from bridge.core.record import Record

    encoded_key = key.encode(errors="surrogateescape") if key is not None else None
    now_ms = time.time_ns() // 1_000_000
    for offset, value in enumerate(values):
        try_out.feed(Record(topic, 0, offset, now_ms, encoded_key, value))


def _all_values(paths: list[Path], *, lines: bool) -> Iterator[bytes]:
    for path in paths:
        try:
            yield from _values(path, lines=lines)
        except (OSError, EOFError, zlib.error) as error:
            _refuse("--input", f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")


def _values(path: Path, *, lines: bool) -> Iterator[bytes]:
    with _opened(path) as file:
        if not lines:
            yield _bounded(file.read(MAX_INPUT_BYTES + 1), path).rstrip(b"\r\n")
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
        _refuse("--input", f"{path} holds a record of more than {MAX_INPUT_BYTES} bytes")
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
            out.print(f"\n[bold]{escape(route.route)}[/bold]: {route.kind}, {route.channels} channels")
        for shown in route.shown:
            # Payloads are the producer's: what they contain must neither be taken for markup nor reach the terminal as control codes.
            out.print(f"  {shown.channel} ({shown.publications})  {printable(shown.payload, 160)}", markup=False, soft_wrap=True)
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
    yield f"{report.records:,} records, {report.filtered:,} items left out by `where`, {report.tombstones:,} tombstones"
    if not any(route.publications for route in report.routes):
        yield "Nothing would be published."
    if report.failed:
        yield f"{report.failed:,} problems:"
        yield from (f"  {printable(problem, 400)}" for problem in report.problems)
