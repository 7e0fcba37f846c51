from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core import routing
from bridge.core.draft import OnError, id_of
from bridge.core.record import Record
from bridge.core.routing import MAX_PROBLEMS_A_ROUTE, Routed, Router
from bridge.formats import plain
from bridge.rules.load import load_rules, parse_rules
from shared.channel import check_channel
from shared.publication import ContentType, DeltaFormat, Kind

EXAMPLE = Path(__file__).parents[3] / "examples" / "rules" / "vehicles.yaml"


def router(routes: str, *, format: str = "json", more: str = "") -> Router:  # noqa: A002 - it is what the file calls it
    text = f"version: 1\nsources: [{{name: s, topics: [t], format: {format}}}{more}]\nroutes:\n{routes}"
    return Router(parse_rules(text.encode(), "rules.yaml"))


def record(
    value: bytes | None, *, topic: str = "t", key: bytes | None = None, headers: tuple[tuple[str, bytes | None], ...] = ()
) -> Record:
    return Record(topic, 2, 77, 1_000, key, value, headers)


def made(routed: Routed) -> list[tuple[str, Any]]:
    return [(draft.channel, json.loads(draft.payload)) for draft in routed.drafts]


def entity(name: Any, latitude: float | None = 41.5) -> dict[str, Any]:
    vehicle: dict[str, Any] = {"trip": {"tripId": "7", "routeId": "r"}, "timestamp": "1"}
    if latitude is not None:
        vehicle["position"] = {"latitude": latitude, "longitude": -72.5}
    return {"id": name, "vehicle": vehicle}


def test_one_feed_goes_three_ways():
    entities = [entity("1430"), entity("1431", None), entity("1432", 40.25)]
    value = json.dumps(entities, indent=1).encode()
    routed = Router(load_rules(EXAMPLE)).route(record(value, topic="vehicles"))
    assert made(routed) == [
        ("feed", entities),
        ("bus:1430", entities[0]),
        ("bus:1431", entities[1]),
        ("bus:1432", entities[2]),
        ("position:1430", {"id": "1430", "lat": 41.5, "long": -72.5}),
        ("position:1432", {"id": "1432", "lat": 40.25, "long": -72.5}),
    ]
    assert routed.drafts[0].payload == value  # As it came, white space too.
    assert routed.drafts[5].payload == b'{"id":"1432","lat":40.25,"long":-72.5}'
    assert (routed.matched, routed.filtered, routed.failed, routed.problems) == (3, 1, 0, [])
    assert {draft.content_type for draft in routed.drafts} == {ContentType.JSON}
    assert [draft.route for draft in routed.drafts] == ["feed", "bus", "bus", "bus", "position", "position"]
    assert routed.drafts[0].settings.only_changed is False
    assert routed.drafts[1].settings.only_changed is True
    assert routed.drafts[1].settings.kind is Kind.LATEST
    assert routed.drafts[1].settings.delta is DeltaFormat.VCDIFF


def test_an_items_problem_loses_no_other_item():
    entities = [entity("1"), entity(None), entity("a:b"), "text", entity("2")]
    routed = router('  - {name: r, split: value, channel: "bus:{item.id}"}').route(record(json.dumps(entities).encode()))
    assert [channel for channel, _ in made(routed)] == ["bus:1", "bus:2"]
    assert routed.failed == 3
    assert [problem.message.partition(" gave ")[0] for problem in routed.problems] == [
        "t[2]@77: route r: item 1: {item.id}",
        "t[2]@77: route r: item 2: {item.id}",
        "t[2]@77: route r: item 3: {item.id}",
    ]
    assert {problem.on_error for problem in routed.problems} == {OnError.SKIP}


def test_an_object_is_split_into_its_values_by_name():
    routed = router('  - {name: r, split: value.by, channel: "c:{index}", project: item.x}').route(
        record(b'{"by": {"north": {"x": 1}, "south": {"x": 2}, "": {"x": 3}}}')
    )
    assert made(routed) == [("c:north", 1), ("c:south", 2)]
    assert "item ''" in routed.problems[0].message


def test_publications_of_one_channel_are_numbered_through_all_routes():
    rules = """
  - {name: a, split: value, channel: ["c:{item}", all]}
  - {name: b, split: value, channel: "c:{item}"}
"""
    routed = router(rules).route(record(b"[1, 2, 1]"))
    assert [(draft.route, draft.channel, draft.index) for draft in routed.drafts] == [
        ("a", "c:1", 0), ("a", "all", 0), ("a", "c:2", 0), ("a", "all", 1), ("a", "c:1", 1), ("a", "all", 2),
        ("b", "c:1", 2), ("b", "c:2", 1), ("b", "c:1", 3),
    ]  # fmt: skip


