from __future__ import annotations

import pytest

from bridge.core.explain import (
    NO_VALUE,
    NOTHING_SPLIT,
    OTHER_TOPIC,
    PROBLEM,
    PUBLISHED,
    WHERE_FALSE,
    Explanation,
    Named,
    RouteSteps,
    explain,
    operands,
    why_nothing,
)
from bridge.core.expression import compile_expression
from bridge.core.record import Record
from bridge.rules.load import parse_rules

RULES = parse_rules(
    b"""
version: 1
sources:
  - {name: a, topics: [one]}
  - {name: b, topics: [two], format: string}
routes:
  - {name: split, source: a, split: value.items, where: "item.n > `3` && headers.kind == 'x'", channel: ["c:{item.n}", all]}
  - {name: whole, source: a, where: value.items, channel: "w:{value.id}"}
  - {name: other, source: b, channel: "o:{key}"}
""",
    "rules.yaml",
)


def record(value: bytes | None, topic: str = "one") -> Record:
    return Record(topic, 0, 7, 1234, b"the key", value, (("kind", b"x"),))


def explained(value: bytes | None, topic: str = "one") -> tuple[Explanation, dict[str, RouteSteps]]:
    explanation = explain(RULES, record(value, topic))
    return explanation, {route.route: route for route in explanation.routes}


def test_each_step_of_each_item_is_told():
    explanation, routes = explained(b'{"id":"q","items":[{"n":1},{"n":5}]}')
    assert (explanation.record, explanation.key, explanation.size) == ("one[0]@7", "the key", 36)
    assert explanation.headers == (Named("kind", "x"),)
    assert explanation.values == {"json": '{"id":"q","items":[{"n":1},{"n":5}]}'}
    split = routes["split"]
    assert (split.outcome, split.items, split.left_out, split.made) == (PUBLISHED, 2, 1, 2)
    first, second = split.steps
    assert (first.index, first.where, first.is_through, first.channels) == (0, "false", False, ())
    assert first.operands == (Named("item.n", "1"), Named("headers.kind", '"x"'))
    assert (second.item, second.where, second.is_through) == ('{"n":5}', "true", True)
    assert second.channels == (Named("c:{item.n}", "c:5"), Named("all", "all"))
    assert [(each.channel, each.payload, each.size) for each in split.publications] == [("c:5", '{"n":5}', 7), ("all", '{"n":5}', 7)]
    assert routes["whole"].outcome == PUBLISHED
    assert routes["other"].outcome == OTHER_TOPIC
    assert not explanation.is_nothing


@pytest.mark.parametrize(
    ("value", "split", "whole"),
    [
        (None, NO_VALUE, NO_VALUE),
        (b'{"items":[]}', NOTHING_SPLIT, WHERE_FALSE),
        (b'{"items":[{"n":1}],"id":"q"}', WHERE_FALSE, PUBLISHED),
        (b'{"items":[{"n":1}]}', WHERE_FALSE, PROBLEM),
        (b'{"items":3}', PROBLEM, PROBLEM),
        (b"no json", PROBLEM, PROBLEM),
    ],
)
def test_why_a_route_makes_nothing(value: bytes | None, split: str, whole: str):
    explanation, routes = explained(value)
    assert (routes["split"].outcome, routes["whole"].outcome) == (split, whole)
    assert explanation.is_nothing == (PUBLISHED not in {split, whole})
    for route in routes.values():
        assert bool(route.problems) == (route.outcome == PROBLEM)


def test_a_where_that_cannot_be_worked_out_is_neither_true_nor_false():
    rules = b"""
version: 1
sources: [{name: a, topics: [one]}]
routes: [{name: r, split: value, where: "abs(item) > `3`", channel: "c:{item}"}]
"""
    (route,) = explain(parse_rules(rules, "rules.yaml"), record(b'[1,"x",4]')).routes
    assert (route.items, route.left_out, route.failed, route.made, len(route.problems)) == (3, 1, 1, 1, 1)
    found = [(step.is_through, step.is_failed, len(step.channels)) for step in route.steps]
    assert found == [(False, False, 0), (False, True, 0), (True, False, 1)]
    assert "abs()" in str(route.steps[1].where)


