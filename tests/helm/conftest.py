"""The chart's tools. A test that takes `helm`, itself or through another fixture, runs only where all of them are (tests/rig/parts.py)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig import parts

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "distributary"
# A helm that was built by `go install` believes in Kubernetes 1.20 where no cluster tells it otherwise.
KUBE_VERSION = "1.37.0"

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]
Refusal = Callable[..., str]


def run_to_end(*command: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run to the end and return all, whatever the exit status."""
    return subprocess.run([str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program to its end, whatever its exit status."""
    return run_to_end


@pytest.fixture(scope="session")
def helm() -> str:
    """The program helm; also what tells that a test needs the helm tools."""
    return "helm"


@pytest.fixture(scope="session")
def template(helm: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`helm template` with the values of ci/NAME-values.yaml, if named, and further arguments."""

    @cache
    def call(values: str | None, *arguments: str, release: str = "x") -> subprocess.CompletedProcess[str]:
        files = ["-f", str(CHART / "ci" / f"{values}-values.yaml")] if values else []
        return run_to_end(helm, "template", release, CHART, "--namespace", "space", "--kube-version", KUBE_VERSION, *files, *arguments)

    return call


@pytest.fixture(scope="session")
def render(template: Callable[..., subprocess.CompletedProcess[str]]) -> Render:
    """The parsed manifests of values that have to work."""

    def call(values: str | None, *arguments: str, release: str = "x") -> list[Manifest]:
        done = template(values, *arguments, release=release)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return call


@pytest.fixture(scope="session")
def refusal(template: Callable[..., subprocess.CompletedProcess[str]]) -> Refusal:
    """The error of values that must not work."""

    def call(values: str | None, *arguments: str, release: str = "x") -> str:
        done = template(values, *arguments, release=release)
        assert done.returncode != 0, "these values were accepted"
        return done.stderr

    return call


@pytest.fixture(scope="session")
def kubeconform(helm: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """`kubeconform -strict` on a text of manifests."""
    schemas = tmp_path_factory.mktemp("schemas")
    made = run_to_end(sys.executable, ROOT / "scripts" / "kube_schemas.py", parts.KUBERNETES_API, schemas)
    assert made.returncode == 0, made.stderr
    location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"

    def call(manifests: str) -> subprocess.CompletedProcess[str]:
        return run_to_end("kubeconform", "-strict", "-summary", "-schema-location", location, "-", stdin=manifests)

    return call