def test_an_item_goes_to_all_its_channels_or_to_none():
    routed = router('  - {name: r, split: value, channel: [all, "c:{item.id}"]}').route(record(b'[{"id": 1}, {}, {"id": 2}]'))
    assert [(draft.channel, draft.index) for draft in routed.drafts] == [("all", 0), ("c:1", 0), ("all", 1), ("c:2", 0)]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"", "the value is not JSON: it is empty"),
        (b"{", "the value is not JSON: Input data was truncated"),
        (b'{"a": tru}', "(byte 10)"),
        (b'{"a": NaN}', "(byte 6)"),
        (b'[{"a": "\xff"}]', "the value is not UTF-8 text (byte 8)"),
        (b"[" * 50_000, "nested too deeply"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": 1}{"a": 2}', "trailing characters"),
        (b"\xef\xbb\xbf{}", "(byte 0)"),
    ],
)
@pytest.mark.parametrize("rest", ["", ", split: value", ", project: item.a", ', where: "item.a"'])
def test_a_value_that_is_not_json_never_becomes_a_publication(value: bytes, told: str, rest: str):
    routed = router(f"  - {{name: r, channel: c, on_error: halt{rest}}}").route(record(value))
    assert routed.drafts == []
    assert routed.failed == 1
    assert routed.problems[0].on_error is OnError.HALT
    assert routed.problems[0].message.startswith("t[2]@77: route r: the value is ")
    assert told in routed.problems[0].message


def test_a_value_is_parsed_once_for_all_routes_and_not_at_all_where_none_needs_it(monkeypatch: pytest.MonkeyPatch):
    parsed: list[bytes] = []

    def decode(data: bytes) -> Any:
        parsed.append(data)
        return json.loads(data)

    monkeypatch.setattr(plain, "_decode", decode)
    needs_none = '  - {name: k, channel: "k:{key}", where: "headers.type == \'bus\'", project: {key: key, at: timestamp}}\n'
    headers = (("type", b"bus"),)
    routed = router(needs_none).route(record(b"no JSON", key=b"x", headers=headers))
    assert made(routed) == [("k:x", {"key": "x", "at": 1000})]
    assert parsed == []
    filtered = router("  - {name: k, channel: c, where: \"headers.type == 'bus'\"}").route(record(b"no JSON"))
    assert (filtered.filtered, filtered.problems, parsed) == (1, [], [])
    routed = router(needs_none + "  - {name: a, channel: a}\n  - {name: b, split: value, channel: b}").route(
        record(b"[1,2]", key=b"x", headers=headers)
    )
    assert [channel for channel, _ in made(routed)] == ["k:x", "a", "b", "b"]
    assert parsed == [b"[1,2]"]


def test_text_is_checked_and_sent_as_it_came():
    rules = router('  - {name: r, channel: "t:{key}", where: "contains(item, \'x\')"}', format="string")
    routed = rules.route(record("äx".encode(), key=b"k"))
    assert [(draft.channel, draft.payload, draft.content_type) for draft in routed.drafts] == [("t:k", "äx".encode(), ContentType.TEXT)]
    assert rules.route(record(b"abc", key=b"k")).filtered == 1
    assert "not UTF-8 text (byte 1); correct the producer, or read this topic with format `raw`" in (
        rules.route(record(b"x\xff")).problems[0].message
    )


def test_text_that_is_projected_is_json():
    routed = router("  - {name: r, channel: c, project: {text: item, topic: topic}}", format="string").route(record(b"hi"))
    assert [(draft.payload, draft.content_type) for draft in routed.drafts] == [(b'{"text":"hi","topic":"t"}', ContentType.JSON)]


def test_raw_bytes_are_sent_as_they_came():
    routed = router('  - {name: r, channel: "{topic}:{headers.to}"}', format="raw").route(record(b"\xff\x00", headers=(("to", b"x"),)))
    assert [(draft.channel, draft.payload, draft.content_type) for draft in routed.drafts] == [("t:x", b"\xff\x00", ContentType.BINARY)]


def test_a_tombstone_makes_nothing_and_is_counted():
    routed = router("  - {name: r, channel: c}").route(record(None))
    assert (routed.is_tombstone, routed.drafts, routed.problems, routed.matched) == (True, [], [], 1)


