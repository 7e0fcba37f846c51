"""What the demo tells its user to try."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.commands.demo import channel_to_try
from bridge.core.record import Record
from bridge.rules.load import load_rules

FIRST = Record("vehicles", 0, 0, None, None, b'[{"id":"1400"},{"id":"1430"}]')


@pytest.mark.parametrize(
    ("channel", "best", "told"),
    [
        ("position:{item.id}", "position:1430", "position:1430"),
        ("v:{item.id}", "position:1430", "v:1400"),
        ("v:{item.nothing}", "position:1430", "position:1430"),
    ],
)
def test_a_channel_that_the_rules_make(tmp_path: Path, channel: str, best: str, told: str):
    path = tmp_path / "rules.yaml"
    path.write_text(f'version: 1\nsources: [{{name: v, topics: [vehicles]}}]\nroutes: [{{name: r, split: value, channel: "{channel}"}}]\n')
    assert channel_to_try(load_rules(path), FIRST, best) == told
