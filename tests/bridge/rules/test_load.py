from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.draft import ChannelSettings, OnError
from bridge.core.ruleset import CompiledRules
from bridge.rules import document
from bridge.rules.document import MAX_FILE_BYTES
from bridge.rules.load import load_rules, parse_rules
from shared.errors import ConfigurationError
from shared.publication import DeltaFormat, Kind

EXAMPLES = sorted((Path(__file__).parents[3] / "examples" / "rules").glob("*.yaml"))
HEAD = "version: 1\nsources:\n  - {name: vehicles, topics: [vehicles]}\n"
"""Three lines: routes begin at line 4."""


def parse(text: str) -> CompiledRules:
    return parse_rules(text.encode(), "rules.yaml")


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    return caught.value.problems


def problem_of(route: str) -> str:
    """The only problem of a route, without the file's name."""
    found = problems(f"{HEAD}routes:\n  - {{name: r, channel: c, {route}}}\n")
    assert len(found) == 1, found
    return found[0].removeprefix("rules.yaml:")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_right(path: Path):
    rules = load_rules(path)
    assert rules.routes
    assert rules.notes == ()


def test_what_is_not_said_is_filled_in():
    route = parse(f"{HEAD}routes:\n  - {{name: r, channel: c}}\n").routes[0]
    assert route.settings == ChannelSettings(
        kind=Kind.LATEST,
        delta=DeltaFormat.VCDIFF,
        only_changed=False,
        history_size=100,
        history_bytes=1_048_576,
        history_age_ms=0,
        ttl_ms=86_400_000,
    )
    assert (route.source.decoder.format, route.on_error, route.split, route.where, route.projection) == (
        "json",
        OnError.SKIP,
        None,
        None,
        None,
    )


def test_a_route_overrides_defaults_and_of_history_each_part():
    rules = parse(
        HEAD
        + """defaults: {kind: stream, delta: none, history: {size: 5, age: 10m}, ttl: 2h, only_changed: true, on_error: halt}
routes:
  - {name: a, channel: a}
  - {name: b, channel: b, kind: latest, delta: json-patch, history: {bytes: 64KB, age: 0}, ttl: 90s, only_changed: false, on_error: skip}
"""
    )
    first, second = rules.routes
    assert first.settings == ChannelSettings(Kind.STREAM, DeltaFormat.NONE, True, 5, 1_048_576, 600_000, 7_200_000, stops_at_failure=True)
    assert first.on_error is OnError.HALT
    assert second.settings == ChannelSettings(Kind.LATEST, DeltaFormat.JSON_PATCH, False, 5, 64_000, 0, 90_000)
    assert second.on_error is OnError.SKIP


def test_topics_are_those_of_sources_in_use_each_once():
    rules = parse(
        """version: 1
sources:
  - {name: a, topics: [one, two]}
  - {name: b, topics: [two], format: raw}
  - {name: c, topic_pattern: '^fleet[.]'}
  - {name: unused, topics: [three]}
routes:
  - {name: r1, source: a, channel: r1}
  - {name: r2, source: b, channel: r2}
  - {name: r3, source: c, channel: r3}
"""
    )
    assert rules.topics == ["one", "two", "^fleet[.]"]
    assert rules.notes == ('no route uses the source "unused": it is not consumed',)


FIVE_MISTAKES = """version: 1
sources:
  - name: vehicles
    topics: [vehicles]
    format: jsn
routes:
  - name: feed
    source: vehicels
    chanel: feed
  - name: position
    source: vehicles
    split: value
    where: itm.vehicle.position
    channel: "position:{item.id}"
    ttl: 10
"""


def test_five_mistakes_are_five_lines_with_suggestions(tmp_path: Path):
    path = tmp_path / "rules.yaml"
    path.write_text(FIVE_MISTAKES)
    with pytest.raises(ConfigurationError) as caught:
        load_rules(path)
    assert caught.value.problems == [
        f'{path}:5: sources[0].format: there is no format "jsn"; did you mean "json"?',
        f'{path}:8: routes[0].source: there is no source "vehicels"; did you mean "vehicles"?',
        f'{path}:9: routes[0].chanel: unknown setting; did you mean "channel"?',
        f'{path}:13: routes[1].where: uses "itm" at column 1, which is no name here; did you mean "item"?',
        f"{path}:15: routes[1].ttl: 10 has no unit; did you mean 10s?",
    ]


