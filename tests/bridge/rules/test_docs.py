from __future__ import annotations

import re
from pathlib import Path

import pytest

from bridge.core.cardinality import DEFAULT_MAX_CHANNELS
from bridge.core.draft import ChannelSettings, OnError
from bridge.core.expression import MAX_EXPRESSION_CHARACTERS, MAX_EXPRESSION_DEPTH, MAX_EXPRESSION_GROWTH
from bridge.core.marks import MAX_KEY_BYTES
from bridge.core.routing import MAX_BYTES_A_RECORD, MAX_DRAFTS_A_RECORD
from bridge.core.scope import ROOTS
from bridge.core.template import MAX_RENDERED
from bridge.rules.document import MAX_FILE_BYTES, MAX_NODES
from bridge.rules.load import parse_rules
from bridge.rules.model import (
    MAX_CHANNELS,
    MAX_EXPRESSIONS,
    MAX_HISTORY_BYTES,
    MAX_HISTORY_SIZE,
    MAX_ID_WINDOW_MS,
    MAX_MAX_CHANNELS,
    MAX_MAX_KEYS,
    MAX_PROJECTED_FIELDS,
    MAX_ROUTES,
    MAX_SOURCES,
    MAX_TAGS,
    MAX_TOPICS,
    MIN_HISTORY_BYTES,
    MIN_ID_WINDOW_MS,
    RECORD,
    RouteModel,
    SourceModel,
)
from bridge.rules.units import format_duration, format_size
from shared.envelope import MAX_TAGS_BYTES
from shared.publication import DELTA_NAMES, KIND_NAMES

TEXT = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_example_in_the_reference_is_right(block: str):
    assert parse_rules(block.encode(), "docs/rules.md").notes == ()


def test_the_reference_has_examples():
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("name", [name for model in (RouteModel, SourceModel) for name in model.model_fields if name != "history"])
def test_every_setting_is_in_a_table(name: str):
    assert f"\n| `{name}` |" in TEXT


@pytest.mark.parametrize("name", ROOTS)
def test_every_name_of_expressions_is_in_a_table(name: str):
    assert f"\n| `{name}` |" in TEXT


DEFAULTS = ChannelSettings()


@pytest.mark.parametrize(
    ("setting", "default"),
    [
        ("kind", KIND_NAMES[DEFAULTS.kind]),
        ("delta", DELTA_NAMES[DEFAULTS.delta]),
        ("history.size", str(DEFAULTS.history_size)),
        ("history.bytes", format_size(DEFAULTS.history_bytes)),
        ("history.age", str(DEFAULTS.history_age_ms)),
        ("ttl", format_duration(DEFAULTS.ttl_ms)),
        ("only_changed", str(DEFAULTS.only_changed).lower()),
        ("on_error", OnError.SKIP.value),
        ("max_keys", str(DEFAULTS.max_keys)),
        ("max_key_bytes", format_size(DEFAULTS.max_key_bytes)),
        ("max_channels", str(DEFAULT_MAX_CHANNELS)),
        ("timestamp", RECORD),
    ],
)
def test_defaults_are_those_of_the_program(setting: str, default: str):
    assert f"| `{setting}` | `{default}` |" in TEXT


def test_bounds_are_those_of_the_program():
    for text in (
        f"{format_size(MAX_FILE_BYTES).replace('MiB', ' MiB')} and {MAX_NODES:,} values",
        f"1 to {MAX_SOURCES:,} sources",
        f"1 to {MAX_ROUTES:,} routes",
        f"names of topics, 1 to {MAX_TOPICS:,}",
        f"a list of up to {MAX_CHANNELS}",
        f"up to {MAX_PROJECTED_FIELDS} names",
        f"1 to {MAX_HISTORY_SIZE:,}",
        f"{format_size(MIN_HISTORY_BYTES)} to {format_size(MAX_HISTORY_BYTES)}",
        f"{MAX_EXPRESSION_CHARACTERS:,} characters and {MAX_EXPRESSION_DEPTH} levels",
        f"{format_duration(DEFAULTS.id_window_ms)}` by default, from",
        f"from {format_duration(MIN_ID_WINDOW_MS)} to {MAX_ID_WINDOW_MS // 86_400_000}d by the publications' time",
        f"`{DEFAULTS.id_count}` by default",
        f"1 to {MAX_MAX_CHANNELS:,}",
        f"1 to {MAX_MAX_KEYS:,}",
        f"a mapping of up to {MAX_TAGS} names",
        f"at most {MAX_TAGS_BYTES:,} bytes",
        f"text of 1 to {MAX_KEY_BYTES:,} bytes",
        f"of up to {MAX_RENDERED:,}: then each",
        f"up to {MAX_EXPRESSIONS} expressions",
        f"more than {MAX_EXPRESSION_GROWTH:,} times its input",
        f"{MAX_DRAFTS_A_RECORD:,} publications or {MAX_BYTES_A_RECORD // 2**20} MiB",
    ):
        assert text in TEXT
