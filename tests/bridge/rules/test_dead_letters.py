"""Where dead letters go by the rules, and that they never come back as records."""

from __future__ import annotations

import pytest

from bridge.core.letter_topic import DeadLetterTopic
from bridge.rules.load import parse_rules
from shared.errors import ConfigurationError

ROUTE = "routes:\n  - {name: r, source: s, channel: c, on_error: dead-letter}\n"


def place_of(source: str, top: str = "") -> DeadLetterTopic:
    rules = parse_rules(f"version: 1\n{top}sources:\n  - {{name: s, {source}}}\n{ROUTE}".encode(), "rules.yaml")
    [route] = rules.routes
    return route.source.dead_letters


def problems(source: str, top: str = "", more: str = "", route: str = ROUTE) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse_rules(f"version: 1\n{top}sources:\n  - {{name: s, {source}}}\n{more}{route}".encode(), "rules.yaml")
    return caught.value.problems


@pytest.mark.parametrize(
    ("source", "top", "topic", "create"),
    [
        ("topics: [a]", "", "a.dead-letters", True),
        ("topics: [a]", "dead_letters: {topic: all.letters}\n", "all.letters", True),
        ("topics: [a]", 'dead_letters: {topic: "dlq.{topic}", create: false}\n', "dlq.a", False),
        ("topics: [a], dead_letters: {topic: own}", "dead_letters: {topic: all.letters, create: false}\n", "own", False),
        ("topics: [a], dead_letters: {create: true}", "dead_letters: {topic: all.letters, create: false}\n", "all.letters", True),
        ('topic_pattern: "^a$"', "", "a.dead-letters", True),
        ('topic_pattern: "^a", dead_letters: {topic: "dlq.{topic}"}', "", "dlq.a", True),
    ],
)
def test_a_source_goes_before_the_file_and_the_file_before_the_program(source: str, top: str, topic: str, create: bool):
    place = place_of(source, top)
    assert (place.of("a"), place.create) == (topic, create)


@pytest.mark.parametrize(
    ("source", "top", "told"),
    [
        ("topics: [a, a.dead-letters]", "", 'dead letters would go to "a.dead-letters", which the source "s" consumes'),
        ("topics: [a]", "dead_letters: {topic: a}\n", 'dead letters would go to "a", which the source "s" consumes'),
        ('topic_pattern: "^a"', "", 'dead letters would go to "{topic}.dead-letters", which the source "s" consumes'),
        ('topic_pattern: "^dlq|^a$", dead_letters: {topic: "dlq.x"}', "", 'dead letters would go to "dlq.x"'),
        (f"topics: [{'a' * 240}]", "", "which is too long for a topic: set dead_letters.topic"),
    ],
)
def test_dead_letters_that_would_come_back_are_refused(source: str, top: str, told: str):
    [problem] = problems(source, top)
    assert told in problem
    assert problem.startswith(f"rules.yaml:{4 if top else 3}: sources[0]: ")


def test_a_topic_that_another_source_consumes_is_refused():
    more = '  - {name: t, topic_pattern: "letters$|^x"}\n'.replace('"letters', '"^.*letters')
    route = ROUTE + "  - {name: q, source: t, channel: d}\n"
    [problem] = problems("topics: [a]", more=more, route=route)
    assert 'which the source "t" consumes' in problem


def test_a_source_without_such_a_route_may_consume_what_it_likes():
    text = 'version: 1\nsources:\n  - {name: s, topic_pattern: "^a"}\nroutes:\n  - {name: r, channel: c}\n'
    parse_rules(text.encode(), "rules.yaml")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("dead_letters: {topic: 'a b'}\n", "cannot be the name of a topic for dead letters"),
        ("dead_letters: {topic: '{topic}{topic}'}\n", "at most once"),
        ("dead_letters: {topic: '{key}'}\n", "cannot be the name of a topic"),
        ("dead_letters: {topik: a}\n", 'unknown setting; did you mean "topic"?'),
        ("dead_letters: letters\n", "must be a mapping, not a text"),
        ("dead_letters: {create: 1}\n", "must be true or false"),
    ],
)
def test_a_wrong_setting_is_told_once_with_its_line(said: str, told: str):
    [problem] = problems("topics: [a]", said)
    assert problem.startswith("rules.yaml:2: dead_letters")
    assert told in problem