@pytest.mark.parametrize(
    ("route", "told"),
    [
        ("chanels: x", '5: routes[0].chanels: unknown setting; did you mean "channel"?'),
        ("zzz: x", "5: routes[0].zzz: unknown setting; there are channel, const, delta,"),
        ("cluster: a", "5: routes[0].cluster: is planned, and this version does not have it yet"),
        ("max_rate: 5", "5: routes[0].max_rate: is no setting of rules: clients choose it, within what `edge run --namespaces` allows"),
        ("mode: conflate", "5: routes[0].mode: is no setting of rules: clients choose it, within what `edge run --namespaces` allows"),
        ("key: item.id", '5: routes[0].key: is for kind keyed, and the kind of this route is latest: add "kind: keyed"'),
        ("kind: keyed", '5: routes[0].kind: a keyed channel needs "key"'),
        ("kind: keyed, key: itm", '5: routes[0].key: uses "itm"'),
        ("kind: keyd, key: item.id", '5: routes[0].kind: there is no kind "keyd"; did you mean "keyed"?'),
        ("id: itm", '5: routes[0].id: uses "itm"'),
        ("id: {value: itm}", '5: routes[0].id.value: uses "itm"'),
        ("id: {window: 5m}", '5: routes[0].id: needs "value"'),
        ("id: {value: item.id, window: 8d}", "5: routes[0].id.window: must be from 1s to 168h, not 192h"),
        ("id: {value: item.id, windw: 8h}", '5: routes[0].id.windw: unknown setting; did you mean "window"?'),
        ("id: {value: item.id, count: 0}", "5: routes[0].id.count: must be from 1 to 1000000, not 0"),
        ("id: 5", "5: routes[0].id: must be a mapping, not a number"),
        ("version: 5", "5: routes[0].version: must be a text, not a number"),
        ("timestamp: now", '5: routes[0].timestamp: must be "record", or one of ms, s, iso with an expression'),
        ("timestamp: {sec: item.at}", "5: routes[0].timestamp.sec: is no unit of time here"),
        ("timestamp: {isoo: item.at}", '5: routes[0].timestamp.isoo: is no unit of time here; did you mean "iso"?'),
        ("timestamp: {ms: itm}", '5: routes[0].timestamp.ms: uses "itm"'),
        ("timestamp: {ms: item.a, s: item.b}", "5: routes[0].timestamp: must have one of ms, s, iso"),
        ("tags: {a: itm}", '5: routes[0].tags.a: uses "itm"'),
        ("tags: {'a b': item.a}", "5: routes[0].tags.a b: cannot be the name of a tag"),
        ("tags: [1]", "5: routes[0].tags: must be a text, not a number"),
        ("tags: source", "5: routes[0].tags: must be a mapping of names to expressions, or a list of names of headers, not a text"),
        ("set: {a: itm}", '5: routes[0].set.a: uses "itm"'),
        ("set: item.a", "5: routes[0].set: must be a mapping of names to expressions, not a text"),
        ("const: 5", "5: routes[0].const: must be a mapping, not a number"),
        ("max_channels: 0", "5: routes[0].max_channels: must be from 1 to 10000000, not 0"),
        ("max_keys: 2000000", "5: routes[0].max_keys: must be from 1 to 1000000, not 2000000"),
        ("max_key_bytes: 2GiB", "5: routes[0].max_key_bytes: must be from 1KiB to 1GiB, not 2GiB"),
        ("on_error: dead-leter", '5: routes[0].on_error: there is no on_error "dead-leter"; did you mean "dead-letter"?'),
        ("kind: latset", '5: routes[0].kind: there is no kind "latset"; did you mean "latest"?'),
        ("delta: fossil", '5: routes[0].delta: there is no delta "fossil"; it is one of none, vcdiff, json-patch'),
        ("ttl: 59s", "5: routes[0].ttl: must be from 1m to 8760h, not 59s"),
        ("ttl: 1h30m", "5: routes[0].ttl: a duration is a number and a unit, such as 500ms, 10m or 24h; '1h30m' is not"),
        ("ttl: 5 parsecs", "5: routes[0].ttl: 'parsecs' is no unit of time"),
        ("ttl: ", "5: routes[0].ttl: a duration is a number and a unit"),
        ("history: {size: 0}", "5: routes[0].history.size: must be from 1 to 100000, not 0"),
        ("history: {size: 100001}", "5: routes[0].history.size: must be from 1 to 100000, not 100001"),
        ("history: {size: 1.5}", "5: routes[0].history.size: must be a whole number, not a number"),
        ("history: {size: true}", "5: routes[0].history.size: must be a whole number, not true or false"),
        ("history: {bytes: 1M}", "5: routes[0].history.bytes: 'M' is no unit of size;"),
        ("history: {bytes: 12}", "5: routes[0].history.bytes: must be from 1KiB to 1GiB, not 12B"),
        ("history: {age: 10}", "5: routes[0].history.age: 10 has no unit; did you mean 10s?"),
        ("history: {sise: 10}", '5: routes[0].history.sise: unknown setting; did you mean "size"?'),
        ("history: 100", "5: routes[0].history: must be a mapping, not a number"),
        ("only_changed: yes", "5: routes[0].only_changed: must be true or false, not a text; write true"),
        ("source: 5", "5: routes[0].source: must be a text, not a number; put it in quotes"),
        ("where: ", "5: routes[0].where: must be a text, not empty"),
        ("where: true", "5: routes[0].where: must be a text, not true or false; put it in quotes"),
        ("project: {}", "5: routes[0].project: must name at least one field"),
        ("project: [item.a]", "5: routes[0].project: must be a mapping of names to expressions"),
        ("project: {a: item.a, b: itm.b}", '5: routes[0].project.b: uses "itm"'),
        ("project: {a: index}", '5: routes[0].project.a: "index" is the place of an item'),
        ("source: nowhere", '5: routes[0].source: there is no source "nowhere"; there are vehicles'),
    ],
)
def test_a_wrong_setting_is_told_once_with_its_line(route: str, told: str):
    assert problem_of(route).startswith(told)


