from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bridge.cli import main
from bridge.formats.registry import SchemaRegistry
from tests.rig.schema_registry import FakeRegistry


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    monkeypatch.setattr(SchemaRegistry, "wait_s", SchemaRegistry.wait_s)  # Put back what the command sets.
    with FakeRegistry() as registry:
        yield registry


def test_records_are_tried_by_the_schemas_of_a_slow_registry(tmp_path: Path, fake: FakeRegistry):
    number = fake.register("t-value", '{"type": "record", "name": "R", "fields": [{"name": "id", "type": "long"}]}')
    fake.delay_s = 0.8
    rules, value = tmp_path / "rules.yaml", tmp_path / "value"
    rules.write_text(
        f"version: 1\nsources: [{{name: s, topics: [t], format: avro, schema_registry: {{url: '{fake.url}'}}}}]\n"
        "routes: [{name: r, channel: 'c:{item.id}'}]\n"
    )
    value.write_bytes(b"\0" + number.to_bytes(4) + b"\x0a")  # 5, in Avro, and a line's end to who reads text.
    result = CliRunner().invoke(main, ["try", str(rules), "--input", str(value), "--json"])
    assert result.exit_code == 0, result.output
    assert [shown["channel"] for shown in json.loads(result.stdout)["routes"][0]["shown"]] == ["c:5"]
