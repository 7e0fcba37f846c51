"""Which letters a command line means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from bridge.adapters.kafka_letters import Letter, Place
from bridge.commands.dead_letters.options import Wanted, place_of
from bridge.core.letter import LetterFacts
from bridge.core.record import Record


def letter(route: str, at: datetime | None) -> Letter:
    facts = LetterFacts("c", "t", 0, 7, None, "g", route, "why", None, 1, at, "1", None, ())
    return Letter(Place("t.dead-letters", 0, 1), facts, Record("t.dead-letters", 0, 1, None, None, b"{}"))


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("route", "since", "taken"),
    [
        (None, None, ["old", "new", "timeless"]),
        (None, "2h", ["new"]),
        (None, (NOW - timedelta(days=5)).isoformat(), ["old", "new"]),
        ("old", None, ["old"]),
        ("old", "2h", []),
    ],
)
def test_letters_are_meant_by_route_and_time(route: str | None, since: str | None, taken: list[str]):
    wanted = Wanted(route, since)
    letters = [letter("old", NOW - timedelta(days=1)), letter("new", NOW), letter("timeless", None)]
    assert [each.facts.route for each in letters if wanted.takes(each)] == taken
    assert wanted.is_all == (len(taken) == len(letters))


def test_a_letter_is_named_as_lists_and_logs_write_it():
    assert place_of("t.dead-letters:0:12") == place_of("t.dead-letters[0]@12") == Place("t.dead-letters", 0, 12)
    with pytest.raises(typer.BadParameter, match="is not TOPIC:PARTITION:OFFSET"):
        place_of("t.dead-letters:0")