@pytest.mark.parametrize(
    ("channel", "told"),
    [
        (
            "{item.id}",
            '6: routes[0].channel: must be a text, not a mapping; did you mean "{item.id}"? A text that begins with { is put in quotes',
        ),
        ('"bus:{item.id"', "6: routes[0].channel: has a { at column 5 that is not closed"),
        ('"bus:{id}"', '6: routes[0].channel: {id} uses "id" at column 1, which is no name here; did you mean item.id?'),
        ("[]", "6: routes[0].channel: must name at least one channel"),
        ('[a, "b c"]', "6: routes[0].channel[1]: cannot give a channel name: channel name 'b c' contains ' '"),
        ("5", "6: routes[0].channel: must be a text, not a number; put it in quotes"),
        ("", "6: routes[0].channel: must be a text, not empty"),
        ("!item x", "6: routes[0].channel: begins with !item, which YAML reads as a tag; put the text in quotes"),
    ],
)
def test_a_wrong_channel_is_told_once_with_its_line(channel: str, told: str):
    found = problems(f"{HEAD}routes:\n  - name: r\n    channel: {channel}\n")
    assert len(found) == 1
    assert found[0].removeprefix("rules.yaml:").startswith(told)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("topics: [a], topic_pattern: '^a'", 'sources[0]: has "topics" and "topic_pattern"; it needs one of them'),
        ("format: json", 'sources[0]: needs "topics" or "topic_pattern"'),
        ("topics: []", "sources[0].topics: must have at least one entry"),
        ("topics: a", "sources[0].topics: must be a list, not a text"),
        ("topics: [a, a]", "sources[0].topics: names a topic twice"),
        ("topics: ['a b']", 'sources[0].topics[0]: "a b" is not the name of a Kafka topic'),
        ("topics: ['^a']", "sources[0].topics[0]: is a pattern; write it as topic_pattern"),
        ("topic_pattern: fleet", 'sources[0].topic_pattern: must begin with ^, as Kafka clients want it; did you mean "^fleet"?'),
        ("topic_pattern: '^fleet[.'", "sources[0].topic_pattern: is not a regular expression"),
        (r"topic_pattern: '^fleet\d'", r'sources[0].topic_pattern: has "\d", which Kafka clients read otherwise'),
        ("topic_pattern: '^(?!x)'", 'sources[0].topic_pattern: has "(?"'),
        ("topics: [a], format: avro", "sources[0].format: format avro needs `schema_registry`, here or at the top of the file"),
        ("topics: [a], format: xml", 'sources[0].format: there is no format "xml"'),
        ("topics: [a], schema_registry: x", "sources[0].schema_registry: must be a mapping, not a text"),
        ("topics: [a], topic: x", 'sources[0].topic: unknown setting; did you mean "topics"?'),
    ],
)
def test_a_wrong_source_is_told_and_routes_that_name_it_are_not(source: str, told: str):
    found = problems(f"version: 1\nsources:\n  - {{name: s, {source}}}\nroutes:\n  - {{name: r, source: s, channel: c}}\n")
    assert len(found) == 1
    assert found[0].startswith(f"rules.yaml:3: {told}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["rules.yaml:1: is empty; docs/rules.md shows a first example"]),
        ("# nothing\n", ["rules.yaml:1: is empty; docs/rules.md shows a first example"]),
        ("hello", ["rules.yaml:1: must be a mapping, not a text"]),
        ("- a", ["rules.yaml:1: must be a mapping, not a list"]),
        ("null", ["rules.yaml:1: must be a mapping, not empty"]),
        ("version: 1", ['rules.yaml:1: needs "sources"', 'rules.yaml:1: needs "routes"']),
        (
            "version: 1\nsources:\nroutes: []",
            ["rules.yaml:2: sources: must be a list, not empty", "rules.yaml:3: routes: must have at least one entry"],
        ),
        ("a: 1\n---\nb: 2", ["rules.yaml:2: holds more than one YAML document; rules are one"]),
        ("routes:\n\t- a", ["rules.yaml:2: is not YAML: YAML does not allow tabs for indentation; use spaces"]),
        ("a: @b", ["rules.yaml:1: is not YAML: found character '@' that cannot start any token; put the text in quotes"]),
        ("a: *b", ["rules.yaml:1: is not YAML: found undefined alias 'b'; a text that begins with * or & is put in quotes"]),
        ("a: 'b", ["rules.yaml:1: is not YAML: found unexpected end of stream"]),
        ("a: {b: item[0]}", None),
        ("a: \x07", ["rules.yaml:1: has a character that YAML does not allow: U+0007"]),
        ("[" * 500_000, ["rules.yaml:1: is nested more than 40 levels deep"]),
        ("- " * 500_000, ["rules.yaml:1: is nested more than 40 levels deep"]),
    ],
)
def test_what_is_no_rules_file_at_all_is_told(text: str, told: list[str] | None):
    found = problems(text)
    assert told is None or found == told


