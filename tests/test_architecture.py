"""Imports point down: the contracts in .importlinter hold."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]


def test_imports_point_down(capsys: pytest.CaptureFixture[str]):
    """Every import contract is kept; the report names the lines that break one."""
    status = lint_imports(config_filename=str(ROOT / ".importlinter"), cache_dir=None)
    assert status == 0, capsys.readouterr().out


@pytest.mark.parametrize("extra", ["edge", "client"])
def test_what_faces_the_internet_carries_no_kafka_library(extra: str):
    """Rule 1 of the design, in packaging: an edge's image is made from these."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"][extra]]
    assert not [requirement for requirement in requirements if "kafka" in requirement.lower()]
