"""How a list of letters is shown: as a table, or as JSON, a line for each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from bridge.commands.rules_file import printable

if TYPE_CHECKING:
    from bridge.adapters.kafka_letters import Letter, Place

MAX_SHOWN_ERROR = 300
_NEVER = datetime.min.replace(tzinfo=UTC)


def print_list(letters: list[Letter], replayed: dict[object, datetime], *, as_json: bool) -> None:
    """Show letters in this order. `replayed`: when, by their identity, for those that were."""
    if as_json:
        for letter in letters:
            typer.echo(json_line(described(letter, replayed.get(letter.facts.identity))))
        return
    from rich.table import Table

    from bridge.commands.terminal import console

    if not letters:
        typer.echo("no dead letters")
        return
    table = Table("put aside", "letter", "from", "route", "error", "replayed")
    for letter in letters:
        facts = letter.facts
        at = replayed.get(facts.identity)
        row = [
            shown_time(facts.at),
            str(letter.place),
            facts.source,
            facts.route,
            printable(facts.error, MAX_SHOWN_ERROR),
            shown_time(at),
        ]
        table.add_row(*map(_plain, row))
    console().print(table)


def age(letter: Letter) -> tuple[datetime, Place]:
    """What to sort by to have the newest letters last."""
    return letter.facts.at or _NEVER, letter.place


def described(letter: Letter, replayed_at: datetime | None) -> dict[str, Any]:
    """What a letter's headers tell, for JSON."""
    facts = letter.facts
    return {
        "letter": str(letter.place),
        "at": facts.at.isoformat() if facts.at else None,
        "cluster": facts.cluster,
        "topic": facts.topic,
        "partition": facts.partition,
        "offset": facts.offset,
        "timestamp": facts.timestamp_ms,
        "group": facts.group,
        "route": facts.route,
        "error": facts.error,
        "items": facts.items,
        "failed": facts.failed,
        "version": facts.version,
        "value_left_out_bytes": facts.left_out,
        "replayed_at": replayed_at.isoformat() if replayed_at else None,
    }


def json_line(value: object) -> str:
    """JSON on one line."""
    import msgspec

    return msgspec.json.encode(value).decode()


def shown_time(at: datetime | None) -> str:
    """To the second; nothing where there is none."""
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)