def test_a_record_goes_to_the_routes_of_its_topic():
    rules = router(
        "  - {name: a, source: s, channel: a}\n  - {name: b, source: fleet, channel: b}\n  - {name: c, source: fleet2, channel: c}",
        more=', {name: fleet, topic_pattern: "^fleet[.]"}, {name: fleet2, topic_pattern: "^fleet[.]x$|lost", format: raw}',
    )
    for topic, routes in {"t": ["a"], "fleet.x": ["b", "c"], "fleet.xy": ["b"], "my.fleet.x": [], "other": [], "a.lost.one": ["c"]}.items():
        for _ in range(2):
            routed = rules.route(record(b"1", topic=topic))
            assert ([draft.route for draft in routed.drafts], routed.matched) == (routes, len(routes))
        assert rules.routes_of(topic) == routes


@pytest.mark.parametrize(("value", "told"), [(b"{}", "null"), (b'{"list": 5}', "the number 5"), (b'{"list": "x"}', 'the text "x"')])
def test_a_split_needs_something_to_split(value: bytes, told: str):
    routed = router("  - {name: r, split: value.list, channel: c}").route(record(value))
    assert routed.problems[0].message == f"t[2]@77: route r: `split` gave {told}; it needs an array or an object"
    assert router("  - {name: r, split: value.list, channel: c}").route(record(b'{"list": []}')) == Routed(matched=1)


def test_an_expression_that_does_not_fit_is_a_problem_of_its_item():
    routed = router("  - {name: r, split: value, channel: c, project: sum(item)}").route(record(b'[[1, 2], ["x"], [3]]'))
    assert made(routed) == [("c", 3), ("c", 3)]
    assert "item 1: sum(item) cannot be worked out" in routed.problems[0].message


def test_an_item_of_one_route_is_not_seen_by_the_next():
    rules = "  - {name: a, split: value, channel: a}\n  - {name: b, channel: b, project: {at: '[index, key]'}}"
    assert made(router(rules).route(record(b"[1, 2]", key=b"k")))[-1] == ("b", {"at": [None, "k"]})


def test_what_is_missing_in_a_projection_is_null():
    routed = router("  - {name: r, channel: c, project: {a: item.a, b: item.b.c}}").route(record(b'{"a": 1}'))
    assert routed.drafts[0].payload == b'{"a":1,"b":null}'


def test_thousands_of_problems_are_counted_and_a_few_told():
    routed = router('  - {name: r, split: value, channel: "c:{item}"}').route(record(json.dumps([None] * 5_000).encode()))
    assert routed.failed == 5_000
    assert len(routed.problems) == MAX_PROBLEMS_A_ROUTE + 1
    assert f"{5_000 - MAX_PROBLEMS_A_ROUTE} more items have problems" in routed.problems[-1].message


def test_a_record_cannot_become_more_than_fits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(routing, "MAX_BYTES_A_RECORD", 100)
    rules = router("  - {name: r, split: value, channel: c, project: value}\n  - {name: after, channel: d, project: key}")
    routed = rules.route(record(b"[10000,20000,30000,40000,50000,60000,70000]"))
    assert [draft.channel for draft in routed.drafts] == ["c", "c", "d"]
    assert "more than" in routed.problems[0].message
    assert len(routed.problems) == 1
    monkeypatch.setattr(routing, "MAX_DRAFTS_A_RECORD", 3)
    routed = router("  - {name: r, split: value, channel: c}").route(record(b"[1,2,3,4,5]"))
    assert len(routed.drafts) == 3
    assert "more than 3 publications" in routed.problems[0].message


