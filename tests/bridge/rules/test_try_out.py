from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from bridge.core.record import Record
from bridge.rules import try_out as module
from bridge.rules.load import parse_rules
from bridge.rules.try_out import Report, RouteReport, TryOut
from shared.delta import json_patch, vcdiff

RULES = """version: 1
sources: [{name: s, topics: [t]}]
routes:
  - {name: feed, channel: feed, kind: stream, delta: none}
  - {name: bus, split: value, channel: "bus:{item.id}", where: "item.id != 'hidden'", only_changed: true}
"""


def try_out(*values: Any, rules: str = RULES, show: int = 5, pattern: str = "*") -> Report:
    trial = TryOut(parse_rules(rules.encode(), "r"), vcdiff=vcdiff.encode, json_patch=json_patch.encode, show=show, pattern=pattern)
    for offset, value in enumerate(values):
        data = value if value is None or isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
        trial.feed(Record("t", 0, offset, 0, None, data))
    return trial.report()


def entity(name: str, at: int = 0) -> dict[str, Any]:
    return {"id": name, "route": "a long name that never changes and so is never sent again", "at": at}


def test_publications_channels_and_unchanged_items_are_counted():
    report = try_out([entity("1"), entity("2"), entity("hidden")], [entity("1", 5), entity("2")], [entity("1", 5), entity("2")])
    feed, bus = report.routes
    assert (report.records, report.filtered, report.failed) == (3, 1, 0)
    assert (feed.route, feed.kind, feed.delta, feed.records, feed.publications, feed.unchanged, feed.channels) == (
        "feed", "stream", "none", 3, 3, 1, 1,
    )  # fmt: skip
    assert (bus.records, bus.publications, bus.unchanged, bus.channels) == (3, 3, 3, 2)
    assert [(shown.channel, shown.publications, json.loads(shown.payload)["at"]) for shown in bus.shown] == [
        ("bus:1", 2, 5),
        ("bus:2", 1, 0),
    ]


def test_items_that_repeat_an_id_or_are_no_newer_are_no_publications():
    rules = """version: 1
sources: [{name: s, topics: [t]}]
routes:
  - {name: r, channel: "c:{item.c}", version: item.v, id: {value: item.i, window: 10s}, timestamp: {ms: item.t}}
  - {name: k, channel: keyed, kind: keyed, key: item.c, version: item.v}
"""
    first, second = try_out(
        {"c": "a", "v": 5, "i": "one", "t": 0},
        {"c": "a", "v": 6, "i": "one", "t": 10_000},  # Repeated: it is within the window.
        {"c": "a", "v": 5, "i": "two", "t": 0},  # Not newer.
        {"c": "b", "v": 1, "i": "one", "t": 0},  # Another channel, another key.
        {"c": "a", "v": 7, "i": "two", "t": 0},  # The refused one left no id.
        {"c": "a", "v": 8, "i": "one", "t": 10_001},  # The window is over.
        rules=rules,
    ).routes
    assert (first.publications, first.repeated, first.stale, first.channels) == (4, 1, 1, 2)
    assert (second.publications, second.repeated, second.stale) == (5, 0, 1)


def test_unchanged_items_are_published_where_the_rules_do_not_ask_for_changes_only():
    feed = try_out([1], [1]).routes[0]
    assert (feed.publications, feed.unchanged, feed.bytes_full) == (2, 1, 6)


def test_bytes_are_those_that_the_bridge_would_push():
    values = [json.dumps(entity("1", at), separators=(",", ":")).encode() for at in range(3)]
    bus = try_out(*(b"[" + value + b"]" for value in values)).routes[1]
    assert bus.bytes_full == sum(map(len, values))
    assert bus.bytes_vcdiff == len(values[0]) + sum(len(vcdiff.encode(base, target)) for base, target in pairwise(values))
    patches = [json_patch.encode(base, target) or b"" for base, target in pairwise(values)]
    assert bus.bytes_json_patch == len(values[0]) + sum(map(len, patches))
    assert bus.bytes_json_patch < bus.bytes_full


def test_a_delta_larger_than_the_payload_counts_as_the_payload():
    feed: RouteReport = try_out([1], [2], [3]).routes[0]
    assert (feed.bytes_full, feed.bytes_vcdiff, feed.bytes_json_patch) == (9, 9, 9)


def test_a_pattern_narrows_what_is_counted_and_shown():
    bus = try_out([entity(str(number)) for number in range(20)], pattern="bus:1*", show=2).routes[1]
    assert (bus.publications, bus.channels) == (11, 11)
    assert [shown.channel for shown in bus.shown] == ["bus:1", "bus:10"]


def test_problems_tombstones_and_strange_topics_are_counted():
    trial = TryOut(parse_rules(RULES.encode(), "r"), vcdiff=vcdiff.encode, json_patch=json_patch.encode)
    trial.feed(Record("other", 0, 0, 0, None, b"1"))
    trial.feed(Record("t", 0, 1, 0, None, None))
    trial.feed(Record("t", 0, 2, 0, None, json.dumps([{}] * 100).encode()))
    report = trial.report()
    assert (report.records, report.unmatched, report.tombstones, report.failed) == (3, 1, 1, 100)
    assert len(report.problems) == module.MAX_PROBLEMS
    assert report.problems[0].startswith("t[0]@2: route bus: item 0: {item.id} gave null")


def test_text_and_bytes_have_no_json_patch():
    rules = "version: 1\nsources: [{name: s, topics: [t], format: raw}]\nroutes: [{name: r, channel: c}]"
    as_json = [json.dumps(entity("1", at), separators=(",", ":")).encode() for at in range(2)]
    route = try_out(*as_json, rules=rules).routes[0]
    assert route.bytes_json_patch == route.bytes_full == sum(map(len, as_json))
    route = try_out(b"\xff" * 50 + b"2", rules=rules).routes[0]
    assert route.shown[0].payload == "\\xff" * 50 + "2"


def test_bases_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_BASE_BYTES", 250)
    first = [entity("1"), entity("2"), entity("3")]  # About 100 bytes each: the third pushes the first out.
    bus = try_out(first, first).routes[1]
    assert (bus.publications, bus.unchanged) == (6, 0)


def test_a_keyed_channel_has_a_base_for_each_key_and_its_deletions_count():
    rules = """version: 1
sources: [{name: s, topics: [t]}]
routes: [{name: r, kind: keyed, channel: c, key: key}]
"""
    trial = TryOut(parse_rules(rules.encode(), "r"), vcdiff=vcdiff.encode, json_patch=json_patch.encode)
    first, second = (json.dumps(entity(name)).encode() for name in ("1", "2"))
    for offset, (key, value) in enumerate([(b"a", first), (b"b", second), (b"a", first), (b"b", None), (b"b", second)]):
        trial.feed(Record("t", 0, offset, 0, key, value))
    (route,) = trial.report().routes
    assert (route.publications, route.unchanged, route.channels) == (5, 1, 1)
    assert route.bytes_full == 2 * len(first) + 2 * len(second)
    assert route.bytes_vcdiff < 2 * len(first) + 2 * len(second)
    assert trial.report().tombstones == 1
