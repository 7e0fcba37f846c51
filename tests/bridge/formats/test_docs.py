from __future__ import annotations

import re
from pathlib import Path

import pytest

from bridge.formats.choose import FORMATS, FRAMINGS
from bridge.rules.load import parse_rules
from bridge.rules.model import RegistryModel

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "formats.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_example_is_right(block: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REGISTRY_PASSWORD", "x")
    assert parse_rules(block.encode(), "docs/formats.md").notes == ()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_in_the_table(name: str):
    assert f"\n| `{name}` |" in TEXT


@pytest.mark.parametrize("name", [*RegistryModel.model_fields, *FRAMINGS])
def test_every_setting_is_told(name: str):
    assert f"`{name}`" in TEXT or f"framing: {name}" in TEXT or name == "confluent"


@pytest.mark.parametrize("shown", sorted(set(re.findall(r"`((?:tests/|core/|demo/)?[a-z_/]*test_[a-z_]+\.py[\w:]*)`", TEXT))))
def test_every_test_that_is_named_is_there(shown: str):
    path, *names = shown.split("::")
    folders = [ROOT, ROOT / "tests" / "bridge", ROOT / "tests" / "bridge" / "formats"]
    [file] = [folder / path for folder in folders if (folder / path).is_file()]
    for name in names:
        assert re.search(rf"(class|def) {name}\b", file.read_text())