def test_a_value_that_cannot_be_decoded_says_so():
    explanation, _ = explained(b"no json")
    assert "not JSON" in explanation.values["json"]


def test_why_nothing_names_the_where_and_the_values_in_it():
    split, whole = why_nothing(RULES, record(b'{"items":[{"n":1},{"n":2}]}'))
    assert split == (
        "split",
        "`where` was false: item.n > `3` && headers.kind == 'x'",
        'first of 2 items: item.n = 1, headers.kind = "x"',
    )
    assert whole[:2] == ("whole", PROBLEM)
    reasons = why_nothing(RULES, record(b"{}", "three"))
    assert [(route, why) for route, why, _ in reasons] == [
        ("split", f"{OTHER_TOPIC} (source a)"),
        ("whole", f"{OTHER_TOPIC} (source a)"),
        ("other", f"{OTHER_TOPIC} (source b)"),
    ]


def test_long_values_are_shortened_and_many_items_counted():
    explanation = explain(RULES, record(b'{"items":[' + b",".join([b'{"n":7}'] * 50) + b'],"id":"q"}'), shown=20)
    split = explanation.routes[0]
    assert (split.items, split.made, len(split.steps), len(split.publications)) == (50, 100, 5, 5)
    assert explanation.values["json"].startswith('{"items":[{"n":7},{"... (')
    assert len(explanation.values["json"]) < 60


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("item.a", ["item.a"]),
        ("item.a == 'x' || !(item.b)", ["item.a", "item.b"]),
        ("length(item.a[0].b) > `1`", ["item.a[0].b"]),
        ('item."a-b" == key', ['item."a-b"', "key"]),
        ("item.list[?key == 'x'].value | [0]", ["item.list"]),
        ("sort_by(item.list, &key)[0].index == index", ["item.list", "index"]),
        ("contains(['a', 'b'], item.a)", ["item.a"]),
        ("item.a[*].value", ["item.a"]),
    ],
)
def test_the_paths_in_an_expression_are_those_that_begin_in_the_scope(text: str, paths: list[str]):
    assert [path for path, _ in operands(compile_expression(text))] == paths


def test_of_named_expressions_the_values_in_them_are_told():
    rules = parse_rules(
        b"""
version: 1
sources: [{name: a, topics: [one]}]
expressions: {position: item.position, fast: "position.speed > `5`"}
routes: [{name: r, where: fast && item.ok, channel: c}]
""",
        "rules.yaml",
    )
    [(_, why, evidence)] = why_nothing(rules, record(b'{"position":{"speed":3},"ok":true}'))
    assert (why, evidence) == ("`where` was false: fast && item.ok", "item.position.speed = 3, item.ok = true")


def test_a_value_that_no_step_looks_at_is_no_problem():
    rules = parse_rules(
        b"""
version: 1
sources: [{name: a, topics: [one]}]
routes:
  - {name: by-key, channel: "k:{partition}", project: {k: key}}
  - {name: left-out, where: headers.kind == 'y', channel: c}
  - {name: read, where: headers.kind == 'x', channel: c}
""",
        "rules.yaml",
    )
    by_key, left_out, read = explain(rules, record(b"no json")).routes
    assert (by_key.outcome, by_key.problems, by_key.made) == (PUBLISHED, (), 1)
    assert by_key.steps[0].channels == (Named("k:{partition}", "k:0"),)
    assert (left_out.outcome, left_out.problems) == (WHERE_FALSE, ())
    assert read.outcome == PROBLEM


def test_a_key_that_cannot_be_read_is_no_problem_of_routes_that_do_not_look_at_it():
    rules = parse_rules(
        b"""
version: 1
sources: [{name: a, topics: [one], key_format: json}]
routes:
  - {name: plain, split: value, channel: "c:{item}"}
  - {name: keyed, channel: "k:{key.id}"}
""",
        "rules.yaml",
    )
    plain, keyed = explain(rules, record(b"[1,2]")).routes
    assert (plain.outcome, plain.problems, plain.items) == (PUBLISHED, (), 2)
    assert keyed.outcome == PROBLEM
    assert "the key is not JSON" in keyed.problems[0]
    assert "read its keys with `key_format` `string`" in keyed.problems[0]