def test_a_file_of_too_many_values_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(document, "MAX_NODES", 100)
    assert problems("- x\n" * 200 + "} no YAML {") == ["rules.yaml:100: holds more than 50000 values, aliases included"]


def test_versions_other_than_1_are_refused():
    for version in ("2", "true", "'1'", "1.0"):
        found = problems(f"version: {version}\nsources: [{{name: s, topics: [t]}}]\nroutes: [{{name: r, channel: c}}]")
        assert found[0].startswith("rules.yaml:1: version: must be 1, the only version of rules that there is")


def test_names_are_unique_and_fit_into_metrics():
    found = problems(
        """version: 1
sources:
  - {name: s, topics: [a]}
  - {name: s, topics: [b]}
routes:
  - {name: r, source: s, channel: a}
  - {name: r, source: s, channel: b}
  - {name: "r 2", source: s, channel: c}
"""
    )
    assert found == [
        'rules.yaml:4: sources[1].name: "s" is the name of another source too',
        'rules.yaml:7: routes[1].name: "r" is the name of another route too',
        (
            'rules.yaml:8: routes[2].name: "r 2" cannot be a name, as it stands in logs and metrics: '
            "use at most 100 ASCII letters, digits, _ . and -, a letter or digit first"
        ),
    ]


def test_a_route_says_its_source_where_there_are_several():
    found = problems("version: 1\nsources:\n  - {name: a, topics: [a]}\n  - {name: b, topics: [b]}\nroutes:\n  - {name: r, channel: c}\n")
    assert found == ['rules.yaml:6: routes[0]: needs "source": there are a, b']


