from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from pydantic import BaseModel

from bridge.rules.document import read_document
from bridge.rules.load import parse_rules
from bridge.rules.model import (
    DeadLettersModel,
    FileModel,
    HistoryModel,
    IdModel,
    KeyFormatModel,
    RegistryModel,
    RouteModel,
    SettingsModel,
    SourceModel,
)
from bridge.rules.schema import rules_schema
from shared.errors import ConfigurationError

ROOT = Path(__file__).parents[3]
SCHEMA = rules_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
BLOCKS = [
    block
    for path in (ROOT / "docs" / "rules.md", ROOT / "docs" / "formats.md")
    if path.exists()
    for block in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    if block.startswith("version: 1\n")
]
HEAD = "version: 1\nsources: [{name: s, topics: [t]}]\nroutes: [{name: r, channel: c"


def test_the_published_schema_is_that_of_the_program():
    text = (ROOT / "docs" / "rules.schema.json").read_bytes()
    assert json.loads(text) == SCHEMA, "make it anew: bridge check --schema > docs/rules.schema.json"


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("block", [*BLOCKS, *(path.read_text() for path in (ROOT / "examples" / "rules").glob("*.yaml"))])
def test_right_rules_fit_it(block: str):
    assert list(VALIDATOR.iter_errors(read_document(block).data)) == []


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("dead_letters", DeadLettersModel),
        ("defaults", SettingsModel),
        ("history", HistoryModel),
        ("id", IdModel),
        ("key_format", KeyFormatModel),
        ("route", RouteModel),
        ("schema_registry", RegistryModel),
        ("source", SourceModel),
        ("", FileModel),
    ],
)
def test_it_has_every_setting_with_a_description(name: str, model: type[BaseModel]):
    shape: dict[str, Any] = SCHEMA["$defs"][name] if name else SCHEMA
    assert set(shape["properties"]) == set(model.model_fields)
    assert shape["additionalProperties"] is False
    assert all(each["description"].endswith(".") for each in shape["properties"].values())


@pytest.mark.parametrize(
    "more",
    [
        "chanel: x",
        "kind: latset",
        "kind: keyed, key: 5",
        "ttl: 10",
        "ttl: 1h30m",
        "history: {size: 0}",
        "history: {sise: 1}",
        "history: {bytes: 1M}",
        "only_changed: yes",
        "timestamp: now",
        "timestamp: {ms: item.a, s: item.b}",
        "tags: source",
        "set: item.a",
        "max_channels: 0",
        "id: {window: 1m}",
        "project: {}",
        "source: 5",
        "where: ",
    ],
)
def test_what_the_schema_refuses_the_program_refuses_too(more: str):
    text = f"{HEAD}, {more}}}]\n"
    assert list(VALIDATOR.iter_errors(read_document(text).data))
    with pytest.raises(ConfigurationError):
        parse_rules(text.encode(), "rules.yaml")


def test_the_head_alone_is_right():
    text = f"{HEAD}}}]\n"
    assert list(VALIDATOR.iter_errors(read_document(text).data)) == []
    assert parse_rules(text.encode(), "rules.yaml").notes == ()


def test_it_is_plain_json():
    assert json.loads(msgspec.json.encode(SCHEMA)) == SCHEMA