@pytest.mark.parametrize(
    "route",
    [
        "project: {" + ", ".join(f"f{number}: item" for number in range(200)) + "}",
        "project: {" + ", ".join(f"f{number}: to_string(item)" for number in range(200)) + "}",
        'project: "[' + ", ".join(["item"] * 100) + ']"',
        'project: "[headers, ' + ", ".join(["headers"] * 100) + ']"',
        'split: "[[' + ", ".join(["value"] * 100) + ']]"',
    ],
)
def test_what_is_too_much_is_not_made_first(route: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(routing, "MAX_BYTES_A_RECORD", 1_000_000)
    rules = router(f"  - {{name: r, channel: c, {route}}}\n  - {{name: after, channel: d, project: item.id}}")
    large = b'{"id":7,"list":[' + b",".join([b'"%s"' % (b"x" * 98)] * 1_000) + b"]}"
    tracemalloc.start()
    try:
        routed = rules.route(record(large, headers=(("h", b"x" * 100_000),)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [(draft.channel, draft.payload) for draft in routed.drafts] == [("d", b"7")]
    assert "more than" in routed.problems[0].message
    assert peak < 4_000_000, "one copy more than is allowed at most, and the value itself"


def test_a_large_record_becomes_the_same_as_a_small_one(monkeypatch: pytest.MonkeyPatch):
    routes = """  - {name: a, channel: a, project: {x: item.x, y: "[item.x, item.y]"}}
  - {name: b, channel: "b:{item.n}", split: "[value, value]", set: {x: item.x}, const: {c: [1, null]}}
  - {name: c, channel: c, split: "[value.x, value.n]"}
  - {name: d, channel: d, project: "item.y.none.x || abs(item.y)", on_error: skip}
"""
    value = json.dumps({"x": {"é": [1.5, None, True, "\u0001"]}, "y": [[], {}], "n": 3}).encode()
    plain = router(routes).route(record(value))
    monkeypatch.setattr(routing, "_MOST_WRITTEN", routing.MAX_BYTES_A_RECORD)  # So that all are large ones.
    assert router(routes).route(record(value)) == plain
    assert len(plain.drafts) == 5


ANY_RULES = """
  - {name: whole, channel: feed}
  - {name: items, split: value, channel: ["bus:{item.id}", "all:{index}"], where: "item.id != 'x'"}
  - {name: fields, split: value.list, channel: "p:{item[0].a}:{key}", project: {a: 'item[0]', b: sort(item), c: headers.h}}
  - {name: odd, channel: "o:{value.name || topic}", project: "sum(value.numbers)"}
"""
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.sampled_from(["id", "list", "a", "name", "numbers", "x"]), children, max_size=4)
    ),
    max_leaves=15,
)