def test_a_key_given_twice_is_told_with_both_lines():
    found = problems(f"{HEAD}routes:\n  - name: r\n    channel: a\n    ttl: 1h\n    channel: b\n")
    assert found == ["rules.yaml:8: routes[0].channel: is given twice, first at line 6"]


def test_defaults_are_settings_of_routes_only():
    found = problems(f"{HEAD}defaults:\n  channel: x\n  kind: latst\n  tll: 1h\nroutes:\n  - {{name: r, channel: c}}\n")
    assert found == [
        "rules.yaml:5: defaults.channel: cannot be a default: each route says it itself",
        'rules.yaml:6: defaults.kind: there is no kind "latst"; did you mean "latest"?',
        'rules.yaml:7: defaults.tll: unknown setting; did you mean "ttl"?',
    ]


def test_settings_that_do_not_fit_together_are_told():
    found = problems(
        """version: 1
sources:
  - {name: text, topics: [a], format: string}
  - {name: bytes, topics: [b], format: raw}
  - {name: json, topics: [c]}
routes:
  - {name: patched, source: text, channel: a, delta: json-patch}
  - {name: projected, source: text, channel: b, delta: json-patch, project: {t: item}}
  - {name: raw, source: bytes, channel: "raw:{item.id}", where: value.x}
  - {name: one, source: json, channel: same, kind: latest}
  - {name: other, source: json, channel: same, kind: stream}
"""
    )
    assert found == [
        (
            "rules.yaml:7: routes[0].delta: a JSON Patch needs JSON, and this route sends values of format string as they are; "
            'use "vcdiff" or "none", or `project`'
        ),
        'rules.yaml:9: routes[2].channel: uses "item", which is always null in format raw: use key, headers or topic, or another format',
        'rules.yaml:9: routes[2].where: uses "value", which is always null in format raw: use key, headers or topic, or another format',
        'rules.yaml:11: routes[4].kind: the route "one" makes "same" a latest channel; one channel has one kind',
    ]


def test_anchors_and_aliases_share_settings():
    rules = parse(f"{HEAD}routes:\n  - {{name: a, channel: a, history: &h {{size: 7}}}}\n  - {{name: b, channel: b, history: *h}}\n")
    assert [route.settings.history_size for route in rules.routes] == [7, 7]


def test_aliases_cannot_be_a_billion():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert problems("\n".join(lines)) == ["rules.yaml:1: holds more than 50000 values, aliases included"]


@pytest.mark.parametrize("text", ["a: &x [*x]", "a: &x {b: *x}"])
def test_a_value_cannot_contain_itself(text: str):
    assert "contains itself, by an alias" in problems(text)[0]


def test_values_are_read_as_yaml_1_2_reads_them():
    rules = parse("version: 1\nsources: [{name: no, topics: [on]}]\nroutes: [{name: yes, source: no, channel: off}]")
    assert (rules.sources[0].name, rules.sources[0].topics, rules.routes[0].channels[0].text) == ("no", ("on",), "off")


def test_files_that_cannot_be_read_are_told(tmp_path: Path):
    path = tmp_path / "rules.yaml"
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load_rules(path)
    path.write_bytes(b"version: 1\n# \xff")
    with pytest.raises(ConfigurationError, match=r"rules\.yaml:2: is not UTF-8 text \(byte 13\)"):
        load_rules(path)
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigurationError, match="larger than 1048576 bytes"):
        load_rules(path)


