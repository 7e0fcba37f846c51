from __future__ import annotations

from bridge.core.reload import Watch, compare
from bridge.core.ruleset import CompiledRules
from bridge.rules.load import parse_rules

RULES = """
version: 1
sources:
  - {name: a, topics: [one, two], format: json}
  - {name: b, topic_pattern: "^b[.]", format: json}
routes:
  - {name: whole, source: a, channel: "whole:{topic}"}
  - {name: item, source: a, split: value, where: item.id, channel: "item:{item.id}", project: {id: item.id, at: item.at}}
  - {name: other, source: b, channel: "other:{key}", kind: stream}
"""


def rules(text: str = RULES) -> CompiledRules:
    return parse_rules(text.encode(), "rules.yaml")


def test_the_same_file_changes_nothing_and_keeps_every_route():
    old = rules()
    change = compare(old, rules("# a comment\n" + RULES))
    assert change.is_empty
    assert [id(route) for route in change.rules.routes] == [id(route) for route in old.routes]
    assert {id(settings) for settings in change.kept} == {id(route.settings) for route in old.routes}


def test_what_was_added_changed_and_removed_is_told_and_the_rest_kept():
    old = rules()
    text = RULES.replace("at: item.at", "at: item.time").replace("- {name: other,", "- {name: new,").replace("[one, two]", "[two, three]")
    change = compare(old, rules(text))
    assert (change.added, change.removed) == (("new",), ("other",))
    assert set(change.changed) == {"whole", "item"}, "their source changed"
    assert (change.topics_added, change.topics_removed) == (("three",), ("one",))
    assert change.kept == ()


def test_a_route_counts_as_changed_for_each_of_its_settings():
    old = rules()
    for before, after in (
        ("at: item.at", "at: item.time"),
        ("where: item.id", "where: item.at"),
        ("split: value", "split: value.items"),
        ("item:{item.id}", "items:{item.id}"),
        ('"item:{item.id}"', '["item:{item.id}", items]'),
        ("{id: item.id, at: item.at}", "{at: item.at, id: item.id}"),
        ("at: item.at}", "at: item.at}, on_error: halt"),
        ("at: item.at}", "at: item.at}, history: {size: 5}"),
        ("at: item.at}", "at: item.at}, ttl: 5m"),
    ):
        assert before in RULES
        change = compare(old, rules(RULES.replace(before, after)))
        assert (change.added, change.changed, change.removed) == ((), ("item",), ()), after
        assert len(change.kept) == 2


def test_defaults_that_change_a_route_change_it():
    change = compare(rules(), rules(RULES.replace("routes:", "defaults: {kind: stream}\nroutes:")))
    assert set(change.changed) == {"whole", "item"}, "`other` said so already"


def test_a_changed_order_keeps_all_routes():
    lines = RULES.splitlines()
    change = compare(rules(), rules("\n".join([*lines[:-3], *reversed(lines[-3:])])))
    assert change.is_empty
    assert [route.name for route in change.rules.routes] == ["other", "item", "whole"]


def test_a_file_is_read_once_it_has_stopped_changing():
    watch = Watch(1)
    assert [watch.look(signature) for signature in (1, 1, 2, 3, 3, 3, 3)] == [False, False, False, False, True, False, False]
    assert [watch.look(signature) for signature in (1, 1, 1)] == [False, True, False]


def test_a_file_that_is_missing_for_a_moment_is_no_change():
    watch = Watch(1)
    assert [watch.look(signature) for signature in (None, 1, None, None, 1, 1, 2, None, 2)] == [False] * 8 + [True]
