"""How the value of a letter is shown."""

from __future__ import annotations

import pytest

from bridge.adapters.kafka_letters import Letter, Place
from bridge.commands.dead_letters.value import contents, shown_bytes, shown_value
from bridge.core.letter import LetterFacts
from bridge.core.record import Record
from bridge.rules.load import parse_rules

RULES = b"""
version: 1
sources: [{name: s, topics: [t], format: string}]
routes: [{name: each, source: s, channel: c}]
"""


def letter(value: bytes | None, route: str = "each") -> Letter:
    facts = LetterFacts("c", "t", 0, 7, None, "g", route, "why", None, 1, None, "1", None, (("own", b"\xff"), ("none", None)))
    return Letter(Place("t.dead-letters", 0, 1), facts, Record("t.dead-letters", 0, 1, None, b"key", value))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b'{"n":1}', '{\n  "n": 1\n}'),
        (b"no json", "no json"),
        (b"\xff\x00", "ff00 (hexadecimal)"),
        (b'"\\u001b[31m"', '"\\u001b[31m"'),
    ],
)
def test_without_rules_a_value_is_json_or_text_or_bytes(value: bytes, shown: str):
    assert shown_value(letter(value), None) == shown


def test_with_rules_it_is_as_its_source_reads_it():
    rules = parse_rules(RULES, "rules.yaml")
    assert shown_value(letter(b"7"), rules) == '"7"'
    assert shown_value(letter(b"7", "of-other-rules"), rules) == "7"
    undecodable = shown_value(letter(b"\xff"), rules)
    assert undecodable.startswith("(not decoded: ")
    assert undecodable.endswith("\nff (hexadecimal)")


def test_what_is_long_is_cut():
    assert shown_bytes(b"\xff" * 9, 8) == "ffffffff ffffffff (hexadecimal, cut)"
    assert shown_value(letter(b"[" + b"1," * 50_000 + b"1]"), None).endswith("\n...")


def test_as_json_what_is_no_text_is_base64():
    assert contents(letter(None)) == {
        "headers": [{"name": "own", "base64": "/w=="}, {"name": "none", "text": None}],
        "key": {"text": "key"},
        "value": {"text": None},
    }