def test_a_byte_order_mark_is_allowed():
    assert parse_rules(b"\xef\xbb\xbf" + f"{HEAD}routes: [{{name: r, channel: c}}]".encode(), "x").routes


FULL = (
    (EXAMPLES[0].read_text() if EXAMPLES else "")
    + """
  - {name: x, channel: ['a:{item.a}', b], where: "item.a == 'x' && !item.b"}
  - &a {name: y, channel: c, history: {age: 1h}, tags: [a, b], set: {s: far}, const: {c: {d: [1, null]}}, max_channels: 5}
  - {name: z, channel: "d:{item.l}", kind: keyed, key: key, version: item.v, id: {value: item.id, window: 5m}, timestamp: {s: item.t}}
expressions: {near: item.x, far: "near > `5`"}
"""
)


def test_the_rules_to_be_mutated_are_right():
    assert len(parse(FULL).routes) >= 3


SPLICES = [
    "{", "}", "[", "]", ":", "- ", "\t", "&a ", "*a", "!x ", "!!int ", "!!binary ", "? ", "| ", "> ", "'", '"', "#", "\n", "  ",
    "null", "~", "yes", "1e9", "\\", '"\\ud800"', '"\\UFFFFFFFF"', "%YAML 9.9\n", "---\n", "...\n", "<<: ", "\x00", "\ufffe", "é",
    "item", "{item.id}", "0x10", "1MiB", "9" * 5000, "2001-01-01", "=", ",", "`", "@",
]  # fmt: skip


@given(st.integers(0, 2**32), st.integers(1, 4))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_mutated_rules_are_compiled_or_refused(seed: int, times: int):
    chance = random.Random(seed)
    text = FULL
    for _ in range(times):
        at, end = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        end = min(end, at + chance.choice([0, 0, 1, 3, 30]))
        text = text[:at] + chance.choice(SPLICES) + text[end:]
    told = ["rules.yaml:"]
    try:
        parse_rules(text.encode(), "rules.yaml")
    except ConfigurationError as error:
        told = error.problems
    assert told
    assert len(set(told)) == len(told)
    assert all(problem.startswith("rules.yaml:") for problem in told)


