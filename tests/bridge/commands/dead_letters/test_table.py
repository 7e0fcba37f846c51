"""How a list of letters is shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from bridge.adapters.kafka_letters import Letter, Place
from bridge.commands.dead_letters.table import age, print_list
from bridge.core.letter import LetterFacts
from bridge.core.record import Record

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def letter(offset: int, at: datetime | None) -> Letter:
    facts = LetterFacts("c", "t", 0, offset, None, "g", "each", "a [bold]\x1b[31mwhy", None, 1, at, "1", None, ())
    return Letter(Place("dlt", 0, offset), facts, Record("dlt", 0, offset, None, None, None))


def test_the_newest_is_the_last_and_one_without_a_time_the_first():
    letters = [letter(1, NOON), letter(2, None), letter(3, NOON - timedelta(hours=1)), letter(0, NOON)]
    assert [each.place.offset for each in sorted(letters, key=age)] == [2, 3, 0, 1]


def test_a_table_shows_words_of_others_as_they_are_but_for_control_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    one = letter(7, NOON)
    print_list([one], {one.facts.identity: NOON + timedelta(hours=1)}, as_json=False)
    shown = capsys.readouterr().out
    for word in ("2026-01-31 12:00:00Z", "2026-01-31 13:00:00Z", "dlt:0:7", "t[0]@7", "[bold]"):
        assert word in shown
    assert "\x1b" not in shown


def test_json_has_a_line_for_each(capsys: pytest.CaptureFixture[str]):
    one, two = letter(7, NOON), letter(8, None)
    print_list([one, two], {one.facts.identity: NOON}, as_json=True)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["letter"], each["at"], each["replayed_at"]) for each in found] == [
        ("dlt:0:7", NOON.isoformat(), NOON.isoformat()),
        ("dlt:0:8", None, None),
    ]
