"""Formats in the rules file: what goes together, problems with their lines, and secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridge.core.reload import compare
from bridge.core.routing import Router
from bridge.core.ruleset import CompiledRules
from bridge.rules.load import load_rules
from shared.errors import ConfigurationError
from tests.bridge.formats.helpers import record

AVRO = json.dumps({"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}]})
PROTO = 'syntax = "proto3";\npackage shop;\nimport "money.proto";\nmessage Order { int64 id = 1; Money total = 2; }\n'
MONEY = 'syntax = "proto3";\npackage shop;\nmessage Money { int64 units = 1; }\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"order.avsc": AVRO, "order.proto": PROTO, "money.proto": MONEY, "order.json": '{"type": "object"}'}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "empty.desc").write_bytes(b"")
    (tmp_path / "wrong.avsc").write_text("{")
    (tmp_path / "wrong.proto").write_text('syntax = "proto3";\nmessage A { Nothing x = 1; }\n')
    return tmp_path


def load(folder: Path, source: str, top: str = "") -> CompiledRules:
    file = folder / "rules.yaml"
    file.write_text(f"version: 1\nsources:\n  - name: s\n    topics: [t]\n    {source}\n{top}\nroutes:\n  - {{name: r, channel: c}}\n")
    return load_rules(file)


REGISTRY = "schema_registry: {url: http://registry:8081}"


@pytest.mark.parametrize(
    ("source", "top"),
    [
        ("format: avro", REGISTRY),
        ("format: avro\n    schema_registry: {url: https://r, user: me, password: x, timeout: 2s}", ""),
        ("format: avro\n    framing: single-object\n    subject: orders", REGISTRY),
        ("format: avro\n    schema_file: order.avsc", ""),
        ("format: avro\n    schema_file: order.avsc\n    framing: none", ""),
        ("format: protobuf", REGISTRY),
        ("format: protobuf\n    message: shop.Order", REGISTRY),
        ("format: protobuf\n    schema_file: order.proto\n    message: shop.Order\n    field_names: json", ""),
        ("format: protobuf\n    schema_file: order.proto\n    message: shop.Order\n    framing: confluent", ""),
        ("format: json-schema", ""),
        ("format: json-schema\n    check_schema: true", REGISTRY),
        ("format: json-schema\n    schema_file: order.json", ""),
        ("format: cloudevents", ""),
        ("format: gtfs-realtime", ""),
        ("key_format: avro", REGISTRY),
        ("key_format: {format: protobuf, schema_file: order.proto, message: shop.Money}", ""),
        ("key_format: {format: raw}", ""),
    ],
)
def test_what_goes_together(folder: Path, source: str, top: str):
    [route] = load(folder, source, top).routes
    assert Router(CompiledRules((route.source,), (route,))).routes_of("t") == ["r"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("format: avr", '5: sources[0].format: there is no format "avr"; did you mean "avro"?'),
        ("format: protobuf", "5: sources[0].format: format protobuf needs `schema_registry`, here or at the top of the file; or name the"),
        ("format: json\n    schema_file: x", "6: sources[0].schema_file: is no setting of format json; it needs no settings"),
        ("format: avro\n    message: x", "6: sources[0].message: is no setting of format avro; it has framing, schema_file, subject"),
        ("format: avro\n    schema_file: none.avsc", "6: sources[0].schema_file: "),
        ("format: avro\n    schema_file: wrong.avsc", "6: sources[0].schema_file: is not JSON"),
        ("format: avro\n    schema_file: order.json", "6: sources[0].schema_file: is no Avro schema"),
        ("format: avro\n    framing: none", "5: sources[0].format: bare Avro values tell nothing about their schema"),
        ("format: avro\n    schema_file: order.avsc\n    framing: confluent", "7: sources[0].framing: a record in Confluent's wire format"),
        ("format: avro\n    schema_file: order.avsc\n    subject: x", "7: sources[0].subject: is of a schema registry"),
        ("format: protobuf\n    schema_file: order.proto", '5: sources[0].format: needs "message"'),
        ("format: protobuf\n    framing: single-object", '6: sources[0].framing: "single-object" is no framing of format protobuf'),
        ("format: protobuf\n    framing: frame", '6: sources[0].framing: there is no framing "frame"'),
        ("format: protobuf\n    schema_file: empty.desc\n    message: x", "6: sources[0].schema_file: is no descriptor set"),
        (
            "format: protobuf\n    schema_file: order.proto\n    message: shop.Ordr",
            '7: sources[0].message: there is no message "shop.Ordr" in it; did you mean "shop.Order"?',
        ),
        (
            "format: protobuf\n    schema_file: wrong.proto\n    message: A",
            '6: sources[0].schema_file: does not compile: wrong.proto:2:13: "Nothing" is not defined.',
        ),
        ("format: json-schema\n    framing: none", "5: sources[0].format: JSON without a schema is format json"),
        ("key_format: cloudevents", "5: sources[0].key_format: a key is no CloudEvent"),
        ("key_format: {format: avro, fraiming: none}", '5: sources[0].key_format.fraiming: unknown setting; did you mean "framing"?'),
        ("key_format: {format: avro, schema_file: wrong.avsc}", "5: sources[0].key_format.schema_file: is not JSON"),
        ("key_format: avro", "5: sources[0].key_format: format avro needs `schema_registry`"),
        ("key_format: avr", '5: sources[0].key_format: there is no format "avr"; did you mean "avro"?'),
        ("schema_registry: {url: registry}", '5: sources[0].schema_registry.url: "registry" is no address of a schema registry'),
        ("schema_registry: {uri: http://r}", '5: sources[0].schema_registry.uri: unknown setting; did you mean "url"?'),
        ("schema_registry: {url: http://r, user: me}", '5: sources[0].schema_registry: has only one of "user" and "password"'),
        ("schema_registry: {url: http://r, ca_file: none.pem}", "5: sources[0].schema_registry.ca_file: there is no file"),
        ("schema_registry: {url: http://r, timeout: 5}", "5: sources[0].schema_registry.timeout: 5 has no unit"),
        (
            "schema_registry: {url: http://r, properties: {no.such: x}}\n    format: avro",
            "5: sources[0].schema_registry: the registry's client does not take its settings: Unrecognized properties: no.such",
        ),
        (
            "schema_registry: {url: https://r, ca_file: order.avsc}\n    format: avro\n    key_format: avro",
            "5: sources[0].schema_registry: the registry's client does not take its settings: ",
        ),
        (
            "schema_registry: {url: http://r, user: me, password: '${env:NO_SUCH_SECRET}'}",
            '5: sources[0].schema_registry.password: needs the environment variable "NO_SUCH_SECRET", which is not set',
        ),
    ],
)
def test_problems_are_told_at_their_place(folder: Path, source: str, told: str):
    with pytest.raises(ConfigurationError) as caught:
        load(folder, source)
    [problem] = caught.value.problems
    assert problem.startswith(f"{folder / 'rules.yaml'}:{told}")


def test_the_problems_of_values_and_keys_are_told_at_once(folder: Path):
    with pytest.raises(ConfigurationError) as caught:
        load(folder, "format: avro\n    key_format: protobuf\n    dead_letters: {topik: x}")
    assert len(caught.value.problems) == 1  # What does not fit the model comes first, and alone.
    with pytest.raises(ConfigurationError) as caught:
        load(folder, "format: avro\n    key_format: protobuf")
    assert len(caught.value.problems) == 2


def test_a_key_and_a_value_each_in_its_format(folder: Path):
    rules = load(folder, "format: avro\n    schema_file: order.avsc\n    framing: none\n    key_format: json")
    text = (folder / "rules.yaml").read_text().replace("channel: c", "channel: 'o:{key.region}', project: {id: item.id}")
    (folder / "rules.yaml").write_text(text)
    rules = load_rules(folder / "rules.yaml")
    routed = Router(rules).route(type(record())("t", 0, 1, None, b'{"region": "eu"}', b"\x0e"))
    assert [(draft.channel, draft.payload) for draft in routed.drafts] == [("o:eu", b'{"id":7}')]


def test_what_is_no_bytes_of_its_own_is_passed_on_as_json(folder: Path):
    rules = load(folder, "format: avro\n    schema_file: order.avsc\n    framing: none")
    [draft] = Router(rules).route(type(record())("t", 0, 1, None, None, b"\x0e")).drafts
    assert draft.payload == b'{"id":7}'


def test_rules_that_are_loaded_again_are_the_same_until_the_schema_changes(folder: Path):
    source = "format: avro\n    schema_file: order.avsc"
    old = load(folder, source)
    assert compare(old, load(folder, source)).is_empty
    (folder / "order.avsc").write_text(AVRO.replace("long", "string"))
    assert compare(old, load(folder, source)).changed == ("r",)


def test_secrets_come_from_the_environment_and_are_not_shown(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REGISTRY_PASSWORD", "open-sesame")
    rules = load(folder, "format: avro", "schema_registry: {url: http://r, user: me, password: '${env:REGISTRY_PASSWORD}'}")
    assert "sesame" not in repr(rules)