@given(
    st.one_of(
        st.binary(max_size=80), st.lists(st.sampled_from([*SPLICES, "version: 1\n", "routes:\n", "sources:\n"]), max_size=12).map("".join)
    )
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_bytes_are_refused(data: bytes | str):
    with pytest.raises(ConfigurationError):
        parse_rules(data if isinstance(data, bytes) else data.encode(errors="replace"), "rules.yaml")


def test_named_expressions_stand_for_what_they_say():
    text = f"""{HEAD}expressions:
  speed: item.vehicle.speed
  moving: speed > `0`
routes:
  - {{name: r, channel: "c:{{not_null(speed, `0`)}}", where: moving && item.id, project: {{speed: speed, stopped: "!moving"}}}}
"""
    route = parse(text).routes[0]
    plain = parse(f"{HEAD}routes:\n  - {{name: r, channel: c, where: 'item.vehicle.speed > `0` && item.id'}}\n").routes[0]
    assert route.where is not None
    assert plain.where is not None
    assert route.where.tree == plain.where.tree
    assert route.where.text == "moving && item.id"
    assert "item.vehicle.speed" in route.where.meaning
    assert route.projection is not None
    assert route.projection.fields[0][1].path == ("item", "vehicle", "speed")
    assert route.where.roots == {"item"}


@pytest.mark.parametrize(
    ("expressions", "told"),
    [
        ("a: itm.b", ['4: expressions.a: uses "itm" at column 1, which is no name here; did you mean "item"?']),
        ("a: b, b: item.b", ['4: expressions.a: uses "b", which comes after it; an expression may use those before it: move it up']),
        ("a: a.b", ["4: expressions.a: uses itself"]),
        ("item: key", ["4: expressions.item: is a name that expressions have already"]),
        ("a-b: key", ["4: expressions.a-b: cannot be the name of an expression"]),
        ("not: key", ["4: expressions.not: cannot be the name of an expression"]),
        ("a: 5", ["4: expressions.a: must be a text, not a number"]),
        ("a: item.a, b: itm.b", ['4: expressions.b: uses "itm"']),
    ],
)
def test_a_wrong_named_expression_is_told_once_and_those_that_name_it_are_not(expressions: str, told: list[str]):
    found = problems(
        f"{HEAD}expressions: {{{expressions}}}\nroutes:\n  - {{name: r, channel: c, where: a.x}}\n"
        if "a:" in expressions
        else f"{HEAD}expressions: {{{expressions}}}\nroutes:\n  - {{name: r, channel: c}}\n"
    )
    assert len(found) == len(told)
    assert all(line.removeprefix("rules.yaml:").startswith(text) for line, text in zip(found, told, strict=True))


def test_a_typing_error_in_a_name_is_found():
    found = problems(f"{HEAD}expressions: {{moving: item.speed}}\nroutes:\n  - {{name: r, channel: c, where: movign}}\n")
    assert found == ['rules.yaml:6: routes[0].where: uses "movign" at column 1, which is no name here; did you mean "moving"?']


def test_expressions_that_name_each_other_stay_small():
    lines = ["  e0: item.a"] + [f"  e{number}: '[e{number - 1}, e{number - 1}]'" for number in range(1, 40)]
    found = problems(f"{HEAD}expressions:\n" + "\n".join(lines) + "\nroutes:\n  - {name: r, channel: c}\n")
    assert any("times the size of its input" in line for line in found)
    flat = ["  e0: item.a"] + [f"  e{number}: e{number - 1} == e{number - 1}" for number in range(1, 40)]
    found = problems(f"{HEAD}expressions:\n" + "\n".join(flat) + "\nroutes:\n  - {name: r, channel: c}\n")
    assert any("has more than 5000 parts, with e" in line for line in found)


def test_defaults_and_a_route_add_up():
    text = f"""{HEAD}defaults:
  tags: {{a: item.a, b: item.b}}
  const: {{unit: km, kind: default}}
  set: {{at: timestamp, who: key}}
  timestamp: {{s: item.at}}
  max_channels: 5
routes:
  - {{name: r, channel: c, tags: {{b: item.x}}, const: {{who: nobody, kind: own}}, project: {{id: item.id}}}}
  - {{name: q, channel: d, timestamp: record, max_channels: 6, project: item.x}}
"""
    first, second = parse(text).routes
    assert [(name, expression.text) for name, expression in first.marks.tags] == [("a", "item.a"), ("b", "item.x")]
    assert first.projection is not None
    assert {name: expression.text for name, expression in first.projection.fields} == {
        "id": "item.id", "unit": '`"km"`', "kind": '`"own"`', "at": "timestamp", "who": '`"nobody"`',
    }  # fmt: skip
    assert first.marks.timestamp is not None
    assert second.marks.timestamp is None
    assert (first.max_channels, second.max_channels) == (5, 6)
    assert second.projection is not None
    assert second.projection.whole is not None
    assert second.projection.whole.text == "item.x"


def test_what_adds_to_an_object_needs_one():
    text = HEAD.replace("[vehicles]}", "[vehicles], format: string}") + "routes:\n  - {name: r, channel: c, set: {a: key}}\n"
    found = problems(text)
    assert found == ["rules.yaml:5: routes[0].set: `set` and `const` add to an object, and a value of format string is none: use `project`"]


@pytest.mark.parametrize(
    ("route", "note"),
    [
        ("channel: c, key: key", ""),
        ('channel: "c:{topic}", key: headers.id', ""),
        ("channel: c, key: item.id", "because `key` (item.id) needs the value"),
        ('channel: "c:{item.a}", key: key', "because `channel` (c:{item.a}) needs the value"),
        ("channel: c, key: key, split: value", "because `split` makes items of the value"),
    ],
)
def test_a_keyed_route_that_cannot_delete_is_noted(route: str, note: str):
    notes = parse(f"{HEAD}routes:\n  - {{name: r, kind: keyed, {route}}}\n").notes
    assert len(notes) == bool(note)
    assert all(note in text for text in notes)
