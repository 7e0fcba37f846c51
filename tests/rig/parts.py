"""Which real parts this machine has. Tests whose part is missing are skipped, or fail where CI=true; the run's end says so once."""

from __future__ import annotations

import importlib.util
import os
import shutil
from enum import StrEnum
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KUBERNETES_API = ROOT / ".parts" / "kubernetes-api.json"
JMESPATH_SUITE = ROOT / ".parts" / "jmespath-compliance"
KAFKA_LIBS = ROOT / ".parts" / "kafka" / "libs"


class Part(StrEnum):
    """A real part that tests need; scripts/parts.py obtains it under the same name."""

    REDIS = "redis"
    KAFKA = "kafka"
    HELM = "helm"
    BROWSER = "browser"
    XDELTA3 = "xdelta3"
    JMESPATH = "jmespath"


_BROWSERS = ("chromium", "chromium-browser", "google-chrome")

missed: dict[Part, set[str]] = {}
"""Part -> the tests that wanted it and did not get it."""


def put_parts_on_path() -> None:
    """Let every `shutil.which` and every process that we start find what is in .parts/bin first."""
    os.environ["PATH"] = f"{ROOT / '.parts' / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def is_there(part: Part) -> bool:
    """Whether this machine has the part."""
    match part:
        case Part.REDIS:
            return shutil.which("redis-server") is not None
        case Part.KAFKA:
            return shutil.which("java") is not None and any(KAFKA_LIBS.glob("kafka_*.jar"))
        case Part.HELM:
            return all(map(shutil.which, ("helm", "kubeconform"))) and KUBERNETES_API.exists()
        case Part.BROWSER:
            return browser() is not None and importlib.util.find_spec("playwright") is not None
        case Part.XDELTA3:
            return shutil.which("xdelta3") is not None
        case Part.JMESPATH:
            return any(JMESPATH_SUITE.glob("*.json"))


def browser() -> str | None:
    """The browser that playwright is told to drive."""
    return next((found for name in _BROWSERS if (found := shutil.which(name))), None)


def need(part: Part, test: str) -> None:
    """Go on if the part is there. Otherwise skip `test`, or fail it where CI=true."""
    if is_there(part):
        return
    missed.setdefault(part, set()).add(test)
    message = f"{part} is missing: `make parts` obtains it, or says why it cannot"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def report() -> list[str]:
    """One line for each part that was missed."""
    how = "`make parts` obtains it, or says why it cannot"
    return [f"{part} is missing: {len(tests)} tests did not run; {how}" for part, tests in missed.items()]