@given(st.one_of(st.binary(max_size=60), JSON_VALUES.map(lambda value: json.dumps(value).encode())), st.none() | st.binary(max_size=4))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_no_record_is_too_strange(value: bytes, key: bytes | None):
    headers = ((key.decode("latin-1"), value), ("h", None)) if key is not None else ()
    for rules in ROUTERS:
        routed = rules.route(record(value, key=key, headers=headers))
        assert routed.failed >= (1 if routed.problems else 0)
        numbered: dict[str, int] = {}
        for draft in routed.drafts:
            assert check_channel(draft.channel) == draft.channel
            assert draft.index == numbered.setdefault(draft.channel, 0)
            numbered[draft.channel] += 1
            if draft.content_type is ContentType.JSON:
                json.loads(draft.payload, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
            elif draft.content_type is ContentType.TEXT:
                draft.payload.decode()
        assert rules.route(record(value, key=key, headers=headers)) == routed  # The same again: nothing of one record stays for the next.


ROUTERS = [
    router(ANY_RULES),
    router("  - {name: w, channel: feed}\n  - {name: l, channel: 'c:{item}', project: length(item)}", format="string"),
    router("  - {name: w, channel: '{key}'}", format="raw"),
]


@pytest.mark.parametrize(
    ("key_format", "key", "seen"),
    [
        ("string", b"k-1", "k-1"),
        ("string", b"\xff", None),
        ("json", b'{"id": 7}', {"id": 7}),
        ("raw", b"\xff\x00", "/wA="),
        ("json", None, None),
    ],
)
def test_keys_have_a_format_of_their_own(key_format: str, key: bytes | None, seen: object):
    text = f"version: 1\nsources: [{{name: s, topics: [t], key_format: {key_format}}}]\nroutes:\n- {{name: r, channel: c, project: key}}\n"
    routed = Router(parse_rules(text.encode(), "rules.yaml")).route(record(b"1", key=key))
    assert made(routed) == [("c", seen)]


def test_a_key_that_is_not_what_its_format_says_matters_only_to_routes_that_look_at_it():
    text = """
version: 1
sources: [{name: s, topics: [t], key_format: json}]
routes:
- {name: a, channel: a}
- {name: b, channel: "b:{key.id}"}
"""
    routed = Router(parse_rules(text.encode(), "rules.yaml")).route(record(b"1", key=b"{"))
    assert made(routed) == [("a", 1)]
    [problem] = routed.problems
    assert problem.message.startswith("t[2]@77: route b: the key is not JSON: Input data was truncated; correct the producer")


KEYED = '  - {name: r, kind: keyed, channel: "fleet:{topic}", key: key, tags: {src: headers.src, id: item.id}, version: headers.v, id: key}'


def keyed(value: bytes | None, *, key: bytes | None = b"bus-1", where: str = "") -> Routed:
    made_by = router(KEYED.replace("version: headers.v", f"version: to_number(headers.v){where}"))
    return made_by.route(record(value, key=key, headers=(("src", b"gps"), ("v", b"7"))))


def test_a_keyed_route_gives_key_tags_version_and_id():
    (draft,) = keyed(b'{"id": "x"}').drafts
    assert (draft.channel, draft.key, draft.version, draft.id) == ("fleet:t", b"bus-1", 7.0, id_of(b"bus-1"))
    assert json.loads(draft.tags) == {"src": "gps", "id": "x"}
    assert (draft.settings.kind, draft.content_type, draft.time_ms) == (Kind.KEYED, ContentType.JSON, None)


def test_a_record_without_a_value_deletes_its_key():
    routed = keyed(None)
    assert routed.is_tombstone
    (draft,) = routed.drafts
    assert draft.is_deletion
    assert (draft.channel, draft.key, draft.payload, draft.version) == ("fleet:t", b"bus-1", b"", 7.0)
    assert json.loads(draft.tags) == {"src": "gps"}


@pytest.mark.parametrize(("where", "deletions"), [("key == 'bus-1'", 1), ("key == 'bus-2'", 0), ("item.active", 1)])
def test_a_deletion_asks_only_a_where_that_needs_no_value(where: str, deletions: int):
    assert len(keyed(None, where=f", where: {json.dumps(where)}").drafts) == deletions


def test_a_deletion_without_a_key_is_a_problem():
    routed = keyed(None, key=None)
    assert (routed.drafts, routed.failed) == ([], 1)
    assert "`key` (key) gave null" in routed.problems[0].message


@pytest.mark.parametrize(
    "route",
    [
        "  - {name: r, kind: keyed, channel: c, key: item.id}",
        '  - {name: r, kind: keyed, channel: "c:{item.a}", key: key}',
        "  - {name: r, kind: keyed, channel: c, key: key, split: value}",
        "  - {name: r, channel: c}",
        "  - {name: r, channel: c, kind: stream}",
    ],
)
def test_of_other_routes_a_record_without_a_value_makes_nothing(route: str):
    routed = router(route).route(record(None, key=b"k"))
    assert (routed.drafts, routed.problems, routed.is_tombstone) == ([], [], True)


def test_one_item_goes_to_many_channels():
    route = '  - {name: r, split: value, channel: ["stop:{item.stops}", all], project: item.id}'
    value = json.dumps([{"id": 1, "stops": ["a", "b", "a"]}, {"id": 2, "stops": []}]).encode()
    assert made(router(route).route(record(value))) == [("stop:a", 1), ("stop:b", 1), ("all", 1), ("all", 2)]
    routed = router(route.replace(", all]", "]")).route(record(value))
    assert (len(routed.drafts), routed.filtered, routed.failed) == (2, 1, 0)


def test_set_and_const_add_to_what_clients_get():
    value = b'{"id": "x", "unit": "m"}'
    for project, expected in (
        ("", {"id": "x", "unit": "km", "from": "t", "deep": {"a": [1, None]}}),
        ("project: {name: item.id}, ", {"name": "x", "unit": "km", "from": "t", "deep": {"a": [1, None]}}),
        ("project: item, ", {"id": "x", "unit": "km", "from": "t", "deep": {"a": [1, None]}}),
    ):
        route = f"  - {{name: r, channel: c, {project}const: {{unit: km, deep: {{a: [1, null]}}}}, set: {{from: topic}}}}"
        assert made(router(route).route(record(value))) == [("c", expected)]
    routed = router("  - {name: r, channel: c, project: item.id, set: {from: topic}}").route(record(value))
    assert "`set` and `const` add to an object, and item.id gave the text" in routed.problems[0].message


def test_the_time_may_come_from_the_data():
    route = "  - {name: r, split: value, channel: c, timestamp: {s: item.at}}"
    routed = router(route).route(record(b'[{"at": 5}, {}, {"at": "x"}]'))
    assert [draft.time_ms for draft in routed.drafts] == [5_000, None]
    assert "item 2: `timestamp` (item.at) gave the text" in routed.problems[0].message


def test_a_route_makes_no_more_channels_than_it_may():
    route = '  - {name: r, split: value, channel: ["c:{item}", all], max_channels: 4}'
    made_by = router(route)
    routed = made_by.route(record(json.dumps(list(range(10))).encode()))
    assert {draft.channel for draft in routed.drafts} == {"c:0", "c:1", "c:2", "all"}
    assert (routed.failed, routed.over_cap) == (7, 7)
    assert "one more than the 4 that the route may have (max_channels)" in routed.problems[0].message
    assert len(made_by.route(record(b"[0, 1, 2, 3]")).drafts) == 6


def test_a_constant_channel_counts_for_no_cap():
    assert router("  - {name: r, channel: [a, b], max_channels: 1}").route(record(b"1")).failed == 0
