"""The Dockerfile, as far as it can be read without building it."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def stage(name: str) -> str:
    """The text of one stage."""
    found = re.search(rf"^FROM \S+ AS {name}$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def test_the_edge_is_built_without_kafka() -> None:
    assert "distributary[edge,xdelta]" in stage("build-edge")
    assert "assert not any(map(find_spec, ('confluent_kafka', " in stage("build-edge")
    assert "--from=build-edge" in stage("edge")
    assert "bridge" not in stage("edge")


def test_the_bridge_has_all_formats_and_the_edge_has_none() -> None:
    assert "distributary[bridge,formats,xdelta]" in stage("build-bridge")
    imported = re.search(r"import bridge, ([\w., ]+)", stage("build-bridge"))
    assert imported
    for name in imported[1].split(", "):
        import_module(name)
    assert "--from=build-bridge" in stage("bridge")
    assert "formats" not in stage("build-edge")
    assert "'fastavro'" in stage("build-edge")


def test_everything_that_is_copied_exists_and_is_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [part for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE) for part in line.split()]
    assert copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored or f"!{path}/" in ignored, path


def test_images_do_not_run_as_root() -> None:
    assert re.search(r"^USER 10001:10001$", stage("runtime"), re.MULTILINE)
    assert "USER" not in stage("bridge") + stage("edge")
    values = (ROOT / "helm" / "distributary" / "values.yaml").read_text(encoding="utf-8")
    assert values.count("runAsUser: 10001") == 3


@pytest.mark.parametrize("name", ["bridge", "edge"])
def test_signals_reach_the_process(name: str) -> None:
    """A shell in between would swallow SIGTERM, and with it the drain."""
    assert f'ENTRYPOINT ["{name}"]' in stage(name)
    assert 'CMD ["run"]' in stage(name)
