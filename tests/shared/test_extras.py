"""A command whose extra is not installed says which one, and not where Python gave up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shared.extras import needing

BRIDGE = "from bridge.cli import main"
EDGE = "from edge.cli import main"
RULES = str(Path(__file__).parents[2] / "examples" / "rules" / "vehicles.yaml")
SERVERS = ("--bootstrap-servers", "127.0.0.1:1", "--bus", "redis://127.0.0.1:1")


def run_without(library: str, entry: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as its script does, in a Python that lacks a library."""
    code = f"import sys; sys.modules[{library!r}] = None; sys.argv[0] = 'command'; {entry}; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("library", "entry", "arguments", "told"),
    [
        ("yaml", BRIDGE, ["check", RULES], "yaml is not installed: pip install 'distributary[bridge]'\n"),
        ("redis", BRIDGE, ["run", "--rules", RULES, *SERVERS], "redis is not installed: pip install 'distributary[bridge]'\n"),
        ("confluent_kafka", BRIDGE, ["demo", "--vehicles", "5"], "confluent_kafka is not installed: pip install 'distributary[bridge]'\n"),
        ("uvicorn", EDGE, ["run", "--bus", "redis://127.0.0.1:1"], "uvicorn is not installed: pip install 'distributary[edge]'\n"),
        ("redis", EDGE, ["run", "--bus", "redis://127.0.0.1:1"], "redis is not installed: pip install 'distributary[edge]'\n"),
    ],
)
def test_the_extra_is_named(library: str, entry: str, arguments: list[str], told: str):
    done = run_without(library, entry, *arguments)
    assert (done.returncode, done.stderr) == (2, told)


@pytest.mark.parametrize(("library", "entry"), [("confluent_kafka", BRIDGE), ("redis", BRIDGE), ("redis", EDGE)])
def test_help_needs_no_extra(library: str, entry: str):
    done = run_without(library, entry, "--help")
    assert done.returncode == 0, done.stderr
    assert " run " in done.stdout


def test_a_module_of_ours_that_is_missing_is_a_fault():
    fault = ModuleNotFoundError(name="bridge.gone")
    with pytest.raises(ModuleNotFoundError), needing("bridge"):
        raise fault


@pytest.mark.parametrize("entry", ["import distributary", "from distributary.tail import main"])
def test_the_client_says_at_its_import_what_it_needs(entry: str):
    done = run_without("websockets", entry, "bus:1430")
    assert done.stderr.endswith("ModuleNotFoundError: websockets is not installed: pip install 'distributary[client]'\n")
