"""`bridge check RULES`: whether rules are right, with every problem at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bridge.commands.rules_file import RulesArgument, load_or_exit

if TYPE_CHECKING:
    from bridge.core.ruleset import CompiledRules, Route


def _print_schema(wanted: bool) -> None:
    """Print the JSON Schema, whatever else stands on the command line."""
    if not wanted:
        return
    import msgspec

    from bridge.rules.schema import rules_schema

    typer.echo(msgspec.json.format(msgspec.json.encode(rules_schema()), indent=2))
    raise typer.Exit


def check(
    rules: RulesArgument,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", envvar="BRIDGE_QUIET", help="Print problems only.")] = False,
    schema: Annotated[  # noqa: ARG001 - its callback does it
        bool,
        typer.Option("--schema", callback=_print_schema, is_eager=True, help="Print the JSON Schema of rules files, for editors, and end."),
    ] = False,
) -> None:
    """Check a rules file: every problem at once, each with its line.

    Needs neither Kafka nor Redis. Exit code 0: the rules are right; 1: they have problems; 2: the command line is wrong.

    [bold]Examples[/bold]

    bridge check rules.yaml

    bridge check --schema > rules.schema.json

    bridge check --quiet rules.yaml && kubectl create configmap rules --from-file rules.yaml
    """
    compiled = load_or_exit(rules)
    if not quiet:
        _print_table(compiled)


def _print_table(rules: CompiledRules) -> None:
    from rich.table import Table

    from bridge.commands.terminal import console

    out = console()
    out.print(f"ok: {_count(len(rules.sources), 'source')}, {_count(len(rules.routes), 'route')}")
    table = Table("route", "source", "channel", "split", "kind", "delta", "history", "ttl", "only changed")
    for route in rules.routes:
        table.add_row(*_row(route))
    out.print(table, markup=False)
    for note in rules.notes:
        out.print(f"note: {note}", markup=False)


def _row(route: Route) -> list[str]:
    from rich.markup import escape

    from bridge.rules.units import format_duration, format_size
    from shared.publication import DELTA_NAMES, KIND_NAMES

    settings = route.settings
    history = f"{settings.history_size}, {format_size(settings.history_bytes)}"
    if settings.history_age_ms:
        history += f", {format_duration(settings.history_age_ms)}"
    return [
        route.name,
        route.source.name,
        escape("\n".join(template.text for template in route.channels)),
        escape(route.split.text if route.split else ""),
        KIND_NAMES[settings.kind],
        DELTA_NAMES[settings.delta],
        history,
        format_duration(settings.ttl_ms),
        "yes" if settings.only_changed else "",
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
